"""The views: slices and 3D by slicer-core's own displayable managers, drawn off screen and shown as images.

A view draws when Qt paints it and something has changed since, or at once by `forceRender`.
"""

from __future__ import annotations

from typing import Any

import slicer
import vtk
from PySide6.QtCore import Property
from PySide6.QtGui import QColor, QImage, QPainter
from PySide6.QtWidgets import QHBoxLayout, QLabel, QTableWidget, QTableWidgetItem, QVBoxLayout, QWidget
from vtkmodules.util.numpy_support import vtk_to_numpy

from .mrml_widgets import Observers

_SLICE_MANAGERS = (
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLVolumeGlyphSliceDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLColorLegendDisplayableManager",
)
_THREE_D_MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLThreeDReformatDisplayableManager",
    "vtkMRMLCrosshairDisplayableManager3D",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager3D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLVolumeRenderingDisplayableManager",
    "vtkMRMLColorLegendDisplayableManager",
)


class VtkView(QWidget):
    """A render window off screen, and its last image on the screen: ctkVTKAbstractView."""

    _paused = 0

    def __init__(self) -> None:
        super().__init__()
        self._renderer = vtk.vtkRenderer()
        self._window = vtk.vtkRenderWindow()
        self._window.SetShowWindow(False)
        self._window.SetOffScreenRendering(1)
        self._window.SetMultiSamples(0)
        self._window.AddRenderer(self._renderer)
        self._interactor = vtk.vtkGenericRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        self._interactor.Initialize()
        self._corner = vtk.vtkCornerAnnotation()
        self._corner.SetMaximumLineHeight(0.07)
        self._renderer.AddViewProp(self._corner)
        self._image = QImage()
        self._dirty = True
        self._observers = Observers()

    def renderWindow(self) -> Any:
        return self._window

    def interactor(self) -> Any:
        return self._interactor

    def cornerAnnotation(self) -> Any:
        return self._corner

    def scheduleRender(self) -> None:
        self._dirty = True
        if not VtkView._paused:
            self.update()

    def forceRender(self) -> None:
        self._dirty = True
        self._render()
        self.update()

    def _on_changed(self, caller: Any, event: str) -> None:
        self.scheduleRender()

    def _before_render(self) -> None:
        pass

    def _render(self) -> None:
        width, height = max(self.width(), 1), max(self.height(), 1)
        if self._window.GetSize() != (width, height):
            self._window.SetSize(width, height)
            self._interactor.SetSize(width, height)
        self._before_render()
        self._window.Render()
        pixels = vtk.vtkUnsignedCharArray()
        self._window.GetRGBACharPixelData(0, 0, width - 1, height - 1, 0, pixels, 0)
        rows = vtk_to_numpy(pixels).reshape(height, width, 4)[::-1].copy()
        # What is transparent in the window is opaque on a screen.
        self._image = QImage(rows.data, width, height, 4 * width, QImage.Format.Format_RGBX8888).copy()
        self._dirty = False

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        self.scheduleRender()

    def paintEvent(self, event: Any) -> None:
        if self._dirty:
            self._render()
        QPainter(self).drawImage(0, 0, self._image)

    def _finalize(self) -> None:
        self._observers.drop()
        self._window.Finalize()


class _ManagedView(VtkView):
    """A view whose content comes from displayable managers."""

    def __init__(self, factory: Any, managers: tuple[str, ...], logic: Any) -> None:
        super().__init__()
        factory.SetMRMLApplicationLogic(logic)
        for name in managers:
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        self._group = slicer.vtkMRMLDisplayableManagerGroup()
        self._group.SetRenderer(self._renderer)
        self._group.Initialize(factory, self._renderer)
        self._observers.add(self._group, vtk.vtkCommand.UpdateEvent, self._on_changed)

    def _finalize(self) -> None:
        self._group.SetMRMLDisplayableNode(None)
        super()._finalize()


class qMRMLSliceView(_ManagedView):
    """One slice: the image that the slice logic computes, and what displayable managers draw over it."""

    def __init__(self, node: Any, slice_logic: Any, logic: Any) -> None:
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        super().__init__(factory, _SLICE_MANAGERS, logic)
        self._node, self._logic = node, slice_logic
        self._renderer.GetActiveCamera().ParallelProjectionOn()
        # The slice logic has applied window and level: its colors go to the screen as they are.
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._actor = vtk.vtkActor2D()
        self._actor.SetMapper(self._mapper)
        self._actor.GetProperty().SetDisplayLocationToBackground()
        self._actor.SetVisibility(False)
        self._renderer.AddViewProp(self._actor)
        self._group.SetMRMLDisplayableNode(node)
        self._observers.add(slice_logic, vtk.vtkCommand.ModifiedEvent, self._on_changed)
        self._observers.add(node, vtk.vtkCommand.ModifiedEvent, self._on_changed)

    def mrmlSliceNode(self) -> Any:
        return self._node

    def _before_render(self) -> None:
        connection = self._logic.GetImageDataConnection()
        self._actor.SetVisibility(connection is not None)
        self._mapper.SetInputConnection(connection)

    def resizeEvent(self, event: Any) -> None:
        self._logic.ResizeSliceNode(max(self.width(), 1), max(self.height(), 1))
        super().resizeEvent(event)


class qMRMLSliceController(QWidget):
    """The bar above a slice view: its letter in its color, and where the slice is."""

    def __init__(self, node: Any, slice_logic: Any) -> None:
        super().__init__()
        self._node, self._logic = node, slice_logic
        self._label = _bar(self, node.GetLayoutLabel(), node.GetLayoutColor())
        self._observers = Observers()
        self._observers.add(node, vtk.vtkCommand.ModifiedEvent, self._on_node_modified)
        self._on_node_modified(node, "")

    def _on_node_modified(self, node: Any, event: str) -> None:
        text = f"{node.GetLayoutLabel()}   {node.GetOrientation()}   {self._logic.GetSliceOffset():.1f} mm"
        self._label.setText(text)

    def sliceLogic(self) -> Any:
        return self._logic

    def mrmlSliceNode(self) -> Any:
        return self._node

    def fitSliceToBackground(self) -> None:
        self._logic.FitSliceToBackground()

    def setSliceVisible(self, visible: bool) -> None:
        self._node.SetSliceVisible(bool(visible))

    def setSliceLink(self, linked: bool) -> None:
        scene = self._node.GetScene()
        for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode")):
            scene.GetNthNodeByClass(index, "vtkMRMLSliceCompositeNode").SetLinkedControl(bool(linked))

    def setSliceOffsetValue(self, offset: float) -> None:
        self._logic.SetSliceOffset(offset)


def _bar(widget: QWidget, text: str, color: Any) -> QLabel:
    """A strip in a view's color with a text on it."""
    label = QLabel(text)
    background = QColor.fromRgbF(*color)
    ink = "black" if background.lightness() > 110 else "white"
    label.setStyleSheet(f"background: {background.name()}; color: {ink}; padding: 1px 6px")
    label.setFixedHeight(20)
    layout = QHBoxLayout(widget)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.addWidget(label)
    return label


class _ViewWidget(QWidget):
    """A controller bar and a view below it."""

    def __init__(self, controller: QWidget, view: QWidget) -> None:
        super().__init__()
        self._controller, self._view = controller, view
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(controller)
        layout.addWidget(view, 1)

    def _finalize(self) -> None:
        for part in (self._controller, self._view):
            if hasattr(part, "_finalize"):
                part._finalize()


class qMRMLSliceWidget(_ViewWidget):
    """A slice view with its logic."""

    def __init__(self, node: Any, logic: Any) -> None:
        self._node = node
        self._logic = slicer.vtkMRMLSliceLogic()
        self._logic.SetMRMLApplicationLogic(logic)
        self._logic.SetMRMLScene(node.GetScene())
        self._logic.SetSliceNode(node)
        logic.GetSliceLogics().AddItem(self._logic)
        super().__init__(qMRMLSliceController(node, self._logic), qMRMLSliceView(node, self._logic, logic))

    def sliceController(self) -> Any:
        return self._controller

    def sliceView(self) -> Any:
        return self._view

    def sliceLogic(self) -> Any:
        return self._logic

    def mrmlSliceNode(self) -> Any:
        return self._node

    def mrmlSliceCompositeNode(self) -> Any:
        return self._logic.GetSliceCompositeNode()

    def fitSliceToBackground(self) -> None:
        self._logic.FitSliceToBackground()

    def _finalize(self) -> None:
        self._controller._observers.drop()
        super()._finalize()
        self._logic.SetMRMLScene(None)

    sliceViewName = Property(str, lambda self: self._node.GetLayoutName())


class qMRMLThreeDView(_ManagedView):
    """The 3D view."""

    def __init__(self, node: Any, logic: Any) -> None:
        factory = slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance()
        super().__init__(factory, _THREE_D_MANAGERS, logic)
        self._node = node
        self._group.SetMRMLDisplayableNode(node)
        self._renderer.GradientBackgroundOn()
        self._observers.add(node, vtk.vtkCommand.ModifiedEvent, self._on_changed)

    def mrmlViewNode(self) -> Any:
        return self._node

    def cameraNode(self) -> Any:
        return slicer.modules.cameras.logic().GetViewActiveCameraNode(self._node)

    def resetFocalPoint(self) -> None:
        """Look at the middle of what is shown, the box and its labels left out."""
        shown = self._node.GetBoxVisible(), self._node.GetAxisLabelsVisible()
        self._show_box(False, False)
        bounds = [0.0] * 6
        self._renderer.ComputeVisiblePropBounds(bounds)
        self._show_box(*shown)
        if bounds[0] <= bounds[1] and self._renderer.IsActiveCameraCreated():
            camera = self._renderer.GetActiveCamera()
            camera.SetFocalPoint(*((bounds[2 * axis] + bounds[2 * axis + 1]) / 2 for axis in range(3)))
            camera.OrthogonalizeViewUp()
            self._renderer.ResetCameraClippingRange()
        self._node.InvokeEvent(slicer.vtkMRMLViewNode.ResetFocalPointRequestedEvent)
        self.scheduleRender()

    def resetCamera(self) -> None:
        self._renderer.ResetCamera()
        self.scheduleRender()

    def _show_box(self, box: Any, labels: Any) -> None:
        with slicer.util.NodeModify(self._node):
            self._node.SetBoxVisible(box)
            self._node.SetAxisLabelsVisible(labels)

    def _before_render(self) -> None:
        self._renderer.SetBackground(self._node.GetBackgroundColor())
        self._renderer.SetBackground2(self._node.GetBackgroundColor2())
        self._renderer.ResetCameraClippingRange()


class qMRMLThreeDWidget(_ViewWidget):
    """The 3D view with its bar."""

    def __init__(self, node: Any, logic: Any) -> None:
        self._node = node
        self._logic = slicer.vtkMRMLViewLogic()
        self._logic.SetMRMLApplicationLogic(logic)
        self._logic.SetMRMLScene(node.GetScene())
        self._logic.SetName(node.GetLayoutName())
        logic.GetViewLogics().AddItem(self._logic)
        controller = QWidget()
        _bar(controller, node.GetLayoutLabel() or "3D", node.GetLayoutColor())
        super().__init__(controller, qMRMLThreeDView(node, logic))

    def threeDView(self) -> Any:
        return self._view

    def mrmlViewNode(self) -> Any:
        return self._node

    def _finalize(self) -> None:
        super()._finalize()
        self._logic.SetMRMLScene(None)


class qMRMLPlotView(VtkView):
    """The chart of a plot view node."""

    def __init__(self, node: Any) -> None:
        super().__init__()
        self._node = node
        self._chart = vtk.vtkChartXY()
        self._actor = vtk.vtkContextActor()
        self._actor.GetScene().AddItem(self._chart)
        self._renderer.SetBackground(1, 1, 1)
        self._renderer.AddViewProp(self._actor)
        self._actor.GetScene().SetRenderer(self._renderer)
        self._observers.add(node, vtk.vtkCommand.ModifiedEvent, self._on_changed)
        self._observers.add(node, slicer.vtkMRMLNode.ReferencedNodeModifiedEvent, self._on_changed)
        self._observers.add(node, slicer.vtkMRMLPlotViewNode.PlotChartNodeChangedEvent, self._on_changed)

    def mrmlPlotViewNode(self) -> Any:
        return self._node

    def chart(self) -> Any:
        return self._chart

    def _before_render(self) -> None:
        self._chart.ClearPlots()
        node = self._node.GetPlotChartNode()
        self._chart.SetVisible(node is not None)
        if node is None:
            return
        self._chart.SetTitle(node.GetTitle() if node.GetTitleVisibility() and node.GetTitle() else "")
        self._chart.SetShowLegend(bool(node.GetLegendVisibility()))
        for axis, title, automatic, bounds in (
            (vtk.vtkAxis.BOTTOM, node.GetXAxisTitle(), node.GetXAxisRangeAuto(), node.GetXAxisRange()),
            (vtk.vtkAxis.LEFT, node.GetYAxisTitle(), node.GetYAxisRangeAuto(), node.GetYAxisRange()),
        ):
            self._chart.GetAxis(axis).SetTitle(title or "")
            self._chart.GetAxis(axis).SetBehavior(vtk.vtkAxis.AUTO if automatic else vtk.vtkAxis.FIXED)
            if not automatic:
                self._chart.GetAxis(axis).SetRange(*bounds)
        for index in range(node.GetNumberOfPlotSeriesNodes()):
            self._add(node.GetNthPlotSeriesNode(index))
        self._chart.RecalculateBounds()

    def _add(self, series: Any) -> None:
        table = series.GetTableNode() if series is not None else None
        columns = (series.GetXColumnName(), series.GetYColumnName()) if series is not None else ()
        if table is None or not all(name and table.GetTable().GetColumnByName(name) for name in columns):
            return
        bars = series.GetPlotType() in (series.PlotTypeBar, series.PlotTypeScatterBar)
        plot = self._chart.AddPlot(vtk.vtkChart.BAR if bars else vtk.vtkChart.LINE)
        plot.SetInputData(table.GetTable(), *columns)
        plot.SetLabel(series.GetName())
        plot.SetColorF(*series.GetColor())
        plot.SetWidth(series.GetLineWidth())
        if not bars:
            plot.SetMarkerStyle(series.GetMarkerStyle())
            plot.SetMarkerSize(series.GetMarkerSize())
            plot.GetPen().SetLineType(series.GetLineStyle())


class qMRMLPlotWidget(_ViewWidget):
    """A plot with its bar."""

    def __init__(self, node: Any, logic: Any) -> None:
        self._node = node
        controller = QWidget()
        _bar(controller, node.GetLayoutLabel() or "P", node.GetLayoutColor())
        super().__init__(controller, qMRMLPlotView(node))

    def plotView(self) -> Any:
        return self._view

    def mrmlPlotViewNode(self) -> Any:
        return self._node


class qMRMLTableView(QTableWidget):
    """The table of a table view node, as text."""

    def __init__(self, node: Any) -> None:
        super().__init__()
        self._node = node
        self._shown: Any = None
        self._observers = Observers()
        for event in (vtk.vtkCommand.ModifiedEvent, slicer.vtkMRMLNode.ReferencedNodeModifiedEvent):
            self._observers.add(node, event, self._on_changed)
        self._on_changed(node, "")

    def mrmlTableNode(self) -> Any:
        return self._node.GetTableNode()

    def mrmlTableViewNode(self) -> Any:
        return self._node

    def _on_changed(self, caller: Any, event: str) -> None:
        node = self._node.GetTableNode()
        if node is not self._shown:
            if self._shown is not None:
                self._observers.drop(self._shown)
            self._shown = node
            if node is not None:
                self._observers.add(node, vtk.vtkCommand.ModifiedEvent, self._on_changed)
        table = node.GetTable() if node is not None else vtk.vtkTable()
        self.setColumnCount(table.GetNumberOfColumns())
        self.setRowCount(table.GetNumberOfRows())
        self.setHorizontalHeaderLabels(
            [table.GetColumnName(index) or "" for index in range(table.GetNumberOfColumns())]
        )
        for row in range(table.GetNumberOfRows()):
            for column in range(table.GetNumberOfColumns()):
                self.setItem(row, column, QTableWidgetItem(table.GetValue(row, column).ToString()))
        self.resizeColumnsToContents()

    def _finalize(self) -> None:
        self._observers.drop()


class qMRMLTableWidget(_ViewWidget):
    """A table with its bar."""

    def __init__(self, node: Any, logic: Any) -> None:
        self._node = node
        controller = QWidget()
        _bar(controller, node.GetLayoutLabel() or "T", node.GetLayoutColor())
        super().__init__(controller, qMRMLTableView(node))

    def tableView(self) -> Any:
        return self._view

    def mrmlTableViewNode(self) -> Any:
        return self._node


VIEW_WIDGETS: dict[str, Any] = {
    "vtkMRMLSliceNode": qMRMLSliceWidget,
    "vtkMRMLViewNode": qMRMLThreeDWidget,
    "vtkMRMLPlotViewNode": qMRMLPlotWidget,
    "vtkMRMLTableViewNode": qMRMLTableWidget,
}
