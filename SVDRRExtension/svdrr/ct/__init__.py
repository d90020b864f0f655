"""CT volumes in HU: reading, table removal, phantoms with known truth."""

from svdrr.ct.volume import AIR_HU, CTVolume

__all__ = ["AIR_HU", "CTVolume"]
