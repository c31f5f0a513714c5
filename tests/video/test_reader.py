"""What goes into the reader and what it says of a file: sources, facts, errors; and it leaks nothing."""

import gc
import io
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import psutil
import pytest
from made_frames import smooth

from muybridge.errors import VideoError
from muybridge.types import Size
from muybridge.video.decode import VideoReader, probe
from muybridge.video.encode import write_video

# --- what the file says -----------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "frames", "fps", "size", "codec", "pixel_format", "degrees", "audio"),
    [
        ("video_0.mov", 3, 30, (320, 568), "h264", "yuv420p", 0, False),
        ("video_90.mov", 3, 30, (568, 320), "h264", "yuv420p", 90, False),
        ("h265_video.mp4", 10, 10, (128, 128), "hevc", "yuv420p", 0, False),
        ("h264_10bits.mp4", 30, 30, (200, 200), "h264", "yuv420p10le", 0, False),
        ("newtonscradle.gif", 36, 43.9, (150, 200), "gif", "bgra", 0, False),
        ("bt709_full_range.mp4", 30, 30, (720, 1280), "h264", "yuvj420p", 0, False),
        ("truncated_half_v_BaseballPitch_g01_c01.avi", 49, 29.97, (240, 320), "mpeg4", "yuv420p", 0, False),
        (
            "6arrowswithin30seconds_shoot_bow_f_nm_np1_fr_med_3.avi",
            81,
            30,
            (240, 320),
            "mpeg4",
            "yuv420p",
            0,
            0,
        ),
        ("v_ApplyEyeMakeup_g01_c01.avi", 164, 25, (240, 320), "mpeg4", "yuv420p", 0, True),
        ("tmbo_video2.webm", 120, 25, (240, 320), "vp8", "yuv420p", 0, True),
        ("flipping_a_pancake.mkv", 310, 30, (240, 426), "h264", "yuv420p", 0, True),
        ("nasa_13013.mp4", 325, 25, (180, 320), "h264", "yuv420p", 0, True),
    ],
)
def test_info_of_real_files(
    wild: Path,
    name: str,
    frames: int,
    fps: float,
    size: tuple[int, int],
    codec: str,
    pixel_format: str,
    degrees: int,
    audio: bool,
) -> None:
    with VideoReader(wild / name) as reader:
        info = reader.info
    assert (info.num_frames, info.exact, info.size) == (frames, True, size)
    assert (info.codec, info.pixel_format, info.rotation_degrees) == (codec, pixel_format, degrees)
    assert info.has_audio == audio
    assert info.fps == pytest.approx(fps, abs=0.01)
    assert info.duration_seconds == pytest.approx(frames / fps, rel=0.01)
    guess = probe(wild / name)
    assert guess.num_frames in (frames, frames + 1)  # one packet of a packed stream is no frame
    assert guess.num_frames == frames or not guess.exact


def test_seconds_count_from_the_first_frame(clip: Path) -> None:
    with VideoReader(clip) as reader:
        taken = reader.read_clip([0, 15, 15])
    assert taken.seconds.tolist() == pytest.approx([0, 0.5, 0.5])
    assert taken.frames.shape == (3, 96, 128, 3)
    assert np.abs(taken.frames[0].astype(int) - smooth(1)[0]).mean() < 3


# --- sources ----------------------------------------------------------------------------------------------


class Pipe(io.RawIOBase):
    """Bytes that can be read once."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return self._file.readinto(buffer)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (str, None),
        (Path, None),
        (lambda path: path.read_bytes(), "<bytes>"),
        (lambda path: io.BytesIO(path.read_bytes()), "<file object>"),
        (lambda path: Pipe(path.read_bytes()), "<file object>"),
    ],
    ids=["str", "path", "bytes", "file object", "pipe"],
)
def test_every_source_gives_the_same_frames(
    clip: Path, source: Callable[[Path], BinaryIO], name: str
) -> None:
    with VideoReader(clip) as reader:
        expected = reader.read([25, 3])
    with VideoReader(source(clip)) as reader:
        assert np.array_equal(reader.read([25, 3]), expected)
        assert reader.info.path == (name or str(clip))


def test_the_users_file_stays_open(clip: Path) -> None:
    with clip.open("rb") as file:
        file.seek(100)  # wherever it stands, it is read from its start
        with VideoReader(file) as reader:
            assert reader.info.num_frames == 30
        assert not file.closed


def test_arrays_are_read_like_files() -> None:
    frames = smooth(10)
    with VideoReader(frames, fps=5) as reader:
        assert np.array_equal(reader.read([9, 0, 4]), frames[[9, 0, 4]])
        small = reader.read([0], size=Size(24, 32))
        assert reader.seconds([9]) == pytest.approx([1.8])
    assert (
        np.abs(small[0].astype(int) - cv2.resize(frames[0], (32, 24), interpolation=cv2.INTER_AREA)).mean()
        < 3
    )
    assert probe(frames).num_frames == 10


# --- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indices", [[30], [0, -1], [5, 1000]])
def test_index_outside_the_video(clip: Path, indices: list[int]) -> None:
    with VideoReader(clip) as reader:
        with pytest.raises(
            VideoError, match=r"frame -?\d+ was asked for, but the video has 30 frames, 0 to 29"
        ):
            reader.read(indices)
        with pytest.raises(VideoError, match="0 to 29"):
            reader.seconds(indices)
        with pytest.raises(TypeError):
            reader.read([1.5])  # type: ignore[list-item]


def test_wrong_arguments(clip: Path) -> None:
    with VideoReader(clip) as reader, pytest.raises(VideoError, match="size 0x5 was asked for; both must be"):
        reader.read([0], size=Size(5, 0))
    with pytest.raises(VideoError, match="a file has its own rate; fps=10 is for arrays"):
        VideoReader(clip, fps=10)
    with pytest.raises(VideoError, match=r"fps must be above 0, got -1"):
        VideoReader(smooth(2), fps=-1)
    for wrong in (smooth(2)[0], smooth(2).astype(np.float32), smooth(0)):
        with pytest.raises(VideoError, match=r"frames must be uint8 \[T, H, W, 3\] and not empty, got"):
            VideoReader(wrong)


# --- no leaks ---------------------------------------------------------------------------------------------


def test_hundreds_of_opens_leak_nothing(clip: Path, tmp_path: Path) -> None:
    process = psutil.Process()
    (tmp_path / "text.mp4").write_text("no video")

    def use() -> None:
        with VideoReader(clip) as reader:
            reader.read([3, 20])
        with pytest.raises(VideoError):
            VideoReader(tmp_path / "text.mp4")
        probe(clip)

    for _ in range(40):
        use()
    gc.collect()
    files, memory = process.num_fds(), process.memory_info().rss
    for _ in range(200):
        use()
    gc.collect()
    assert process.num_fds() == files
    assert process.memory_info().rss - memory < 8e6


def test_memory_does_not_grow_with_the_length_of_the_video(tmp_path: Path) -> None:
    """1200 frames are 276 MB; the two asked for are half a megabyte."""
    path = tmp_path / "long.mp4"
    frames = smooth(2, 240, 320)
    write_video(path, (frames[i // 400 % 2] for i in range(1200)), fps=25, gop=600)
    process = psutil.Process()
    with VideoReader(path, threads=1) as reader:
        reader.read([0])
        before = process.memory_info().rss
        reader.read([599, 1199])
        assert process.memory_info().rss - before < 40e6


def test_closing_twice_is_no_error_and_reading_after_it_is_one(clip: Path) -> None:
    reader = VideoReader(clip)
    reader.close()
    reader.close()
    with pytest.raises(VideoError, match=r"clip.mp4: this reader has been closed"):
        reader.read([0])
