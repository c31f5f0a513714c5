"""Known motions of real frames."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates

from muybridge.video.decode import VideoReader

Field = npt.NDArray[np.float64]
Grey = npt.NDArray[np.uint8]


def grey_frames(path: Path, indices: range) -> Grey:
    """Grey frames [T, H, W] of a video."""
    with VideoReader(path) as reader:
        frames = reader.read(indices)
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])


def texture(height: int, width: int, seed: int = 0) -> Grey:
    """A smooth random texture, 0 to 255."""
    noise = np.random.default_rng(seed).normal(size=(height, width))
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return np.asarray(np.rint(255 * smooth), np.uint8)


def translation(height: int, width: int, x: float, y: float) -> Field:
    return np.stack([np.full((height, width), x), np.full((height, width), y)])


def rotation(height: int, width: int, degrees: float) -> Field:
    x, y = _from_center(height, width)
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.stack([x * c - y * s - x, x * s + y * c - y])


def zoom(height: int, width: int, factor: float) -> Field:
    return np.stack(_from_center(height, width)) * (factor - 1)


def random_field(height: int, width: int, largest: float, smooth_px: float, seed: int) -> Field:
    noise = np.random.default_rng(seed).normal(size=(2, height, width))
    field = np.stack([cv2.GaussianBlur(one, (0, 0), smooth_px) for one in noise])
    return field * (largest / np.abs(field).max())


def known_motions(height: int, width: int) -> Iterator[tuple[str, Field]]:
    for x, y in ((1, 0), (2.5, -1.5), (-4, 3), (6, -6), (0, 5)):
        yield f"translation {x} {y}", translation(height, width, x, y)
    yield "rotation", rotation(height, width, 2)
    yield "zoom in", zoom(height, width, 1.03)
    yield "zoom out", zoom(height, width, 0.97)
    yield "random, smooth", random_field(height, width, 3, 20, 0)
    yield "random, rough", random_field(height, width, 2, 9, 1)


def moved(frame: Grey, flow: Field) -> tuple[Grey, npt.NDArray[np.bool_]]:
    """The frame from which `flow` leads to `frame`, and where the flow ends inside of it."""
    height, width = frame.shape
    y, x = np.mgrid[:height, :width] + flow[::-1]
    before = map_coordinates(frame.astype(float), (y, x), order=3, mode="nearest")
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return np.asarray(np.rint(before).clip(0, 255), np.uint8), inside


def endpoint_error(found: npt.NDArray[np.float32], flow: Field) -> npt.NDArray[np.float64]:
    """Pixel by pixel, [H, W]."""
    return np.hypot(*(found - flow))


def opencv_tvl1(first: Grey, second: Grey) -> npt.NDArray[np.float32]:
    """OpenCV's TV-L1, [2, H, W]."""
    flow = cv2.optflow.DualTVL1OpticalFlow_create().calc(first, second, None)
    return np.ascontiguousarray(flow.transpose(2, 0, 1))


def _from_center(height: int, width: int) -> tuple[Field, Field]:
    y, x = np.mgrid[:height, :width].astype(float)
    return x - (width - 1) / 2, y - (height - 1) / 2
