"""What goes into the reader and what comes out: sources, sizes, colours, turns, errors, and no leaks."""

import gc
import io
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import av
import cv2
import numpy as np
import psutil
import pytest
import torch

from muybridge.errors import DecodeError, VideoError
from muybridge.types import Size, UInt8Array
from muybridge.video import decode
from muybridge.video.decode import VideoReader, probe
from muybridge.video.encode import write_video


def smooth(num_frames: int, height: int = 96, width: int = 128) -> UInt8Array:
    """Colours that change over the picture and in time, with no two places alike."""
    t, y, x = np.mgrid[:num_frames, :height, :width]
    red, green, blue = x * 200 / width + 20, y * 200 / height + 20, (x + y + 8 * t) % 160 + 40
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(path, smooth(30), fps=30, gop=10)
    return path


def flat(path: Path, yuv: tuple[int, int, int], *, colorspace: int = 2, full: bool = False) -> Path:
    """One frame of one colour, stored as these numbers; 1 is BT.709, 2 unknown, 6 BT.601."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = colorspace, 2 if full else 1
        frame = av.VideoFrame(32, 32, "yuv420p")
        for plane, value in zip(frame.planes, yuv, strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


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


# --- sizes ------------------------------------------------------------------------------------------------


def test_antialias_is_near_torch_s_and_bilinear_is_torch_s(clip: Path) -> None:
    with VideoReader(clip) as reader:
        full = torch.from_numpy(reader.read([0, 7])).permute(0, 3, 1, 2).float()
        for name, antialias, worst in (("antialias", True, 2.0), ("bilinear", False, 1.0)):
            ours = reader.read([0, 7], size=Size(40, 60), resize_filter=name)
            theirs = torch.nn.functional.interpolate(full, (40, 60), mode="bilinear", antialias=antialias)
            difference = (torch.from_numpy(ours).permute(0, 3, 1, 2).float() - theirs).abs()
            assert ours.shape == (2, 40, 60, 3)
            assert difference.mean() < worst
            if not antialias:
                assert difference.max() <= 1.0


def test_antialias_is_swscale_s_bilinear_filter(clip: Path) -> None:
    with av.open(str(clip)) as container:
        frame = next(container.decode(video=0))
    small = frame.reformat(60, 40, "yuv422p", interpolation="BILINEAR").to_ndarray(format="rgb24")
    large = frame.reformat(200, 160, "rgb24", interpolation="BILINEAR").to_ndarray()
    with VideoReader(clip) as reader:
        assert np.array_equal(reader.read([0], size=Size(40, 60))[0], small)
        assert np.array_equal(reader.read([0], size=Size(160, 200))[0], large)
        assert np.array_equal(reader.read([0], size=reader.info.size), reader.read([0]))


@pytest.mark.real
@pytest.mark.parametrize(
    "name",
    [
        "mmaction2_demo.mp4",
        "playing_guitar.mp4",
        "nasa_13013.mp4",
        "v_Biking_g06_c03.avi",
        "newtonscradle.gif",
    ],
)
def test_antialias_of_real_clips_is_within_two_levels_of_torch_s(wild: Path, name: str) -> None:
    with VideoReader(wild / name) as reader:
        for short in (112, 128):
            height, width = reader.info.size
            size = Size(short, round(width * short / height))
            ours = torch.from_numpy(reader.read([0, 30], size=size)).float()
            full = torch.from_numpy(reader.read([0, 30])).permute(0, 3, 1, 2).float()
            theirs = torch.nn.functional.interpolate(full, size, mode="bilinear", antialias=True)
            assert (ours.permute(0, 3, 1, 2) - theirs).abs().mean() < 2


def test_range_and_matrix_survive_the_shrinking(tmp_path: Path) -> None:
    cases = [((63, 102, 240), 1, False), ((255, 128, 128), 2, True), ((81, 90, 240), 2, False)]
    for yuv, colorspace, full in cases:
        path = flat(tmp_path / "flat.mp4", yuv, colorspace=colorspace, full=full)
        with VideoReader(path) as reader:
            small = reader.read([0], size=Size(10, 9))[0].astype(int)
            assert np.abs(small - reader.read([0])[0][0, 0]).max() <= 2


@pytest.mark.real
@pytest.mark.parametrize("resize_filter", ["antialias", "bilinear"])
def test_size_is_that_of_the_upright_picture(wild: Path, resize_filter: str) -> None:
    with VideoReader(wild / "video_90.mov") as reader:
        full, small = reader.read([1]), reader.read([1], size=Size(142, 80), resize_filter=resize_filter)
    expected = cv2.resize(full[0], (80, 142), interpolation=cv2.INTER_AREA)
    assert np.abs(small[0].astype(int) - expected).mean() < 4


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (112, 112), (200, 7)])
def test_any_size_can_be_asked_for(clip: Path, size: tuple[int, int]) -> None:
    expected = smooth(30)[29].mean(axis=(0, 1))
    with VideoReader(clip) as reader:
        frame = reader.read([29], size=Size(*size))[0]
        assert frame.shape == (*size, 3)
        assert (
            np.abs(frame.mean(axis=(0, 1)) - expected).max() < 40
        )  # of one pixel, colour is half a pixel off


def test_no_indices_give_no_frames(clip: Path) -> None:
    with VideoReader(clip) as reader:
        assert reader.read([]).shape == (0, 96, 128, 3)


# --- colours and turns ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("yuv", "colorspace", "full", "rgb"),
    [
        ((16, 128, 128), 2, False, (0, 0, 0)),
        ((235, 128, 128), 2, False, (255, 255, 255)),
        ((0, 128, 128), 2, True, (0, 0, 0)),
        ((255, 128, 128), 2, True, (255, 255, 255)),
        ((100, 128, 128), 2, True, (100, 100, 100)),
        ((81, 90, 240), 6, False, (254, 0, 0)),  # red in BT.601
        ((81, 90, 240), 2, False, (254, 0, 0)),  # which is taken where the file names none
        ((63, 102, 240), 1, False, (255, 0, 0)),  # red in BT.709
        ((173, 42, 26), 1, False, (0, 255, 0)),
    ],
)
def test_matrix_and_range_of_the_file(
    tmp_path: Path, yuv: tuple[int, int, int], colorspace: int, full: bool, rgb: tuple[int, int, int]
) -> None:
    path = flat(tmp_path / "flat.mp4", yuv, colorspace=colorspace, full=full)
    with VideoReader(path) as reader:
        assert np.abs(reader.read([0])[0].astype(int) - rgb).max() <= 3


def test_matrix_that_swscale_does_not_know(tmp_path: Path) -> None:
    path = flat(tmp_path / "ictcp.mp4", (81, 90, 240), colorspace=14)
    with (
        VideoReader(path) as reader,
        pytest.raises(VideoError, match="yuv420p with colour matrix 14 into RGB"),
    ):
        reader.read([0])


def test_alpha_is_dropped(tmp_path: Path) -> None:
    """Pixels under a transparent mask keep their colour."""
    with av.open(str(tmp_path / "alpha.mov"), "w") as container:
        stream = container.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 8, 4, "rgba"
        pixels = np.full((4, 8, 4), (200, 100, 50, 0), dtype=np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba")))
        container.mux(stream.encode())
    with VideoReader(tmp_path / "alpha.mov") as reader:
        assert reader.info.pixel_format == "rgba"
        assert np.array_equal(reader.read([0])[0], pixels[:, :, :3])


@pytest.mark.parametrize(
    ("degrees", "hflip", "corner"),
    [
        (0, False, (0, 0)),
        (-90, False, (0, -1)),
        (180, False, (-1, -1)),
        (90, False, (-1, 0)),
        (0, True, (0, -1)),
    ],
)
def test_pixels_are_turned_the_right_way(
    tmp_path: Path, degrees: int, hflip: bool, corner: tuple[int, int]
) -> None:
    """The bright corner at the top left goes where a turn (FFmpeg counts against the clock) puts it."""
    pixels = np.zeros((32, 64, 3), dtype=np.uint8)
    pixels[:16, :16] = 255
    with av.open(str(tmp_path / "turned.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.set_display_rotation(degrees, hflip)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    with VideoReader(tmp_path / "turned.mp4") as reader:
        frame = reader.read([0])[0]
        assert frame.shape == ((64, 32, 3) if abs(degrees) == 90 else (32, 64, 3))
        assert reader.info.size == frame.shape[:2]
        assert frame[corner].min() > 200
        for other in {(0, 0), (0, -1), (-1, 0), (-1, -1)} - {corner}:
            assert frame[other].max() < 50
        if not hflip:
            assert reader.info.rotation_degrees == -degrees % 360


# --- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"film.mp4 is empty \(0 bytes\): get it anew"),
        (b"walk,left\nrun,right\n" * 50, "film.mp4 is not a video"),
        (bytes(range(256)) * 40, "film.mp4 is not a video"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{clip}\n#EXT-X-ENDLIST\n", "not a video.*playlists"),
        (b"ffconcat version 1.0\nfile '{clip}'\n", "not a video.*playlists"),
    ],
    ids=["no bytes", "text", "noise", "m3u8", "concat"],
)
@pytest.mark.parametrize("open_it", [probe, VideoReader])
def test_what_is_not_a_video(
    tmp_path: Path, clip: Path, content: bytes, message: str, open_it: Callable[[Path], object]
) -> None:
    (tmp_path / "other.mp4").write_bytes(clip.read_bytes())
    path = tmp_path / "film.mp4"
    path.write_bytes(content.replace(b"{clip}", b"other.mp4"))
    with pytest.raises(VideoError, match=message):
        open_it(path)


def test_playlist_that_points_elsewhere_is_refused_under_its_own_name(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "segment.ts").write_bytes(clip.read_bytes())
    for name, text in (
        (
            "list.m3u8",
            f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{tmp_path}/segment.ts\n#EXT-X-ENDLIST\n",
        ),
        ("list.ffconcat", "ffconcat version 1.0\nfile segment.ts\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(VideoError, match="playlists are refused"):
            VideoReader(tmp_path / name)


def test_missing_directory_and_other_nonsense(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"none.mp4 does not exist: check the path"):
        VideoReader(tmp_path / "none.mp4")
    with pytest.raises(VideoError, match="is a directory: name a video file in it"):
        VideoReader(str(tmp_path))
    with pytest.raises(VideoError, match=r"<bytes> is empty \(0 bytes\)"):
        VideoReader(b"")
    with pytest.raises(VideoError, match="cannot be read from list: give a path, bytes, a binary file, or"):
        VideoReader([1, 2])  # type: ignore[arg-type]
    with pytest.raises(VideoError, match="text file: open it with mode 'rb'"):
        VideoReader(io.StringIO("text"))  # type: ignore[arg-type]
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(VideoError, match="neither a file nor a directory"):
        VideoReader(tmp_path / "pipe")
    with pytest.raises(VideoError, match="does not exist"):
        VideoReader("http://127.0.0.1:9/film.mp4")


@pytest.mark.real
def test_file_without_streams(wild: Path) -> None:
    with pytest.raises(VideoError, match=r"empty_ImgVideo.mp4 has no video stream \(it holds nothing\)"):
        VideoReader(wild / "empty_ImgVideo.mp4")


def test_audio_only_and_cover_pictures_are_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.m4a"), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000)
        for start in range(0, 8192, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 8000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match=r"has no video stream \(it holds audio\): name another file"):
        VideoReader(tmp_path / "sound.m4a")


def test_frames_of_absurd_size_are_refused(tmp_path: Path) -> None:
    """A header of a few bytes must not make the decoder fill the memory."""
    write_video(tmp_path / "small.avi", smooth(3, 48, 64), fps=25, codec="ffv1")
    content = (tmp_path / "small.avi").read_bytes()
    sizes = struct.pack("<ii", 64, 48), struct.pack("<ii", 12_000, 12_000)
    with pytest.raises(DecodeError, match="not one of its frames decodes, or they have more than 67108864"):
        VideoReader(content.replace(*sizes))


def test_decoder_itself_keeps_the_limit(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The container may hide what the stream asks for."""
    monkeypatch.setattr(decode, "MAX_PIXELS", 96 * 128 - 1)
    with pytest.raises(DecodeError, match="more than 12287 pixels"):
        VideoReader(clip)


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


def test_single_frames_and_single_pixels(tmp_path: Path) -> None:
    for name, pixel_format, codec in (("a.mp4", "yuv444p", "h264"), ("b.gif", "rgb8", "gif")):
        for shape in ((1, 1), (5, 3)):
            write_video(
                tmp_path / name, smooth(1, *shape) // 2, fps=25, pixel_format=pixel_format, codec=codec
            )
            with VideoReader(tmp_path / name) as reader:
                assert reader.info.num_frames == 1
                assert reader.info.duration_seconds == pytest.approx(0.04)
                assert reader.read([0, 0]).shape == (2, *shape, 3)
                assert reader.read([0], size=Size(16, 16)).shape == (1, 16, 16, 3)


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
