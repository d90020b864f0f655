"""Radiographs as volume nodes of one slice, lying on the detector that took them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import slicer
import slicer.util
import vtk
from numpy.typing import NDArray

from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, View
from svdrr.geometry.viewsets import view_from_json, view_to_json
from svdrr.mrml.nodes import check_output, fill, ijk_to_world, image_of, output_node, require_finite, voxels
from svdrr.provenance import PREFIX, Provenance
from svdrr.radiograph import Radiograph, check_radiograph
from svdrr.superres.enhance import LEARNED

VOLUME = "vtkMRMLScalarVolumeNode"

# The names that `svdrr.images` writes into files, too.
_VIEW = f"{PREFIX}View"
_PIXEL_SPACING = f"{PREFIX}PixelSpacing"
_UNKNOWN = "unknown"
_DRR_SUFFIX, _SYNTHETIC_SUFFIX = " (DRR)", " (synthetic)"
_UNKNOWN_SPACING_MM = (1.0, 1.0)
_SHOWN_AS = re.compile(rf"{_UNKNOWN}, shown as ([0-9.e+-]+)\\([0-9.e+-]+)")

# Further than this from its view's plane, mm, and an image has been moved since it was made.
_PLACE_TOLERANCE_MM = 1e-3


def radiograph_to_node(
    radiograph: Radiograph,
    name: str,
    node: slicer.vtkMRMLScalarVolumeNode | None = None,
    ijk_to_ras: NDArray[np.float64] | None = None,
    image: vtk.vtkImageData | None = None,
) -> slicer.vtkMRMLScalarVolumeNode:
    """Show a radiograph in the scene: in `node` if given (its old content goes), else in a new node.

    The node holds one slice, float32 (1, rows, columns), on the detector plane of the radiograph's view: i runs
    along a row, j down, k, 1 mm thick, towards the source. Without a view it lies where ijk_to_ras, float64 (4, 4),
    puts it, or else is centered on the origin as a PA radiograph, with pixels of 1 mm if their spacing is unknown.
    The node's attributes `SVDRR.*` carry the provenance, the view (`SVDRR.View`, JSON) and the pixel spacing
    (`SVDRR.PixelSpacing`, row\\column in mm, or "unknown"); a computed image's name ends in "(synthetic)" or
    "(DRR)". image: what `radiograph_image` has made in another thread, where there are many pixels.
    Raises SVDRRError if the pixels are no image in [0, 1], or do not fit the view's detector.
    """
    image = image or radiograph_image(radiograph)
    check_output(VOLUME, node)
    volume = output_node(VOLUME, name + synthetic_suffix(radiograph.provenance), node)
    # Views that show it already are told once, not of every line.
    with slicer.util.NodeModify(volume):
        show_gray_levels(volume, "vtkMRMLColorTableNodeGrey", 1.0)
        volume.GetDisplayNode().SetInterpolate(True)
        fill_with_radiograph(volume, radiograph, ijk_to_ras, image)
    return volume


def radiograph_image(radiograph: Radiograph) -> vtk.vtkImageData:
    """A copy of a radiograph's pixels, checked, as `radiograph_to_node` shows them; in any thread."""
    check_radiograph(radiograph)
    return image_of(radiograph.pixels[np.newaxis].astype(np.float32, copy=False))


def show_gray_levels(volume: slicer.vtkMRMLScalarVolumeNode, colors: str, high: float) -> None:
    """Show a volume's values from 0 to `high` in the colors of this color node.

    Before it gets its image: to find a window by itself takes Slicer half a second for 4000 x 4000 pixels.
    """
    if volume.GetDisplayNode() is None:
        volume.SetAndObserveImageData(None)
        volume.CreateDefaultDisplayNodes()
    display = volume.GetDisplayNode()
    display.SetAndObserveColorNodeID(colors)
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(0.0, high)


def radiograph_from_node(node: slicer.vtkMRMLScalarVolumeNode) -> Radiograph:
    """The radiograph of a volume node with one slice.

    Values outside [0, 1], such as a DICOM file's, are mapped to it linearly, lowest to 0, highest to 1. Bright
    bone is taken for granted: Slicer inverts MONOCHROME1 files when it loads them.
    The view is None if the image has been moved or resampled since `radiograph_to_node`. A pixel spacing of
    1 mm x 1 mm counts only if `radiograph_to_node` knew it: Slicer gives it to files without one.
    Raises SVDRRError for what is not one slice of finite scalars, and for values that cannot be mapped.
    """
    return radiograph_snapshot(node)()


def radiograph_snapshot(node: slicer.vtkMRMLScalarVolumeNode) -> Callable[[], Radiograph]:
    """`radiograph_from_node` in two parts: this one, which is short, copies what the node holds in the scene's thread;
    the function that it returns makes the radiograph of it in any thread. Each raises its share of the errors.
    """
    array, name = check_radiograph_node(node), node.GetName()
    ijk_to_ras = ijk_to_world(node)
    attributes = {key: node.GetAttribute(key) for key in node.GetAttributeNames() if key.startswith(PREFIX)}
    column_mm, row_mm, _ = node.GetSpacing()
    copied = array[0].copy()

    def radiograph() -> Radiograph:
        require_finite(copied, name)
        pixels = _in_unit_range(copied, name)
        view = _view(attributes, pixels.shape, ijk_to_ras)
        spacing = _spacing(attributes, (row_mm, column_mm)) if view is None else view.detector.pixel_spacing_mm
        return Radiograph(pixels, spacing, view, Provenance.from_attributes(attributes))

    return radiograph


def states_linear(node: slicer.vtkMRMLScalarVolumeNode) -> bool:
    """Whether the DICOM file that Slicer's database has of a node calls its pixels linear in the exposure.

    By Pixel Intensity Relationship (0028,1040), "LIN"; of what did not come from the database nothing is known.
    """
    database = getattr(slicer, "dicomDatabase", None)
    uids = (node.GetAttribute("DICOM.instanceUIDs") or "").split()
    if database is None or not uids:
        return False
    return str(database.instanceValue(uids[0], "0028,1040")).strip() == "LIN"


def check_radiograph_node(node: Any) -> NDArray[Any]:
    """The node's own array (1, rows, columns); raises what `radiograph_from_node` would, as far as is told at once."""
    array = voxels(node, "a radiograph")
    if array.shape[0] != 1:
        raise SVDRRError(f"'{node.GetName()}' has {array.shape[0]} slices; choose a radiograph, which has one.")
    return array


def pose_label(node: slicer.vtkMRMLScalarVolumeNode) -> str:
    """The projection that a node's attributes state, such as "LAO 30° CRAN 10°"; empty where they state none."""
    try:
        return view_from_json(json.loads(node.GetAttribute(_VIEW) or "")).pose.label
    except (KeyError, TypeError, ValueError, SVDRRError):
        return ""


def synthetic_suffix(provenance: Provenance | None) -> str:
    """What a node's name says about how its image was made; nothing for an image that was taken."""
    if provenance is None:
        return ""
    steps = provenance.settings.get("Enhancement", "")
    learned = provenance.model or any(method in steps for method in LEARNED)
    return _DRR_SUFFIX if provenance.method.startswith("DRR") and not learned else _SYNTHETIC_SUFFIX


def is_computed(node: slicer.vtkMRMLVolumeNode) -> bool:
    """Whether a node's attributes say that its image was computed, or its name, where it has none of our attributes.

    Slicer does not read the attributes back from a volume's file, but calls the node after it.
    """
    if node.GetAttribute(f"{PREFIX}Synthetic"):
        return True
    name = "" if node.GetAttribute(_PIXEL_SPACING) else node.GetName() or ""
    return _DRR_SUFFIX in name or _SYNTHETIC_SUFFIX in name


def fill_with_radiograph(
    node: slicer.vtkMRMLScalarVolumeNode,
    radiograph: Radiograph,
    ijk_to_ras: NDArray[np.float64] | None = None,
    image: vtk.vtkImageData | None = None,
) -> None:
    """Pixels, place and attributes of a checked radiograph, for a node in the scene or out of it."""
    view, spacing = radiograph.view, radiograph.pixel_spacing_mm
    pixels = image or radiograph.pixels[np.newaxis].astype(np.float32, copy=False)
    if view is None and ijk_to_ras is not None:
        fill(node, pixels, ijk_to_ras)
    else:
        if view is not None:
            spacing = view.detector.pixel_spacing_mm
        row_mm, column_mm = spacing or _UNKNOWN_SPACING_MM
        fill(node, pixels, _ijk_to_ras(radiograph, row_mm, column_mm))
        # Once more by itself, because as a length of the matrix's columns it comes back rounded.
        node.SetSpacing(column_mm, row_mm, 1.0)

    attributes = radiograph.provenance.attributes() if radiograph.provenance else {}
    attributes[_PIXEL_SPACING] = "\\".join(map(repr, spacing)) if spacing else _unknown(node)
    if view is not None:
        attributes[_VIEW] = json.dumps(view_to_json(view))
    for key in node.GetAttributeNames():
        if key.startswith(PREFIX):
            node.RemoveAttribute(key)
    for key, value in attributes.items():
        node.SetAttribute(key, value)


def _ijk_to_ras(radiograph: Radiograph, row_mm: float, column_mm: float) -> NDArray[np.float64]:
    """Right-handed, third axis towards the source: Slicer flips the third axis of left-handed files."""
    if radiograph.view is not None:
        return radiograph.view.pixel_to_ras
    pa = CArmPose()
    right, down = pa.image_axes
    rows, columns = radiograph.pixels.shape
    matrix = np.eye(4)
    matrix[:3, :3] = np.column_stack([right * column_mm, down * row_mm, -pa.detector_direction])
    matrix[:3, 3] = -matrix[:3, :2] @ [(columns - 1) / 2.0, (rows - 1) / 2.0]
    return matrix


def _in_unit_range(pixels: NDArray[np.generic], name: str) -> NDArray[np.float32]:
    low, high = float(pixels.min()), float(pixels.max())
    if low >= 0.0 and high <= 1.0:
        return np.array(pixels, np.float32)
    if low == high:
        raise SVDRRError(f"'{name}' is blank: every pixel is {low:g}; choose a radiograph.")
    return ((pixels.astype(np.float64) - low) / (high - low)).astype(np.float32)


def _view(attributes: dict[str, str], shape: tuple[int, ...], ijk_to_ras: NDArray[np.float64]) -> View | None:
    try:
        view = view_from_json(json.loads(attributes[_VIEW]))
    except (KeyError, TypeError, ValueError, SVDRRError):
        return None
    rows, columns = shape
    if (view.detector.rows, view.detector.columns) != (rows, columns):
        return None
    corners = np.array([[i, j, 0.0, 1.0] for i in (0, columns - 1) for j in (0, rows - 1)]).T
    moved = np.abs((ijk_to_ras - view.pixel_to_ras) @ corners).max() > _PLACE_TOLERANCE_MM
    return None if moved else view


def _unknown(node: slicer.vtkMRMLScalarVolumeNode) -> str:
    column_mm, row_mm, _ = node.GetSpacing()
    return _UNKNOWN if (row_mm, column_mm) == _UNKNOWN_SPACING_MM else f"{_UNKNOWN}, shown as {row_mm}\\{column_mm}"


def _spacing(attributes: dict[str, str], shown_mm: tuple[float, float]) -> tuple[float, float] | None:
    """The spacing (row, column) of the node, unless it only stands in for one that is unknown."""
    described = attributes.get(_PIXEL_SPACING, _UNKNOWN)
    found = _SHOWN_AS.fullmatch(described)
    if found:
        stands_in = np.allclose(shown_mm, [float(text) for text in found.groups()], rtol=1e-9, atol=0.0)
    else:
        stands_in = described == _UNKNOWN and shown_mm == _UNKNOWN_SPACING_MM
    return None if stands_in else shown_mm
