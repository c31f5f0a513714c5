"""Where the network looks: sizes and boxes, decided once a clip and held by all its frames. Plain numbers.

All boxes are cut from the whole frame after its resize. `crop` is the side of the square that the network
sees, in pixels; only `corner_scale_box` and `area_box` give boxes of other sizes, which are resized to it.
"""

import math
import random
from typing import Literal, NamedTuple, get_args

from muybridge.config import AugmentConfig
from muybridge.types import Box, ColorJitter, Size

__all__ = [
    "CropKind",
    "NamedCrop",
    "area_box",
    "center_box",
    "corner_offsets",
    "corner_scale_box",
    "corner_scale_sides",
    "five_boxes",
    "protocol_crops",
    "random_box",
    "random_color",
    "resized_size",
    "ten_crops",
    "three_boxes",
]

CropKind = Literal["center", "three", "five", "ten"]
CORNER_NAMES = ("top left", "top right", "bottom left", "bottom right", "center")
SNAP_PX = 3  # TSN: a side this near the crop's becomes the crop's, so that nothing is resized for so little
ASPECT_RATIOS = (3 / 4, 4 / 3)  # width / height of `area_box`, those of torchvision's RandomResizedCrop


class NamedCrop(NamedTuple):
    """One of the crops of a test.

    Attributes:
        name: for reports, such as "top left" or "center, mirrored".
        box: what is cut.
        flip: mirrored left to right.
    """

    name: str
    box: Box
    flip: bool = False


def resized_size(size: Size, resize: int | tuple[int, int]) -> Size:
    """The whole frame's size after its resize.

    Args:
        size: of the frame as it is.
        resize: the short side in pixels, and the aspect ratio stays (the long side is cut down to a whole
            pixel, as torchvision does it); or (height, width), whatever the frame's is.

    >>> resized_size(Size(240, 320), 112), resized_size(Size(1280, 720), 128)
    (Size(height=112, width=149), Size(height=227, width=128))
    >>> resized_size(Size(240, 320), (128, 171))
    Size(height=128, width=171)
    """
    if not isinstance(resize, int):
        return Size(*resize)
    height, width = size
    if width <= height:
        return Size(int(resize * height / width), resize)
    return Size(resize, int(resize * width / height))


def center_box(size: Size, crop: int) -> Box:
    """The square in the middle; where it cannot be, half a pixel off as torchvision has it (rounds to even).

    >>> center_box(Size(112, 149), 112), center_box(Size(128, 171), 112)
    (Box(top=0, left=18, height=112, width=112), Box(top=8, left=30, height=112, width=112))
    """
    free = _free(size, crop, crop)
    return Box(round(free.height / 2), round(free.width / 2), crop, crop)


def random_box(size: Size, crop: int, rng: random.Random) -> Box:
    """A square anywhere in the frame, all places equally likely.

    >>> random_box(Size(128, 171), 112, random.Random(0))
    Box(top=12, left=48, height=112, width=112)
    """
    return _placed(size, crop, crop, rng)


def three_boxes(size: Size, crop: int) -> tuple[Box, Box, Box]:
    """Left, center and right; top, center and bottom of an upright frame. The center is `center_box`.

    >>> [(box.top, box.left) for box in three_boxes(Size(128, 171), 128)]
    [(0, 0), (0, 22), (0, 43)]
    >>> [(box.top, box.left) for box in three_boxes(Size(171, 128), 112)]
    [(0, 8), (30, 8), (59, 8)]
    """
    free = _free(size, crop, crop)
    center = center_box(size, crop)
    if size.height > size.width:
        return center._replace(top=0), center, center._replace(top=free.height)
    return center._replace(left=0), center, center._replace(left=free.width)


def five_boxes(size: Size, crop: int) -> tuple[Box, Box, Box, Box, Box]:
    """Top left, top right, bottom left, bottom right, center.

    >>> [(box.top, box.left) for box in five_boxes(Size(256, 340), 224)]
    [(0, 0), (0, 116), (32, 0), (32, 116), (16, 58)]
    """
    free = _free(size, crop, crop)
    return (
        Box(0, 0, crop, crop),
        Box(0, free.width, crop, crop),
        Box(free.height, 0, crop, crop),
        Box(free.height, free.width, crop, crop),
        center_box(size, crop),
    )


def ten_crops(size: Size, crop: int) -> tuple[tuple[Box, bool], ...]:
    """The five boxes, then the same five mirrored: (box, flip)."""
    boxes = five_boxes(size, crop)
    return tuple((box, flip) for flip in (False, True) for box in boxes)


def protocol_crops(kind: CropKind, size: Size, crop: int) -> tuple[NamedCrop, ...]:
    """The crops of a protocol, in its order, each with its name.

    >>> [crop.name for crop in protocol_crops("three", Size(171, 128), 112)]
    ['top', 'center', 'bottom']
    """
    if kind == "center":
        return (NamedCrop("center", center_box(size, crop)),)
    if kind == "three":
        upright = size.height > size.width
        names = ("top", "center", "bottom") if upright else ("left", "center", "right")
        return tuple(NamedCrop(name, box) for name, box in zip(names, three_boxes(size, crop), strict=True))
    if kind not in get_args(CropKind):
        raise ValueError(f"no crops '{kind}'; there are {', '.join(get_args(CropKind))}")
    boxes = five_boxes(size, crop)
    five = tuple(NamedCrop(name, box) for name, box in zip(CORNER_NAMES, boxes, strict=True))
    if kind == "five":
        return five
    return five + tuple(NamedCrop(f"{name}, mirrored", box, flip=True) for name, box, _ in five)


def corner_scale_sides(
    short_side: int, crop: int, scales: tuple[float, ...], *, max_distortion: int = 1
) -> tuple[tuple[int, int], ...]:
    """The (height, width) that TSN's crop draws from.

    Each side is a scale of the frame's short side, or the crop's side where it comes within 3 pixels of that.
    Height and width are at most `max_distortion` apart in the list of scales.

    >>> corner_scale_sides(256, 224, (1.0, 0.875, 0.75))
    ((256, 256), (256, 224), (224, 256), (224, 224), (224, 192), (192, 224), (192, 192))
    >>> len(corner_scale_sides(256, 224, (1.0, 0.875, 0.75, 0.66)))
    10
    """
    sides = [max(1, int(short_side * scale)) for scale in scales]
    sides = [crop if abs(side - crop) < SNAP_PX and crop <= short_side else side for side in sides]
    return tuple(
        (height, width)
        for i, height in enumerate(sides)
        for j, width in enumerate(sides)
        if abs(i - j) <= max_distortion
    )


def corner_offsets(free: Size) -> tuple[tuple[int, int], ...]:
    """TSN's 13 places (top, left) for a box that leaves `free` pixels of height and width around it.

    Corners, center, middles of the edges, then the four places half-way to the corners: a grid of quarters.
    (The authors' code multiplies a quarter that is cut to a whole pixel, so that its last place may stop up
    to three pixels before the edge; ours reaches it. On 340 x 256 there is no difference.)

    >>> corner_offsets(Size(88, 172))[:5]
    ((0, 0), (0, 172), (88, 0), (88, 172), (44, 86))
    """
    quarters = (
        *((0, 0), (0, 4), (4, 0), (4, 4), (2, 2)),
        *((0, 2), (4, 2), (2, 0), (2, 4)),
        *((1, 1), (1, 3), (3, 1), (3, 3)),
    )
    return tuple((free.height * row // 4, free.width * column // 4) for row, column in quarters)


def corner_scale_box(
    size: Size,
    crop: int,
    rng: random.Random,
    *,
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66),
    max_distortion: int = 1,
) -> Box:
    """TSN's corner-and-scale crop (arXiv:1608.00859): random sides at one of 13 fixed places.

    >>> corner_scale_box(Size(256, 340), 224, random.Random(4))
    Box(top=16, left=58, height=224, width=224)
    """
    sides = corner_scale_sides(min(size), crop, scales, max_distortion=max_distortion)
    height, width = rng.choice(sides)
    top, left = rng.choice(corner_offsets(_free(size, height, width)))
    return Box(top, left, height, width)


def area_box(size: Size, crop: int, rng: random.Random, *, area: tuple[float, float] = (0.6, 1.0)) -> Box:
    """A box of random area and shape, anywhere in the frame.

    Args:
        size: of the frame.
        crop: side of the square that the network sees.
        rng: draws area, shape and place.
        area: range of the box's area, as a part of the square's; its width is 3/4 to 4/3 of its height, and
            a side longer than the frame's is cut to that.

    >>> area_box(Size(128, 171), 112, random.Random(0), area=(0.5, 0.5))
    Box(top=26, left=5, height=74, width=85)
    """
    pixels = rng.uniform(*area) * crop * crop
    ratio = math.exp(rng.uniform(math.log(ASPECT_RATIOS[0]), math.log(ASPECT_RATIOS[1])))
    height = min(max(1, round(math.sqrt(pixels / ratio))), size.height)
    width = min(max(1, round(math.sqrt(pixels * ratio))), size.width)
    return _placed(size, height, width, rng)


def random_color(augment: AugmentConfig, rng: random.Random) -> ColorJitter | None:
    """The colour changes of one clip; None, and nothing is drawn, where all widths are 0.

    >>> random_color(AugmentConfig(), random.Random(0)) is None
    True
    >>> random_color(AugmentConfig(brightness=0.5), random.Random(0)).contrast
    1.0
    """
    if not (augment.brightness or augment.contrast or augment.saturation or augment.hue):
        return None
    return ColorJitter(
        brightness=rng.uniform(1 - augment.brightness, 1 + augment.brightness),
        contrast=rng.uniform(1 - augment.contrast, 1 + augment.contrast),
        saturation=rng.uniform(1 - augment.saturation, 1 + augment.saturation),
        hue=rng.uniform(-augment.hue, augment.hue),
    )


def _free(size: Size, height: int, width: int) -> Size:
    """The pixels that a box of this height and width leaves."""
    if height > size.height or width > size.width:
        raise ValueError(
            f"a box of {width}x{height} does not fit into the resized frame, {size.width}x{size.height}"
        )
    return Size(size.height - height, size.width - width)


def _placed(size: Size, height: int, width: int, rng: random.Random) -> Box:
    free = _free(size, height, width)
    return Box(rng.randint(0, free.height), rng.randint(0, free.width), height, width)
