"""TV-L1 in torch: the algorithm of `kernels`, for a batch of pairs, on any device.

It has run on CPUs only, not on a GPU. It is here for those who have one; a CPU is better used by the compiled
code.

Shape letters: N pairs of frames, H height, W width of a level. u is [N, 2, H, W]; its dual p and its gradient
are [N, 2, 2, H, W]: component of u, then direction (x, y).
"""

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from muybridge.flow.quantise import Float32Array
from muybridge.flow.tvl1 import Tvl1Params, gaussian, level_sizes
from muybridge.types import Size, UInt8Array

EDGE = 4  # pixels around the frame to be warped
REACH = 2  # how far out a field may point and still read it: two pixels further all that is read is black
TINY = 1.1920929e-07  # squared gradients below this are none, as in OpenCV
BATCH = 16  # pairs worked on at once: the memory does not grow with the video


def fields(
    greys: UInt8Array, params: Tvl1Params, *, initial: Float32Array | None = None, device: str = "cpu"
) -> Float32Array:
    """The field from each frame to the next one, computed on a device of torch.

    Shape:
        greys [T, H, W], uint8
        initial [T - 1, 2, H, W], float32
        output [T - 1, 2, H, W], float32
    """
    num_pairs = len(greys) - 1
    flow = np.empty((num_pairs, 2, *greys.shape[1:]), np.float32)
    for first in range(0, num_pairs, BATCH):
        last = min(first + BATCH, num_pairs)
        frames = torch.from_numpy(np.ascontiguousarray(greys[first : last + 1])).to(device).float()
        start = None
        if initial is not None:
            start = torch.from_numpy(np.ascontiguousarray(initial[first:last])).to(device)
        flow[first:last] = solve(frames[:-1], frames[1:], params, start).cpu().numpy()
    return flow


@torch.no_grad()
def solve(first: Tensor, second: Tensor, params: Tvl1Params, start: Tensor | None = None) -> Tensor:
    """The fields of a batch of pairs, coarse to fine.

    Args:
        first: I0, grey, 0 to 255; the precision of the computation is its.
        second: I1.
        params: of the algorithm.
        start: fields to start from.

    Shape:
        first, second [N, H, W]
        start [N, 2, H, W]
        output [N, 2, H, W]

    >>> frames = torch.zeros(2, 24, 32)
    >>> solve(frames[:1], frames[1:], Tvl1Params()).abs().max()
    tensor(0.)
    """
    sizes = level_sizes(first.shape[1], first.shape[2], params)
    pair = torch.stack([first, second], dim=1)
    if params.normalize:
        low, high = pair.amin((1, 2, 3), keepdim=True), pair.amax((1, 2, 3), keepdim=True)
        pair = torch.where(high > low, (pair - low) * (255 / (high - low).clamp_min(TINY)), pair)
    levels = [blurred(pair, params.presmooth_px)]
    sigma = params.antialias * math.sqrt(params.scale_step**-2 - 1)
    for size in sizes[1:]:
        levels.append(resized(blurred(levels[-1], sigma), size, params.scale_step))
    u = torch.zeros_like(levels[-1]) if start is None else start.to(first)
    for size in sizes[1:] if start is not None else ():
        u = params.scale_step * resized(u, size, params.scale_step)
    for level in reversed(levels):
        if u.shape != level.shape:
            u = resized(u, Size(*level.shape[2:])) / params.scale_step
        u = _solve_level(level[:, 0], level[:, 1], u, params)
    return u


def gradient(u: Tensor) -> Tensor:
    """Forward differences along x and y, 0 in the last column and row.

    Shape:
        u [..., H, W]
        output [..., 2, H, W]
    """
    along_x = F.pad(u[..., :, 1:] - u[..., :, :-1], (0, 1))
    along_y = F.pad(u[..., 1:, :] - u[..., :-1, :], (0, 0, 0, 1))
    return torch.stack([along_x, along_y], dim=-3)


def divergence(p: Tensor) -> Tensor:
    """Backward differences, minus the adjoint of `gradient`: what it does not have is 0, at both ends.

    Shape:
        p [..., 2, H, W]
        output [..., H, W]
    """
    along_x, along_y = p[..., 0, :, :-1], p[..., 1, :-1, :]
    from_x = F.pad(along_x, (0, 1)) - F.pad(along_x, (1, 0))
    from_y = F.pad(along_y, (0, 0, 0, 1)) - F.pad(along_y, (0, 0, 1, 0))
    return from_x + from_y


def resized(images: Tensor, size: Size, scale: float | None = None) -> Tensor:
    """Bilinear, at the centres of pixels, as `tvl1.resized`.

    Shape:
        images [N, C, H, W]
        output [N, C, size.height, size.width]
    """
    for dim, length in ((2, size.height), (3, size.width)):
        old = images.shape[dim]
        step = old / length if scale is None else 1 / scale
        place = (torch.arange(length, dtype=images.dtype, device=images.device) + 0.5) * step - 0.5
        place = place.clamp(0, old - 1)
        low = place.floor().long().clamp_max(max(old - 2, 0))
        weight = (place - low).view([-1 if k == dim else 1 for k in range(4)])
        below, above = images.index_select(dim, low), images.index_select(dim, (low + 1).clamp_max(old - 1))
        images = below + weight * (above - below)
    return images


def blurred(images: Tensor, sigma: float) -> Tensor:
    """A Gaussian along both axes, the border repeated, as `tvl1.blurred`.

    Shape:
        images [N, C, H, W]
        output the same
    """
    if sigma == 0:
        return images
    weights = torch.from_numpy(gaussian(sigma)).to(images)
    reach = len(weights) // 2
    planes = F.pad(images, (reach, reach, reach, reach), mode="replicate").flatten(0, 1)[:, None]
    planes = F.conv2d(F.conv2d(planes, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))
    return planes.view(images.shape)


def median(u: Tensor, side: int) -> Tensor:
    """The median of side x side pixels, the border repeated.

    Shape:
        u [N, C, H, W]
        output the same
    """
    if side == 1:
        return u
    reach = side // 2
    padded = F.pad(u, (reach, reach, reach, reach), mode="replicate")
    return padded.unfold(2, side, 1).unfold(3, side, 1).flatten(4).median(-1).values


def warped(image: Tensor, u: Tensor, slope: float, reach: int) -> tuple[Tensor, Tensor]:
    """Reads a padded image where the field points to, cubically; also says where that is in reach.

    Args:
        image: with `EDGE` pixels around it.
        u: the field.
        slope: of the cubic kernel.
        reach: pixels beyond the frame that can be read.

    Shape:
        image [N, C, H + 2 EDGE, W + 2 EDGE]
        u [N, 2, H, W]
        output [N, C, H, W], and bool [N, 1, H, W]
    """
    height, width = u.shape[2:]
    rows = torch.arange(height, dtype=u.dtype, device=u.device)[:, None]
    columns = torch.arange(width, dtype=u.dtype, device=u.device)
    to_x, to_y = columns + u[:, :1], rows + u[:, 1:]
    in_x, in_y = to_x.clamp(-reach, width - 1 + reach), to_y.clamp(-reach, height - 1 + reach)
    left, top = in_x.floor(), in_y.floor()
    along_x, along_y = _cubic(in_x - left, slope), _cubic(in_y - top, slope)
    # of the 4 x 4 pixels around the place
    corner = (top.long() + EDGE - 1) * image.shape[3] + (left.long() + EDGE - 1)
    corner = corner.flatten(2).expand(-1, image.shape[1], -1)
    flat = image.flatten(2)
    value = torch.zeros_like(flat[:, :, : height * width]).view(*image.shape[:2], height, width)
    for i, j in itertools.product(range(4), repeat=2):
        pixels = flat.gather(2, corner + i * image.shape[3] + j)
        value += (along_y[i] * along_x[j]) * pixels.view(value.shape)
    return value, (in_x == to_x) & (in_y == to_y)


def _cubic(t: Tensor, a: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The weights of the four pixels around a place that is t behind the second one."""
    rest = 1 - t
    first, fourth = a * t * rest * rest, a * t * t * rest
    second = ((a + 2) * t - (a + 3)) * t * t + 1
    return first, second, 1 - first - second - fourth, fourth


def _with_gradients(frame: Tensor, *, black_border: bool) -> Tensor:
    """Values and centred gradients, with black or the border again around them.

    Shape:
        frame [N, H, W]
        output [N, 3, H + 2 EDGE, W + 2 EDGE]
    """
    near = F.pad(frame[:, None], (1, 1, 1, 1), mode="replicate")
    along_x = 0.5 * (near[:, :, 1:-1, 2:] - near[:, :, 1:-1, :-2])
    along_y = 0.5 * (near[:, :, 2:, 1:-1] - near[:, :, :-2, 1:-1])
    image = torch.cat([frame[:, None], along_x, along_y], dim=1)
    return F.pad(image, (EDGE,) * 4, mode="constant" if black_border else "replicate")


def _solve_level(first: Tensor, second: Tensor, u: Tensor, params: Tvl1Params) -> Tensor:
    """One level: warps, and the iterations between them.

    Shape:
        first, second [N, H, W]
        u [N, 2, H, W]
        output [N, 2, H, W]
    """
    image = _with_gradients(second, black_border=params.black_border)
    p = u.new_zeros(*u.shape[:2], 2, *u.shape[2:])  # the dual starts anew at each level
    for _ in range(params.num_warps):
        values, inside = warped(image, u, params.cubic_slope, REACH if params.black_border else 0)
        values = values * inside
        slope = values[:, 1:]
        rho = values[:, :1] - first[:, None] * inside - (slope * u).sum(1, keepdim=True)
        u, p = _settle(u, p, slope, rho, params)
    return u


def _settle(u: Tensor, p: Tensor, slope: Tensor, rho: Tensor, params: Tvl1Params) -> tuple[Tensor, Tensor]:
    """Iterates between two warps; a pair whose u stands still is left as it is while others go on.

    Shape:
        u, slope [N, 2, H, W]
        p [N, 2, 2, H, W]
        rho [N, 1, H, W]
        output u and p
    """
    enough = params.tolerance_px**2 * u.shape[2] * u.shape[3]
    goes_on = torch.ones(len(u), dtype=torch.bool, device=u.device)
    for _ in range(params.num_outer):
        u = torch.where(goes_on.view(-1, 1, 1, 1), median(u, params.median), u)
        left = params.num_inner
        while left > 0 and bool(goes_on.any()):
            some = min(params.check_every, left)
            for _ in range(some):
                new, p_new = _iterate(u, p, slope, rho, params)
                squares = (new - u).square().sum((1, 2, 3))
                u = torch.where(goes_on.view(-1, 1, 1, 1), new, u)
                p = torch.where(goes_on.view(-1, 1, 1, 1, 1), p_new, p)
            goes_on = goes_on & (squares > enough)
            left -= some
    return u, p


def _iterate(u: Tensor, p: Tensor, slope: Tensor, rho: Tensor, params: Tvl1Params) -> tuple[Tensor, Tensor]:
    """The thresholding step (v), u = v + theta div p, and the ascent in p."""
    limit, step = params.data_weight * params.coupling, params.dual_step / params.coupling
    residual = rho + (slope * u).sum(1, keepdim=True)
    square = slope.square().sum(1, keepdim=True).clamp_min(TINY)
    v = u - (residual / square).clamp(-limit, limit) * slope  # the threshold's three cases are a clamp
    u = v + params.coupling * divergence(p)
    rise = gradient(u)
    length = rise.square().sum(2, keepdim=True).sqrt()
    return u, (p + step * rise) / (1 + step * length)
