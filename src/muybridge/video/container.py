"""One container, open at some place: its packets, its facts and the frames that its decoder yields.

Nothing but the file itself is ever opened: no playlists, no references to other files, no addresses.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import BinaryIO

import av
import numpy as np
from av.buffer import Buffer
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from muybridge.errors import DecodeError, VideoError
from muybridge.types import Size
from muybridge.video.index import Packet, Scan, StreamFacts
from muybridge.video.orientation import Orientation
from muybridge.video.seeking import Use
from muybridge.video.source import FileSource, open_bytes, rereadable, source_name, unreadable

# A frame of 8K video has half of this; a header that asks for more is damaged or an attack on the memory.
MAX_PIXELS = 2**26
# Containers that hold their own frames; playlists (hls, dash, concat) and devices are left out.
CONTAINERS = (
    "mov,matroska,avi,gif,mpegts,mpeg,flv,asf,ogg,ivf,nut,mxf,rm,dv,wtv,swf,apng,yuv4mpegpipe,"
    "mpegvideo,h263,h264,hevc,vvc,av1,obu,m4v,mjpeg,vc1,wav,mp3,flac"
)


class FileDecoder:
    """One container, open at some place, and the decoder of its video stream."""

    def __init__(self, source: FileSource) -> None:
        self.name = source_name(source)
        self.num_decoded = 0
        self._source = rereadable(source)
        self._closing = ExitStack()
        self.open(1)

    def open(self, threads: int) -> None:
        """Opens the container at its start, with so many decoder threads."""
        self.close()
        with ExitStack() as stack:
            file = open_bytes(self._source, stack)
            self._container = _open_container(file, self.name)
            stack.callback(self._container.close)
            self._stream = _video_stream(self._container, self.name)
            self._closing = stack.pop_all()
        self.threads = threads
        self._stream.thread_type = "AUTO" if threads > 1 else "NONE"
        self._stream.thread_count = threads
        self._stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}

    def close(self) -> None:
        self._closing.close()

    def seek(self, timestamp: int) -> None:
        """Goes to the key frame at or before a timestamp, by the container's table."""
        try:
            self._container.seek(timestamp, stream=self._stream)
        except av.FFmpegError:
            self.open(self.threads)  # no table: the start is before every key

    def frames(self, use: Callable[[int | None], Use]) -> Iterator[VideoFrame]:
        """Decodes on from here, up to the end or to the first packet that does not decode.

        `use` says of each packet's timestamp what the packet is good for.
        """
        context = self._stream.codec_context
        try:
            for packet in self._container.demux(self._stream):
                what = use(packet.pts)
                context.skip_frame = "NONREF" if what is Use.LEAVE_OUT else "DEFAULT"
                if packet.size or _is_flush(packet):  # Theora has empty ones; to decoders they mean the end
                    yield from self._decoded(packet)
                if what is Use.DECODE_AND_STOP:
                    yield from self._decoded(None)
                    return
        except OSError as error:
            raise unreadable(self.name, error) from error
        except av.FFmpegError:
            return

    def _decoded(self, packet: "av.Packet[VideoStream] | None") -> Iterator[VideoFrame]:
        """The frames that come out after a packet; after None, all that the decoder still holds."""
        for frame in self._stream.decode(packet):
            self.num_decoded += 1
            yield frame

    def scan(self) -> Scan:
        """Reads all packets, and decodes up to the first frame."""
        packets: list[Packet] = []
        first: VideoFrame | None = None
        is_vp8 = self._stream.codec_context.name == "vp8"
        try:
            for packet in self._container.demux(self._stream):
                if packet.size:
                    packets.append(_packet(packet, is_vp8=is_vp8))
                if first is None and (packet.size or _is_flush(packet)):
                    first = next(iter(packet.decode()), None)
        except OSError as error:
            raise unreadable(self.name, error) from error
        except av.FFmpegError:  # what comes after is lost: decoding will count
            packets = [packet._replace(is_corrupt=True) for packet in packets]
        if first is None:
            raise DecodeError(
                f"{self.name}: not one of its frames decodes, or they have more than {MAX_PIXELS} pixels; "
                "get it anew or drop it"
            )
        self.num_decoded += 1
        return Scan(
            path=self.name,
            packets=packets,
            facts=self._facts(),
            orientation=_orientation(first),
            stored_size=Size(first.height, first.width),
            pixel_format=first.format.name,
            has_audio=len(self._container.streams.audio) > 0,
        )

    def _facts(self) -> StreamFacts:
        context = self._stream.codec_context
        time_base = self._stream.time_base
        assert time_base is not None  # FFmpeg always sets it
        container = self._container.format.name
        stated = self._stream.average_rate or self._stream.guessed_rate
        return StreamFacts(
            container=container,
            codec=context.codec.canonical_name,
            time_base=time_base,
            rate=1 / time_base if container == "avi" else stated,  # a tick of AVI is a frame
            is_interlaced=context.field_order > 1,  # 0 is unknown, 1 progressive
            reorder_frames=int(context.has_b_frames),
        )


def _open_container(file: BinaryIO, name: str) -> InputContainer:
    # A file object, never a name: FFmpeg would take "a:b.mp4" for an address.
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "none", "max_pixels": str(MAX_PIXELS)}
    try:
        return av.open(file, "r", options=options, metadata_errors="replace")
    except OSError as error:
        raise unreadable(name, error) from error
    except av.FFmpegError:
        raise VideoError(
            f"{name} is not a video: its bytes are no container that FFmpeg reads (playlists are refused)"
        ) from None


def _video_stream(container: InputContainer, name: str) -> VideoStream:
    """The first video stream that is not a cover picture; nothing of the others is read."""
    videos = [
        stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic
    ]
    if not videos:
        kinds = ", ".join(stream.type for stream in container.streams) or "nothing"
        raise VideoError(f"{name} has no video stream (it holds {kinds}): name another file")
    stream = videos[0]
    if stream.codec_context is None:
        raise VideoError(f"{name}: FFmpeg has no decoder for its video; convert it to h264")
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all
    return stream


def _packet(packet: "av.Packet[VideoStream]", *, is_vp8: bool) -> Packet:
    return Packet(
        pts=packet.pts,
        duration=packet.duration or 0,
        num_bytes=packet.size,
        is_key=packet.is_keyframe,
        is_discard=packet.is_discard,
        is_hidden=is_vp8 and not memoryview(packet)[0] & 0x10,  # show_frame, RFC 6386 section 9.1
        is_corrupt=packet.is_corrupt,
    )


def _is_flush(packet: "av.Packet[VideoStream]") -> bool:
    """PyAV's own last packet, which brings out the frames that the decoder still holds."""
    return not packet.size and packet.pts is None and packet.dts is None


def _orientation(frame: VideoFrame) -> Orientation:
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(matrix, Buffer):
        return Orientation()
    return Orientation.from_matrix(np.frombuffer(bytes(matrix), np.int32).tolist())
