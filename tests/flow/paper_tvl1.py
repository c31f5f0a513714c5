"""One level of TV-L1 in plain loops and float64: slow, and too plain to be wrong in the same way."""

import math

import numpy as np
import numpy.typing as npt

from muybridge.flow.tvl1 import Tvl1Params

Array = npt.NDArray[np.float64]


def level_by_the_paper(first: Array, second: Array, flow: Array, params: Tvl1Params) -> Array:
    height, width = first.shape
    u, p = flow.copy(), np.zeros((2, 2, height, width))
    slope_x, slope_y = centred(second)
    for _ in range(params.num_warps):
        u0 = u.copy()
        warped = [warp(image, u0, params) for image in (second, slope_x, slope_y)]
        error = math.inf
        for _ in range(params.num_outer):
            if error <= params.tolerance_px**2 * height * width:
                break
            u = np.stack([median(one, params.median) for one in u])
            for _ in range(params.num_inner):
                if error <= params.tolerance_px**2 * height * width:
                    break
                before = u.copy()
                u = u_step(first, warped, u0, u, p, params)
                p = p_step(u, p, params)
                error = float(((u - before) ** 2).sum())
    return u


def centred(image: Array) -> tuple[Array, Array]:
    height, width = image.shape
    along_x, along_y = np.zeros_like(image), np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            along_x[y, x] = (image[y, min(x + 1, width - 1)] - image[y, max(x - 1, 0)]) / 2
            along_y[y, x] = (image[min(y + 1, height - 1), x] - image[max(y - 1, 0), x]) / 2
    return along_x, along_y


def warp(image: Array, u: Array, params: Tvl1Params) -> Array:
    """Cubic, pixel by pixel; not a number where the field points out of the frame."""
    height, width = image.shape
    out = np.full((height, width), math.nan)
    reach = 2 if params.black_border else 0
    for y in range(height):
        for x in range(width):
            to_x, to_y = x + u[0, y, x], y + u[1, y, x]
            if not (-reach <= to_x <= width - 1 + reach and -reach <= to_y <= height - 1 + reach):
                continue
            total = 0.0
            for row in range(math.floor(to_y) - 1, math.floor(to_y) + 3):
                for column in range(math.floor(to_x) - 1, math.floor(to_x) + 3):
                    weight = kernel(to_x - column, params.cubic_slope) * kernel(
                        to_y - row, params.cubic_slope
                    )
                    inside = 0 <= row < height and 0 <= column < width
                    near = image[min(max(row, 0), height - 1), min(max(column, 0), width - 1)]
                    total += weight * (near if inside or not params.black_border else 0)
            out[y, x] = total
    return out


def kernel(distance: float, a: float) -> float:
    """Keys' cubic convolution."""
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def median(image: Array, side: int) -> Array:
    reach = side // 2
    padded = np.pad(image, reach, mode="edge")
    out = np.empty_like(image)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            out[y, x] = np.median(padded[y : y + side, x : x + side])
    return out


def u_step(first: Array, warped: list[Array], u0: Array, u: Array, p: Array, params: Tvl1Params) -> Array:
    height, width = first.shape
    out = np.empty_like(u)
    for y in range(height):
        for x in range(width):
            value, slope = warped[0][y, x], np.array([warped[1][y, x], warped[2][y, x]])
            d = np.zeros(2)
            if not math.isnan(value):
                rho = value + slope @ (u[:, y, x] - u0[:, y, x]) - first[y, x]
                d = threshold(rho, slope, params.data_weight * params.coupling)
            for k in range(2):
                out[k, y, x] = u[k, y, x] + d[k] + params.coupling * divergence(p[k], y, x)
    return out


def threshold(rho: float, slope: Array, limit: float) -> Array:
    """The three cases as they are printed."""
    square = float(slope @ slope)
    if rho < -limit * square:
        return limit * slope
    if rho > limit * square:
        return -limit * slope
    return -rho / square * slope if square > 1.1920929e-07 else np.zeros(2)


def divergence(p: Array, y: int, x: int) -> float:
    left = p[0, y, x - 1] if x > 0 else 0.0
    above = p[1, y - 1, x] if y > 0 else 0.0
    return float(p[0, y, x] - left + p[1, y, x] - above)


def p_step(u: Array, p: Array, params: Tvl1Params) -> Array:
    _, height, width = u.shape
    out, step = np.empty_like(p), params.dual_step / params.coupling
    for k in range(2):
        for y in range(height):
            for x in range(width):
                along_x = u[k, y, x + 1] - u[k, y, x] if x + 1 < width else 0.0
                along_y = u[k, y + 1, x] - u[k, y, x] if y + 1 < height else 0.0
                size = 1 + step * math.hypot(along_x, along_y)
                out[k, 0, y, x] = (p[k, 0, y, x] + step * along_x) / size
                out[k, 1, y, x] = (p[k, 1, y, x] + step * along_y) / size
    return out
