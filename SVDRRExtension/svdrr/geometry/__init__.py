"""Frames, C-arm poses, view sets, projection matrices and the relative view encoding."""

from svdrr.geometry.carm import CArmPose, Detector, View
from svdrr.geometry.frames import lps_to_ras, ras_to_lps
from svdrr.geometry.viewsets import parse_views, read_views, relative_view_encoding

__all__ = [
    "CArmPose",
    "Detector",
    "View",
    "lps_to_ras",
    "parse_views",
    "ras_to_lps",
    "read_views",
    "relative_view_encoding",
]
