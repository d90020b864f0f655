"""The runs that made the feature distance and the lifting baseline."""
