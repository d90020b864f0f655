"""Apply and Cancel, progress with the time left, the sentence about the end, and the log: the lower part of a panel."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import qt
import slicer
import slicer.util
from slicer.i18n import tr as _

from svdrr.errors import SVDRRError
from svdrr.mrml.panels.stepper import Stepper
from svdrr.mrml.task import Progress, Steps

_BAR_STEPS = 1000


class JobControls:
    """The lower part of a panel, put below the Apply button into `layout`.

    apply_button: of the panel; it says "Cancel" while something runs. on_apply: called when it is clicked to apply;
    what it raises as SVDRRError is shown. on_change: called when something begins or ends.
    """

    def __init__(
        self, layout: Any, apply_button: Any, on_apply: Callable[[], None], on_change: Callable[[], None]
    ) -> None:
        self._widget = slicer.util.loadUI(str(Path(__file__).with_name("JobControls.ui")))
        layout.addWidget(self._widget)
        self._ui = slicer.util.childWidgetVariables(self._widget)
        self._apply_button, self._on_apply, self._on_change = apply_button, on_apply, on_change
        self._apply_text = apply_button.text
        self._stepper = Stepper(self._show, self._fail)
        self._stage = ""
        self._details = ""
        self._reasons: list[str] = []
        self._ready_tip = ""
        apply_button.connect("clicked(bool)", self._clicked)
        self._ui.jobDetailsButton.connect("clicked(bool)", self._show_details)
        self._ui.jobCopyLogButton.connect("clicked(bool)", self._copy_log)

    @property
    def running(self) -> bool:
        """Whether something runs."""
        return self._stepper.running

    def run(self, title: str, steps: Steps[Any], on_done: Callable[[Any], str]) -> None:
        """Begin. title: what the log calls it. on_done: called with the result; returns the sentence to show."""
        self._say(title)
        self._set_details("")
        self._stage = ""

        self._stepper.start(steps, lambda result: self._ended(on_done(result)))
        self._ui.jobProgressBar.setRange(0, 0)
        self._ui.jobProgressBar.visible = True
        self._changed()

    def cancel(self, sentence: str = "") -> None:
        """End what runs, if anything does; sentence: what is shown then. Else forget how the last work ended."""
        if self._stepper.running:
            self._stepper.cancel()
            self._ended(sentence or _("Canceled."))
        else:
            self._ui.jobStatusLabel.text = ""
            self._set_details("")

    def cleanup(self) -> None:
        """End what runs and say nothing, because the panel goes."""
        self._stepper.cancel()

    def set_reasons(self, reasons: Sequence[str], ready_tip: str) -> None:
        """Why Apply cannot be pressed, a sentence each; none if it can, which then has the tooltip `ready_tip`."""
        self._reasons, self._ready_tip = list(reasons), ready_tip
        if self._stepper.running:
            self._apply_button.text = _("Cancel")
            self._apply_button.enabled = True
            self._apply_button.toolTip = _("End the work; what is finished stays")
            return
        self._apply_button.text = self._apply_text
        self._apply_button.enabled = not self._reasons
        self._apply_button.toolTip = "\n".join(self._reasons) or ready_tip

    def show_error(self, sentence: str, details: str = "") -> None:
        """Say what went wrong, in the panel and its log."""
        self._set_details(details or sentence)
        self._ui.jobStatusLabel.text = sentence
        self._say(sentence)

    def _clicked(self, checked: bool = False) -> None:
        if self._stepper.running:
            self.cancel()
            return
        try:
            self._on_apply()
        except SVDRRError as error:
            self.show_error(str(error))

    def _show(self, progress: Progress) -> None:
        if progress.stage != self._stage:
            self._stage = progress.stage
            self._say(progress.stage)
        bar = self._ui.jobProgressBar
        if progress.total > 0:
            bar.setRange(0, _BAR_STEPS)
            bar.value = round(_BAR_STEPS * progress.done / progress.total)
        else:
            bar.setRange(0, 0)
        if progress.eta_s is None:
            self._ui.jobStatusLabel.text = progress.stage
        else:
            self._ui.jobStatusLabel.text = _("{stage}: about {time} left").format(
                stage=progress.stage, time=duration(progress.eta_s)
            )

    def _fail(self, sentence: str, details: str) -> None:
        self._ended(sentence)
        self._set_details(details or self._ui.jobLogTextEdit.plainText)

    def _ended(self, sentence: str) -> None:
        self._ui.jobProgressBar.visible = False
        self._ui.jobStatusLabel.text = sentence
        self._say(sentence)
        self._changed()

    def _changed(self) -> None:
        self.set_reasons(self._reasons, self._ready_tip)
        self._on_change()

    def _set_details(self, details: str) -> None:
        self._details = details
        self._ui.jobDetailsButton.visible = bool(details)

    def _show_details(self, checked: bool = False) -> None:
        slicer.util.errorDisplay(self._ui.jobStatusLabel.text, detailedText=self._details)

    def _say(self, sentence: str) -> None:
        self._ui.jobLogTextEdit.appendPlainText(f"{time.strftime('%H:%M:%S')} {sentence}")

    def _copy_log(self, checked: bool = False) -> None:
        qt.QApplication.clipboard().setText(self._ui.jobLogTextEdit.plainText)


def duration(seconds: float) -> str:
    """Time for people: ``8 s``, ``3 min``, ``2 h 5 min``."""
    if seconds < 90.0:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60.0)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
