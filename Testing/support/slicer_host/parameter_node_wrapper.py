"""`slicer.parameterNodeWrapper` for fields of bool, int, float, str and MRML node classes, each possibly with None.

Values are stored in the node as Slicer stores them, so that a scene saved here opens there.
"""

from __future__ import annotations

import logging
import types
import typing
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any

import slicer
import vtk
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QLabel,
    QLineEdit,
    QPushButton,
    QSlider,
    QSpinBox,
    QWidget,
)

from .ctk_widgets import ctkSliderWidget
from .mrml_widgets import qMRMLNodeComboBox
from .proxies import guarded, unwrap

PROPERTY_NAME = "SlicerParameterName"


class Default:
    """Annotation: the value of a field that has never been set."""

    def __init__(self, value: Any = None, *, generator: Callable[[], Any] | None = None) -> None:
        self._value = value
        self._generator = generator

    @property
    def value(self) -> Any:
        return self._generator() if self._generator else self._value


class Validator:
    """Annotation: `validate` raises ValueError or TypeError on a value that the field must not have."""

    def validate(self, value: Any) -> None:
        raise ValueError("a validator says what it validates")


@dataclass
class WithinRange(Validator):
    minimum: float
    maximum: float

    def validate(self, value: Any) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within range [{self.minimum}, {self.maximum}], is {value}")


@dataclass
class Minimum(Validator):
    minimum: float

    def validate(self, value: Any) -> None:
        if value < self.minimum:
            raise ValueError(f"Value must be at least {self.minimum}, is {value}")


@dataclass
class Maximum(Validator):
    maximum: float

    def validate(self, value: Any) -> None:
        if value > self.maximum:
            raise ValueError(f"Value must be at most {self.maximum}, is {value}")


@dataclass
class Choice(Validator):
    choices: Any

    def validate(self, value: Any) -> None:
        if value not in self.choices:
            raise ValueError(f"Value is {value}, but must be in one of the following: {self.choices}")


class NotNone(Validator):
    def validate(self, value: Any) -> None:
        if value is None:
            raise ValueError("Value must not be None")


@dataclass
class _IsInstance(Validator):
    kinds: Any

    def validate(self, value: Any) -> None:
        if value is not None and not isinstance(value, self.kinds):
            raise TypeError(f"Value must be of type '{self.kinds}', is type '{type(value)}' value '{value}'")


class _IsNone(Validator):
    def validate(self, value: Any) -> None:
        if value is not None:
            raise ValueError("Value must be None")


def _split(declared: Any) -> tuple[Any, list[Any]]:
    if typing.get_origin(declared) is Annotated:
        kind, *annotations = typing.get_args(declared)
        return kind, annotations
    return declared, []


def _members(kind: Any) -> tuple[Any, ...] | None:
    """The types of a union, or None for any other type."""
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else None


def _is_node(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode)


@dataclass
class _Storage:
    """How a value of one type lies in a parameter node."""

    kind: Any
    validators: list[Validator]
    default: Any

    def accepts(self, value: Any) -> bool:
        """Whether a union would hand this value here, judged by its type as Slicer's serializers do."""
        if self.kind in (int, float):
            return type(value) in (int, float)
        if _is_node(self.kind):
            return isinstance(value, slicer.vtkMRMLNode)
        return type(value) is self.kind

    def validate(self, value: Any) -> None:
        for validator in self.validators:
            validator.validate(value)

    def is_in(self, node: Any, name: str) -> bool:
        return bool(node.HasParameter(name))

    def write(self, node: Any, name: str, value: Any) -> None:
        self.validate(value)
        if _is_node(self.kind):
            node.SetParameter(name, "")
            node.SetNodeReferenceID(name, value.GetID() if value is not None else None)
        elif self.kind is type(None):
            node.SetParameter(name, "True")
        else:
            node.SetParameter(name, str(bool(value)) if self.kind is bool else str(value))

    def read(self, node: Any, name: str) -> Any:
        if _is_node(self.kind):
            return node.GetNodeReference(name)
        text = node.GetParameter(name)
        if self.kind is bool:
            return text == "True"
        return None if self.kind is type(None) else self.kind(text)

    def remove(self, node: Any, name: str) -> None:
        node.UnsetParameter(name)
        if _is_node(self.kind):
            node.RemoveNodeReferenceIDs(name)


@dataclass
class _UnionStorage:
    """Several types: each under the name of the field and its own number."""

    storages: list[_Storage]
    validators: list[Validator]

    @property
    def default(self) -> Any:
        optional = len(self.storages) == 2 and self.storages[1].kind is type(None)
        return None if optional else self.storages[0].default

    def is_in(self, node: Any, name: str) -> bool:
        return any(storage.is_in(node, f"{name}.{index}") for index, storage in enumerate(self.storages))

    def write(self, node: Any, name: str, value: Any) -> None:
        for validator in self.validators:
            validator.validate(value)
        failure: Exception = TypeError(f"Unable to write value '{value}' of type '{type(value)}'")
        for index, storage in enumerate(self.storages):
            if not storage.accepts(value):
                continue
            try:
                storage.validate(value)
            except (TypeError, ValueError) as error:
                failure = error
                continue
            with slicer.util.NodeModify(node):
                self.remove(node, name)
                storage.write(node, f"{name}.{index}", value)
            return
        raise failure

    def read(self, node: Any, name: str) -> Any:
        for index, storage in enumerate(self.storages):
            if storage.is_in(node, f"{name}.{index}"):
                return storage.read(node, f"{name}.{index}")
        raise KeyError(f"Unable to find value for name: {name}")

    def remove(self, node: Any, name: str) -> None:
        for index, storage in enumerate(self.storages):
            storage.remove(node, f"{name}.{index}")


def _storage(declared: Any) -> tuple[_Storage | _UnionStorage, list[Any]]:
    kind, annotations = _split(declared)
    validators = [one for one in annotations if isinstance(one, Validator)]
    rest = [one for one in annotations if not isinstance(one, Validator)]
    members = _members(kind)
    if members is not None:
        return _UnionStorage([typing.cast(_Storage, _storage(member)[0]) for member in members], validators), rest
    if _is_node(kind):
        return _Storage(kind, [_IsInstance(kind), *validators], None), rest
    if kind is type(None):
        return _Storage(kind, [_IsNone()], None), rest
    accepted: dict[Any, tuple[Any, Any]] = {
        bool: (bool, False),
        int: (int, 0),
        float: ((int, float), 0),
        str: (str, ""),
    }
    if kind not in accepted:
        raise RuntimeError(f"the test host has no parameter node field of type {declared}")
    kinds, default = accepted[kind]
    return _Storage(kind, [NotNone(), _IsInstance(kinds), *validators], default), rest


@dataclass
class _Field:
    name: str
    declared: Any
    storage: _Storage | _UnionStorage
    default: Default


_RESERVED = (
    "allParameters", "default", "dataType", "getValue", "setValue", "connectGui", "connectParametersToGui",
    "disconnectGui", "StartModify", "EndModify", "AddObserver", "RemoveObserver", "Modified", "parameterNode",
)  # fmt: skip


class _Wrapper:
    """What the decorator adds to a class of typed fields."""

    allParameters: dict[str, _Field]

    def __init__(self, parameterNode: Any, prefix: str | None = None) -> None:
        if parameterNode is None or prefix is not None:
            raise RuntimeError("the test host wraps a node, without a prefix")
        object.__setattr__(self, "parameterNode", parameterNode)
        object.__setattr__(self, "_connections", {})
        object.__setattr__(self, "_next_tag", 0)
        object.__setattr__(self, "_updating_gui", False)
        for one in self.allParameters.values():
            if not one.storage.is_in(parameterNode, one.name):
                one.storage.write(parameterNode, one.name, one.default.value)
        # As in Slicer, values are read when the node says that it was modified, and not when they are asked for: a
        # scene that is being loaded names nodes before they are there, and they stay None until something else changes.
        object.__setattr__(self, "_values", {})
        self._read_all()
        myself = weakref.ref(self)

        def on_modified(caller: Any, event: str) -> None:
            alive = myself()
            if alive is not None:
                alive._read_all()

        weakref.finalize(
            self, parameterNode.RemoveObserver, self.AddObserver(vtk.vtkCommand.ModifiedEvent, on_modified)
        )

    def _read_all(self) -> None:
        for name in self.allParameters:
            self._read(name)

    def _read(self, name: str) -> None:
        one = self.allParameters[name]
        if not one.storage.is_in(self.parameterNode, name):
            one.storage.write(self.parameterNode, name, one.default.value)
        self._values[name] = one.storage.read(self.parameterNode, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # Slicer would keep a misspelled field as an attribute of the wrapper, and lose it.
        self._field(name)
        self.setValue(name, value)

    def _field(self, name: str) -> _Field:
        if name not in self.allParameters:
            raise ValueError(
                f"Cannot find a param with the given name: {name}; there are {', '.join(self.allParameters)}"
            )
        return self.allParameters[name]

    def default(self, name: str) -> Default:
        return self._field(name).default

    @classmethod
    def dataType(cls, name: str) -> Any:
        return cls.allParameters[name].declared

    def getValue(self, name: str) -> Any:
        self._field(name)
        return self._values[name]

    def setValue(self, name: str, value: Any) -> None:
        # Observers that hear of the change read the new value.
        with slicer.util.NodeModify(self.parameterNode):
            self._field(name).storage.write(self.parameterNode, name, value)
            self._read(name)

    def StartModify(self) -> Any:
        return self.parameterNode.StartModify()

    def EndModify(self, wasModified: Any) -> Any:
        return self.parameterNode.EndModify(wasModified)

    def AddObserver(self, event: Any, callback: Any, priority: float = 0.0) -> int:
        return int(self.parameterNode.AddObserver(event, callback, priority))

    def RemoveObserver(self, tag: int) -> None:
        self.parameterNode.RemoveObserver(tag)

    def Modified(self) -> None:
        self.parameterNode.Modified()

    def connectGui(self, gui: Any) -> int:
        target = unwrap(gui)
        widgets = target.findChildren(QWidget) if isinstance(target, QWidget) else map(unwrap, vars(gui).values())
        named = ((widget.property(PROPERTY_NAME), widget) for widget in widgets)
        return self.connectParametersToGui({name: widget for name, widget in named if name})

    def connectParametersToGui(self, mapping: dict[str, Any]) -> int:
        for name in mapping:
            self._field(name)
        made = {name: _connector(unwrap(widget), self.dataType(name)) for name, widget in mapping.items()}
        tag, observer = self._next_tag, self.AddObserver(vtk.vtkCommand.ModifiedEvent, self._on_modified)
        object.__setattr__(self, "_next_tag", tag + 1)
        handles = []
        for name, connector in made.items():
            connector.write(self.getValue(name))
            handles += connector.connect(self._gui_callback(name, connector))
        self._connections[tag] = (made, handles, observer)
        return tag

    def disconnectGui(self, tag: int | None) -> None:
        if tag not in self._connections:
            return
        connectors, handles, observer = self._connections.pop(tag)
        for connector in connectors.values():
            connector.disconnect(handles)
        self.RemoveObserver(observer)

    def _gui_callback(self, name: str, connector: _Connector) -> Callable[[], None]:
        def changed() -> None:
            if not self._updating_gui:
                with slicer.util.NodeModify(self):
                    self.setValue(name, connector.read())

        return changed

    def _on_modified(self, caller: Any, event: str) -> None:
        if self._updating_gui:
            return
        object.__setattr__(self, "_updating_gui", True)
        try:
            with slicer.util.NodeModify(self):
                for connectors, _, _ in list(self._connections.values()):
                    for name, connector in connectors.items():
                        connector.write(self.getValue(name))
        finally:
            object.__setattr__(self, "_updating_gui", False)


def _property(name: str) -> property:
    return property(lambda self: self.getValue(name), lambda self, value: self.setValue(name, value))


def parameterNodeWrapper(cls: Any = None) -> Any:
    """Class decorator, as @parameterNodeWrapper or @parameterNodeWrapper()."""
    if cls is None:
        return parameterNodeWrapper
    fields: dict[str, _Field] = {}
    for name, declared in typing.get_type_hints(cls, include_extras=True).items():
        if name in _RESERVED:
            raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
        storage, rest = _storage(declared)
        defaults = [one for one in rest if isinstance(one, Default)]
        unused = [one for one in rest if one not in defaults]
        if hasattr(cls, name):
            default = Default(getattr(cls, name))
        else:
            default = defaults[0] if defaults else Default(storage.default)
        if unused:
            logging.warning("Unused annotations: %s", unused)
        fields[name] = _Field(name, declared, storage, default)
    for name, value in vars(_Wrapper).items():
        if name in ("__init__", "__setattr__") or not name.startswith("__"):
            setattr(cls, name, value)
    for name in fields:
        setattr(cls, name, _property(name))
    cls.allParameters = fields
    return cls


# Widgets.


@dataclass
class _Connector:
    """One widget and one field: how to read, write and hear of changes."""

    widget: Any
    signals: tuple[str, ...]
    read: Callable[[], Any]
    write: Callable[[Any], None]

    def connect(self, callback: Callable[[], None]) -> list[tuple[Any, Any]]:
        slot = guarded(callback)
        for signal in self.signals:
            getattr(self.widget, signal).connect(slot)
        return [(self.widget, slot)]

    def disconnect(self, handles: list[tuple[Any, Any]]) -> None:
        for widget, slot in handles:
            if widget is self.widget:
                for signal in self.signals:
                    getattr(widget, signal).disconnect(slot)


def _find(annotations: list[Any], kind: type) -> Any:
    return next((one for one in annotations if isinstance(one, kind)), None)


def _bounds(annotations: list[Any]) -> tuple[Any, Any]:
    within, low, high = (_find(annotations, kind) for kind in (WithinRange, Minimum, Maximum))
    if within is not None:
        return within.minimum, within.maximum
    return (low.minimum if low else None), (high.maximum if high else None)


def _connector(widget: Any, declared: Any) -> _Connector:
    """The connector that Slicer would choose. Raises RuntimeError where it would find none."""
    kind, annotations = _split(declared)
    made = _MAKERS.get(type(widget), lambda *_: None)(widget, kind, annotations)
    if made is None:
        raise RuntimeError(
            f"Unable to create GUI connector from datatype '{declared}' to widget type '{type(widget)}'."
        )
    return made


def _checkable(widget: Any, kind: Any, annotations: list[Any]) -> _Connector | None:
    if kind is not bool:
        return None
    if not widget.isCheckable():
        raise RuntimeError(f"push button '{widget.objectName()}' is connected to a bool and not checkable")
    return _Connector(widget, ("toggled",), widget.isChecked, widget.setChecked)


def _whole_number(widget: Any, kind: Any, annotations: list[Any]) -> _Connector | None:
    if kind is not int:
        return None
    low, high = _bounds(annotations)
    if isinstance(widget, QSlider) and (low is None or high is None):
        raise RuntimeError("Cannot have a connection to QSlider where the int type is unbounded.")
    widget.setMinimum(-(2**31) if low is None else low)
    widget.setMaximum(2**31 - 1 if high is None else high)
    return _Connector(widget, ("valueChanged",), widget.value, widget.setValue)


def _number(widget: Any, kind: Any, annotations: list[Any]) -> _Connector | None:
    if kind not in (int, float):
        return None
    if kind is int:
        widget.setDecimals(0)
    low, high = _bounds(annotations)
    if isinstance(widget, ctkSliderWidget) and (low is None or high is None):
        raise RuntimeError("Cannot have a connection to ctkSliderWidget where the float types is unbounded.")
    widget.setProperty("minimum", float("-inf") if low is None else low)
    widget.setProperty("maximum", float("inf") if high is None else high)
    return _Connector(
        widget, ("valueChanged",), lambda: kind(widget.property("value")), lambda v: widget.setValue(kind(v))
    )


def _choices(widget: Any, kind: Any, annotations: list[Any]) -> _Connector | None:
    if kind not in (int, float, str, bool):
        return None
    choice = _find(annotations, Choice)
    if choice is None:
        raise RuntimeError("ComboBoxToStringableConnector requires the Choice annotation to be used.")
    values = list(choice.choices)
    widget.clear()
    for value in values:
        widget.addItem(str(value))

    def write(value: Any) -> None:
        if value not in values:
            raise ValueError(f"Unable to find value {value} in choices {values}")
        widget.setCurrentIndex(values.index(value))

    return _Connector(widget, ("currentIndexChanged",), lambda: values[widget.currentIndex()], write)


def _line(widget: Any, kind: Any, annotations: list[Any]) -> _Connector | None:
    if kind is not str:
        return None
    # Writing moves the cursor, which must not happen while the user types.
    return _Connector(
        widget, ("textChanged",), widget.text, lambda value: None if value == widget.text() else widget.setText(value)
    )


def _label(widget: Any, kind: Any, annotations: list[Any]) -> _Connector | None:
    return _Connector(widget, (), widget.text, widget.setText) if kind is str else None


def _node(widget: Any, kind: Any, annotations: list[Any]) -> _Connector | None:
    classes = [one for one in (_members(kind) or (kind,)) if one is not type(None)]
    if not classes or not all(_is_node(one) for one in classes):
        return None
    widget.nodeTypes = [one().GetClassName() for one in classes]
    return _Connector(widget, ("currentNodeChanged",), widget.currentNode, widget.setCurrentNode)


_MAKERS: dict[type, Callable[[Any, Any, list[Any]], _Connector | None]] = {
    QCheckBox: lambda widget, kind, _: (
        _Connector(widget, ("stateChanged",), widget.isChecked, widget.setChecked) if kind is bool else None
    ),
    QPushButton: _checkable,
    QSlider: _whole_number,
    QSpinBox: _whole_number,
    QDoubleSpinBox: _number,
    ctkSliderWidget: _number,
    QComboBox: _choices,
    QLineEdit: _line,
    QLabel: _label,
    qMRMLNodeComboBox: _node,
}


def make_parameter_node_wrapper() -> ModuleType:
    module = ModuleType("slicer.parameterNodeWrapper", __doc__)
    for part in (parameterNodeWrapper, Default, Validator, WithinRange, Minimum, Maximum, Choice, NotNone):
        setattr(module, part.__name__, part)
    return module
