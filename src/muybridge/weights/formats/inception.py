"""The Inception I3D of DeepMind (TensorFlow, as an .npz), and its ports by piergiaj and hassony2 (PyTorch).

How the same three layers are named:
    here         Mixed_3b.b1a.conv                          Mixed_3b.b1a.bn               head.fc
    piergiaj     Mixed_3b.b1a.conv3d                        Mixed_3b.b1a.bn               logits.conv3d
    hassony2     mixed_3b.branch_1.0.conv3d                 mixed_3b.branch_1.0.batch3d   conv3d_0c_1x1.conv3d
    TensorFlow   Mixed_3b/Branch_1/Conv3d_0a_1x1/conv_3d    .../batch_norm, no scale      Logits/Conv3d_0c_1x1
"""

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from muybridge.weights.formats.naming import Converted, Format, Rule, StateDict, put, renamed, without_ones

EPS = {"bn_eps": 1e-3}  # Sonnet's
BRANCHES = {"0": "b0", "1.0": "b1a", "1.1": "b1b", "2.0": "b2a", "2.1": "b2b", "3.1": "b3b"}
SLOT = {"conv3d": "conv", "bn": "bn", "batch3d": "bn"}
ENDPOINTS = ("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3")
MODULES = tuple(f"Mixed_{name}" for name in ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c"))
CASE = {name.lower(): name for name in ENDPOINTS + MODULES}
CONVS, MIXED = "|".join(ENDPOINTS), "|".join(MODULES)

PIERGIAJ = (
    Rule(rf"(?P<n>{CONVS})\.(?P<x>conv3d|bn)", "{n}.{x}", words={"x": SLOT}),
    Rule(
        rf"(?P<n>{MIXED})\.(?P<b>b0|b1a|b1b|b2a|b2b|b3b)\.(?P<x>conv3d|bn)", "{n}.{b}.{x}", words={"x": SLOT}
    ),
    Rule(r"logits\.conv3d", "head.fc"),
)
HASSONY2 = (
    Rule(rf"(?P<n>{CONVS.lower()})\.(?P<x>conv3d|batch3d)", "{n}.{x}", words={"n": CASE, "x": SLOT}),
    Rule(
        rf"(?P<n>{MIXED.lower()})\.branch_(?P<b>0|[12]\.[01]|3\.1)\.(?P<x>conv3d|batch3d)",
        "{n}.{b}.{x}",
        words={"n": CASE, "b": BRANCHES, "x": SLOT},
    ),
    Rule(r"conv3d_0c_1x1\.conv3d", "head.fc"),
)
# Branch and place in it -> layer. The second convolution in branch 2 of Mixed_5b is named 0a, not 0b.
TF_BRANCHES = {
    ("0", "0a_1x1"): "b0",
    ("1", "0a_1x1"): "b1a",
    ("1", "0b_3x3"): "b1b",
    ("2", "0a_1x1"): "b2a",
    ("2", "0b_3x3"): "b2b",
    ("2", "0a_3x3"): "b2b",
    ("3", "0b_1x1"): "b3b",
}
TF_LEAF = {
    "conv_3d/w": "conv.weight",
    "batch_norm/beta": "bn.bias",
    "batch_norm/moving_mean": "bn.running_mean",
    "batch_norm/moving_variance": "bn.running_var",
}
TF_PREFIX = re.compile(r"(?:(?:RGB|Flow)/inception_i3d/)?")  # the file of Kinetics-600 has none


def _convert_piergiaj(state: Mapping[str, Tensor]) -> Converted:
    return _ported("piergiaj's I3D", renamed(state, PIERGIAJ))


def _convert_hassony2(state: Mapping[str, Tensor]) -> Converted:
    return _ported("hassony2's I3D", renamed(state, HASSONY2))


def _ported(format: str, tensors: StateDict) -> Converted:
    adapted = without_ones(tensors, ["head.fc.weight"])
    return Converted(format=format, tensors=tensors, arguments=dict(EPS), adapted=adapted)


def _convert_tensorflow(state: Mapping[str, Tensor]) -> Converted:
    tensors: StateDict = {}
    adapted: list[str] = []
    for key, value in state.items():
        name = _tensorflow_name(key)
        if name.endswith("conv.weight") or name == "head.fc.weight":
            value = value.permute(4, 3, 0, 1, 2).contiguous()  # [T, H, W, I, O]
            adapted.append(name)
        elif ".bn." in name and value.ndim > 1:
            value = value.flatten()  # [1, 1, 1, 1, C]
            adapted.append(name)
        put(tensors, name, value, old=key)
        if name.endswith("bn.bias"):  # BatchNorm there has no scale
            put(tensors, name.replace("bias", "weight"), torch.ones_like(value), old=key)
    without_ones(tensors, ["head.fc.weight"])
    return Converted(format="DeepMind's I3D", tensors=tensors, arguments=dict(EPS), adapted=tuple(adapted))


def _tensorflow_name(key: str) -> str:
    """A variable by our name; one that is not known keeps its own."""
    place = TF_PREFIX.sub("", key.removesuffix(":0"), count=1)
    if match := re.fullmatch(r"Logits/Conv3d_0c_1x1/conv_3d/([wb])", place):
        return "head.fc.weight" if match[1] == "w" else "head.fc.bias"
    if match := re.fullmatch(rf"({MIXED})/Branch_(\d)/Conv3d_(\w+?)/(\w+/\w+)", place):
        layer = TF_BRANCHES.get((match[2], match[3]))
        return f"{match[1]}.{layer}.{TF_LEAF[match[4]]}" if layer and match[4] in TF_LEAF else key
    if match := re.fullmatch(rf"({CONVS})/(\w+/\w+)", place):
        return f"{match[1]}.{TF_LEAF[match[2]]}" if match[2] in TF_LEAF else key
    return key


def _recognises_piergiaj(names: Collection[str]) -> bool:
    return "Conv3d_1a_7x7.conv3d.weight" in names


def _recognises_hassony2(names: Collection[str]) -> bool:
    return "conv3d_1a_7x7.conv3d.weight" in names


def _recognises_tensorflow(names: Collection[str]) -> bool:
    return any(re.fullmatch(r"(.*/)?Conv3d_1a_7x7/conv_3d/w(:0)?", name) for name in names)


PIERGIAJ_FORMAT = Format("piergiaj", _recognises_piergiaj, _convert_piergiaj)
HASSONY2_FORMAT = Format("hassony2", _recognises_hassony2, _convert_hassony2)
TENSORFLOW_FORMAT = Format("tensorflow", _recognises_tensorflow, _convert_tensorflow)
