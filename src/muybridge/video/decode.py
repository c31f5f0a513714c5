"""A video file -> RGB frames: the only reader of video.

The law: frame i is the i-th frame that decoding from the start yields, in display order. `VideoReader.read`
seeks where that is cheaper than reading on, and checks by its timestamp that each frame is the one asked for;
where a file does not keep its promises (a decoding error, a frame missing, a seek astray), it is decoded from
its start, in one thread, frame by frame.

Pixels are those of FFmpeg's swscale with its bilinear filter: the file's matrix (BT.601 where it names none)
and range (full or limited) are respected, 10 bits are rounded to 8, alpha is dropped. What the container asks
for is applied: rotation, mirroring and edit lists; but not the aspect ratio of pixels.

Nothing but the file itself is ever opened: no playlists, no references to other files, no addresses.
"""

import io
import multiprocessing
import operator
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import av
import av.container
import cv2
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from muybridge.config import ResizeFilter
from muybridge.errors import DecodeError, VideoError
from muybridge.types import Clip, Size, UInt8Array, VideoInfo
from muybridge.video.index import FrameIndex, Int64Array, Packet, StreamFacts, is_one_to_one
from muybridge.video.orientation import Orientation

Source = str | Path | bytes | BinaryIO | UInt8Array

# A frame of 8K video has half of this; a header that asks for more is damaged or an attack on the memory.
MAX_PIXELS = 2**26
DEFAULT_FPS = 25.0  # of arrays
# Containers that hold their own frames; playlists (hls, dash, concat) and devices are left out.
CONTAINERS = (
    "mov,matroska,avi,gif,mpegts,mpeg,flv,asf,ogg,ivf,nut,mxf,rm,dv,wtv,swf,apng,yuv4mpegpipe,"
    "mpegvideo,h263,h264,hevc,vvc,av1,obu,m4v,mjpeg,vc1,wav,mp3,flac"
)
# Frame threads cost a few frames' time at each start: below this many frames in one go, one is faster.
MIN_THREADED_FRAMES = 48
MAX_THREADS = 9
# Decoders that can leave out frames which no other frame needs. (HEVC's mark means something weaker.)
CAN_SKIP = ("h264",)


def probe(source: Source) -> VideoInfo:
    """What a video is, without decoding it: only the first frame is decoded.

    The packets are counted, not the container's word taken. Where packets need not be frames (packed B-frames
    and the like) their number is an estimate, and `exact` is False; `VideoReader(source).info` is exact.

    Raises:
        VideoError: as `VideoReader`.
    """
    if isinstance(source, np.ndarray):
        return _ArrayFrames(source, DEFAULT_FPS).info
    file = _File(source)
    try:
        scan = file.scan()
        index = FrameIndex.from_packets(scan.packets, scan.facts)
        if index is not None:
            return scan.info(index, exact=is_one_to_one(scan.packets, scan.facts))
        return scan.info(FrameIndex.from_counting([None] * len(scan.packets), 0, scan.facts), exact=False)
    finally:
        file.close()


class VideoReader:
    """Reads any frames of one video, by number. Not to be shared between threads; close it.

    Memory holds the frames asked for and the few that the decoder works on, plus some bytes a frame of the
    file: it does not grow with the length of the video.

    Args:
        source: a path; the bytes of a file; an open binary file, which is not closed here (one that cannot
            seek is read whole into memory); or decoded frames, uint8 [T, H, W, 3].
        fps: rate of decoded frames, 25 if not given; a file knows its own.
        threads: decoder threads for long runs of frames. None: all cores, but one in a worker process, since
            loaders start a process a core. The frames do not depend on it.

    Attributes:
        info: what the video is, with the exact number of frames.
        num_decoded: frames decoded so far: what the reading has cost.

    Raises:
        VideoError: missing, a directory, empty, not a video, no video stream, frames of absurd size.

    >>> with VideoReader(np.zeros((3, 4, 6, 3), np.uint8)) as reader:
    ...     print(reader.info, reader.read([2, 0], size=Size(2, 3)).shape)
    VideoInfo(<arrays>: 3 frames, 6x4, 25 fps, 0.12 s, raw) (2, 2, 3, 3)
    """

    def __init__(self, source: Source, *, fps: float | None = None, threads: int | None = None) -> None:
        self._frames: _FileFrames | _ArrayFrames
        if isinstance(source, np.ndarray):
            self._frames = _ArrayFrames(source, fps or DEFAULT_FPS)
        elif fps is not None:
            raise VideoError(f"{_name(source)}: fps={fps} was given, but a file has its own; give it for arrays")
        else:
            self._frames = _FileFrames(source, default_threads() if threads is None else threads)
        self.info = self._frames.info
        self._converter = _Converter(self._frames.orientation, self.info)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees the decoder and closes the file. Closing twice is no error."""
        self._frames.close()

    @property
    def num_decoded(self) -> int:
        """Frames decoded so far."""
        return self._frames.num_decoded

    def read(
        self, indices: Sequence[int], *, size: Size | None = None, resize_filter: ResizeFilter = "antialias"
    ) -> UInt8Array:
        """The frames of these numbers, in the order of `indices`, which may repeat.

        Args:
            indices: frame numbers in display order, from 0.
            size: the result's height and width; None is the video's own. Frames of a stream that changes
                its size midway are brought to that of the first.
            resize_filter: "antialias" converts and resizes in one pass of swscale's bilinear filter, which
                grows when it shrinks the picture; "bilinear" is the plain 2 x 2 filter, on the full frame.

        Returns:
            uint8 [T, H, W, 3], RGB.

        Raises:
            VideoError: a number outside the video.
            DecodeError: a frame within the video that does not decode; says how many do.
        """
        wanted = self._checked(indices)
        height, width = size or self.info.size
        if height < 1 or width < 1:
            raise VideoError(f"{self.info.path}: a size of {width}x{height} was asked for; both must be above 0")
        out = np.empty((len(wanted), height, width, 3), dtype=np.uint8)
        if not len(wanted):
            return out
        try:
            self._fill(out, wanted, resize_filter)
        except _MisreadError:
            self._frames.recount()
            decodable = int(np.count_nonzero(wanted < len(self._frames.index)))
            if decodable < len(wanted):
                raise self._decode_error(decodable, len(wanted)) from None
            self._fill(out, wanted, resize_filter)
        return out

    def read_clip(
        self, indices: Sequence[int], *, size: Size | None = None, resize_filter: ResizeFilter = "antialias"
    ) -> Clip:
        """As `read`, with the seconds at which each frame is shown."""
        return Clip(self.read(indices, size=size, resize_filter=resize_filter), self.seconds(indices))

    def seconds(self, indices: Sequence[int]) -> npt.NDArray[np.float64]:
        """When each of these frames is shown, counted from the first frame. Shape: [len(indices)]."""
        return self._frames.index.seconds(self._checked(indices).tolist())

    def _checked(self, indices: Sequence[int]) -> Int64Array:
        wanted = np.array([operator.index(i) for i in indices], dtype=np.int64)
        count = self.info.num_frames
        outside = wanted[(wanted < 0) | (wanted >= count)]
        if len(outside):
            raise VideoError(
                f"{self.info.path}: frame {outside[0]} was asked for, but the video has {count} frames, "
                f"0 to {count - 1}; plan the indices with its VideoInfo"
            )
        return wanted

    def _fill(self, out: UInt8Array, wanted: Int64Array, resize_filter: ResizeFilter) -> None:
        order = np.argsort(wanted, kind="stable")
        self._frames.prepare(np.unique(wanted))
        before = -1  # the slot of `out` that was written last
        for slot in order.tolist():
            if before >= 0 and wanted[slot] == wanted[before]:
                out[slot] = out[before]
            else:
                self._converter.write(self._frames.frame(int(wanted[slot])), out[slot], resize_filter)
            before = slot

    def _decode_error(self, decodable: int, asked: int) -> DecodeError:
        index = self._frames.index
        return DecodeError(
            f"{self.info.path}: {decodable} of the {asked} frames asked for decode (the file ends at "
            f"{index.duration_seconds:.2f} s, after {len(index)} of {self.info.num_frames} frames). It is "
            "probably cut short or damaged: get it anew, or drop it with `--skip-broken`, which lists it."
        )


def default_threads() -> int:
    """Decoder threads where nothing else is asked for."""
    if multiprocessing.parent_process() is not None:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if cores == 1 else min(cores + 1, MAX_THREADS)  # one decodes while this thread waits for another


class _MisreadError(Exception):
    """A frame came out of the decoder that the index does not have there, or none did."""


class _Converter:
    """Decoded frames -> upright RGB pixels of the size asked for."""

    def __init__(self, orientation: Orientation, info: VideoInfo) -> None:
        self._orientation = orientation
        self._stored_size = orientation.turned_size(info.size)
        self._path = info.path
        self._reformatter = VideoReformatter()  # reused: setting one up takes longer than a small frame

    def write(self, frame: VideoFrame, out: UInt8Array, resize_filter: ResizeFilter) -> None:
        """Fills `out`, uint8 [H, W, 3], with one frame."""
        target = self._orientation.turned_size(Size(out.shape[0], out.shape[1]))
        if resize_filter == "bilinear" and target != self._stored_size:
            pixels = self._convert(frame, self._stored_size)
            pixels = cv2.resize(pixels, (target.width, target.height), interpolation=cv2.INTER_LINEAR)
        else:
            pixels = self._convert(frame, target)
        np.copyto(out, self._orientation.turn(pixels))

    def _convert(self, frame: VideoFrame, size: Size) -> UInt8Array:
        """A view into an RGB frame of FFmpeg's, whose lines may be longer than the picture."""
        rgb = self._reformatter.reformat(
            frame, size.width, size.height, "rgb24", interpolation=Interpolation.BILINEAR, threads=1
        )
        plane = rgb.planes[0]
        return np.ndarray((*size, 3), np.uint8, buffer=plane, strides=(plane.line_size, 3, 1))


class _ArrayFrames:
    """Decoded frames, behind the same calls as a file."""

    def __init__(self, frames: UInt8Array, fps: float) -> None:
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
            found = f"{frames.dtype} {list(frames.shape)}"
            raise VideoError(f"<arrays>: frames must be uint8 [T, H, W, 3] and not empty, got {found}")
        if not fps > 0:
            raise VideoError(f"<arrays>: fps must be above 0, got {fps}")
        rate = Fraction(fps).limit_denominator(100_000)
        facts = StreamFacts(container="", codec="raw", time_base=1 / rate, rate=rate)
        self._array = frames
        self.index = FrameIndex.from_counting(range(len(frames)), 1, facts)
        self.orientation = Orientation()
        self.num_decoded = 0
        self.info = VideoInfo(
            path="<arrays>",
            num_frames=len(frames),
            exact=True,
            fps=float(fps),
            height=frames.shape[1],
            width=frames.shape[2],
            duration_seconds=len(frames) / fps,
            codec="raw",
        )

    def prepare(self, wanted: Int64Array) -> None:
        """Nothing to plan: every frame is at hand."""

    def frame(self, target: int) -> VideoFrame:
        """One frame; nothing is decoded."""
        return VideoFrame.from_ndarray(np.ascontiguousarray(self._array[target]), format="rgb24")

    def recount(self) -> None:
        """Arrays keep their promises."""
        raise AssertionError("frames of an array cannot be misread")

    def close(self) -> None:
        """Nothing is open."""


class _FileFrames:
    """The frames of one file: finds each by its number, by seeking or by decoding on."""

    def __init__(self, source: FileSource, threads: int) -> None:
        self._file = _File(source)
        self._max_threads = threads
        try:
            self._scan = self._file.scan()
            index = FrameIndex.from_packets(self._scan.packets, self._scan.facts)
            if index is None or not is_one_to_one(self._scan.packets, self._scan.facts):
                index = self._counted(index)
        except BaseException:
            self._file.close()
            raise
        self.index = index
        self.orientation = self._scan.orientation
        self.info = self._scan.info(index, exact=True)
        self._position: int | None = None  # the frame that the decoder yields next; None: unknown
        self._left_out_pts = -1  # the latest frame that the decoder was told to leave out since the last seek
        self._wanted_pts: Collection[int] = ()
        self._iterator: Iterator[VideoFrame] = iter(())

    @property
    def num_decoded(self) -> int:
        return self._file.num_decoded

    def close(self) -> None:
        self._iterator = iter(())
        self._file.close()

    def recount(self) -> None:
        """Goes by what decoding from the start yields, in one thread: the index was wrong."""
        self.index = self._counted(None)
        self._position = None

    def prepare(self, wanted: Int64Array) -> None:
        """Plans the reading of these frames (rising): threads, and which frames are left out."""
        one_pass = len(wanted) == self.index.longest_run(wanted)
        can_skip = self.index.timed and len(self.index.keys) and self._scan.facts.codec in CAN_SKIP
        self._wanted_pts = frozenset(self.index.pts[wanted].tolist()) if can_skip and not one_pass else ()
