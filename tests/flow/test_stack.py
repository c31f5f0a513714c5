"""Stacks: the papers' formulas by hand, in loops, and what must hold exactly.

Seen to fail: x and y swapped in a stack; the trajectory taken from the pixel instead of from the point; a
mirror that forgets the sign; a mean over both components.
"""

import math

import numpy as np
import pytest

from muybridge.flow.methods import estimate, estimate_both
from muybridge.flow.quantise import quantise
from muybridge.flow.stack import bidirectional, mirror, stack, subtract_mean, trajectory_stack

RNG = np.random.default_rng(0)


def smooth(num_fields: int, height: int = 12, width: int = 16, size: float = 1.5) -> np.ndarray:
    y, x = np.mgrid[:height, :width] / 5
    fields = [[np.sin(x + 0.7 * y + k), np.cos(x - y + 1.3 * k)] for k in range(num_fields)]
    return (size * np.array(fields)).astype(np.float32)


def textured(num_frames: int, height: int = 40, width: int = 48) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [np.sin((x + 1.5 * t) / 3) + np.cos((y - t) / 4) + np.sin((x + y) / 7) for t in range(num_frames)]
    return np.repeat((40 * np.array(waves) + 128).astype(np.uint8)[..., None], 3, axis=-1)


def trajectory_by_the_paper(fields: np.ndarray) -> list[np.ndarray]:
    """Eq. (2) with loops, in float64; a point that leaves the frame stays on its border."""
    num_fields, _, height, width = fields.shape
    channels = [np.zeros((height, width)) for _ in range(2 * num_fields)]
    for row in range(height):
        for column in range(width):
            x, y = float(column), float(row)  # p_1
            for k in range(num_fields):
                left, top = math.floor(x), math.floor(y)
                right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
                a, b = x - left, y - top
                moved = []
                for component in range(2):
                    plane = fields[k, component].astype(np.float64)
                    upper = (1 - a) * plane[top, left] + a * plane[top, right]
                    lower = (1 - a) * plane[bottom, left] + a * plane[bottom, right]
                    moved.append((1 - b) * upper + b * lower)
                    channels[2 * k + component][row, column] = moved[-1]
                x, y = min(max(x + moved[0], 0), width - 1), min(max(y + moved[1], 0), height - 1)
    return channels


def test_channels_are_x1_y1_x2_y2() -> None:
    fields = np.array([[1, 2], [3, 4], [5, 6]], np.float32)[..., None, None] * np.ones((4, 5), np.float32)
    assert [set(channel.ravel().tolist()) for channel in stack(fields)] == [{1}, {2}, {3}, {4}, {5}, {6}]


def test_a_trajectory_is_equation_2() -> None:
    fields = smooth(4)
    np.testing.assert_allclose(trajectory_stack(fields), trajectory_by_the_paper(fields), atol=2e-6)


@pytest.mark.parametrize("flow", [(0, 0), (3, -2), (0.25, 7)])
def test_where_all_pixels_move_alike_a_trajectory_is_a_stack(flow: tuple[float, float]) -> None:
    fields = np.empty((10, 2, 9, 11), np.float32)
    fields[:] = np.array(flow, np.float32)[:, None, None]
    assert np.array_equal(trajectory_stack(fields), stack(fields))


def test_a_shear_has_a_closed_form() -> None:
    shear = np.zeros((5, 2, 6, 30), np.float32)
    shear[:, 0] = np.arange(30) / 8  # d(p) = p_x / 8, so p_k = (9/8)^(k-1) p_1 as long as it is in the frame
    sampled = trajectory_stack(shear)[::2, 3, :16]
    closed = [np.arange(16) * (9 / 8) ** k / 8 for k in range(5)]
    np.testing.assert_allclose(sampled, closed, rtol=1e-6)
    assert not trajectory_stack(shear)[1::2].any()


def test_without_its_mean_a_field_has_lost_all_that_moves_together() -> None:
    fields = smooth(3)
    centred = subtract_mean(fields)
    assert np.abs(centred.mean(axis=(2, 3))).max() < 1e-6
    moved = fields + np.array([5, -3], np.float32)[:, None, None]
    np.testing.assert_allclose(subtract_mean(moved), centred, atol=1e-5)
    assert (
        np.abs(subtract_mean(fields)[:, 0] - (fields[:, 0] - fields[:, 0].mean())).max() > 0.01
    )  # each its own


def test_a_mirror_negates_x_exactly() -> None:
    fields = smooth(2)
    assert np.array_equal(mirror(mirror(fields)), fields)
    assert np.array_equal(mirror(fields)[:, 0], -fields[:, 0, :, ::-1])
    assert np.array_equal(mirror(fields)[:, 1], fields[:, 1, :, ::-1])
    still = np.zeros((1, 2, 3, 4), np.float32)
    assert np.array_equal(
        quantise(mirror(still), 20), quantise(still, 20)
    )  # before quantising: 128 stays 128


def test_a_mirror_is_the_flow_of_mirrored_frames() -> None:
    frames = textured(2)
    fields = estimate(frames, method="farneback")
    mirrored = estimate(np.ascontiguousarray(frames[:, :, ::-1]), method="farneback")
    assert np.abs(fields).max() > 1
    assert np.median(np.abs(mirrored - mirror(fields))) < 1e-5  # the ends of rows are another matter


def test_both_directions_of_a_reversed_clip_swap() -> None:
    frames = textured(5)
    forward, backward = (
        estimate_both(frames[2:], method="dis")[0],
        estimate_both(frames[:3], method="dis")[1][::-1],
    )
    both = bidirectional(forward, backward)
    assert both.shape == (8, 40, 48)
    turned = frames[::-1]
    forward, backward = (
        estimate_both(turned[2:], method="dis")[0],
        estimate_both(turned[:3], method="dis")[1][::-1],
    )
    np.testing.assert_array_equal(bidirectional(forward, backward), np.roll(both, 4, axis=0))


def test_what_is_no_stack() -> None:
    with pytest.raises(ValueError, match=r"a stack needs fields \[L, 2, H, W\], got \[3, 4, 5\]"):
        stack(np.zeros((3, 4, 5), np.float32))
    with pytest.raises(ValueError, match=r"as many fields of one size forward and backward"):
        bidirectional(smooth(2), smooth(3))
