"""From a video file to a network's input: views are planned, then loaded.

`plan_random_view` (training) and `plan_view` (everything else) decide which frames and which part of them;
`load_view` does what the view says. There is no other way to a tensor, so training, testing, recognition and
extraction see the same bytes for the same view.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import overload

import numpy as np
from torch import Tensor

from muybridge.config import AugmentConfig, ClipSpec
from muybridge.data.cache import FrameCache
from muybridge.errors import ConfigError
from muybridge.flow.source import FlowStore, view_codes
from muybridge.flow.tensor import to_tensor as flow_to_tensor
from muybridge.types import Box, Sample, Size, UInt8Array, VideoInfo, View
from muybridge.video.crops import (
    CropKind,
    area_box,
    center_box,
    corner_scale_box,
    protocol_crops,
    random_box,
    random_color,
    resized_size,
)
from muybridge.video.decode import VideoReader
from muybridge.video.sampling import clip_indices, clip_span
from muybridge.video.source import Source
from muybridge.video.transform import to_tensor

__all__ = ["load_view", "plan_random_view", "plan_view", "video_info"]


@overload
def load_view(
    source: Source,
    view: View,
    spec: ClipSpec,
    *,
    cache: FrameCache | None = None,
    reader: VideoReader | None = None,
    flow: FlowStore | None = None,
) -> Tensor: ...


@overload
def load_view(
    source: Source,
    view: View,
    spec: tuple[ClipSpec, ...],
    *,
    cache: FrameCache | None = None,
    reader: VideoReader | None = None,
    flow: FlowStore | None = None,
) -> tuple[Tensor, ...]: ...


def load_view(
    source: Source,
    view: View,
    spec: ClipSpec | tuple[ClipSpec, ...],
    *,
    cache: FrameCache | None = None,
    reader: VideoReader | None = None,
    flow: FlowStore | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """What the network sees of one view of a video.

    Each frame is decoded once, however often the view has it. With a cache the same bytes come from there:
    the whole video is put into it the first time, except at sizes other than the spec's own (`short_side`
    jitter), which would fill the disk; those are decoded.

    Args:
        source: a file, bytes, a file object, or frames.
        view: frames, size, box, flip and colour.
        spec: how the network sees a clip; a tuple of them, one a modality, gives a tuple of tensors.
        cache: decoded videos on disk, asked first; only files are kept in it.
        reader: an open reader of the source, to be used again for several views of one video.
        flow: stored flow, asked first; without it, or where it lacks a video, the fields of the view are
            computed. Both ways give the same bytes where the store is lossless.

    Raises:
        VideoError: the source is missing or no video.
        DecodeError: frames of the view, or its stored flow, do not decode.
        DataError: the stored flow is another video's or made otherwise, or frames are too small for flow.
        ConfigError: there is no such flow method.
        StorageError: the cache, or a store of flow, cannot be written.

    Shape:
        output float32 [C, T, crop, crop], contiguous; [S, C, T, crop, crop] where num_segments is above 1
    """
    specs = _as_specs(spec)
    if len(specs) != len(view.indices):
        raise ValueError(f"the view is for {len(view.indices)} modalities, the network takes {len(specs)}")
    frames = _Frames(source, specs[0], cache, reader)
    pictures = [indices for indices, one in zip(view.indices, specs, strict=True) if not one.is_flow]
    wanted = sorted({index for indices in pictures for index in indices})
    decoded = frames.read(wanted, view.size)
    row_of = {index: row for row, index in enumerate(wanted)}

    def tensor(indices: tuple[int, ...], one: ClipSpec) -> Tensor:
        if one.is_flow:  # of frames of the spec's own size, whatever the view's: that is what stores hold
            codes = view_codes(
                source, indices, one, video_size=frames.video_size, read=frames.read, store=flow
            )
            return flow_to_tensor(codes, view, one)
        return to_tensor(_rows(decoded, [row_of[index] for index in indices]), view, one)

    tensors = tuple(map(tensor, view.indices, specs))
    return tensors[0] if isinstance(spec, ClipSpec) else tensors


def video_info(source: Source, *, cache: FrameCache | None = None) -> VideoInfo:
    """What a video is, its frames counted. A file is opened once in a process, as long as it does not change.

    Args:
        source: a file, bytes, a file object, or frames.
        cache: knows the videos that it has seen, also from other processes.

    Raises:
        VideoError: the source is missing or no video.
    """
    if not isinstance(source, str | Path):
        with VideoReader(source) as reader:
            return reader.info
    if cache is not None:
        return cache.info(source)
    try:
        status = Path(source).stat()
    except OSError:
        return _file_info(str(source), -1, -1)  # not remembered: the reader says what is wrong
    return _file_info(str(source), status.st_mtime_ns, status.st_size)


def plan_random_view(
    info: VideoInfo,
    sample: Sample,
    specs: ClipSpec | tuple[ClipSpec, ...],
    augment: AugmentConfig,
    rng: random.Random,
) -> View:
    """A view for training: instant, size, box, flip and colour are drawn, once for all modalities.

    Args:
        info: of the sample's file.
        sample: which piece of the file.
        specs: how the network sees a clip, one a modality; they must agree on resize, filter, crop, segments.
        augment: what is random.
        rng: draws it all; the same state gives the same view.

    Raises:
        ConfigError: the specs do not agree, or `short_side` starts below the crop.
        VideoTooShortError: no frames in the piece, or too few under short_policy="error".
    """
    specs = _as_specs(specs)
    _check_agreement(specs)
    spec = specs[0]
    # Each modality draws from the same seed among the same places, so all of them start at one frame.
    seed = rng.getrandbits(64)
    indices = tuple(_indices(one, info, sample, specs, rng=random.Random(seed)) for one in specs)
    size = _random_size(info, spec, augment, rng)
    return View(
        indices=indices,
        size=size,
        box=_random_box(size, spec, augment, rng),
        flip=augment.flip and rng.random() < 0.5,
        color=random_color(augment, rng),
        name="random",
    )


def plan_view(
    info: VideoInfo,
    sample: Sample,
    specs: ClipSpec | tuple[ClipSpec, ...],
    *,
    position: float = 0.5,
    crops: CropKind = "center",
    crop_index: int = 0,
    clip_name: str = "",
) -> View:
    """A view for testing.

    Args:
        info: of the sample's file.
        sample: which piece of the file.
        specs: how the network sees a clip, one a modality; they must agree on resize, filter, crop, segments.
        position: where the clip lies among its possible places, from 0 (first) to 1 (last); with segments, or
            spread, where inside each part.
        crops: a set of crops: "center"; "three" along the long side; "five"; "ten".
        crop_index: which one of the set.
        clip_name: opens the view's name, which goes on with the crop's: "clip 3/10, left".

    Raises:
        ConfigError: the specs do not agree.
        VideoTooShortError: no frames in the piece, or too few under short_policy="error".
    """
    specs = _as_specs(specs)
    _check_agreement(specs)
    size = resized_size(info.size, specs[0].resize)
    crop = protocol_crops(crops, size, specs[0].crop)[crop_index]
    return View(
        indices=tuple(_indices(one, info, sample, specs, position=position) for one in specs),
        size=size,
        box=crop.box,
        flip=crop.flip,
        name=f"{clip_name}, {crop.name}" if clip_name else crop.name,
    )


def _as_specs(specs: ClipSpec | tuple[ClipSpec, ...]) -> tuple[ClipSpec, ...]:
    return (specs,) if isinstance(specs, ClipSpec) else specs


def _check_agreement(specs: tuple[ClipSpec, ...]) -> None:
    for field in ("resize", "resize_filter", "crop", "num_segments"):
        values = [getattr(spec, field) for spec in specs]
        if any(value != values[0] for value in values):
            found = ", ".join(f"{spec.modality} {value}" for spec, value in zip(specs, values, strict=True))
            raise ConfigError(
                f"the modalities of one network share instant and crop, but their specs differ in {field}: "
                f"{found}; give all of them the same {field}"
            )


def _indices(
    spec: ClipSpec,
    info: VideoInfo,
    sample: Sample,
    specs: tuple[ClipSpec, ...],
    *,
    position: float | None = None,
    rng: random.Random | None = None,
) -> tuple[int, ...]:
    """Leaves room for the longest of the modalities, so that all start at one frame."""
    return clip_indices(
        spec,
        info,
        position=position,
        rng=rng,
        start_seconds=sample.start_seconds,
        end_seconds=sample.end_seconds,
        span=max(clip_span(one, info.fps) for one in specs),
    )


def _random_size(info: VideoInfo, spec: ClipSpec, augment: AugmentConfig, rng: random.Random) -> Size:
    size = resized_size(info.size, spec.resize)
    if augment.short_side is None:
        return size
    if augment.short_side[0] < spec.crop:
        raise ConfigError(
            f"augment.short_side starts at {augment.short_side[0]} pixels, below the crop of {spec.crop}: "
            "raise it, or lower clip.crop"
        )
    # A (height, width) resize keeps its own aspect ratio, as in testing; a short side keeps the file's.
    whole = info.size if isinstance(spec.resize, int) else size
    return resized_size(whole, rng.randint(*augment.short_side))


def _random_box(size: Size, spec: ClipSpec, augment: AugmentConfig, rng: random.Random) -> Box:
    if augment.crop == "corners":
        return corner_scale_box(size, spec.crop, rng, scales=augment.crop_scales)
    if augment.crop == "area":
        return area_box(size, spec.crop, rng, area=augment.crop_area)
    return random_box(size, spec.crop, rng) if augment.crop == "random" else center_box(size, spec.crop)


@dataclass(frozen=True)
class _Frames:
    """Frames of one video, out of the cache or decoded; each once a call."""

    source: Source
    spec: ClipSpec
    cache: FrameCache | None
    reader: VideoReader | None

    @property
    def video_size(self) -> Size:
        info = self.reader.info if self.reader else video_info(self.source, cache=self.cache)
        return info.size

    def read(self, wanted: Sequence[int], size: Size) -> UInt8Array:
        """Frames of these numbers, which rise, at a size.

        Shape:
            output [len(wanted), H, W, 3]
        """
        if not wanted:
            return np.empty((0, *size, 3), np.uint8)
        cached = self._cached(wanted, size)
        if cached is not None:
            return cached
        if self.reader is not None:
            return self.reader.read(wanted, size=size, resize_filter=self.spec.resize_filter)
        with VideoReader(self.source) as own:
            return own.read(wanted, size=size, resize_filter=self.spec.resize_filter)

    def _cached(self, wanted: Sequence[int], size: Size) -> UInt8Array | None:
        """The frames out of the cache; None where they have to be decoded."""
        if self.cache is None or not isinstance(self.source, str | Path):
            return None
        if size != resized_size(self.cache.info(self.source).size, self.spec.resize):
            return None
        cached = self.cache.get(self.source, size, self.spec.resize_filter)
        if cached is None or wanted[-1] >= len(cached.frames):
            return None
        return _rows(np.asarray(cached.frames), wanted)


def _rows(frames: UInt8Array, rows: Sequence[int]) -> UInt8Array:
    """frames[rows], without a copy where the rows are evenly spaced.

    >>> _rows(np.arange(10, dtype=np.uint8), [1, 4, 7]).base is not None
    True
    """
    step = rows[1] - rows[0] if len(rows) > 1 else 1
    if step > 0 and list(rows) == list(range(rows[0], rows[-1] + 1, step)):
        return frames[rows[0] : rows[-1] + 1 : step]
    return frames[list(rows)]


@lru_cache(maxsize=8192)
def _file_info(path: str, mtime_ns: int, size_bytes: int) -> VideoInfo:
    """Remembered for each state of a file; errors are not."""
    with VideoReader(path) as reader:
        return reader.info
