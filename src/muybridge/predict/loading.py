"""Views on their way to the network: planned and decoded by threads, in order, a batch ahead at most.

Shape letters: V views, K classes, S segments, C channels, T frames, H height, W width.
"""

import itertools
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt
from torch import Tensor

from muybridge.config import ClipSpec, ResizeFilter
from muybridge.data.cache import FrameCache
from muybridge.data.views import load_view, video_info
from muybridge.errors import VideoError
from muybridge.flow.source import FlowStore
from muybridge.protocol import Protocol, plan_views
from muybridge.types import Sample, Size, UInt8Array, View
from muybridge.video.decode import VideoReader
from muybridge.video.source import Source, source_name

__all__ = ["Inputs", "Job", "load_clips"]

Inputs = tuple[Tensor, ...]  # one view: a tensor a modality, [C, T, H, W] or [S, C, T, H, W]


class Job:
    """One video on its way: planned and decoded by the loading threads, then scored by the loop."""

    def __init__(
        self,
        index: int,
        video: Sample | Source,
        protocol: Protocol,
        specs: tuple[ClipSpec, ...],
        cache: FrameCache | None,
        flow: FlowStore | None,
    ) -> None:
        self.index = index
        self.sample = video if isinstance(video, Sample) else Sample(path=Path(source_name(video)))
        self.source: Source = video.path if isinstance(video, Sample) else video
        self.protocol = protocol
        self.specs = specs
        self.cache = cache if isinstance(self.source, str | Path) else None
        self.flow = flow
        self.views: tuple[View, ...] = ()
        self.rows: list[npt.NDArray[np.float32]] = []
        self.error: VideoError | None = None
        self._clips_loaded = 0
        self._lock = Lock()
        self._idle_readers: list[_RememberingReader] = []
        # Threads that read the same video have a reader each; but a file object has one position only.
        self._turn = Lock() if hasattr(self.source, "read") else nullcontext()

    @property
    def done(self) -> bool:
        """Every view has its row, or none will come."""
        return self.error is not None or 0 < len(self.rows) == len(self.views)

    @property
    def num_clips(self) -> int:
        """How many times to call `load`; where the protocol slides, the video is opened to learn it."""
        if not self.protocol.slides:
            return self.protocol.clips
        try:
            with self._turn, self._reader() as reader:
                self._plan(reader)
        except VideoError:
            return 1  # loading meets the error again and reports it in its place
        return len(self.views) // self.protocol.num_crops

    def load(self, clip: int) -> list[Inputs]:
        """The views of one clip: all its crops. The last clip closes the file."""
        if self.error is not None:
            raise self.error
        with self._turn, self._reader() as reader:
            self._plan(reader)
            num_crops = self.protocol.num_crops
            views = self.views[clip * num_crops : (clip + 1) * num_crops]
            loaded = [
                load_view(self.source, view, self.specs, cache=self.cache, reader=reader, flow=self.flow)
                for view in views
            ]
        self._count_clip()
        return loaded

    def close(self) -> None:
        """Closes the readers that nobody uses."""
        with self._lock:
            readers, self._idle_readers = self._idle_readers, []
        for reader in readers:
            reader.close()

    def _plan(self, reader: VideoReader | None) -> None:
        with self._lock:
            info = reader.info if reader else video_info(self.source, cache=self.cache)
            self.views = self.views or plan_views(info, self.sample, self.specs, self.protocol)

    @contextmanager
    def _reader(self) -> Iterator[VideoReader | None]:
        """One for the calling thread; None where a cache has the frames."""
        if self.cache is not None:
            yield None
            return
        with self._lock:
            reader = self._idle_readers.pop() if self._idle_readers else None
        reader = reader or _RememberingReader(self.source)
        try:
            yield reader
        except BaseException:
            reader.close()
            raise
        with self._lock:
            self._idle_readers.append(reader)

    def _count_clip(self) -> None:
        with self._lock:
            self._clips_loaded += 1
            finished = self._clips_loaded * self.protocol.num_crops == len(self.views)
        if finished:
            self.close()


def load_clips(
    jobs: Sequence[Job], batch_size: int, num_workers: int
) -> Generator[tuple[Job, list[Inputs] | VideoError]]:
    """The clips of all videos, in order, each with all its crops; at most a batch of views lies ready."""
    tasks = ((job, clip) for job in jobs for clip in range(job.num_clips))
    if num_workers == 0:
        yield from itertools.starmap(_load, tasks)
        return
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="muybridge-decode")
    waiting: deque[Future[tuple[Job, list[Inputs] | VideoError]]] = deque()
    try:
        num_crops = max((job.protocol.num_crops for job in jobs), default=1)
        ahead = max(num_workers, batch_size // num_crops)
        waiting.extend(pool.submit(_load, *task) for task in itertools.islice(tasks, ahead))
        while waiting:
            loaded = waiting.popleft().result()
            waiting.extend(pool.submit(_load, *task) for task in itertools.islice(tasks, 1))
            yield loaded
    finally:  # also where the caller stops early
        pool.shutdown(wait=True, cancel_futures=True)


def _load(job: Job, clip: int) -> tuple[Job, list[Inputs] | VideoError]:
    try:
        return job, job.load(clip)
    except VideoError as error:
        return job, error


class _RememberingReader(VideoReader):
    """The crops of a clip are cut from the same frames: those of the last call are decoded once."""

    _asked: tuple[tuple[int, ...], Size | None, ResizeFilter] | None = None
    _frames: UInt8Array

    def read(
        self, indices: Sequence[int], *, size: Size | None = None, resize_filter: ResizeFilter = "antialias"
    ) -> UInt8Array:
        asked = (tuple(indices), size, resize_filter)
        if asked != self._asked:
            self._frames = super().read(indices, size=size, resize_filter=resize_filter)
            self._frames.flags.writeable = False
            self._asked = asked
        return self._frames
