"""Making a reader study: pairs of a true DRR and a synthetic view, the page for readers, and the key to it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from svdrr.errors import SVDRRError, counted
from svdrr.evaluation.reader_study import FORMAT
from svdrr.evaluation.volumes import Volume
from svdrr.geometry.viewsets import pose_to_json
from svdrr.provenance import SYNTHETIC_LABEL
from svdrr.radiograph import Radiograph

PAGE_FILE, KEY_FILE = "study.html", "key.json"
MOST_PAIRS = 500

Synthesize = Callable[[Radiograph, Sequence[Radiograph], int], Sequence[Radiograph]]
"""Takes the PA radiograph, the true views and a seed of noise; returns a synthetic view for each true one."""

_TEMPLATE = Path(__file__).with_name("study.html")
_DATA_PLACE = "{{study}}"
_WHITE_PERCENTILE = 99.9


@dataclass(frozen=True, eq=False)
class Pair:
    """Two images from one angle. synthetic_first: whether the synthetic one is the page's image ``a``."""

    true: Radiograph
    synthetic: Radiograph
    synthetic_first: bool


def check_plan(volumes: Sequence[Volume], pairs: int, seed: int) -> None:
    """SVDRRError if that many pairs cannot be made of these volumes, or the seed is none."""
    if not 1 <= pairs <= MOST_PAIRS:
        raise SVDRRError(f"A study has 1 to {MOST_PAIRS} pairs, not {pairs}.")
    if seed < 0:
        raise SVDRRError(f"The seed must not be negative, and {seed} is.")
    needed, present = math.ceil(pairs / len(volumes)), min(volume.views for volume in volumes)
    if needed > present:
        raise SVDRRError(
            f"{counted(pairs, 'pair')} of {counted(len(volumes), 'CT')} need {needed} views of each, and there are "
            f"{present}; ask for fewer pairs or give more CTs."
        )


def make_pairs(
    volumes: Sequence[Volume],
    synthesize: Synthesize,
    pairs: int = 50,
    seed: int = 0,
    on_volume: Callable[[int, int], None] = lambda done, total: None,
) -> list[Pair]:
    """Pairs at random angles, as evenly as can be over the volumes, or over as many of them as there are pairs.

    No angle comes twice for one volume. All that is random follows from the seed. on_volume: called with the finished
    and the total number of volumes. SVDRRError, before any work, for what `check_plan` refuses.
    """
    check_plan(volumes, pairs, seed)
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(len(volumes))[:pairs]
    counts = [len(part) for part in np.array_split(range(pairs), len(chosen))]
    made: list[Pair] = []
    for done, (index, count) in enumerate(zip(chosen, counts, strict=True), start=1):
        views = generator.choice(volumes[index].views, count, replace=False)
        source, *true_views = volumes[index].render(views.tolist())
        synthetic_views = synthesize(source, true_views, int(generator.integers(2**31)))
        first = generator.random(count) < 0.5
        made += map(Pair, true_views, synthetic_views, first.tolist())
        on_volume(done, len(chosen))
    return made


def draw_seed() -> int:
    """A seed that nobody can guess; from a known one and the volumes, the answers follow."""
    return secrets.randbelow(2**63)


def write_study(folder: Path, pairs: Sequence[Pair], seed: int) -> str:
    """Writes the page and the key into `folder`; returns the study's name, a hash of its images.

    The page holds the images, as 8-bit PNG without any description, and nothing that says which is which. The key
    does, with the provenance of every image.
    """
    images, entries = [], []
    for number, pair in enumerate(pairs, start=1):
        radiographs = {"true": pair.true, "synthetic": pair.synthetic}
        order = ("synthetic", "true") if pair.synthetic_first else ("true", "synthetic")
        white = float(np.percentile([pair.true.pixels, pair.synthetic.pixels], _WHITE_PERCENTILE))
        pngs = {name: _png(radiographs[kind].pixels, white) for name, kind in zip("ab", order, strict=True)}
        images.append({name: base64.b64encode(png).decode() for name, png in pngs.items()})
        assert pair.true.view is not None
        entries.append(
            {
                "pair": number,
                "view": pair.true.view.pose.label,
                "pose": pose_to_json(pair.true.view.pose),
                "synthetic": "ab"[order.index("synthetic")],
                "white": white,
                **{
                    name: {"png_sha256": hashlib.sha256(png).hexdigest(), "provenance": _attributes(radiographs[kind])}
                    for (name, png), kind in zip(pngs.items(), order, strict=True)
                },
            }
        )
    name = hashlib.sha256(json.dumps(images).encode()).hexdigest()[:12]
    template = _TEMPLATE.read_text(encoding="utf-8")
    page = template.replace(_DATA_PLACE, json.dumps({"name": name, "pairs": images}))
    (folder / PAGE_FILE).write_text(page, encoding="utf-8")
    key = {"format": FORMAT, "study": name, "label": SYNTHETIC_LABEL, "seed": seed, "pairs": entries}
    (folder / KEY_FILE).write_text(json.dumps(key, indent=1), encoding="utf-8")
    return name


def _attributes(radiograph: Radiograph) -> dict[str, Any]:
    assert radiograph.provenance is not None
    return dict(radiograph.provenance.attributes())


def _png(pixels: NDArray[np.float32], white: float) -> bytes:
    """Both images of a pair have one window, from air to the brightest of both."""
    values = np.round(np.clip(pixels / max(white, 1e-6), 0.0, 1.0) * 255.0).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
