"""Inflation: a 2D convolutional network, with its weights, becomes a 3D one.

Quo Vadis, Action Recognition? Carreira and Zisserman, CVPR 2017 (arXiv:1705.07750), Sec. 2.2.

Where to find the paper here:
    "k x k becomes k x k x k", "1 / N"              `rules.every_kernel`, `layers.inflate_weight`
    "the boring-video fixed point"                  `check_inflation`
    Non-local Neural Networks, Sec. 4.2: 3 x 1 x 1  `rules.alternate_3x1x1`

The network is followed with torch.fx, and each module (`modules.ENTRIES`) and function
(`functions.HANDLERS`) of its graph is written anew for clips. What neither table has raises InflationError.

Deviation: the paper has pooling and strides over time in places it chose; here a rule of the caller says it.
Deviation: I3D has zeros before the first and behind the last frame; `padding="replicate"` repeats that frame,
    without which the boring-video fixed point holds in the interior of a clip alone.
Deviation: time is averaged before the features are made one vector, as I3D averages its logits over time.
"""

from muybridge.models.inflate.check import InflationCheck, LayerError, check_inflation
from muybridge.models.inflate.convert import inflate
from muybridge.models.inflate.layers import FilterInit, Temporal, TimePadding, inflate_weight
from muybridge.models.inflate.network import InflatedNetwork
from muybridge.models.inflate.rules import Rule, RuleLike

__all__ = [
    "FilterInit",
    "InflatedNetwork",
    "InflationCheck",
    "LayerError",
    "Rule",
    "RuleLike",
    "Temporal",
    "TimePadding",
    "check_inflation",
    "inflate",
    "inflate_weight",
]
