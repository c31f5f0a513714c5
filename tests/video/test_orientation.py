"""Every way to lay a picture, against what the matrix does to a point."""

import itertools

import numpy as np
import pytest

from muybridge.types import Size
from muybridge.video.orientation import Orientation

ONE = 65536


def matrix(a: int, b: int, c: int, d: int) -> list[int]:
    return [a, b, 0, c, d, 0, 0, 0, 1 << 30]


@pytest.mark.parametrize(("x", "y", "swap"), list(itertools.product((1, -1), (1, -1), (False, True))))
def test_turn_moves_each_pixel_where_the_matrix_sends_it(x: int, y: int, swap: bool) -> None:
    a, b, c, d = (0, x, y, 0) if swap else (x, 0, 0, y)
    orientation = Orientation.from_matrix(matrix(a * ONE, b * ONE, c * ONE, d * ONE))
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    turned = orientation.turn(picture)
    assert turned.shape[:2] == orientation.turned_size(Size(2, 3)) == ((3, 2) if swap else (2, 3))
    for row, column in itertools.product(range(2), range(3)):
        # centred coordinates, so that there is no translation to undo
        u, v = column - 1, row - 0.5
        new_u, new_v = a * u + c * v, b * u + d * v
        new_row, new_column = new_v + (turned.shape[0] - 1) / 2, new_u + (turned.shape[1] - 1) / 2
        assert np.array_equal(turned[int(new_row), int(new_column)], picture[row, column])


@pytest.mark.parametrize(
    ("values", "degrees"),
    [((1, 0, 0, 1), 0), ((0, 1, -1, 0), 90), ((-1, 0, 0, -1), 180), ((0, -1, 1, 0), 270)],
)
def test_rotation_is_clockwise(values: tuple[int, int, int, int], degrees: int) -> None:
    orientation = Orientation.from_matrix(matrix(*(ONE * value for value in values)))
    assert orientation.rotation_degrees == degrees
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert np.array_equal(orientation.turn(picture), np.rot90(picture, -degrees // 90))


def test_slanted_turn_is_brought_to_the_nearest_right_angle() -> None:
    assert Orientation.from_matrix(matrix(60000, 20000, -20000, 60000)) == Orientation()
