"""Finding a frame by its number: seek or decode on, and make sure that it is the one.

Knows nothing of FFmpeg: a `Decoder` decodes, an index says what to expect, and where the two disagree the
file is decoded from its start, in one thread, and what that yields is the law.
"""

import multiprocessing
import os
from collections.abc import Callable, Collection, Iterator
from enum import Enum, auto
from typing import Generic, Protocol, TypeVar

import numpy as np

from muybridge.errors import DecodeError
from muybridge.video.index import REORDERING, FrameIndex, Int64Array, StreamFacts

# Frame threads cost a few frames' time at each start: below this many frames in one go, on average, one
# thread is faster.
MIN_THREADED_FRAMES = 48
# Decoders that can leave out frames which no other frame needs. (HEVC's mark means something weaker.)
CAN_LEAVE_OUT = ("h264",)
NO_PTS = -(2**63)  # below every timestamp
MAX_THREADS = 9


class Use(Enum):
    """What a packet is good for."""

    DECODE = auto()
    LEAVE_OUT = auto()  # its frame is not wanted; it need not be decoded if no other needs it
    DECODE_AND_STOP = auto()  # with it the decoder has all that it needs for the frames wanted


def default_threads() -> int:
    """Decoder threads where nothing else is asked for: all cores, but one in a worker process.

    Loaders start a worker a core. One thread more than cores: while this one waits for a frame or converts
    it, the others decode.
    """
    if multiprocessing.parent_process() is not None:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if cores == 1 else min(cores + 1, MAX_THREADS)


class Frame(Protocol):
    """What there must be to a decoded frame."""

    pts: int | None
    duration: int

    @property
    def is_corrupt(self) -> bool:
        """The decoder had to make up some of it."""


F = TypeVar("F", bound=Frame)
F_co = TypeVar("F_co", bound=Frame, covariant=True)


class Decoder(Protocol[F_co]):
    """A file, open at some place."""

    name: str
    threads: int

    def open(self, threads: int) -> None:
        """Goes to the start, with so many decoder threads."""

    def seek(self, timestamp: int) -> None:
        """Goes to the key frame at or before a timestamp, as well as the container knows."""

    def frames(self, use: Callable[[int | None], Use]) -> Iterator[F_co]:
        """Decodes on from here, up to the end or to the first packet that does not decode.

        `use` is told the timestamp of each packet, in their order. After the one at which to stop, the
        decoder gives out what it holds, and no packet is read.
        """


class MisreadError(Exception):
    """A frame came out of the decoder that the index does not have there, or none did."""


class FrameFinder(Generic[F]):
    """The frames of one file, by number.

    Args:
        decoder: the file.
        facts: what the container says about the stream.
        claim: the index by the packets; None if they cannot be the frames.
        trusted: `claim` need not be proven by decoding.
        threads: at most so many decoder threads.

    Attributes:
        index: the frames that there are.
    """

    def __init__(
        self,
        decoder: Decoder[F],
        facts: StreamFacts,
        claim: FrameIndex | None,
        *,
        trusted: bool,
        threads: int,
    ) -> None:
        self._decoder = decoder
        self._facts = facts
        self._max_threads = threads
        self._iterator: Iterator[F] = iter(())
        self._position: int | None = None  # the next frame that the iterator yields; None: it is nowhere
        self._wanted_pts: Collection[int] = ()
        self._last_wanted_pts = NO_PTS
        self._run_pts: dict[int, list[int]] = {}  # by a run's first frame: all its timestamps
        self._awaited: set[int] = set()  # of the run that is being read: those whose packets are to come
        self.index = claim if claim is not None and trusted else self._counted(claim)

    def recount(self) -> None:
        """Goes by what decoding from the start yields, since the index was wrong."""
        self._position = None
        self.index = self._counted(None)

    def prepare(self, wanted: Int64Array) -> None:
        """Plans the reading of these frames (rising): how many threads, and what need not be decoded."""
        runs = self.index.runs(wanted)
        can_leave_out = self.index.can_seek and self._facts.codec in CAN_LEAVE_OUT
        self._wanted_pts = frozenset(self.index.pts[wanted].tolist()) if can_leave_out else ()
        self._last_wanted_pts = max(self._wanted_pts, default=NO_PTS)
        # After the last run the next read may go on; after the others, what the decoder reads ahead is lost.
        can_stop = self._facts.codec in REORDERING
        self._run_pts = {int(run[0]): self.index.pts[run].tolist() for run in runs[:-1] if can_stop}
        if self._is_ahead(int(wanted[0])):
            return  # goes on from the read before: another number of threads would start anew
        # Without keys the index is what one thread has found; more might patch damage in another way.
        is_long = self.index.can_seek and self.index.run_lengths(runs).mean() >= MIN_THREADED_FRAMES
        threads = self._max_threads if is_long else 1
        if threads != self._decoder.threads:
            self._decoder.open(threads)
            self._position = None

    def frame(self, target: int) -> F:
        """One frame, made sure of.

        Raises:
            MisreadError: the file does not hold what the index says; `recount`.
        """
        found = self._advance(target) if self._is_ahead(target) else None
        if found is not None:
            return found
        key = self.index.key_before(target)
        # A seek may land late, where timestamps mislead the container: the key before, then, or the start.
        for start in (key, key - 1, None):
            if start is None or start >= 0:
                self._start_at(start)
                self._awaited = set(self._run_pts.get(target, ()))
                found = self._advance(target)
                if found is not None:
                    return found
        raise MisreadError

    def _is_ahead(self, target: int) -> bool:
        """Whether decoding on leads to the frame, and no seek would be faster."""
        here = self._position
        return here is not None and here <= target and not self.index.seek_pays(here, target)

    def _start_at(self, key: int | None) -> None:
        """Makes the decoder ready at a key frame, or at the start of the file."""
        if key is None:
            self._decoder.open(self._decoder.threads)
        else:
            self._decoder.seek(int(self.index.key_seeks[key]))
        self._iterator = self._decoder.frames(self._use)
        self._position = 0 if key is None else int(self.index.keys[key])

    def _use(self, pts: int | None) -> Use:
        """What to do with a packet. Frames after the last one wanted are decoded: for the next read."""
        if pts is None:
            return Use.DECODE
        if pts in self._awaited:
            self._awaited.remove(pts)
            return Use.DECODE if self._awaited else Use.DECODE_AND_STOP
        is_needless = pts < self._last_wanted_pts and pts not in self._wanted_pts
        return Use.LEAVE_OUT if is_needless else Use.DECODE

    def _advance(self, target: int) -> F | None:
        """Decodes on to a frame; None if it does not come, or comes damaged where it need not be."""
        for frame in self._iterator:
            found = self.index.find(frame.pts, self._position or 0)
            if found is None or found > target:
                break
            self._position = found + 1
            if found == target:
                if frame.is_corrupt and self.index.can_seek:
                    break  # after a seek, or in many threads; one thread from the start says what it is
                return frame
        self._position = None
        return None

    def _counted(self, claim: FrameIndex | None) -> FrameIndex:
        """The index of what decodes; `claim`, which can seek, if that proves to be the same frames."""
        self._decoder.open(1)
        pts: list[int | None] = []
        last_duration = 0
        for frame in self._decoder.frames(lambda pts: Use.DECODE):
            pts.append(frame.pts)
            last_duration = frame.duration
        if not pts:
            raise DecodeError(f"{self._decoder.name}: not one of its frames decodes; get it anew or drop it")
        counted = FrameIndex.from_counting(pts, last_duration, self._facts)
        if claim is not None and counted.timed and np.array_equal(claim.pts, counted.pts):
            return claim
        return counted
