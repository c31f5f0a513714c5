"""torchvision's video ResNets, and the networks of VMZ and of IG-65M, which have its names.

r3d_18, mc3_18, r2plus1d_18 [torchvision 0.29]; r2plus1d_34 of github.com/moabitcoin/ig65m-pytorch.
"""

from collections.abc import Collection, Mapping

from torch import Tensor

from muybridge.models.r2plus1d import clip_spec
from muybridge.weights.formats.naming import Converted, Format, Rule, StateDict, renamed

LETTERS = {"1": "a", "2": "b"}  # the convolutions of a basic block
BLOCK = r"layer(?P<s>[1-4])\.(?P<j>\d+)\."
SHORTCUTS = (
    Rule(BLOCK + r"downsample\.0", "stages.{s}.{j}.shortcut.conv", {"s": 1}),
    Rule(BLOCK + r"downsample\.1", "stages.{s}.{j}.shortcut.bn", {"s": 1}),
    Rule(r"fc", "head.fc"),
)


def _in_block(place: str, slot: str) -> Rule:
    """A layer of a block, such as "1.0": which convolution, then its place in that."""
    return Rule(BLOCK + r"conv(?P<x>[12])\." + place, "stages.{s}.{j}." + slot, {"s": 1}, {"x": LETTERS})


# A plain convolution is (conv, BatchNorm).
PLAIN = (
    Rule(r"stem\.0", "stem.conv"),
    Rule(r"stem\.1", "stem.bn"),
    _in_block("0", "conv_{x}"),
    _in_block("1", "bn_{x}"),
    *SHORTCUTS,
)
# A (2+1)D one is ((spatial, BatchNorm, ReLU, temporal), BatchNorm).
FACTORED = (
    Rule(r"stem\.0", "stem.conv.spatial"),
    Rule(r"stem\.1", "stem.conv.mid_bn"),
    Rule(r"stem\.3", "stem.conv.temporal"),
    Rule(r"stem\.4", "stem.bn"),
    _in_block(r"0\.0", "conv_{x}.spatial"),
    _in_block(r"0\.1", "conv_{x}.mid_bn"),
    _in_block(r"0\.3", "conv_{x}.temporal"),
    _in_block("1", "bn_{x}"),
    *SHORTCUTS,
)


def _recognises(names: Collection[str]) -> bool:
    return "stem.0.weight" in names and any(name.startswith("layer1.0.conv1.") for name in names)


def _convert(state: Mapping[str, Tensor]) -> Converted:
    factored = "stem.3.weight" in state
    tensors = renamed(state, FACTORED if factored else PLAIN)
    if factored and _has_paper_widths(tensors):
        # Caffe2's eps, with which they were trained
        return Converted(format="IG-65M / VMZ", tensors=tensors, arguments={"bn_eps": 1e-3})
    return Converted(format="torchvision", tensors=tensors, specs=(clip_spec(torchvision=True),))


def _has_paper_widths(tensors: StateDict) -> bool:
    """Whether the second convolution of a down-sampling block has an M of its own: torchvision's has not."""
    first, second = (tensors.get(f"stages.1.0.conv_{letter}.spatial.weight") for letter in "ab")
    return first is not None and second is not None and first.shape[0] != second.shape[0]


FORMAT = Format("torchvision", _recognises, _convert)
