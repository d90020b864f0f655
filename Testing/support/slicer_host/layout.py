"""`slicer.app.layoutManager()`: the layout node's description made into widgets."""

from __future__ import annotations

from typing import Any

import slicer
import vtk
from PySide6.QtCore import Property, QObject, Qt, Signal
from PySide6.QtWidgets import QGridLayout, QSplitter, QTabWidget, QVBoxLayout, QWidget

from .mrml_widgets import Observers
from .views import VIEW_WIDGETS, VtkView, qMRMLPlotWidget, qMRMLSliceWidget, qMRMLTableWidget, qMRMLThreeDWidget


class LayoutManager(QObject):
    """The views of the current layout, and those of earlier layouts, which stay."""

    layoutChanged = Signal(int)

    def __init__(self, logic: Any) -> None:
        super().__init__()
        self._logic = logic
        for setter in (logic.SetSliceLogics, logic.SetViewLogics):
            setter(vtk.vtkCollection())
        self._viewport = QWidget()
        self._viewport.resize(880, 880)
        frame = QVBoxLayout(self._viewport)
        frame.setContentsMargins(0, 0, 0, 0)
        self._widgets: dict[str, Any] = {}
        self._content: QWidget | None = None
        self._shown = ""
        self._arrangement = -1
        self._layout_logic = slicer.vtkMRMLLayoutLogic()
        self._layout_logic.SetMRMLApplicationLogic(logic)
        self._layout_logic.SetMRMLScene(slicer.mrmlScene)
        node = self._layout_logic.GetLayoutNode()
        self._observers = Observers()
        self._observers.add(node, vtk.vtkCommand.ModifiedEvent, self._on_node_modified)
        for event in (slicer.vtkMRMLScene.EndBatchProcessEvent, slicer.vtkMRMLScene.EndCloseEvent):
            self._observers.add(slicer.mrmlScene, event, self._on_scene_done)
        node.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)

    # The layout.

    def _on_node_modified(self, node: Any, event: str) -> None:
        if not slicer.mrmlScene.IsBatchProcessing():
            self._follow()

    def _on_scene_done(self, scene: Any, event: str, data: Any = None) -> None:
        self._follow()

    def _follow(self) -> None:
        node = self._layout_logic.GetLayoutNode()
        description = node.GetCurrentLayoutDescription() or ""
        if description != self._shown and node.GetLayoutRootElement() is not None:
            self._shown = description
            self._build(node.GetLayoutRootElement())
        if node.GetViewArrangement() != self._arrangement:
            self._arrangement = node.GetViewArrangement()
            self.layoutChanged.emit(self._arrangement)

    def _build(self, root: Any) -> None:
        for widget in self._widgets.values():
            widget.setParent(None)
        old, self._content = self._content, self._made(root)
        self._viewport.layout().addWidget(self._content)
        if old is not None:
            old.deleteLater()
        self._settle()

    def _settle(self) -> None:
        """Give hidden views the size that they have when shown, on which fitting a slice depends."""
        window = self._viewport.window()
        if window is self._viewport or window.isVisible():
            return
        window.setAttribute(Qt.WidgetAttribute.WA_DontShowOnScreen)
        window.setUpdatesEnabled(False)
        window.show()
        window.hide()
        window.setUpdatesEnabled(True)
        window.setAttribute(Qt.WidgetAttribute.WA_DontShowOnScreen, False)

    def _made(self, element: Any) -> QWidget:
        if element.GetName() == "view":
            widget = self._widget(self._layout_logic.GetViewFromElement(element))
            widget.show()
            return widget
        if element.GetName() != "layout":
            raise RuntimeError(f"a layout holds layouts and views, not <{element.GetName()}>")
        items = [element.GetNestedElement(index) for index in range(element.GetNumberOfNestedElements())]
        parts = [(item, self._made(item.GetNestedElement(0))) for item in items]
        kind = element.GetAttribute("type") or "horizontal"
        if kind == "tab":
            tabs = QTabWidget()
            for item, part in parts:
                tabs.addTab(part, item.GetAttribute("name") or "")
            return tabs
        if kind == "grid":
            return self._grid(parts)
        if kind not in ("horizontal", "vertical"):
            raise RuntimeError(f"a layout is horizontal, vertical, grid or tab, not '{kind}'")
        splitter = QSplitter(Qt.Orientation.Horizontal if kind == "horizontal" else Qt.Orientation.Vertical)
        splitter.setHandleWidth(3)
        for _, part in parts:
            splitter.addWidget(part)
        splitter.setSizes([int(item.GetAttribute("splitSize") or 500) for item, _ in parts])
        return splitter

    @staticmethod
    def _grid(parts: list[tuple[Any, QWidget]]) -> QWidget:
        holder = QWidget()
        grid = QGridLayout(holder)
        grid.setContentsMargins(0, 0, 0, 0)
        for item, part in parts:
            places = (item.GetAttribute(name) for name in ("row", "column", "rowspan", "colspan"))
            row, column, rows, columns = (
                int(place or default) for place, default in zip(places, (0, 0, 1, 1), strict=True)
            )
            grid.addWidget(part, row, column, rows, columns)
        return holder

    def _widget(self, node: Any) -> Any:
        if node is None:
            raise RuntimeError("the layout names a view that the layout logic could not make")
        if node.GetID() not in self._widgets:
            self._widgets[node.GetID()] = VIEW_WIDGETS[node.GetClassName()](node, self._logic)
        return self._widgets[node.GetID()]

    def setLayout(self, layout: int) -> None:
        node = self._layout_logic.GetLayoutNode()
        if not node.IsLayoutDescription(layout):
            layout = slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView
        node.RemoveAllMaximizedViewNodes()
        node.SetViewArrangement(layout)

    # The views.

    def _of(self, kind: Any) -> list[Any]:
        return [widget for widget in self._widgets.values() if isinstance(widget, kind)]

    def layoutLogic(self) -> Any:
        return self._layout_logic

    def viewport(self) -> Any:
        return self._viewport

    def mrmlScene(self) -> Any:
        return slicer.mrmlScene

    def sliceViewNames(self) -> list[str]:
        return [widget.mrmlSliceNode().GetLayoutName() for widget in self._of(qMRMLSliceWidget)]

    def sliceWidget(self, name: str) -> Any:
        """The widget of a view, or None as in Slicer for a name that no layout has had yet."""
        found = (one for one in self._of(qMRMLSliceWidget) if one.mrmlSliceNode().GetLayoutName() == name)
        return next(found, None)

    def mrmlSliceLogics(self) -> Any:
        return self._logic.GetSliceLogics()

    def _nth(self, kind: Any, index: int) -> Any:
        widgets = self._of(kind)
        return widgets[index] if 0 <= index < len(widgets) else None

    def threeDWidget(self, index: int) -> Any:
        return self._nth(qMRMLThreeDWidget, index)

    def plotWidget(self, index: int) -> Any:
        return self._nth(qMRMLPlotWidget, index)

    def tableWidget(self, index: int) -> Any:
        return self._nth(qMRMLTableWidget, index)

    def resetThreeDViews(self) -> None:
        for widget in self._of(qMRMLThreeDWidget):
            widget.threeDView().resetFocalPoint()
            widget.threeDView().resetCamera()

    def resetSliceViews(self) -> None:
        for widget in self._of(qMRMLSliceWidget):
            widget.sliceController().fitSliceToBackground()

    def pauseRender(self) -> None:
        VtkView._paused += 1

    def resumeRender(self) -> None:
        VtkView._paused -= 1
        if not VtkView._paused:
            for widget in self._widgets.values():
                widget.update()

    def _finalize(self) -> None:
        VtkView._paused = 0
        self._observers.drop()
        for widget in self._widgets.values():
            widget._finalize()
            widget.setParent(None)
            widget.deleteLater()
        self._widgets.clear()
        self._layout_logic.SetMRMLScene(None)

    layout = Property(
        int, lambda self: self._layout_logic.GetLayoutNode().GetViewArrangement(), setLayout, notify=layoutChanged
    )
    threeDViewCount = Property(int, lambda self: len(self._of(qMRMLThreeDWidget)))
    plotViewCount = Property(int, lambda self: len(self._of(qMRMLPlotWidget)))
    tableViewCount = Property(int, lambda self: len(self._of(qMRMLTableWidget)))
