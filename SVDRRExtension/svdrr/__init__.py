"""SVDRR: novel X-ray views from a single radiograph, and the DRR tools around it."""

__version__ = "0.1.0"
