"""PySlowFast's own files (.pyth) and its Caffe2 ones (.pkl); the latter are also those of video-nonlocal-net.

s1.pathway0_stem.conv          conv1                 pathway 0 is Slow, 1 is Fast ("t_" in Caffe2)
s2.pathway0_res0.branch2.a     res2_0_branch2a       s2 .. s5 are the stages
s1_fuse.conv_f2s               t_pool1_subsample     the laterals
s3.pathway0_nonlocal1          nonlocal_conv3_1
"""

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from muybridge.errors import WeightsError
from muybridge.weights.formats.naming import Converted, Format, Rule, StateDict, put, renamed, without_ones

SLOT = {"": "conv", "_bn": "bn"}
PATH = {"0": "slow.", "1": "fast."}
ONLY = {"0": ""}
NOT_WEIGHTS = re.compile(r"(.*_momentum|lr|model_iter)")  # what training left in a Caffe2 file
LEAF = {
    "w": "weight",
    "b": "bias",
    "s": "weight",
    "rm": "running_mean",
    "riv": "running_var",
}  # riv: the variance
BN_EPS = 1e-5
LAYOUT_NOTE = (
    "a Caffe2 file of C2D or I3D does not say its layout: 'pytorchvideo' is PySlowFast's; those of "
    "video-nonlocal-net need layout=caffe2 (32x2, 128x1) or layout=caffe2_8x8 (8x8, 32x4)"
)
GROUP_NOTE = (
    "where BatchNorm is frozen, the authors' non-local blocks in res3 see four frames at a time, here all of "
    "them: scores are not theirs"
)
POOL_NOTE = (
    "PySlowFast's C2D_NOPOOL has the tensors of c2d_r50 and another network: it does not pool behind res2"
)


def _rules(paths: Mapping[str, str]) -> tuple[Rule, ...]:
    words: dict[str, Mapping[str, str]] = {"p": paths}
    block = r"s(?P<s>[2-5])\.pathway(?P<p>[01])_res(?P<j>\d+)\."
    place, first = "{p}stages.{s}.{j}.", {"s": 2}
    return (
        Rule(r"s1\.pathway(?P<p>[01])_stem\.(?P<x>conv|bn)", "{p}stem.{x}", words=words),
        Rule(block + r"branch1(?P<x>|_bn)", place + "shortcut.{x}", first, {**words, "x": SLOT}),
        Rule(block + r"branch2\.(?P<y>[abc])(?P<x>|_bn)", place + "{x}_{y}", first, {**words, "x": SLOT}),
        Rule(
            r"s(?P<s>[2-5])\.pathway(?P<p>[01])_nonlocal(?P<j>\d+)\.(?:conv_)?(?P<x>theta|phi|g|out|bn)",
            "{p}stages.{s}.nl{j}.{x}",
            first,
            words,
        ),
        Rule(r"s(?P<l>[1-4])_fuse\.conv_f2s", "lateral.{l}.conv", {"l": 1}),
        Rule(r"s(?P<l>[1-4])_fuse\.bn", "lateral.{l}.bn", {"l": 1}),
        Rule(r"head\.projection", "head.fc"),
    )


# Caffe2's blobs without their last part -> PySlowFast's layers; `p` is "t_" for Fast.
P = r"(?P<p>(?:t_)?)"
CAFFE2_PATH = {"": "0", "t_": "1"}
WORDS: dict[str, Mapping[str, str]] = {"p": CAFFE2_PATH}
CAFFE2 = (
    Rule(P + r"conv1", "s1.pathway{p}_stem.conv", words=WORDS),
    Rule(P + r"res_conv1_bn", "s1.pathway{p}_stem.bn", words=WORDS),
    Rule(P + r"res(?P<s>[2-5])_(?P<j>\d+)_branch1", "s{s}.pathway{p}_res{j}.branch1", words=WORDS),
    Rule(P + r"res(?P<s>[2-5])_(?P<j>\d+)_branch1_bn", "s{s}.pathway{p}_res{j}.branch1_bn", words=WORDS),
    Rule(
        P + r"res(?P<s>[2-5])_(?P<j>\d+)_branch2(?P<y>[abc])(?P<x>(?:_bn)?)",
        "s{s}.pathway{p}_res{j}.branch2.{y}{x}",
        words=WORDS,
    ),
    Rule(r"t_pool1_subsample", "s1_fuse.conv_f2s"),
    Rule(r"t_pool1_subsample_bn", "s1_fuse.bn"),
    Rule(r"t_res(?P<s>[2-4])_\d+_branch2c_bn_subsample", "s{s}_fuse.conv_f2s"),
    Rule(r"t_res(?P<s>[2-4])_\d+_branch2c_bn_subsample_bn", "s{s}_fuse.bn"),
    Rule(
        r"nonlocal_conv(?P<s>[2-5])_(?P<j>\d+)_(?P<x>theta|phi|g|out)", "s{s}.pathway0_nonlocal{j}.conv_{x}"
    ),
    Rule(r"nonlocal_conv(?P<s>[2-5])_(?P<j>\d+)_bn", "s{s}.pathway0_nonlocal{j}.bn"),
    Rule(r"pred", "head.projection"),
)


def _recognises_pyth(names: Collection[str]) -> bool:
    return "s1.pathway0_stem.conv.weight" in names


def _convert_pyth(state: Mapping[str, Tensor]) -> Converted:
    two = any(".pathway1_" in name for name in state)
    tensors = renamed(state, _rules(PATH if two else ONLY))
    adapted = without_ones(tensors, ["head.fc.weight"])
    first = tensors.get("stages.2.0.conv_a.weight")  # C2D's is 1 x 1 x 1, Slow's 3 x 1 x 1
    flat = not two and first is not None and first.shape[2] == 1 and tensors["stem.conv.weight"].shape[2] == 1
    return Converted(
        format="PySlowFast", tensors=tensors, adapted=adapted, notes=(POOL_NOTE,) if flat else ()
    )


def _recognises_caffe2(names: Collection[str]) -> bool:
    return "conv1_w" in names and "res2_0_branch2a_w" in names


def _convert_caffe2(state: Mapping[str, Tensor]) -> Converted:
    dropped = tuple(name for name in state if NOT_WEIGHTS.fullmatch(name))
    theirs: StateDict = {}
    for name, value in state.items():
        if name not in dropped:
            put(theirs, _pyslowfast_name(name), value, old=name)
    filled = _fill_frozen(theirs)
    found = _convert_pyth(theirs)
    notes = found.notes
    if not any(name.startswith("fast.") for name in found.tensors):
        notes += (LAYOUT_NOTE,)
    if filled and any(name.startswith("stages.1.nl") for name in found.tensors):
        notes += (GROUP_NOTE,)
    return Converted(
        format="Caffe2 (frozen BatchNorm)" if filled else "Caffe2",
        tensors=found.tensors,
        adapted=found.adapted,
        dropped=dropped,
        notes=notes,
    )


def _pyslowfast_name(name: str) -> str:
    """A blob of Caffe2 by PySlowFast's name; one that is not known keeps its own."""
    place, _, leaf = name.rpartition("_")
    layer = next((new for rule in CAFFE2 if (new := rule.apply(place)) is not None), None)
    return name if layer is None or leaf not in LEAF else f"{layer}.{LEAF[leaf]}"


def _fill_frozen(tensors: StateDict) -> bool:
    """Gives frozen BatchNorms, which are scale and shift alone, statistics that change nothing.

    Raises:
        WeightsError: only some of them have none of their own.
    """
    norms = [name.removesuffix(".bias") for name in tensors if re.search(r"bn\.bias$", name)]
    frozen = [norm for norm in norms if f"{norm}.running_var" not in tensors]
    if frozen and len(frozen) != len(norms):
        raise WeightsError(
            f"{len(frozen)} of {len(norms)} BatchNorms have no statistics, such as {frozen[0]}"
        )
    for norm in frozen:
        bias = tensors[f"{norm}.bias"]
        tensors[f"{norm}.running_mean"] = torch.zeros_like(bias)
        tensors[f"{norm}.running_var"] = torch.full_like(bias, 1 - BN_EPS)
    return bool(frozen)


PYTH = Format("pyslowfast", _recognises_pyth, _convert_pyth)
PKL = Format("caffe2", _recognises_caffe2, _convert_caffe2)
