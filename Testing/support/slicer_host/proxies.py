"""PySide6 objects in the shape that PythonQt gives them in Slicer.

Properties are attributes without parentheses, signals are connected by signature or by name, string lists arrive
as tuples, and a name that does not exist is an error on reading and on writing.
"""

from __future__ import annotations

import enum
import inspect
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import shiboken6
from PySide6.QtCore import Property, QMetaObject, QObject, QTimer, SignalInstance

from . import faults

_proxy_classes: dict[type, type] = {}
_proxies: weakref.WeakValueDictionary[int, Proxy] = weakref.WeakValueDictionary()


class ProxyType(type):
    """The type of a Qt class as modules see it: static methods and enum values, and nothing to derive from."""

    _qt_class: type

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], *, generated: bool = False) -> Any:
        if bases and not generated:
            raise TypeError(f"the modules do not derive from Qt classes, as {name} would from {bases[0].__name__}")
        return super().__new__(mcs, name, bases, namespace)

    def __init__(
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], *, generated: bool = False
    ) -> None:
        super().__init__(name, bases, namespace)

    def __getattr__(cls, name: str) -> Any:
        return _class_attribute(cls._qt_class, name)


class Proxy(metaclass=ProxyType):
    """An instance of a Qt class, as modules see it."""

    __slots__ = ("__weakref__", "_target")
    _qt_class: type = object
    _target: Any

    def __init__(self, *arguments: Any) -> None:
        object.__setattr__(self, "_target", type(self)._qt_class(*unwrap(arguments)))
        if isinstance(self._target, QObject):
            _proxies[id(self._target)] = self

    def __getattr__(self, name: str) -> Any:
        return _get(self._target, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _set(self._target, name, value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Proxy):
            return False
        if isinstance(self._target, QObject):
            return self._target is other._target
        return bool(self._target == other._target)

    def __hash__(self) -> int:
        return hash(self._target)

    def __bool__(self) -> bool:
        return shiboken6.isValid(self._target)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of the test host at {id(self._target):#x}>"


def proxy_class(qt_class: type) -> Any:
    """The class that stands for a PySide6 class, with proxies for its bases as bases."""
    if qt_class not in _proxy_classes:
        bases = tuple(proxy_class(base) for base in qt_class.__bases__ if issubclass(base, shiboken6.Shiboken.Object))
        bases = tuple(base for base in bases if base is not Proxy) or (Proxy,)
        namespace = {"__slots__": (), "_qt_class": qt_class, "__doc__": qt_class.__doc__}
        made = (
            Proxy
            if qt_class is shiboken6.Shiboken.Object
            else ProxyType.__new__(ProxyType, qt_class.__name__, bases, namespace, generated=True)
        )
        _proxy_classes[qt_class] = made
    return _proxy_classes[qt_class]


def wrap(value: Any) -> Any:
    """A value from Qt as a module gets it."""
    if isinstance(value, QObject) and not shiboken6.isValid(value):
        return None
    if isinstance(value, shiboken6.Shiboken.Object) and not isinstance(value, enum.Enum):
        known = _proxies.get(id(value))
        if known is not None and known._target is value:
            return known
        kind = proxy_class(type(value))
        proxy = kind.__new__(kind)
        object.__setattr__(proxy, "_target", value)
        if isinstance(value, QObject):
            _proxies[id(value)] = proxy
        return proxy
    if isinstance(value, list | tuple):
        return tuple(wrap(item) for item in value)
    return value


def unwrap(value: Any) -> Any:
    """A value from a module as Qt gets it."""
    if isinstance(value, Proxy):
        return value._target
    if isinstance(value, ProxyType):
        return value._qt_class
    if isinstance(value, tuple | list):
        return type(value)(unwrap(item) for item in value)
    return value


def guarded(callback: Callable[..., Any]) -> Callable[..., None]:
    """A slot that calls `callback` with as many arguments as it takes, and keeps what it raises."""
    if not callable(callback):
        raise TypeError(f"a slot has to be callable, {callback!r} is not")
    count = _argument_count(callback)

    def slot(*arguments: Any) -> None:
        try:
            callback(*(wrap(argument) for argument in arguments[:count]))
        except Exception:
            faults.record(*sys.exc_info())  # type: ignore[arg-type]

    return slot


def _argument_count(callback: Callable[..., Any]) -> int | None:
    # PythonQt cuts the arguments for Python functions and methods only; anything else gets them all.
    function = callback.__func__ if inspect.ismethod(callback) else callback
    if not inspect.isfunction(function) or function.__code__.co_flags & inspect.CO_VARARGS:
        return None
    return function.__code__.co_argcount - inspect.ismethod(callback)


def _class_attribute(qt_class: type, name: str) -> Any:
    found = None if name.startswith("_") else getattr(qt_class, name, None)
    if isinstance(found, enum.Enum):
        return found
    if isinstance(found, enum.EnumMeta):
        raise AttributeError(
            f"PythonQt has enum values in the class itself: write {qt_class.__name__}.VALUE, without {name}"
        )
    if callable(found) and not inspect.isclass(found):
        return _method(found)
    raise AttributeError(f"type object '{qt_class.__name__}' has no attribute '{name}'")


def _method(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        return wrap(function(*(_argument(argument) for argument in arguments)))

    call.__name__ = getattr(function, "__name__", "call")
    return call


def _argument(value: Any) -> Any:
    return guarded(value) if inspect.isroutine(value) or inspect.ismethod(value) else unwrap(value)


def _get(target: Any, name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"{type(target).__name__} has no attribute named '{name}'")
    if not isinstance(target, QObject):
        return _bound(target, name)
    if not shiboken6.isValid(target):
        raise ValueError(f"Trying to read '{name}' from a destroyed {type(target).__name__} object")
    special = {"connect": _connect, "disconnect": _disconnect, "delete": shiboken6.delete}.get(name)
    if special:
        return lambda *arguments: special(target, *arguments)
    if name == "className":
        return lambda: target.metaObject().className()
    if name == "name" and not _has_property(target, name):
        name = "objectName"
    if _has_property(target, name):
        return wrap(target.property(name))
    if isinstance(getattr(target, name, None), SignalInstance):
        return BoundSignal(target, name)
    if name.encode() in [bytes(dynamic.data()) for dynamic in target.dynamicPropertyNames()]:
        return wrap(target.property(name))
    return _bound(target, name)


def _bound(target: Any, name: str) -> Any:
    found = getattr(target, name, None)
    # What a host widget keeps for itself in Python is no part of the Qt class that it stands for.
    if callable(found) and not inspect.isclass(found) and name not in vars(target):
        return _method(found)
    return _class_attribute_of_instance(target, name)


def _class_attribute_of_instance(target: Any, name: str) -> Any:
    found = getattr(type(target), name, None)
    if isinstance(found, enum.Enum):
        return found
    raise AttributeError(f"{type(target).__name__} has no attribute named '{name}'")


def _has_property(target: QObject, name: str) -> bool:
    # PythonQt leaves this property out, because QTimer.singleShot is a static method too.
    if isinstance(target, QTimer) and name == "singleShot":
        return False
    return target.metaObject().indexOfProperty(name) >= 0


def _set(target: Any, name: str, value: Any) -> None:
    kind = type(target).__name__
    if not isinstance(target, QObject):
        raise AttributeError(
            f"'{name}' does not exist on {kind} and creating new attributes on C++ objects is not allowed"
        )
    if not shiboken6.isValid(target):
        raise AttributeError(f"Trying to set property '{name}' on a destroyed {kind} object")
    value = unwrap(value)
    if name == "name" and not _has_property(target, name):
        name = "objectName"
    if not _has_property(target, name):
        if name.encode() in [bytes(dynamic.data()) for dynamic in target.dynamicPropertyNames()]:
            target.setProperty(name, value)
            return
        if callable(getattr(target, name, None)):
            raise AttributeError(f"Slot '{name}' can not be overwritten on {kind} object")
        raise AttributeError(
            f"'{name}' does not exist on {kind} and creating new attributes on C++ objects is not allowed"
        )
    declared = target.metaObject().property(target.metaObject().indexOfProperty(name))
    if not declared.isWritable():
        raise AttributeError(f"Property '{name}' of {kind} object is not writable")
    if not _accepts(declared.typeName(), value) or not _write(target, name, value):
        raise AttributeError(
            f"Property '{name}' of type '{declared.typeName()}' does not accept an object of type "
            f"{type(value).__name__} ({value!r})"
        )


def _accepts(declared: str, value: Any) -> bool:
    accepted: dict[str, tuple[type, ...]] = {
        "QString": (str,),
        "bool": (bool, int),
        "int": (int, float),
        "double": (int, float),
        "QStringList": (list, tuple),
    }
    return declared not in accepted or isinstance(value, accepted[declared])


def _write(target: QObject, name: str, value: Any) -> bool:
    if not isinstance(getattr(type(target), name, None), Property):
        # Qt's own; as an attribute of Python, it would change nothing on a widget whose class is the host's.
        return target.setProperty(name, value)
    # A property that the host defines in Python: what its setter raises has to arrive.
    setattr(target, name, value)
    return True


@dataclass
class _Connection:
    signature: str
    callback: Callable[..., Any]
    handle: QMetaObject.Connection


_connections: dict[int, list[_Connection]] = {}


def _signature(target: QObject, signature: str) -> str:
    """The signature as the meta-object has it. Raises RuntimeError if there is no such signal."""
    normalized = bytes(QMetaObject.normalizedSignature(signature).data()).decode()
    for kind in type(target).__mro__:
        normalized = vars(kind).get("_host_signatures", {}).get(normalized, normalized)
    if target.metaObject().indexOfSignal(normalized) < 0:
        raise RuntimeError(f"signal '{signature}' does not exist on {type(target).__name__}")
    return normalized


def _connect(target: QObject, signature: str, *receiver: Any) -> bool:
    if len(receiver) != 1:
        raise RuntimeError("the test host connects signals to Python callables: connect('signal(type)', function)")
    (callback,) = receiver
    normalized = _signature(target, signature)
    handle = QObject.connect(target, "2" + normalized, guarded(callback))  # type: ignore[call-overload]
    key = shiboken6.getCppPointer(target)[0]
    if key not in _connections:
        _connections[key] = []
        QObject.connect(target, "2destroyed()", lambda: _connections.pop(key, None))  # type: ignore[call-overload]
    _connections[key].append(_Connection(normalized, callback, handle))
    return True


def _disconnect(target: QObject, signature: str, *receiver: Any) -> bool:
    normalized = _signature(target, signature)
    kept, gone = [], []
    for one in _connections.get(shiboken6.getCppPointer(target)[0], []):
        matches = one.signature == normalized and (not receiver or one.callback == receiver[0])
        (gone if matches else kept).append(one)
    for one in gone:
        QObject.disconnect(one.handle)
    if gone:
        _connections[shiboken6.getCppPointer(target)[0]] = kept
    return bool(gone)


def disconnect_all() -> None:
    """Let go of every slot: a timer that its own slot keeps alive would stay for ever."""
    for connections in list(_connections.values()):
        for one in connections:
            QObject.disconnect(one.handle)
    _connections.clear()


class BoundSignal:
    """`widget.clicked`, which connects to its first signature."""

    def __init__(self, target: QObject, name: str) -> None:
        self._target = target
        self._name = name
        meta = target.metaObject()
        methods = [meta.method(index) for index in range(meta.methodCount())]
        # A class lists its own signals after those of its base.
        names = [
            bytes(method.methodSignature().data()).decode() for method in methods if method.name() == name.encode()
        ]
        self._first = names[0]

    def connect(self, callback: Callable[..., Any]) -> bool:
        return _connect(self._target, self._first, callback)

    def disconnect(self, *callback: Callable[..., Any]) -> bool:
        return _disconnect(self._target, self._first, *callback)

    def emit(self, *arguments: Any) -> None:
        getattr(self._target, self._name).emit(*unwrap(arguments))

    __call__ = emit
