"""TV-L1 optical flow: its parameters, and the road from grey frames to fields.

Zach, Pock, Bischof 2007; Sanchez, Meinhardt-Llopis, Facciolo, IPOL 2013; OpenCV's DualTVL1OpticalFlow.
It minimises

    sum |grad u1| + |grad u2| + lambda |rho(u)|,   rho(u) = I1(x + u0) + grad I1(x + u0) (u - u0) - I0(x),

coarse to fine; at each scale I1 is warped several times, and between two warps a dual ascent runs until the
field stands still. Two implementations of one algorithm: compiled for CPUs (`kernels`, Numba; pairs of frames
in parallel), and batched in torch for any device (`tvl1_torch`).

Deviation: OpenCV's illumination term (gamma, 0 by default) is not here.
Deviation: levels of the pyramid of preset "ipol" are read bilinearly at the centres of pixels, after IPOL's
    Gaussian; IPOL reads them cubically, at multiples of the step.

Shape letters: T frames, H height, W width.
"""

import math
import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, Annotated, Literal

import cv2
import numpy as np
from pydantic import Field

from muybridge.config import Config, Positive
from muybridge.environment import available_cores
from muybridge.flow.quantise import Float32Array
from muybridge.types import Size, UInt8Array

if TYPE_CHECKING:
    from muybridge.flow.kernels import Settings

NotNegative = Annotated[float, Field(ge=0)]
MIN_SIDE = 16  # pixels: the coarsest level of OpenCV's pyramid


class Tvl1Params(Config):
    """All parameters of TV-L1; the defaults are those of OpenCV's DualTVL1OpticalFlow.

    Attributes:
        dual_step: tau, of the ascent in the dual; above 1/4 it does not converge.
        data_weight: lambda: larger follows the frames, smaller is smoother.
        coupling: theta, how loosely the two halves of the problem hold together.
        num_scales: levels of the pyramid at most, the frame itself included.
        scale_step: size of a level against the one below it.
        min_side_px: no level has a shorter side.
        min_diagonal_px: no level has a shorter diagonal.
        num_warps: at each scale.
        tolerance_px: epsilon: between two warps, stop when the field moves less than this (root mean square).
        num_outer: passes between two warps at most; each begins with the median filter.
        num_inner: iterations of a pass at most.
        check_every: iterations between two looks at the tolerance.
        median: side of the window of the median filter, pixels; 1 is none.
        cubic_slope: of the cubic kernel that reads the warped frame: -0.75 is OpenCV's, -0.5 Catmull-Rom's.
        black_border: the warped frame has black around it, as in OpenCV, so fields rarely point out;
            otherwise there is no data term where they do, as in IPOL's code.
        normalize: stretch each pair of frames to 0..255 first.
        presmooth_px: sigma of a Gaussian over the frames.
        antialias: before a level is made, the one below is blurred with sigma = antialias sqrt(1/step^2 - 1).
    """

    dual_step: Annotated[float, Field(gt=0, le=0.25)] = 0.25
    data_weight: Annotated[float, Field(gt=0, le=100)] = 0.15
    coupling: Annotated[float, Field(ge=0.001, le=100)] = 0.3
    num_scales: Positive = 5
    scale_step: Annotated[float, Field(gt=0, lt=1)] = 0.8
    min_side_px: Annotated[int, Field(ge=4)] = MIN_SIDE
    min_diagonal_px: NotNegative = 0.0
    num_warps: Positive = 5
    tolerance_px: NotNegative = 0.01
    num_outer: Positive = 10
    num_inner: Positive = 30
    check_every: Positive = 1
    median: Literal[1, 3, 5] = 5
    cubic_slope: Annotated[float, Field(ge=-1, le=0)] = -0.75
    black_border: bool = True
    normalize: bool = False
    presmooth_px: NotNegative = 0.0
    antialias: NotNegative = 0.0


PRESETS: dict[str, Tvl1Params] = {
    "opencv": Tvl1Params(),
    # What the field's flow was computed with on GPUs. The parameters of that class; not compared with it.
    "opencv_cuda": Tvl1Params(num_outer=1, num_inner=300, median=1),
    "ipol": Tvl1Params(
        num_scales=100,
        scale_step=0.5,
        min_side_px=4,
        min_diagonal_px=16,
        num_outer=1,
        num_inner=300,
        median=1,
        cubic_slope=-0.5,
        black_border=False,
        normalize=True,
        presmooth_px=0.8,
        antialias=0.6,
    ),
    # Ours, by a search on known motions of real frames: on each of them it errs no more than OpenCV's TV-L1.
    "accurate": Tvl1Params(
        data_weight=0.22,
        coupling=0.25,
        num_scales=8,
        num_warps=3,
        tolerance_px=0.007,
        num_outer=4,
        num_inner=10,
        check_every=5,
        cubic_slope=-0.6,
        black_border=False,
        presmooth_px=0.5,
        antialias=0.6,
    ),
    # The same with fewer levels, warps and passes: on each motion it errs at most 0.05 pixels more.
    "fast": Tvl1Params(
        data_weight=0.22,
        coupling=0.25,
        num_scales=6,
        scale_step=0.65,
        num_warps=2,
        num_outer=2,
        num_inner=8,
        check_every=4,
        cubic_slope=-0.6,
        black_border=False,
        presmooth_px=0.5,
        antialias=0.6,
    ),
}


def fields(
    greys: UInt8Array,
    params: Tvl1Params,
    *,
    initial: Float32Array | None = None,
    num_threads: int | None = None,
    device: str | None = None,
) -> Float32Array:
    """The field from each frame to the next one.

    Args:
        greys: frames, at least two.
        params: of the algorithm.
        initial: fields to start from.
        num_threads: pairs worked on at once; None is the cores of this process, but one in a worker process.
            The fields do not depend on it.
        device: a device of torch; None is the compiled code for CPUs.

    Shape:
        greys [T, H, W], uint8
        initial [T - 1, 2, H, W], float32
        output [T - 1, 2, H, W], float32
    """
    if device is not None:
        from muybridge.flow import tvl1_torch

        return tvl1_torch.fields(greys, params, initial=initial, device=device)
    return _compiled_fields(greys, params, initial, default_threads() if num_threads is None else num_threads)


def default_threads() -> int:
    """Pairs worked on at once where nothing else is asked for: the cores of this process.

    One in a worker process, since there are many of these, and no more than OMP_NUM_THREADS, as in torch.
    """
    if multiprocessing.parent_process() is not None:
        return 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(available_cores(), int(limit)) if limit.isdigit() and int(limit) else available_cores()


def compile_kernels() -> float:
    """Compiles TV-L1 for this processor, or reads what an earlier process compiled; returns the seconds."""
    start = time.perf_counter()
    fields(np.zeros((2, MIN_SIDE, MIN_SIDE), np.uint8), Tvl1Params(num_warps=1), num_threads=1)
    return time.perf_counter() - start


def level_sizes(height: int, width: int, params: Tvl1Params) -> list[Size]:
    """The sizes of the pyramid's levels, finest first.

    >>> [tuple(size) for size in level_sizes(240, 320, Tvl1Params())]
    [(240, 320), (192, 256), (154, 205), (123, 164), (98, 131)]
    """
    sizes = [Size(height, width)]
    while len(sizes) < params.num_scales:
        size = Size(round(sizes[-1].height * params.scale_step), round(sizes[-1].width * params.scale_step))
        if min(size) < params.min_side_px or math.hypot(*size) < params.min_diagonal_px:
            break
        sizes.append(size)
    return sizes


def _compiled_fields(
    greys: UInt8Array, params: Tvl1Params, initial: Float32Array | None, num_threads: int
) -> Float32Array:
    """As `fields`. Each pair is computed by one thread; which one does not matter."""
    from muybridge.flow import kernels

    num_pairs, (height, width) = len(greys) - 1, greys.shape[1:]
    num_threads = min(num_threads, num_pairs)
    flow = np.empty((num_pairs, 2, height, width), np.float32)
    workspaces: SimpleQueue[Float32Array] = SimpleQueue()
    for _ in range(num_threads):
        workspaces.put(kernels.workspace(height, width))

    def solve(pair: int) -> None:
        workspace = workspaces.get()
        try:
            start = None if initial is None else initial[pair]
            _solve_pair(greys[pair : pair + 2], params, start, flow[pair], workspace)
        finally:
            workspaces.put(workspace)

    if num_threads == 1:
        for pair in range(num_pairs):
            solve(pair)
        return flow
    with ThreadPoolExecutor(num_threads, thread_name_prefix="muybridge-flow") as pool:
        for _ in pool.map(solve, range(num_pairs)):
            pass  # raises what a thread has raised
    return flow


def settings(params: Tvl1Params) -> "Settings":
    """The parameters of a level, as the compiled code takes them."""
    from muybridge.flow.kernels import Settings

    return Settings(
        data_weight=params.data_weight,
        coupling=params.coupling,
        dual_step=params.dual_step,
        tolerance_px=params.tolerance_px,
        cubic_slope=params.cubic_slope,
        num_warps=params.num_warps,
        num_outer=params.num_outer,
        num_inner=params.num_inner,
        check_every=params.check_every,
        median=params.median,
        black_border=params.black_border,
    )


def _solve_pair(
    pair: UInt8Array,
    params: Tvl1Params,
    start: Float32Array | None,
    flow: Float32Array,
    workspace: Float32Array,
) -> None:
    """Coarse to fine. Writes `flow` [2, H, W]."""
    from muybridge.flow import kernels

    first, second = prepared(pair, params)
    sizes = level_sizes(first.shape[0], first.shape[1], params)
    firsts, seconds = pyramid(first, sizes, params), pyramid(second, sizes, params)
    if start is None:
        field = np.zeros((2, *sizes[-1]), np.float32)
    else:
        field = np.array(start, np.float32)
        for size in sizes[1:]:
            field = np.float32(params.scale_step) * np.stack(
                [resized(one, size, params.scale_step) for one in field]
            )
    for one, two, size in zip(reversed(firsts), reversed(seconds), reversed(sizes), strict=True):
        if field.shape[1:] != tuple(size):
            field = np.float32(1 / params.scale_step) * np.stack([resized(one, size) for one in field])
        kernels.solve_level(workspace, one, two, field, settings(params))
    flow[:] = field


def prepared(pair: UInt8Array, params: Tvl1Params) -> Float32Array:
    """Two grey frames as floats: stretched and smoothed where the parameters say so.

    Shape:
        pair [2, H, W], uint8
        output the same, float32
    """
    frames = pair.astype(np.float32)
    low, high = frames.min(), frames.max()
    if params.normalize and high > low:
        frames = (frames - low) * np.float32(255 / (high - low))
    return np.stack([blurred(frame, params.presmooth_px) for frame in frames])


def blurred(image: Float32Array, sigma: float) -> Float32Array:
    """A Gaussian of this width in pixels, over five sigmas, the border repeated; 0 changes nothing."""
    if sigma == 0:
        return image
    kernel = gaussian(sigma)
    return np.asarray(cv2.sepFilter2D(image, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE), np.float32)


def gaussian(sigma: float) -> Float32Array:
    """The weights of a Gaussian over five sigmas to both sides; their sum is 1."""
    reach = math.ceil(5 * sigma)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.asarray(weights / weights.sum(), np.float32)


def pyramid(frame: Float32Array, sizes: list[Size], params: Tvl1Params) -> list[Float32Array]:
    """The frame at each size, finest first, each made of the one before.

    Shape:
        frame [H, W]
    """
    levels = [frame]
    sigma = params.antialias * math.sqrt(params.scale_step**-2 - 1)
    for size in sizes[1:]:
        levels.append(resized(blurred(levels[-1], sigma), size, params.scale_step))
    return levels


def resized(image: Float32Array, size: Size, scale: float | None = None) -> Float32Array:
    """Bilinear, at the centres of pixels, without a wider support where it shrinks.

    Args:
        image: [H, W].
        size: of the result.
        scale: pixels of the result to one of the image, if `size` is that rounded; None takes size / [H, W].
    """
    if scale is None:
        made = cv2.resize(image, (size.width, size.height), interpolation=cv2.INTER_LINEAR)
    else:
        made = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    assert made.shape == tuple(size)
    return np.asarray(made, np.float32)
