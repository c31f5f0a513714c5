"""mmaction2 1.x: C3D, I3D ResNets with or without non-local blocks, SlowOnly, SlowFast, R(2+1)D, TSN.

A ConvModule is (conv, bn). Stages are layer1 .. layer4, bottlenecks conv1 .. conv3. Non-local convolutions
that a pooling follows have an index 0.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from muybridge.errors import WeightsError
from muybridge.models.tsn_backbones import RESNETS
from muybridge.weights.formats.frames import Snippet, snippet_of, with_frame_axis
from muybridge.weights.formats.naming import Converted, Format, Rule, StateDict, renamed

PATH = {"": "", "slow_path.": "slow.", "fast_path.": "fast."}
LETTERS = {"1": "a", "2": "b", "3": "c"}
P = r"(?:backbone\.)?(?P<p>(?:(?:slow|fast)_path\.)?)"
BLOCK = P + r"layer(?P<s>[1-4])\.(?P<j>\d+)\."
WORDS: dict[str, Mapping[str, str]] = {"p": PATH}
FIRST = {"s": 1}
RESNET = (
    Rule(P + r"conv1\.(?P<x>conv|bn)", "{p}stem.{x}", words=WORDS),
    Rule(
        BLOCK + r"conv(?P<y>[123])\.(?P<x>conv|bn)",
        "{p}stages.{s}.{j}.{x}_{y}",
        FIRST,
        {**WORDS, "y": LETTERS},
    ),
    Rule(BLOCK + r"downsample\.(?P<x>conv|bn)", "{p}stages.{s}.{j}.shortcut.{x}", FIRST, WORDS),
    Rule(
        BLOCK + r"non_local_block\.(?P<x>theta|phi|g)\.(?:0\.)?conv",
        "{p}stages.{s}.nl{j}.{x}",
        FIRST,
        WORDS,
    ),
    Rule(BLOCK + r"non_local_block\.conv_out\.conv", "{p}stages.{s}.nl{j}.out", FIRST, WORDS),
    Rule(BLOCK + r"non_local_block\.conv_out\.bn", "{p}stages.{s}.nl{j}.bn", FIRST, WORDS),
    Rule(r"(?:backbone\.)?slow_path\.conv1_lateral\.(?P<x>conv|bn)", "lateral.0.{x}"),
    Rule(r"(?:backbone\.)?slow_path\.layer(?P<l>[1-3])_lateral\.(?P<x>conv|bn)", "lateral.{l}.{x}"),
    Rule(r"cls_head\.fc_cls", "head.fc"),
)
C3D = (
    Rule(r"(?:backbone\.)?(?P<x>conv[1-5][ab])\.conv", "{x}"),
    Rule(r"(?:backbone\.)?(?P<x>fc[67])", "{x}"),
    Rule(r"cls_head\.fc_cls", "head.fc"),
)
# (2+1)D convolutions have a BatchNorm inside.
PARTS = {"conv_s": "spatial", "bn_s": "mid_bn", "conv_t": "temporal"}
X = r"conv\.(?P<x>conv_s|bn_s|conv_t)"
R2PLUS1D = (
    Rule(P + r"conv1\." + X, "stem.conv.{x}", words={"x": PARTS}),
    Rule(BLOCK + r"conv(?P<y>[12])\." + X, "stages.{s}.{j}.conv_{y}.{x}", FIRST, {"y": LETTERS, "x": PARTS}),
    Rule(BLOCK + r"downsample\." + X, "stages.{s}.{j}.shortcut.conv.{x}", FIRST, {"x": PARTS}),
    *RESNET,
)
# Networks of frames: the same trunk, as the backbone of TSN.
TSN = tuple(
    rule if rule.name.startswith("head.") else replace(rule, name=f"backbone.{rule.name}") for rule in RESNET
)
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
FRAMES_NOTE = (
    "the file does not say how many frames it was trained with: 8 at a stride of 8, or 32 at one of 2"
)
GAUSSIAN_NOTE = (
    "nothing in the file tells the embedded Gaussian from the dot product: "
    "for the latter set nl_kind=dot_product"
)


def _recognises(names: Collection[str]) -> bool:
    return any(name.startswith(("backbone.conv1", "backbone.slow_path.")) for name in names) or (
        "conv1a.conv.weight" in names
    )


def _convert(state: Mapping[str, Tensor]) -> Converted:
    if any(name.endswith("conv1a.conv.weight") for name in state):
        return Converted(format="mmaction2", tensors=renamed(state, C3D), arguments={"pool5": "symmetric"})
    first = state.get("backbone.conv1.conv.weight")
    if first is not None and first.ndim == 4:
        return _convert_tsn(state, snippet_of(first))
    if "backbone.conv1.conv.conv_s.weight" in state:
        return Converted(
            format="mmaction2",
            tensors=renamed(state, R2PLUS1D),
            arguments={"layout": "mmaction2", "bn_eps": 1e-3},
            clip={**IMAGENET, "resize": 256, "crop": 224},
            notes=(FRAMES_NOTE,),
        )
    tensors = renamed(state, RESNET)
    arguments = {"layout": "mmaction2", "slow_frames": "stride"}
    notes: tuple[str, ...] = ()
    adapted = _slow_first(tensors)
    if any(".nl" in name for name in tensors):
        adapted += _with_biases(tensors)
        embedded = any(name.endswith(".theta.weight") for name in tensors)
        arguments["nl_kind"] = "embedded_gaussian" if embedded else "gaussian"
        notes = (GAUSSIAN_NOTE,) if embedded else ()
    return Converted(
        format="mmaction2",
        tensors=tensors,
        arguments=arguments,
        clip=dict(IMAGENET),
        adapted=adapted,
        notes=notes,
    )


def _convert_tsn(state: Mapping[str, Tensor], snippet: Snippet) -> Converted:
    """TSN of 2D ResNets; the mean of its snippets' features, of which it gives scores, is that of the scores.

    Raises:
        WeightsError: no network here has as many blocks.
    """
    places = [re.fullmatch(r"backbone\.layer([1-4])\.\d+\.conv3\.conv\.weight", name) for name in state]
    stages = [match[1] for match in places if match]
    blocks = tuple(stages.count(stage) for stage in "1234")
    backbone = next((name for name, known in RESNETS.items() if known == blocks), None)
    if backbone is None:
        known = ", ".join(f"{name} {list(counts)}" for name, counts in RESNETS.items())
        raise WeightsError(
            f"the file is a 2D network of mmaction2 with {list(blocks)} bottlenecks; tsn has {known}"
        )
    tensors = renamed(state, TSN)
    rgb = {**IMAGENET, "resize": 256, "scale": 1, "channel_order": "rgb"}
    flow = {"resize": 256, "scale": 255, "mean": (128.0, 128.0), "std": (128.0, 128.0)}
    return Converted(
        format="mmaction2",
        tensors=tensors,
        arguments={"backbone": backbone, **snippet.arguments},
        clip={"rgb": rgb, "flow": flow}.get(snippet.modality, {}),
        adapted=with_frame_axis(tensors),
        notes=snippet.note,
    )


def _slow_first(tensors: StateDict) -> tuple[str, ...]:
    """The classifier of two pathways takes Fast's features before Slow's there; here Slow's come first."""
    weight, fast = tensors.get("head.fc.weight"), tensors.get("fast.stages.3.0.bn_c.bias")
    if weight is None or fast is None:
        return ()
    tensors["head.fc.weight"] = torch.cat((weight[:, len(fast) :], weight[:, : len(fast)]), 1)
    return ("head.fc.weight",)


def _with_biases(tensors: StateDict) -> tuple[str, ...]:
    """The last convolution of a non-local block has no bias there, since a BatchNorm follows it."""
    outs = [name for name in tensors if re.search(r"\.nl\d+\.out\.weight$", name)]
    biases = tuple(name.replace("weight", "bias") for name in outs)
    tensors |= {
        bias: tensors[name].new_zeros(len(tensors[name])) for name, bias in zip(outs, biases, strict=True)
    }
    return biases


FORMAT = Format("mmaction2", _recognises, _convert)
