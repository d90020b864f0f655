"""The procedural thorax phantoms: what is where, and that the truth they carry is true."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from svdrr.ct.phantoms import Label, Phantom, ThoraxOptions, thorax_phantom
from svdrr.errors import SVDRRError

SEEDS = (0, 1, 2)
COARSE = 4.0


@pytest.fixture(scope="module", params=SEEDS)
def phantom(request: pytest.FixtureRequest) -> Phantom:
    return thorax_phantom(request.param, ThoraxOptions(spacing_mm=3.0))


def centroid(phantom: Phantom, label: Label) -> np.ndarray:
    """Center of a structure, RAS mm."""
    k, j, i = np.nonzero(phantom.labels == label)
    return phantom.ct.ijk_to_ras[:3, :3] @ [i.mean(), j.mean(), k.mean()] + phantom.ct.ijk_to_ras[:3, 3]


def dome_heights(phantom: Phantom) -> dict[str, float]:
    """Height (mm, S) below which each lung is hollowed out by its half of the diaphragm."""
    middle = centroid(phantom, Label.BONE_SPINE)[0]
    lung = phantom.labels == Label.LUNG
    r = phantom.ct.ijk_to_ras[0, 0] * np.arange(lung.shape[2]) + phantom.ct.ijk_to_ras[0, 3]
    s = phantom.ct.ijk_to_ras[2, 2] * np.arange(lung.shape[0]) + phantom.ct.ijk_to_ras[2, 3]
    tops = {}
    for name, side in (("right", r > middle + 30), ("left", r < middle - 30)):
        # The lowest slice in which the lung still fills most of its largest section.
        area = lung[:, :, side].sum(axis=(1, 2))
        k = np.arange(len(s))
        tops[name] = float(s[(k < area.argmax()) & (area > 0.55 * area.max())].min(initial=np.inf))
    return tops


def test_same_seed_same_bytes() -> None:
    first, second = (thorax_phantom(7, ThoraxOptions(spacing_mm=COARSE)) for _ in range(2))
    assert first.ct.hu.tobytes() == second.ct.hu.tobytes()
    assert first.labels.tobytes() == second.labels.tobytes()
    assert first.ct.ijk_to_ras.tobytes() == second.ct.ijk_to_ras.tobytes()


def test_other_seed_other_person() -> None:
    lungs = [int((thorax_phantom(s, ThoraxOptions(spacing_mm=COARSE)).labels == Label.LUNG).sum()) for s in range(6)]
    assert len(set(lungs)) == 6
    assert max(lungs) > 1.1 * min(lungs)


def test_grid_is_axial_supine_and_near_the_origin(phantom: Phantom) -> None:
    assert phantom.ct.hu.dtype == np.float32
    assert phantom.labels.dtype == np.uint8
    assert phantom.labels.shape == phantom.ct.hu.shape
    np.testing.assert_array_equal(phantom.ct.ijk_to_ras[:3, :3], np.diag([-3.0, -3.0, 3.0]))
    assert np.abs(phantom.ct.isocenter_ras).max() <= 10


@pytest.mark.parametrize(
    ("label", "low", "high"),
    [
        (Label.LUNG, -950, -700), (Label.AIRWAY, -1000, -750), (Label.HEART, 25, 320), (Label.LIVER, 30, 90),
        (Label.MEDIASTINUM, -80, 60), (Label.BODY, -110, 70), (Label.CARTILAGE, 30, 250),
        (Label.BONE_SPINE, 200, 900), (Label.BONE_RIB, 200, 900), (Label.BONE_STERNUM, 150, 900),
        (Label.BONE_CLAVICLE, 250, 1100), (Label.BONE_SCAPULA, 150, 900),
    ],
)  # fmt: skip
def test_mean_hu(phantom: Phantom, label: Label, low: float, high: float) -> None:
    assert low < phantom.ct.hu[phantom.labels == label].mean() < high


def test_hu_range(phantom: Phantom) -> None:
    assert phantom.ct.hu.min() >= -1000
    assert 600 < phantom.ct.hu.max() < 2000


def test_air_is_air(phantom: Phantom) -> None:
    assert (phantom.ct.hu[phantom.labels == Label.AIR] == -1000).all()


def test_sides(phantom: Phantom) -> None:
    spine, heart = centroid(phantom, Label.BONE_SPINE), centroid(phantom, Label.HEART)
    liver, sternum = centroid(phantom, Label.LIVER), centroid(phantom, Label.BONE_STERNUM)
    right, anterior, superior = 0, 1, 2
    assert heart[right] < spine[right] - 8
    assert liver[right] > spine[right] + 15
    assert centroid(phantom, Label.STOMACH)[right] < spine[right] - 15
    assert spine[anterior] < heart[anterior] - 30 < sternum[anterior] - 30
    assert centroid(phantom, Label.BONE_SCAPULA)[anterior] < heart[anterior]
    assert liver[superior] < heart[superior] < centroid(phantom, Label.AIRWAY)[superior]
    assert heart[superior] < centroid(phantom, Label.BONE_CLAVICLE)[superior]


def test_right_dome_is_higher(phantom: Phantom) -> None:
    domes = dome_heights(phantom)
    assert domes["right"] > domes["left"]


def test_lungs_lie_inside_the_body(phantom: Phantom) -> None:
    near_air = ndimage.binary_dilation(phantom.labels == Label.AIR, iterations=3)
    assert not (near_air & (phantom.labels == Label.LUNG)).any()


def test_bones_lie_under_the_skin(phantom: Phantom) -> None:
    bone = np.isin(phantom.labels, [v for v in Label if v.name.startswith("BONE_")])
    assert not (ndimage.binary_dilation(phantom.labels == Label.AIR) & bone).any()


def test_body_lies_inside_the_field_of_view(phantom: Phantom) -> None:
    body = phantom.labels != Label.AIR
    assert not body[:, [0, -1]].any()
    assert not body[:, :, [0, -1]].any()
    assert body[0].any()
    assert body[-1].any()


def test_body_is_one_piece_without_holes(phantom: Phantom) -> None:
    body = phantom.labels != Label.AIR
    pieces, _ = ndimage.label(body)
    assert np.bincount(pieces.ravel())[1:].max() > 0.95 * body.sum()
    for section in body[:: max(1, len(body) // 12)]:
        assert (ndimage.binary_fill_holes(section) == section).all()


def test_twelve_pairs_of_ribs() -> None:
    """In a scan that reaches from the neck to below T12; fewer are left where the scan cuts them."""
    assert count_ribs(thorax_phantom(1, ThoraxOptions(spacing_mm=2.0))) == {"right": 12, "left": 12}


def count_ribs(phantom: Phantom) -> dict[str, int]:
    """Connected rib tubes on either side."""
    ribs = phantom.labels == Label.BONE_RIB
    middle = centroid(phantom, Label.BONE_SPINE)[0]
    r = phantom.ct.ijk_to_ras[0, 0] * np.arange(ribs.shape[2]) + phantom.ct.ijk_to_ras[0, 3]
    counts = {}
    for name, side in (("right", r > middle), ("left", r < middle)):
        pieces, _ = ndimage.label(ribs[:, :, side], structure=np.ones((3, 3, 3)))
        counts[name] = int((np.bincount(pieces.ravel())[1:] > 60).sum())
    return counts


def test_table_replaces_only_air() -> None:
    without, with_table = (thorax_phantom(4, ThoraxOptions(table=table, spacing_mm=3.0)) for table in (False, True))
    body = without.labels != Label.AIR
    np.testing.assert_array_equal(with_table.labels[body], without.labels[body])
    np.testing.assert_array_equal(with_table.ct.hu[body], without.ct.hu[body])
    np.testing.assert_array_equal(with_table.ct.ijk_to_ras, without.ct.ijk_to_ras)
    added = np.isin(with_table.labels, (Label.TABLE, Label.MATTRESS))
    assert added[with_table.ct.hu != without.ct.hu].mean() > 0.9
    assert centroid(with_table, Label.TABLE)[1] < centroid(with_table, Label.MATTRESS)[1]
    assert centroid(with_table, Label.MATTRESS)[1] < centroid(with_table, Label.BONE_SPINE)[1]


@pytest.mark.parametrize("wanted", [True, False])
def test_options_are_respected(wanted: bool) -> None:
    for seed in range(3):
        options = ThoraxOptions(arms=wanted, breasts=wanted, spacing_mm=COARSE)
        labels = thorax_phantom(seed, options).labels
        assert (labels == Label.BONE_HUMERUS).any() == wanted
        assert (labels == Label.BREAST).any() == wanted


def test_spacing_is_the_option_s() -> None:
    phantom = thorax_phantom(0, ThoraxOptions(spacing_mm=COARSE))
    np.testing.assert_allclose(phantom.ct.spacing_mm, COARSE)


@pytest.mark.parametrize("spacing", [0.0, -1.0, float("nan"), float("inf"), 1e-3])
def test_bad_spacing_is_one_sentence(spacing: float) -> None:
    with pytest.raises(SVDRRError, match=r"^The voxel spacing must be .*\.$"):
        thorax_phantom(0, ThoraxOptions(spacing_mm=spacing))


def test_bad_seed_is_one_sentence() -> None:
    with pytest.raises(SVDRRError, match=r"^The seed must be .*\.$"):
        thorax_phantom(-1)
