"""Which backend does the work, whether it is ready, and the user's consent to send images to another computer."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
import slicer.util
from slicer.i18n import tr as _

from svdrr.backend.connection import Connection, test_connection
from svdrr.backend.environment import BackendEnvironment
from svdrr.backend.installation import Plan, set_up
from svdrr.errors import SVDRRError
from svdrr.interpreter import python_executable
from svdrr.mrml.backend import (
    BackendChoice,
    allow_uploads,
    choose_backend,
    chosen_backend,
    client_of,
    uploads_allowed,
)
from svdrr.mrml.panels.stepper import Stepper
from svdrr.mrml.task import Progress, Say, Steps, in_background

_LIGHT_PIXELS = 12
_PAUSE_S = 0.5
_GREEN, _YELLOW, _RED, _GRAY = "#2e9e41", "#e0a800", "#c62828", "#9e9e9e"
_LOCAL, _REMOTE = 0, 1


class BackendLine:
    """The backend's part of a panel, put into `layout`.

    on_capabilities: called with what the backend offers, as API v1 has it, whenever it has been asked, and with None
    when another is chosen.
    """

    def __init__(self, layout: Any, on_capabilities: Callable[[dict[str, Any] | None], None]) -> None:
        self._widget = slicer.util.loadUI(str(Path(__file__).with_name("BackendLine.ui")))
        layout.addWidget(self._widget)
        self._ui = ui = slicer.util.childWidgetVariables(self._widget)
        self._on_capabilities = on_capabilities
        self._has_been_asked = False
        self._reading = False
        self._stepper = Stepper(lambda progress: self._state(_YELLOW, progress.stage), self._failed)
        self._read_settings()
        ui.backendWhereComboBox.connect("currentIndexChanged(int)", self._edited)
        ui.backendUrlLineEdit.connect("editingFinished()", self._edited)
        ui.backendTokenLineEdit.connect("editingFinished()", self._edited)
        ui.backendCertificatePathLineEdit.connect("currentPathChanged(QString)", self._edited)
        ui.backendEnvironmentPathLineEdit.connect("currentPathChanged(QString)", self._edited)
        ui.backendConsentCheckBox.connect("clicked(bool)", self._consent_clicked)
        ui.backendTestButton.connect("clicked(bool)", lambda checked=False: self.ask())
        ui.backendSetUpButton.connect("clicked(bool)", lambda checked=False: self._set_up())

    @property
    def choice(self) -> BackendChoice:
        """What the widgets say."""
        ui = self._ui
        remote = ui.backendWhereComboBox.currentIndex == _REMOTE
        folder = ui.backendEnvironmentPathLineEdit.currentPath
        return BackendChoice(
            url=ui.backendUrlLineEdit.text.strip() if remote else "",
            token=ui.backendTokenLineEdit.text.strip() if remote else "",
            certificate_authority=ui.backendCertificatePathLineEdit.currentPath if remote else "",
            environment=Path(folder) if folder else BackendChoice.environment,
        )

    def reasons(self) -> list[str]:
        """Why no job can be sent, a sentence each."""
        choice = self.choice
        if self._ui.backendWhereComboBox.currentIndex == _REMOTE:
            if not choice.url:
                return [_("Enter the address of the backend.")]
            try:
                Connection(choice.url, choice.token or None)
            except SVDRRError as error:
                return [str(error)]
            return []
        try:
            BackendEnvironment.read(choice.environment)
        except SVDRRError:
            return [_("Set up the backend on this computer, or choose one on another computer.")]
        return []

    def require_agreement(self) -> None:
        """Ask the user, once for each server on another computer, whether images may go there.

        From here on jobs go where the widgets say. SVDRRError unless the user agrees.
        """
        choice = self.choice
        # Also what was typed and not yet left: what is shown, what is asked about, and what is used are the same.
        choose_backend(choice)
        if uploads_allowed(choice):
            return
        question = _(
            "Pixels, pixel spacing and poses of the image will be sent to {host}. Names, IDs, dates and DICOM headers "
            "will not. You can withdraw your agreement in the backend's part of the panel. Send images to {host}?"
        ).format(host=choice.host)
        agreed = bool(slicer.util.confirmYesNoDisplay(question))
        allow_uploads(choice, agreed)
        self._show_consent()
        if not agreed:
            raise SVDRRError(_("Nothing was sent to {host}.").format(host=choice.host))

    def enter(self) -> None:
        """The panel is shown: another panel may have chosen another backend since."""
        if chosen_backend() != self.choice:
            self._read_settings()
            self._has_been_asked = False
            self._on_capabilities(None)

    def ask(self) -> None:
        """Start or ask the backend, and show what it says; waits for nothing."""
        self._has_been_asked = True
        self._stepper.start(_asked(self.choice), self._answered)

    def ask_first(self) -> None:
        """Ask a backend that has not been asked since it was chosen, if there is one to ask."""
        if not self._has_been_asked and not self.reasons():
            self.ask()

    def cleanup(self) -> None:
        """End what runs, because the panel goes."""
        self._stepper.cancel()

    def _read_settings(self) -> None:
        ui, choice = self._ui, chosen_backend()
        self._reading = True
        ui.backendWhereComboBox.currentIndex = _REMOTE if choice.url else _LOCAL
        ui.backendUrlLineEdit.text = choice.url
        ui.backendTokenLineEdit.text = choice.token
        ui.backendCertificatePathLineEdit.currentPath = choice.certificate_authority
        ui.backendEnvironmentPathLineEdit.currentPath = str(choice.environment)
        self._reading = False
        self._show_kind()

    def _edited(self, *_: Any) -> None:
        if self._reading:
            return
        choose_backend(self.choice)
        self._has_been_asked = False
        self._stepper.cancel()
        self._show_kind()
        self._on_capabilities(None)

    def _show_kind(self) -> None:
        ui = self._ui
        remote = ui.backendWhereComboBox.currentIndex == _REMOTE
        for name in ("backendUrlLineEdit", "backendTokenLineEdit", "backendCertificatePathLineEdit"):
            getattr(ui, name).visible = remote
            getattr(ui, f"{name}Label").visible = remote
        for name in ("backendEnvironmentPathLineEdit", "backendEnvironmentPathLineEditLabel", "backendSetUpButton"):
            getattr(ui, name).visible = not remote
        self._show_consent()
        reasons = self.reasons()
        self._state(_RED if reasons else _GRAY, reasons[0] if reasons else _("Not asked yet"))

    def _show_consent(self) -> None:
        choice, box = self.choice, self._ui.backendConsentCheckBox
        box.visible = bool(choice.host)
        box.text = _("Images may be sent to {host}").format(host=choice.host)
        box.checked = uploads_allowed(choice)

    def _consent_clicked(self, checked: bool) -> None:
        allow_uploads(self.choice, checked)

    def _answered(self, answer: tuple[str, dict[str, Any]]) -> None:
        sentence, capabilities = answer
        self._state(_GREEN, sentence)
        self._on_capabilities(capabilities)

    def _failed(self, sentence: str, details: str) -> None:
        self._state(_RED, sentence)
        self._on_capabilities(None)

    def _state(self, color: str, sentence: str) -> None:
        light = qt.QPixmap(_LIGHT_PIXELS, _LIGHT_PIXELS)
        light.fill(qt.QColor(color))
        self._ui.backendLightLabel.pixmap = light
        self._ui.backendStateLabel.text = sentence

    def _set_up(self) -> None:
        folder = self.choice.environment
        self._stepper.start(_planned(folder), lambda plan: self._confirm(folder, plan))

    def _confirm(self, folder: Path, plan: Plan) -> None:
        if slicer.util.confirmOkCancelDisplay(str(plan)):
            self._stepper.start(_installed(folder), lambda environment: self.ask())
        else:
            self._state(_GRAY, _("Nothing was installed."))


def _asked(choice: BackendChoice) -> Steps[tuple[str, dict[str, Any]]]:
    """What the backend says for people, and what it offers. No image is sent, so it needs no agreement."""
    if choice.url:
        diagnosis = yield from in_background(
            lambda say: test_connection(choice.url, choice.token or None, choice.certificate_authority or True),
            _("Asking the backend"),
        )
        if not diagnosis.ok:
            raise SVDRRError(diagnosis.sentence)
    client = yield from client_of(choice, sends_images=False)
    asked = Progress(_("Asking the backend"))
    while True:
        capabilities = yield from in_background(lambda say: client.capabilities(), asked.stage)
        ready = [device["description"] for device in capabilities["devices"] if device["ready"]]
        problems = [device["problem"] for device in capabilities["devices"] if not device["ready"]]
        if choice.url:
            return diagnosis.sentence, capabilities
        if ready:
            return _("Ready on this computer: {devices}.").format(devices=", ".join(ready)), capabilities
        if "starting" not in problems:
            raise SVDRRError(_("The backend on this computer is not ready: {problem}.").format(problem=problems[0]))
        again = time.monotonic() + _PAUSE_S
        while time.monotonic() < again:
            yield asked


def _planned(folder: Path) -> Steps[Plan]:
    """What a set-up would fetch and install. Nothing stays behind."""
    plans: list[Plan] = []

    def plan(say: Say) -> Plan:
        def decline(found: Plan) -> bool:
            plans.append(found)
            return False

        try:
            set_up(folder, confirm=decline, on_line=lambda line: say(Progress(line)), python=python_executable())
        except SVDRRError:
            if not plans:
                raise
        return plans[0]

    return (yield from in_background(plan, _("Looking what the backend needs")))


def _installed(folder: Path) -> Steps[BackendEnvironment]:
    def install(say: Say) -> BackendEnvironment:
        return set_up(
            folder,
            confirm=lambda plan: True,
            on_line=lambda line: say(Progress(line)),
            python=python_executable(),
        )

    return (yield from in_background(install, _("Setting up the backend")))
