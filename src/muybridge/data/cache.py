"""Decoded, resized videos on disk: a small data set is decoded once, then read as memory-mapped bytes.

In the folder lie, for each video, `<video>-<state>.json` (what `VideoReader.info` said) and, for each size
and filter that was asked for, `<video>-<state>-<height>x<width>-<filter>.npy` (uint8 [N, H, W, 3], the whole
video). `<video>` stands for the absolute path, `<state>` for the file's time and length, the decoder's
version and the version of this layout: a video that changed has other names, and the old ones are removed.
A file has its name only when it is whole, so processes that make one entry at once cannot harm each other.
"""

import hashlib
import json
import threading
import time
import warnings
from dataclasses import asdict, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

from muybridge.config import ResizeFilter
from muybridge.errors import DecodeError, VideoError
from muybridge.files import atomic_path, storage_error
from muybridge.types import Size, UInt8Array, VideoInfo
from muybridge.video.decode import VideoReader

__all__ = ["CachedVideo", "FrameCache"]

LAYOUT_VERSION = 1
CHUNK_BYTES = 8 << 20  # decoded at a time while an entry is made
LEFTOVER_SECONDS = 3600.0  # a temporary file this old belongs to a process that was killed

# Temporary names tell processes apart, not the threads of one.
_making = threading.Lock()


class CachedVideo(NamedTuple):
    """One video of the cache.

    Attributes:
        frames: all of them, uint8 [N, H, W, 3], RGB, memory-mapped, not to be written to.
        info: of the video file.
    """

    frames: UInt8Array
    info: VideoInfo


class FileState(NamedTuple):
    """What tells one state of a video file from another.

    Attributes:
        path: absolute, without symbolic links.
        mtime_ns: when it was last written, nanoseconds.
        size_bytes: length of the file.
    """

    path: str
    mtime_ns: int
    size_bytes: int

    @property
    def video(self) -> str:
        """First part of the names of its entries: 16 hex digits for the path."""
        return hashlib.sha256(self.path.encode()).hexdigest()[:16]

    @property
    def stem(self) -> str:
        """First and second part of the names of its entries."""
        key = f"{LAYOUT_VERSION}/{_decoder_version()}/{self.mtime_ns}/{self.size_bytes}"
        return f"{self.video}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


class FrameCache:
    """Memory-mapped frames of whole videos, made on first use. Holds plain values: it can go to workers.

    Args:
        folder: where they lie; made if it is not there.
        max_bytes: when a further video would not fit into so many bytes, it stays outside and is decoded each
            time (one warning says so); what is inside stays there. Processes that add videos at the same time
            may each exceed this by one video. None has no limit.

    Raises:
        StorageError: the folder cannot be made.
    """

    def __init__(self, folder: Path | str, *, max_bytes: int | None = None) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(self.folder, error) from error
        self.max_bytes = max_bytes
        self._outside: set[str] = set()  # names of entries that this process found it cannot make
        self._warned = False

    def __repr__(self) -> str:
        limit = "" if self.max_bytes is None else f", at most {self.max_bytes / 1e9:g} GB"
        return f"FrameCache({self.folder}{limit})"

    def info(self, path: Path | str) -> VideoInfo:
        """What the video file is, without opening it where the cache has seen it in this state.

        Raises:
            VideoError: the file is missing or no video.
            StorageError: the cache cannot be written.
        """
        return self._info(path, _state(path))

    def get(
        self, path: Path | str, size: Size, resize_filter: ResizeFilter = "antialias"
    ) -> CachedVideo | None:
        """All frames of a video, resized; decoded now if they are not there yet.

        Returns:
            None where this video cannot be in the cache and the caller has to decode what it needs: there is
            no room, or some of its frames do not decode.

        Raises:
            VideoError: the file is missing or no video.
            StorageError: the disk is full, or the folder cannot be written.
        """
        state = _state(path)
        info = self._info(path, state)
        entry = self.folder / f"{state.stem}-{size.height}x{size.width}-{resize_filter}.npy"
        frames = _open(entry, info, size)
        if frames is None and entry.name not in self._outside:
            frames = self._make(path, entry, info, size, resize_filter)
        return None if frames is None else CachedVideo(frames, info)

    def size_bytes(self) -> int:
        """What the cache takes on disk now."""
        return sum(file.size_bytes for file in _listing(self.folder))

    def prune(self) -> int:
        """Removes what is of no use, then the oldest entries until `max_bytes` hold; returns the bytes freed.

        Of no use are entries of videos that changed or are gone, and half-written files of killed processes.
        """
        files = _listing(self.folder)
        before = sum(file.size_bytes for file in files)
        stems = {file.path.stem for file in files if file.is_header and _is_current(file.path)}
        for file in files:
            if file.is_temporary:
                useless = time.time() - file.mtime_seconds > LEFTOVER_SECONDS
            else:
                useless = "-".join(file.path.stem.split("-")[:2]) not in stems
            if useless:
                file.path.unlink(missing_ok=True)
        if self.max_bytes is not None:
            _remove_oldest(self.folder, self.max_bytes)
        return before - self.size_bytes()

    def _info(self, path: Path | str, state: FileState) -> VideoInfo:
        header = self.folder / f"{state.stem}.json"
        try:
            info = _read_header(header)
        except (OSError, ValueError, TypeError, KeyError):  # not there, or not of our writing
            with VideoReader(path) as reader:
                info = reader.info
            _write_header(header, state, info)
        return replace(info, path=str(path))

    def _make(
        self, path: Path | str, entry: Path, info: VideoInfo, size: Size, resize_filter: ResizeFilter
    ) -> UInt8Array | None:
        with _making:
            frames = _open(entry, info, size)  # another thread may have been faster
            if frames is None and self._has_room(info.num_frames * size.height * size.width * 3):
                try:
                    _write_frames(path, entry, size, resize_filter)
                except DecodeError:
                    self._outside.add(entry.name)
                    return None
                frames = _open(entry, info, size)
        if frames is None:
            self._outside.add(entry.name)
        return frames

    def _has_room(self, num_bytes: int) -> bool:
        if self.max_bytes is None or self.size_bytes() + num_bytes <= self.max_bytes:
            return True
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"the cache {self.folder} is full (max_bytes={self.max_bytes}): further videos are decoded "
                "each time; raise max_bytes, or remove what is of no use with prune()",
                stacklevel=4,
            )
        return False


class _File(NamedTuple):
    """One file of the cache's folder."""

    path: Path
    size_bytes: int
    mtime_seconds: float

    @property
    def is_temporary(self) -> bool:
        return self.path.name.startswith(".")

    @property
    def is_header(self) -> bool:
        return self.path.suffix == ".json" and not self.is_temporary


def _listing(folder: Path) -> list[_File]:
    """The cache's files, and only them: whatever else lies in the folder is not ours to count or remove."""
    files = []
    for path in folder.iterdir():
        if path.suffix not in (".json", ".npy"):
            continue
        try:
            status = path.stat()
        except FileNotFoundError:  # another process renamed or removed it meanwhile
            continue
        files.append(_File(path, status.st_size, status.st_mtime))
    return files


def _remove_oldest(folder: Path, max_bytes: int) -> None:
    files = _listing(folder)
    total = sum(file.size_bytes for file in files)
    for file in sorted(files, key=lambda one: one.mtime_seconds):
        if total <= max_bytes:
            return
        if not file.is_header and not file.is_temporary:
            file.path.unlink(missing_ok=True)
            total -= file.size_bytes


def _state(path: Path | str) -> FileState:
    try:
        status = Path(path).stat()
    except OSError as error:
        raise VideoError(f"cannot read {path}: {error.strerror}; check the path") from error
    return FileState(str(Path(path).resolve()), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1)
def _decoder_version() -> str:
    """Another FFmpeg may round pixels differently; it comes with PyAV."""
    return version("av")


@lru_cache(maxsize=8192)  # a header never changes: a video that does has another name
def _read_header(header: Path) -> VideoInfo:
    return VideoInfo(**json.loads(header.read_text(encoding="utf-8"))["info"])


def _write_header(header: Path, state: FileState, info: VideoInfo) -> None:
    values = {**state._asdict(), "info": asdict(info)}
    with _making, atomic_path(header) as temporary:
        temporary.write_text(json.dumps(values), encoding="utf-8")
    for file in header.parent.glob(f"{state.video}-*"):
        if not file.name.startswith(state.stem):
            file.unlink(missing_ok=True)  # of the video as it was before


def _is_current(header: Path) -> bool:
    """Whether the video is still there, as it was."""
    try:
        values = json.loads(header.read_text(encoding="utf-8"))
        return _state(values["path"]).stem == header.stem
    except (OSError, ValueError, TypeError, KeyError, VideoError):
        return False


def _open(entry: Path, info: VideoInfo, size: Size) -> UInt8Array | None:
    """The frames of an entry; None where there is none, or where it is not what we wrote."""
    try:
        frames = np.load(entry, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = frames.dtype == np.uint8 and frames.shape == (info.num_frames, *size, 3)
    return frames if whole else None


def _write_frames(path: Path | str, entry: Path, size: Size, resize_filter: ResizeFilter) -> None:
    """Decodes a whole video piece by piece: the memory that this takes does not grow with its length.

    The file is written, not mapped: a mapped one on a full disk kills the process instead of raising.
    """
    chunk = max(1, CHUNK_BYTES // (size.height * size.width * 3))
    with VideoReader(path) as reader, atomic_path(entry) as temporary, temporary.open("wb") as file:
        shape = (reader.info.num_frames, *size, 3)
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for first in range(0, shape[0], chunk):
            last = min(first + chunk, shape[0])
            frames = reader.read(range(first, last), size=size, resize_filter=resize_filter)
            file.write(np.ascontiguousarray(frames).data)
