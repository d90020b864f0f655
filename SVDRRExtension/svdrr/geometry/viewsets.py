"""View sets: from a specification such as ``hemisphere:300`` to C-arm poses, and to and from JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdrr.errors import SVDRRError
from svdrr.geometry.carm import ANTERIOR, RIGHT, SUPERIOR, CArmPose, Detector, View

Isocenter = tuple[float, float, float]

FORMAT = "svdrr-views-1"
MAX_VIEWS = 100_000
_POSE_KEYS = (
    "primary_deg",
    "secondary_deg",
    "isocenter_ras_mm",
    "source_to_isocenter_mm",
    "source_to_detector_mm",
)
# What files that SVDRR wrote hold besides: of the detector and derived from both, and of the image.
_WRITTEN_KEYS = (
    *("rows", "columns", "pixel_spacing_mm", "source_ras_mm", "detector_corners_ras_mm"),
    *("pixel_to_ras", "projection_matrix", "image", "label", "provenance"),
)
SPECIFICATIONS = "simple, hemisphere:N, sweep:FROM:TO:STEP (degrees), or the path of a views JSON file"


def simple_views(isocenter_ras: Isocenter) -> list[CArmPose]:
    """Primary angle -90 to 90 degrees in steps of 5 without the PA source view: 36 poses [sv-drr, 4.3]."""
    return [CArmPose(float(primary), 0.0, isocenter_ras) for primary in range(-90, 91, 5) if primary != 0]


def hemisphere_views(count: int, isocenter_ras: Isocenter) -> list[CArmPose]:
    """Fibonacci lattice of `count` positions on the hemisphere about PA, the first exactly PA [sv-drr, 4.1]."""
    golden_angle = math.pi * (3.0 - math.sqrt(5.0))
    poses = []
    for index in range(count):
        toward_anterior = 1.0 - index / count
        ring = math.sqrt(1.0 - toward_anterior**2)
        angle = golden_angle * index
        direction = toward_anterior * ANTERIOR + ring * (math.sin(angle) * SUPERIOR - math.cos(angle) * RIGHT)
        poses.append(CArmPose.from_direction(direction, isocenter_ras))
    return poses


def sweep_views(start_deg: float, stop_deg: float, step_deg: float, isocenter_ras: Isocenter) -> list[CArmPose]:
    """Primary angles from start to stop, the stop included where a step lands on it, secondary angle 0."""
    if not all(map(math.isfinite, (start_deg, stop_deg, step_deg))) or step_deg <= 0.0:
        raise SVDRRError("A sweep needs finite angles and a step above 0 degrees, such as sweep:-90:90:5.")
    steps = abs(stop_deg - start_deg) / step_deg
    if steps >= MAX_VIEWS:
        raise SVDRRError(f"A view set holds at most {MAX_VIEWS:,} views; give the sweep a larger step.")
    count = math.floor(steps + 1e-9) + 1
    direction = math.copysign(step_deg, stop_deg - start_deg)
    return [CArmPose(start_deg + direction * index, 0.0, isocenter_ras) for index in range(count)]


def parse_views(specification: str, isocenter_ras: Isocenter) -> list[CArmPose]:
    """Poses of a specification: ``simple``, ``hemisphere:N``, ``sweep:FROM:TO:STEP``, or a JSON file's path.

    A file's poses keep the isocenters that the file states. Raises SVDRRError for anything else.
    """
    kind, _, arguments = specification.partition(":")
    try:
        if specification == "simple":
            return simple_views(isocenter_ras)
        if kind == "hemisphere":
            count = int(arguments)
            if not 1 <= count <= MAX_VIEWS:
                raise SVDRRError(f"A hemisphere needs 1 to {MAX_VIEWS:,} views, not {count}.")
            return hemisphere_views(count, isocenter_ras)
        if kind == "sweep":
            start, stop, step = map(float, arguments.split(":"))
            return sweep_views(start, stop, step, isocenter_ras)
    except ValueError:
        raise SVDRRError(f"Cannot read the view set '{specification}'; use {SPECIFICATIONS}.") from None
    if Path(specification).suffix.lower() == ".json":
        return read_views(Path(specification), isocenter_ras)
    if os.path.isfile(specification):
        raise SVDRRError(f"The name of a view file must end in .json; rename '{specification}' if it is one.")
    raise SVDRRError(f"Unknown view set '{specification}'; use {SPECIFICATIONS}.")


def pose_to_json(pose: CArmPose) -> dict[str, Any]:
    """A JSON object of plain numbers; floats survive the round trip exactly."""
    return {
        "primary_deg": pose.primary_deg,
        "secondary_deg": pose.secondary_deg,
        "isocenter_ras_mm": list(pose.isocenter_ras),
        "source_to_isocenter_mm": pose.source_to_isocenter_mm,
        "source_to_detector_mm": pose.source_to_detector_mm,
    }


def pose_from_json(entry: dict[str, Any], isocenter_ras: Isocenter) -> CArmPose:
    """Inverse of `pose_to_json`. Only the primary angle is required; what is missing takes the defaults.

    Raises SVDRRError, KeyError, TypeError, ValueError or OverflowError where a field is missing or no number.
    """
    default = CArmPose()
    x, y, z = map(_number, entry.get("isocenter_ras_mm", isocenter_ras))
    return CArmPose(
        primary_deg=_number(entry["primary_deg"]),
        secondary_deg=_number(entry.get("secondary_deg", 0.0)),
        isocenter_ras=(x, y, z),
        source_to_isocenter_mm=_number(entry.get("source_to_isocenter_mm", default.source_to_isocenter_mm)),
        source_to_detector_mm=_number(entry.get("source_to_detector_mm", default.source_to_detector_mm)),
    )


def _number(value: object) -> float:
    """A JSON number; `float` alone would also take text such as "30", and true for 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is not a number")
    return float(value)


def view_to_json(view: View) -> dict[str, Any]:
    """The pose, the detector, and the matrices and positions that follow from them, for readers without this library.

    The detector's corners, RAS mm, are in the order of `View.detector_corners_ras`.
    """
    return {
        **pose_to_json(view.pose),
        "rows": view.detector.rows,
        "columns": view.detector.columns,
        "pixel_spacing_mm": list(view.detector.pixel_spacing_mm),
        "source_ras_mm": view.pose.source_ras.tolist(),
        "detector_corners_ras_mm": view.detector_corners_ras.tolist(),
        "pixel_to_ras": view.pixel_to_ras.tolist(),
        "projection_matrix": view.projection_matrix.tolist(),
    }


def view_from_json(entry: dict[str, Any]) -> View:
    """Inverse of `view_to_json`; matrices and positions are derived anew."""
    row_mm, column_mm = map(_number, entry["pixel_spacing_mm"])
    detector = Detector(entry["rows"], entry["columns"], (row_mm, column_mm))
    return View(pose_from_json(entry, (0.0, 0.0, 0.0)), detector)


def views_document(views: Sequence[dict[str, Any]]) -> str:
    """The text of a views JSON file from entries of `pose_to_json` or `view_to_json`."""
    frame = (
        "RAS, mm; angles are DICOM positioner angles in degrees; pixel coordinates are (column, row); "
        "detector corners are top left, top right, bottom right, bottom left"
    )
    return json.dumps({"format": FORMAT, "frame": frame, "views": list(views)}, indent=1)


def read_views(path: Path, isocenter_ras: Isocenter) -> list[CArmPose]:
    """Poses of a views JSON file. Poses that state no isocenter are put about `isocenter_ras` (RAS mm).

    Files of `views_document` with whole views are read, too, but for their poses alone: the detector is the caller's.
    Raises SVDRRError for what is no such file, and for unknown keys, which may be misspelled ones.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))  # Windows' editors begin with a byte order mark.
    except OSError as error:
        raise SVDRRError(f"Cannot read the view file '{path}': {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise SVDRRError(f"'{path}' is not valid JSON: {error}.") from None
    is_ours = isinstance(document, dict) and document.get("format") == FORMAT
    entries = document.get("views") if is_ours else None
    if not isinstance(entries, list):
        raise SVDRRError(f'\'{path}\' is not a view file: it needs "format": "{FORMAT}" and a list "views".')
    if not entries:
        raise SVDRRError(f"'{path}' holds no views: its list \"views\" is empty; put at least one into it.")
    _refuse_unknown(document, ("format", "frame", "views"), (), f"'{path}'")
    poses = []
    for number, entry in enumerate(entries, start=1):
        if isinstance(entry, dict):
            _refuse_unknown(entry, _POSE_KEYS, _WRITTEN_KEYS, f"View {number} in '{path}'")
        try:
            poses.append(pose_from_json(entry, isocenter_ras))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise SVDRRError(
                f"View {number} in '{path}' needs a number 'primary_deg' and, where given, numbers in its other fields."
            ) from None
        except SVDRRError as error:
            sentence = str(error)
            raise SVDRRError(f"View {number} in '{path}' cannot be used: {sentence[0].lower()}{sentence[1:]}") from None
    return poses


def _refuse_unknown(entry: dict[str, Any], keys: Sequence[str], ignored: Sequence[str], where: str) -> None:
    unknown = [key for key in entry if key not in (*keys, *ignored)]
    if unknown:
        raise SVDRRError(f"{where} has the unknown key '{unknown[0]}'; known are {', '.join(keys)}.")


def relative_view_encoding(source: CArmPose, target: CArmPose) -> NDArray[np.float64]:
    """[Δelevation, sin Δazimuth, cos Δazimuth, Δradius] (4,) from source to target view.

    Elevation (secondary) and azimuth (primary) in radians; Δradius is the ratio of the source-to-isocenter
    distances minus 1, so that equal radii give 0. After zero123's relative polar coordinates [sv-drr, 3.2].
    """
    azimuth = math.radians(target.primary_deg - source.primary_deg)
    elevation = math.radians(target.secondary_deg - source.secondary_deg)
    radius = target.source_to_isocenter_mm / source.source_to_isocenter_mm - 1.0
    return np.array([elevation, math.sin(azimuth), math.cos(azimuth), radius])
