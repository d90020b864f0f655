"""Table removal: keep the patient, set everything else in a CT to air.

What tells a table from a body here is thickness, not shape: tables, mattresses, covers, blankets and tubes
are thin shells around air or foam, bodies are solid for centimeters. So an opening in every axial slice parts
the two even where they touch, and what it takes from the body (skin, ears, thin walls) is given back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from svdrr.ct.volume import AIR_HU, CTVolume
from svdrr.errors import SVDRRError

VISIBLE_HU = -700.0
"""Above it a voxel is matter (skin's partial volume, foam, cloth) and not air."""

_TISSUE_HU = -350.0
_SOFT_TISSUE_HU = (-200.0, 200.0)
_LUNG_HU = -950.0

# The opening grows with the body: an infant's chest wall is as thin as a table's shell.
_OPENING_OF_BODY_RADIUS = 0.03
_OPENING_MM = (1.5, 4.0)
_SKIN_MM = 1.5
_FOLD_MM = 6.0
_PROTRUSION_MM = 70.0
_PART_ML = 2.0
_LUNG_ML = 20.0
_LUNG_WALL = 0.7
_PLATE_AREA_RATIO = 20.0

_Mask = NDArray[np.bool_]

OnStage = Callable[[str, float], None]
"""Called with what comes next, in words, and about which part of the whole, 0 to 1, lies behind."""


@dataclass(frozen=True)
class TableRemoval:
    """A CT without its table.

    ct: inside `body` bit for bit the input, air elsewhere.
    body: bool (k, j, i), skin, lungs and gas included.
    removed: bool (k, j, i), what was above -700 HU outside the body and is air now.
    residual_voxels: voxels above -700 HU outside the body that are left in `ct`, counted in the result.
    verdict: one sentence for people.
    """

    ct: CTVolume
    body: _Mask
    removed: _Mask
    residual_voxels: int
    verdict: str

    @property
    def removed_ml(self) -> float:
        """The volume of what was removed, in ml."""
        return _milliliters(self.removed, self.ct)


def remove_table(ct: CTVolume, air_hu: float = AIR_HU) -> TableRemoval:
    """Set everything outside the patient to `air_hu`: table, mattress, blankets, tubes and scanner padding.

    Works in any orientation of the array, prone or supine; values inside the body are not touched.
    Raises SVDRRError if the CT holds no body.
    """
    return keep_body(ct, body_mask(ct), air_hu)


def keep_body(ct: CTVolume, body: NDArray[np.bool_], air_hu: float = AIR_HU) -> TableRemoval:
    """`remove_table` with the body at hand, bool (k, j, i) as of `body_mask`."""
    removed = (ct.hu > VISIBLE_HU) & ~body
    hu = np.where(body, ct.hu, np.float32(air_hu))
    residual = int(np.count_nonzero((hu > VISIBLE_HU) & ~body))
    return TableRemoval(ct.with_hu(hu), body, removed, residual, _verdict(removed, ct))


def body_mask(ct: CTVolume, on_stage: OnStage = lambda stage, part: None) -> _Mask:
    """The patient in a CT, bool (k, j, i): skin to skin with all that it encloses, arms and legs too.

    Raises SVDRRError if the CT holds no body.
    """
    axial = _axial_axis(ct)
    spacing = ct.spacing_mm[::-1]
    mask = _body(np.moveaxis(ct.hu, axial, 0), np.array([spacing[axial], *np.delete(spacing, axial)]), on_stage)
    return np.ascontiguousarray(np.moveaxis(mask, 0, axial))


def _axial_axis(ct: CTVolume) -> int:
    """The array axis that runs most nearly from the feet to the head."""
    superior = np.abs(ct.ijk_to_ras[2, :3]) / ct.spacing_mm
    return 2 - int(np.argmax(superior))


def _body(hu: NDArray[np.float32], spacing: NDArray[np.float64], on_stage: OnStage) -> _Mask:
    """The body in a stack of axial slices; spacing (slice, row, column) in mm."""
    tissue = hu > _TISSUE_HU
    radius = _opening_radius(tissue, spacing)
    solid = np.empty_like(tissue)
    # The parts of the whole were measured on a chest CT.
    for index, one in enumerate(tissue):
        on_stage("Parting thin from thick", 0.35 * index / len(tissue))
        solid[index] = _opened(one, spacing[1:], radius)
    on_stage("Finding the body", 0.35)
    body = _body_parts(solid, hu, spacing)
    # The skin's partial volume, and the corners that the opening has rounded.
    body = _dilated(body, _SKIN_MM, spacing, within=hu > VISIBLE_HU)
    on_stage("Giving back skin and thin walls", 0.6)
    body |= _protrusions(tissue & ~body, body, spacing)
    on_stage("Filling lungs and gas", 0.8)
    body = _filled(body)
    lungs = _open_lungs(body, hu, spacing)
    return _filled(body | lungs) if lungs.any() else body


def _opening_radius(tissue: _Mask, spacing: NDArray[np.float64]) -> float:
    areas = np.count_nonzero(tissue, axis=(1, 2)) * spacing[1] * spacing[2]
    return float(np.clip(_OPENING_OF_BODY_RADIUS * np.sqrt(np.median(areas) / np.pi), *_OPENING_MM))


def _opened(tissue: _Mask, spacing: NDArray[np.float64], radius: float) -> _Mask:
    """One slice without what is thinner than 2·radius mm; the image's border counts as going on."""
    if tissue.all() or not tissue.any():
        return tissue
    core = ndimage.distance_transform_edt(tissue, sampling=spacing) > radius
    if not core.any():
        return core
    return np.asarray(ndimage.distance_transform_edt(~core, sampling=spacing) <= radius)


def _body_parts(solid: _Mask, hu: NDArray[np.float32], spacing: NDArray[np.float64]) -> _Mask:
    """The solids as soft and as round as the parts of a body are: torso, arms, legs, head."""
    labels, _ = ndimage.label(solid)
    soft = (hu > _SOFT_TISSUE_HU[0]) & (hu < _SOFT_TISSUE_HU[1])
    voxels = np.bincount(labels.ravel(), minlength=1)
    softness = np.bincount(labels[soft], minlength=len(voxels)) / np.maximum(voxels, 1)
    large = voxels * np.prod(spacing) > 1000.0 * _PART_ML
    parts = np.zeros(len(voxels), bool)
    boxes = ndimage.find_objects(labels)
    for label in np.flatnonzero(large[1:] & (softness[1:] > 0.5)) + 1:
        box = boxes[label - 1]
        parts[label] = _is_round(labels[box] == label, spacing)
    if not parts.any():
        raise SVDRRError("There is no body in this CT: nothing in it is as thick and dense as soft tissue.")
    return np.asarray(parts[labels])


def _is_round(part: _Mask, spacing: NDArray[np.float64]) -> bool:
    """False for plates: solids whose slices are many times larger than the largest disk that fits in them."""
    framed = np.pad(part, ((0, 0), (1, 1), (1, 1)))
    radii = np.array([ndimage.distance_transform_edt(one, sampling=spacing[1:]).max() for one in framed])
    area = np.count_nonzero(part) * spacing[1] * spacing[2]
    return bool(area < _PLATE_AREA_RATIO * np.pi * np.sum(radii**2))


def _protrusions(rest: _Mask, body: _Mask, spacing: NDArray[np.float64]) -> _Mask:
    """The other tissue that hangs on the body and is flat on it or small: folds, thin walls, ears, nose."""
    labels, count = ndimage.label(rest)
    if count == 0:
        return rest
    extents = np.array([[axis.stop - axis.start for axis in box] for box in ndimage.find_objects(labels)])
    small = (extents * spacing <= _PROTRUSION_MM).all(axis=1)
    flat = ~_present(labels[~_dilated(body, _FOLD_MM, spacing)], count)
    hanging = _present(labels[ndimage.binary_dilation(body)], count)
    return np.asarray(np.concatenate([[False], hanging & (small | flat)])[labels])


def _present(labels: NDArray[np.int32], count: int) -> _Mask:
    """Which of the labels 1 to count occur, bool (count,)."""
    return np.bincount(labels, minlength=count + 1)[1:] > 0


def _dilated(body: _Mask, reach_mm: float, spacing: NDArray[np.float64], within: _Mask | None = None) -> _Mask:
    """Grown by reach_mm, but at least two voxels, in every axial slice."""
    steps = max(2, round(reach_mm / float(spacing[1:].min())))
    cross = ndimage.generate_binary_structure(2, 1)[np.newaxis]
    return np.asarray(ndimage.binary_dilation(body, cross, iterations=steps, mask=within))


def _filled(body: _Mask) -> _Mask:
    return np.stack([ndimage.binary_fill_holes(one) for one in body])


def _open_lungs(body: _Mask, hu: NDArray[np.float32], spacing: NDArray[np.float64]) -> _Mask:
    """Lungs that a small field of view cuts open: aerated, and walled by body or the image's border."""
    aerated = (ndimage.uniform_filter(hu, (1, 3, 3)) > _LUNG_HU) & ~body
    labels, _ = ndimage.label(aerated)
    voxels = np.bincount(labels.ravel(), minlength=1)
    voxels[0] = 0
    lungs = np.zeros_like(body)
    for label in np.flatnonzero(voxels * np.prod(spacing) > 1000.0 * _LUNG_ML):
        lung = labels == label
        surface = ndimage.binary_dilation(lung) & ~lung
        if np.count_nonzero(body[surface]) > _LUNG_WALL * np.count_nonzero(surface):
            lungs |= lung
    return lungs


def _verdict(removed: _Mask, ct: CTVolume) -> str:
    milliliters = _milliliters(removed, ct)
    if milliliters < 0.5:
        return "Found nothing but air outside the body; the body is untouched."
    return f"Removed {milliliters:.0f} ml of table and other objects outside the body; the body is untouched."


def _milliliters(mask: _Mask, ct: CTVolume) -> float:
    return float(np.count_nonzero(mask) * abs(np.linalg.det(ct.ijk_to_ras[:3, :3])) / 1000.0)
