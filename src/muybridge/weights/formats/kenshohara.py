"""3D ResNets of kenshohara: github.com/kenshohara/3D-ResNets-PyTorch, MIT, basic blocks and bottlenecks.

The names are those of torchvision's 2D ResNets, the convolutions are 3D. The first weights, of 2017, know
the 400 classes of Kinetics and were trained on colours less a mean; those of 2020 know 100, or 339 to 1139.
"""

from collections.abc import Mapping

from torch import Tensor

from muybridge.weights.formats.naming import Converted, Format, Rule, renamed

LETTERS = {"1": "a", "2": "b", "3": "c"}  # the convolutions of a block
BLOCK = r"layer(?P<s>[1-4])\.(?P<j>\d+)\."
FIRST = {"s": 1}
RULES = (
    Rule(r"(?P<x>conv|bn)1", "stem.{x}"),
    Rule(BLOCK + r"(?P<x>conv|bn)(?P<y>[123])", "stages.{s}.{j}.{x}_{y}", FIRST, {"y": LETTERS}),
    Rule(BLOCK + r"downsample\.0", "stages.{s}.{j}.shortcut.conv", FIRST),
    Rule(BLOCK + r"downsample\.1", "stages.{s}.{j}.shortcut.bn", FIRST),
    Rule(r"fc", "head.fc"),
)
CLASSES_OF_2017 = 400
CLIP_OF_2017 = {"scale": 255, "mean": (114.7748, 107.7354, 99.4750), "std": (1.0, 1.0, 1.0)}


def _recognises(tensors: Mapping[str, Tensor]) -> bool:
    weights = (tensors.get("conv1.weight"), tensors.get("layer1.0.conv1.weight"))
    return all(weight is not None and weight.ndim == 5 for weight in weights)


def _convert(state: Mapping[str, Tensor]) -> Converted:
    projects = any(".downsample." in name for name in state)
    head = state.get("fc.weight")
    is_of_2017 = head is not None and len(head) == CLASSES_OF_2017
    return Converted(
        format="kenshohara",
        tensors=renamed(state, RULES),
        arguments={"shortcut": "B" if projects else "A"},
        clip=CLIP_OF_2017 if is_of_2017 else {},
    )


FORMAT = Format("kenshohara", _recognises, _convert)
