"""The law of the reader: frame i is the i-th frame that plain decoding from the start yields."""

import io
import multiprocessing
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muybridge.errors import DecodeError
from muybridge.types import UInt8Array
from muybridge.video.decode import VideoReader, probe
from muybridge.video.encode import write_video
from muybridge.video.seeking import default_threads

OPEN_GOP = {"x264-params": "open-gop=1:keyint=12:bframes=3:scenecut=0"}
OPEN_GOP_HEVC = {"x265-params": "keyint=12:open-gop=1:bframes=3:scenecut=0:log-level=none:pools=1"}
IRREGULAR = tuple(int(t) for t in np.cumsum(np.random.default_rng(1).integers(1, 9, 60)))


def straight(source: Path | io.BytesIO) -> UInt8Array:
    """What plain PyAV yields, frame by frame in one thread, up to the end or the first error."""
    frames = []
    with (open(source, "rb") if isinstance(source, Path) else source) as file, av.open(file) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        try:
            for frame in container.decode(stream):
                pixels = frame.reformat(format="rgb24").to_ndarray()
                frames.append(np.rot90(pixels, frame.rotation // 90))
        except av.error.InvalidDataError:
            pass
    return np.stack(frames)


def moving(num_frames: int, height: int = 48, width: int = 64) -> Iterator[UInt8Array]:
    """Smooth colours that move, so that every frame differs from every other."""
    y, x = np.mgrid[:height, :width] / 8
    for t in range(num_frames):
        waves = [np.sin(x + t / 3), np.cos(y - t / 5), np.sin(x + y + t / 7)]
        yield (np.stack(waves, axis=-1) * 100 + 128).astype(np.uint8)


def encode(
    path: Path,
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    pts: Sequence[int] = range(60),
    pixel_format: str = "yuv420p",
    muxing: dict[str, str] | None = None,
    **attributes: Any,
) -> Path:
    """A file with what `write_video` has no words for."""
    with av.open(str(path), "w", container_options=muxing or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.codec_context.time_base = Fraction(1, 25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, pixel_format
        rotation = attributes.pop("rotation", None)
        for name, value in attributes.items():
            setattr(stream.codec_context, name, value)
        if rotation is not None:
            stream.set_display_rotation(*rotation)
        for time, pixels in zip(pts, moving(len(pts)), strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def remux(path: Path, target: Path, *, first: int = 0, shift: int = 0, hide: Sequence[int] = ()) -> Path:
    """Copies packets from the `first` on; those in `hide` are marked as never to be shown (VP8)."""
    options = {"avoid_negative_ts": "disabled"}
    with av.open(str(path)) as source, av.open(str(target), "w", container_options=options) as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        for i, packet in enumerate(packets[first:], first):
            data = bytes(packet)
            if i in hide:
                data = bytes([data[0] & ~0x10]) + data[1:]
            new = av.Packet(data)
            new.pts, new.dts, new.time_base = packet.pts + shift, packet.dts + shift, packet.time_base
            new.duration, new.is_keyframe, new.stream = packet.duration, packet.is_keyframe, stream
            copy.mux(new)
    return target


def made(kind: str, folder: Path) -> Path:
    """One of the odd files below."""
    match kind:
        case "open_gop.mp4" | "open_gop.mkv" | "open_gop.avi" | "open_gop.flv" | "open_gop.ts" | "open_gop.h264":
            return encode(folder / kind, options=OPEN_GOP)
        case "open_gop_hevc.mp4" | "open_gop_hevc.mkv":
            return encode(folder / kind, codec="libx265", options=OPEN_GOP_HEVC)
        case "cut_open_gop.mkv":  # starts at a key frame before which frames are shown that cannot be decoded
            return remux(encode(folder / "whole.mkv", options=OPEN_GOP), folder / kind, first=13)
        case "intra_refresh.mp4":  # key frames from which the picture is complete only a second later
            return encode(folder / kind, options={"x264-params": "intra-refresh=1:keyint=20:bframes=0"})
        case "irregular.mp4" | "irregular.mkv":
            return encode(folder / kind, options=OPEN_GOP, pts=IRREGULAR)
        case "gaps.avi":  # the gaps are packets of no bytes
            return encode(folder / kind, codec="mpeg4", pts=IRREGULAR)
        case "late.mkv" | "late.mp4":
            return encode(folder / kind, options=OPEN_GOP, pts=range(500, 560))
        case "edit_list.mov":  # the first 10 frames are there to be decoded, not shown
            return remux(encode(folder / "whole.mov", options=OPEN_GOP), folder / kind, shift=-10 * 512)
        case "10_bits.mp4":
            return encode(folder / kind, options=OPEN_GOP, pixel_format="yuv420p10le")
        case "full_range.mp4":
            return encode(folder / kind, options=OPEN_GOP, pixel_format="yuvj420p")
        case "interlaced.mp4":
            return encode(folder / kind, options={"x264-params": "tff=1:keyint=12"})
        case "b_frames.avi":
            return encode(folder / kind, codec="mpeg4", max_b_frames=2, gop_size=12)
        case "mpeg2.mpg" | "mpeg2.mkv":
            return encode(folder / kind, codec="mpeg2video", max_b_frames=2, gop_size=12)
        case "hidden.webm":
            whole = encode(folder / "whole.webm", codec="libvpx", gop_size=20, options={"b": "300k"})
            return remux(whole, folder / kind, hide=(5, 6, 31))
        case "vp9.webm":
            return encode(folder / kind, codec="libvpx-vp9", gop_size=20, options={"cpu-used": "8"})
        case "turned.mp4":
            return encode(folder / kind, options=OPEN_GOP, rotation=(90,))
        case "intra.avi":
            return encode(folder / kind, codec="mjpeg", pixel_format="yuvj420p")
        case "half.mp4":  # its table of frames is whole, its frames are not
            whole = encode(folder / "whole.mp4", options=OPEN_GOP, muxing={"movflags": "faststart"}).read_bytes()
            (folder / kind).write_bytes(whole[: len(whole) * 2 // 3])
            return folder / kind
        case "half.mkv":
            whole = encode(folder / "whole.mkv", options=OPEN_GOP).read_bytes()
            (folder / kind).write_bytes(whole[: len(whole) // 2])
            return folder / kind
    raise AssertionError(kind)


KINDS = """open_gop.mp4 open_gop.mkv open_gop.avi open_gop.flv open_gop.ts open_gop.h264 open_gop_hevc.mp4
    open_gop_hevc.mkv cut_open_gop.mkv intra_refresh.mp4 irregular.mp4 irregular.mkv gaps.avi late.mkv late.mp4
    edit_list.mov 10_bits.mp4 full_range.mp4 interlaced.mp4 b_frames.avi mpeg2.mpg mpeg2.mkv hidden.webm vp9.webm
    turned.mp4 intra.avi half.mp4 half.mkv""".split()


def check_reads(source: Path, expected: UInt8Array, seed: int) -> None:
    """Reads all kinds of indices, in one reader after another and many times in one, and compares bytes."""
    rng = np.random.default_rng(seed)
    count = len(expected)
    plans = [rng.integers(0, count, size) for size in (1, 1, 3, 8)]  # unordered, with duplicates
    plans += [np.arange(count)[::-1], np.arange(count // 2, count), np.arange(count)[:: max(1, count // 7)]]
    plans += [np.arange(start, min(start + 9, count), 3) for start in range(0, count, max(1, count // 6))]
    for threads in (1, 3):
        with VideoReader(source, threads=threads) as reader:
            assert reader.info.num_frames == count
            assert reader.info.size == expected.shape[1:3]
            for plan in plans:
                np.testing.assert_array_equal(reader.read(plan.tolist()), expected[plan])
        with VideoReader(source, threads=threads) as reader:  # many at once, from the start: in threads
            np.testing.assert_array_equal(reader.read(range(count)), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_read_is_exact_on_odd_files(kind: str, tmp_path: Path) -> None:
    path = made(kind, tmp_path)
    check_reads(path, straight(path), seed=len(kind))


@pytest.mark.real
def test_read_is_exact_on_every_real_file(data_dir: Path) -> None:
    paths = [path for path in sorted((data_dir / "wild").iterdir()) if path.name != "empty_ImgVideo.mp4"]
    paths += sorted((data_dir / "weizmann").rglob("*.avi"))[::30]
    paths += sorted((data_dir / "utd_mhad_depth").rglob("*.mp4"))[::300]
    paths += sorted((data_dir / "utd_mhad_rgb").rglob("*.mp4"))[::80]
    assert len(paths) > 25
    for path in paths:
        expected = straight(path)
        if path.name == "corrupted.mp4":  # claims 50 frames
            with VideoReader(path) as reader:
                np.testing.assert_array_equal(reader.read(range(28)), expected)
        else:
            check_reads(path, expected, seed=len(path.name))
