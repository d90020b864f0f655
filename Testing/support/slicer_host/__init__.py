"""A stand-in for the application 3D Slicer, for tests of scripted modules; see README.md beside this file."""

from .host import SlicerHost, host

__all__ = ["SlicerHost", "host"]
