"""A video file -> the store of its flow: decoded, computed, quantised and written piece by piece."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np

import muybridge
from muybridge.config import ResizeFilter
from muybridge.errors import ConfigError, VideoTooShortError
from muybridge.flow.header import QUALITIES, FlowHeader
from muybridge.flow.recipe import FlowRecipe
from muybridge.flow.store import write_store
from muybridge.types import Size, UInt8Array, VideoInfo
from muybridge.video.crops import resized_size
from muybridge.video.decode import VideoReader

__all__ = ["StoreSettings", "gaps_at", "write_flow"]

PIECE_BYTES = 1 << 26  # of floating-point fields, computed at a time
MAX_PIECE = 64


@dataclass(frozen=True)
class StoreSettings:
    """What a store holds beside its recipe.

    Attributes:
        resize: short side of the frames before flow is computed, or (height, width); None keeps their size.
        resize_filter: how frames are resized.
        stride: frames from the first of a pair to the second, counted at `fps`.
        fps: the rate that clips will be asked for at; None is the file's own.
        quality: a key of `QUALITIES`.
    """

    resize: int | tuple[int, int] | None = None
    resize_filter: ResizeFilter = "antialias"
    stride: int = 1
    fps: float | None = None
    quality: str = "lossless"

    def __post_init__(self) -> None:
        if self.quality not in QUALITIES:
            known = ", ".join(QUALITIES)
            raise ConfigError(f"no quality '{self.quality}' of stored flow; there are: {known}")
        if self.stride < 1:
            raise ConfigError(f"the stride of stored flow must be at least 1 frame, got {self.stride}")
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise ConfigError(f"the rate of stored flow must be above 0 frames a second, got {self.fps}")


def gaps_at(video_fps: float, *, stride: int = 1, fps: float | None = None) -> tuple[int, ...]:
    """Which gaps between frames a clip of that stride and rate has, wherever it starts.

    From 30 to 25 frames a second every fifth step of a clip is over two frames, and where a clip starts, it
    may be any: so there are fields over one frame and over two, from every frame. Frames that a higher rate
    repeats need no field.

    >>> gaps_at(25), gaps_at(30, fps=25), gaps_at(50, fps=25), gaps_at(15, fps=25), gaps_at(25, stride=3)
    ((1,), (1, 2), (2,), (1,), (3,))
    """
    step = stride if fps is None else stride * video_fps / fps
    return tuple(gap for gap in sorted({math.floor(step), math.ceil(step)}) if gap > 0)


def write_flow(
    video: Path | str,
    path: Path | str,
    recipe: FlowRecipe,
    settings: StoreSettings | None = None,
    *,
    source_sha256: str,
    on_fields: Callable[[int, int], None] | None = None,
) -> FlowHeader:
    """Computes the flow of a whole video into a store, which appears whole or not at all.

    Memory does not grow with the length of the video.

    Args:
        video: the file.
        path: of the store.
        recipe: how flow is made.
        settings: what else the store holds.
        source_sha256: of the video's bytes.
        on_fields: called with the number of fields done and of all.

    Raises:
        VideoError: the video is missing or no video.
        DecodeError: frames of it do not decode.
        VideoTooShortError: it has no two frames that far apart.
        DataError: its frames are too small for the method.
        StorageError: the disk is full, or the folder cannot be written.
    """
    settings = settings or StoreSettings()
    with VideoReader(video) as reader:
        header = _header(reader.info, recipe, settings, source_sha256)
        if not header.num_fields:
            far = max(header.gaps, default=1)
            raise VideoTooShortError(
                f"{video}: flow needs frames {far} apart, and the video has {reader.info.num_frames}: leave "
                "it out, or ask for a smaller stride"
            )
        done = 0
        with write_store(path, header) as writer:
            for gap in header.gaps:
                for codes in _pieces(reader, header, recipe, gap):
                    writer.add(codes)
                    done += len(codes)
                    if on_fields:
                        on_fields(done, header.num_fields)
        return writer.header


def _header(info: VideoInfo, recipe: FlowRecipe, settings: StoreSettings, source_sha256: str) -> FlowHeader:
    size = info.size if settings.resize is None else resized_size(info.size, settings.resize)
    return FlowHeader(
        source=Path(info.path).name,
        source_sha256=source_sha256,
        num_frames=info.num_frames,
        fps=info.fps,
        source_size=info.size,
        size=size,
        resize_filter=None if size == info.size else settings.resize_filter,
        method=recipe.method,
        parameters=recipe.parameters,
        warped=recipe.warped,
        bound=recipe.bound,
        gaps=gaps_at(info.fps, stride=settings.stride, fps=settings.fps),
        quality=settings.quality,
        made_by=_versions(),
    )


def _pieces(reader: VideoReader, header: FlowHeader, recipe: FlowRecipe, gap: int) -> Iterator[UInt8Array]:
    """The fields over one gap, a piece at a time; each frame is decoded once.

    Shape:
        each [P, 2, H, W], uint8
    """
    height, width = header.size
    piece = min(max(1, PIECE_BYTES // (8 * height * width)), MAX_PIECE)
    resize_filter = header.resize_filter or "antialias"
    frames = reader.read(range(gap), size=Size(height, width), resize_filter=resize_filter)
    for first in range(0, header.num_pairs(gap), piece):
        last = min(first + piece, header.num_pairs(gap))
        new = reader.read(
            range(first + gap, last + gap), size=Size(height, width), resize_filter=resize_filter
        )
        frames = np.concatenate([frames[-gap:], new])
        yield recipe.codes(frames, [(i, i + gap) for i in range(last - first)])


@lru_cache(maxsize=1)
def _versions() -> str:
    return ", ".join(
        [
            f"muybridge {muybridge.__version__}",
            f"OpenCV {cv2.__version__}",
            *(f"{name} {version(name)}" for name in ("numpy", "numba", "av")),
        ]
    )
