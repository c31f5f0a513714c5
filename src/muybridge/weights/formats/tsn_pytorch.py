"""BN-Inception by its layers' names of Caffe: yjxiong's tsn-pytorch, and bare files of ImageNet.

here                              tsn-pytorch
backbone.conv1_7x7_s2.conv        base_model.conv1_7x7_s2
backbone.conv1_7x7_s2.bn          base_model.conv1_7x7_s2_bn
backbone.inception_3a.b2b.conv    base_model.inception_3a_double_3x3_1
head.fc                           new_fc; without dropout base_model.fc

A bare file lacks "base_model.", and its classifier is fc, or last_linear.
"""

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from muybridge.weights.formats.frames import look_of, snippet_of, with_frame_axis
from muybridge.weights.formats.naming import Converted, Format, Rule, StateDict, renamed

STEM = "conv1_7x7_s2"
FIRST = f"backbone.{STEM}.conv.weight"
BRANCHES = {
    "1x1": "b0",
    "3x3_reduce": "b1a",
    "3x3": "b1b",
    "double_3x3_reduce": "b2a",
    "double_3x3_1": "b2b",
    "double_3x3_2": "b2c",
    "pool_proj": "b3b",
}
SLOT = {"": "conv", "_bn": "bn"}
B = r"(?:base_model\.)?"
RULES = (
    Rule(B + rf"(?P<n>{STEM}|conv2_3x3_reduce|conv2_3x3)(?P<x>|_bn)", "backbone.{n}.{x}", words={"x": SLOT}),
    Rule(
        B + rf"(?P<n>inception_[345][a-e])_(?P<b>{'|'.join(BRANCHES)})(?P<x>|_bn)",
        "backbone.{n}.{b}.{x}",
        words={"b": BRANCHES, "x": SLOT},
    ),
    Rule(rf"new_fc|{B}(?:fc|last_linear)", "head.fc"),
)
RGB_MEAN = (104.0, 117.0, 128.0)  # blue, green, red: the last is 123 in the authors' Caffe code
TOWERS = {"two_stream_spatial": "tower.", "two_stream_temporal": "tower."}


def _recognises(names: Collection[str]) -> bool:
    return f"{STEM}.weight" in names or f"base_model.{STEM}.weight" in names


def _convert(state: Mapping[str, Tensor]) -> Converted:
    tensors = renamed(state, RULES)
    snippet = snippet_of(tensors[FIRST])
    adapted = with_frame_axis(tensors) + _flat_statistics(tensors)
    clip = look_of(snippet)
    if snippet.modality == "rgb":
        clip["mean"] = RGB_MEAN
    return Converted(
        format="tsn-pytorch" if any(name.startswith("base_model.") for name in state) else "BN-Inception",
        tensors=tensors,
        arguments={"backbone": "bn_inception", **snippet.arguments},
        clip=clip,
        adapted=adapted,
        notes=snippet.note,
        trunks=TOWERS,
    )


def _flat_statistics(tensors: StateDict) -> tuple[str, ...]:
    """BatchNorm's tensors [1, C], as files of before PyTorch 0.4 have them, become [C]; their names."""
    norms = tuple(name for name, value in tensors.items() if re.search(r"\.bn\.", name) and value.ndim == 2)
    for name in norms:
        tensors[name] = tensors[name].flatten()
    return norms


FORMAT = Format("tsn-pytorch", _recognises, _convert)
