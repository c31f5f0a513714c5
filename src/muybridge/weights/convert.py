"""State dicts of others, renamed to ours. The format is found from the names of tensors: see `formats`."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from muybridge.errors import WeightsError
from muybridge.models.contract import VideoModel
from muybridge.weights.formats import FORMATS, Converted, recognise

__all__ = ["Converted", "LoadReport", "convert", "listed", "mismatches"]

MAX_LISTED = 6
OURS = ("head.fc.", "head.rgb.fc.", "stages.", "slow.stages.")  # open the names of tensors of ours
WRAPPINGS = ("state_dict", "model_state", "model", "blobs")  # keys of a training script's file


@dataclass(frozen=True)
class LoadReport:
    """What became of the tensors of a file and of a network. Prints itself in one line.

    Attributes:
        loaded: names in the network that took the file's values.
        adapted: names that took them after a change of shape.
        random: names in the network that kept their random values.
        dropped: names in the file that found no place.
        format: whose names the file has.
        differs: arguments that change what the network computes and that no tensor shows.
        notes: what the user has to know or to choose, since nothing in the file tells it.
    """

    loaded: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()
    random: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    format: str = "muybridge"
    differs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def rows(self) -> list[tuple[str, int, str]]:
        """For a table: what happened, how many tensors, and the parts of the network they lie in."""
        parts = ("loaded", "adapted", "random", "dropped")
        return [(part, len(names), _stems(names)) for part in parts if (names := getattr(self, part))]

    def __str__(self) -> str:
        parts = [f"{count} tensors {what} ({where})" for what, count, where in self.rows()]
        return f"{self.format} weights: {'; '.join([*parts, *self.differs])}"


def convert(state: Mapping[str, Any], *, format: str = "auto") -> Converted:
    """Renames a foreign state dict; ours passes through.

    Args:
        state: tensors by name, or a training script's dictionary with them in it.
        format: a key of `FORMATS`, or "muybridge"; "auto" finds it from the names.

    Raises:
        WeightsError: no known format has these names, or not this one.
    """
    tensors = tensors_in(state)
    if format not in ("auto", "muybridge", *FORMATS):
        raise WeightsError(f"no format '{format}': choose from auto, muybridge, {', '.join(FORMATS)}")
    found = recognise(tensors) if format in ("auto", "muybridge") else FORMATS[format]
    if found is None:
        if format == "muybridge" or any(name.startswith(OURS) for name in tensors):
            return Converted(format="muybridge", tensors=tensors)
        raise WeightsError(_unknown(tensors))
    if format == "muybridge" or not found.recognises(tensors):
        raise WeightsError(
            f"this is no file of {format} (auto finds the format): its names are {listed(sorted(tensors))}"
        )
    if (why := _not_ours(tensors)) is not None:
        raise WeightsError(why)
    return found.convert(tensors)


NON_LOCAL = re.compile(r"\.nl\d+\.")  # among the names of a trunk


def mismatches(
    tensors: Mapping[str, Tensor],
    model: VideoModel,
    *,
    trunk_only: bool = False,
    gained: tuple[str, ...] = (),
) -> list[str]:
    """Why these tensors do not fit this network, one line a name; empty if they do.

    BatchNorm's `num_batches_tracked` may be absent: old files lack it, and nothing depends on it here. For
    the trunk alone, non-local blocks may be: new ones are the identity, so a network can gain them later.

    Args:
        tensors: by our names.
        model: the network.
        trunk_only: the head does not matter.
        gained: starts of names that may be absent as well.
    """
    own = {key: value for key, value in model.state_dict().items() if not (trunk_only and _in_head(key))}
    given = {key: value for key, value in tensors.items() if not (trunk_only and _in_head(key))}
    missing = [key for key in own if key not in given and not is_counter(key) and not key.startswith(gained)]
    wrong = [f"missing {key}" for key in missing if not (trunk_only and NON_LOCAL.search(key))]
    wrong += [f"unexpected {key}" for key in given if key not in own]
    wrong += [
        f"{key} is {list(given[key].shape)}, the network's is {list(value.shape)}"
        for key, value in own.items()
        if key in given and given[key].shape != value.shape
    ]
    return wrong


def _has(part: str) -> Callable[[Mapping[str, Tensor]], bool]:
    return lambda tensors: any(part in name for name in tensors)


# Files that are known, and that no network here can take.
REFUSED: dict[str, Callable[[Mapping[str, Tensor]], bool]] = {
    "TSM: it moves channels from frame to frame": _has(".conv.net."),
    "X3D, CSN or another depthwise network": _has(".norm_b.1.block."),
    "a vision transformer": _has("pos_embed"),
    "a detector of AVA": _has("detection_head."),
}


def _not_ours(tensors: Mapping[str, Tensor]) -> str | None:
    known = next((what for what, matches in REFUSED.items() if matches(tensors)), None)
    return known and f"this is {known}; no network here is that, see: muybridge models"


def _unknown(tensors: Mapping[str, Tensor]) -> str:
    formats = ", ".join(("muybridge", *FORMATS))
    return _not_ours(tensors) or (
        f"none of the known formats has these names ({formats}): {listed(sorted(tensors))}"
    )


def tensors_in(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a training script's file: below "state_dict" or the like, without "module."."""
    for key in WRAPPINGS:
        if isinstance(state.get(key), Mapping):
            state = state[key]
    tensors = {str(key).removeprefix("module."): value for key, value in state.items()}
    strange = [key for key, value in tensors.items() if not isinstance(value, Tensor)]
    if strange:
        raise WeightsError(f"a state dict holds tensors only, this one has others: {listed(strange)}")
    return tensors


def _in_head(key: str) -> bool:
    return key.startswith("head.")


def trunk_names(tensors: Mapping[str, Tensor]) -> frozenset[str]:
    """The names of all but the classifier's tensors, and of all but counters of batches."""
    return frozenset(key for key in tensors if not _in_head(key) and not is_counter(key))


def classes_in(tensors: Mapping[str, Tensor]) -> int | None:
    """K, by the classifier; None if there is none."""
    heads = [value for key, value in tensors.items() if _in_head(key) and key.endswith("fc.weight")]
    return len(heads[0]) if heads else None


def is_counter(key: str) -> bool:
    """Whether a tensor counts the batches that a BatchNorm has seen."""
    return key.endswith("num_batches_tracked")


def _stems(names: tuple[str, ...]) -> str:
    """The parts of a network that names lie in: "stem, stages.0, head"."""
    parts = dict.fromkeys(
        re.sub(r"^((?:(?:slow|fast)\.)?stages\.\d+|[^.]+).*", r"\1", name) for name in names
    )
    return ", ".join(parts)


def listed(names: list[str]) -> str:
    """The first few of many names, and how many more there are."""
    more = f", and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more
