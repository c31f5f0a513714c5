"""The writer: what is written can be read, is the same each time, and appears whole or not at all."""

import resource
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from muybridge.errors import StorageError, VideoError
from muybridge.types import UInt8Array
from muybridge.video.decode import VideoReader
from muybridge.video.encode import CONTAINERS, write_video

FORMATS = [
    ("a.mp4", {}),
    ("a.m4v", {"b_frames": 3}),
    ("a.mov", {"pixel_format": "yuv444p"}),
    ("a.mkv", {"codec": "hevc"}),
    ("a.avi", {"codec": "mpeg4"}),
    ("a.ts", {}),
    ("a.webm", {"codec": "vp8"}),
    ("a.mp4", {"codec": "vp9"}),
    ("a.gif", {"codec": "gif"}),
    ("lossless.mkv", {"codec": "ffv1", "pixel_format": "bgr0"}),
    ("10.mp4", {"pixel_format": "yuv420p10le"}),
    ("colon: a.mp4", {}),
]


def waves(num_frames: int, height: int = 48, width: int = 64) -> Iterator[UInt8Array]:
    y, x = np.mgrid[:height, :width] / 10
    for t in range(num_frames):
        channels = [np.sin(x + t / 4), np.cos(y - t / 4), np.sin(x - y)]
        yield (np.stack(channels, axis=-1) * 100 + 128).astype(np.uint8)


@pytest.mark.parametrize(("name", "options"), FORMATS, ids=str)
def test_what_is_written_is_read_and_is_the_same_each_time(
    tmp_path: Path, name: str, options: dict[str, str]
) -> None:
    path = tmp_path / name
    write_video(path, waves(30), fps=20, **options)  # type: ignore[arg-type]
    first = path.read_bytes()
    for _ in range(3):
        write_video(path, waves(30), fps=20, **options)  # type: ignore[arg-type]
        assert path.read_bytes() == first
    with VideoReader(path) as reader:
        assert reader.info.num_frames == 30
        assert reader.info.fps == pytest.approx(20)
        difference = np.abs(reader.read(range(30)).astype(int) - np.stack(list(waves(30))))
    worst = {"lossless.mkv": 0, "a.gif": 20}.get(name, 5)
    assert difference.mean() <= worst


def test_bytes_do_not_depend_on_what_the_memory_held_before(tmp_path: Path) -> None:
    contents = set()
    for i in range(6):
        rubbish = np.random.default_rng(i).integers(0, 256, (i + 1) * 200_000, np.uint8)
        del rubbish
        write_video(tmp_path / "a.mp4", waves(30, 120, 160), fps=25, b_frames=3)
        contents.add((tmp_path / "a.mp4").read_bytes())
    assert len(contents) == 1


def test_every_container_is_written(tmp_path: Path) -> None:
    assert {Path(name).suffix for name, _ in FORMATS} == set(CONTAINERS)


def test_gop_and_b_frames_are_what_was_asked_for(tmp_path: Path) -> None:
    def kinds(**options: int) -> list[int]:
        write_video(tmp_path / "a.mp4", waves(40), fps=25, **options)  # type: ignore[arg-type]
        with av.open(str(tmp_path / "a.mp4")) as container:
            return [int(frame.pict_type) for frame in container.decode(video=0)]

    plain = kinds(gop=10)
    keys = [i for i, kind in enumerate(plain) if kind == 1]
    assert keys[0] == 0
    assert max(np.diff([*keys, 40])) <= 10
    assert 3 not in plain
    assert 3 in kinds(gop=10, b_frames=2)


def test_better_quality_takes_more_bytes(tmp_path: Path) -> None:
    for codec, name in (("h264", "a.mp4"), ("mpeg4", "a.avi"), ("vp8", "a.webm"), ("hevc", "b.mp4")):
        sizes = []
        for crf in (10, 24, 40):
            write_video(tmp_path / name, waves(20), fps=25, codec=codec, crf=crf)
            sizes.append((tmp_path / name).stat().st_size)
        assert sizes[0] > sizes[1] > sizes[2], codec


@pytest.mark.parametrize("fps", [29.97, 30000 / 1001, 12.5, 1])
def test_odd_rates(tmp_path: Path, fps: float) -> None:
    write_video(tmp_path / "a.mp4", waves(10), fps=fps)
    with VideoReader(tmp_path / "a.mp4") as reader:
        assert reader.info.fps == pytest.approx(fps, rel=1e-5)
        assert reader.seconds([9]) == pytest.approx([9 / fps], rel=1e-3)


@pytest.mark.parametrize(
    ("name", "frames", "options", "message"),
    [
        ("a.mp4", [], {}, "a.mp4: there are no frames, and a video needs at least one"),
        ("a.mp4", [(5, 8)], {}, r"the frames are 8x5 and yuv420p takes even sizes only; crop or pad them"),
        ("a.mp4", [(4, 7)], {"pixel_format": "yuv422p"}, "the frames are 7x4 and yuv422p takes even sizes"),
        ("a.mp4", [(4, 4), (4, 4), (8, 6)], {}, "frame 2 is 6x8, but the first one is 4x4; resize them"),
        ("a.mp4", [(4, 4)], {"pixel_format": "rainbow"}, "not a pixel format: 'rainbow'"),
        ("a.mp4", [(4, 4)], {"pixel_format": "rgb24"}, "h264 does not take 4x4 rgb24"),
        ("a.mp4", [(4, 4)], {"fps": 0}, "fps must be above 0, got 0"),
        ("a.mp4", [(4, 4)], {"codec": "h999"}, "h999; codec='h264' would fit"),
        ("a.mp4", [(4, 4)], {"codec": "aac"}, "'aac' encodes audio; codec='h264' would fit"),
        ("a.webm", [(4, 4)], {}, "'webm' format does not support 'libx264' codec; codec='vp8' would fit"),
        ("a.jpg", [(4, 4)], {}, "no container for '.jpg'; known: .mp4, .m4v, .mov"),
    ],
)
def test_what_cannot_be_written(
    tmp_path: Path, name: str, frames: list[tuple[int, int]], options: dict[str, object], message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(b"what was there")
    pixels = [np.zeros((*size, 3), np.uint8) for size in frames]
    with pytest.raises(VideoError, match=message):
        write_video(path, pixels, **({"fps": 25} | options))  # type: ignore[arg-type]
    assert path.read_bytes() == b"what was there"
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_frames_must_be_pixels(tmp_path: Path) -> None:
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(VideoError, match=r"frame 0 must be uint8 \[H, W, 3\], got"):
            write_video(tmp_path / "a.mp4", [wrong], fps=25)  # type: ignore[list-item]


def test_an_error_of_the_caller_s_frames_stays_theirs(tmp_path: Path) -> None:
    def breaking() -> Iterator[UInt8Array]:
        yield from waves(3)
        raise ValueError("the renderer broke")

    with pytest.raises(ValueError, match="the renderer broke"):
        write_video(tmp_path / "a.mp4", breaking(), fps=25)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_no_more_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    path.write_bytes(b"what was there")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(StorageError, match=r"cannot write .*a.mkv: File too large; what was there is"):
            write_video(path, waves(60, 240, 320), fps=25, codec="ffv1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"what was there"
    assert [file.name for file in tmp_path.iterdir()] == ["a.mkv"]
