"""Parts that the panels of the Slicer modules share. They need Slicer's `qt`, and change nothing on import."""
