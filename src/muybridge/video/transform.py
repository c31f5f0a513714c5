"""Decoded frames -> the network's input, as a view decided it: nothing is random here.

`to_tensor` works on bytes as long as it can (cut, resize, mirror, colour) and makes the floats in one pass at
the end. Sizes and boxes are decided in `video.crops`.

Shape letters: S segments, T frames of one, C channels, H height, W width, N = S * T source frames.
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muybridge.config import ClipSpec, ResizeFilter
from muybridge.errors import DataError
from muybridge.types import Box, ColorJitter, UInt8Array, View
from muybridge.video.sampling import frames_per_segment

__all__ = ["adjust_color", "cut_box", "refuse_flow", "to_tensor"]

Float32Array = npt.NDArray[np.float32]
DEGREES = 360.0  # OpenCV's unit of hue for floats


def to_tensor(frames: UInt8Array, view: View, spec: ClipSpec) -> Tensor:
    """Cuts, mirrors, colours and normalises the frames of one view.

    The value of white is `spec.scale`; `mean` and `std` are in the order of the tensor's channels, so of
    blue, green, red where `channel_order` is "bgr". An "rgb_diff" is the next frame minus this one, at that
    scale, before mean and std; it takes T + 1 frames a segment.

    Args:
        frames: RGB, resized to `view.size`: `frames_per_segment(spec)` of them a segment, one after another.
        view: box, flip and colour.
        spec: crop, scale, order of the channels, mean and std.

    Raises:
        DataError: the spec asks for optical flow, and these are RGB frames.

    Shape:
        frames [N, view.size.height, view.size.width, 3], uint8
        output [C, T, crop, crop], float32, contiguous; [S, C, T, crop, crop] where num_segments is above 1

    >>> spec = ClipSpec(num_frames=2, resize=4, crop=4, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    >>> from muybridge.types import Size
    >>> view = View(indices=((0, 1),), size=Size(4, 5), box=Box(0, 1, 4, 4))
    >>> clip = to_tensor(np.full((2, 4, 5, 3), 255, np.uint8), view, spec)
    >>> clip.shape, clip.unique()
    (torch.Size([3, 2, 4, 4]), tensor([1.]))
    """
    refuse_flow(spec)
    per_segment = frames_per_segment(spec)
    expected = (spec.num_segments * per_segment, *view.size, 3)
    if frames.shape != expected or frames.dtype != np.uint8:
        raise ValueError(
            f"the view needs frames uint8 {list(expected)}, got {frames.dtype} {list(frames.shape)}"
        )
    pixels = cut_box(frames, view.box, spec.crop, spec.resize_filter)
    if view.flip:
        pixels = np.asarray(cv2.flip(_as_image(pixels), 1), np.uint8).reshape(pixels.shape)
    if view.color is not None:
        pixels = adjust_color(pixels, view.color)
    values = _planes(pixels.reshape(spec.num_segments, per_segment, *pixels.shape[1:]), spec)
    return torch.from_numpy(values if spec.num_segments > 1 else values[0])


def refuse_flow(spec: ClipSpec) -> None:
    """Says that flow does not come from RGB frames.

    Raises:
        DataError: the spec asks for optical flow.
    """
    if spec.is_flow:
        raise DataError(
            f"the clip asks for modality '{spec.modality}', but there are only RGB frames and no flow source "
            "was given: use a network for modality 'rgb' or 'rgb_diff'"
        )


def cut_box(frames: UInt8Array, box: Box, crop: int, resize_filter: ResizeFilter) -> UInt8Array:
    """Cuts a box out of each frame and, only where it is not crop x crop, resizes it to that.

    The whole frame was resized when it was decoded; this second resize is for boxes of random size. Where
    "antialias" is asked for and neither side grows, each pixel is the mean of the area that it covers
    (OpenCV's INTER_AREA); otherwise it is interpolated from the 2 x 2 pixels around it (INTER_LINEAR).

    Shape:
        frames [N, H, W, 3]
        output [N, crop, crop, 3], contiguous
    """
    top, left, height, width = box
    cut = frames[:, top : top + height, left : left + width]
    if (height, width) == (crop, crop):
        return np.ascontiguousarray(cut)
    shrinks = resize_filter == "antialias" and height >= crop and width >= crop
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    out = np.empty((len(frames), crop, crop, 3), np.uint8)
    for source, target in zip(cut, out, strict=True):
        cv2.resize(source, (crop, crop), dst=target, interpolation=interpolation)
    return out


def adjust_color(frames: UInt8Array, color: ColorJitter) -> UInt8Array:
    """Brightness, contrast, saturation, hue, in this order; each result is rounded to bytes.

    As torchvision's functions of these names, one level apart at most in each: those cut the fraction off.

    Shape:
        frames [N, H, W, 3], contiguous, RGB
        output the same
    """
    image = _as_image(frames)  # N * H rows, so that one call does all frames
    if color.brightness != 1:
        image = cv2.LUT(image, _line(color.brightness, 0.0))
    if color.contrast != 1:
        image = _adjust_contrast(image.reshape(frames.shape), color.contrast)
    if color.saturation != 1:
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        image = cv2.addWeighted(image, color.saturation, grey, 1 - color.saturation, 0)
    if color.hue != 0:
        image = _turn_hue(image, color.hue)
    return np.asarray(image, dtype=np.uint8).reshape(frames.shape)


def _adjust_contrast(frames: UInt8Array, contrast: float) -> UInt8Array:
    """Each frame has its own mean grey, so each its own table."""
    out = np.empty_like(frames)
    for source, target in zip(frames, out, strict=True):
        mean_grey = float(cv2.cvtColor(source, cv2.COLOR_RGB2GRAY).mean())
        cv2.LUT(source, _line(contrast, mean_grey), dst=target)
    return _as_image(out)


def _turn_hue(image: UInt8Array, hue: float) -> UInt8Array:
    """In float: OpenCV's hue of bytes has steps of two degrees."""
    hsv = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = np.mod(hsv[..., 0] + hue * DEGREES, DEGREES)
    rgb = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return np.asarray(np.rint(rgb * 255).clip(0, 255), np.uint8)


def _line(slope: float, fixed: float) -> UInt8Array:
    """A table: bytes go `slope` times as far from the value `fixed`.

    >>> _line(2.0, 100.0)[[40, 50, 100, 110, 200]]
    array([  0,   0, 100, 120, 255], dtype=uint8)
    """
    values = fixed + slope * (np.arange(256) - fixed)
    return np.asarray(np.rint(values).clip(0, 255), np.uint8)


def _planes(pixels: UInt8Array, spec: ClipSpec) -> Float32Array:
    """Bytes [S, T, H, W, 3] -> normalised floats [S, 3, T, H, W].

    Each of the 256 values of a channel is normalised once, in double precision, and looked up.
    """
    is_diff = spec.modality == "rgb_diff"
    num_segments, num_frames, height, width, _ = pixels.shape
    values = np.empty((num_segments, 3, num_frames, height, width), np.float32)
    tables = _tables(spec)
    for segment, target in zip(pixels, values, strict=True):
        channels = cv2.split(_as_image(segment))
        if spec.channel_order == "bgr":
            channels = channels[::-1]
        for channel, table, plane in zip(channels, tables, target, strict=True):
            cv2.LUT(channel, table, dst=_as_image(plane))
    if not is_diff:
        return values
    differences = values[:, :, 1:] - values[:, :, :-1]
    differences -= (np.array(spec.mean) / np.array(spec.std)).astype(np.float32).reshape(3, 1, 1, 1)
    return differences


def _tables(spec: ClipSpec) -> list[Float32Array]:
    """What each of the 256 values of a channel becomes, for each channel."""
    white = np.arange(256) / 255 * spec.scale
    return [((white - mean) / std).astype(np.float32) for mean, std in zip(spec.mean, spec.std, strict=True)]


def _as_image(frames: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[N, H, W, ...] as one image of N * H rows: the same memory, so that OpenCV can also write into it."""
    return frames.reshape(-1, *frames.shape[2:])
