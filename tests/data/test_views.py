"""The road from a file to a tensor: planned views, and the same bytes whatever way they come."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from muybridge.config import AugmentConfig, ClipSpec
from muybridge.data.cache import FrameCache
from muybridge.data.views import load_view, plan_random_view, plan_view, video_info
from muybridge.errors import ConfigError, VideoError, VideoTooShortError
from muybridge.types import Box, Sample, Size, UInt8Array, VideoInfo, View
from muybridge.video.decode import VideoReader
from muybridge.video.encode import write_video
from muybridge.video.transform import to_tensor

SPEC = ClipSpec(num_frames=8, frame_stride=2, resize=56, crop=48)
TSN = ClipSpec(num_frames=1, num_segments=3, resize=(56, 70), crop=48)
DIFF = ClipSpec(num_frames=4, num_segments=3, resize=(56, 70), crop=48, modality="rgb_diff", mean=(0, 0, 0))
WIDE = VideoInfo(
    path="wide.mp4",
    num_frames=100,
    exact=True,
    fps=25,
    height=240,
    width=320,
    duration_seconds=4,
    codec="h264",
)
UPRIGHT = VideoInfo(
    path="upright.mp4",
    num_frames=100,
    exact=True,
    fps=25,
    height=320,
    width=240,
    duration_seconds=4,
    codec="h264",
)
SAMPLE = Sample(path=Path("wide.mp4"))
PLAIN = AugmentConfig(crop="center", flip=False)
EVERYTHING = AugmentConfig(crop="area", brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1)


def drifting(num_frames: int, height: int = 64, width: int = 80) -> Iterator[UInt8Array]:
    y, x = np.mgrid[:height, :width]
    for t in range(num_frames):
        channels = [127 + 120 * np.sin((x + c * y + 5 * t) / 9 + c) for c in range(3)]
        yield np.stack(channels, axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    write_video(path, drifting(40), fps=25)
    return path


def same(first: Tensor | tuple[Tensor, ...], second: Tensor | tuple[Tensor, ...]) -> bool:
    if isinstance(first, tuple):
        return len(first) == len(second) and all(map(torch.equal, first, second))
    assert isinstance(second, Tensor)
    return torch.equal(first, second)


# Loading


def test_a_view_is_read_cut_and_normalised(clip: Path) -> None:
    view = View(indices=((30, 2, 2, 7, 30, 9, 8, 1),), size=Size(56, 70), box=Box(3, 11, 48, 48), flip=True)
    with VideoReader(clip) as reader:
        frames = np.concatenate([reader.read([index], size=Size(56, 70)) for index in view.indices[0]])
    assert torch.equal(load_view(clip, view, SPEC), to_tensor(frames, view, SPEC))
    (only,) = load_view(clip, view, (SPEC,))
    assert torch.equal(only, to_tensor(frames, view, SPEC))


@pytest.mark.parametrize("specs", [SPEC, (TSN,), (TSN, DIFF)], ids=["clip", "segments", "two modalities"])
@pytest.mark.parametrize("augment", [PLAIN, EVERYTHING, AugmentConfig(short_side=(50, 70))])
def test_all_ways_give_the_same_bytes(
    clip: Path, tmp_path: Path, specs: ClipSpec | tuple[ClipSpec, ...], augment: AugmentConfig
) -> None:
    cache = FrameCache(tmp_path / "cache")
    info, sample = video_info(clip), Sample(path=clip)
    with VideoReader(clip) as reader:
        for seed in range(6):
            view = plan_random_view(info, sample, specs, augment, random.Random(seed))
            expected = load_view(clip, view, specs)
            assert same(load_view(str(clip), view, specs, cache=cache), expected)
            assert same(load_view(clip, view, specs, reader=reader), expected)
            assert same(load_view(clip.read_bytes(), view, specs, cache=cache), expected)
    assert len(list(cache.folder.glob("*.npy"))) <= 1  # jittered sizes do not fill the disk


@pytest.mark.real
@pytest.mark.parametrize("name", ["weizmann/run/daria_run.avi", "utd_mhad_depth/*/a1_s1_t1*.mp4"])
def test_real_clips_with_and_without_the_cache(data_dir: Path, tmp_path: Path, name: str) -> None:
    path = sorted(data_dir.glob(name))[0]
    spec = ClipSpec(num_frames=16, frame_stride=2, resize=(84, 100), crop=72, resize_filter="bilinear")
    cache = FrameCache(tmp_path)
    for seed in range(4):
        info = video_info(path, cache=cache)
        view = plan_random_view(info, Sample(path=path), spec, EVERYTHING, random.Random(seed))
        assert torch.equal(load_view(path, view, spec, cache=cache), load_view(path, view, spec))
    assert len(list(tmp_path.glob("*.npy"))) == 1


@pytest.mark.real
def test_the_whole_part_of_a_broken_video_loads_with_a_cache_too(wild: Path, tmp_path: Path) -> None:
    path, spec, cache = (
        wild / "corrupted.mp4",
        ClipSpec(num_frames=4, resize=56, crop=48),
        FrameCache(tmp_path),
    )
    size = plan_view(video_info(path), Sample(path=path), spec).size
    good = View(indices=((0, 1, 2, 3),), size=size, box=Box(0, 0, 48, 48))
    assert torch.equal(load_view(path, good, spec, cache=cache), load_view(path, good, spec))


def test_a_frame_that_is_not_there_is_the_same_error_with_a_cache(clip: Path, tmp_path: Path) -> None:
    spec, cache = ClipSpec(num_frames=2, resize=(56, 70), crop=48), FrameCache(tmp_path)
    view = View(indices=((39, 40),), size=Size(56, 70), box=Box(0, 0, 48, 48))
    with pytest.raises(VideoError, match="frame 40 was asked for, but the video has 40 frames") as without:
        load_view(clip, view, spec)
    with pytest.raises(VideoError) as within:
        load_view(clip, view, spec, cache=cache)
    assert str(within.value) == str(without.value)


def test_frames_in_memory() -> None:
    frames = np.stack(list(drifting(20, 56, 70)))
    info = video_info(frames)
    view = plan_view(info, SAMPLE, SPEC, position=1)
    assert view.indices[0][-1] == 19
    expected = to_tensor(frames[list(view.indices[0])], view, SPEC)
    assert torch.equal(load_view(frames, view, SPEC), expected)


def test_wrong_number_of_modalities(clip: Path) -> None:
    view = plan_view(video_info(clip), SAMPLE, (TSN, DIFF))
    with pytest.raises(ValueError, match="the view is for 2 modalities, the network takes 1"):
        load_view(clip, view, TSN)


# What a file is


def test_info_follows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    for num_frames in (12, 20):
        write_video(path, drifting(num_frames), fps=25)
        os.utime(path, ns=(num_frames, num_frames))
        assert video_info(path).num_frames == num_frames
        assert video_info(path) is video_info(str(path))
        assert video_info(path.read_bytes()).num_frames == num_frames
    path.unlink()
    with pytest.raises(VideoError, match=r"clip\.mp4"):
        video_info(path)


# Planning tests


def test_the_clips_of_a_test() -> None:
    spec = ClipSpec(num_frames=4, frame_stride=3, resize=128, crop=112)
    first, middle, last = (plan_view(WIDE, SAMPLE, spec, position=p) for p in (0, 0.5, 1))
    assert first.indices == ((0, 3, 6, 9),)
    assert middle.indices == ((45, 48, 51, 54),)
    assert last.indices == ((90, 93, 96, 99),)
    assert first.size == Size(128, 170)
    assert first.box == Box(8, 29, 112, 112)
    assert (first.flip, first.color, first.name) == (False, None, "center")


def test_the_crops_of_a_test() -> None:
    spec = ClipSpec(num_frames=4, resize=128, crop=128)

    def boxes(info: VideoInfo) -> list[Box]:
        return [plan_view(info, SAMPLE, spec, crops="three", crop_index=i).box for i in range(3)]

    assert boxes(WIDE) == [Box(0, 0, 128, 128), Box(0, 21, 128, 128), Box(0, 42, 128, 128)]
    assert boxes(UPRIGHT) == [Box(0, 0, 128, 128), Box(21, 0, 128, 128), Box(42, 0, 128, 128)]
    view = plan_view(UPRIGHT, SAMPLE, spec, crops="three", crop_index=2, clip_name="clip 3/10")
    assert view.name == "clip 3/10, bottom"
    mirrored = plan_view(WIDE, SAMPLE, spec, crops="ten", crop_index=5)
    assert (mirrored.box.top, mirrored.box.left, mirrored.flip) == (0, 0, True)


def test_a_piece_of_a_file() -> None:
    piece = Sample(path=Path("wide.mp4"), start_seconds=1, end_seconds=2)
    spec = ClipSpec(num_frames=4, resize=128, crop=112)
    assert plan_view(WIDE, piece, spec, position=0).indices == ((25, 26, 27, 28),)
    assert plan_view(WIDE, piece, spec, position=1).indices == ((46, 47, 48, 49),)
    for seed in range(50):
        view = plan_random_view(WIDE, piece, spec, PLAIN, random.Random(seed))
        assert 25 <= view.indices[0][0] <= view.indices[0][-1] < 50
    strict = ClipSpec(num_frames=26, resize=128, crop=112, short_policy="error")
    with pytest.raises(VideoTooShortError, match="needs 26 frames, found 25"):
        plan_view(WIDE, piece, strict)


# Planning training


def test_a_random_view_is_a_function_of_the_generator() -> None:
    views = [plan_random_view(WIDE, SAMPLE, SPEC, EVERYTHING, random.Random(seed)) for seed in (1, 1, 2)]
    assert views[0] == views[1] != views[2]


def test_without_augmentation_only_the_instant_is_random() -> None:
    still = plan_view(WIDE, SAMPLE, SPEC)
    views = [plan_random_view(WIDE, SAMPLE, SPEC, PLAIN, random.Random(seed)) for seed in range(30)]
    assert {(view.size, view.box, view.flip, view.color) for view in views} == {
        (still.size, still.box, False, None)
    }
    assert len({view.indices for view in views}) > 20


def test_flips_come_half_the_time() -> None:
    views = [
        plan_random_view(WIDE, SAMPLE, SPEC, AugmentConfig(), random.Random(seed)) for seed in range(400)
    ]
    assert 160 < sum(view.flip for view in views) < 240
    assert len({view.box for view in views}) > 200


@pytest.mark.parametrize(("resize", "wide"), [(56, 320 / 240), ((60, 100), 100 / 60)])
def test_scale_jitter_keeps_the_aspect(resize: int | tuple[int, int], wide: float) -> None:
    spec = ClipSpec(num_frames=4, resize=resize, crop=48)
    augment = AugmentConfig(short_side=(50, 90))
    views = [plan_random_view(WIDE, SAMPLE, spec, augment, random.Random(seed)) for seed in range(300)]
    assert {view.size.height for view in views} == set(range(50, 91))
    assert all(abs(view.size.width - wide * view.size.height) < 1 for view in views)


@pytest.mark.parametrize("crop", ["random", "corners", "area", "center"])
def test_kinds_of_crop(crop: str) -> None:
    augment = AugmentConfig(crop=crop, crop_area=(0.3, 0.8), crop_scales=(1.0, 0.5))
    views = [plan_random_view(WIDE, SAMPLE, SPEC, augment, random.Random(seed)) for seed in range(300)]
    sizes = {(view.box.height, view.box.width) for view in views}
    if crop in ("random", "center"):
        assert sizes == {(48, 48)}
    elif crop == "corners":
        assert sizes == {(56, 56), (56, 28), (28, 56), (28, 28)}
    else:
        areas = [height * width / 48**2 for height, width in sizes]
        assert 0.27 < min(areas) < 0.4 < 0.7 < max(areas) < 0.83


def test_scale_jitter_below_the_crop() -> None:
    augment = AugmentConfig(short_side=(40, 60))
    with pytest.raises(ConfigError, match="short_side starts at 40 pixels, below the crop of 48: raise it"):
        plan_random_view(WIDE, SAMPLE, SPEC, augment, random.Random(0))


# Several modalities


def test_modalities_share_instant_crop_and_flip() -> None:
    for seed in range(50):
        view = plan_random_view(WIDE, SAMPLE, (TSN, DIFF), EVERYTHING, random.Random(seed))
        rgb, diff = view.indices
        assert len(rgb) == 3
        assert rgb == diff[::5]
        assert diff[4] == diff[0] + 4
    view = plan_view(WIDE, SAMPLE, (DIFF, TSN), position=1)
    assert view.indices[0][-1] == 99
    assert view.indices[1][-1] == 95


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resize": 60}, r"differ in resize: rgb \(56, 70\), rgb 60; give all of them the same resize"),
        ({"crop": 40}, "differ in crop: rgb 48, rgb 40"),
        ({"num_segments": 1}, "differ in num_segments: rgb 3, rgb 1"),
        ({"resize_filter": "bilinear"}, "differ in resize_filter: rgb antialias, rgb bilinear"),
    ],
)
def test_modalities_that_do_not_go_together(change: dict, message: str) -> None:
    other = ClipSpec(**{**TSN.to_dict(), **change})
    with pytest.raises(ConfigError, match=message):
        plan_view(WIDE, SAMPLE, (TSN, other))
    with pytest.raises(ConfigError, match=message):
        plan_random_view(WIDE, SAMPLE, (TSN, other), PLAIN, random.Random(0))
