"""State dicts of others, renamed to ours. The format is found from the names of the tensors.

Formats: ours; torchvision's video ResNets (r3d_18, mc3_18, r2plus1d_18); IG-65M and VMZ, which have
torchvision's names, the paper's middle widths and 34 layers.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from muybridge.config import ClipSpec
from muybridge.errors import WeightsError
from muybridge.models.contract import VideoModel
from muybridge.models.r2plus1d import clip_spec

StateDict = dict[str, Tensor]
MAX_LISTED = 6

# torchvision's VideoResNet -> ours. A plain convolution is (conv, BatchNorm), a (2+1)D one is
# ((spatial, BatchNorm, ReLU, temporal), BatchNorm).
PLAIN_STEM = {"stem.0": "stem.conv", "stem.1": "stem.bn"}
FACTORED_STEM = {
    "stem.0": "stem.conv.spatial",
    "stem.1": "stem.conv.mid_bn",
    "stem.3": "stem.conv.temporal",
    "stem.4": "stem.bn",
}
PLAIN_CONV = {"0": "conv_{}", "1": "bn_{}"}
FACTORED_CONV = {"0.0": "conv_{}.spatial", "0.1": "conv_{}.mid_bn", "0.3": "conv_{}.temporal", "1": "bn_{}"}
SHORTCUT = {"0": "shortcut.conv", "1": "shortcut.bn"}


@dataclass(frozen=True)
class LoadReport:
    """What became of the tensors of a file and of a network. Prints itself in one line.

    Attributes:
        loaded: names in the network that took the file's values.
        adapted: names that took them after a change of shape.
        random: names in the network that kept their random values.
        unused: names in the file that found no place.
        format: whose names the file has.
        differs: arguments that change what the network computes and that no tensor shows.
    """

    loaded: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()
    random: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    format: str = "muybridge"
    differs: tuple[str, ...] = ()

    def rows(self) -> list[tuple[str, int, str]]:
        """For a table: what happened, how many tensors, and the parts of the network they lie in."""
        parts = ("loaded", "adapted", "random", "unused")
        return [(part, len(names), _stems(names)) for part in parts if (names := getattr(self, part))]

    def __str__(self) -> str:
        parts = [f"{count} tensors {what} ({where})" for what, count, where in self.rows()]
        return f"{self.format} weights: {'; '.join([*parts, *self.differs])}"


@dataclass(frozen=True)
class Converted:
    """A state dict with our names, and what its authors' networks need beside it.

    Attributes:
        format: whose it was.
        tensors: by our names.
        arguments: of `build`, where the authors' differ from ours and no tensor shows it.
        specs: how the authors made clips; None if the format does not say.
    """

    format: str
    tensors: StateDict
    arguments: dict[str, Any] = field(default_factory=dict)
    specs: tuple[ClipSpec, ...] | None = None


def convert(state: Mapping[str, Tensor]) -> Converted:
    """Renames a foreign state dict; ours passes through.

    Raises:
        WeightsError: no known format has these names.
    """
    state = _without_wrapping(state)
    if "stem.0.weight" in state and any(key.startswith("layer1.0.conv1.") for key in state):
        return _from_torchvision(state)
    if "head.fc.weight" in state or any(key.startswith("stages.0.") for key in state):
        return Converted("muybridge", dict(state))
    raise WeightsError(
        "none of the known formats has these names (muybridge, torchvision video ResNets, IG-65M / VMZ): "
        f"{listed(sorted(state))}"
    )


def mismatches(tensors: Mapping[str, Tensor], model: VideoModel, *, trunk_only: bool = False) -> list[str]:
    """Why these tensors do not fit this network, one line a name; empty if they do.

    BatchNorm's `num_batches_tracked` may be absent: old files lack it, and nothing depends on it here.
    """
    own = {key: value for key, value in model.state_dict().items() if not (trunk_only and _in_head(key))}
    given = {key: value for key, value in tensors.items() if not (trunk_only and _in_head(key))}
    wrong = [f"missing {key}" for key in own if key not in given and not _is_counter(key)]
    wrong += [f"unexpected {key}" for key in given if key not in own]
    wrong += [
        f"{key} is {list(given[key].shape)}, the network's is {list(value.shape)}"
        for key, value in own.items()
        if key in given and given[key].shape != value.shape
    ]
    return wrong


def _from_torchvision(state: Mapping[str, Tensor]) -> Converted:
    factored = "stem.3.weight" in state
    tensors = {_torchvision_name(key, factored=factored): value for key, value in state.items()}
    ig65m = factored and _has_paper_widths(tensors)
    return Converted(
        format="IG-65M / VMZ" if ig65m else "torchvision",
        tensors=tensors,
        arguments={"bn_eps": 1e-3} if ig65m else {},  # Caffe2's, in which they were trained
        specs=None if ig65m else (clip_spec(torchvision=True),),
    )


def _torchvision_name(key: str, *, factored: bool) -> str:
    stem, conv = (FACTORED_STEM, FACTORED_CONV) if factored else (PLAIN_STEM, PLAIN_CONV)
    place, _, leaf = key.rpartition(".")
    if place == "fc":
        return f"head.fc.{leaf}"
    if place in stem:
        return f"{stem[place]}.{leaf}"
    match = re.fullmatch(r"layer([1-4])\.(\d+)\.(?:conv([12])|downsample)\.([\d.]+)", place)
    names = conv if match and match[3] else SHORTCUT
    if not match or match[4] not in names:
        return key  # left over; it will be reported as unexpected
    slot = names[match[4]].format("ab"[int(match[3]) - 1] if match[3] else "")
    return f"stages.{int(match[1]) - 1}.{match[2]}.{slot}.{leaf}"


def _has_paper_widths(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the second convolution of a down-sampling block has an M of its own: torchvision's has not."""
    first, second = (tensors.get(f"stages.1.0.conv_{letter}.spatial.weight") for letter in "ab")
    return first is not None and second is not None and first.shape[0] != second.shape[0]


def _without_wrapping(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a training script's file: below "state_dict" or the like, without "module."."""
    for key in ("state_dict", "model_state", "model"):
        if isinstance(state.get(key), Mapping):
            state = state[key]
    tensors = {key.removeprefix("module."): value for key, value in state.items()}
    strange = [key for key, value in tensors.items() if not isinstance(value, Tensor)]
    if strange:
        raise WeightsError(f"a state dict holds tensors only, this one has others: {listed(strange)}")
    return tensors


def _in_head(key: str) -> bool:
    return key.startswith("head.")


def _is_counter(key: str) -> bool:
    return key.endswith("num_batches_tracked")


def _stems(names: tuple[str, ...]) -> str:
    """The parts of a network that names lie in: "stem, stages.0, head"."""
    parts = dict.fromkeys(re.sub(r"^(stages\.\d+|[^.]+).*", r"\1", name) for name in names)
    return ", ".join(parts)


def listed(names: list[str]) -> str:
    """The first few of many names, and how many more there are."""
    more = f", and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more
