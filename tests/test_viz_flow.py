"""Pictures of flow: Middlebury's colours at known places, and pictures that show what they should.

Seen to fail: the hue turned the wrong way; x for y; strength upside down; the arrow backwards.
"""

import numpy as np
import pytest
from PIL import Image

from muybridge.viz_flow import (
    ARROW,
    GAP_PX,
    color_wheel,
    flow_arrows,
    flow_colors,
    flow_greys,
    flow_picture,
    flow_strip,
    longest_shown,
)

# Of Middlebury's colour wheel, by hand: place (angle + 1) / 2 * 54 of its 55 steps.
DIRECTIONS = {
    "right": ((1, 0), (255, 0, 0)),  # place 0
    "left": ((-1, 0), (0, 209, 255)),  # 27: two of the 11 steps from cyan to blue
    "down": ((0, 1), (255, 229, 0)),  # 13.5 of 15 from red to yellow
    "up": ((0, -1), (88, 0, 255)),  # 40.5: 4.5 of 13 from blue to magenta
}


def constant(x: float, y: float, height: int = 40, width: int = 60) -> np.ndarray:
    field = np.empty((2, height, width), np.float32)
    field[0], field[1] = x, y
    return field


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_colours_of_the_four_directions(direction: str) -> None:
    (x, y), expected = DIRECTIONS[direction]
    colour = flow_colors(constant(3 * x, 3 * y), longest=3)[0, 0]
    assert np.abs(colour.astype(int) - expected).max() <= 2
    half = flow_colors(constant(1.5 * x, 1.5 * y), longest=3)[0, 0].astype(int)
    assert np.abs(half - (np.array(expected) + 255) / 2).max() <= 3  # half as far is half as strong
    beyond = flow_colors(constant(9 * x, 9 * y), longest=3)[0, 0].astype(int)
    assert np.abs(beyond - np.array(expected) * 0.75).max() <= 3


def test_many_fields_at_once() -> None:
    fields = np.stack([constant(1, 2), constant(-2, 0), constant(0, 0)])
    colors = flow_colors(fields, longest=4)
    assert colors.shape == (3, 40, 60, 3)
    assert all(np.array_equal(colors[i], flow_colors(fields[i], longest=4)) for i in range(3))
    assert (colors[2] == 255).all()


def test_the_scale_is_that_of_what_moves() -> None:
    assert longest_shown(constant(0.2, 0)) == 1
    field = constant(0, 0)
    field[0, :8, :8] = 6
    field[0, 0, 0] = 500  # a single wild one
    assert longest_shown(field) == pytest.approx(6, rel=0.01)


def test_the_legend_is_round_and_tells_its_length() -> None:
    wheel = np.asarray(color_wheel(81))
    assert wheel.shape == (81, 81, 4)
    assert wheel[0, 0, 3] == 0
    assert wheel[40, 40, 3] == 255
    assert wheel[40, 40, :3].min() > 245
    assert wheel[40, 79, 0] > 240 > 60 > wheel[40, 79, 1]  # red on the right
    assert not np.array_equal(np.asarray(color_wheel(81, longest=12)), wheel)
    plain, told = (
        np.asarray(flow_picture(constant(3, 0, 90, 120), legend=legend)) for legend in (False, True)
    )
    differ = np.argwhere((plain != told).any(axis=-1))
    assert differ.min() >= 90 - 40 - GAP_PX  # only in the lower right corner


def test_x_and_y_in_grey_side_by_side() -> None:
    sheet = np.asarray(flow_greys(constant(20, -10, 30, 40)))
    assert sheet.shape == (30, 86)
    assert set(sheet[:, :40].ravel()) == {255}
    assert set(sheet[:, 46:].ravel()) == {64}


def test_arrows_go_where_pixels_go() -> None:
    frame = np.zeros((48, 64, 3), np.uint8)
    drawn = (np.asarray(flow_arrows(frame, constant(10, 0, 48, 64))) == ARROW).all(axis=-1)
    assert drawn[8, 8:19].all()  # the first arrow starts at (8, 8)
    assert not drawn[8, 7]
    assert drawn[[6, 10], :].any()  # the head
    dots = (np.asarray(flow_arrows(frame, constant(0.1, 0, 48, 64))) == ARROW).all(axis=-1)
    assert dots.sum() == 12


def test_a_strip_over_time() -> None:
    fields = np.stack([constant(t, 0, 120, 180) for t in range(20)])
    frames = np.full((20, 120, 180, 3), 60, np.uint8)
    strip = flow_strip(frames, fields, max_columns=5, tile_width_px=180)
    assert isinstance(strip, Image.Image)
    assert strip.size == (5 * 186 + 6, 2 * 126 + 25 + 6)
    pixels = np.asarray(strip)
    assert (pixels[20, 20] == 60).all()
    below = [pixels[150, 6 + 186 * column + 20].tolist() for column in range(5)]
    assert below[0] == [255, 255, 255]
    green = [color[1] for color in below]
    assert green == sorted(green, reverse=True)  # ever redder
    assert green[-1] < 20
    with pytest.raises(ValueError, match=r"as many frames as fields, at least one, got 20 and 3"):
        flow_strip(frames, fields[:3])
