"""Sizes, colours and turns: what becomes of the pixels that the decoder yields."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from made_frames import smooth

from muybridge.errors import VideoError
from muybridge.types import Size
from muybridge.video.decode import VideoReader
from muybridge.video.encode import write_video


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
