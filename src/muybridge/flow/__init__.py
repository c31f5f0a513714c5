"""Frames -> motion: optical flow by one call, whatever the method.

>>> import numpy as np
>>> estimate(np.zeros((3, 24, 32, 3), np.uint8), method="farneback").shape
(2, 2, 24, 32)

A field says for each pixel of a frame where it is in the other one: x to the right, y down, in pixels.
Importing this package imports neither Numba nor torch: they come with the first field that needs them.
"""

from muybridge.flow.brox import BroxParams
from muybridge.flow.methods import (
    METHODS,
    Direction,
    DisParams,
    FarnebackParams,
    FlowParams,
    estimate,
    estimate_both,
    presets,
    resolve,
)
from muybridge.flow.raft import RaftParams
from muybridge.flow.tvl1 import Tvl1Params

__all__ = [
    "METHODS",
    "BroxParams",
    "Direction",
    "DisParams",
    "FarnebackParams",
    "FlowParams",
    "RaftParams",
    "Tvl1Params",
    "estimate",
    "estimate_both",
    "presets",
    "resolve",
]
