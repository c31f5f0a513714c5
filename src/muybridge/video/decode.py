"""A video file -> RGB frames: the only reader of video.

The law: frame i is the i-th frame that decoding from the start yields, in display order. `VideoReader.read`
seeks where that is cheaper than reading on, and checks by its timestamp that each frame is the one asked for;
where a file does not keep its promises (a decoding error, a frame missing, a seek astray), it is decoded from
its start, in one thread, frame by frame.

Pixels are those of FFmpeg's swscale with its bilinear filter: the file's matrix (BT.601 where it names none)
and range (full or limited) are respected, 10 bits are rounded to 8, alpha is dropped. What the container asks
for is applied: rotation, mirroring and edit lists; but not the aspect ratio of pixels.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from muybridge.config import ResizeFilter
from muybridge.errors import DecodeError, VideoError
from muybridge.types import Clip, Size, UInt8Array, VideoInfo
from muybridge.video.container import FileDecoder
from muybridge.video.index import FrameIndex, Int64Array, Packet, Scan, StreamFacts, is_one_to_one
from muybridge.video.orientation import Orientation
from muybridge.video.seeking import FrameFinder, MisreadError, Use, default_threads
from muybridge.video.source import Source, source_name

DEFAULT_FPS = 25.0  # of arrays


def probe(source: Source) -> VideoInfo:
    """What a video is, without decoding it: only the first frame is decoded.

    The packets are counted, not the container's word taken. Where packets need not be frames (packed B-frames
    and the like) their number is an estimate, and `exact` is False; `VideoReader(source).info` is exact.

    Raises:
        VideoError: as `VideoReader`.
    """
    decoder = _ArrayDecoder(source, DEFAULT_FPS) if isinstance(source, np.ndarray) else FileDecoder(source)
    with closing(decoder):
        scan = decoder.scan()
        claim = scan.index()
        if claim is not None:
            return scan.info(claim, exact=is_one_to_one(scan.packets, scan.facts))
        return scan.info(FrameIndex.from_counting([None] * len(scan.packets), 0, scan.facts), exact=False)


def decode_grey(
    packets: Sequence[bytes], *, codec: str, size: Size, setup: bytes = b""
) -> Iterator[UInt8Array]:
    """The pictures of packets that `video.encode.GreyEncoder` made: numbers, not light; nothing is converted.

    Args:
        packets: the first is a key.
        codec: of the encoder.
        size: of each picture.
        setup: of the encoder.

    Raises:
        DecodeError: damaged packets.

    Shape:
        each uint8 [H, W]
    """
    context = VideoCodecContext.create(codec, "r")
    assert isinstance(context, VideoCodecContext)
    context.thread_count = 1
    context.height, context.width = size
    if setup:
        context.extradata = setup
    try:
        for content in (*packets, None):
            for frame in context.decode(None if content is None else av.Packet(content)):
                plane = frame.planes[0]
                lines = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
                yield lines[: size.height, : size.width]
    except av.FFmpegError as error:
        raise DecodeError(f"{codec} packets do not decode ({error}): they are damaged") from None


class VideoReader:
    """Reads any frames of one video, by number. Not to be shared between threads; close it.

    Memory holds the frames asked for and the few that the decoder works on, plus some bytes a frame of the
    file: it does not grow with the length of the video.

    Args:
        source: a path; the bytes of a file; an open binary file, which is not closed here (one that cannot
            seek is read whole into memory); or decoded frames, uint8 [T, H, W, 3].
        fps: rate of decoded frames, 25 if not given; a file knows its own.
        threads: the decoder's for long runs of frames; frames that are far apart are read at so many places
            of a path or of bytes at once. None: all cores, but one in a worker process, since loaders start
            a process a core. The frames do not depend on it.

    Attributes:
        info: what the video is, with the exact number of frames.
        num_decoded: frames decoded so far: what the reading has cost.

    Raises:
        VideoError: missing, a directory, empty, not a video, no video stream.
        DecodeError: no frame decodes, or frames of absurd size.

    >>> with VideoReader(np.zeros((3, 4, 6, 3), np.uint8)) as reader:
    ...     print(reader.info, reader.read([2, 0], size=Size(2, 3)).shape)
    VideoInfo(<arrays>: 3 frames, 6x4, 25 fps, 0.12 s, raw) (2, 2, 3, 3)
    """

    def __init__(self, source: Source, *, fps: float | None = None, threads: int | None = None) -> None:
        if isinstance(source, np.ndarray):
            decoder: _ArrayDecoder | FileDecoder = _ArrayDecoder(source, fps or DEFAULT_FPS)
        elif fps is not None:
            raise VideoError(f"{source_name(source)}: a file has its own rate; fps={fps} is for arrays")
        else:
            decoder = FileDecoder(source)
        with ExitStack() as stack:
            stack.callback(decoder.close)
            scan = decoder.scan()
            threads = default_threads() if threads is None else threads
            self._finder = FrameFinder(
                decoder,
                scan.facts,
                scan.index(),
                trusted=is_one_to_one(scan.packets, scan.facts),
                threads=threads,
            )
            stack.pop_all()  # all is well: `close` closes
        self._is_closed = False
        self._claim = self._finder.index  # what `info` is about; a damaged file may turn out to hold less
        self.info = scan.info(self._claim, exact=True)
        self._facts, self._orientation = scan.facts, scan.orientation
        self._lanes = [_Lane(decoder, self._finder, _Converter(scan.orientation, self.info))]
        # More than one place of a file can be read at once where it can be opened more than once.
        self._source = source if isinstance(source, str | Path | bytes) else None
        self._max_lanes = 1 if self._source is None else threads

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees the decoder and closes the file. Closing twice is no error."""
        self._is_closed = True
        for lane in self._lanes:
            lane.decoder.close()

    @property
    def num_decoded(self) -> int:
        """Frames decoded so far."""
        return sum(lane.decoder.num_decoded for lane in self._lanes)

    def read(
        self, indices: Sequence[int], *, size: Size | None = None, resize_filter: ResizeFilter = "antialias"
    ) -> UInt8Array:
        """The frames of these numbers, in the order of `indices`, which may repeat.

        Args:
            indices: frame numbers in display order, from 0.
            size: the result's height and width; None is the video's own. Frames of a stream that changes
                its size midway are brought to that of the first.
            resize_filter: "antialias" is swscale's bilinear filter, which grows when it shrinks the picture;
                YUV is shrunk before it becomes RGB, so full-size RGB is never made. "bilinear" is the plain
                2 x 2 filter on the full RGB frame, one frame at a time.

        Returns:
            uint8 [T, H, W, 3], RGB.

        Raises:
            VideoError: a number outside the video.
            DecodeError: a frame within the video that does not decode; says how many do.
        """
        wanted = self._checked(indices)
        if self._is_closed:
            raise VideoError(f"{self.info.path}: this reader has been closed; open another")
        height, width = size or self.info.size
        if height < 1 or width < 1:
            raise VideoError(
                f"{self.info.path}: the size {width}x{height} was asked for; both must be above 0"
            )
        out = np.empty((len(wanted), height, width, 3), dtype=np.uint8)
        for is_last_try in (False, True):
            try:
                self._fill(out, wanted, resize_filter)
            except MisreadError:
                if is_last_try:
                    raise DecodeError(
                        f"{self.info.path} decodes otherwise each time: is it still being written?"
                    ) from None
                self._finder.recount()
            else:
                break
        return out

    def read_clip(
        self, indices: Sequence[int], *, size: Size | None = None, resize_filter: ResizeFilter = "antialias"
    ) -> Clip:
        """As `read`, with the seconds at which each frame is shown."""
        return Clip(self.read(indices, size=size, resize_filter=resize_filter), self.seconds(indices))

    def seconds(self, indices: Sequence[int]) -> npt.NDArray[np.float64]:
        """When each of these frames is shown, counted from the first frame. Shape: [len(indices)]."""
        return self._claim.seconds(self._checked(indices).tolist())

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
        decodable = int(np.count_nonzero(wanted < len(self._finder.index)))
        if decodable < len(wanted):
            raise self._decode_error(decodable, len(wanted))
        if not len(wanted):
            return
        slots = np.argsort(wanted, kind="stable")
        parts = self._finder.index.parts(np.unique(wanted), self._max_lanes)
        if len(parts) == 1:
            self._lanes[0].fill(out, wanted, slots, resize_filter)
            return
        while len(self._lanes) < len(parts):
            self._lanes.append(self._new_lane())
        ends = np.searchsorted(wanted[slots], [part[-1] for part in parts[:-1]], side="right")
        with ThreadPoolExecutor(len(parts)) as pool:
            jobs = [
                pool.submit(lane.fill, out, wanted, own_slots, resize_filter)
                for lane, own_slots in zip(self._lanes, np.split(slots, ends), strict=False)
            ]
        for job in jobs:
            job.result()

    def _new_lane(self) -> "_Lane":
        """The file once more, open for another thread."""
        assert self._source is not None
        decoder = FileDecoder(self._source)
        finder = FrameFinder(decoder, self._facts, self._finder.index, trusted=True, threads=1)
        return _Lane(decoder, finder, _Converter(self._orientation, self.info))

    def _decode_error(self, decodable: int, asked: int) -> DecodeError:
        index = self._finder.index
        return DecodeError(
            f"{self.info.path}: {decodable} of the {asked} frames asked for decode (the file ends at "
            f"{index.duration_seconds:.2f} s, after {len(index)} of {self.info.num_frames} frames). It is "
            "probably cut short or damaged: get it anew, or drop it with `--skip-broken`, which lists it."
        )


class _Lane:
    """One place in a file, where one thread reads."""

    def __init__(
        self, decoder: "FileDecoder | _ArrayDecoder", finder: FrameFinder[VideoFrame], converter: "_Converter"
    ) -> None:
        self.decoder = decoder
        self._finder = finder
        self._converter = converter

    def fill(
        self, out: UInt8Array, wanted: Int64Array, slots: Int64Array, resize_filter: ResizeFilter
    ) -> None:
        """Writes the frames of these slots, whose numbers in `wanted` rise."""
        self._finder.prepare(np.unique(wanted[slots]))
        before = -1  # the slot of `out` that was written last
        for slot in slots.tolist():
            if before >= 0 and wanted[slot] == wanted[before]:
                out[slot] = out[before]
            else:
                self._converter.write(self._finder.frame(int(wanted[slot])), out[slot], resize_filter)
            before = slot


class _Converter:
    """Decoded frames -> upright RGB pixels of the size asked for."""

    def __init__(self, orientation: Orientation, info: VideoInfo) -> None:
        self._orientation = orientation
        self._stored_size = orientation.turned_size(info.size)
        self._path = info.path
        # Reused: setting one up takes longer than a small frame.
        self._to_rgb, self._to_small = VideoReformatter(), VideoReformatter()

    def write(self, frame: VideoFrame, out: UInt8Array, resize_filter: ResizeFilter) -> None:
        """Fills `out`, uint8 [H, W, 3], with one frame."""
        stored = self._stored_size
        target = self._orientation.turned_size(Size(out.shape[0], out.shape[1]))
        if resize_filter == "bilinear" and target != stored:
            full = self._rgb(frame, stored)
            pixels = np.empty((*target, 3), dtype=np.uint8)
            cv2.resize(full, (target.width, target.height), dst=pixels, interpolation=cv2.INTER_LINEAR)
        else:
            shrinks = target != stored and target.height <= stored.height and target.width <= stored.width
            pixels = self._rgb(self._small(frame, target) if shrinks else frame, target)
        np.copyto(out, self._orientation.turn(pixels))

    def _small(self, frame: VideoFrame, size: Size) -> VideoFrame:
        """Shrinks a frame of subsampled YUV before it becomes RGB, which is faster than both at once.

        Colour keeps its height and half of the width, about what it has in the file.
        """
        name = frame.format.name
        if not name.startswith(("yuv420", "yuv422", "yuvj420", "yuvj422", "nv12")):
            return frame
        return self._reformat(self._to_small, frame, size, "yuv422p")

    def _rgb(self, frame: VideoFrame, size: Size) -> UInt8Array:
        """A view into an RGB frame of FFmpeg's, whose lines may be longer than the picture."""
        plane = self._reformat(self._to_rgb, frame, size, "rgb24").planes[0]
        return np.ndarray((*size, 3), np.uint8, buffer=memoryview(plane), strides=(plane.line_size, 3, 1))

    def _reformat(self, by: VideoReformatter, frame: VideoFrame, size: Size, format_name: str) -> VideoFrame:
        height, width = size
        try:
            return by.reformat(
                frame, width, height, format_name, interpolation=Interpolation.BILINEAR, threads=1
            )
        except av.FFmpegError:
            found = f"{frame.format.name} with colour matrix {frame.colorspace}"
            raise VideoError(
                f"{self._path}: FFmpeg cannot turn {found} into RGB; convert the file to h264 with BT.709"
            ) from None


class _ArrayDecoder:
    """Decoded frames, behind the same calls as a file."""

    def __init__(self, frames: UInt8Array, fps: float) -> None:
        self.name = source_name(frames)
        self.threads = 1
        self.num_decoded = 0
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
            found = f"{frames.dtype} {list(frames.shape)}"
            raise VideoError(f"{self.name}: frames must be uint8 [T, H, W, 3] and not empty, got {found}")
        if not fps > 0:
            raise VideoError(f"{self.name}: fps must be above 0, got {fps}")
        self._frames = frames
        self._rate = Fraction(fps).limit_denominator(100_000)
        self._next = 0

    def open(self, threads: int) -> None:
        self.threads = threads
        self._next = 0

    def seek(self, timestamp: int) -> None:
        self._next = timestamp

    def frames(self, use: Callable[[int | None], Use]) -> Iterator[VideoFrame]:
        """The frames from here on, all of them: arrays cost nothing to decode."""
        while self._next < len(self._frames):
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(self._frames[self._next]), format="rgb24")
            frame.pts = self._next
            self._next += 1
            self.num_decoded += 1
            yield frame

    def scan(self) -> Scan:
        """Every frame is a packet and a key."""
        return Scan(
            path=self.name,
            packets=[Packet(i, 1, 1, is_key=True) for i in range(len(self._frames))],
            facts=StreamFacts(container="", codec="raw", time_base=1 / self._rate, rate=self._rate),
            orientation=Orientation(),
            stored_size=Size(*self._frames.shape[1:3]),
            pixel_format="rgb24",
            has_audio=False,
        )

    def close(self) -> None:
        """Nothing is open."""
