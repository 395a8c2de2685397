"""A CLIP in memory: two towers behind one small interface."""
