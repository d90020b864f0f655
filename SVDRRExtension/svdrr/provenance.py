"""What every computed image says about itself."""

from __future__ import annotations

from dataclasses import dataclass, field
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
