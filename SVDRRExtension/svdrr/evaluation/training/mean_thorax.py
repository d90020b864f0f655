"""``python -m svdrr.evaluation.training.mean_thorax FILE``: the mean phantom, whose DRRs are a baseline."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from scipy.ndimage import affine_transform

from svdrr.ct.body import body_center_ras
from svdrr.drr import attenuation
from svdrr.files import whole_file
from svdrr.synthesis.training.phantom_views import training_ct

SEEDS = range(0, 128, 2)
SPACING_MM = 4.5
_HALF_MM = (225.0, 180.0, 225.0)
"""Along S, A and R from the middle."""


def main() -> None:
    """Averages μ over 64 of the training phantoms, those of the held-out ones' kind, about the middle of the body."""
    parser = argparse.ArgumentParser(description="Average the attenuation of training phantoms.")
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    shape = [int(2.0 * half / SPACING_MM) + 1 for half in _HALF_MM]
    total = np.zeros(shape, np.float32)
    for done, seed in enumerate(SEEDS, start=1):
        ct = training_ct(seed)
        to_ijk = np.linalg.inv(ct.ijk_to_ras)
        scale = SPACING_MM * to_ijk[[2, 1, 0], [2, 1, 0]]
        first_ras = np.array(body_center_ras(ct)) - _HALF_MM[::-1]
        first = (to_ijk @ np.append(first_ras, 1.0))[2::-1]
        total += affine_transform(attenuation(ct).mu, scale, first, shape, order=1)
        print(f"{done} of {len(SEEDS)}", flush=True)
    unit = total.max() / 255.0
    ijk_to_ras = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    ijk_to_ras[:3, 3] = [-half for half in _HALF_MM[::-1]]
    stored = {
        "mu": np.round(total / unit).astype(np.uint8),
        "unit": np.array([unit / len(SEEDS)], np.float32),
        "ijk_to_ras": ijk_to_ras,
    }
    with whole_file(arguments.file) as temporary:
        save_file(stored, temporary)


if __name__ == "__main__":
    main()
