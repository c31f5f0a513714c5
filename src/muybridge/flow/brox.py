"""High Accuracy Optical Flow Estimation Based on a Theory for Warping. ECCV 2004.

Brox, Bruhn, Papenberg, Weickert; the flow of the Two-Stream paper. The energy that the field makes small:

    psi(|I2(x + w) - I1|^2) + gamma psi(|grad I2(x + w) - grad I1|^2) + alpha psi(|grad u|^2 + |grad v|^2)

with psi(s^2) = sqrt(s^2 + eps^2), by fixed-point iterations around successive over-relaxation at each level
of a pyramid, coarse to fine. OpenCV's `VariationalRefinement` does all that is done at one level.

Deviation: the two constancy terms have a robust function each, as in Bruhn and Weickert 2005, and are
    normalised by the gradients; the paper has one for their sum. So alpha and gamma are other numbers.
Deviation: OpenCV's CUDA class, which the Two-Stream paper ran, is not compared with: it needs a GPU.
Deviation: the frame is warped anew `num_warps` times at a level; the paper's levels are so close that one is
    enough.

Shape letters: T frames, H height, W width.
"""

from typing import Annotated, Self

import cv2
import numpy as np
from pydantic import Field, model_validator

from muybridge.config import Config, Positive
from muybridge.flow.quantise import Float32Array
from muybridge.types import Size, UInt8Array

__all__ = ["BroxParams", "fields"]

NotNegative = Annotated[float, Field(ge=0)]


class BroxParams(Config):
    """The parameters; weights are OpenCV's, of which only the ratios count.

    Attributes:
        alpha: weight of smoothness.
        gamma: weight of constant gradients.
        delta: weight of constant intensities.
        scale_step: size of a level against the one below it.
        min_side_px: no level has a shorter side.
        num_warps: at each level.
        num_fixed: fixed-point iterations of a warp: how often the robust functions are evaluated.
        num_sor: iterations of successive over-relaxation in each of them.
        omega: its relaxation factor.
        presmooth_px: sigma of a Gaussian over each level.
    """

    alpha: Annotated[float, Field(gt=0)] = 20.0
    gamma: NotNegative = 10.0
    delta: NotNegative = 5.0
    scale_step: Annotated[float, Field(gt=0, lt=1)] = 0.8
    min_side_px: Annotated[int, Field(ge=4)] = 10
    num_warps: Positive = 3
    num_fixed: Positive = 5
    num_sor: Positive = 10
    omega: Annotated[float, Field(gt=0, lt=2)] = 1.6
    presmooth_px: NotNegative = 0.6

    @model_validator(mode="after")
    def _look_at_the_frames(self) -> Self:
        if self.gamma == self.delta == 0:
            raise ValueError("gamma and delta are both 0, so that the frames would not matter: raise one")
        return self


def fields(greys: UInt8Array, params: BroxParams) -> Float32Array:
    """The field from each frame to the next one; OpenCV uses the cores itself.

    Shape:
        greys [T, H, W]
        output [T - 1, 2, H, W], float32

    >>> fields(np.zeros((2, 24, 32), np.uint8), BroxParams()).any()
    np.False_
    """
    sizes = level_sizes(Size(*greys.shape[1:]), params)
    flow = np.empty((len(greys) - 1, 2, *greys.shape[1:]), np.float32)
    second = _pyramid(greys[0], sizes, params)
    for grey, field in zip(greys[1:], flow, strict=True):
        first, second = second, _pyramid(grey, sizes, params)
        field[:] = _solve(first, second, params)
    return flow


def level_sizes(size: Size, params: BroxParams) -> list[Size]:
    """The sizes of the pyramid's levels, finest first.

    >>> [tuple(size) for size in level_sizes(Size(24, 32), BroxParams(scale_step=0.5))]
    [(24, 32), (12, 16)]
    """
    sizes, scale = [size], params.scale_step
    while min(size) * scale >= params.min_side_px:
        sizes.append(Size(round(size.height * scale), round(size.width * scale)))
        scale *= params.scale_step
    return sizes


def _pyramid(grey: UInt8Array, sizes: list[Size], params: BroxParams) -> list[Float32Array]:
    """Each level is made of the frame itself, so that nothing is blurred twice."""
    frame = grey.astype(np.float32)
    levels = []
    for size in sizes:
        level = cv2.resize(frame, (size.width, size.height), interpolation=cv2.INTER_AREA)
        if params.presmooth_px:
            level = cv2.GaussianBlur(level, (0, 0), params.presmooth_px)
        levels.append(np.asarray(level, np.float32))
    return levels


def _solve(first: list[Float32Array], second: list[Float32Array], params: BroxParams) -> Float32Array:
    """One pair, coarse to fine.

    Shape:
        first, second [h, w] of each level, finest first
        output [2, H, W]
    """
    refinement = cv2.VariationalRefinement.create()
    refinement.setAlpha(params.alpha)
    refinement.setGamma(params.gamma)
    refinement.setDelta(params.delta)
    refinement.setOmega(params.omega)
    refinement.setFixedPointIterations(params.num_fixed)
    refinement.setSorIterations(params.num_sor)
    field = np.zeros((2, *first[-1].shape), np.float32)
    for one, other in zip(first[::-1], second[::-1], strict=True):
        field = _enlarged(field, one.shape[0], one.shape[1])
        u, v = field
        for _ in range(params.num_warps):
            u, v = refinement.calcUV(one, other, u, v)
        field = np.stack([u, v])
    return field


def _enlarged(field: Float32Array, height: int, width: int) -> Float32Array:
    """A field for a finer level: as many pixels, and vectors as much longer."""
    if field.shape[1:] == (height, width):
        return field
    ratios = (width / field.shape[2], height / field.shape[1])
    return np.stack(
        [
            np.float32(ratio) * cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)
            for part, ratio in zip(field, ratios, strict=True)
        ]
    )
