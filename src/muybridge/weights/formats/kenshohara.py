"""3D ResNets of kenshohara: github.com/kenshohara/3D-ResNets-PyTorch, MIT, basic blocks and bottlenecks.

The names are those of torchvision's 2D ResNets, the convolutions are 3D. The first weights, of 2017, are of a
PyTorch that did not count the batches of a BatchNorm, and were trained on colours less a mean.
"""

from collections.abc import Mapping

from torch import Tensor

from muybridge.errors import WeightsError
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
CLIP_OF_2017 = {"scale": 255, "mean": (114.7748, 107.7354, 99.4750), "std": (1.0, 1.0, 1.0)}
NOTES = {
    True: "the file counts no batches, so it is taken for one of 2017: colours of 0 to 255 less a mean; if "
    "not, set scale, mean and std of the clip",
    False: "the file counts batches, so it is taken for a later one: colours of 0 to 1, less a mean, by a "
    "standard deviation; if not, set scale, mean and std of the clip",
}


def _recognises(tensors: Mapping[str, Tensor]) -> bool:
    weights = (tensors.get("conv1.weight"), tensors.get("layer1.0.conv1.weight"))
    return all(weight is not None and weight.ndim == 5 for weight in weights)


def _convert(state: Mapping[str, Tensor]) -> Converted:
    """Raises WeightsError for the other networks of this code base."""
    _refuse_others(state)
    projects = any(".downsample." in name for name in state)
    is_of_2017 = not any(name.endswith("num_batches_tracked") for name in state)
    return Converted(
        format="kenshohara",
        tensors=renamed(state, RULES),
        arguments={"shortcut": "B" if projects else "A"},
        clip=CLIP_OF_2017 if is_of_2017 else {},
        notes=(NOTES[is_of_2017],),
    )


def _refuse_others(state: Mapping[str, Tensor]) -> None:
    """The code base has more networks by these names, whose tensors have other shapes."""
    shapes = {name: value.shape for name, value in state.items()}
    stem, inner = shapes["conv1.weight"][0], shapes["layer1.0.conv1.weight"][0]
    conv_2, norm = shapes.get("layer1.0.conv2.weight"), shapes.get("layer2.0.bn1.weight")
    kind = None
    if conv_2 is not None and conv_2[1] != inner:
        kind = "ResNeXt"
    elif inner != stem:
        kind = "Wide ResNet"
    elif norm is not None and norm != shapes["layer2.0.conv1.weight"][:1]:
        kind = "pre-activation ResNet"
    if kind is not None:
        raise WeightsError(
            f"this is a {kind} of kenshohara's code; here are its ResNets alone: resnet3d_18 ... resnet3d_200"
        )


FORMAT = Format("kenshohara", _recognises, _convert)
