"""Turning decoded pictures upright: the display matrix of a container, as flips and transposes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from muybridge.types import Size, UInt8Array


@dataclass(frozen=True)
class Orientation:
    """One of the eight ways to lay a picture on a grid of pixels: transpose first, then mirror.

    Attributes:
        transpose: rows become columns.
        flip_x: mirrored left to right, after the transpose.
        flip_y: mirrored top to bottom, after the transpose.
    """

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @classmethod
    def from_matrix(cls, matrix: Sequence[int]) -> Self:
        """From the nine numbers of a display matrix: x' = m[0] x + m[3] y, y' = m[1] x + m[4] y.

        Turns that are no multiple of 90 degrees are brought to the nearest one.

        >>> Orientation.from_matrix([0, 65536, 0, -65536, 0, 0, 0, 0, 1]).rotation_degrees
        90
        """
        x_of_x, y_of_x, _, x_of_y, y_of_y = matrix[:5]
        if abs(x_of_x) + abs(y_of_y) >= abs(y_of_x) + abs(x_of_y):
            return cls(transpose=False, flip_x=x_of_x < 0, flip_y=y_of_y < 0)
        return cls(transpose=True, flip_x=x_of_y < 0, flip_y=y_of_x < 0)

    @property
    def rotation_degrees(self) -> int:
        """The clockwise turn: where the picture's left-to-right axis goes. A mirror image may come on top."""
        x, y = (0, -1 if self.flip_y else 1) if self.transpose else (-1 if self.flip_x else 1, 0)
        return round(math.degrees(math.atan2(y, x))) % 360

    def turned_size(self, size: Size) -> Size:
        """The size of a picture after turning it; and the size before from that after.

        >>> Orientation(transpose=True).turned_size(Size(240, 320))
        Size(height=320, width=240)
        """
        return Size(size.width, size.height) if self.transpose else size

    def turn(self, pixels: UInt8Array) -> UInt8Array:
        """A view of a picture, turned.

        Shape:
            pixels [H, W, C]; the result [H, W, C], or [W, H, C] if `transpose`.
        """
        if self.transpose:
            pixels = pixels.swapaxes(0, 1)
        if self.flip_x:
            pixels = pixels[:, ::-1]
        return pixels[::-1] if self.flip_y else pixels
