"""Codes of flow -> the network's input, as a view decided it: nothing is random here.

Fields are pictures of two bytes a pixel from here on: cut, resized and mirrored as the frames are. A resize
does not change what they say: 8 pixels are 8 wherever they are shown larger or smaller, as in Two-Stream, TSN
and all code that keeps flow in JPEGs.

Shape letters: S segments, T fields of one, H height, W width, N = S * T.
"""

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muybridge.config import ClipSpec, ResizeFilter
from muybridge.flow.quantise import Float32Array
from muybridge.types import Size, UInt8Array, View

__all__ = ["to_tensor"]


def to_tensor(codes: UInt8Array, view: View, spec: ClipSpec) -> Tensor:
    """Cuts, mirrors and normalises the fields of one view.

    A code is a byte like one of a picture: 255 is `spec.scale`, and mean and std are in its units. So scale
    255 and mean 128 are TSN's input, and scale 1, mean .5 and std .5 are I3D's [-1, 1]. With
    `mean_subtraction` each component of each field has its own mean over the whole frame taken off instead.

    Mirrored, x has the other sign, exactly: a code q becomes 255 - q.

    Args:
        codes: the fields of the whole frame, in the order of the segments.
        view: size, box and flip; its colour is not for flow.
        spec: crop, scale, mean and std, for x and for y.

    Shape:
        codes [N, 2, H, W], uint8
        output [2, T, crop, crop], float32, contiguous; [S, 2, T, crop, crop] where num_segments is above 1

    >>> from muybridge.types import Box
    >>> spec = ClipSpec(num_frames=1, resize=4, crop=2, modality="flow", flow_method="tvl1", flow_bound=20,
    ...                 scale=255, mean=(127.5, 127.5), std=(1, 1))
    >>> view = View(indices=((0, 1),), size=Size(4, 4), box=Box(0, 0, 2, 2), flip=True)
    >>> codes = np.arange(32, dtype=np.uint8).reshape(1, 2, 4, 4)
    >>> to_tensor(codes, view, spec).flatten(1)
    tensor([[ 126.5000,  127.5000,  122.5000,  123.5000],
            [-110.5000, -111.5000, -106.5000, -107.5000]])
    """
    expected = spec.num_segments * spec.num_frames
    if codes.ndim != 4 or codes.shape[:2] != (expected, 2) or codes.dtype != np.uint8:
        raise ValueError(
            f"the view needs {expected} fields uint8 [{expected}, 2, H, W], got {codes.dtype} "
            f"{list(codes.shape)}"
        )
    pixels = _cut(codes, view, spec)
    if view.flip:
        pixels = np.ascontiguousarray(pixels[..., ::-1])
    values = _values(pixels, codes, view, spec).reshape(spec.num_segments, spec.num_frames, *pixels.shape[1:])
    tensor = torch.from_numpy(np.ascontiguousarray(values.transpose(0, 2, 1, 3, 4)))
    return tensor if spec.num_segments > 1 else tensor[0]


def _values(pixels: UInt8Array, codes: UInt8Array, view: View, spec: ClipSpec) -> Float32Array:
    """Codes -> floats, each of the 256 looked up after it was normalised in double precision.

    Shape:
        pixels [N, 2, crop, crop], mirrored already
        codes [N, 2, H, W], of the whole frame
        output [N, 2, crop, crop], float32
    """
    units = np.arange(256) / 255 * spec.scale  # what each code stands for
    values = np.empty(pixels.shape, np.float32)
    for component in range(2):
        negated = view.flip and component == 0
        std = spec.std[component]
        if spec.mean_subtraction:
            means = codes[:, component].mean(axis=(1, 2), dtype=np.float64) / 255 * spec.scale / std
            table = (units / std).astype(np.float32)
            values[:, component] = table[pixels[:, component]] - means.astype(np.float32)[:, None, None]
            if negated:
                np.negative(values[:, component], out=values[:, component])
        else:
            centred = ((units[::-1] if negated else units) - spec.mean[component]) / std
            values[:, component] = centred.astype(np.float32)[pixels[:, component]]
    return values


def _cut(codes: UInt8Array, view: View, spec: ClipSpec) -> UInt8Array:
    """What the box shows of each field, crop x crop.

    Shape:
        codes [N, 2, H, W]
        output [N, 2, crop, crop]
    """
    top, left, height, width = view.box
    whole = _resized(codes, view.size, spec.resize_filter)
    cut = whole[..., top : top + height, left : left + width]
    return _resized(cut, Size(spec.crop, spec.crop), spec.resize_filter)


def _resized(codes: UInt8Array, size: Size, resize_filter: ResizeFilter) -> UInt8Array:
    """As `video.transform.cut_box` resizes: the mean of the area that a pixel covers, or linear."""
    height, width = codes.shape[2:]
    if (height, width) == tuple(size):
        return codes
    shrinks = resize_filter == "antialias" and height >= size.height and width >= size.width
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    out: npt.NDArray[np.uint8] = np.empty((len(codes), 2, *size), np.uint8)
    for source, target in zip(codes.reshape(-1, height, width), out.reshape(-1, *size), strict=True):
        cv2.resize(source, (size.width, size.height), dst=target, interpolation=interpolation)
    return out
