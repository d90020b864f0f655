"""The model registry."""

from svdrr.models.registry import ModelDescription, available_models, find_model

__all__ = ["ModelDescription", "available_models", "find_model"]
