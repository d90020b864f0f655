"""Super-resolution of radiograph nodes by a backend, as steps that a panel or a script takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import slicer
import slicer.util
import vtk
from numpy.typing import NDArray

from svdrr.backend.request import Request, enhancement_request
from svdrr.errors import SVDRRError
from svdrr.mrml.backend import BackendChoice, chosen_backend, client_of, follow
from svdrr.mrml.nodes import check_output, fill, ijk_to_world, image_of, output_node
from svdrr.mrml.radiograph import (
    VOLUME,
    check_radiograph_node,
    radiograph_image,
    radiograph_snapshot,
    radiograph_to_node,
    show_gray_levels,
    synthetic_suffix,
)
from svdrr.mrml.task import Progress, Say, Steps, in_background, require_in_scene
from svdrr.provenance import PREFIX
from svdrr.radiograph import Radiograph
from svdrr.superres import interpolation
from svdrr.superres.degradation import gray_scale_of
from svdrr.superres.enhance import UNCERTAINTY_SEEDS, finer_pixels
from svdrr.superres.fidelity import Fidelity, data_fidelity

ROI = "vtkMRMLMarkupsROINode"
_COLORS = "vtkMRMLColorTableNodeIron"
# What lies below that, in percent of the gray range, would be rounding shown in bright colors.
_FULL_COLOR_AT_LEAST_PERCENT = 1.0
_TRANSPARENT_PART = 0.1
_LEAST_PIXELS = 16
_ROI_PART = 0.5
_ROI_DEPTH_MM = 20.0


@dataclass(frozen=True)
class Region:
    """A rectangle of a radiograph's pixels. first_row, first_column: from 0. rows, columns: how many, 1 or more."""

    first_row: int
    first_column: int
    rows: int
    columns: int

    def __str__(self) -> str:
        return (
            f"rows {self.first_row} to {self.first_row + self.rows - 1}, "
            f"columns {self.first_column} to {self.first_column + self.columns - 1}"
        )


@dataclass(frozen=True)
class EnhancementNodes:
    """What an enhancement has left in the scene; each map is None unless it was asked for.

    fidelity: how far the volume, reduced again, is from the input. verdict: that in a sentence, and for a learned
    method further ones: where its detail comes from, and how much it varies.
    """

    volume: slicer.vtkMRMLScalarVolumeNode
    fidelity_map: slicer.vtkMRMLScalarVolumeNode | None
    uncertainty_map: slicer.vtkMRMLScalarVolumeNode | None
    fidelity: Fidelity
    verdict: str


@dataclass(frozen=True, eq=False)
class _Map:
    """What is shown in color over a radiograph. image: percent of the gray range. attributes: of its node."""

    name: str
    image: vtk.vtkImageData
    mean_percent: float
    max_percent: float
    attributes: dict[str, str]


def enhance_steps(
    node: slicer.vtkMRMLScalarVolumeNode,
    output: slicer.vtkMRMLScalarVolumeNode | None = None,
    method: str = "lanczos",
    scale: int = 2,
    region: Region | None = None,
    map_fidelity: bool = False,
    fidelity_map: slicer.vtkMRMLScalarVolumeNode | None = None,
    choice: BackendChoice | None = None,
    seed: int | None = 0,
    consistent: bool = False,
    uncertainty: bool = False,
    uncertainty_map: slicer.vtkMRMLScalarVolumeNode | None = None,
) -> Steps[EnhancementNodes]:
    """Steps to a radiograph with `scale` times as many rows and columns in the same place, pixel edge on pixel edge.

    node: a radiograph. output: a volume to write to; by default a new one. method, scale: of those that the backend
    offers. region: the part of the image to do, by default all. map_fidelity: whether to add a volume of the absolute
    differences between the result, reduced again, and the input, in percent of the gray range; fidelity_map: a volume
    to write it to. choice: by default what the user has chosen. seed, consistent: as in `svdrr.superres.enhance`.
    uncertainty: whether to add a volume of the standard deviation of LCMSR's results over `UNCERTAINTY_SEEDS` seeds,
    the first of which is `seed`, in percent of the gray range; uncertainty_map: a volume to write it to.
    SVDRRError before anything is written for what is no radiograph, and with the backend's reason.
    """
    maps = (fidelity_map if map_fidelity else None, uncertainty_map if uncertainty else None)
    written = [volume for volume in (output, *maps) if volume is not None]
    for volume in written:
        check_output(VOLUME, volume)
        if volume is node:
            raise SVDRRError(f"The result would replace its own input '{node.GetName()}'; choose another volume.")
        if written.count(volume) > 1:
            raise SVDRRError(f"The result and its maps cannot share the volume '{volume.GetName()}'; choose another.")
    read, place, name = radiograph_snapshot(node), ijk_to_world(node), node.GetName()
    output_name = output.GetName() if output is not None else ""

    def asked(say: Say) -> tuple[Radiograph, Request]:
        whole = read()
        part = whole if region is None else cropped(whole, region)
        return part, enhancement_request(part, method, scale, seed, consistent, UNCERTAINTY_SEEDS if uncertainty else 0)

    source, request = yield from in_background(asked, "Reading the radiograph")
    client = yield from client_of(choice or chosen_backend())
    results: list[Radiograph] = []
    yield from follow(client, request, lambda view: results.append(view.radiograph))
    wanted = 2 if uncertainty else 1
    if len(results) != wanted:
        raise SVDRRError(f"The backend has sent {len(results)} images in place of {wanted}; nothing was written.")
    result, *deviations = (_with_region(image, region) for image in results)

    def compared(say: Say) -> tuple[Fidelity, Any, _Map, list[_Map]]:
        fidelity = data_fidelity(result.pixels, source.pixels, gray_scale_of(source))
        return fidelity, radiograph_image(result), _fidelity_map(fidelity), list(map(_uncertainty_map, deviations))

    fidelity, image, differences, uncertainties = yield from in_background(
        compared, "Comparing the result with the input"
    )

    if output is not None:
        require_in_scene(output, output_name)
    place = place @ _shift(region)
    finer_place = place @ finer_pixels(scale)
    title = f"{name.removesuffix(synthetic_suffix(source.provenance))} x{scale}"
    volume = radiograph_to_node(result, title, output, finer_place, image)
    # A step of its own each, since large images take time to put into the scene and to show.
    yield Progress("Showing the result")
    shown = _map_to_node(differences, title, place, fidelity_map) if map_fidelity else None
    yield Progress("Showing the result")
    varying = _map_to_node(uncertainties[0], title, finer_place, uncertainty_map) if uncertainties else None
    yield Progress("Showing the result")
    return EnhancementNodes(volume, shown, varying, fidelity, _verdict(fidelity, method, seed, uncertainties))


def cropped(radiograph: Radiograph, region: Region) -> Radiograph:
    """The part of a radiograph. Without its view, whose detector would be centered on the central ray.

    SVDRRError if the region does not lie in the image.
    """
    rows, columns = radiograph.pixels.shape
    last_row, last_column = region.first_row + region.rows, region.first_column + region.columns
    if min(region.first_row, region.first_column, region.rows - 1, region.columns - 1) < 0 or (
        last_row > rows or last_column > columns
    ):
        raise SVDRRError(f"The region ({region}) does not lie in the image, which has {rows} rows, {columns} columns.")
    pixels = radiograph.pixels[region.first_row : last_row, region.first_column : last_column].copy()
    return replace(radiograph, pixels=pixels, view=None)


def region_of_roi(roi: slicer.vtkMRMLMarkupsROINode, node: slicer.vtkMRMLScalarVolumeNode) -> Region:
    """The pixels of a radiograph within a region of interest, which is projected onto the image at a right angle.

    A rotated one gives the rectangle about it; what lies outside of the image is left out. SVDRRError if less is left
    than a backend takes.
    """
    _, rows, columns = check_radiograph_node(node).shape
    if roi.GetNumberOfDefinedControlPoints() < 1:
        raise SVDRRError(f"The region of interest '{roi.GetName()}' is not placed yet; draw it on the image.")
    half = np.array(roi.GetSize()) / 2.0
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    to_world = slicer.util.arrayFromVTKMatrix(roi.GetObjectToWorldMatrix())
    corners = np.column_stack([signs * half, np.ones(8)]) @ (np.linalg.inv(ijk_to_world(node)) @ to_world).T
    # A pixel belongs to it where its center does.
    low = np.ceil(corners[:, :2].min(axis=0) - 1e-6).clip(0, None).astype(int)
    high = np.floor(corners[:, :2].max(axis=0) + 1e-6).clip(None, [columns - 1, rows - 1]).astype(int)
    width, height = high - low + 1
    if min(width, height) < _LEAST_PIXELS:
        raise SVDRRError(
            f"The region of interest '{roi.GetName()}' holds too little of '{node.GetName()}'; it needs at least "
            f"{_LEAST_PIXELS} rows and columns of the image."
        )
    return Region(int(low[1]), int(low[0]), int(height), int(width))


def add_roi(node: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLMarkupsROINode:
    """A region of interest on the image's own plane, about its center, for the user to drag."""
    _, rows, columns = check_radiograph_node(node).shape
    place = ijk_to_world(node)
    lengths = np.linalg.norm(place[:3, :3], axis=0)
    object_to_world = np.eye(4)
    object_to_world[:3, :3] = place[:3, :3] / lengths
    object_to_world[:3, 3] = (place @ [(columns - 1) / 2.0, (rows - 1) / 2.0, 0.0, 1.0])[:3]
    roi = slicer.mrmlScene.AddNewNodeByClass(ROI, f"{node.GetName()} region")
    roi.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(object_to_world))
    roi.SetSize(_ROI_PART * columns * lengths[0], _ROI_PART * rows * lengths[1], _ROI_DEPTH_MM)
    roi.CreateDefaultDisplayNodes()
    # An outline: what it holds is to be seen.
    roi.GetDisplayNode().SetFillVisibility(False)
    roi.GetDisplayNode().SetPropertiesLabelVisibility(False)
    return roi


def _shift(region: Region | None) -> NDArray[np.float64]:
    matrix = np.eye(4)
    if region is not None:
        matrix[:2, 3] = region.first_column, region.first_row
    return matrix


def _with_region(result: Radiograph, region: Region | None) -> Radiograph:
    """The same, saying of which part of the input it was made."""
    if region is None:
        return result
    assert result.provenance is not None
    settings = {**result.provenance.settings, "Region": str(region)}
    return replace(result, provenance=replace(result.provenance, settings=settings))


def _verdict(fidelity: Fidelity, method: str, seed: int | None, uncertainties: list[_Map]) -> str:
    sentences = [fidelity.verdict]
    if method not in interpolation.METHODS:
        # What the fidelity cannot tell.
        made = f"sampled with seed {seed}" if method == "lcmsr" and seed is not None else "computed"
        sentences.append(
            f"Detail finer than the input's pixels was {made} from what the network has learned, not measured."
        )
    sentences += [
        f"Over {UNCERTAINTY_SEEDS} seeds, sampled results vary by {one.mean_percent:.2f} % of the gray range "
        f"on average, by {one.max_percent:.1f} % at most (standard deviation)."
        for one in uncertainties
    ]
    return " ".join(sentences)


def _fidelity_map(fidelity: Fidelity) -> _Map:
    return _Map(
        "fidelity",
        image_of(fidelity.difference_percent[np.newaxis]),
        fidelity.mean_percent,
        fidelity.max_percent,
        {f"{PREFIX}MeanAbsoluteDifferencePercent": f"{fidelity.mean_percent:.4f}"},
    )


def _uncertainty_map(deviation: Radiograph) -> _Map:
    """deviation: in parts of the gray range."""
    made = deviation.provenance
    assert made is not None
    percent = 100.0 * deviation.pixels
    mean_percent = float(percent.mean(dtype=np.float64))
    quantity = f"standard deviation over {UNCERTAINTY_SEEDS} seeds, percent of the gray range"
    settings = {**made.settings, "Quantity": quantity, "MeanStandardDeviationPercent": f"{mean_percent:.4f}"}
    return _Map(
        f"uncertainty{synthetic_suffix(made)}",
        image_of(percent[np.newaxis]),
        mean_percent,
        float(percent.max()),
        replace(made, settings=settings).attributes(),
    )


def _map_to_node(shown: _Map, title: str, place: NDArray[np.float64], node: Any | None) -> Any:
    # One that was deleted meanwhile is made anew.
    if node is not None and not slicer.mrmlScene.IsNodePresent(node):
        node = None
    volume = output_node(VOLUME, f"{title} {shown.name}", node)
    full_color_percent = max(_FULL_COLOR_AT_LEAST_PERCENT, shown.max_percent)
    with slicer.util.NodeModify(volume):
        show_gray_levels(volume, _COLORS, full_color_percent)
        fill(volume, shown.image, place)
        # What another image has said of itself.
        for key in volume.GetAttributeNames():
            if key.startswith(PREFIX):
                volume.RemoveAttribute(key)
        for key, value in shown.attributes.items():
            volume.SetAttribute(key, value)
    display = volume.GetDisplayNode()
    # Where there is nothing to say, the image below is seen as it is.
    display.SetThreshold(_TRANSPARENT_PART * full_color_percent, full_color_percent)
    display.SetApplyThreshold(True)
    # Pixels that larger ones are made of must stay apart.
    display.SetInterpolate(False)
    return volume
