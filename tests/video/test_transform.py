"""Sizes, boxes and tensors, against torchvision's functions and plain float64 arithmetic."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as F

from muybridge.config import AugmentConfig, ClipSpec
from muybridge.errors import DataError
from muybridge.types import Box, ColorJitter, Size, UInt8Array, View
from muybridge.video.crops import (
    area_box,
    center_box,
    corner_offsets,
    corner_scale_box,
    corner_scale_sides,
    five_boxes,
    protocol_crops,
    random_box,
    random_color,
    resized_size,
    ten_crops,
    three_boxes,
)
from muybridge.video.transform import adjust_color, cut_box, to_tensor

sizes = st.builds(Size, st.integers(20, 400), st.integers(20, 400))


def noise(*shape: int, seed: int = 0) -> UInt8Array:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def picture(num_frames: int, height: int, width: int) -> UInt8Array:
    """Smooth and colourful, as films are: frames that drift."""
    t, y, x = np.meshgrid(np.arange(num_frames), np.arange(height), np.arange(width), indexing="ij")
    channels = [
        127 + 120 * np.sin((a * x + b * y + c * t) / 17 + c) for a, b, c in ((1, 2, 3), (2, 1, 5), (3, 1, 2))
    ]
    return np.stack(channels, axis=-1).astype(np.uint8)


def chw(frames: UInt8Array) -> torch.Tensor:
    return torch.from_numpy(frames.copy()).permute(0, 3, 1, 2)


def cut(frames: UInt8Array, box: Box) -> UInt8Array:
    return frames[:, box.top : box.top + box.height, box.left : box.left + box.width]


# Sizes and boxes


@given(sizes, st.integers(8, 300))
@settings(max_examples=60, deadline=None)
def test_resized_size_is_torchvisions(size: Size, short_side: int) -> None:
    theirs = F.resize(torch.zeros(1, *size, dtype=torch.uint8), [short_side])
    assert resized_size(size, short_side) == theirs.shape[-2:]


def test_resize_to_height_and_width() -> None:
    assert resized_size(Size(240, 320), (128, 171)) == Size(128, 171)


@given(sizes, st.data())
@settings(max_examples=40, deadline=None)
def test_center_five_and_ten_are_torchvisions(size: Size, data: st.DataObject) -> None:
    crop = data.draw(st.integers(1, min(size)))
    frames = noise(1, *size, 3)
    center = cut(frames, center_box(size, crop))
    assert torch.equal(chw(center), F.center_crop(chw(frames), [crop, crop]))
    for box, theirs in zip(five_boxes(size, crop), F.five_crop(chw(frames), [crop, crop]), strict=True):
        assert torch.equal(chw(cut(frames, box)), theirs)
    ours = [cut(frames, box)[:, :, ::-1] if flip else cut(frames, box) for box, flip in ten_crops(size, crop)]
    theirs_ten = F.ten_crop(chw(frames), [crop, crop])
    if (size.width - crop) % 2 == 0:  # else the mirrored center is another one: theirs is mirrored, then cut
        assert sorted(chw(one).numpy().tobytes() for one in ours) == sorted(
            one.contiguous().numpy().tobytes() for one in theirs_ten
        )


def test_three_boxes_go_along_the_long_side() -> None:
    assert three_boxes(Size(256, 455), 256) == (
        Box(0, 0, 256, 256),
        Box(0, 100, 256, 256),
        Box(0, 199, 256, 256),
    )
    assert [box.top for box in three_boxes(Size(300, 256), 224)] == [0, 38, 76]
    assert {box.left for box in three_boxes(Size(300, 256), 224)} == {16}


def test_crops_of_the_protocols() -> None:
    size = Size(128, 171)
    assert [crop.name for crop in protocol_crops("three", size, 112)] == ["left", "center", "right"]
    assert [crop.name for crop in protocol_crops("three", Size(171, 128), 112)] == ["top", "center", "bottom"]
    ten = protocol_crops("ten", size, 112)
    assert [(crop.box, crop.flip) for crop in ten] == list(ten_crops(size, 112))
    assert [crop.box for crop in protocol_crops("five", size, 112)] == list(five_boxes(size, 112))
    assert (ten[0].name, ten[9].name) == ("top left", "center, mirrored")
    with pytest.raises(ValueError, match="no crops 'four'; there are center, three, five, ten"):
        protocol_crops("four", size, 112)  # type: ignore[arg-type]


def test_a_crop_larger_than_the_frame() -> None:
    with pytest.raises(ValueError, match="a box of 112x112 does not fit into the resized frame, 171x100"):
        center_box(Size(100, 171), 112)


# TSN's crops of 340 x 256


def test_corner_crops_have_10_and_7_pairs_of_sides() -> None:
    four = corner_scale_sides(256, 224, (1.0, 0.875, 0.75, 0.66))
    three = corner_scale_sides(256, 224, (1.0, 0.875, 0.75))
    assert len(set(four)) == len(four) == 10
    assert len(set(three)) == len(three) == 7
    assert {side for pair in four for side in pair} == {256, 224, 192, 168}
    assert (256, 192) not in four
    assert (256, 256) in three


def test_a_side_near_the_crop_becomes_the_crop() -> None:
    assert corner_scale_sides(258, 224, (0.876,)) == ((224, 224),)  # 226
    assert corner_scale_sides(260, 224, (0.875,)) == ((227, 227),)  # 3 away: left alone


def test_corner_crops_have_13_places() -> None:
    offsets = corner_offsets(Size(88, 172))
    assert len(set(offsets)) == 13
    assert set(offsets) == {
        *((0, 0), (0, 172), (88, 0), (88, 172), (44, 86)),
        *((0, 86), (88, 86), (44, 0), (44, 172)),
        *((22, 43), (22, 129), (66, 43), (66, 129)),
    }


def test_corner_crops_draw_all_sides_and_places() -> None:
    rng = random.Random(0)
    boxes = {corner_scale_box(Size(256, 340), 224, rng) for _ in range(4000)}
    assert len({(box.height, box.width) for box in boxes}) == 10
    assert len({(box.top, box.left) for box in boxes if (box.height, box.width) == (168, 168)}) == 13


@given(sizes, st.data())
@settings(deadline=None)
def test_boxes_lie_inside_the_frame(size: Size, data: st.DataObject) -> None:
    crop = data.draw(st.integers(1, min(size)))
    rng = random.Random(data.draw(st.integers(0, 999)))
    area = (data.draw(st.floats(0.05, 1)), data.draw(st.floats(1, 4)))
    boxes = [
        random_box(size, crop, rng),
        corner_scale_box(size, crop, rng),
        area_box(size, crop, rng, area=area),
        *three_boxes(size, crop),
    ]
    for box in boxes:
        View(indices=((0,),), size=size, box=box)  # refuses a box that sticks out


def test_random_boxes_are_everywhere() -> None:
    rng = random.Random(0)
    boxes = {random_box(Size(20, 23), 18, rng) for _ in range(500)}
    assert {(box.top, box.left) for box in boxes} == {(top, left) for top in range(3) for left in range(6)}


def test_area_boxes_have_the_area_and_shape_asked_for() -> None:
    rng = random.Random(0)
    boxes = [area_box(Size(256, 256), 112, rng, area=(0.5, 0.9)) for _ in range(300)]
    areas = [box.height * box.width / 112**2 for box in boxes]
    ratios = [box.width / box.height for box in boxes]
    assert 0.49 < min(areas) < 0.55 < 0.85 < max(areas) < 0.91
    assert 0.73 < min(ratios) < 0.8 < 1.25 < max(ratios) < 1.36


def test_random_color_stays_in_its_widths() -> None:
    augment = AugmentConfig(brightness=0.4, saturation=1.0, hue=0.1)
    colors = [random_color(augment, random.Random(seed)) for seed in range(200)]
    drawn = [color for color in colors if color is not None]
    assert len(drawn) == 200
    assert 0.6 <= min(color.brightness for color in drawn) < 0.65
    assert 1.9 < max(color.saturation for color in drawn) <= 2
    assert -0.1 <= min(color.hue for color in drawn) < -0.09
    assert {color.contrast for color in drawn} == {1.0}


# Tensors


def reference(frames: UInt8Array, view: View, spec: ClipSpec) -> np.ndarray:
    """[S, C, T, H, W] in float64, written as the fields of ClipSpec say it."""
    values = cut(frames, view.box) / 255 * spec.scale
    if view.flip:
        values = values[:, :, ::-1]
    if spec.channel_order == "bgr":
        values = values[..., ::-1]
    segments = values.reshape(spec.num_segments, -1, *values.shape[1:])
    if spec.modality == "rgb_diff":
        segments = np.diff(segments, axis=1)
    return np.moveaxis((segments - np.array(spec.mean)) / np.array(spec.std), -1, 1)


CAFFE = {"scale": 255, "channel_order": "bgr", "mean": (104, 117, 123), "std": (1, 1, 1)}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("values", [IMAGENET, CAFFE], ids=["rgb, 1", "bgr, 255"])
@pytest.mark.parametrize("modality", ["rgb", "rgb_diff"])
@pytest.mark.parametrize("num_segments", [1, 3])
def test_tensors_are_what_the_spec_says(flip: bool, values: dict, modality: str, num_segments: int) -> None:
    spec = ClipSpec(
        num_frames=4, resize=(20, 26), crop=16, modality=modality, num_segments=num_segments, **values
    )
    num_frames = num_segments * (4 if modality == "rgb" else 5)
    frames = noise(num_frames, 20, 26, 3)
    frames.setflags(write=False)
    view = View(indices=(tuple(range(num_frames)),), size=Size(20, 26), box=Box(3, 7, 16, 16), flip=flip)
    clip = to_tensor(frames, view, spec)
    expected = torch.from_numpy(reference(frames, view, spec).copy())
    assert clip.dtype == torch.float32
    assert clip.is_contiguous()
    assert clip.shape == ((3, 4, 16, 16) if num_segments == 1 else (3, 3, 4, 16, 16))
    torch.testing.assert_close(clip.double(), expected.view(clip.shape), rtol=1e-6, atol=1e-6 * spec.scale)


def test_a_whole_frame_that_may_not_be_written() -> None:
    spec = ClipSpec(num_frames=2, resize=16, crop=16)
    frames = noise(2, 16, 16, 3)
    frames.setflags(write=False)
    color = ColorJitter(brightness=1.2, contrast=0.8, saturation=0.5, hue=0.2)
    view = View(indices=((0, 1),), size=Size(16, 16), box=Box(0, 0, 16, 16), flip=True, color=color)
    before = frames.copy()
    to_tensor(frames, view, spec)
    assert np.array_equal(frames, before)


def test_frames_that_are_not_the_views() -> None:
    spec = ClipSpec(num_frames=2, resize=16, crop=16)
    view = View(indices=((0, 1),), size=Size(16, 16), box=Box(0, 0, 16, 16))
    with pytest.raises(ValueError, match=r"needs frames uint8 \[2, 16, 16, 3\], got uint8 \[3, 16, 16, 3\]"):
        to_tensor(noise(3, 16, 16, 3), view, spec)


def test_flow_needs_a_source() -> None:
    spec = ClipSpec(
        num_frames=2,
        resize=16,
        crop=16,
        modality="flow",
        mean=(0, 0),
        std=(1, 1),
        flow_method="tvl1",
        flow_bound=20,
    )
    view = View(indices=((0, 1, 2),), size=Size(16, 16), box=Box(0, 0, 16, 16))
    with pytest.raises(DataError, match="modality 'flow', but there are only RGB frames and no flow source"):
        to_tensor(noise(3, 16, 16, 3), view, spec)


# A box that is resized


@pytest.mark.parametrize("box", [Box(4, 9, 112, 112), Box(4, 9, 90, 80), Box(0, 0, 128, 100)])
def test_a_grown_box_is_bilinear(box: Box) -> None:
    frames = picture(2, 128, 171)
    ours = cut_box(frames, box, 112, "bilinear")
    theirs = F.resize(chw(cut(frames, box)), [112, 112], antialias=False)
    assert ours.shape == (2, 112, 112, 3)
    assert (chw(ours).int() - theirs.int()).abs().max() <= 1


def test_a_box_of_twice_the_size_is_the_mean_of_four() -> None:
    frames = noise(2, 128, 171, 3)
    ours = cut_box(frames, Box(0, 11, 128, 128), 64, "antialias")
    means = frames[:, :, 11:139].reshape(2, 64, 2, 64, 2, 3).mean(axis=(2, 4))
    assert np.abs(ours - means).max() <= 0.5
    plain = cut_box(frames, Box(0, 11, 126, 126), 42, "bilinear")
    assert np.array_equal(plain, frames[:, 1:126:3, 12:137:3])  # a third: the pixel in the middle of 3 x 3


def test_a_shrunk_box_is_near_torchvisions_antialias() -> None:
    frames = picture(2, 256, 340)
    ours = cut_box(frames, Box(0, 40, 256, 256), 112, "antialias")
    theirs = F.resize(chw(frames[:, :, 40:296]), [112, 112], antialias=True)
    assert (chw(ours).int() - theirs.int()).abs().float().mean() < 1.5


# Colour


@pytest.mark.parametrize("factor", [0.0, 0.4, 0.9, 1.3, 2.0])
@pytest.mark.parametrize("frames", [noise(3, 32, 40, 3), picture(3, 32, 40)], ids=["noise", "picture"])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_color_is_torchvisions(frames: UInt8Array, factor: float, name: str) -> None:
    ours = adjust_color(frames, ColorJitter(**{name: factor}))
    theirs = getattr(F, f"adjust_{name}")(chw(frames), factor)
    assert (chw(ours).int() - theirs.int()).abs().max() <= 1
    assert factor > 0.5 or not np.array_equal(ours, frames)


@pytest.mark.parametrize("hue", [-0.5, -0.17, 0.03, 0.3])
@pytest.mark.parametrize("frames", [noise(3, 32, 40, 3), picture(3, 32, 40)], ids=["noise", "picture"])
def test_hue_is_torchvisions(frames: UInt8Array, hue: float) -> None:
    ours = adjust_color(frames, ColorJitter(hue=hue))
    theirs = F.adjust_hue(chw(frames), hue)
    assert (chw(ours).int() - theirs.int()).abs().max() <= 1


def test_all_colors_in_order() -> None:
    """Against torchvision's floats, nearer than its bytes: those lose up to a level in each of the steps."""

    def theirs(images: torch.Tensor) -> torch.Tensor:
        images = F.adjust_contrast(F.adjust_brightness(images, 1.2), 0.7)
        return F.adjust_hue(F.adjust_saturation(images, 1.4), -0.1)

    frames = picture(3, 32, 40)
    exact = theirs(chw(frames) / 255) * 255
    color = ColorJitter(brightness=1.2, contrast=0.7, saturation=1.4, hue=-0.1)
    ours = (chw(adjust_color(frames, color)) - exact).abs()
    assert ours.max() <= 4
    assert ours.mean() < 0.6 < (theirs(chw(frames)) - exact).abs().mean()


def test_one_color_for_all_frames_of_a_clip_and_none_is_none() -> None:
    frames = np.repeat(picture(1, 32, 40), 4, axis=0)
    changed = adjust_color(frames, ColorJitter(brightness=0.8, contrast=1.3, saturation=0.6, hue=0.2))
    assert all(np.array_equal(changed[0], frame) for frame in changed)
    assert np.array_equal(adjust_color(frames, ColorJitter()), frames)
