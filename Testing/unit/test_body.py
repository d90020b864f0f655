"""Where the body is in a CT, on ellipsoids of known centers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from svdrr.ct import CTVolume
from svdrr.ct.body import body_center_ras

HALF_AXES_MM = np.array([150.0, 100.0, 120.0])
SHAPE = (60, 70, 80)


def scan(center_ras: np.ndarray, turned: Rotation, extra_ras: np.ndarray | None = None) -> CTVolume:
    """An ellipsoid of water along the axes of RAS in a turned grid about the origin, and a small ball of bone."""
    ijk_to_ras = np.eye(4)
    ijk_to_ras[:3, :3] = turned.as_matrix() * [5.0, 6.0, 7.0]
    ijk_to_ras[:3, 3] = -ijk_to_ras[:3, :3] @ (0.5 * (np.array(SHAPE[::-1]) - 1.0))
    k, j, i = np.indices(SHAPE)
    ras = np.stack([i, j, k], axis=-1) @ ijk_to_ras[:3, :3].T + ijk_to_ras[:3, 3]
    hu = np.where((((ras - center_ras) / HALF_AXES_MM) ** 2).sum(axis=-1) <= 1.0, 0.0, -1000.0)
    if extra_ras is not None:
        hu[np.linalg.norm(ras - extra_ras, axis=-1) <= 12.0] = 1000.0
    return CTVolume(hu.astype(np.float32), ijk_to_ras)


@settings(max_examples=20, deadline=None)
@given(
    center=st.tuples(*[st.floats(-30.0, 30.0)] * 3),
    axis=st.sampled_from("xyz"),
    degrees=st.floats(-20.0, 20.0),
)
def test_the_center_of_an_ellipsoid(center: tuple[float, ...], axis: str, degrees: float) -> None:
    turned = Rotation.from_euler(axis, degrees, degrees=True)
    found = body_center_ras(scan(np.array(center), turned))
    np.testing.assert_allclose(found, center, atol=4.0)


def test_what_does_not_belong_to_the_body_does_not_move_it() -> None:
    center = np.array([10.0, -20.0, 15.0])
    alone = body_center_ras(scan(center, Rotation.identity()))
    beside = body_center_ras(scan(center, Rotation.identity(), np.array([-170.0, 150.0, -150.0])))
    np.testing.assert_allclose(beside, alone, atol=0.01)


@pytest.mark.parametrize("hu", [-1000.0, 40.0])
def test_a_scan_of_one_value_has_its_center_there(hu: float) -> None:
    ct = CTVolume(np.full((9, 11, 13), hu, np.float32), np.diag([3.0, 3.0, 3.0, 1.0]))
    np.testing.assert_allclose(body_center_ras(ct), ct.isocenter_ras, atol=3.0)
