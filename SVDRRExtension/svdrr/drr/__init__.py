"""Digitally reconstructed radiographs: attenuation, render engines behind one interface, display mapping."""

from svdrr.drr.attenuation import AttenuationVolume, attenuation
from svdrr.drr.display import from_display, to_display
from svdrr.drr.parallel import render_each
from svdrr.drr.renderer import ENGINES, Renderer, check_engine, make_renderer

__all__ = [
    "ENGINES",
    "AttenuationVolume",
    "Renderer",
    "attenuation",
    "check_engine",
    "from_display",
    "make_renderer",
    "render_each",
    "to_display",
]
