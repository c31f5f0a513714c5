"""Frames -> a video file: the only writer. The same frames give the same bytes, whole or not at all.

`GreyEncoder` makes packets without a container, of pictures that are numbers rather than light.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags as CodecFlags
from av.container import OutputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from muybridge.errors import VideoError
from muybridge.files import atomic_path
from muybridge.types import UInt8Array

# The suffix names the container, and the codec that it takes where h264 does not fit.
CONTAINERS = {
    ".mp4": ("mp4", "h264"),
    ".m4v": ("mp4", "h264"),
    ".mov": ("mov", "h264"),
    ".mkv": ("matroska", "h264"),
    ".avi": ("avi", "mpeg4"),
    ".ts": ("mpegts", "h264"),
    ".webm": ("webm", "vp8"),
    ".gif": ("gif", "gif"),
}
ENCODERS = {"h264": "libx264", "hevc": "libx265", "vp8": "libvpx", "vp9": "libvpx-vp9"}
X265_ONE_THREAD = "pools=1:frame-threads=1:info=0:log-level=error"
GREY_RATE = 25  # encoders want a frame rate; packets without a container have none


def write_video(
    path: Path | str,
    frames: Iterable[UInt8Array],
    *,
    fps: float,
    codec: str = "h264",
    crf: int = 18,
    gop: int = 12,
    b_frames: int = 0,
    pixel_format: str = "yuv420p",
) -> None:
    """Writes RGB frames as a video, one at a time; the suffix of `path` names the container.

    The file appears whole or not at all, and its bytes depend on the frames and the arguments only: the
    encoder runs in one thread and the container carries no date and no random number.

    Args:
        path: .mp4, .m4v, .mov, .mkv, .avi, .ts, .webm (codec "vp8" or "vp9") or .gif (codec "gif").
        frames: uint8 [H, W, 3] each, all of one size. yuv420p halves the colour, so it takes even sizes only:
            crop or pad odd ones, or ask for pixel_format="yuv444p".
        fps: frames a second; a GIF counts in hundredths of a second and rounds.
        codec: FFmpeg's name of it: "h264", "hevc", "mpeg4", "vp8", "vp9", "gif", "ffv1", ...
        crf: constant quality on x264's scale: 18 is nearly invisible, six more halve the precision.
        gop: at most so many frames from one key frame to the next; a seek decodes half of it on average.
        b_frames: at most so many frames in a row that are predicted from both sides.
        pixel_format: FFmpeg's name of what the codec stores, such as "yuv444p" or "yuv420p10le".

    Raises:
        VideoError: no frames, odd or changing sizes, or a codec that does not fit the container.
        StorageError: the disk is full, or the folder cannot be written; `path` is untouched.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_video(Path(folder) / "black.mp4", np.zeros((5, 48, 64, 3), np.uint8), fps=25)
    ...     print([file.name for file in Path(folder).iterdir()])
    ['black.mp4']
    """
    path = Path(path)
    if not (fps > 0 and math.isfinite(fps)):
        raise VideoError(f"cannot write {path}: fps must be above 0, got {fps}")
    container_name = _container_name(path)
    checked = _checked(path, frames, pixel_format)
    first = next(checked, None)
    if first is None:
        raise VideoError(f"cannot write {path}: there are no frames, and a video needs at least one")
    # A file object and not a name: FFmpeg would take a name like "a:b.mp4" for a protocol.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        container = av.open(file, "w", format=container_name, container_options={"fflags": "+bitexact"})
        try:
            stream = _add_stream(container, path, codec, Fraction(fps).limit_denominator(100_000))
            stream.height, stream.width = first.shape[:2]
            stream.pix_fmt = pixel_format if codec != "gif" else "rgb8"
            stream.gop_size = gop
            stream.codec_context.max_b_frames = b_frames
            _set_quality(stream, codec, crf)
            _encode(container, stream, itertools.chain([first], checked))
        except av.FFmpegError as error:
            file.close()
            if isinstance(error, OSError):  # the disk, not the encoder: atomic_path knows what to say
                raise
            found = f"{stream.width}x{stream.height} {stream.pix_fmt}"
            raise VideoError(f"cannot write {path}: {codec} does not take {found} ({error})") from None
        except BaseException:
            file.close()  # PyAV would write the end of the file, fail once more and hide the first error
            raise
        finally:
            container.close()


class GreyEncoder:
    """Grey pictures -> packets, one a picture, in the same order; a key every `gop` packets begins anew.

    A value is a number and not a brightness: nothing is converted, scaled or cut off.

    Args:
        height: pixels, of each picture.
        width: pixels.
        codec: "ffv1", which loses nothing, or "hevc".
        gop: packets from one key to the next; to have one picture, those from its key on are decoded.
        crf: of "hevc": constant quality, 0 to 51; six more double the step of its quantiser.

    Raises:
        VideoError: the encoder does not take this size, or is not there.

    >>> encoder = GreyEncoder(24, 32, codec="ffv1", gop=4)
    >>> packets = encoder.encode(np.zeros((24, 32), np.uint8)) + encoder.finish()
    >>> [is_key for _, is_key in packets]
    [True]
    """

    def __init__(self, height: int, width: int, *, codec: str, gop: int, crf: int | None = None) -> None:
        name = ENCODERS.get(codec, codec)
        try:
            context = VideoCodecContext.create(name, "w")
        except ValueError:
            raise VideoError(f"FFmpeg has no encoder '{name}' here: install av from its own wheels") from None
        assert isinstance(context, VideoCodecContext)
        context.height, context.width = height, width
        context.pix_fmt = "gray"
        context.time_base = Fraction(1, GREY_RATE)
        context.framerate = Fraction(GREY_RATE)
        context.thread_count = 1
        context.flags |= CodecFlags.bitexact.value
        context.gop_size = gop
        context.max_b_frames = 0
        context.options = _grey_options(codec, gop, crf)
        self._context = context
        try:
            context.open()
        except av.FFmpegError as error:
            raise VideoError(f"{codec} does not take grey pictures of {width}x{height} ({error})") from None
        self._shape = (height, width)
        self._num_encoded = 0

    @property
    def setup(self) -> bytes:
        """What the decoder must have beside the packets; empty where they say it themselves."""
        return bytes(self._context.extradata or b"") if self._context.name == "ffv1" else b""

    def encode(self, picture: UInt8Array) -> list[tuple[bytes, bool]]:
        """The packets that are ready once this picture, uint8 [H, W], is in; with each, if it is a key."""
        assert picture.shape == self._shape, (picture.shape, self._shape)
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="gray")
        frame.pts = self._num_encoded
        frame.time_base = Fraction(1, GREY_RATE)
        self._num_encoded += 1
        return [(bytes(packet), packet.is_keyframe) for packet in self._context.encode(frame)]

    def finish(self) -> list[tuple[bytes, bool]]:
        """The rest of the packets. Nothing can be encoded after this."""
        return [(bytes(packet), packet.is_keyframe) for packet in self._context.encode(None)]


def _grey_options(codec: str, gop: int, crf: int | None) -> dict[str, str]:
    if codec == "ffv1":
        # Version 3 with its fewest slices; the range coder saves a quarter of the bytes, contexts little.
        return {"level": "3", "slices": "4", "slicecrc": "0", "coder": "1", "context": "0"}
    # What makes pictures look sharper (psy, aq) adds errors to numbers; all pictures count alike (cutree).
    same_for_all = "psy-rd=0:psy-rdoq=0:aq-mode=0:no-cutree=1:rc-lookahead=0:lookahead-slices=0"
    keys = f"keyint={gop}:min-keyint={gop}:scenecut=0:open-gop=0:bframes=0"
    return {"crf": str(crf), "preset": "veryfast", "x265-params": f"{keys}:{same_for_all}:{X265_ONE_THREAD}"}


def _container_name(path: Path) -> str:
    try:
        return CONTAINERS[path.suffix.lower()][0]
    except KeyError:
        known = ", ".join(CONTAINERS)
        raise VideoError(f"cannot write {path}: no container for '{path.suffix}'; known: {known}") from None


def _checked(path: Path, frames: Iterable[UInt8Array], pixel_format: str) -> Iterator[UInt8Array]:
    """The frames, once each has been found to be what the encoder will take."""
    shape: tuple[int, ...] = ()
    for i, frame in enumerate(frames):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            found = f"{frame.dtype} {list(frame.shape)}"
            raise VideoError(f"cannot write {path}: frame {i} must be uint8 [H, W, 3], got {found}")
        if i == 0:
            shape = frame.shape
            _check_size(path, shape, pixel_format)
        if frame.shape != shape:
            raise VideoError(
                f"cannot write {path}: frame {i} is {frame.shape[1]}x{frame.shape[0]}, but the first one is "
                f"{shape[1]}x{shape[0]}; resize them to one size"
            )
        yield frame


def _check_size(path: Path, shape: tuple[int, ...], pixel_format: str) -> None:
    height, width = shape[:2]
    try:
        stored = VideoFormat(pixel_format, 2, 2)
    except ValueError as error:
        raise VideoError(f"cannot write {path}: {error}") from None
    odd = (height % 2 and stored.chroma_height(2) == 1) or (width % 2 and stored.chroma_width(2) == 1)
    if odd and path.suffix.lower() != ".gif":
        raise VideoError(
            f"cannot write {path}: the frames are {width}x{height} and {pixel_format} takes even sizes only; "
            "crop or pad them, or ask for pixel_format='yuv444p'"
        )


def _add_stream(container: OutputContainer, path: Path, codec: str, rate: Fraction) -> VideoStream:
    try:
        kind = av.Codec(ENCODERS.get(codec, codec), "w").type
        if kind != "video":
            raise ValueError(f"'{codec}' encodes {kind}")
        stream = container.add_stream(ENCODERS.get(codec, codec), rate=rate)
    except ValueError as error:  # PyAV: an unknown codec, or one that the container does not take
        fitting = CONTAINERS[path.suffix.lower()][1]
        raise VideoError(f"cannot write {path}: {error}; codec='{fitting}' would fit") from None
    assert isinstance(stream, VideoStream)
    stream.codec_context.time_base = 1 / rate
    return stream


def _set_quality(stream: VideoStream, codec: str, crf: int) -> None:
    """One thread, no version strings, and `crf` in the words of each encoder."""
    context = stream.codec_context
    context.thread_count = 1
    context.flags |= CodecFlags.bitexact.value
    if codec == "h264":
        # x264's macroblock tree reads memory that it has not set: with it the same frames gave other bytes.
        context.options = {"crf": str(crf), "preset": "veryfast", "x264-params": "mbtree=0"}
    elif codec == "hevc":
        context.options = {"crf": str(crf), "preset": "veryfast", "x265-params": X265_ONE_THREAD}
    elif codec in ("vp8", "vp9"):
        context.options = {"crf": str(crf), "b": "10M" if codec == "vp8" else "0", "cpu-used": "4"}
    elif codec in ("mpeg4", "mpeg2video", "mjpeg"):
        # Their quantiser is a step, where x264's is the logarithm of one: 18 -> 2, 24 -> 4, 30 -> 8.
        step = str(min(31, max(1, round(2 ** ((crf - 12) / 6)))))
        context.options = {"qmin": step, "qmax": step}


def _encode(container: OutputContainer, stream: VideoStream, frames: Iterable[UInt8Array]) -> None:
    reformatter = VideoReformatter()
    for i, pixels in enumerate(frames):
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = reformatter.reformat(frame, format=stream.pix_fmt, threads=1)
        frame.pts = i
        frame.time_base = stream.codec_context.time_base
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
