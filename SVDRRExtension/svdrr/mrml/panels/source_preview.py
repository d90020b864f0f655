"""What a model will get of a radiograph, in a panel: a picture, and below it a sentence."""

from __future__ import annotations

from typing import Any

import qt
from slicer.i18n import tr as _

from svdrr.mrml.panels.stepper import Stepper
from svdrr.mrml.synthesis import SourceShown, source_steps
from svdrr.preparation import Preparation
from svdrr.synthesis.preparation import OfferedModel


class SourcePreview:
    """Shows it in two labels of the panel, anew whenever something changes; nothing comes into the scene."""

    def __init__(self, picture_label: Any, status_label: Any) -> None:
        self._picture, self._status = picture_label, status_label
        self._stepper = Stepper(lambda progress: None, lambda sentence, details: self.clear(sentence))
        self._wanted: tuple[Any, ...] = ()
        self._begun: tuple[Any, ...] = ()
        self.clear()

    def show(self, node: Any, preparation: Preparation, model: OfferedModel) -> None:
        """Show this radiograph beside what the model gets of it, once it is made."""
        times = node.GetMTime(), node.GetImageData().GetMTime()
        self._wanted = (node, preparation, model, times)
        # What is under way ends first: a slider asks faster than a thread ends.
        if self._wanted != self._begun and not self._stepper.running:
            self._begin()

    def clear(self, sentence: str = "") -> None:
        """Show no picture but this sentence."""
        self._stepper.cancel()
        self._wanted = self._begun = ()
        self._picture.pixmap = qt.QPixmap()
        self._picture.visible = False
        self._status.text = sentence
        self._status.visible = bool(sentence)

    def _begin(self) -> None:
        self._begun = self._wanted
        node, preparation, model, _times = self._begun
        self._stepper.start(source_steps(node, preparation, model), self._arrived)

    def _arrived(self, shown: SourceShown) -> None:
        pixmap = qt.QPixmap()
        pixmap.loadFromData(shown.picture)
        self._picture.pixmap = pixmap
        model = self._begun[2]
        words = [
            _("Left: the radiograph. Right: what the model gets, {pixels} x {pixels} pixels over {mm:g} mm.").format(
                pixels=model.resolution, mm=model.field_of_view_mm
            ),
            _("Gray values matched to those of its training images.")
            if shown.is_matched
            else _("Gray values as they are: a DRR has those of the training images."),
        ]
        if shown.is_computed:
            words.append(_("SYNTHETIC, not for diagnosis: the radiograph is a computed image."))
        self._status.text = " ".join(words)
        self._picture.visible = self._status.visible = True
        if self._wanted != self._begun:
            self._begin()
