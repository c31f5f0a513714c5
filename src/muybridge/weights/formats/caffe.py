"""C3D of Caffe, from an .npz of its blobs; and VMZ's R(2+1)D of Caffe2.

C3D: of each layer, conv1a .. conv5b and fc6-1 .. fc8-1, the blob layer/0 is the weight, layer/1 the bias.
VMZ: comp_i counts the blocks of the whole network, from 0.
"""

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from muybridge.errors import WeightsError
from muybridge.models.r2plus1d import DEPTHS
from muybridge.weights.formats.naming import Converted, Format, StateDict, put
from muybridge.weights.formats.pyslowfast import LEAF, NOT_WEIGHTS

C3D_LAYER = re.compile(r"(conv[1-5][ab]|fc[678])(?:-1)?/([01])")
CUBE_NOTE = "its authors subtract a mean cube before the crop; until one is given, 128 is subtracted"
C3D_LEAF = {"0": "weight", "1": "bias"}

# What is in a block of VMZ; x is the convolution, 1 or 2.
VMZ_BLOCK = {
    r"comp_(\d+)_conv_([12])_middle": "conv_{x}.spatial",
    r"comp_(\d+)_spatbn_([12])_middle": "conv_{x}.mid_bn",
    r"comp_(\d+)_conv_([12])": "conv_{x}.temporal",
    r"comp_(\d+)_spatbn_([12])": "bn_{x}",
    r"shortcut_projection_(\d+)()": "shortcut.conv",
    r"shortcut_projection_(\d+)_spatbn()": "shortcut.bn",
}
VMZ_STEM = {
    "conv1_middle": "stem.conv.spatial",
    "conv1_middle_spatbn_relu": "stem.conv.mid_bn",
    "conv1": "stem.conv.temporal",
    "conv1_spatbn_relu": "stem.bn",
}


def _recognises_c3d(names: Collection[str]) -> bool:
    return "conv1a/0" in names


def _convert_c3d(state: Mapping[str, Tensor]) -> Converted:
    tensors: StateDict = {}
    adapted = []
    for key, value in state.items():
        match = C3D_LAYER.fullmatch(key)
        if not match:
            put(tensors, key, value, old=key)
            continue
        layer, leaf = match[1].replace("fc8", "head.fc"), C3D_LEAF[match[2]]
        axes = 1 if leaf == "bias" else 2 if "fc" in layer else 5
        if value.ndim != axes:  # Caffe's blobs have axes of length 1 before the others
            value = value.reshape(value.shape[value.ndim - axes :])
            adapted.append(f"{layer}.{leaf}")
        put(tensors, f"{layer}.{leaf}", value, old=key)
    return Converted(
        format="C3D of Caffe",
        tensors=tensors,
        arguments={"pool5": "ceil"},
        adapted=tuple(adapted),
        notes=(CUBE_NOTE,),
    )


def _recognises_vmz(names: Collection[str]) -> bool:
    return "conv1_middle_w" in names and "comp_0_conv_1_middle_w" in names


def _convert_vmz(state: Mapping[str, Tensor]) -> Converted:
    dropped = tuple(name for name in state if NOT_WEIGHTS.fullmatch(name))
    stage_of = _stages({name for name in state if name not in dropped})
    tensors: StateDict = {}
    adapted = []
    for key, value in state.items():
        if key in dropped:
            continue
        name = _vmz_name(key, stage_of)
        if name == "head.fc.weight" and value.ndim > 2:
            value = value.flatten(1)
            adapted.append(name)
        put(tensors, name, value, old=key)
    return Converted(
        format="VMZ (Caffe2)",
        tensors=tensors,
        arguments={"bn_eps": 1e-3},
        adapted=tuple(adapted),
        dropped=dropped,
    )


def _vmz_name(key: str, stage_of: list[tuple[int, int]]) -> str:
    place, _, leaf = key.rpartition("_")
    if leaf not in LEAF:
        return key
    if place in VMZ_STEM:
        return f"{VMZ_STEM[place]}.{LEAF[leaf]}"
    if re.fullmatch(r"last_out_L\d+", place):
        return f"head.fc.{LEAF[leaf]}"
    for pattern, slot in VMZ_BLOCK.items():
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


C3D_FORMAT = Format(
    name="caffe",
    networks="`c3d`",
    checked="keys and shapes only",
    recognises=_recognises_c3d,
    convert=_convert_c3d,
)
VMZ_FORMAT = Format(
    name="vmz",
    networks="`r2plus1d_18`, `r2plus1d_34`",
    checked="keys and shapes only",
    recognises=_recognises_vmz,
    convert=_convert_vmz,
)
