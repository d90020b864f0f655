"""Procedural thorax phantoms: CT volumes of people who never were, with the truth about every voxel.

They test what must know the truth (table removal, geometry, rendering) and train what needs more chests than
may be shared. Everything is drawn from one seed: shapes are signed distance functions placed by vertebral
level, painted in anatomical order with one voxel of partial volume at the edges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import SVDRRError
from ..volume import CTVolume
from . import _bones, _soft
from ._anatomy import Anatomy, draw_anatomy
from ._canvas import Canvas, Floats
from ._labels import Label
from ._table import draw_table

__all__ = ["Label", "Phantom", "ThoraxOptions", "thorax_phantom"]


@dataclass(frozen=True)
class ThoraxOptions:
    """arms: raised arms in the scan or none; breasts: with or without (None: drawn from the seed).
    table: put table and mattress under the back. spacing_mm: voxel edge, mm."""

    arms: bool | None = None
    breasts: bool | None = None
    table: bool = False
    spacing_mm: float = 2.5


@dataclass(frozen=True)
class Phantom:
    """ct: the scan. labels: uint8, shape of ``ct.hu``, values of `Label`."""

    ct: CTVolume
    labels: NDArray[np.uint8]


def thorax_phantom(seed: int, options: ThoraxOptions = ThoraxOptions()) -> Phantom:
    """Draw a supine chest CT from `seed`.

    The grid is axial, i to the patient's left, j posterior, k superior, and cuts the body above and below as
    a scan does. The same seed gives the same bytes. `table` changes only voxels labelled AIR without it, and
    without a table these are exactly -1000 HU.

    Raises SVDRRError if the spacing is not in [0.5, 20] mm or the seed is negative.
    """
    if not (math.isfinite(options.spacing_mm) and 0.5 <= options.spacing_mm <= 20):
        raise SVDRRError(f"The voxel spacing must be between 0.5 and 20 mm, not {options.spacing_mm}.")
    if seed < 0:
        raise SVDRRError(f"The seed must be 0 or more, not {seed}.")
    rng = np.random.default_rng(seed)
    anatomy = draw_anatomy(rng, options.arms, options.breasts)
    canvas = _empty_canvas(anatomy, options.spacing_mm)
    _draw_person(canvas, anatomy, rng)
    _add_texture(canvas, rng)
    if options.table:
        draw_table(canvas, np.random.default_rng([seed, 1]))
    return Phantom(CTVolume(canvas.hu, _ijk_to_ras(canvas, anatomy)), canvas.labels)


def _empty_canvas(a: Anatomy, spacing_mm: float) -> Canvas:
    """A grid that holds the body, with air around it and room for a table below the back."""
    top, bottom = float(a.z(a.top_level)), float(a.z(a.bottom_level))
    heights = np.linspace(bottom, top, 30)
    wall = a.fat_mm + a.muscle_mm
    side = max(float(a.cage_width(heights).max()) + wall, abs(float(_soft.shoulder_joint(a, 1)[0])) + 46 + a.fat_mm)
    if a.arms:
        side += 34
    front = float(a.cage_front(heights).min()) - a.fat_mm - 22 - (40 * a.breast_scale if a.breasts else 0)
    back = float(a.cage_back(heights).max()) + a.fat_mm + 38
    lean = 0.06 * max(abs(top), abs(bottom))
    room = 12 + lean
    dx, dy = a.placement.shift_mm
    return Canvas(
        [dx - side - room, dy + front - room, bottom],
        [dx + side + room, dy + back + room + 45, top],
        spacing_mm,
        a.placement,
    )


def _draw_person(c: Canvas, a: Anatomy, rng: np.random.Generator) -> None:
    _soft.draw_body(c, a)
    inside = _soft.pleura(c, a)
    above = _soft.diaphragm(c, a)
    fields = _soft.heart_fields(c, a)
    organs = np.minimum(np.minimum(fields["heart"], fields["vessels"]), fields["airways"])
    middle = _soft.mediastinum(c, a, inside, organs)
    _soft.draw_abdomen(c, a, inside, above)
    _soft.draw_lungs(c, a, inside, above, middle)
    _soft.draw_mediastinum(c, a, fields, inside, above, middle)
    _soft.draw_lung_vessels(c, a, rng)
    _bones.draw_bones(c, a)


def _add_texture(c: Canvas, rng: np.random.Generator) -> None:
    """Tissue is never quite even: smooth noise of a few HU, more in lung, and fat between the muscles."""
    coarse = rng.normal(size=tuple(max(4, int(n * c.spacing / 12)) for n in c.shape)).astype(np.float32)
    fine = rng.normal(size=tuple(max(4, int(n * c.spacing / 6)) for n in c.shape)).astype(np.float32)
    patches = _resample(coarse, c.shape)
    noise = 9 * patches + 11 * _resample(fine, c.shape)
    noise[c.labels == Label.LUNG] *= np.float32(1.8)
    muscle = (c.labels == Label.BODY) & (c.hu > 20)
    noise[muscle] -= 90 * np.maximum(patches[muscle] - np.float32(0.45), 0)
    noise[(c.labels == Label.AIR) | (c.hu < -960)] = 0
    c.hu += noise


def _resample(a: Floats, shape: tuple[int, ...]) -> Floats:
    """Separable linear interpolation; as matrix products it is many times faster than a spline zoom."""
    for axis, n in enumerate(shape):
        m = a.shape[axis]
        at = np.linspace(0, m - 1, n)[:, None]
        weights = np.maximum(0, 1 - np.abs(at - np.arange(m))).astype(np.float32)
        a = np.moveaxis(np.tensordot(weights, a, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(a, dtype=np.float32)


def _ijk_to_ras(c: Canvas, a: Anatomy) -> NDArray[np.float64]:
    matrix = np.diag([-c.spacing, -c.spacing, c.spacing, 1.0])
    half = (c.size - 1) * c.spacing / 2
    matrix[:3, 3] = np.array([half[0], half[1], -half[2]]) + a.offset_mm
    return matrix
