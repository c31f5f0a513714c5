"""The law of the reader: frame i is the i-th frame that plain decoding from the start yields."""

import io
import multiprocessing
import threading
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_frames import moving, straight

from muybridge.errors import DecodeError
from muybridge.types import UInt8Array
from muybridge.video.decode import VideoReader, probe
from muybridge.video.encode import write_video
from muybridge.video.seeking import default_threads

OPEN_GOP = {"x264-params": "open-gop=1:keyint=12:bframes=3:scenecut=0"}
OPEN_GOP_HEVC = {"x265-params": "keyint=12:open-gop=1:bframes=3:scenecut=0:log-level=none:pools=1"}
NOT_CODED = b"\x00\x00\x01\xb6\x50\x00\x5f"  # an MPEG-4 picture header that says so
IRREGULAR = tuple(int(t) for t in np.cumsum(np.random.default_rng(1).integers(1, 9, 60)))


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


def remux(
    path: Path,
    target: Path,
    *,
    first: int = 0,
    shift: int = 0,
    hide: Sequence[int] = (),
    replace: Sequence[int] = (),
    instead: bytes = b"",
) -> Path:
    """Copies packets from the `first` on; those in `hide` are marked as never to be shown (VP8)."""
    options = {"avoid_negative_ts": "disabled"}
    with av.open(str(path)) as source, av.open(str(target), "w", container_options=options) as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        for i, packet in enumerate(packets[first:], first):
            data = bytes(packet)
            if i in hide:
                data = bytes([data[0] & ~0x10]) + data[1:]
            new = av.Packet(instead if i in replace else data)
            new.pts, new.dts, new.time_base = packet.pts + shift, packet.dts + shift, packet.time_base
            new.duration, new.is_keyframe, new.stream = packet.duration, packet.is_keyframe, stream
            copy.mux(new)
    return target


def begun(path: Path, part: float, **how: Any) -> Path:
    """The first part of a file whose table of frames, if it has one, stands at its start."""
    whole = encode(path, options=OPEN_GOP, **how).read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    return path


def beside(path: Path) -> Path:
    return path.with_name(f"whole{path.suffix}")


MADE: dict[str, Callable[[Path], Path]] = {
    f"open_gop{suffix}": lambda path: encode(path, options=OPEN_GOP)
    for suffix in (".mp4", ".mkv", ".avi", ".flv", ".ts", ".h264")
}
MADE |= {
    f"open_gop_hevc{suffix}": lambda path: encode(path, codec="libx265", options=OPEN_GOP_HEVC)
    for suffix in (".mp4", ".mkv")
}
MADE |= {
    f"irregular{suffix}": lambda path: encode(path, options=OPEN_GOP, pts=IRREGULAR)
    for suffix in (".mp4", ".mkv")
}
MADE |= {
    f"late{suffix}": lambda path: encode(path, options=OPEN_GOP, pts=range(500, 560))
    for suffix in (".mp4", ".mkv")
}
MADE |= {
    f"mpeg2{suffix}": lambda path: encode(path, codec="mpeg2video", max_b_frames=2, gop_size=12)
    for suffix in (".mpg", ".mkv")
}
MADE |= {
    # Starts at a key frame before which frames are shown that cannot be decoded.
    "cut_open_gop.mkv": lambda path: remux(encode(beside(path), options=OPEN_GOP), path, first=13),
    # Has key frames from which the picture is whole only a second later.
    "intra_refresh.mp4": lambda path: encode(path, options={"x264-params": "intra-refresh=1:keyint=20"}),
    "gaps.avi": lambda path: encode(path, codec="mpeg4", pts=IRREGULAR),
    # The first 10 frames are there to be decoded, not shown.
    "edit_list.mov": lambda path: remux(encode(beside(path), options=OPEN_GOP), path, shift=-10 * 512),
    "10_bits.mp4": lambda path: encode(path, options=OPEN_GOP, pixel_format="yuv420p10le"),
    "full_range.mp4": lambda path: encode(path, options=OPEN_GOP, pixel_format="yuvj420p"),
    "interlaced.mp4": lambda path: encode(path, options={"x264-params": "tff=1:keyint=12"}),
    "b_frames.avi": lambda path: encode(path, codec="mpeg4", max_b_frames=2, gop_size=12),
    "hidden.webm": lambda path: remux(
        encode(beside(path), codec="libvpx", gop_size=20), path, hide=(5, 6, 31)
    ),
    "vp9.webm": lambda path: encode(path, codec="libvpx-vp9", gop_size=20, options={"cpu-used": "8"}),
    "turned.mp4": lambda path: encode(path, options=OPEN_GOP, rotation=(90,)),
    "intra.avi": lambda path: encode(path, codec="mjpeg", pixel_format="yuvj420p"),
    # A stand-in for "as before" that the decoder makes no frame of.
    "dummies.mkv": lambda path: remux(
        encode(beside(path), codec="mpeg4"), path, replace=(20, 41), instead=NOT_CODED
    ),
    "half.mp4": lambda path: begun(path, 0.65, muxing={"movflags": "faststart"}),
    "half.mkv": lambda path: begun(path, 0.5),
}


def made(kind: str, folder: Path) -> Path:
    """One of the odd files above."""
    return MADE[kind](folder / kind)


def check_reads(source: Path, expected: UInt8Array, *, threads: int, seed: int = 0) -> None:
    """Reads all kinds of indices, many times in one reader, and compares bytes."""
    rng = np.random.default_rng(seed)
    count = len(expected)
    plans = [rng.integers(0, count, size) for size in (1, 3, 8)]  # unordered, with duplicates
    plans += [
        np.arange(count)[:: -max(1, count // 7)],
        np.arange(count // 2, count, 3),
        np.arange(count // 5),
    ]
    with VideoReader(source, threads=threads) as reader:
        assert reader.info.num_frames == count
        assert reader.info.size == expected.shape[1:3]
        for plan in plans:
            assert np.array_equal(reader.read(plan.tolist()), expected[plan]), plan
    with VideoReader(source, threads=threads) as reader:  # many at once, from the start: in threads
        assert np.array_equal(reader.read(range(count)), expected)


@pytest.mark.parametrize("kind", MADE)
def test_read_is_exact_on_odd_files(kind: str, tmp_path: Path) -> None:
    path = made(kind, tmp_path)
    expected = straight(path)
    for threads in (1, 3):
        check_reads(path, expected, threads=threads, seed=threads)


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
            check_reads(path, expected, threads=3)


def test_odd_files_are_as_odd_as_they_claim(tmp_path: Path) -> None:
    """The tests above would be easy if the encoders had ignored their options."""
    with av.open(str(made("edit_list.mov", tmp_path))) as container:
        assert sum(packet.is_discard for packet in container.demux(video=0)) == 10
    with av.open(str(made("cut_open_gop.mkv", tmp_path))) as container:
        times = [packet.pts for packet in container.demux(video=0) if packet.size]
        assert min(times) < times[0]
    with av.open(str(made("irregular.mkv", tmp_path))) as container:
        times = sorted(packet.pts for packet in container.demux(video=0) if packet.size)
        assert len(set(np.diff(times))) > 3
    with av.open(str(made("open_gop.h264", tmp_path))) as container:
        assert any(packet.pts is None for packet in container.demux(video=0) if packet.size)
    assert len(straight(made("edit_list.mov", tmp_path))) == 50
    assert len(straight(made("hidden.webm", tmp_path))) == 57
    assert 0 < len(straight(made("half.mp4", tmp_path))) < 50
    assert len(straight(made("dummies.mkv", tmp_path))) < 60
    assert probe(made("interlaced.mp4", tmp_path)).exact is False
    assert probe(made("open_gop.avi", tmp_path)).fps == 25


@pytest.fixture(scope="module")
def open_gop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made("open_gop.mkv", tmp_path_factory.mktemp("open_gop"))


@given(indices=st.lists(st.integers(0, 59), max_size=12), again=st.lists(st.integers(0, 59), max_size=12))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_indices_in_any_order(open_gop: Path, indices: list[int], again: list[int]) -> None:
    expected = straight(open_gop)
    with VideoReader(open_gop) as reader:
        assert np.array_equal(reader.read(indices), expected[indices])
        assert np.array_equal(reader.read(again), expected[again])


def test_sparse_reads_seek_and_dense_ones_do_not(tmp_path: Path) -> None:
    path = tmp_path / "long.mp4"
    write_video(path, moving(240), fps=25, gop=12)
    with VideoReader(path, threads=1) as reader:
        before = reader.num_decoded
        reader.read([3, 123, 239])
        assert reader.num_decoded - before <= 4 + 4 + 12
    with VideoReader(path, threads=1) as reader:
        before = reader.num_decoded
        reader.read(range(120))
        reader.read(range(120, 240))  # goes on where the first ended
        assert reader.num_decoded - before == 240


@pytest.mark.parametrize("threads", [2, 3])
def test_frames_far_apart_are_read_at_several_places_at_once(tmp_path: Path, threads: int) -> None:
    path = tmp_path / "long.mp4"
    write_video(path, moving(240), fps=25, gop=20)
    indices = [239, 19, 59, 99, 19, 139, 179, 0]
    expected = straight(path)[indices]
    for source in (path, path.read_bytes()):
        with VideoReader(source, threads=threads) as reader:
            before, running = reader.num_decoded, threading.active_count()
            for _ in range(2):
                assert np.array_equal(reader.read(indices), expected)
            assert len(reader._lanes) == threads
            assert threading.active_count() == running
            assert reader.num_decoded - before <= 2 * 6 * 20 + threads  # each lane's own; no frame twice
    with path.open("rb") as file, VideoReader(file, threads=threads) as reader:
        assert np.array_equal(reader.read(indices), expected)
        assert len(reader._lanes) == 1  # an open file is at one place


def test_a_lie_found_by_a_second_thread_is_put_right(tmp_path: Path) -> None:
    """A shorter file takes the place of the one that was opened: an error that says so, no wrong frame."""
    path = tmp_path / "long.mp4"
    write_video(path, moving(240), fps=25, gop=20)
    other = tmp_path / "other.mp4"
    write_video(other, moving(100), fps=25, gop=20)
    with VideoReader(path, threads=2) as reader:
        other.replace(path)
        with pytest.raises(DecodeError, match=r"frames asked for decode"):
            reader.read([19, 59, 99, 139, 179, 239])


def test_frames_that_no_other_needs_are_left_out(tmp_path: Path) -> None:
    """Between the frames asked for, B-frames that are no references are not decoded; the others must be."""
    path = encode(tmp_path / "b.mp4", options={"x264-params": "keyint=250:scenecut=0:bframes=3:b-pyramid=0"})
    with VideoReader(path, threads=1) as reader:
        before = reader.num_decoded
        assert np.array_equal(reader.read([2, 30, 58]), straight(path)[[2, 30, 58]])
        assert reader.num_decoded - before < 40
        assert np.array_equal(reader.read(range(60)), straight(path))
        assert reader.num_decoded - before <= 100  # at the first try


def test_num_decoded_counts_the_frames_of_arrays_too() -> None:
    frames = np.stack(list(moving(30)))
    with VideoReader(frames, fps=10) as reader:
        assert np.array_equal(reader.read([29, 0, 0]), frames[[29, 0, 0]])
        assert reader.num_decoded == 2
        assert reader.info.fps == 10
        assert reader.info.codec == "raw"


def test_damaged_file_says_how_many_frames_decode(wild: Path) -> None:
    path = wild / "corrupted.mp4"
    message = r"corrupted.mp4: 8 of the 16 frames asked for decode \(the file ends at 2.80 s, after 28 of 50"
    with VideoReader(path) as reader:
        with pytest.raises(DecodeError, match=message):
            reader.read(range(20, 36))
        with pytest.raises(DecodeError, match=r"0 of the 1 frames asked"):  # and again, now that it is known
            reader.read([40])
        assert reader.seconds([49]) == pytest.approx([4.9])
        assert np.array_equal(reader.read([27, 3]), straight(path)[[27, 3]])


@pytest.mark.parametrize("seed", range(4))
def test_patched_damage_is_what_one_thread_makes_of_it(tmp_path: Path, seed: int) -> None:
    """Decoders patch holes, and many threads patch them otherwise than one."""
    rng = np.random.default_rng(seed)
    content = bytearray(encode(tmp_path / "whole.mkv", options=OPEN_GOP).read_bytes())
    for place in rng.integers(len(content) // 4, len(content) * 3 // 4, 20):
        content[place] = rng.integers(256)
    path = tmp_path / "damaged.mkv"
    path.write_bytes(content)
    expected = straight(path)
    with VideoReader(path, threads=4) as reader:
        assert np.array_equal(reader.read(range(len(expected))), expected)


def test_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = encode(tmp_path / "shrinks.mkv", codec="ffv1")
    expected = straight(path)
    with VideoReader(path, threads=1) as reader:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)
        with pytest.raises(DecodeError, match=r"\d+ of the 60 frames asked for decode"):
            reader.read(range(60))
        assert np.array_equal(reader.read([5, 9]), expected[[5, 9]])


class Flickering(io.BytesIO):
    """A file that has lost its second half every other time that it is read from its start."""

    opened = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self.opened += offset == whence == 0
        return super().seek(offset, whence)

    def read(self, size: int | None = -1) -> bytes:
        is_lost = self.opened > 2 and self.opened % 2 and self.tell() > len(self.getvalue()) // 2
        return b"" if is_lost else super().read(min(size or 0, 256))


def test_file_that_is_another_each_time(tmp_path: Path) -> None:
    path = encode(tmp_path / "flickers.h264", options=OPEN_GOP)
    with (
        VideoReader(Flickering(path.read_bytes()), threads=1) as reader,
        pytest.raises(DecodeError, match=r"<file object> decodes otherwise each time: is it still being"),
    ):
        reader.read([55])


def test_not_one_frame_decodes(tmp_path: Path) -> None:
    whole = encode(tmp_path / "zeros.mp4", options=OPEN_GOP).read_bytes()
    start, stop = whole.index(b"mdat") + 4, whole.index(b"moov") - 4
    with pytest.raises(DecodeError, match=r"<bytes>: not one of its frames decodes"):
        VideoReader(whole[:start] + bytes(stop - start) + whole[stop:])


def test_packets_of_no_bytes_are_no_frames_and_not_the_end(tmp_path: Path) -> None:
    """Theora writes "as before" so; to FFmpeg's decoders an empty packet means that there are no more."""
    path = remux(encode(tmp_path / "whole.nut", codec="mpeg4"), tmp_path / "empty.nut", replace=(7, 30))
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.dts is not None]
        assert [packet.size for packet in packets].count(0) == 2
    with VideoReader(path) as reader:
        assert reader.info.num_frames == 58
        assert len(reader.read(range(58))) == 58


def test_frames_do_not_depend_on_threads_and_workers_have_one(tmp_path: Path) -> None:
    path = encode(tmp_path / "many.mp4", options=OPEN_GOP)
    with VideoReader(path, threads=1) as one, VideoReader(path, threads=5) as five:
        assert np.array_equal(one.read(range(60)), five.read(range(60)))
    assert default_threads() >= 1
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(default_threads) == 1


def test_size_that_changes_midway_is_brought_to_the_first(tmp_path: Path) -> None:
    small, large = tmp_path / "small.h264", tmp_path / "large.h264"
    for path, size in ((small, (48, 64)), (large, (96, 128))):
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            for pixels in moving(5, *size):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
    both = small.read_bytes() + large.read_bytes()
    with VideoReader(both) as reader, VideoReader(large) as second:
        frames = reader.read(range(10))
        assert frames.shape == (10, 48, 64, 3)
        assert np.abs(frames[5:].astype(int) - second.read(range(5))[:, ::2, ::2]).mean() < 8
