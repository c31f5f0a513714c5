"""Pictures of optical flow, as Pillow images.

Colours are Middlebury's (Baker et al., A Database and Evaluation Methodology for Optical Flow, IJCV 2011):
the hue says where a pixel goes, its strength how far, white stands still.

Shape letters: T fields, H height, W width. x is to the right, y down; fields are in pixels.
"""

import math
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from muybridge.types import UInt8Array
from muybridge.viz import NIGHT, NIGHT_INK

__all__ = [
    "color_wheel",
    "flow_arrows",
    "flow_colors",
    "flow_greys",
    "flow_picture",
    "flow_strip",
    "longest_shown",
]

Float32Array = npt.NDArray[np.float32]

# Steps of the wheel from red to yellow, to green, to cyan, to blue, to magenta, and back to red.
WHEEL_STEPS = (15, 6, 4, 11, 13, 6)
WHEEL_CORNERS = ((1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 0, 0))
TOO_FAR = 0.75  # colours beyond the longest displacement of the legend are this much darker
MOVES_PX = 0.5
SHOWN_PERCENTILE = 95  # of what moves: a few wild displacements must not make the rest pale
ARROW = (255, 196, 0)
GAP_PX = 6


def flow_colors(fields: Float32Array, *, longest: float | None = None) -> UInt8Array:
    """The colour of each displacement.

    Args:
        fields: one or several.
        longest: pixels at which colours are full; None takes `longest_shown(fields)`.

    Shape:
        fields [..., 2, H, W]
        output [..., H, W, 3], uint8

    >>> right, down, still = (3, 0), (0, 3), (0, 0)
    >>> field = np.array([right, down, still], np.float32).T.reshape(2, 1, 3)
    >>> flow_colors(field, longest=3)[0].tolist()
    [[255, 0, 0], [255, 229, 0], [255, 255, 255]]
    """
    longest = longest or longest_shown(fields)
    x, y = np.moveaxis(np.asarray(fields, np.float32), -3, 0) / np.float32(longest)
    radius = np.hypot(x, y)[..., None]
    wheel = _wheel()
    place = (np.arctan2(-y, -x) / np.pi + 1) / 2 * (len(wheel) - 1)
    below = np.floor(place).astype(np.intp)
    part = (place - below)[..., None]
    hue = (1 - part) * wheel[below] + part * wheel[(below + 1) % len(wheel)]
    colors = np.where(radius <= 1, 1 - radius * (1 - hue), hue * TOO_FAR)
    return np.asarray(np.floor(255 * colors), np.uint8)


def longest_shown(fields: Float32Array) -> float:
    """A length for the legend that nearly all of what moves is within, at least 1 pixel.

    Shape:
        fields [..., 2, H, W]

    >>> longest_shown(np.zeros((2, 4, 4), np.float32))
    1.0
    """
    lengths = np.hypot(fields[..., 0, :, :], fields[..., 1, :, :])
    moving = lengths[lengths > MOVES_PX]
    return max(1.0, float(np.percentile(moving, SHOWN_PERCENTILE))) if len(moving) else 1.0


def color_wheel(side_px: int = 96, *, longest: float | None = None) -> Image.Image:
    """The legend: each direction from the middle in its colour, full at the rim.

    Args:
        side_px: of the square picture.
        longest: pixels that the rim stands for, written below the middle; None writes nothing.
    """
    radius = side_px / 2
    y, x = (np.mgrid[:side_px, :side_px] + 0.5 - radius).astype(np.float32)
    colors = flow_colors(np.stack([x, y]), longest=radius)
    inside = np.hypot(x, y) <= radius
    alpha = (inside * 255).astype(np.uint8)
    wheel = Image.fromarray(np.dstack([colors, alpha]))
    if longest is not None:
        text = f"{longest:.0f} px" if longest >= 10 else f"{longest:.1f} px"
        place = (radius, side_px * 0.74)
        ImageDraw.Draw(wheel).text(place, text, (40, 40, 40, 255), _font(max(9, side_px // 7)), anchor="mm")
    return wheel


def flow_picture(field: Float32Array, *, longest: float | None = None, legend: bool = True) -> Image.Image:
    """One field in colours, with the wheel in its lower right corner.

    Args:
        field: one.
        longest: pixels at which colours are full; None takes `longest_shown`.
        legend: draw the wheel.

    Shape:
        field [2, H, W]
    """
    longest = longest or longest_shown(field)
    picture = Image.fromarray(flow_colors(field, longest=longest))
    if legend:
        wheel = color_wheel(max(40, min(picture.size) // 4), longest=longest)
        place = (picture.width - wheel.width - GAP_PX, picture.height - wheel.height - GAP_PX)
        picture.paste(wheel, place, wheel)
    return picture


def flow_greys(field: Float32Array, *, bound: float = 20.0) -> Image.Image:
    """Side by side x and y in grey, as in Figure 2 of Two-Stream: bright is right and down.

    Args:
        field: one.
        bound: pixels that are white; minus these are black, and 0 is the grey between.

    Shape:
        field [2, H, W]
    """
    greys = np.rint((np.clip(field / bound, -1, 1) + 1) * 127.5).astype(np.uint8)
    height, width = field.shape[1:]
    sheet = Image.new("L", (2 * width + GAP_PX, height), 255)
    for place, component in enumerate(greys):
        sheet.paste(Image.fromarray(component), (place * (width + GAP_PX), 0))
    return sheet


def flow_arrows(frame: UInt8Array, field: Float32Array, *, every_px: int = 16) -> Image.Image:
    """A frame with an arrow every few pixels: its length is the displacement, in pixels of the frame.

    Args:
        frame: the first one of the pair.
        field: flow from it.
        every_px: from one arrow to the next.

    Shape:
        frame [H, W, 3], uint8
        field [2, H, W]
    """
    picture = Image.fromarray(np.ascontiguousarray(frame))
    draw = ImageDraw.Draw(picture)
    height, width = field.shape[1:]
    for row in range(every_px // 2, height, every_px):
        for column in range(every_px // 2, width, every_px):
            x, y = (float(component) for component in field[:, row, column])
            if math.hypot(x, y) >= 0.5:  # shorter ones are a dot
                _draw_arrow(draw, (column, row), (column + x, row + y))
            else:
                draw.point((column, row), ARROW)
    return picture


def flow_strip(
    frames: UInt8Array, fields: Float32Array, *, max_columns: int = 8, tile_width_px: int = 168
) -> Image.Image:
    """Over time: frames above, the flow that starts at each below, all in one scale, with the legend.

    Args:
        frames: the first frame of each field.
        fields: flow from them.
        max_columns: of a longer run, so many are shown, evenly.
        tile_width_px: width of each picture.

    Shape:
        frames [T, H, W, 3], uint8
        fields [T, 2, H, W]
    """
    if len(frames) != len(fields) or not len(fields):
        raise ValueError(f"as many frames as fields, at least one, got {len(frames)} and {len(fields)}")
    picks = np.unique(np.linspace(0, len(fields) - 1, min(max_columns, len(fields))).round().astype(int))
    longest = longest_shown(fields[picks])
    height, width = fields.shape[2:]
    tile = (tile_width_px, max(1, round(tile_width_px * height / width)))
    caption = max(14, tile_width_px // 7)
    sheet = Image.new(
        "RGB",
        (len(picks) * (tile[0] + GAP_PX) + GAP_PX, 2 * (tile[1] + GAP_PX) + caption + GAP_PX),
        NIGHT,
    )
    draw, font = ImageDraw.Draw(sheet), _font(max(9, round(caption * 0.62)))
    for column, pick in enumerate(picks.tolist()):
        left = GAP_PX + column * (tile[0] + GAP_PX)
        last = column == len(picks) - 1
        colors = flow_picture(fields[pick], longest=longest, legend=last)
        for row, picture in enumerate((Image.fromarray(np.ascontiguousarray(frames[pick])), colors)):
            resized = picture.resize(tile, Image.Resampling.LANCZOS)
            sheet.paste(resized, (left, GAP_PX + row * (tile[1] + GAP_PX)))
        place = (left + tile[0] / 2, sheet.height - (caption + GAP_PX) / 2)
        draw.text(place, f"{pick} to {pick + 1}", NIGHT_INK, font, anchor="mm")
    return sheet


def _draw_arrow(draw: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float]) -> None:
    draw.line([start, end], ARROW, width=1)
    angle = math.atan2(end[1] - start[1], end[0] - start[0])
    head = min(5.0, 0.4 * math.dist(start, end))
    for turn in (-0.45, 0.45):
        back = angle + math.pi + turn
        draw.line([end, (end[0] + head * math.cos(back), end[1] + head * math.sin(back))], ARROW, width=1)


@lru_cache(maxsize=1)
def _wheel() -> npt.NDArray[np.float64]:
    """55 colours, RGB in [0, 1]. Shape: [55, 3].

    >>> _wheel().shape, _wheel()[[0, 15, 21]].tolist()
    ((55, 3), [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    """
    rows = []
    for steps, (start, end) in zip(WHEEL_STEPS, pairwise(WHEEL_CORNERS), strict=True):
        part = np.floor(255 * np.arange(steps) / steps)[:, None] / 255
        rows.append((1 - part) * np.array(start) + part * np.array(end))
    return np.concatenate(rows)


@lru_cache(maxsize=16)
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size_px)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
