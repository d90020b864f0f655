"""Views beside the DRRs of a CT that is their truth, with figures in a table and over the angle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk

from svdrr.backend.request import Request, render_request
from svdrr.errors import SVDRRError
from svdrr.evaluation.metrics import psnr_db, ssim
from svdrr.geometry import View
from svdrr.mrml.backend import BackendChoice, chosen_backend, client_of, follow
from svdrr.mrml.ct import ct_snapshot
from svdrr.mrml.radiograph import radiograph_snapshot
from svdrr.mrml.sequence import GrowingSequence, in_order, require_view_sequence
from svdrr.mrml.task import Progress, Say, Steps, in_background, require_in_scene
from svdrr.radiograph import Radiograph
from svdrr.render import require_in_view

VIEW, PRIMARY, SECONDARY, PSNR, SSIM = "View", "Primary angle (°)", "Secondary angle (°)", "PSNR (dB)", "SSIM"
"""The columns of the table."""


@dataclass(frozen=True)
class ViewScore:
    """How near a view is to its truth; see `svdrr.evaluation.metrics`."""

    view: View
    psnr_db: float
    ssim: float


@dataclass(frozen=True)
class ComparisonNodes:
    """What a comparison has added to the scene.

    truth: the volume that shows the true DRR of the view that the browser has selected. table: a row for each view.
    psnr_chart, ssim_chart: over the primary angle. scores: what the table says.
    """

    truth: slicer.vtkMRMLScalarVolumeNode
    table: slicer.vtkMRMLTableNode
    psnr_chart: slicer.vtkMRMLPlotChartNode
    ssim_chart: slicer.vtkMRMLPlotChartNode
    scores: tuple[ViewScore, ...]

    @property
    def sentence(self) -> str:
        """The means, in words."""
        mean_psnr = np.mean([score.psnr_db for score in self.scores])
        mean_ssim = np.mean([score.ssim for score in self.scores])
        return f"Against the CT, the mean PSNR is {mean_psnr:.1f} dB and the mean SSIM {mean_ssim:.3f}."


def comparison_steps(
    browser: slicer.vtkMRMLSequenceBrowserNode,
    ct_node: slicer.vtkMRMLScalarVolumeNode,
    choice: BackendChoice | None = None,
) -> Steps[ComparisonNodes]:
    """Steps that render a CT without its table, with the pose and the detector of every view and in the gray scale that
    models know, and score the views against that, after `svdrr.evaluation.metrics`.

    The true DRRs become a second sequence of the browser. choice: of the backend that renders, by default the user's.
    SVDRRError before anything is sent for what is no sequence of views or no CT, and for poses that miss the CT.
    """
    sequence = require_view_sequence(browser)
    read_ct = ct_snapshot(ct_node)
    views: list[Radiograph] = []
    for index in range(sequence.GetNumberOfDataNodes()):
        views.append((yield from _view(sequence.GetNthDataNode(index))))
    placed = [view.view for view in views if view.view is not None]
    if len(placed) < len(views) or len({view.detector for view in placed}) != 1:
        raise SVDRRError(
            f"The views of '{browser.GetName()}' have no poses with one detector; choose synthesized ones."
        )

    def request(say: Say) -> Request:
        ct, poses, detector = read_ct(), [view.pose for view in placed], placed[0].detector
        require_in_view(ct.corners_ras, poses, detector)
        # A radiograph shows no table, or not this one.
        return render_request(ct, poses, detector, remove_table=True)

    rendering = yield from in_background(request, "Reading the CT")
    client = yield from client_of(choice or chosen_backend())
    require_in_scene(browser, browser.GetName())
    truth = GrowingSequence(f"{ct_node.GetName()} truth", beside=browser)
    scores: list[ViewScore] = []
    true_views: list[Radiograph] = []

    def on_view(true_view: Radiograph) -> None:
        truth.append(true_view)
        true_views.append(true_view)

    yield from follow(client, rendering, in_order(on_view))
    for view, true_view in zip(views, true_views, strict=True):
        scores.append((yield from _score(view, true_view)))
        yield Progress("Comparing", len(scores), len(views))
    require_in_scene(browser, browser.GetName())
    name = f"{sequence.GetName().removesuffix(' sequence')} against {ct_node.GetName()}"
    table = _table(scores, name)
    return ComparisonNodes(truth.proxy, table, _chart(table, PSNR, name), _chart(table, SSIM, name), tuple(scores))


def _view(node: Any) -> Steps[Radiograph]:
    read = radiograph_snapshot(node)
    return (yield from in_background(lambda say: read(), "Reading the views"))


def _score(view: Radiograph, truth: Radiograph) -> Steps[ViewScore]:
    placed = view.view
    assert placed is not None
    pair = view.pixels[np.newaxis], truth.pixels[np.newaxis]

    def work(say: Say) -> ViewScore:
        return ViewScore(placed, float(psnr_db(*pair)[0]), float(ssim(*pair)[0]))

    return (yield from in_background(work, "Comparing"))


def _table(scores: Sequence[ViewScore], name: str) -> Any:
    columns: dict[str, list[str] | list[float]] = {
        VIEW: [score.view.pose.label for score in scores],
        PRIMARY: [score.view.pose.primary_deg for score in scores],
        SECONDARY: [score.view.pose.secondary_deg for score in scores],
        PSNR: [score.psnr_db for score in scores],
        SSIM: [score.ssim for score in scores],
    }
    table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", name)
    table.SetUseColumnTitleAsColumnHeader(True)
    for title, values in columns.items():
        table.AddColumn(_column(title, values))
    return table


def _column(title: str, values: Sequence[str] | Sequence[float]) -> Any:
    column = vtk.vtkStringArray() if title == VIEW else vtk.vtkDoubleArray()
    column.SetName(title)
    for value in values:
        column.InsertNextValue(value)
    return column


def _chart(table: Any, figure: str, name: str) -> Any:
    series = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", f"{figure} of {name}")
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName(PRIMARY)
    series.SetYColumnName(figure)
    series.SetLabelColumnName(VIEW)
    series.SetPlotType(series.PlotTypeScatter)
    # No line: neighbors in a set need not be neighbors in angle.
    series.SetLineStyle(series.LineStyleNone)
    series.SetMarkerStyle(series.MarkerStyleCircle)
    series.SetUniqueColor()
    chart = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode", f"{figure} over angle, {name}")
    chart.AddAndObservePlotSeriesNodeID(series.GetID())
    chart.SetTitle(f"{figure} over the primary angle")
    chart.SetXAxisTitle(PRIMARY)
    chart.SetYAxisTitle(figure)
    chart.SetLegendVisibility(False)
    return chart
