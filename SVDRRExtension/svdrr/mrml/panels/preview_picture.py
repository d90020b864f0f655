"""The live preview in a panel: a picture, and below it a sentence."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from svdrr.backend.request import Request
from svdrr.geometry import CArmPose
from svdrr.mrml.backend import BackendChoice, uploads_allowed
from svdrr.mrml.panels.stepper import Stepper
from svdrr.mrml.preview import LivePreview, picture
from svdrr.mrml.task import Progress, Steps
from svdrr.provenance import SYNTHETIC_LABEL
from svdrr.radiograph import Radiograph

_SHOWN_PIXELS = 256
_LABEL_PIXELS = 13
# What is quicker than this needs no word on how far it is.
_SLOW_S = 1.0


class PreviewPicture:
    """Shows previews in two labels of the panel.

    request: steps to a request for one view of a node, from a pose, with settings of any kind, see `LivePreview.want`.
    sentence: what to say about a view that took so many seconds.

    In the panel, and not in the scene, so that no volume comes and goes there while a slider moves, nothing is saved
    with it, and the slice views stay on what the user looks at. As the slice views do, the picture says SYNTHETIC.
    """

    def __init__(
        self,
        picture_label: Any,
        status_label: Any,
        request: Callable[[Any, CArmPose, Any], Steps[Request]],
        sentence: Callable[[Radiograph, float], str],
    ) -> None:
        self._picture, self._status = picture_label, status_label
        self._request, self._sentence = request, sentence
        self._preview = LivePreview()
        self._stepper = Stepper(self._say, lambda sentence, details: self._end(sentence))
        self._wanted: tuple[Any, ...] = ()
        self.clear()

    def show(self, node: Any, pose: CArmPose, settings: Any, choice: BackendChoice, reasons: list[str]) -> None:
        """Show this view as soon as it is made. reasons: why the backend cannot be asked, a sentence each."""
        if not uploads_allowed(choice):
            reasons = [
                _("There is no preview before you agree that images are sent to {host}.").format(host=choice.host)
            ]
        if reasons:
            self.clear(reasons[0])
            return
        source = node.GetID(), node.GetImageData().GetMTime(), node.GetMTime()
        wanted = (source, pose, settings, choice)
        if wanted == self._wanted:
            return
        if self._wanted and source != self._wanted[0]:
            # It may take a while until there is a picture of another one.
            self.clear()
        self._wanted = wanted
        self._preview.want(self._request(node, pose, settings), choice)
        if not self._stepper.running:
            self._since = time.monotonic()
            self._stepper.start(self._preview.steps(self._arrived), lambda nothing: None)

    def clear(self, sentence: str = "") -> None:
        """Show no picture but this sentence."""
        self._stepper.cancel()
        self._end(sentence)

    def pause(self) -> None:
        """Make nothing more until the next `show`."""
        if self._stepper.running:
            self._stepper.cancel()
            self._wanted = ()
            self._status.text = self._told

    def cleanup(self) -> None:
        """Have the backend forget the pixels, because the panel goes."""
        self.clear()
        self._preview.close()

    def _arrived(self, radiograph: Radiograph, seconds: float) -> None:
        pixmap = qt.QPixmap()
        pixmap.loadFromData(picture(radiograph))
        # Pixels are seen as they are, unless there are more of them than fit.
        is_larger = max(radiograph.pixels.shape) > _SHOWN_PIXELS
        transformation = qt.Qt.SmoothTransformation if is_larger else qt.Qt.FastTransformation
        shown = pixmap.scaled(_SHOWN_PIXELS, _SHOWN_PIXELS, qt.Qt.IgnoreAspectRatio, transformation)
        _label(shown)
        self._picture.pixmap = shown
        self._status.text = self._told = self._sentence(radiograph, seconds)
        self._since = time.monotonic()

    def _say(self, progress: Progress) -> None:
        # Once there is a picture, most previews are quicker than anyone reads.
        if not self._told or time.monotonic() - self._since > _SLOW_S:
            self._status.text = f"{self._told} {progress.stage} …".strip()

    def _end(self, sentence: str) -> None:
        self._wanted, self._told = (), ""
        self._picture.pixmap = qt.QPixmap()
        self._status.text = sentence


def drr_sentence(radiograph: Radiograph, seconds: float) -> str:
    """What a panel says about the preview of a DRR."""
    assert radiograph.view is not None
    return _("Preview: {label}. SYNTHETIC, not for diagnosis: a DRR of the CT.").format(
        label=radiograph.view.pose.label
    )


def _label(pixmap: Any) -> None:
    """Write into a picture that it was computed, with a shadow that shows over bright bone."""
    painter = qt.QPainter(pixmap)
    font = qt.QFont()
    font.setPixelSize(_LABEL_PIXELS)
    painter.setFont(font)
    left, base = _LABEL_PIXELS // 2, _SHOWN_PIXELS - _LABEL_PIXELS // 2
    for color, offset in (("#000000", 1), ("#ffbf00", 0)):
        painter.setPen(qt.QColor(color))
        painter.drawText(left + offset, base + offset, SYNTHETIC_LABEL)
    painter.end()
