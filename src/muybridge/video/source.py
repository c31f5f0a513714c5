"""What a video can be read from: a path, bytes, an open file, or decoded frames."""

import io
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np

from muybridge.errors import VideoError
from muybridge.types import UInt8Array

FileSource = str | Path | bytes | BinaryIO
Source = FileSource | UInt8Array


def source_name(source: Source) -> str:
    """How messages and `VideoInfo.path` call it.

    >>> source_name(b"...")
    '<bytes>'
    """
    if isinstance(source, str | Path):
        return str(source)
    if isinstance(source, np.ndarray):
        return "<arrays>"
    return "<bytes>" if isinstance(source, bytes) else "<file object>"


def rereadable(source: FileSource) -> FileSource:
    """The source itself, or its bytes if it is a stream that cannot go back to its start.

    Raises:
        VideoError: it is nothing that a video can be read from.
    """
    if isinstance(source, str | Path | bytes):
        return source
    if not (hasattr(source, "read") and hasattr(source, "seekable")):
        raise VideoError(
            f"a video cannot be read from {type(source).__name__}: give a path, bytes, a binary file, or "
            "frames as a uint8 array [T, H, W, 3]"
        )
    if isinstance(source, io.TextIOBase):
        raise VideoError("a video cannot be read from a text file: open it with mode 'rb'")
    return source if source.seekable() else source.read()


def open_bytes(source: FileSource, closing: ExitStack) -> BinaryIO:
    """The bytes of a source, at their start; `closing` closes what is opened here.

    Raises:
        VideoError: missing, a directory, empty, or not to be read.
    """
    name = source_name(source)
    if isinstance(source, bytes):
        if not source:
            raise VideoError(f"{name} is empty (0 bytes): there is no video in it")
        return io.BytesIO(source)
    if not isinstance(source, str | Path):
        source.seek(0)
        return source
    path = Path(source)
    try:
        if path.is_dir():
            raise VideoError(f"{name} is a directory: name a video file in it")
        if path.exists() and not path.is_file():
            raise VideoError(f"{name} is neither a file nor a directory: name a video file")
        file = closing.enter_context(path.open("rb", buffering=0))
        if not path.stat().st_size:
            raise VideoError(f"{name} is empty (0 bytes): get it anew or drop it")
    except FileNotFoundError:
        raise VideoError(f"{name} does not exist: check the path") from None
    except OSError as error:
        raise unreadable(name, error) from error
    return file


def unreadable(name: str, error: OSError) -> VideoError:
    """The disk or the permissions, not the video, are at fault."""
    return VideoError(f"{name} cannot be read: {error.strerror or error}")
