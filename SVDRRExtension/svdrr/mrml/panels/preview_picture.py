"""The live preview in a panel: a picture, and below it a sentence."""

from __future__ import annotations

from typing import Any

import qt
from slicer.i18n import tr as _

from svdrr.geometry import CArmPose
from svdrr.mrml.backend import BackendChoice, uploads_allowed
from svdrr.mrml.drr import CTSource, DRRSettings
from svdrr.mrml.panels.stepper import Stepper
from svdrr.mrml.preview import LivePreview, picture
from svdrr.mrml.task import Progress
from svdrr.radiograph import Radiograph

_SHOWN_PIXELS = 256


class PreviewPicture:
    """Shows previews in two labels of the panel. source: where the CT's voxels are kept.

    In the panel, and not in the scene, so that no volume comes and goes there while a slider moves, nothing is saved
    with it, and the slice views stay on what the user looks at.
    """

    def __init__(self, picture_label: Any, status_label: Any, source: CTSource) -> None:
        self._picture, self._status = picture_label, status_label
        self._preview = LivePreview(source)
        self._stepper = Stepper(self._say, lambda sentence, details: self._end(sentence))
        self._wanted: tuple[Any, ...] = ()
        self.clear()

    def show(self, node: Any, pose: CArmPose, settings: DRRSettings, choice: BackendChoice, reasons: list[str]) -> None:
        """Show this view as soon as it is rendered. reasons: why the backend cannot be asked, a sentence each."""
        if not uploads_allowed(choice):
            reasons = [
                _("There is no preview before you agree that images are sent to {host}.").format(host=choice.host)
            ]
        if reasons:
            self.clear(reasons[0])
            return
        ct = node.GetID(), node.GetImageData().GetMTime(), node.GetMTime()
        wanted = (ct, pose, settings, choice)
        if wanted == self._wanted:
            return
        if self._wanted and ct != self._wanted[0]:
            # It may take a while until there is a picture of another CT.
            self.clear()
        self._wanted = wanted
        self._preview.want(node, pose, settings, choice)
        if not self._stepper.running:
            self._stepper.start(self._preview.steps(self._arrived), lambda nothing: None)

    def clear(self, sentence: str = "") -> None:
        """Show no picture but this sentence."""
        self.pause()
        self._picture.pixmap = qt.QPixmap()
        self._status.text = sentence

    def pause(self) -> None:
        """Render nothing more until the next `show`."""
        self._stepper.cancel()
        self._wanted = ()

    def cleanup(self) -> None:
        """Have the backend forget the CT, because the panel goes."""
        self.clear()
        self._preview.close()

    def _arrived(self, radiograph: Radiograph) -> None:
        pixmap = qt.QPixmap()
        pixmap.loadFromData(picture(radiograph))
        self._picture.pixmap = pixmap.scaled(_SHOWN_PIXELS, _SHOWN_PIXELS)
        assert radiograph.view is not None
        self._status.text = _("Preview: {label}. SYNTHETIC, not for diagnosis: a DRR of the CT.").format(
            label=radiograph.view.pose.label
        )

    def _say(self, progress: Progress) -> None:
        # Once there is a picture, previews are quicker than anyone reads.
        if self._picture.pixmap is None or self._picture.pixmap.isNull():
            self._status.text = progress.stage

    def _end(self, sentence: str) -> None:
        self._wanted = ()
        self._picture.pixmap = qt.QPixmap()
        self._status.text = sentence
