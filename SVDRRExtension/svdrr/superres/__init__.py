"""Super-resolution for radiographs: classical interpolation, LCMSR, DeltaDiff, a regression network; data fidelity."""

from svdrr.superres.enhance import (
    METHODS,
    SCALES,
    available_methods,
    check_enhancement,
    check_method,
    enhance,
    uncertainty,
)

__all__ = ["METHODS", "SCALES", "available_methods", "check_enhancement", "check_method", "enhance", "uncertainty"]
