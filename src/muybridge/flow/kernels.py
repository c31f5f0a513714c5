"""TV-L1 compiled for CPUs: one level of the pyramid for one pair of frames.

Numba compiles it at the first use and keeps the result beside this file, or in the user's cache folder.
Nothing here starts threads: the caller runs several pairs at once (`nogil`), so Numba's threading layers, one
of which aborts when two Python threads enter it, are never used.

A level's state is one block of memory, row after row, and in each row the ten fields of its pixels:

    FLOW_X FLOW_Y          u1, u2
    DUAL_XX .. DUAL_YY     p11, p12 (of u1), p21, p22 (of u2)
    GRAD_X GRAD_Y          gradient of the warped frame
    RHO                    rho_c: the residual is RHO + GRAD_X u1 + GRAD_Y u2
    PER_SQUARE             1 / |gradient|^2

Row 0 and the columns left of `LEFT` are zeros, one column right of the frame repeats the last: with these
margins no loop asks where the border is. Rows are found by where they start in the block (`here`, `above`).

Shape letters: H height, W width of the level.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit
from numba.extending import register_jitable

from muybridge.flow.median import median_3, median_5
from muybridge.flow.simd import (
    LANES,
    blend,
    floor,
    get,
    inlined,
    least,
    load,
    most,
    one_if_equal,
    put,
    ramp,
    spread,
    sqrt,
    store,
    total,
)

Float32Array = npt.NDArray[np.float32]
Function = TypeVar("Function", bound=Callable[..., Any])

# Numba's cache looks for changes in this file alone: this tells it of those in simd.py and median.py.
PARTS_DIGEST = "a2dea04c790e2d50"
LEFT = 16  # columns before the first pixel, so that the first vector of a row is aligned
FLOW_X, FLOW_Y, DUAL_XX, DUAL_XY, DUAL_YX, DUAL_YY, GRAD_X, GRAD_Y, RHO, PER_SQUARE = range(10)
FIELDS = 10
EDGE = 4  # pixels around the frame to be warped
REACH = 2  # how far out a field may point and still read it: two pixels further all that is read is black
CHANNELS = 4  # of a pixel of the frame to be warped: value, gradient x, gradient y, 0
WARP_ROWS = 11  # scratch of the warp: four weights along x, four along y, column, row, whether inside
TINY = np.float32(1.1920929e-07)  # squared gradients below this are none, as in OpenCV
ZERO, ONE = np.float32(0), np.float32(1)


class Settings(NamedTuple):
    """Numbers of one level; they mean what those of `Tvl1Params` mean."""

    data_weight: float
    coupling: float
    dual_step: float
    tolerance_px: float
    cubic_slope: float
    num_warps: int
    num_outer: int
    num_inner: int
    check_every: int
    median: int
    black_border: bool


class _Level(NamedTuple):
    """Where things are, and the numbers that are needed for each pixel."""

    height: int
    width: int
    row: int  # floats from a field of a row to the next
    limit: np.float32  # lambda theta
    step: np.float32  # tau / theta
    slope: np.float32  # of the cubic kernel
    reach: np.float32  # pixels beyond the frame that can be read


def entry(function: Function) -> Function:
    """For the function that Python calls: its machine code is kept on disk, where a folder can be written."""
    try:
        return cast(Function, njit(nogil=True, error_model="numpy", cache=True)(function))
    except RuntimeError:  # no folder for the cache
        return cast(Function, inlined(function))


@register_jitable
def stride(width: int) -> int:
    """Floats from a field of a row to the next: the margin, the pixels and two more, in whole vectors."""
    return LEFT + (width + 1 + LANES) // LANES * LANES


def workspace(height: int, width: int) -> Float32Array:
    """Memory for any level up to this size; one a thread.

    Returns:
        flat, and aligned to a vector.
    """
    rows = FIELDS * (height + 1) + 1 + max(height + 9, WARP_ROWS)  # the state, theta, scratch
    image = CHANNELS * (height + 2 * EDGE) * (width + 2 * EDGE)
    memory = np.zeros(rows * stride(width) + image + 4 * LANES, np.float32)
    return memory[-(memory.ctypes.data // memory.itemsize) % LANES :]


@inlined
def _primal(state: Float32Array, here: int, x: int, theta: Any, level: _Level, moved: Any) -> Any:
    """One vector of pixels of u: the thresholding step (v), then u = v + theta div p.

    The three cases of the threshold are one: a clamp. Returns u1, u2 and the growing sum of squares.
    """
    row = level.row
    at, above = here + x, here + x - FIELDS * row
    u1, u2 = load(state, at + FLOW_X * row), load(state, at + FLOW_Y * row)
    grad_x, grad_y = load(state, at + GRAD_X * row), load(state, at + GRAD_Y * row)
    residual = load(state, at + RHO * row) + grad_x * u1 + grad_y * u2
    shift = residual * load(state, at + PER_SQUARE * row)
    shift = least(most(shift, spread(-level.limit)), spread(level.limit))
    xx, xy, yx, yy = DUAL_XX * row, DUAL_XY * row, DUAL_YX * row, DUAL_YY * row
    div_1 = (load(state, at + xx) - load(state, at + xx - 1)) + (
        load(state, at + xy) - load(state, above + xy)
    )
    div_2 = (load(state, at + yx) - load(state, at + yx - 1)) + (
        load(state, at + yy) - load(state, above + yy)
    )
    change_1 = theta * div_1 - shift * grad_x
    change_2 = theta * div_2 - shift * grad_y
    u1, u2 = u1 + change_1, u2 + change_2
    store(state, at + FLOW_X * row, u1)
    store(state, at + FLOW_Y * row, u2)
    return u1, u2, moved + (change_1 * change_1 + change_2 * change_2)


@inlined
def _dual(state: Float32Array, flow: int, dual: int, level: _Level, below: Any) -> None:
    """One vector of pixels of p, for one component: u is at `flow`, p at `dual`; `below` is u a row below."""
    one, step, u = spread(ONE), spread(level.step), load(state, flow)
    along_x, along_y = load(state, flow + 1) - u, below - u
    per = one / (one + step * sqrt(along_x * along_x + along_y * along_y))
    store(state, dual, (load(state, dual) + step * along_x) * per)
    store(state, dual + level.row, (load(state, dual + level.row) + step * along_y) * per)


@inlined
def _advance_row(state: Float32Array, theta: Float32Array, y: int, level: _Level, moved: Any) -> Any:
    """One iteration of u in row y, and of p in the row above it, which needs the u of both."""
    row = level.row
    here, above = y * FIELDS * row, (y - 1) * FIELDS * row
    for x in range(LEFT, LEFT + level.width, LANES):
        if y <= level.height:
            u1, u2, moved = _primal(state, here, x, load(theta, x), level, moved)
        else:  # below the last row: it repeats
            u1, u2 = load(state, above + FLOW_X * row + x), load(state, above + FLOW_Y * row + x)
        if y > 1:
            _dual(state, above + FLOW_X * row + x, above + DUAL_XX * row + x, level, u1)
            _dual(state, above + FLOW_Y * row + x, above + DUAL_YX * row + x, level, u2)
    if y <= level.height:
        _repeat_last(state, here + FLOW_X * row, level.width)
        _repeat_last(state, here + FLOW_Y * row, level.width)
    return moved


@inlined
def _repeat_last(state: Float32Array, start: int, width: int) -> None:
    put(state, start + LEFT + width, get(state, start + LEFT + width - 1))


@inlined
def _iterate(state: Float32Array, theta: Float32Array, level: _Level, count: int) -> Any:
    """`count` iterations of a level; returns the sum of squares of what the last one changed in u.

    They run down the rows one behind another: while the first is at row y, the second is at row y - 1. So the
    rows that they work on stay in the cache, and the level comes from memory once for all of them.
    """
    squares = np.float32(0)
    for front in range(1, level.height + count + 1):
        for k in range(max(0, front - level.height - 1), min(count, front)):
            moved = _advance_row(state, theta, front - k, level, spread(np.float32(0)))
            if k == count - 1:
                squares += total(moved)
    return squares


@inlined
def _interleave(frame: Float32Array, image: Float32Array, black_border: bool) -> None:
    """Frame -> its values and centred gradients, side by side; around them black, or the border again.

    Shape:
        frame [H, W]
        image [H + 2 EDGE, W + 2 EDGE, CHANNELS], written
    """
    height, width = frame.shape
    half = np.float32(0.5)
    for y in range(-EDGE, height + EDGE):
        here = min(max(y, 0), height - 1)
        above, below = max(here - 1, 0), min(here + 1, height - 1)
        for x in range(-EDGE, width + EDGE):
            at = min(max(x, 0), width - 1)
            left, right = max(at - 1, 0), min(at + 1, width - 1)
            shown = np.float32(not black_border or (here == y and at == x))
            pixel = image[y + EDGE, x + EDGE]
            pixel[0] = shown * frame[here, at]
            pixel[1] = shown * half * (frame[here, right] - frame[here, left])
            pixel[2] = shown * half * (frame[below, at] - frame[above, at])
            pixel[3] = 0


@inlined
def _cubic(scratch: Float32Array, at: int, row: int, t: Any, slope: np.float32) -> None:
    """The weights of the four pixels around a place that is t behind the second one."""
    one, a = spread(ONE), spread(slope)
    rest = one - t
    second = ((a + one + one) * t - (a + one + one + one)) * t * t + one
    first, fourth = a * t * rest * rest, a * t * t * rest
    store(scratch, at, first)
    store(scratch, at + row, second)
    store(scratch, at + 2 * row, one - first - second - fourth)
    store(scratch, at + 3 * row, fourth)


@inlined
def _places(state: Float32Array, here: int, y: int, scratch: Float32Array, level: _Level) -> None:
    """Where in the padded image the pixels of a row come from: weights, column, row, whether it is there."""
    row = level.row
    low = spread(-level.reach)
    right = spread(np.float32(level.width - 1) + level.reach)
    bottom = spread(np.float32(level.height - 1) + level.reach)
    pad = spread(np.float32(EDGE - 1))  # the first of the four pixels is one to the left, one above
    for x in range(0, level.width, LANES):
        to_x = spread(np.float32(x)) + ramp() + load(state, here + FLOW_X * row + LEFT + x)
        to_y = spread(np.float32(y)) + load(state, here + FLOW_Y * row + LEFT + x)
        in_x, in_y = least(most(to_x, low), right), least(most(to_y, low), bottom)
        column, line = floor(in_x), floor(in_y)
        _cubic(scratch, x, row, in_x - column, level.slope)
        _cubic(scratch, 4 * row + x, row, in_y - line, level.slope)
        store(scratch, 8 * row + x, column + pad)
        store(scratch, 9 * row + x, line + pad)
        store(scratch, 10 * row + x, one_if_equal(in_x, to_x) * one_if_equal(in_y, to_y))


@inlined
def _warp_row(
    state: Float32Array, here: int, image: Float32Array, scratch: Float32Array, level: _Level
) -> None:
    """The warped frame into RHO, its gradients into GRAD_X and GRAD_Y."""
    row, pitch = level.row, CHANNELS * (level.width + 2 * EDGE)
    for x in range(level.width):
        at = np.int64(get(scratch, 9 * row + x)) * pitch + CHANNELS * np.int64(get(scratch, 8 * row + x))
        pixels = load(image, at) * spread(get(scratch, 4 * row + x))
        pixels = pixels + load(image, at + pitch) * spread(get(scratch, 5 * row + x))
        pixels = pixels + load(image, at + 2 * pitch) * spread(get(scratch, 6 * row + x))
        pixels = pixels + load(image, at + 3 * pitch) * spread(get(scratch, 7 * row + x))
        value, grad_x, grad_y = blend(
            pixels,
            get(scratch, x),
            get(scratch, row + x),
            get(scratch, 2 * row + x),
            get(scratch, 3 * row + x),
        )
        to = here + LEFT + x
        put(state, to + GRAD_X * row, grad_x)
        put(state, to + GRAD_Y * row, grad_y)
        put(state, to + RHO * row, value)


@inlined
def _warp(
    state: Float32Array,
    first: Float32Array,
    image: Float32Array,
    scratch: Float32Array,
    level: _Level,
) -> None:
    """Warps the second frame by u, and from it the terms that stay the same until the next warp."""
    row = level.row
    for y in range(level.height):
        here = (y + 1) * FIELDS * row
        _places(state, here, y, scratch, level)
        _warp_row(state, here, image, scratch, level)
        for x in range(level.width):
            to = here + RHO * row + LEFT + x
            put(state, to, get(state, to) - first[y, x])
        for x in range(0, level.width, LANES):
            to, inside = here + LEFT + x, load(scratch, 10 * row + x)
            grad_x = load(state, to + GRAD_X * row) * inside
            grad_y = load(state, to + GRAD_Y * row) * inside
            u1, u2 = load(state, to + FLOW_X * row), load(state, to + FLOW_Y * row)
            store(state, to + GRAD_X * row, grad_x)
            store(state, to + GRAD_Y * row, grad_y)
            store(state, to + RHO * row, load(state, to + RHO * row) * inside - grad_x * u1 - grad_y * u2)
            square = grad_x * grad_x + grad_y * grad_y
            store(state, to + PER_SQUARE * row, spread(ONE) / most(square, spread(TINY)))


@inlined
def _filter(state: Float32Array, scratch: Float32Array, level: _Level, side: int) -> None:
    """The median filter on both components of u."""
    pitch = FIELDS * level.row
    for field in (FLOW_X, FLOW_Y):
        start = pitch + field * level.row + LEFT
        if side == 3:
            median_3(state, start, pitch, level.height, level.width, scratch, level.row)
        elif side == 5:
            median_5(state, start, pitch, level.height, level.width, scratch, level.row)
        for y in range(level.height):
            _repeat_last(state, start - LEFT + y * pitch, level.width)


@inlined
def _settle(
    state: Float32Array, theta: Float32Array, scratch: Float32Array, level: _Level, settings: Settings
) -> int:
    """Iterates between two warps until u stands still or the count is reached; returns the iterations."""
    enough = np.float32(settings.tolerance_px**2 * level.height * level.width)
    squares, count = np.float32(np.inf), 0
    for _ in range(settings.num_outer):
        if squares <= enough:
            break
        _filter(state, scratch, level, settings.median)
        left = settings.num_inner
        while left > 0 and squares > enough:
            some = min(settings.check_every, left)
            squares = _iterate(state, theta, level, some)
            left -= some
        count += settings.num_inner - left
    return count


@inlined
def _copy_flow(flow: Float32Array, state: Float32Array, level: _Level, into_state: bool) -> None:
    for field in range(2):
        for y in range(level.height):
            start = (y + 1) * FIELDS * level.row + field * level.row
            for x in range(level.width):
                if into_state:
                    put(state, start + LEFT + x, flow[field, y, x])
                else:
                    flow[field, y, x] = get(state, start + LEFT + x)
            _repeat_last(state, start, level.width)


@entry
def solve_level(
    memory: Float32Array, first: Float32Array, second: Float32Array, flow: Float32Array, settings: Settings
) -> int:
    """One level of the pyramid: improves `flow` in place.

    Args:
        memory: from `workspace`, for frames of this size or larger.
        first: I0.
        second: I1.
        flow: u, where to start and where the result goes; finite.
        settings: the parameters.

    Returns:
        iterations over all warps.

    Shape:
        first, second [H, W], float32, contiguous
        flow [2, H, W], float32, contiguous
    """
    height, width = first.shape
    row = stride(width)
    level = _Level(
        height,
        width,
        row,
        limit=np.float32(settings.data_weight * settings.coupling),
        step=np.float32(settings.dual_step / settings.coupling),
        slope=np.float32(settings.cubic_slope),
        reach=np.float32(REACH) if settings.black_border else ZERO,
    )
    end = FIELDS * (height + 1) * row
    state, theta, scratch = memory[:end], memory[end : end + row], memory[end + row :]
    pixels = CHANNELS * (height + 2 * EDGE) * (width + 2 * EDGE)
    image, scratch = scratch[:pixels], scratch[pixels:]
    state[:] = 0  # the dual starts anew at each level
    theta[:] = 0
    theta[LEFT : LEFT + width] = np.float32(settings.coupling)  # nothing moves in the margins
    shape = (height + 2 * EDGE, width + 2 * EDGE, CHANNELS)
    _interleave(second, image.reshape(shape), settings.black_border)
    _copy_flow(flow, state, level, True)
    count = 0
    for _ in range(settings.num_warps):
        _warp(state, first, image, scratch, level)
        count += _settle(state, theta, scratch, level, settings)
    _copy_flow(flow, state, level, False)
    return count
