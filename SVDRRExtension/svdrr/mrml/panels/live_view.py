"""Synthetic views that follow two sliders of the panel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from slicer.i18n import tr as _

from svdrr.geometry import CArmPose
from svdrr.mrml.backend import BackendChoice
from svdrr.mrml.panels.preview_picture import PreviewPicture
from svdrr.mrml.synthesis import LiveSource, SynthesisOrder
from svdrr.mrml.targets import TargetViews
from svdrr.radiograph import Radiograph

# With more of them a model falls behind a slider.
_FEW_STEPS = 4


class LiveView:
    """Shows them in two labels of the panel, see `PreviewPicture`."""

    def __init__(self, picture_label: Any, status_label: Any) -> None:
        self._source = LiveSource()
        self._picture = PreviewPicture(picture_label, status_label, self._source.steps, _sentence)
        self._made_of: tuple[Any, ...] = ()

    def show(self, node: Any, order: SynthesisOrder, choice: BackendChoice, reasons: list[str]) -> None:
        """Show the one view that is ordered as soon as it is made. reasons: why there is none, a sentence each."""
        angles = CArmPose(order.targets.primary_deg, order.targets.secondary_deg)
        made_of = replace(order, targets=TargetViews()), choice
        if made_of != self._made_of:
            # What another model, or another preparation, has made does not stay while the new view is awaited.
            self.clear()
            self._made_of = made_of
        self._picture.show(node, angles, made_of[0], choice, reasons)

    def clear(self) -> None:
        """Show nothing, and ask the backend for nothing."""
        self._picture.clear()

    def pause(self) -> None:
        """Ask the backend for nothing more until the next `show`."""
        self._picture.pause()

    def cleanup(self) -> None:
        """Forget the radiograph, here and in the backend, because the panel goes."""
        self._picture.cleanup()
        self._source.forget()


def _sentence(radiograph: Radiograph, seconds: float) -> str:
    made = radiograph.provenance
    assert radiograph.view is not None
    assert made is not None
    sentence = _("{label}, by {model} in {seconds:.1f} s. SYNTHETIC, not for diagnosis.").format(
        label=radiograph.view.pose.label, model=made.model, seconds=seconds
    )
    steps = int(made.settings.get("Steps", 0))
    if steps <= _FEW_STEPS:
        return sentence
    slow = _("This model takes {steps} steps; a few-step model follows the slider faster.").format(steps=steps)
    return f"{sentence} {slow}"
