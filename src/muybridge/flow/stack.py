"""Stacks of flow fields: what the temporal stream of a two-stream network looks at.

Two-Stream, Simonyan and Zisserman, NIPS 2014, Sec. 3.1 and 3.2; a field runs from frame t to frame t + 1:

    stack               eq. (1): the x and y of L fields, one after another
    trajectory_stack    eq. (2): each field looked up where the ones before it have carried the point
    bidirectional       "bi-directional optical flow": L / 2 fields forward from a frame, L / 2 backward
    subtract_mean       "mean flow subtraction"
    mirror              the flip of training: x changes its sign

All of them take and give pixels, before anything is quantised; inputs of networks are made by `flow.tensor`.
The RGB differences of TSN are no flow: a clip of modality "rgb_diff" has them (`video.transform`).

Deviation: the paper does not say how a displacement between pixels is looked up along a trajectory: it is
interpolated from the four pixels around it, and a point that leaves the frame stays on its border.

Shape letters: L fields, H height, W width. x is to the right, y down.
"""

import numpy as np

from muybridge.flow.quantise import Float32Array

__all__ = ["bidirectional", "mirror", "stack", "subtract_mean", "trajectory_stack"]


def stack(fields: Float32Array) -> Float32Array:
    """The channels x1, y1, x2, y2, ... of successive fields: eq. (1).

    Shape:
        fields [L, 2, H, W]
        output [2 L, H, W], the same memory

    >>> stack(np.arange(4, dtype=np.float32).reshape(2, 2, 1, 1)).ravel()
    array([0., 1., 2., 3.], dtype=float32)
    """
    _check(fields)
    return fields.reshape(-1, *fields.shape[2:])


def trajectory_stack(fields: Float32Array) -> Float32Array:
    """As `stack`, each field sampled where the point of the first frame has moved to: eq. (2).

    p_1 is the pixel itself, and p_k = p_(k-1) + d_(k-1)(p_(k-1)): field k is looked up at p_k.

    Shape:
        fields [L, 2, H, W]
        output [2 L, H, W]

    >>> shear = np.zeros((3, 2, 1, 8), np.float32)
    >>> shear[:, 0] = np.arange(8) / 4    # x moves by a quarter of itself: to 1.25, 1.5625, ... times itself
    >>> trajectory_stack(shear)[::2, 0, 4]
    array([1.    , 1.25  , 1.5625], dtype=float32)
    """
    _check(fields)
    height, width = fields.shape[2:]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    sampled = np.empty_like(fields)
    sampled[0] = fields[0]
    for k in range(1, len(fields)):
        x += sampled[k - 1, 0]
        y += sampled[k - 1, 1]
        np.clip(x, 0, width - 1, out=x)
        np.clip(y, 0, height - 1, out=y)
        sampled[k] = _look_up(fields[k], x, y)
    return stack(sampled)


def bidirectional(forward: Float32Array, backward: Float32Array) -> Float32Array:
    """L / 2 fields from a frame forward, then L / 2 from it backward, nearest first.

    Args:
        forward: field i runs from frame tau + i to frame tau + i + 1.
        backward: field i runs from frame tau - i to frame tau - i - 1.

    Shape:
        forward [L / 2, 2, H, W]
        backward [L / 2, 2, H, W]
        output [2 L, H, W]

    >>> bidirectional(np.ones((5, 2, 4, 4), np.float32), np.zeros((5, 2, 4, 4), np.float32)).shape
    (20, 4, 4)
    """
    if forward.shape != backward.shape:
        raise ValueError(
            f"as many fields of one size forward and backward, got {forward.shape}, {backward.shape}"
        )
    return stack(np.concatenate([forward, backward]))


def subtract_mean(fields: Float32Array) -> Float32Array:
    """Each component of each field without its mean: a rough removal of the camera's motion.

    Shape:
        fields [..., 2, H, W]
        output the same

    >>> subtract_mean(np.full((1, 2, 4, 4), 3, np.float32)).any()
    np.False_
    """
    means = fields.mean(axis=(-2, -1), keepdims=True, dtype=np.float64)
    return np.asarray(fields - means.astype(np.float32), np.float32)


def mirror(fields: Float32Array) -> Float32Array:
    """Flow of the mirrored video: columns from right to left, and x with the other sign, exactly.

    Shape:
        fields [..., 2, H, W]
        output the same, contiguous

    >>> mirror(np.array([[[[1, 2]], [[3, 4]]]], np.float32)).ravel()
    array([-2., -1.,  4.,  3.], dtype=float32)
    """
    mirrored = np.ascontiguousarray(fields[..., ::-1])
    np.negative(mirrored[..., 0, :, :], out=mirrored[..., 0, :, :])
    return mirrored


def _look_up(field: Float32Array, x: Float32Array, y: Float32Array) -> Float32Array:
    """A field at places between its pixels: OpenCV's `remap` knew only 32 of them before version 5.

    Shape:
        field [2, H, W]
        x, y [H, W], within the field
        output [2, H, W]
    """
    height, width = field.shape[1:]
    left, top = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    part_x, part_y = x - left, y - top
    upper = field[:, top, left] * (1 - part_x) + field[:, top, right] * part_x
    lower = field[:, bottom, left] * (1 - part_x) + field[:, bottom, right] * part_x
    return np.asarray(upper * (1 - part_y) + lower * part_y, np.float32)


def _check(fields: Float32Array) -> None:
    if fields.ndim != 4 or fields.shape[1] != 2 or not len(fields):
        raise ValueError(f"a stack needs fields [L, 2, H, W], got {list(fields.shape)}")
