"""The CTK widgets that the .ui files may name, with the properties, slots and signals of their headers.

What CTK does not show to Python (setters that are neither slots nor invokable) is not public here either.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from PySide6.QtCore import Property, QEvent, QRect, QSettings, QSize, Qt, Signal
from PySide6.QtGui import QPainter
from PySide6.QtWidgets import (
    QAbstractButton,
    QComboBox,
    QDoubleSpinBox,
    QGroupBox,
    QHBoxLayout,
    QMessageBox,
    QSizePolicy,
    QSlider,
    QStyle,
    QStyleOptionButton,
    QToolButton,
    QWidget,
)

from . import faults
from .desk import Message, desk
from .proxies import proxy_class

_MAXIMUM_HEIGHT = 16777215


def _show_children(parent: QWidget, shown: bool) -> None:
    """Show or hide what a collapsible widget holds, less what was hidden on purpose."""
    for child in parent.children():
        if not isinstance(child, QWidget):
            continue
        if shown:
            if child.property("_hiddenByCollapse"):
                child.setProperty("_hiddenByCollapse", None)
                child.setVisible(True)
        elif not child.testAttribute(Qt.WidgetAttribute.WA_WState_ExplicitShowHide) or not child.isHidden():
            child.setProperty("_hiddenByCollapse", True)
            child.setVisible(False)


class ctkCollapsibleButton(QAbstractButton):
    """A header that shows and hides what lies below it."""

    contentsCollapsed = Signal(bool)

    def __init__(self, *arguments: Any) -> None:
        text = arguments[0] if arguments and isinstance(arguments[0], str) else ""
        super().__init__(*arguments[bool(text) :])
        self.setText(text)
        self.setCheckable(True)
        self.setChecked(True)
        self._collapsed = False
        self._collapsed_height = 14
        self._flat = False
        self.setSizePolicy(QSizePolicy.Policy.Minimum, QSizePolicy.Policy.Preferred)
        self.setContentsMargins(0, self._header_size().height(), 0, 0)
        self.toggled.connect(lambda checked: self._collapse(not checked))

    def _header_size(self) -> QSize:
        metrics = self.fontMetrics().size(Qt.TextFlag.TextShowMnemonic, self.text() or "Wide")
        option = QStyleOptionButton()
        option.initFrom(self)
        return self.style().sizeFromContents(
            QStyle.ContentsType.CT_PushButton, option, QSize(metrics.width() + 24, metrics.height()), self
        )

    def _collapse(self, collapsed: bool) -> None:
        if collapsed == self._collapsed:
            return
        self._collapsed = collapsed
        _show_children(self, not collapsed)
        self.setMaximumHeight(self._header_size().height() + self._collapsed_height if collapsed else _MAXIMUM_HEIGHT)
        self.updateGeometry()
        self.contentsCollapsed.emit(collapsed)

    def childEvent(self, event: Any) -> None:
        if self._collapsed and event.type() == QEvent.Type.ChildPolished and isinstance(event.child(), QWidget):
            _show_children(self, False)
        super().childEvent(event)

    def sizeHint(self) -> QSize:
        header = self._header_size()
        if self._collapsed or self.layout() is None:
            return header + QSize(0, self._collapsed_height if self._collapsed else 0)
        return self.layout().totalSizeHint().expandedTo(header)

    def minimumSizeHint(self) -> QSize:
        header = self._header_size()
        return (
            header if self._collapsed or self.layout() is None else self.layout().totalMinimumSize().expandedTo(header)
        )

    def hitButton(self, position: Any) -> bool:
        return bool(QRect(0, 0, self.width(), self._header_size().height()).contains(position))

    def paintEvent(self, event: Any) -> None:
        header = QRect(0, 0, self.width(), self._header_size().height())
        option = QStyleOptionButton()
        option.initFrom(self)
        option.rect = header
        option.state |= QStyle.StateFlag.State_Sunken if self.isDown() else QStyle.StateFlag.State_Raised
        painter = QPainter(self)
        self.style().drawControl(QStyle.ControlElement.CE_PushButtonBevel, option, painter, self)
        arrow = (
            QStyle.PrimitiveElement.PE_IndicatorArrowRight
            if self._collapsed
            else QStyle.PrimitiveElement.PE_IndicatorArrowDown
        )
        option.rect = QRect(6, (header.height() - 12) // 2, 12, 12)
        self.style().drawPrimitive(arrow, option, painter, self)
        flags = Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft | Qt.TextFlag.TextShowMnemonic
        painter.drawText(header.adjusted(24, 0, 0, 0), flags, self.text())

    collapsed = Property(
        bool, lambda self: self._collapsed, lambda self, value: self.setChecked(not value), notify=contentsCollapsed
    )
    collapsedHeight = Property(
        int, lambda self: self._collapsed_height, lambda self, value: setattr(self, "_collapsed_height", value)
    )
    flat = Property(bool, lambda self: self._flat, lambda self, value: setattr(self, "_flat", value))


class ctkCollapsibleGroupBox(QGroupBox):
    """A group box whose check mark shows and hides what it holds."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._collapsed_height = 14
        self.setCheckable(True)
        self.setChecked(True)
        self.toggled.connect(self._expand)

    def _expand(self, expanded: bool) -> None:
        _show_children(self, expanded)
        # A group box that is not checked disables what it holds; here the check mark means something else.
        self.setMaximumHeight(_MAXIMUM_HEIGHT if expanded else self.fontMetrics().height() + self._collapsed_height)
        self.updateGeometry()

    def childEvent(self, event: Any) -> None:
        if not self.isChecked() and event.type() == QEvent.Type.ChildPolished:
            _show_children(self, False)
        super().childEvent(event)

    collapsed = Property(bool, lambda self: not self.isChecked(), lambda self, value: self.setChecked(not value))
    collapsedHeight = Property(
        int, lambda self: self._collapsed_height, lambda self, value: setattr(self, "_collapsed_height", value)
    )


class _SteppedSlider(QSlider):
    """A slider over doubles: position i stands for minimum + i * step."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(Qt.Orientation.Horizontal, parent)
        self._minimum, self._step = 0.0, 1.0

    def set_scale(self, minimum: float, maximum: float, step: float) -> None:
        self._minimum, self._step = minimum, step
        blocked = self.blockSignals(True)
        self.setRange(0, max(0, round((maximum - minimum) / step)))
        self.blockSignals(blocked)

    def show_value(self, value: float) -> None:
        blocked = self.blockSignals(True)
        self.setValue(round((value - self._minimum) / self._step))
        self.blockSignals(blocked)

    def shown_value(self) -> float:
        return self._minimum + self.value() * self._step


class ctkSliderWidget(QWidget):
    """A slider beside a spin box, over doubles."""

    valueChanged = Signal(float)
    valueIsChanging = Signal(float)
    decimalsChanged = Signal(int)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._minimum, self._maximum, self._value = 0.0, 99.0, 0.0
        self._single_step, self._page_step = 1.0, 10.0
        self._tracking = True
        self._changing = False
        self._before_change = 0.0
        self._slider = _SteppedSlider(self)
        self._spin = QDoubleSpinBox(self)
        self._spin.setKeyboardTracking(False)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider, 1)
        layout.addWidget(self._spin)
        self.setFocusProxy(self._spin)
        self._slider.valueChanged.connect(lambda _: self._change(self._slider.shown_value()))
        self._spin.valueChanged.connect(lambda value: self._change(value))
        self._slider.sliderPressed.connect(self._start_changing)
        self._slider.sliderReleased.connect(self._stop_changing)
        self._rescale()

    def _rescale(self) -> None:
        self._slider.set_scale(self._minimum, self._maximum, self._single_step)
        blocked = self._spin.blockSignals(True)
        self._spin.setRange(self._minimum, self._maximum)
        self._spin.setSingleStep(self._single_step)
        self._spin.blockSignals(blocked)
        self._change(self._value)

    def _change(self, value: float) -> None:
        value = min(max(float(value), self._minimum), self._maximum)
        changed = value != self._value
        self._value = value
        self._slider.show_value(value)
        blocked = self._spin.blockSignals(True)
        self._spin.setValue(value)
        self._spin.blockSignals(blocked)
        if not changed:
            return
        if not self._tracking:
            self.valueIsChanging.emit(value)
        if not self._changing:
            self.valueChanged.emit(value)

    def _start_changing(self) -> None:
        if not self._tracking:
            self._before_change, self._changing = self._value, True

    def _stop_changing(self) -> None:
        if self._changing:
            self._changing = False
            if self._value != self._before_change:
                self.valueChanged.emit(self._value)

    def setValue(self, value: float) -> None:
        self._change(value)

    def setDecimals(self, decimals: int) -> None:
        blocked = self._spin.blockSignals(True)
        self._spin.setDecimals(decimals)
        self._spin.setValue(self._value)
        self._spin.blockSignals(blocked)
        self.decimalsChanged.emit(decimals)

    def reset(self) -> None:
        self._change(0.0)

    def setSpinBoxVisible(self, visible: bool) -> None:
        self._spin.setVisible(visible)

    def _set_minimum(self, value: float) -> None:
        self._minimum, self._maximum = value, max(self._maximum, value)
        self._rescale()

    def _set_maximum(self, value: float) -> None:
        self._minimum, self._maximum = min(self._minimum, value), value
        self._rescale()

    def _set_single_step(self, step: float) -> None:
        if step <= 0:
            raise ValueError(f"a single step is larger than 0, not {step}")
        self._single_step = step
        self._rescale()

    def _set_page_step(self, step: float) -> None:
        self._page_step = step
        self._slider.setPageStep(max(1, round(step / self._single_step)))

    value = Property(float, lambda self: self._value, setValue)
    minimum = Property(float, lambda self: self._minimum, _set_minimum)
    maximum = Property(float, lambda self: self._maximum, _set_maximum)
    singleStep = Property(float, lambda self: self._single_step, _set_single_step)
    pageStep = Property(float, lambda self: self._page_step, _set_page_step)
    decimals = Property(int, lambda self: self._spin.decimals(), setDecimals, notify=decimalsChanged)
    prefix = Property(str, lambda self: self._spin.prefix(), lambda self, text: self._spin.setPrefix(text))
    suffix = Property(str, lambda self: self._spin.suffix(), lambda self, text: self._spin.setSuffix(text))
    tracking = Property(bool, lambda self: self._tracking, lambda self, on: setattr(self, "_tracking", on))
    spinBoxVisible = Property(bool, lambda self: not self._spin.isHidden(), setSpinBoxVisible)


class ctkRangeWidget(QWidget):
    """Two values within a range, each with its spin box; the slider with two handles between them is not drawn."""

    minimumValueChanged = Signal(float)
    maximumValueChanged = Signal(float)
    minimumValueIsChanging = Signal(float)
    maximumValueIsChanging = Signal(float)
    valuesChanged = Signal(float, float)
    rangeChanged = Signal(float, float)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._low, self._high = QDoubleSpinBox(self), QDoubleSpinBox(self)
        self._tracking = True
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._low)
        layout.addStretch(1)
        layout.addWidget(self._high)
        self._values = (0.0, 99.0)
        for box, value in ((self._low, 0.0), (self._high, 99.0)):
            box.setRange(0.0, 99.0)
            box.setValue(value)
        self._low.valueChanged.connect(lambda value: self.setValues(value, max(value, self._values[1])))
        self._high.valueChanged.connect(lambda value: self.setValues(min(value, self._values[0]), value))

    def setValues(self, low: float, high: float) -> None:
        low, high = sorted(min(max(float(value), self._low.minimum()), self._low.maximum()) for value in (low, high))
        before, self._values = self._values, (low, high)
        for box, value in ((self._low, low), (self._high, high)):
            blocked = box.blockSignals(True)
            box.setValue(value)
            box.blockSignals(blocked)
        if low != before[0]:
            self.minimumValueChanged.emit(low)
        if high != before[1]:
            self.maximumValueChanged.emit(high)
        if (low, high) != before:
            self.valuesChanged.emit(low, high)

    def setMinimumValue(self, value: float) -> None:
        self.setValues(value, max(value, self._values[1]))

    def setMaximumValue(self, value: float) -> None:
        self.setValues(min(value, self._values[0]), value)

    def setRange(self, minimum: float, maximum: float) -> None:
        for box in (self._low, self._high):
            blocked = box.blockSignals(True)
            box.setRange(minimum, maximum)
            box.blockSignals(blocked)
        self.rangeChanged.emit(minimum, maximum)
        self.setValues(*self._values)

    def setDecimals(self, decimals: int) -> None:
        for box in (self._low, self._high):
            box.setDecimals(decimals)

    def reset(self) -> None:
        self.setValues(self._low.minimum(), self._low.maximum())

    def _each(self, setter: str, value: Any) -> None:
        for box in (self._low, self._high):
            getattr(box, setter)(value)

    minimum = Property(
        float,
        lambda self: self._low.minimum(),
        lambda self, value: self.setRange(value, max(value, self._low.maximum())),
    )
    maximum = Property(
        float,
        lambda self: self._low.maximum(),
        lambda self, value: self.setRange(min(value, self._low.minimum()), value),
    )
    minimumValue = Property(float, lambda self: self._values[0], setMinimumValue)
    maximumValue = Property(float, lambda self: self._values[1], setMaximumValue)
    singleStep = Property(
        float, lambda self: self._low.singleStep(), lambda self, step: self._each("setSingleStep", step)
    )
    decimals = Property(int, lambda self: self._low.decimals(), setDecimals)
    prefix = Property(str, lambda self: self._low.prefix(), lambda self, text: self._each("setPrefix", text))
    suffix = Property(str, lambda self: self._low.suffix(), lambda self, text: self._each("setSuffix", text))
    tracking = Property(bool, lambda self: self._tracking, lambda self, on: setattr(self, "_tracking", on))


class ctkPathLineEdit(QWidget):
    """A path to type or to browse for, with a history under `settingKey`."""

    validInputChanged = Signal(bool)
    currentPathChanged = Signal(str)

    Dirs, Files, Drives = 0x001, 0x002, 0x004
    NoSymLinks, Readable, Writable, Executable = 0x008, 0x010, 0x020, 0x040
    Hidden = 0x100
    _FILTER_NAMES = (
        ("Dirs", 0x001), ("Files", 0x002), ("Drives", 0x004), ("NoSymLinks", 0x008),
        ("Readable", 0x010), ("Writable", 0x020), ("Executable", 0x040), ("Hidden", 0x100),
    )  # fmt: skip

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._filters = 0x001 | 0x002 | 0x004 | 0x1000
        self._name_filters: list[str] = []
        self._label = ""
        self._setting_key = ""
        self._combo = QComboBox(self)
        self._combo.setEditable(True)
        self._combo.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self._browse = QToolButton(self)
        self._browse.setText("...")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo, 1)
        layout.addWidget(self._browse)
        self._combo.lineEdit().textChanged.connect(self.currentPathChanged)
        self._browse.clicked.connect(self.browse)

    def setCurrentPath(self, path: str) -> None:
        self._combo.lineEdit().setText(path)

    def browse(self) -> None:
        folders_only = self._filters & 0x001 and not self._filters & 0x002
        path = desk.answer_path("folder" if folders_only else "save" if self._filters & 0x020 else "open", self._label)
        if path:
            self.setCurrentPath(path)

    def addCurrentPathToHistory(self) -> None:
        if self._setting_key and self._current():
            history = [self._current(), *(path for path in self._history() if path != self._current())]
            QSettings().setValue(self._setting_key, history[:5])

    def retrieveHistory(self) -> None:
        shown = self._current()
        blocked = self._combo.blockSignals(True)
        self._combo.clear()
        self._combo.addItems(self._history())
        self._combo.blockSignals(blocked)
        self.setCurrentPath(shown or (self._history() or [""])[0])

    def comboBox(self) -> QComboBox:
        return self._combo

    def _current(self) -> str:
        return self._combo.lineEdit().text()

    def _history(self) -> list[str]:
        stored = QSettings().value(self._setting_key) or []
        return [stored] if isinstance(stored, str) else list(stored)

    def _set_filters(self, filters: Any) -> None:
        if isinstance(filters, str):
            # As .ui files write a set of flags: ctkPathLineEdit::Files|ctkPathLineEdit::Readable.
            names = [name.rpartition("::")[2] for name in filters.split("|")]
            filters = sum(dict(self._FILTER_NAMES)[name] for name in names)
        self._filters = int(filters)

    def _set_setting_key(self, key: str) -> None:
        self._setting_key = key
        self.retrieveHistory()

    currentPath = Property(str, _current, setCurrentPath, user=True)
    filters = Property("QVariant", lambda self: self._filters, _set_filters)
    nameFilters = Property(
        "QStringList", lambda self: self._name_filters, lambda self, names: setattr(self, "_name_filters", list(names))
    )
    label = Property(str, lambda self: self._label, lambda self, text: setattr(self, "_label", text))
    settingKey = Property(str, lambda self: self._setting_key, _set_setting_key)
    showBrowseButton = Property(
        bool, lambda self: not self._browse.isHidden(), lambda self, shown: self._browse.setVisible(shown)
    )
    showHistoryButton = Property(bool, lambda self: True, lambda self, shown: None)


class ctkCoordinatesWidget(QWidget):
    """A few numbers in a row, written as "x,y,z" in the property `coordinates`."""

    coordinatesChanged = Signal(float, float, float, float)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._boxes: list[QDoubleSpinBox] = []
        self._minimum, self._maximum, self._single_step, self._decimals, self._suffix = -100000.0, 100000.0, 1.0, 3, ""
        self._read_only = False
        QHBoxLayout(self).setContentsMargins(0, 0, 0, 0)
        self._set_dimension(3)

    def _set_dimension(self, dimension: int) -> None:
        while len(self._boxes) > dimension:
            self._boxes.pop().deleteLater()
        while len(self._boxes) < dimension:
            box = QDoubleSpinBox(self)
            box.valueChanged.connect(lambda _: self._emit())
            self.layout().addWidget(box)
            self._boxes.append(box)
        self._refresh()

    def _refresh(self) -> None:
        for box in self._boxes:
            blocked = box.blockSignals(True)
            box.setRange(self._minimum, self._maximum)
            box.setSingleStep(self._single_step)
            box.setDecimals(self._decimals)
            box.setReadOnly(self._read_only)
            box.blockSignals(blocked)

    def _emit(self) -> None:
        values = [box.value() for box in self._boxes]
        self.coordinatesChanged.emit(*(values + [0.0] * 4)[:4])

    def _text(self) -> str:
        return ",".join(f"{box.value():g}" for box in self._boxes)

    def setCoordinates(self, x: float, y: float = 0.0, z: float = 0.0, w: float = 0.0) -> None:
        before = self._text()
        for box, value in zip(self._boxes, (x, y, z, w), strict=False):
            blocked = box.blockSignals(True)
            box.setValue(value)
            box.blockSignals(blocked)
        if self._text() != before:
            self._emit()

    def getCoordinate(self, dimension: int) -> float:
        return self._boxes[dimension].value()

    def setDecimals(self, decimals: int) -> None:
        self._decimals = decimals
        self._refresh()

    def setReadOnly(self, read_only: bool) -> None:
        self._read_only = read_only
        self._refresh()

    def _assign(self, name: str, value: float) -> None:
        setattr(self, name, value)
        self._refresh()

    dimension = Property(int, lambda self: len(self._boxes), _set_dimension)
    coordinates = Property(str, _text, lambda self, text: self.setCoordinates(*map(float, text.split(","))))
    decimals = Property(int, lambda self: self._decimals, setDecimals)
    minimum = Property(float, lambda self: self._minimum, lambda self, value: self._assign("_minimum", value))
    maximum = Property(float, lambda self: self._maximum, lambda self, value: self._assign("_maximum", value))
    singleStep = Property(float, lambda self: self._single_step, lambda self, step: self._assign("_single_step", step))
    readOnly = Property(bool, lambda self: self._read_only, setReadOnly)


WIDGETS: tuple[type[QWidget], ...] = (
    ctkCollapsibleButton,
    ctkCollapsibleGroupBox,
    ctkSliderWidget,
    ctkRangeWidget,
    ctkPathLineEdit,
    ctkCoordinatesWidget,
)

_KINDS = {
    QMessageBox.Icon.Critical: "error",
    QMessageBox.Icon.Warning: "warning",
    QMessageBox.Icon.Information: "information",
    QMessageBox.Icon.Question: "question",
}


class MessageBox:
    """`ctk.ctkMessageBox` as `slicer.util.messageBox` uses it: notes itself and takes the test's answer."""

    def __init__(self, parent: Any = None) -> None:
        self.text = self.windowTitle = self.detailedText = self.informativeText = ""
        self.icon: Any = QMessageBox.Icon.NoIcon
        self.standardButtons: Any = QMessageBox.StandardButton.Ok
        self.dontShowAgainSettingsKey = ""

    def deleteLater(self) -> None:
        pass

    def exec_(self) -> Any:
        kind = _KINDS.get(self.icon, "information")
        desk.messages.append(Message(kind, self.text, self.detailedText, self.windowTitle.strip()))
        faults.mark_displayed()
        if desk.answers:
            return self._button(desk.answers.popleft())
        for name in ("Ok", "Yes", "Close"):
            if QMessageBox.StandardButton[name] in self.standardButtons:
                return QMessageBox.StandardButton[name]
        raise RuntimeError(f"no answer is queued for the message box: {self.text}")

    def _button(self, name: str) -> Any:
        button = QMessageBox.StandardButton[name]
        if button not in self.standardButtons:
            raise RuntimeError(f"the message box has no button {name}: {self.text}")
        return button


def make_ctk() -> ModuleType:
    """Make the module `ctk`. Names that it does not have raise AttributeError with a sentence."""
    module = ModuleType("ctk", __doc__)
    for kind in WIDGETS:
        setattr(module, kind.__name__, proxy_class(kind))
    module.__dict__["ctkMessageBox"] = MessageBox

    def unknown(name: str) -> Any:
        raise AttributeError(f"ctk.{name} is not known to the test host; see its README for what it has")

    module.__dict__["__getattr__"] = unknown
    return module
