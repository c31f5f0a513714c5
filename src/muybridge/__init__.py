"""muybridge names the action in a video."""

__version__ = "0.1.0"
