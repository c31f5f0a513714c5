"""VMZ's R(2+1)D of Caffe2, from a .pkl of its blobs; comp_i counts the whole network's blocks, from 0."""

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from muybridge.errors import WeightsError
from muybridge.models.r2plus1d import DEPTHS
from muybridge.weights.formats.naming import Converted, Format, StateDict, put, without_ones
from muybridge.weights.formats.pyslowfast import LEAF, NOT_WEIGHTS

# What is in a block; x is the convolution, 1 or 2.
BLOCK = {
    r"comp_(\d+)_conv_([12])_middle": "conv_{x}.spatial",
    r"comp_(\d+)_spatbn_([12])_middle": "conv_{x}.mid_bn",
    r"comp_(\d+)_conv_([12])": "conv_{x}.temporal",
    r"comp_(\d+)_spatbn_([12])": "bn_{x}",
    r"shortcut_projection_(\d+)()": "shortcut.conv",
    r"shortcut_projection_(\d+)_spatbn()": "shortcut.bn",
}
STEM = {
    "conv1_middle": "stem.conv.spatial",
    "conv1_middle_spatbn_relu": "stem.conv.mid_bn",
    "conv1": "stem.conv.temporal",
    "conv1_spatbn_relu": "stem.bn",
}


def _recognises(names: Collection[str]) -> bool:
    return "conv1_middle_w" in names and "comp_0_conv_1_middle_w" in names


def _convert(state: Mapping[str, Tensor]) -> Converted:
    dropped = tuple(name for name in state if NOT_WEIGHTS.fullmatch(name))
    stage_of = _stages({name for name in state if name not in dropped})
    tensors: StateDict = {}
    for key, value in state.items():
        if key not in dropped:
            put(tensors, _name_here(key, stage_of), value, old=key)
    return Converted(
        format="VMZ (Caffe2)",
        tensors=tensors,
        arguments={"bn_eps": 1e-3},
        adapted=without_ones(tensors, ["head.fc.weight"]),
        dropped=dropped,
    )


def _name_here(key: str, stage_of: list[tuple[int, int]]) -> str:
    place, _, leaf = key.rpartition("_")
    if leaf not in LEAF:
        return key
    if place in STEM:
        return f"{STEM[place]}.{LEAF[leaf]}"
    if re.fullmatch(r"last_out_L\d+", place):
        return f"head.fc.{LEAF[leaf]}"
    for pattern, slot in BLOCK.items():
        if match := re.fullmatch(pattern, place):
            stage, index = stage_of[int(match[1])]
            letter = {"1": "a", "2": "b", "": ""}[match[2]]
            return f"stages.{stage}.{index}.{slot.format(x=letter)}.{LEAF[leaf]}"
    return key


def _stages(names: Collection[str]) -> list[tuple[int, int]]:
    """Of each block its stage and its place in it, by how many blocks there are.

    Raises:
        WeightsError: no network here has so many.
    """
    count = 1 + max(int(match[1]) for name in names if (match := re.match(r"comp_(\d+)_", name)))
    depth = next((blocks for blocks in DEPTHS.values() if sum(blocks) == count), None)
    if depth is None:
        known = ", ".join(f"{sum(blocks)} ({layers} layers)" for layers, blocks in DEPTHS.items())
        raise WeightsError(f"the file has {count} residual blocks; networks here have {known}")
    return [(stage, index) for stage, blocks in enumerate(depth) for index in range(blocks)]


FORMAT = Format("vmz", _recognises, _convert)
