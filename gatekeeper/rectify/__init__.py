"""Make a cleaned version of a failed model."""
