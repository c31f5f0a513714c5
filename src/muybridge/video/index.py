"""Which frame is where in a file: plain integers, found once, mostly without decoding anything.

Frame i is the i-th frame that decoding the file from its start yields, in display order. In a healthy file of
a modern codec each packet becomes one frame, so the packets' timestamps, sorted, are the frames: no decoding
is needed to count them or to know where the key frames are. Where that cannot be trusted, decoding counts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from muybridge.types import Size, VideoInfo
from muybridge.video.orientation import Orientation

Int64Array = npt.NDArray[np.int64]

# Codecs whose packets become one frame each in any container that plays; "raw" are arrays.
ONE_TO_ONE = frozenset(
    {
        "raw",
        "h264",
        "hevc",
        "vvc",
        "vp8",
        "vp9",
        "av1",
        "mjpeg",
        "png",
        "gif",
        "ffv1",
        "huffyuv",
        "rawvideo",
        "prores",
    }
)
# Containers in which each packet says when its frame is shown. In others FFmpeg infers some of it; after a
# seek it may do so otherwise, and then a timestamp names another frame. AVI stores no more than the order of
# decoding, which will do where that is the order of display. "" are arrays.
EXACT_TIMES = ("mov", "matroska", "flv", "nut", "gif", "ivf", "")
REORDERING = ("h264", "hevc", "vvc")  # codecs that may, whatever the header says
# An MPEG-4 packet this small holds no picture: "as before" in files that have packed B-frames.
EMPTY_MPEG4_BYTES = 10
# A seek must save more decoded frames than this: the decoder starts anew, and what it had read ahead for the
# read before is lost. `seek_over_3` of benchmarks/decode.py is the case at this border.
SEEK_COST_FRAMES = 2
# Reading at several places at once: so many times faster, if decoding were all, and worth opening a file for.
MIN_LANE_GAIN = 1.5
MIN_LANE_FRAMES = 24


class Packet(NamedTuple):
    """What the container says about one packet of the video stream.

    Attributes:
        pts: when its frame is shown, in units of the time base; None if the container does not say.
        duration: how long its frame is shown; 0 if unknown.
        num_bytes: its size.
        is_key: decoding can start here.
        is_discard: decoded for the sake of others but never shown (edit lists).
        is_hidden: never shown (VP8's alternate references).
        is_corrupt: cut short, or marked as damaged.
    """

    pts: int | None
    duration: int
    num_bytes: int
    is_key: bool
    is_discard: bool = False
    is_hidden: bool = False
    is_corrupt: bool = False


@dataclass(frozen=True, kw_only=True)
class StreamFacts:
    """What the container says about the stream as a whole.

    Attributes:
        container: FFmpeg's name of the format, such as "avi".
        codec: FFmpeg's name of the codec, such as "h264".
        time_base: seconds a unit of the timestamps.
        rate: mean frames per second by the container's word; None if it has none.
        is_interlaced: fields, not frames, may be what is coded.
        reorder_frames: how far the order of decoding may differ from that of display.
    """

    container: str
    codec: str
    time_base: Fraction
    rate: Fraction | None
    is_interlaced: bool = False
    reorder_frames: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameIndex:
    """The frames of a file in display order.

    Attributes:
        pts: int64 [N], the frames' timestamps, rising; frame numbers where the file has no usable ones.
        timed: `pts` are the file's, so a decoded frame can be told by its timestamp.
        time_base: seconds a unit of `pts`.
        end: timestamp at which the last frame ends.
        rate: frames per second.
        keys: int64 [K], the frames at which decoding can start; empty where a seek is not to be trusted.
        key_seeks: int64 [K], the timestamp to seek to for each: when it is shown. (MP4's own table is of the
            times of decoding, but FFmpeg goes a key too far back when asked for those.)
    """

    pts: Int64Array
    timed: bool
    time_base: Fraction
    end: int
    rate: float
    keys: Int64Array
    key_seeks: Int64Array

    @classmethod
    def from_packets(cls, packets: Sequence[Packet], facts: StreamFacts) -> Self | None:
        """The index by the packets alone, or None where they cannot be the frames one to one.

        >>> facts = StreamFacts(container="mov", codec="h264", time_base=Fraction(1, 25), rate=Fraction(25))
        >>> order = [(0, True), (2, False), (1, False), (3, True)]  # of decoding: 1 is a B-frame
        >>> packets = [Packet(pts, 1, 99, is_key) for pts, is_key in order]
        >>> index = FrameIndex.from_packets(packets, facts)
        >>> index.pts.tolist(), index.keys.tolist(), index.seconds([3]).tolist()
        ([0, 1, 2, 3], [0, 3], [0.12])
        """
        may_reorder = facts.reorder_frames > 0 or facts.codec in REORDERING
        in_order = facts.container == "avi" and not may_reorder
        if not in_order and facts.container.split(",")[0] not in EXACT_TIMES:
            return None
        shown = [packet for packet in packets if not (packet.is_discard or packet.is_hidden)]
        pts = np.array(sorted(p.pts for p in shown if p.pts is not None), dtype=np.int64)
        if not len(pts) or len(pts) < len(shown) or not _rising(pts) or any(p.is_corrupt for p in packets):
            return None
        first = packets[0]
        if not first.is_key or (first.pts is not None and pts[0] < first.pts):
            return None  # an open start: what comes before the first key frame may or may not be shown
        last = max(shown, key=lambda packet: packet.pts or 0)
        keys = np.array(sorted(p.pts for p in packets if p.is_key and p.pts is not None), dtype=np.int64)
        starts = np.searchsorted(pts, keys).astype(np.int64)
        inside = starts < len(pts)
        return cls._timed(pts, last.duration, facts, starts[inside], keys[inside])

    @classmethod
    def from_counting(cls, pts: Sequence[int | None], last_duration: int, facts: StreamFacts) -> Self:
        """The index of the frames that decoding from the start has yielded; without seeks.

        >>> facts = StreamFacts(container="avi", codec="mpeg4", time_base=Fraction(1, 25), rate=Fraction(10))
        >>> FrameIndex.from_counting([0, None, 3, 2], 1, facts).seconds([0, 3]).tolist()
        [0.0, 0.3]
        """
        none = np.empty(0, dtype=np.int64)
        times = np.array([-1 if one is None else one for one in pts], dtype=np.int64)
        if len(times) and None not in pts and _rising(times):
            return cls._timed(times, last_duration, facts, none, none)
        rate = facts.rate or Fraction(25)
        numbers = np.arange(len(pts), dtype=np.int64)
        return cls(
            pts=numbers,
            timed=False,
            time_base=1 / rate,
            end=len(pts),
            rate=float(rate),
            keys=none,
            key_seeks=none,
        )

    @classmethod
    def _timed(
        cls, pts: Int64Array, last_duration: int, facts: StreamFacts, keys: Int64Array, key_seeks: Int64Array
    ) -> Self:
        stated = 1 / (facts.rate * facts.time_base) if facts.rate else None  # units a frame
        usual = stated or (int(np.median(np.diff(pts))) if len(pts) > 1 else None)
        end = int(pts[-1]) + (last_duration or round(usual or 1 / (25 * facts.time_base)))
        measured = Fraction(end - int(pts[0]), len(pts))
        # Containers round timestamps: the stated rate is the better one if it ends within a frame of ours.
        steady = stated is not None and abs(stated - measured) * len(pts) < stated
        unit = stated if steady and stated is not None else measured
        return cls(
            pts=pts,
            timed=True,
            time_base=facts.time_base,
            end=end,
            rate=float(1 / (unit * facts.time_base)),
            keys=keys,
            key_seeks=key_seeks,
        )

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def can_seek(self) -> bool:
        """There are keys to start at, and each packet is a frame."""
        return len(self.keys) > 0

    @property
    def duration_seconds(self) -> float:
        """From the first frame to the end of the last."""
        return float((self.end - int(self.pts[0])) * self.time_base) if len(self) else 0.0

    def seconds(self, indices: Iterable[int]) -> npt.NDArray[np.float64]:
        """When the frames are shown, counted from the first one. Shape: [len(indices)]."""
        since_first = self.pts[np.fromiter(indices, dtype=np.int64)] - self.pts[:1]
        return since_first * self.time_base.numerator / self.time_base.denominator

    def find(self, pts: int | None, position: int) -> int | None:
        """The frame that has this timestamp; `position` is where it is likely to be. None: no such frame."""
        if not self.timed:
            return position if position < len(self) else None
        if pts is None:
            return None
        if position < len(self) and self.pts[position] == pts:
            return position
        found = int(np.searchsorted(self.pts, pts))
        return found if found < len(self) and self.pts[found] == pts else None

    def key_before(self, frame: int) -> int:
        """The last key, as a place in `keys`, from which `frame` can be decoded; -1 if there is none."""
        return int(np.searchsorted(self.keys, frame, side="right")) - 1

    def runs(self, wanted: Int64Array) -> list[Int64Array]:
        """These frames (rising), parted where a seek pays: within a part, decoding goes on."""
        if not self.can_seek:
            return [wanted]
        saved = self._starts(wanted)[1:] - wanted[:-1] - 1
        return np.split(wanted, np.flatnonzero(saved > SEEK_COST_FRAMES) + 1)

    def run_lengths(self, runs: Sequence[Int64Array]) -> Int64Array:
        """How many frames are decoded, each in one go, to get the frames of `runs`. Shape: [len(runs)]."""
        first = self._starts(np.array([run[0] for run in runs]))
        return np.array([run[-1] for run in runs]) - first + 1

    def parts(self, wanted: Int64Array, most: int) -> list[Int64Array]:
        """These frames (rising) in at most so many parts, to be read at the same time.

        Runs stay whole. One part where more would not pay.

        >>> facts = StreamFacts(container="mov", codec="h264", time_base=Fraction(1, 25), rate=Fraction(25))
        >>> packets = [Packet(i, 1, 99, is_key=i % 50 == 0) for i in range(200)]
        >>> index = FrameIndex.from_packets(packets, facts)
        >>> [part.tolist() for part in index.parts(np.array([30, 90, 140, 190]), most=2)]
        [[30, 90], [140, 190]]
        """
        runs = self.runs(wanted)
        lengths = self.run_lengths(runs)
        total = int(lengths.sum())
        count = min(most, len(runs), total // MIN_LANE_FRAMES)
        if count < 2:
            return [wanted]
        part_of_run = (np.cumsum(lengths) - lengths / 2) * count // total  # by the middle of each run
        largest = np.bincount(part_of_run.astype(np.int64), weights=lengths).max()
        if total < MIN_LANE_GAIN * largest:
            return [wanted]
        first_runs = np.flatnonzero(np.diff(part_of_run)) + 1
        ends = np.cumsum([len(run) for run in runs])[first_runs - 1]
        return np.split(wanted, ends)

    def _starts(self, wanted: Int64Array) -> Int64Array:
        """Where decoding starts, after a seek, for each of these frames. Without keys: at the first frame."""
        if not self.can_seek:
            return np.zeros_like(wanted)
        return self.keys[np.maximum(np.searchsorted(self.keys, wanted, side="right") - 1, 0)]

    def seek_pays(self, position: int, target: int) -> bool:
        """Whether to seek to `target`, rather than decode on from `position`."""
        if target - position <= SEEK_COST_FRAMES:  # no key can be further: spares most calls the search
            return False
        key = self.key_before(target)
        return key >= 0 and int(self.keys[key]) - position > SEEK_COST_FRAMES


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """What one pass over the packets and a look at the first frame tell.

    Attributes:
        path: the source's name.
        packets: of the video stream, in order of decoding.
        facts: of the stream.
        orientation: how the picture is laid upright.
        stored_size: the picture's size before that.
        pixel_format: FFmpeg's name of what the decoder yields.
        has_audio: there is a sound track.
    """

    path: str
    packets: list[Packet]
    facts: StreamFacts
    orientation: Orientation
    stored_size: Size
    pixel_format: str
    has_audio: bool

    def index(self) -> FrameIndex | None:
        """The frames by the packets, if those can be the frames."""
        return FrameIndex.from_packets(self.packets, self.facts)

    def info(self, index: FrameIndex, *, exact: bool) -> VideoInfo:
        """What the user is told of the frames of `index`."""
        height, width = self.orientation.turned_size(self.stored_size)
        return VideoInfo(
            path=self.path,
            num_frames=len(index),
            exact=exact,
            fps=index.rate,
            height=height,
            width=width,
            duration_seconds=index.duration_seconds,
            codec=self.facts.codec,
            pixel_format=self.pixel_format,
            rotation_degrees=self.orientation.rotation_degrees,
            has_audio=self.has_audio,
        )


def is_one_to_one(packets: Sequence[Packet], facts: StreamFacts) -> bool:
    """Whether the codec and the container promise one frame a packet: then nothing is decoded to count.

    >>> avi = StreamFacts(container="avi", codec="mpeg4", time_base=Fraction(1, 25), rate=None)
    >>> is_one_to_one([Packet(0, 1, 900, True), Packet(1, 1, 7, False)], avi)
    False
    """
    if facts.is_interlaced:
        return False
    if facts.codec == "mpeg4":
        return min(packet.num_bytes for packet in packets) > EMPTY_MPEG4_BYTES
    return facts.codec in ONE_TO_ONE


def _rising(values: Int64Array) -> bool:
    return bool(np.all(np.diff(values) > 0))
