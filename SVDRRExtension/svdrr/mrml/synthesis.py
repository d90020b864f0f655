"""Novel views of a radiograph node, as steps that a panel or a script takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import slicer

from svdrr.backend.client import BackendClient
from svdrr.backend.jobs import SynthesizeJob
from svdrr.backend.request import Request, synthesis_request
from svdrr.ct import CTVolume
from svdrr.ct.body import body_center_ras
from svdrr.errors import SVDRRError, counted
from svdrr.geometry import CArmPose, Detector
from svdrr.mrml.backend import BackendChoice, chosen_backend, client_of, follow
from svdrr.mrml.comparison import ComparisonNodes, comparison_steps
from svdrr.mrml.ct import check_ct_node, ct_snapshot
from svdrr.mrml.nodes import check_output
from svdrr.mrml.preview import picture
from svdrr.mrml.radiograph import VOLUME, radiograph_snapshot, radiograph_to_node, states_linear
from svdrr.mrml.sequence import GrowingSequence, in_order
from svdrr.mrml.targets import TargetViews
from svdrr.mrml.task import Progress, Say, Steps, in_background, require_in_scene
from svdrr.preparation import NO_MARGINS, Margins, Preparation, looks_inverted, prepare, propose_margins, source_pose
from svdrr.radiograph import Radiograph
from svdrr.render import require_in_view
from svdrr.synthesis.preparation import SourceDomain, beside

SOURCE_ANGLES_DEG = {"pa": (0.0, 0.0), "ap": (180.0, 0.0), "left": (90.0, 0.0), "right": (-90.0, 0.0)}
"""Primary and secondary angles of the projections that a panel offers by name."""
# A field that is edited asks for one preparation after the other, faster than threads end.
_SETTLING_S = 0.2


def preparation_of(parameters: Any) -> Preparation:
    """What a parameter node's fields quarterTurns, flip, cropTop, ..., invert, linear, rowSpacingMm, columnSpacingMm,
    sourceView ("own", "angles" or one of SOURCE_ANGLES_DEG), sourcePrimaryDeg, sourceSecondaryDeg say. A spacing of 0
    is unknown.
    """
    spacing = parameters.rowSpacingMm, parameters.columnSpacingMm
    angles = SOURCE_ANGLES_DEG.get(parameters.sourceView)
    if parameters.sourceView == "angles":
        angles = parameters.sourcePrimaryDeg, parameters.sourceSecondaryDeg
    return Preparation(
        quarter_turns=parameters.quarterTurns,
        flip=parameters.flip,
        margins=(parameters.cropTop, parameters.cropBottom, parameters.cropLeft, parameters.cropRight),
        invert=parameters.invert,
        linear=parameters.linear,
        pixel_spacing_mm=spacing if min(spacing) > 0.0 else None,
        source_angles_deg=angles,
    )


@dataclass(frozen=True)
class SynthesisOrder:
    """What is wanted. model: its name on the backend. steps, guidance: None for what the model recommends."""

    model: str
    targets: TargetViews = field(default_factory=TargetViews)
    preparation: Preparation = field(default_factory=Preparation)
    steps: int | None = None
    guidance: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Truth:
    """A CT of the same body to compare with. center_of_ct: whether the radiograph is taken to have been taken about the
    middle of the body in the CT, for want of an isocenter of its own.
    """

    ct: slicer.vtkMRMLScalarVolumeNode
    center_of_ct: bool = False


@dataclass(frozen=True)
class SynthesisNodes:
    """What a synthesis has put into the scene so far: `arrived` of `expected` views.

    prepared: the radiograph as it goes to the model. browser, volume: of the views, and the volume that shows the one
    that is selected; None before the first. comparison: None without a truth, and before it is done.
    """

    prepared: slicer.vtkMRMLScalarVolumeNode
    browser: slicer.vtkMRMLSequenceBrowserNode | None = None
    volume: slicer.vtkMRMLScalarVolumeNode | None = None
    arrived: int = 0
    expected: int = 0
    comparison: ComparisonNodes | None = None


@dataclass(frozen=True)
class RadiographFacts:
    """What shows of a radiograph that has been turned and flipped, but not cropped or inverted.

    pixel_spacing_mm: (row, column), None where unknown. own_pose: None where it has none. looks_inverted, margins: the
    guesses of `svdrr.preparation`. states_linear: see `svdrr.mrml.radiograph`.
    """

    rows: int
    columns: int
    pixel_spacing_mm: tuple[float, float] | None
    own_pose: CArmPose | None
    looks_inverted: bool
    margins: Margins
    states_linear: bool


@dataclass(frozen=True)
class SourceShown:
    """picture: a file for Qt, see `svdrr.synthesis.preparation.beside`. is_computed: whether a computed image is in it.
    is_matched: whether its gray values are matched to the model's.
    """

    picture: bytes
    is_computed: bool
    is_matched: bool


def inspection_steps(node: slicer.vtkMRMLScalarVolumeNode, preparation: Preparation) -> Steps[RadiographFacts]:
    """Steps to what shows of a radiograph, once it is turned as the preparation says."""
    read, linear = radiograph_snapshot(node), states_linear(node)
    turning = Preparation(quarter_turns=preparation.quarter_turns, flip=preparation.flip)

    def work(say: Say) -> RadiographFacts:
        radiograph = read()
        turned = prepare(radiograph, turning)
        rows, columns = turned.pixels.shape
        return RadiographFacts(
            rows,
            columns,
            turned.pixel_spacing_mm,
            radiograph.view.pose if radiograph.view else None,
            looks_inverted(turned.pixels),
            # The air around a rendered body is no shutter.
            NO_MARGINS if radiograph.provenance else propose_margins(turned.pixels),
            linear,
        )

    return (yield from in_background(work, "Looking at the radiograph"))


def source_steps(
    node: slicer.vtkMRMLScalarVolumeNode, preparation: Preparation, model: SourceDomain
) -> Steps[SourceShown]:
    """Steps to a picture of a radiograph beside what the model gets of it, made as the backend makes it."""
    read = radiograph_snapshot(node)

    def work(say: Say) -> SourceShown:
        taken = read()
        prepared = prepare(taken, preparation)
        shown = picture(Radiograph(beside(taken, prepared, model)))
        return SourceShown(shown, taken.provenance is not None, not prepared.has_drr_gray_scale)

    return (yield from in_background(work, "Preparing the radiograph"))


class LiveSource:
    """A radiograph node's prepared pixels, ready to be sent; they are made again only where something has changed."""

    def __init__(self) -> None:
        self._state: tuple[Any, ...] = ()
        self._request: Request | None = None

    def steps(self, node: slicer.vtkMRMLScalarVolumeNode, pose: CArmPose, order: SynthesisOrder) -> Steps[Request]:
        """Steps to a request for one view at the angles of `pose`, about the isocenter of the source view, at its
        distances. order: its targets do not count. SVDRRError for what is no radiograph.
        """
        # The time of a change is never that of another one, whatever node it happens to.
        state = node.GetMTime(), node.GetImageData().GetMTime(), order.preparation
        if self._request is None or self._state != state:
            self.forget()
            settled = time.monotonic() + _SETTLING_S
            while time.monotonic() < settled:
                yield Progress("Preparing the radiograph")
            read = radiograph_snapshot(node)

            def work(say: Say) -> Request:
                taken = read()
                source = source_pose(taken, order.preparation)
                return _request(prepare(taken, order.preparation), [source], order, source).hashed()

            made = yield from in_background(work, "Preparing the radiograph")
            self._state, self._request = state, made
        job = self._request.job
        assert isinstance(job, SynthesizeJob)
        wanted = replace(job.source_pose, primary_deg=pose.primary_deg, secondary_deg=pose.secondary_deg)
        job = replace(
            job, poses=(wanted,), model=order.model, steps=order.steps, guidance=order.guidance, seed=order.seed
        )
        return replace(self._request, job=job)

    def forget(self) -> None:
        """Free the memory."""
        self._state, self._request = (), None


def preparation_steps(
    node: slicer.vtkMRMLScalarVolumeNode,
    preparation: Preparation,
    output: slicer.vtkMRMLScalarVolumeNode | None = None,
) -> Steps[slicer.vtkMRMLScalarVolumeNode]:
    """Steps to a node with the prepared radiograph: `output`, or a new one. See `svdrr.preparation.prepare`."""
    _, radiograph = yield from _prepared(node, preparation, output)
    return radiograph_to_node(radiograph, f"{_base_name(node)} prepared", output)


def synthesis_steps(
    node: slicer.vtkMRMLScalarVolumeNode,
    order: SynthesisOrder,
    choice: BackendChoice | None = None,
    truth: Truth | None = None,
    on_nodes: Callable[[SynthesisNodes], None] = lambda nodes: None,
    prepared: slicer.vtkMRMLScalarVolumeNode | None = None,
) -> Steps[SynthesisNodes]:
    """Steps to novel views of a radiograph, which come into the scene one by one.

    Every pose stands about the isocenter of the source view, at its distances. With a truth, DRRs of its CT with the
    same poses and detector are rendered as well, and compared. choice: by default the user's. on_nodes: called when the
    prepared radiograph is in the scene, and after each view. prepared: the node to write that radiograph to.
    What has arrived stays when the steps are closed or fail. SVDRRError, before anything is sent, for what is no
    radiograph, a model that the backend does not have, a CT that the poses miss, or a radiograph without a place in the
    CT's frame.
    """
    choice = choice or chosen_backend()
    preparation = order.preparation
    ct = None
    if truth is not None:
        ct = yield from _ct(truth.ct)
        if truth.center_of_ct:
            center_ras = yield from in_background(lambda say: body_center_ras(ct), "Finding the body in the CT")
            preparation = replace(preparation, isocenter_ras=center_ras)
    taken, radiograph = yield from _prepared(node, preparation, prepared)
    name = _base_name(node)
    if truth is not None and taken.view is None and not truth.center_of_ct:
        raise SVDRRError(
            f"'{node.GetName()}' has no view of its own and thus no place in the frame of '{truth.ct.GetName()}'; "
            "let it stand about the middle of the body in the CT, or compare with no CT."
        )
    pose = source_pose(taken, preparation)
    poses = order.targets.poses(pose.isocenter_ras, pose.source_to_isocenter_mm, pose.source_to_detector_mm)
    nodes = SynthesisNodes(radiograph_to_node(radiograph, f"{name} prepared", prepared), expected=len(poses))
    on_nodes(nodes)

    client = yield from client_of(choice)
    detector = yield from in_background(lambda say: _detector(client, order.model), "Asking the backend for its models")
    if ct is not None:
        require_in_view(ct.corners_ras, poses, detector)
    request = yield from in_background(lambda say: _request(radiograph, poses, order, pose), "Sending the radiograph")

    views = GrowingSequence(f"{name} views")

    def on_view(view: Radiograph) -> None:
        nonlocal nodes
        views.append(view)
        nodes = replace(nodes, browser=views.browser, volume=views.proxy, arrived=nodes.arrived + 1)
        on_nodes(nodes)

    try:
        yield from follow(client, request, in_order(on_view))
        if truth is not None:
            require_in_scene(truth.ct, truth.ct.GetName())
            comparison = yield from comparison_steps(nodes.browser, truth.ct, choice)
            nodes = replace(nodes, comparison=comparison)
    except SVDRRError as error:
        if nodes.browser is None or not slicer.mrmlScene.IsNodePresent(nodes.browser):
            raise
        raise SVDRRError(f"{error} {arrival(nodes)}") from error
    return nodes


def arrival(nodes: SynthesisNodes) -> str:
    """How many of the views are in the scene, a sentence."""
    return (
        f"{nodes.arrived:,} of {counted(nodes.expected, 'view')} {'is' if nodes.arrived == 1 else 'are'} in the scene."
    )


def _prepared(node: Any, preparation: Preparation, output: Any) -> Steps[tuple[Radiograph, Radiograph]]:
    """The radiograph of a node as it is, and prepared for `output`."""
    check_output(VOLUME, output)
    if output is not None and output is node:
        raise SVDRRError(f"The prepared image cannot be written over '{node.GetName()}'; choose another volume for it.")
    read = radiograph_snapshot(node)

    def work(say: Say) -> tuple[Radiograph, Radiograph]:
        taken = read()
        return taken, prepare(taken, preparation)

    radiographs = yield from in_background(work, "Preparing the radiograph")
    if output is not None:
        require_in_scene(output, output.GetName())
    return radiographs


def _ct(node: Any) -> Steps[CTVolume]:
    check_ct_node(node)
    read = ct_snapshot(node)
    return (yield from in_background(lambda say: read(), "Reading the CT"))


def _base_name(node: Any) -> str:
    """A node's name without what says how its image was made, which the names of its views say anew."""
    name = str(node.GetName())
    for suffix in (" (DRR)", " (synthetic)"):
        name = name.removesuffix(suffix)
    return name


def _detector(client: BackendClient, name: str) -> Detector:
    models = {model["name"]: model for model in client.capabilities()["models"]}
    if name not in models:
        offered = ", ".join(models) or "none"
        raise SVDRRError(f"The backend has no model '{name}'; it has: {offered}.")
    return Detector.square(models[name]["resolution"], models[name]["field_of_view_mm"])


def _request(radiograph: Radiograph, poses: list[CArmPose], order: SynthesisOrder, pose: CArmPose) -> Request:
    return synthesis_request(radiograph, poses, order.model, order.steps, order.guidance, order.seed, pose)
