"""Bytes on disk, verified, become a model; nothing in them is executed."""
