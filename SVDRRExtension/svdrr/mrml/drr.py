"""DRRs of CT nodes, as steps that a panel or a script takes: rendered in a backend, put into the scene, exported."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import slicer
import slicer.util

from svdrr.backend.client import ArrivedView
from svdrr.backend.jobs import RenderJob
from svdrr.backend.request import Request, render_request
from svdrr.errors import SVDRRError
from svdrr.files import whole_directory
from svdrr.geometry import CArmPose, Detector, View
from svdrr.geometry.carm import SOURCE_TO_DETECTOR_MM, SOURCE_TO_ISOCENTER_MM
from svdrr.geometry.viewsets import Isocenter, views_document
from svdrr.mrml.backend import BackendChoice, chosen_backend, client_of, follow
from svdrr.mrml.ct import check_ct_node, ct_snapshot
from svdrr.mrml.markups import markups_on_view, project_markups
from svdrr.mrml.nodes import check_output, ijk_to_world, remove
from svdrr.mrml.radiograph import VOLUME, radiograph_snapshot, radiograph_to_node
from svdrr.mrml.sequence import GrowingSequence, in_order
from svdrr.mrml.task import Progress, Say, Steps, in_background, require_in_scene
from svdrr.radiograph import Radiograph

PREVIEW_PIXELS = 128

# As long as a step may take with the window still alive.
_STEP_S = 0.05


@dataclass(frozen=True)
class DRRSettings:
    """What all views of a DRR have in common. The detector is square.

    energy_kev or kvp: photons of one energy, or a tube's spectrum; neither for the default energy. The others are as in
    `svdrr.backend.jobs.RenderJob`.
    """

    source_to_isocenter_mm: float = SOURCE_TO_ISOCENTER_MM
    source_to_detector_mm: float = SOURCE_TO_DETECTOR_MM
    detector_side_mm: float = 480.0
    detector_pixels: int = 512
    energy_kev: float | None = None
    kvp: int | None = None
    air_photons_per_pixel: float | None = None
    blur_mm: float = 0.0
    window: str = "full"
    remove_table: bool = True

    @property
    def detector(self) -> Detector:
        """The detector. SVDRRError where there is no such."""
        return Detector.square(self.detector_pixels, self.detector_side_mm)

    def request(self, source: Request, poses: Sequence[CArmPose]) -> Request:
        """Views of the CT that `CTSource` has read. SVDRRError for values out of range."""
        assert isinstance(source.job, RenderJob)
        job = RenderJob(
            source.job.ijk_to_ras,
            tuple(poses),
            self.detector,
            energy_kev=self.energy_kev,
            kvp=self.kvp,
            air_photons_per_pixel=self.air_photons_per_pixel,
            blur_mm=self.blur_mm,
            window=self.window,
            remove_table=self.remove_table,
        )
        return replace(source, job=job)


@dataclass(frozen=True)
class DRRNodes:
    """What a rendering has left in the scene.

    volume: the view, or the one that the browser shows. browser: None for a single view. projection: the markups on the
    views, None unless they were asked for.
    """

    volume: slicer.vtkMRMLScalarVolumeNode
    browser: slicer.vtkMRMLSequenceBrowserNode | None = None
    projection: slicer.vtkMRMLMarkupsFiducialNode | None = None


class CTSource:
    """The voxels of a CT node, ready to be sent; they are read again only where the node has changed since."""

    def __init__(self) -> None:
        self._state: tuple[Any, ...] = ()
        self._request: Request | None = None

    def steps(self, node: slicer.vtkMRMLScalarVolumeNode) -> Steps[Request]:
        """Steps to a request for `DRRSettings.request`. SVDRRError for what is no CT."""
        check_ct_node(node)
        # The time of a change is never that of another one, whatever node it happens to.
        state = node.GetImageData().GetMTime(), ijk_to_world(node).tobytes()
        if self._request is None or self._state != state:
            self.forget()
            read = ct_snapshot(node)
            made = yield from in_background(
                lambda say: render_request(read(), [CArmPose()], DRRSettings().detector).hashed(), "Reading the CT"
            )
            self._state, self._request = state, made
        return self._request

    def preview_steps(
        self, node: slicer.vtkMRMLScalarVolumeNode, pose: CArmPose, settings: DRRSettings
    ) -> Steps[Request]:
        """Steps to a request for a preview of one view. SVDRRError for what is no CT, or values out of range.

        It has `PREVIEW_PIXELS` a side on the same detector, and no quantum noise, whose look is that of the pixels'
        size.
        """
        small = replace(settings, detector_pixels=PREVIEW_PIXELS, air_photons_per_pixel=None)
        return small.request((yield from self.steps(node)), [pose])

    def forget(self) -> None:
        """Free the memory."""
        self._state, self._request = (), None


def isocenter_of(node: slicer.vtkMRMLScalarVolumeNode, markups: slicer.vtkMRMLMarkupsNode | None = None) -> Isocenter:
    """The first placed control point of `markups`, or else the center of the CT, RAS mm.

    SVDRRError for markups without a placed point.
    """
    if markups is None:
        last = [count - 1.0 for count in node.GetImageData().GetDimensions()]
        x, y, z, _ = (ijk_to_world(node) @ [*(index / 2.0 for index in last), 1.0]).tolist()
        return x, y, z
    for index in range(markups.GetNumberOfControlPoints()):
        if markups.GetNthControlPointPositionStatus(index) == markups.PositionDefined:
            x, y, z = markups.GetNthControlPointPositionWorld(index)
            return x, y, z
    raise SVDRRError(f"'{markups.GetName()}' has no point for the isocenter; place one, or choose none.")


def check_rendering(
    node: slicer.vtkMRMLScalarVolumeNode,
    output: slicer.vtkMRMLScalarVolumeNode | None = None,
    markups: slicer.vtkMRMLMarkupsNode | None = None,
) -> None:
    """SVDRRError for what `render_steps` would refuse of these nodes, as far as can be told at once."""
    check_ct_node(node)
    check_output(VOLUME, output)
    if output is not None and output is node:
        raise SVDRRError(f"The DRR would replace the CT '{node.GetName()}'; choose another output volume.")
    if markups is not None:
        project_markups(markups, [View(CArmPose(), DRRSettings().detector)])


def render_steps(
    node: slicer.vtkMRMLScalarVolumeNode,
    poses: Sequence[CArmPose],
    settings: DRRSettings | None = None,
    output: slicer.vtkMRMLScalarVolumeNode | None = None,
    sequence: bool = False,
    markups: slicer.vtkMRMLMarkupsNode | None = None,
    choice: BackendChoice | None = None,
    source: CTSource | None = None,
) -> Steps[DRRNodes]:
    """Steps that render DRRs of a CT node in the backend, each put into the scene as it arrives.

    poses: one, or, with sequence=True, any number; these become a sequence with a browser. output: a volume for the
    one; by default a new one. markups: their projections become a point list, which follows the browser. choice: by
    default the user's. source: where the CT's voxels are kept for further renderings.
    SVDRRError with the reason, before anything is added where that can be told before. Closing the steps cancels the
    work, and leaves finished views.
    """
    settings = settings or DRRSettings()
    check_rendering(node, output, markups)
    views = [View(pose, settings.detector) for pose in poses]
    name = node.GetName()
    client = yield from client_of(choice or chosen_backend())
    request = settings.request((yield from (source or CTSource()).steps(node)), poses)
    if sequence:
        growing = GrowingSequence(name)
        yield from follow(client, request, in_order(growing.append))
        nodes = DRRNodes(growing.proxy, growing.browser)
    else:
        arrived: list[Any] = []

        def show(view: ArrivedView) -> None:
            if output is not None:
                require_in_scene(output, output.GetName())
            arrived.append(radiograph_to_node(view.radiograph, f"{name} {poses[0].label}", output))

        yield from follow(client, request, show)
        nodes = DRRNodes(arrived[0])
    if markups is None:
        return nodes
    require_in_scene(markups, markups.GetName())
    return replace(nodes, projection=(yield from _projection_steps(markups, views, nodes)))


def export_steps(
    volume: slicer.vtkMRMLScalarVolumeNode, browser: slicer.vtkMRMLSequenceBrowserNode | None, folder: Path
) -> Steps[int]:
    """Steps that write views as ``svdrr render`` does: 16-bit PNG files, which say how they were made, and views.json.

    volume: a view, or any of the sequence of `browser`. Returns how many were written. SVDRRError with the reason
    where the folder cannot be written; nothing has changed there then.
    """
    items = [volume]
    if browser is not None:
        sequence = browser.GetSequenceNode(volume) or browser.GetMasterSequenceNode()
        items = [sequence.GetNthDataNode(index) for index in range(sequence.GetNumberOfDataNodes())]
    count = len(items)
    progress = Progress("Reading the views", 0, count)
    reads = []
    for item in items:
        reads.append(radiograph_snapshot(item))
        yield progress
    return (yield from in_background(lambda say: _export(reads, folder, say), "Writing the views"))


def _export(reads: Sequence[Callable[[], Radiograph]], folder: Path, say: Say) -> int:
    # Imported by those who write files, since the others need neither Pillow nor SimpleITK.
    from svdrr.images import write_view

    radiographs = [read() for read in reads]
    if any(radiograph.view is None or radiograph.provenance is None for radiograph in radiographs):
        raise SVDRRError("Only views that were rendered here, and not moved or resampled since, can be exported.")
    with whole_directory(folder) as written:
        entries = []
        for number, radiograph in enumerate(radiographs):
            say(Progress("Writing the views", number, len(radiographs)))
            entries.append(write_view(written, number, radiograph))
        (written / "views.json").write_text(views_document(entries), encoding="utf-8")
    return len(radiographs)


def _projection_steps(markups: Any, views: Sequence[View], nodes: DRRNodes) -> Steps[Any]:
    name = f"{markups.GetName()} on {nodes.volume.GetName()}"
    if nodes.browser is None:
        return markups_on_view(markups, views[0], name)
    master = nodes.browser.GetMasterSequenceNode()
    points = None
    # Outside the scene until it is whole.
    sequence = slicer.vtkMRMLSequenceNode()
    sequence.SetName(f"{name} sequence")
    sequence.SetIndexName(master.GetIndexName())
    sequence.SetIndexUnit(master.GetIndexUnit())
    sequence.SetIndexType(master.GetIndexType())
    try:
        until = time.monotonic() + _STEP_S
        for index, view in enumerate(views):
            points = markups_on_view(markups, view, name, points)
            sequence.SetDataNodeAtValue(points, master.GetNthIndexValue(index))
            if time.monotonic() > until:
                yield Progress("Projecting the markups", index + 1, len(views))
                for used in (markups, nodes.browser, points):
                    require_in_scene(used, used.GetName())
                until = time.monotonic() + _STEP_S
    except BaseException:
        if points is not None and points.GetScene() is not None:
            remove(points)
        raise
    slicer.mrmlScene.AddNode(sequence)
    with slicer.util.NodeModify(nodes.browser):
        nodes.browser.AddSynchronizedSequenceNode(sequence)
        nodes.browser.AddProxyNode(points, sequence, False)
    return points
