"""Where the flow of a view comes from: a folder of stores if it is there, else the frames, at that moment.

Both ways give the same bytes: the same frames, resized to what the clip asks for before flow is computed, the
same method and the same quantiser.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from muybridge.config import ClipSpec
from muybridge.errors import DataError, DecodeError, VideoTooShortError
from muybridge.flow.quantise import quantise
from muybridge.flow.recipe import FlowKind, FlowRecipe, Pair, sha256_of
from muybridge.flow.store import FlowReader
from muybridge.flow.video import StoreSettings, write_flow
from muybridge.types import Size, UInt8Array
from muybridge.video.crops import resized_size
from muybridge.video.sampling import frames_per_segment
from muybridge.video.source import Source

__all__ = ["SUFFIX", "FlowStore", "ReadFrames", "view_codes"]

SUFFIX = ".flow"
REMEMBERED_BYTES = 1 << 26
_making = threading.Lock()  # threads of one process would write to one temporary file

ReadFrames = Callable[[Sequence[int], Size], UInt8Array]  # numbers in rising order -> [N, H, W, 3]


class FlowStore:
    """A folder of stores, as `muybridge flow` makes it. Holds plain values: it can go to workers.

    The store of `root/wave/1.mp4` is `folder/wave/1.mp4.flow`.

    Args:
        folder: where the stores lie.
        root: the folder of the videos; None looks for a store by the video's file name alone.
        write: a video that has no store yet is computed whole, and kept, the first time it is asked for.
        settings: of the stores that are written; their frames have the size that the clip asks for.

    Raises:
        DataError: the folder is not there, and nothing is to be written.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        root: Path | str | None = None,
        write: bool = False,
        settings: StoreSettings | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.root = None if root is None else Path(root)
        self.write = write
        self.settings = settings or StoreSettings()
        self._outside: set[Path] = set()  # they break somewhere, or are too short to be stored
        if not self.folder.is_dir() and not write:
            raise DataError(
                f"there is no folder of flow {self.folder}: make it with muybridge flow VIDEOS --out "
                f"{self.folder}, or have it written through"
            )

    def __repr__(self) -> str:
        return f"FlowStore({self.folder}{', written through' if self.write else ''})"

    def path_of(self, video: Path | str) -> Path:
        """Where the store of a video lies, or would.

        >>> FlowStore(".", root="videos").path_of("videos/wave/1.mp4").as_posix()
        'wave/1.mp4.flow'
        """
        video = Path(video)
        below = Path(video.name)
        if self.root is not None and video.absolute().is_relative_to(self.root.absolute()):
            below = video.absolute().relative_to(self.root.absolute())
        return self.folder / below.with_name(below.name + SUFFIX)

    def codes(
        self, video: Path | str, pairs: Sequence[Pair], spec: ClipSpec, size: Size
    ) -> UInt8Array | None:
        """The fields between pairs of frames; None where this video has no store.

        Args:
            video: the file.
            pairs: frames at which each field starts, and to which it runs.
            spec: which flow is wanted.
            size: of the frames that it is to be of.

        Raises:
            DataError: the store is another video's, or of other flow; says both.
            DecodeError: the store is damaged.
            StorageError: a store cannot be written.

        Shape:
            output [P, 2, H, W], uint8
        """
        path = self.path_of(video)
        if not path.exists() and not self._make(Path(video), path, spec):
            return None
        gaps = sorted({second - first for first, second in pairs})
        with FlowReader(path) as reader:
            reader.expect(
                FlowKind.of_spec(spec),
                size=size,
                resize_filter=spec.resize_filter,
                gaps=gaps,
                sha256=sha256_of(video),
            )
            return reader.codes(pairs)

    def _make(self, video: Path, path: Path, spec: ClipSpec) -> bool:
        if not self.write or video in self._outside or spec.frame_stride is None:
            return False  # frames that are spread over a video are as far apart as it is long
        settings = replace(
            self.settings,
            resize=spec.resize,
            resize_filter=spec.resize_filter,
            stride=spec.frame_stride,
            fps=spec.fps,
        )
        with _making:
            if path.exists():
                return True
            try:
                write_flow(video, path, recipe_of(spec), settings, source_sha256=sha256_of(video))
            except (DecodeError, VideoTooShortError):
                self._outside.add(video)  # what is asked for may still be whole
                return False
        return True


def view_codes(
    source: Source,
    indices: Sequence[int],
    spec: ClipSpec,
    *,
    video_size: Size,
    read: ReadFrames,
    store: FlowStore | None = None,
) -> UInt8Array:
    """The fields of a view: each from one index to the next, within a segment.

    Where a short video stands still or starts again there is no motion: a frame's field to itself, or to an
    earlier frame, is 0.

    Args:
        source: the video.
        indices: frames, T + 1 a segment.
        spec: which flow is wanted, and at which size of the frames.
        video_size: of the frames as they are.
        read: gives frames of a size.
        store: asked first; only files are in it.

    Raises:
        DataError: frames are too small, or the store holds other flow than is wanted.
        DecodeError: frames or the store do not decode.
        StorageError: the store cannot be written.

    Shape:
        output [S * T, 2, H, W], uint8, where H x W is the video's size after the spec's resize
    """
    size = resized_size(video_size, spec.resize)
    pairs = _pairs(indices, frames_per_segment(spec))
    moving = sorted({pair for pair in pairs if pair[0] != pair[1]})
    found: UInt8Array | None = None
    if moving and store is not None and isinstance(source, str | Path):
        found = store.codes(source, moving, spec, size)
    if found is None:
        found = _computed(source, moving, spec, size, read)
    assert spec.flow_bound is not None
    out = np.empty((len(pairs), 2, *size), np.uint8)
    out[:] = quantise(0.0, spec.flow_bound)
    row_of = {pair: row for row, pair in enumerate(moving)}
    for row, pair in enumerate(pairs):
        if pair in row_of:
            out[row] = found[row_of[pair]]
    return out


@lru_cache(maxsize=64)
def recipe_of(spec: ClipSpec) -> FlowRecipe:
    """What the clip's flow is made by. A name with a digest is known to a store alone.

    Raises:
        ConfigError: no such method or preset.
    """
    return FlowRecipe.of_spec(spec)


def _pairs(indices: Sequence[int], per_segment: int) -> list[Pair]:
    """The pairs of each segment; one that does not move on is a frame with itself.

    >>> _pairs((0, 2, 4, 7, 0, 1), 3)
    [(0, 2), (2, 4), (7, 7), (0, 1)]
    """
    segments = [indices[first : first + per_segment] for first in range(0, len(indices), per_segment)]
    return [(first, max(first, second)) for segment in segments for first, second in pairwise(segment)]


def _computed(source: Source, pairs: list[Pair], spec: ClipSpec, size: Size, read: ReadFrames) -> UInt8Array:
    """Fields computed at this moment; those of the last few views are remembered, since crops share them."""
    key = _remembered_as(source, pairs, spec, size)
    found = _recent.get(key)
    if found is None:
        wanted = sorted({index for pair in pairs for index in pair})
        row_of = {index: row for row, index in enumerate(wanted)}
        frames = read(wanted, size)
        found = recipe_of(spec).codes(frames, [(row_of[first], row_of[second]) for first, second in pairs])
        _recent.put(key, found)
    return found


class _Recent:
    """The fields of the last views that were computed, up to a number of bytes. Threads share it."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._codes: OrderedDict[object, UInt8Array] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: object | None) -> UInt8Array | None:
        with self._lock:
            if key is None or key not in self._codes:
                return None
            self._codes.move_to_end(key)
            return self._codes[key]

    def put(self, key: object | None, codes: UInt8Array) -> None:
        if key is None:
            return
        with self._lock:
            self._codes[key] = codes
            while sum(one.nbytes for one in self._codes.values()) > self._max_bytes:
                self._codes.popitem(last=False)


_recent = _Recent(REMEMBERED_BYTES)


def _remembered_as(source: Source, pairs: list[Pair], spec: ClipSpec, size: Size) -> object | None:
    """What tells one computation from another; None where the video has no name."""
    if not isinstance(source, str | Path):
        return None
    try:
        status = Path(source).stat()
    except OSError:
        return None  # the reader says what is wrong
    state = (str(source), status.st_mtime_ns, status.st_size)
    return (state, tuple(pairs), recipe_of(spec), size, spec.resize_filter)
