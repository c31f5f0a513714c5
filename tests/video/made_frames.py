"""Frames that are known, and plain decoding to compare with: what the tests of video share."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from muybridge.types import UInt8Array


def straight(path: Path) -> UInt8Array:
    """What plain PyAV yields, frame by frame in one thread, up to the end or the first error."""
    frames = []
    with path.open("rb") as file, av.open(file) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        try:
            for frame in container.decode(stream):
                pixels = frame.reformat(format="rgb24").to_ndarray()
                frames.append(np.rot90(pixels, frame.rotation // 90))
        except av.error.InvalidDataError:
            pass
    return np.stack(frames)


def moving(num_frames: int, height: int = 48, width: int = 64) -> Iterator[UInt8Array]:
    """Smooth colours that move, so that every frame differs from every other."""
    y, x = np.mgrid[:height, :width] / 8
    for t in range(num_frames):
        waves = [np.sin(x + t / 3), np.cos(y - t / 5), np.sin(x + y + t / 7)]
        yield (np.stack(waves, axis=-1) * 100 + 128).astype(np.uint8)


def smooth(num_frames: int, height: int = 96, width: int = 128) -> UInt8Array:
    """Colours that change over the picture and in time, with no two places alike."""
    t, y, x = np.mgrid[:num_frames, :height, :width]
    red, green, blue = x * 200 / width + 20, y * 200 / height + 20, (x + y + 8 * t) % 160 + 40
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)
