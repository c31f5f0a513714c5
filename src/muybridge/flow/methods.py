"""One call for every way to compute optical flow: TV-L1, Brox, Farneback, DIS, RAFT.

Each method has its parameters in a frozen class, and named sets of them in `METHODS`; the first one is the
default.

Shape letters: T frames, H height, W width. A field has two components, x to the right and y down, in pixels:
frame[i + 1] at (x + u, y + v) is frame[i] at (x, y).
"""

import difflib
from collections.abc import Callable
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from pydantic import Field

from muybridge.config import Config, Positive
from muybridge.errors import ConfigError, DataError, VideoTooShortError
from muybridge.flow import brox, raft, tvl1
from muybridge.flow.brox import BroxParams
from muybridge.flow.quantise import Float32Array
from muybridge.flow.raft import RaftParams
from muybridge.types import UInt8Array

Direction = Literal["forward", "backward"]
PositiveFloat = Annotated[float, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
MIN_SIDE = tvl1.MIN_SIDE
MAX_INITIAL = 100_000  # pixels; a longer vector leaves any frame


class FarnebackParams(Config):
    """Farneback 2003, OpenCV's.

    Attributes:
        pyramid_scale: size of a level against the one below it.
        num_levels: levels of the pyramid, the frame itself included.
        window: side of the averaging window, pixels.
        num_iterations: at each level.
        poly_n: side of the neighbourhood that a polynomial is fitted to, pixels.
        poly_sigma: width of the Gaussian that weights it, pixels.
        gaussian_window: averages with a Gaussian instead of a box: slower, more accurate.
    """

    pyramid_scale: Annotated[float, Field(gt=0, lt=1)] = 0.702
    num_levels: Positive = 5
    window: Positive = 10
    num_iterations: Positive = 2
    poly_n: Literal[5, 7] = 7
    poly_sigma: PositiveFloat = 1.5
    gaussian_window: bool = True


class DisParams(Config):
    """Dense inverse search, Kroeger et al. 2016, OpenCV's.

    Attributes:
        finest_scale: the level where the search ends: 0 is the frame itself, 1 half its size.
        patch: side of a patch, pixels.
        patch_stride: from a patch to the next, pixels; below `patch` they overlap.
        num_descents: gradient descent steps of a patch.
        num_refinements: fixed-point iterations of the variational refinement; 0 is none.
        alpha: its weight of smoothness.
        gamma: its weight of constant gradients.
        delta: its weight of constant intensities.
    """

    finest_scale: NotNegative = 1
    patch: Positive = 8
    patch_stride: Positive = 3
    num_descents: Positive = 25
    num_refinements: NotNegative = 5
    alpha: PositiveFloat = 20.0
    gamma: Annotated[float, Field(ge=0)] = 10.0
    delta: Annotated[float, Field(ge=0)] = 5.0


FlowParams = tvl1.Tvl1Params | BroxParams | FarnebackParams | DisParams | RaftParams

METHODS: dict[str, dict[str, FlowParams]] = {
    "tvl1": dict(tvl1.PRESETS),
    "brox": {"default": BroxParams()},
    "farneback": {
        "dense_flow": FarnebackParams(),  # what TSN's tool of that name passes
        "cuda": FarnebackParams(  # the defaults of OpenCV's CUDA class
            pyramid_scale=0.5, window=13, num_iterations=10, poly_n=5, poly_sigma=1.1, gaussian_window=False
        ),
    },
    "dis": {
        "medium": DisParams(),
        "fast": DisParams(finest_scale=2, patch_stride=4, num_descents=16),
        "ultrafast": DisParams(finest_scale=2, patch_stride=4, num_descents=12, num_refinements=0),
    },
    "raft": {"large": RaftParams(), "small": RaftParams(size="small")},
}


def presets(method: str) -> tuple[str, ...]:
    """The named sets of parameters of a method; the first is its default.

    >>> presets("dis")
    ('medium', 'fast', 'ultrafast')
    """
    return tuple(_named(METHODS, method, "flow method"))


def resolve(method: str, *, preset: str | None = None, **changes: Any) -> FlowParams:
    """All parameters of a method, in a frozen value: what a store of its fields must say.

    Args:
        method: a key of `METHODS`.
        preset: one of `presets(method)`; None is the first.
        changes: parameters that differ from the preset.

    Raises:
        ConfigError: no such method, preset or parameter, or a bad value.

    >>> resolve("dis", preset="fast", num_descents=20).num_descents
    20
    >>> resolve("dis", num_descent=20)
    Traceback (most recent call last):
        ...
    muybridge.errors.ConfigError: flow method 'dis': unknown key 'num_descent'; did you mean 'num_descents'?
    """
    known = _named(METHODS, method, "flow method")
    name = preset or next(iter(known))
    base = _named(known, name, f"preset of flow method '{method}'")
    params: FlowParams = type(base).from_dict({**base.to_dict(), **changes}, where=f"flow method '{method}'")
    return params


def estimate(
    frames: UInt8Array,
    *,
    method: str = "tvl1",
    direction: Direction = "forward",
    initial: Float32Array | None = None,
    num_threads: int | None = None,
    device: str | None = None,
    **options: Any,
) -> Float32Array:
    """Optical flow between successive frames.

    Memory beyond the frames, their grey copies and the fields does not grow with T. A long video goes through
    in runs of frames that share one: fields of frames [0, 33) and [32, 65) are those of [0, 65).

    Args:
        frames: RGB, at least two.
        method: "tvl1", "brox", "farneback", "dis" or "raft".
        direction: "forward": field i runs from frame i to frame i + 1; "backward": from i + 1 to i.
        initial: fields to start from, for TV-L1 alone.
        num_threads: pairs of frames that TV-L1 works on at once; None is the cores of this process, but one
            in a worker process. OpenCV and torch have their own numbers of threads.
        device: of torch, for TV-L1 and RAFT. None is the CPU, where TV-L1 is code compiled by Numba.
        options: `preset`, and parameters of the method that differ from it: see `resolve`.

    Raises:
        ConfigError: no such method, preset or parameter, a bad value, or one that is for other methods.
        VideoTooShortError: a single frame.
        DataError: not frames, or frames too small.
        WeightsError: RAFT's weights are missing, or another network's.

    Shape:
        frames [T, H, W, 3], uint8
        initial [T - 1, 2, H, W], float32
        output [T - 1, 2, H, W], float32

    >>> frames = np.zeros((2, 24, 32, 3), np.uint8)
    >>> estimate(frames, method="dis", preset="fast").any()
    np.False_
    """
    params = resolve(method, **options)
    _check(frames, MIN_SIDE if method != "raft" else raft.MIN_SIDE, method)
    if direction not in ("forward", "backward"):
        raise ConfigError(f"direction must be 'forward' or 'backward', got '{direction}'")
    if initial is not None:
        _check_initial(initial, frames, method)
    check_device(method, device)
    backward = direction == "backward"
    ordered = frames[::-1] if backward else frames
    if isinstance(params, tvl1.Tvl1Params):
        start = initial[::-1] if backward and initial is not None else initial
        flow = tvl1.fields(_greys(ordered), params, initial=start, num_threads=num_threads, device=device)
    elif isinstance(params, RaftParams):
        flow = raft.fields(ordered, params, device or "cpu")
    elif isinstance(params, BroxParams):
        flow = brox.fields(_greys(ordered), params)
    else:
        flow = _opencv(_greys(ordered), params)
    return np.ascontiguousarray(flow[::-1]) if backward else flow


def check_device(method: str, device: str | None) -> None:
    """That a method can run on a device of torch; None is always good.

    Raises:
        ConfigError: the method has no device to choose, or there is no such device here.

    >>> check_device("tvl1", "cpu")
    """
    if device is None:
        return
    if method not in ("tvl1", "raft"):
        raise ConfigError(f"flow method '{method}' has no device to choose, got '{device}': leave it out")
    import torch

    try:
        torch.zeros(1, device=device).add(1)
    except (RuntimeError, AssertionError) as error:  # torch has both, by what is missing
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device '{device}' cannot be used here ({reason}): take cpu, or none") from None


def estimate_both(
    frames: UInt8Array, *, method: str = "tvl1", **options: Any
) -> tuple[Float32Array, Float32Array]:
    """The forward and the backward fields: `estimate` in both directions.

    Shape:
        frames [T, H, W, 3], uint8
        output two of [T - 1, 2, H, W], float32
    """
    return (
        estimate(frames, method=method, direction="forward", **options),
        estimate(frames, method=method, direction="backward", **options),
    )


def _named(known: dict[str, Any], name: str, what: str) -> Any:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise ConfigError(f"no {what} '{name}'{hint} There are: {', '.join(known)}")
    return known[name]


def _check(frames: UInt8Array, min_side: int, method: str) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise DataError(
            f"flow needs frames uint8 [T, H, W, 3], got {frames.dtype} {list(frames.shape)}: "
            "give RGB frames as VideoReader reads them"
        )
    if len(frames) < 2:
        raise VideoTooShortError(
            f"flow needs two frames, got {len(frames)}: take a longer piece of the video"
        )
    height, width = frames.shape[1:3]
    if min(height, width) < min_side:
        raise DataError(
            f"flow method '{method}' needs frames of {min_side} pixels a side, got {width}x{height}: "
            "read them larger, or take another method"
        )


def _check_initial(initial: Float32Array, frames: UInt8Array, method: str) -> None:
    if method != "tvl1":
        raise ConfigError(f"initial fields are for flow method 'tvl1'; '{method}' takes none: leave them out")
    shape = (len(frames) - 1, 2, *frames.shape[1:3])
    if initial.shape != shape or initial.dtype != np.float32:
        raise DataError(
            f"these frames need initial float32 {list(shape)}, got {initial.dtype} {list(initial.shape)}: "
            "give what estimate returns for frames of this number and size"
        )
    if not (np.abs(initial) < MAX_INITIAL).all():  # also false where it is not a number
        raise DataError(
            f"initial fields must be finite and below {MAX_INITIAL} pixels, and these are not: leave them out"
        )


def _greys(frames: UInt8Array) -> UInt8Array:
    """Grey frames, OpenCV's weights: what every tool of this field gives its algorithm.

    Shape:
        frames [T, H, W, 3]
        output [T, H, W]
    """
    greys = np.empty(frames.shape[:3], np.uint8)
    for frame, grey in zip(frames, greys, strict=True):
        cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY, dst=grey)
    return greys


def _opencv(greys: UInt8Array, params: FarnebackParams | DisParams) -> Float32Array:
    """Fields by OpenCV, one pair after another; it uses the cores itself.

    Shape:
        greys [T, H, W]
        output [T - 1, 2, H, W]
    """
    match = _farneback(params) if isinstance(params, FarnebackParams) else _dis(params)
    flow = np.empty((len(greys) - 1, 2, *greys.shape[1:]), np.float32)
    for first, second, field in zip(greys, greys[1:], flow, strict=False):
        field[:] = match(first, second).transpose(2, 0, 1)
    return flow


def _farneback(params: FarnebackParams) -> Callable[[UInt8Array, UInt8Array], Float32Array]:
    flags = cv2.OPTFLOW_FARNEBACK_GAUSSIAN if params.gaussian_window else 0

    def match(first: UInt8Array, second: UInt8Array) -> Float32Array:
        start = np.zeros((*first.shape, 2), np.float32)
        flow = cv2.calcOpticalFlowFarneback(
            first,
            second,
            start,
            params.pyramid_scale,
            params.num_levels,
            params.window,
            params.num_iterations,
            params.poly_n,
            params.poly_sigma,
            flags,
        )
        return np.asarray(flow, np.float32)

    return match


def _dis(params: DisParams) -> Callable[[UInt8Array, UInt8Array], Float32Array]:
    def match(first: UInt8Array, second: UInt8Array) -> Float32Array:
        # A new one for each pair: OpenCV's remembers the last pair, and its next field depends on that.
        search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        search.setFinestScale(params.finest_scale)
        search.setPatchSize(params.patch)
        search.setPatchStride(params.patch_stride)
        search.setGradientDescentIterations(params.num_descents)
        search.setVariationalRefinementIterations(params.num_refinements)
        search.setVariationalRefinementAlpha(params.alpha)
        search.setVariationalRefinementGamma(params.gamma)
        search.setVariationalRefinementDelta(params.delta)
        start = np.zeros((*first.shape, 2), np.float32)
        return np.asarray(search.calc(first, second, start), np.float32)

    return match
