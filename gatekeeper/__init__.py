"""The gate between an MLflow registry and production for CLIP models."""

__version__ = "0.1.0"
