"""The hub of pytorchvideo 0.1.5: C2D, I3D and Slow R50, SlowFast R50 and R101.

Its blocks are numbered: 0 is the stem, then come the stages, last the head. Those of c2d and i3d count the
pooling behind the first stage as block 2, which has no tensors, so their stages are 1, 3, 4 and 5.
"""

from collections.abc import Collection, Mapping

from torch import Tensor

from muybridge.weights.formats.naming import Converted, Format, Rule, renamed

PATHWAYS = {"0": "slow.", "1": "fast."}
SLOT = {"conv": "conv", "norm": "bn"}


def _stage_rules(stages: Mapping[str, str], inside: str, path: str) -> tuple[Rule, ...]:
    """The stages of a trunk.

    Args:
        stages: the number of each stage's block, and its number here.
        inside: between the number of a block and "res_blocks", a pattern that may name the pathway `p`.
        path: what opens the names here.
    """
    start = rf"blocks\.(?P<s>{'|'.join(stages)})\.{inside}res_blocks\.(?P<j>\d+)\."
    place = path + "stages.{s}.{j}."
    words: dict[str, Mapping[str, str]] = {"s": stages}
    if path:
        words["p"] = PATHWAYS
    return (
        Rule(start + r"branch1_(?P<x>conv|norm)", place + "shortcut.{x}", words={**words, "x": SLOT}),
        Rule(
            start + r"branch2\.(?P<x>conv|norm)_(?P<y>[abc])", place + "{x}_{y}", words={**words, "x": SLOT}
        ),
    )


ONE_PATHWAY = (Rule(r"blocks\.0\.conv", "stem.conv"), Rule(r"blocks\.0\.norm", "stem.bn"))
HEAD = Rule(r"blocks\.[56]\.proj", "head.fc")
POOLED = {"1": "0", "3": "1", "4": "2", "5": "3"}  # c2d, i3d
PLAIN = {"1": "0", "2": "1", "3": "2", "4": "3"}
TWO = r"multipathway_blocks\.(?P<p>[01])\."
TWO_PATHWAYS = (
    Rule(rf"blocks\.0\.{TWO}(?P<x>conv|norm)", "{p}stem.{x}", words={"p": PATHWAYS, "x": SLOT}),
    Rule(r"blocks\.(?P<l>[0-3])\.multipathway_fusion\.conv_fast_to_slow", "lateral.{l}.conv"),
    Rule(r"blocks\.(?P<l>[0-3])\.multipathway_fusion\.norm", "lateral.{l}.bn"),
    *_stage_rules(PLAIN, TWO, "{p}"),
    HEAD,
)


def _recognises(names: Collection[str]) -> bool:
    return "blocks.0.conv.weight" in names or "blocks.0.multipathway_blocks.0.conv.weight" in names


def _convert(state: Mapping[str, Tensor]) -> Converted:
    if any("multipathway" in name for name in state):
        return Converted(format="pytorchvideo", tensors=renamed(state, TWO_PATHWAYS))
    pooled = not any(name.startswith("blocks.2.") for name in state)
    stages = _stage_rules(POOLED if pooled else PLAIN, "", "")
    return Converted(format="pytorchvideo", tensors=renamed(state, (*ONE_PATHWAY, *stages, HEAD)))


FORMAT = Format("pytorchvideo", _recognises, _convert)
