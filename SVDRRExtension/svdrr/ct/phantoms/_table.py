"""Table and mattress under a finished phantom."""

from __future__ import annotations

import numpy as np

from ._canvas import Canvas, Floats
from ._labels import Label


def draw_table(c: Canvas, rng: np.random.Generator) -> None:
    """A foam mattress on a curved carbon-fiber shell with a foam core. Only air voxels change.

    The gap to the back is drawn too: sometimes the mattress touches the skin, sometimes it does not.
    """
    y, x = np.mgrid[: c.shape[1], : c.shape[2]].astype(np.float32) * np.float32(c.spacing)
    x -= x[0, -1] / 2
    touched = np.flatnonzero((c.labels != Label.AIR).any(axis=(0, 2)))
    back = float(touched[-1] * c.spacing)
    gap, mattress, thickness = rng.uniform(-4, 6), rng.uniform(10, 18), rng.uniform(12, 18)
    curve = rng.uniform(0, 1) * 12 / 150**2
    foam_hu, core_hu, shell_hu = rng.uniform(-960, -880), rng.uniform(-960, -850), rng.uniform(-150, 150)
    below = y - np.float32(back + gap) + np.float32(curve) * x * x  # depth under the top of the mattress
    table_top = np.float32(mattress)
    _lay(c, _slab(below, 0.0, mattress), foam_hu, Label.MATTRESS)
    _lay(c, _slab(below, table_top, mattress + thickness), core_hu, Label.TABLE)
    for face in (mattress + 1.2, mattress + thickness - 1.2):
        _lay(c, np.abs(below - np.float32(face)) - np.float32(1.2), shell_hu, Label.TABLE)


def _slab(depth: Floats, top: float, bottom: float) -> Floats:
    return np.maximum(np.float32(top) - depth, depth - np.float32(bottom))


def _lay(c: Canvas, section: Floats, hu: float, label: Label) -> None:
    free = np.isin(c.labels, (Label.AIR, Label.TABLE, Label.MATTRESS))
    c.paint(np.ascontiguousarray(np.broadcast_to(section, c.shape)), hu, label, within=free)
