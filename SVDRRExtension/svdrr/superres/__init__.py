"""Super-resolution for radiographs: the interface and classical interpolation."""

from svdrr.superres.enhance import METHODS, SCALES, enhance

__all__ = ["METHODS", "SCALES", "enhance"]
