"""Which views are wanted, in the words of the parameter nodes that `svdrr.mrml.panels.view_controls` is bound to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from svdrr.backend.jobs import MAX_VIEWS
from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, parse_views
from svdrr.geometry.viewsets import Isocenter


@dataclass(frozen=True)
class TargetViews:
    """One view by its C-arm angles, or a set of views.

    mode: "angles" and "camera" are one view at primary_deg, secondary_deg; a panel keeps these at the camera's in the
    latter. The other fields tell which set "set" means.
    """

    mode: str = "angles"
    primary_deg: float = 0.0
    secondary_deg: float = 0.0
    view_set: str = "simple"
    hemisphere_count: int = 12
    sweep_from_deg: float = -90.0
    sweep_to_deg: float = 90.0
    sweep_step_deg: float = 10.0
    file: str = ""

    @staticmethod
    def of(parameters: Any) -> TargetViews:
        """What a parameter node's fields viewMode, primaryDeg, … viewFile say."""
        return TargetViews(
            mode=parameters.viewMode,
            primary_deg=parameters.primaryDeg,
            secondary_deg=parameters.secondaryDeg,
            view_set=parameters.viewSet,
            hemisphere_count=parameters.hemisphereCount,
            sweep_from_deg=parameters.sweepFromDeg,
            sweep_to_deg=parameters.sweepToDeg,
            sweep_step_deg=parameters.sweepStepDeg,
            file=parameters.viewFile,
        )

    @staticmethod
    def parse(specification: str) -> TargetViews:
        """The set that `svdrr.geometry.parse_views` takes this for; SVDRRError as from there."""
        parse_views(specification, (0.0, 0.0, 0.0))
        kind, _, numbers = specification.partition(":")
        if kind == "hemisphere":
            return TargetViews(mode="set", view_set="hemisphere", hemisphere_count=int(numbers))
        if kind == "sweep":
            start, stop, step = map(float, numbers.split(":"))
            return TargetViews(
                mode="set", view_set="sweep", sweep_from_deg=start, sweep_to_deg=stop, sweep_step_deg=step
            )
        if kind == "simple":
            return TargetViews(mode="set", view_set="simple")
        return TargetViews(mode="set", view_set="file", file=specification)

    @property
    def specification(self) -> str:
        """The set as `svdrr.geometry.parse_views` takes it."""
        if self.view_set == "hemisphere":
            return f"hemisphere:{self.hemisphere_count}"
        if self.view_set == "sweep":
            return f"sweep:{self.sweep_from_deg:g}:{self.sweep_to_deg:g}:{self.sweep_step_deg:g}"
        return self.file if self.view_set == "file" else self.view_set

    def poses(
        self, isocenter_ras: Isocenter, source_to_isocenter_mm: float, source_to_detector_mm: float
    ) -> list[CArmPose]:
        """The poses about an isocenter, RAS mm, at these distances. SVDRRError for a set that there is not.

        Poses of a file stand where the file puts them: it states their distances, and maybe their isocenters.
        """
        if self.mode != "set":
            angles = self.primary_deg, self.secondary_deg
            return [CArmPose(*angles, isocenter_ras, source_to_isocenter_mm, source_to_detector_mm)]
        if self.view_set == "file" and not self.file:
            raise SVDRRError("Choose the file of the view set.")
        if self.view_set == "file":
            poses = parse_views(self.file, isocenter_ras)
            _require_few(len(poses))
            return poses
        return list(_set_poses(self.specification, isocenter_ras, source_to_isocenter_mm, source_to_detector_mm))

    def reasons(self) -> list[str]:
        """Why there are no such views, a sentence each."""
        try:
            self.poses((0.0, 0.0, 0.0), CArmPose().source_to_isocenter_mm, CArmPose().source_to_detector_mm)
        except SVDRRError as error:
            return [str(error)]
        return []


# A panel asks several times at each change, and 2,000 poses take a tenth of a second.
@lru_cache(maxsize=4)
def _set_poses(
    specification: str, isocenter_ras: Isocenter, source_to_isocenter_mm: float, source_to_detector_mm: float
) -> tuple[CArmPose, ...]:
    poses = parse_views(specification, isocenter_ras)
    _require_few(len(poses))
    return tuple(
        replace(pose, source_to_isocenter_mm=source_to_isocenter_mm, source_to_detector_mm=source_to_detector_mm)
        for pose in poses
    )


def _require_few(count: int) -> None:
    if count > MAX_VIEWS:
        raise SVDRRError(f"A set holds up to {MAX_VIEWS:,} views here, not {count:,}; choose a smaller one.")


def camera_angles(camera: Any) -> tuple[float, float]:
    """Primary and secondary angle, degrees, of the C-arm whose source is on the side of a camera node.

    The central ray runs as the camera looks. Only the direction counts: zooming and panning a 3D view do not move a
    C-arm, whose isocenter and distances are chosen by themselves.
    """
    looks = np.subtract(camera.GetFocalPoint(), camera.GetPosition())
    pose = CArmPose.from_direction(looks, (0.0, 0.0, 0.0))
    return pose.primary_deg, pose.secondary_deg
