"""Flow in bytes: what stores, networks' inputs and every public tool of this field hold instead of pixels.

A displacement v within the bound b becomes a code q in 0 ... 255, rounded half to even as OpenCV's `cvRound`;
what lies outside is clipped:

    q = round(255 (v + b) / (2 b)),    and back:    v = 2 b q / 255 - b

A step is 2 b / 255 pixels, .157 at the bound of 20 that TSN and I3D use. No code stands for exactly 0: it
becomes 128, which is +.078 pixels. 255 - q is exactly the negative of q, so mirroring codes is exact.

Shape letters: H height, W width.
"""

import numpy as np
import numpy.typing as npt

from muybridge.errors import DataError
from muybridge.types import UInt8Array

__all__ = ["Float32Array", "dequantise", "quantise", "step_px"]

Float32Array = npt.NDArray[np.float32]


def quantise(fields: npt.ArrayLike, bound: float) -> UInt8Array:
    """Pixels -> codes, in double precision as dense_flow and denseflow compute them: byte for byte theirs.

    Raises:
        DataError: a displacement is not a number.

    Shape:
        fields [..., H, W], pixels
        output the same, uint8

    >>> quantise([-25, -20, -8, 0, 0.1, 16, 20], bound=20)
    array([  0,   0,  76, 128, 128, 230, 255], dtype=uint8)
    """
    _check(bound)
    codes = np.array(fields, np.float64)  # a copy: what follows works in place
    codes += bound
    codes *= 255
    codes /= 2 * bound
    np.rint(codes, out=codes)
    np.clip(codes, 0, 255, out=codes)
    if np.isnan(codes).any():
        raise DataError("a flow field has values that are not numbers: it cannot be stored; compute it anew")
    return codes.astype(np.uint8)


def dequantise(codes: UInt8Array, bound: float) -> Float32Array:
    """Codes -> pixels.

    Shape:
        codes [..., H, W]
        output the same, float32

    >>> dequantise(np.array([0, 127, 128, 255], np.uint8), bound=20)
    array([-20.        ,  -0.07843138,   0.07843138,  20.        ],
          dtype=float32)
    """
    _check(bound)
    table = (2 * np.arange(256) - 255) * (bound / 255)
    return table.astype(np.float32)[codes]


def step_px(bound: float) -> float:
    """Pixels from one code to the next; a round trip is off by half of it at most.

    >>> round(step_px(20), 4), round(step_px(15), 4), round(step_px(32), 4)
    (0.1569, 0.1176, 0.251)
    """
    return 2 * bound / 255


def _check(bound: float) -> None:
    if not 0 < bound < float("inf"):
        raise ValueError(f"the bound of a quantiser must be above 0 pixels, got {bound}")
