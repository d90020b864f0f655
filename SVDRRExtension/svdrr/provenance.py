"""What every computed image says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

from svdrr import __version__

PREFIX = "SVDRR."
SYNTHETIC_LABEL = "SYNTHETIC, not for diagnosis"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Provenance:
    """Where a computed image comes from.

    method: such as "DRR (siddon)" or "VCDiT". source: a description without patient data, such as a hash of
    the source's pixels. settings: whatever else made the image what it is, as text.
    """

    method: str
    source: str
    model: str = ""
    weights_sha256: str = ""
    seed: int | None = None
    settings: dict[str, str] = field(default_factory=dict)
    software: str = f"SVDRR {__version__}"
    time_utc: str = field(default_factory=_now)

    def attributes(self) -> dict[str, str]:
        """Plain text by name, for MRML node attributes, PNG text chunks and NRRD fields; empty entries left out."""
        entries = {
            "Synthetic": SYNTHETIC_LABEL,
            "Method": self.method,
            "Model": self.model,
            "WeightsSHA256": self.weights_sha256,
            "Seed": "" if self.seed is None else str(self.seed),
            "Source": self.source,
            "Software": self.software,
            "TimeUTC": self.time_utc,
            **self.settings,
        }
        return {PREFIX + name: value for name, value in entries.items() if value}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, str]) -> Provenance | None:
        """Inverse of `attributes`; None where nothing says that the image was computed. Other names are ignored."""
        entries = {name.removeprefix(PREFIX): value for name, value in attributes.items() if name.startswith(PREFIX)}
        if "Synthetic" not in entries:
            return None
        seed = entries.get("Seed", "")
        return cls(
            method=entries.get("Method", ""),
            source=entries.get("Source", ""),
            model=entries.get("Model", ""),
            weights_sha256=entries.get("WeightsSHA256", ""),
            seed=int(seed) if seed else None,
            settings={name: value for name, value in entries.items() if name not in _NAMED},
            software=entries.get("Software", ""),
            time_utc=entries.get("TimeUTC", ""),
        )


def source_text(origin: Provenance | None, pixels_sha256: str) -> str:
    """What provenance calls a source image, so that a view of a computed one does not pass for one of a real one.

    origin: the source's own provenance, None for an image that was taken.
    """
    kind = f"computed image ({origin.method})" if origin else "radiograph"
    return f"{kind} with pixels SHA-256 {pixels_sha256}"


def enhanced(origin: Provenance | None, made: Provenance) -> Provenance:
    """The provenance of an image that was enlarged.

    origin: that of the image before, None for one that was taken. made: that of the enlargement alone, whose method is
    such as "lanczos x2" and whose source is the hash of the image before. What a computed image says of itself stays;
    the enlargement joins its settings, and takes the place there of what an earlier one had said.
    """
    if origin is None:
        return made
    earlier = origin.settings.get("Enhancement")
    kept = {name: value for name, value in origin.settings.items() if name not in _OF_ENHANCEMENTS}
    history = {"Enhancement": f"{earlier}, {made.method}" if earlier else made.method, "EnhancedFrom": made.source}
    if made.model:
        history |= {"EnhancementModel": made.model, "EnhancementWeightsSHA256": made.weights_sha256}
    if made.seed is not None:
        history["EnhancementSeed"] = str(made.seed)
    return replace(origin, settings={**kept, **history, **made.settings})


_OF_ENHANCEMENTS = (
    "EnhancementModel",
    "EnhancementWeightsSHA256",
    "EnhancementSeed",
    "Code",
    "Projection",
    "DataConsistencyResidual",
)

_NAMED = (
    "Synthetic",
    "Method",
    "Model",
    "WeightsSHA256",
    "Seed",
    "Source",
    "Software",
    "TimeUTC",
    "View",
    "PixelSpacing",
    "ViewPosition",
)
