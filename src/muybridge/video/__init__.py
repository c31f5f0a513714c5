"""Frames out of files and into them, which of them, and how they become tensors."""
