"""Where the body is in a CT."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from svdrr.ct.volume import CTVolume

_BODY_HU = -300.0
_STEP_MM = 4.0
_OUTSIDE_PERCENT = 1.0


def body_center_ras(ct: CTVolume) -> tuple[float, float, float]:
    """The middle of the body, RAS mm: where a patient is brought to before a C-arm turns about them.

    Per axis halfway between the 1st and the 99th percentile of the body's voxels, so that a finger or a cable does not
    move it. The body: the largest connected part above -300 HU. A scan without any has its center there, as
    `CTVolume.isocenter_ras`.
    """
    steps = [max(1, round(_STEP_MM / spacing)) for spacing in ct.spacing_mm[::-1]]
    solid = ct.hu[tuple(slice(None, None, step) for step in steps)] > _BODY_HU
    if not solid.any():
        return ct.isocenter_ras
    parts = sitk.ConnectedComponent(sitk.GetImageFromArray(solid.astype(np.uint8)))
    largest = sitk.GetArrayViewFromImage(sitk.RelabelComponent(parts)) == 1
    ijk = (np.argwhere(largest) * steps)[:, ::-1]
    ras = ijk @ ct.ijk_to_ras[:3, :3].T + ct.ijk_to_ras[:3, 3]
    low, high = np.percentile(ras, [_OUTSIDE_PERCENT, 100.0 - _OUTSIDE_PERCENT], axis=0)
    x, y, z = (0.5 * (low + high)).tolist()
    return x, y, z
