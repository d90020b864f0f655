"""Super-resolution for radiographs: the interface and classical interpolation."""

from svdrr.superres.enhance import METHODS, SCALES, check_method, enhance

__all__ = ["METHODS", "SCALES", "check_method", "enhance"]
