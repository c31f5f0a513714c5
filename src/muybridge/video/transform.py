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
from muybridge.errors import ConfigError, DataError
from muybridge.types import Box, ColorJitter, MeanCube, UInt8Array, View
from muybridge.video.sampling import frames_per_segment

__all__ = ["adjust_color", "cut_box", "refuse_flow", "to_tensor"]

Float32Array = npt.NDArray[np.float32]


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
        ConfigError: the spec's mean cube is not at hand, or is of another size than the resized clip.

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
    if spec.mean_cube is not None:
        _subtract_cube(values[0], view, spec, spec.mean_cube)
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
    out = frames.copy()
    image = _as_image(out)  # N * H rows, so that one call does all frames
    if color.brightness != 1:
        cv2.LUT(image, _line(color.brightness, 0.0), dst=image)
    if color.contrast != 1:
        _adjust_contrast(out, color.contrast)
    if color.saturation != 1:
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        cv2.addWeighted(image, color.saturation, grey, 1 - color.saturation, 0, dst=image)
    if color.hue != 0:
        _turn_hue(out, color.hue)
    return out


def _adjust_contrast(frames: UInt8Array, contrast: float) -> None:
    """In place. Each frame has its own mean grey, so each its own table."""
    for frame in frames:
        mean_grey = float(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).mean())
        cv2.LUT(frame, _line(contrast, mean_grey), dst=frame)


def _turn_hue(frames: UInt8Array, hue: float) -> None:
    """In place. In floats, since OpenCV's hue of bytes has steps of two degrees; one frame at a time."""
    rgb = np.empty(frames.shape[1:], np.float32)
    hsv = np.empty_like(rgb)
    degrees = hsv[..., 0]
    for frame in frames:
        np.multiply(frame, np.float32(1 / 255), out=rgb)
        cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV, dst=hsv)
        np.mod(degrees + np.float32(hue * 360), 360, out=degrees)
        cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=rgb)
        cv2.convertScaleAbs(rgb, dst=frame, alpha=255)


def _line(slope: float, fixed: float) -> UInt8Array:
    """A table: bytes go `slope` times as far from the value `fixed`.

    >>> _line(2.0, 100.0)[[40, 50, 100, 110, 200]]
    array([  0,   0, 100, 120, 255], dtype=uint8)
    """
    values = fixed + slope * (np.arange(256) - fixed)
    return np.asarray(np.rint(values).clip(0, 255), np.uint8)


def _planes(pixels: UInt8Array, spec: ClipSpec) -> Float32Array:
    """Bytes [S, N, H, W, 3] -> normalised floats [S, 3, T, H, W]."""
    num_segments, _, height, width, _ = pixels.shape
    values = np.empty((num_segments, 3, spec.num_frames, height, width), np.float32)
    write = _write_differences if spec.modality == "rgb_diff" else _write_values
    for segment, target in zip(pixels, values, strict=True):
        channels = cv2.split(_as_image(segment))
        if spec.channel_order == "bgr":
            channels = channels[::-1]
        for channel, mean, std, plane in zip(channels, spec.mean, spec.std, target, strict=True):
            write(np.asarray(channel, np.uint8), plane, spec.scale, mean, std)
    return values


def _subtract_cube(clip: Float32Array, view: View, spec: ClipSpec, cube: MeanCube) -> None:
    """In place. The cube is cut and mirrored as the frames were, which is as if it had come off before.

    Shape:
        clip [3, T, crop, crop]
    """
    if cube.values is None:
        raise ConfigError(
            f"the clip's mean cube {cube} is known by its digest alone: take the spec out of the checkpoint "
            "that has its numbers, muybridge.load(FILE).default_specs, or train with --init FILE"
        )
    if cube.values.shape != (3, spec.num_frames, *view.size):
        raise ConfigError(
            f"the clip's mean cube is {list(cube.values.shape)}, the clip {spec.num_frames} frames of "
            f"{view.size.height} x {view.size.width}: keep both as the cube has them, and no short_side"
        )
    top, left, height, width = view.box
    for channel, std, planes in zip(cube.values, spec.std, clip, strict=True):
        for mean, plane in zip(channel[:, top : top + height, left : left + width], planes, strict=True):
            if mean.shape != plane.shape:
                mean = cv2.resize(mean, (spec.crop, spec.crop), interpolation=cv2.INTER_LINEAR)
            plane -= (mean[:, ::-1] if view.flip else mean) / np.float32(std)


def _write_values(channel: UInt8Array, plane: Float32Array, white: float, mean: float, std: float) -> None:
    """Normalises each of the 256 values once, in double precision, and looks them up.

    Shape:
        channel [T * H, W]
        plane [T, H, W], written
    """
    table = (np.arange(256) / 255 * white - mean) / std
    cv2.LUT(channel, table.astype(np.float32), dst=_as_image(plane))


def _write_differences(
    channel: UInt8Array, plane: Float32Array, white: float, mean: float, std: float
) -> None:
    """Each frame is taken from the next one: exact in 16 bits, then scaled and normalised.

    Shape:
        channel [(T + 1) * H, W]
        plane [T, H, W], written
    """
    height = plane.shape[1]
    steps = cv2.subtract(channel[height:], channel[:-height], dtype=cv2.CV_16S)
    np.multiply(steps.reshape(plane.shape), np.float32(white / 255 / std), out=plane)
    plane -= np.float32(mean / std)


def _as_image(frames: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[N, H, W, ...] as one image of N * H rows: the same memory, so that OpenCV can also write into it."""
    return frames.reshape(-1, *frames.shape[2:])
