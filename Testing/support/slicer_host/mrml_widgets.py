"""qMRMLWidget and qMRMLNodeComboBox over slicer-core's scene."""

from __future__ import annotations

import weakref
from typing import Any

import slicer
import vtk
from PySide6.QtCore import Property, Qt, Signal
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QSizePolicy, QWidget


class qMRMLWidget(QWidget):
    """A widget that hands its scene to those connected to it in the .ui file."""

    mrmlSceneChanged = Signal(object)
    _host_signatures = {"mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged(PyObject)"}

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._scene: Any = None

    def mrmlScene(self) -> Any:
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)


class Observers:
    """Observers of VTK objects that hold their owner weakly and can be taken away at once."""

    _all: weakref.WeakSet[Observers] = weakref.WeakSet()

    def __init__(self) -> None:
        self._tags: list[tuple[Any, int]] = []
        self._all.add(self)

    @classmethod
    def count(cls, target: Any) -> int:
        """How many observers widgets of the host have on an object."""
        return sum(observed is target for one in cls._all for observed, _ in one._tags)

    def add(self, target: Any, event: Any, method: Any) -> None:
        reference = weakref.WeakMethod(method)

        def call(caller: Any, event: str, *data: Any) -> None:
            alive = reference()
            if alive is not None:
                alive(caller, event, *data)

        if target.IsA("vtkMRMLScene"):
            call.CallDataType = vtk.VTK_OBJECT  # type: ignore[attr-defined]
        self._tags.append((target, target.AddObserver(event, call)))

    def drop(self, target: Any = None) -> None:
        kept = []
        for observed, tag in self._tags:
            if target is None or observed is target:
                observed.RemoveObserver(tag)
            else:
                kept.append((observed, tag))
        self._tags = kept


class qMRMLNodeComboBox(QWidget):
    """A combo box of the nodes of a scene that have the right type and attributes and are not hidden."""

    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)
    nodeActivated = Signal(object)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeAddedByUserAction = Signal(object)
    nodeAboutToBeRemoved = Signal(object)
    currentNodeRenamed = Signal(str)
    nodeAboutToBeEdited = Signal(object)
    _currentNodeIsValid = Signal(bool)
    _host_signatures = {
        "currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged(PyObject)",
        "currentNodeChanged(bool)": "_currentNodeIsValid(bool)",
        "nodeActivated(vtkMRMLNode*)": "nodeActivated(PyObject)",
        "nodeAdded(vtkMRMLNode*)": "nodeAdded(PyObject)",
        "nodeAddedByUser(vtkMRMLNode*)": "nodeAddedByUser(PyObject)",
        "nodeAddedByUserAction(vtkMRMLNode*)": "nodeAddedByUserAction(PyObject)",
        "nodeAboutToBeRemoved(vtkMRMLNode*)": "nodeAboutToBeRemoved(PyObject)",
        "nodeAboutToBeEdited(vtkMRMLNode*)": "nodeAboutToBeEdited(PyObject)",
    }

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._scene: Any = None
        self._requested_id = ""
        self._types: list[str] = []
        self._hidden_types: list[str] = []
        self._attributes: dict[str, tuple[str, Any]] = {}
        self._base_names: dict[str, str] = {}
        self._flags = {
            "showHidden": False,
            "showChildNodeTypes": True,
            "noneEnabled": False,
            "addEnabled": True,
            "removeEnabled": True,
            "editEnabled": False,
            "renameEnabled": False,
            "selectNodeUponCreation": True,
        }
        self._none_display = "None"
        self._nodes: list[str] = []
        self._names: dict[str, str] = {}
        self._current = ""
        self._combo = QComboBox(self)
        self._combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self._combo.activated.connect(self._activate)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        self.setEnabled(False)
        self._observers = observers = Observers()
        self.destroyed.connect(lambda: observers.drop())

    # The scene.

    def mrmlScene(self) -> Any:
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:
        if scene is self._scene:
            return
        had_nodes, before = bool(self._nodes), self._current
        self._observers.drop()
        self._scene = scene
        self._nodes = []
        if scene is not None:
            self._observers.add(scene, slicer.vtkMRMLScene.NodeAddedEvent, self._on_node_added)
            self._observers.add(scene, slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, self._on_node_leaving)
            self._observers.add(scene, slicer.vtkMRMLScene.NodeRemovedEvent, self._on_node_removed)
            for index in range(scene.GetNumberOfNodes()):
                self._watch(scene.GetNthNode(index))
            self._nodes = self._wanted()
        # Qt leaves the row of the scene itself current, which becomes the first row below it.
        first = self._nodes[0] if self._nodes and not self._flags["noneEnabled"] else ""
        self._select(before if had_nodes else self._requested_id or first, refill=True)
        self._requested_id = ""
        self.setEnabled(scene is not None)

    def _watch(self, node: Any) -> None:
        if not self._types or any(node.IsA(kind) for kind in self._types):
            self._observers.add(node, vtk.vtkCommand.ModifiedEvent, self._on_node_modified)

    def _on_node_added(self, scene: Any, event: str, node: Any) -> None:
        self._watch(node)
        self._update()
        if node.GetID() in self._nodes:
            self.nodeAdded.emit(node)

    def _on_node_leaving(self, scene: Any, event: str, node: Any) -> None:
        if node.GetID() in self._nodes:
            self.nodeAboutToBeRemoved.emit(node)

    def _on_node_removed(self, scene: Any, event: str, node: Any) -> None:
        self._observers.drop(node)
        self._update()

    def _on_node_modified(self, node: Any, event: str) -> None:
        if self._wanted() != self._nodes:
            self._update()
        elif node.GetID() in self._names and self._names[node.GetID()] != (node.GetName() or ""):
            self._fill()
            if node.GetID() == self._current:
                # Qt tells of a changed text of the current row as of a changed row.
                self._emit()

    def _accepts(self, node: Any) -> bool:
        if node.GetHideFromEditors() and not self._flags["showHidden"]:
            return False
        if not self._types:
            return True
        for kind in self._types:
            if not node.IsA(kind) or (not self._flags["showChildNodeTypes"] and node.GetClassName() != kind):
                continue
            if self._flags["showChildNodeTypes"] and any(node.IsA(hidden) for hidden in self._hidden_types):
                return False
            if kind in self._attributes:
                name, value = self._attributes[kind]
                held = node.GetAttribute(name)
                return held is not None and (value is None or held == str(value))
            return True
        return False

    def _wanted(self) -> list[str]:
        if self._scene is None:
            return []
        nodes = (self._scene.GetNthNode(index) for index in range(self._scene.GetNumberOfNodes()))
        return [node.GetID() for node in nodes if node.GetID() and self._accepts(node)]

    def _update(self) -> None:
        """Follow the scene, with the choice that Qt's combo box and its model make when rows come and go."""
        before, self._nodes = self._nodes, self._wanted()
        if self._nodes == before:
            return
        if self._current and self._current not in self._nodes:
            self._select(
                self._after_removal(before.index(self._current) if self._current in before else 0), refill=True
            )
        elif not self._current and not before and len(self._nodes) == 1 and not self._has_other_rows():
            self._select(self._nodes[0], refill=True)
        else:
            self._fill()

    def _has_other_rows(self) -> bool:
        actions = ("addEnabled", "removeEnabled", "editEnabled", "renameEnabled")
        return self._flags["noneEnabled"] or any(self._flags[action] for action in actions)

    def _after_removal(self, position: int) -> str:
        row = position + self._flags["noneEnabled"]
        if row == 0 or not self._nodes:
            return ""
        if position < len(self._nodes):
            return self._nodes[position]
        # The row that moved up is an action, such as "Create new", instead of which the last node is chosen.
        return self._nodes[-1]

    # The choice.

    def _select(self, identifier: str, refill: bool = False) -> None:
        identifier = identifier if identifier in self._nodes else ""
        changed = identifier != self._current
        self._current = identifier
        if refill:
            self._fill()
        else:
            self._show_current()
        if changed:
            self._emit()

    def _emit(self) -> None:
        node = self.currentNode()
        self.currentNodeChanged.emit(node)
        self._currentNodeIsValid.emit(node is not None)
        self.currentNodeIDChanged.emit(self._current)

    def _fill(self) -> None:
        blocked = self._combo.blockSignals(True)
        self._combo.clear()
        if self._flags["noneEnabled"] and self._scene is not None:
            self._combo.addItem(self._none_display, "")
        self._names = {}
        for identifier in self._nodes:
            node = self._scene.GetNodeByID(identifier)
            self._names[identifier] = node.GetName() or ""
            self._combo.addItem(self._names[identifier], identifier)
        for text, action in self._actions():
            self._combo.addItem(text, action)
        self._combo.blockSignals(blocked)
        self._show_current()

    def _actions(self) -> list[tuple[str, tuple[str, str]]]:
        if self._scene is None:
            return []
        label = self._label(self._types[0]) if len(self._types) == 1 else "node"
        actions = []
        if self._flags["renameEnabled"]:
            actions.append((f"Rename current {label}", ("RENAME", "")))
        if self._flags["editEnabled"]:
            actions.append((f"Edit current {label}", ("EDIT", "")))
        if self._flags["addEnabled"]:
            actions += [(f"Create new {self._label(kind)}", ("CREATE", kind)) for kind in self._types]
        if self._flags["removeEnabled"]:
            actions.append((f"Delete current {label}", ("DELETE", "")))
        return actions

    def _label(self, kind: str) -> str:
        return (self._scene.GetTypeDisplayNameByClassName(kind) if self._scene is not None else "") or "node"

    def _show_current(self) -> None:
        blocked = self._combo.blockSignals(True)
        none_row = 0 if self._flags["noneEnabled"] and self._scene is not None else -1
        self._combo.setCurrentIndex(self._combo.findData(self._current) if self._current else none_row)
        self._combo.setPlaceholderText(f"Select a {self._label(self._types[0]) if self._types else 'node'}")
        self._combo.blockSignals(blocked)

    def _activate(self, row: int) -> None:
        chosen = self._combo.itemData(row, Qt.ItemDataRole.UserRole)
        if isinstance(chosen, str):
            self._select(chosen)
            self.nodeActivated.emit(self.currentNode())
            return
        self._show_current()
        action, kind = chosen
        if action == "CREATE":
            node = self.addNode(kind)
            self.setCurrentNode(node)
            self.nodeAddedByUserAction.emit(node)
        elif action == "DELETE":
            self.removeCurrentNode()
        elif action == "EDIT":
            self.nodeAboutToBeEdited.emit(self.currentNode())
        else:
            raise RuntimeError("the test host has no dialog to rename a node")

    def currentNode(self) -> Any:
        return self._scene.GetNodeByID(self._current) if self._scene is not None and self._current else None

    def setCurrentNode(self, node: Any) -> None:
        if isinstance(node, str):
            raise TypeError("setCurrentNode takes a node; setCurrentNodeID takes its ID")
        self.setCurrentNodeID((node.GetID() or "") if node is not None else "")

    def setCurrentNodeID(self, identifier: str) -> None:
        if self._scene is None:
            self._requested_id = identifier
        self._select(identifier)

    def setCurrentNodeIndex(self, index: int) -> None:
        self._select(self._nodes[index] if 0 <= index < len(self._nodes) else "")

    def nodeCount(self) -> int:
        return len(self._nodes)

    def nodeFromIndex(self, index: int) -> Any:
        return self._scene.GetNodeByID(self._nodes[index]) if 0 <= index < len(self._nodes) else None

    def addNode(self, kind: str | None = None) -> Any:
        kind = kind or (self._types[0] if self._types else "")
        if kind not in self._types:
            raise RuntimeError(f"addNode({kind!r}): the combo box allows {self._types}")
        node = self._scene.CreateNodeByClass(kind)
        node.UnRegister(None)
        name = self._base_names.get(kind) or self._label(kind)
        node.SetName(self._scene.GetUniqueNameByString(name))
        for attribute, value in self._attributes.values():
            node.SetAttribute(attribute, "" if value is None else str(value))
        self._scene.AddNode(node)
        if self._flags["selectNodeUponCreation"]:
            self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def removeCurrentNode(self) -> None:
        self._scene.RemoveNode(self.currentNode())

    def addAttribute(self, kind: str, name: str, value: Any = None) -> None:
        self._attributes[kind] = (name, value)
        self._update()

    def removeAttribute(self, kind: str, name: str) -> None:
        self._attributes.pop(kind, None)
        self._update()

    # Properties.

    def _set_types(self, types: Any) -> None:
        self._types = [kind for kind in types if kind]
        if self._scene is not None:
            self._rewatch()
            self._update()
            self._fill()

    def _rewatch(self) -> None:
        scene, nodes = self._scene, self._scene.GetNumberOfNodes()
        for index in range(nodes):
            self._observers.drop(scene.GetNthNode(index))
            self._watch(scene.GetNthNode(index))

    def _set_hidden_types(self, types: Any) -> None:
        self._hidden_types = list(types)
        self._update()

    def _set_base_name(self, name: str) -> None:
        if not self._types:
            raise RuntimeError("baseName was set before nodeTypes, and Slicer would drop it")
        self._base_names.update(dict.fromkeys(self._types, name))

    def _set_none_display(self, text: str) -> None:
        self._none_display = text
        self._fill()

    def _set_flag(self, name: str, value: bool) -> None:
        if self._flags[name] == bool(value):
            return
        self._flags[name] = bool(value)
        self._update()
        self._fill()

    @staticmethod
    def _flag(name: str) -> Any:
        return Property(bool, lambda self: self._flags[name], lambda self, value: self._set_flag(name, value))

    nodeTypes = Property("QStringList", lambda self: list(self._types), _set_types)
    hideChildNodeTypes = Property("QStringList", lambda self: list(self._hidden_types), _set_hidden_types)
    currentNodeID = Property(str, lambda self: self._current, setCurrentNodeID, notify=currentNodeIDChanged)
    baseName = Property(
        str, lambda self: self._base_names.get(self._types[0] if self._types else "", ""), _set_base_name
    )
    noneDisplay = Property(str, lambda self: self._none_display, _set_none_display)
    showHidden = _flag("showHidden")
    showChildNodeTypes = _flag("showChildNodeTypes")
    noneEnabled = _flag("noneEnabled")
    addEnabled = _flag("addEnabled")
    removeEnabled = _flag("removeEnabled")
    editEnabled = _flag("editEnabled")
    renameEnabled = _flag("renameEnabled")
    selectNodeUponCreation = _flag("selectNodeUponCreation")
