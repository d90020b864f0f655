"""The runs that made the feature distance and the mean thorax."""
