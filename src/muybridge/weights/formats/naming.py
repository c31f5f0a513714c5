"""What the modules of this package share: what a conversion gives, and how tensors are renamed."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import Tensor

from muybridge.config import ClipSpec
from muybridge.errors import WeightsError

StateDict = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A state dict with our names, and what its authors' networks need beside it.

    Attributes:
        format: whose it was.
        tensors: by our names.
        arguments: of `build`, where the authors' differ from ours and no tensor shows it. A network that does
            not have one of them does without.
        specs: how the authors made clips, whole; None leaves them to the network.
        clip: fields of the network's own specs that the authors had otherwise, such as `mean`.
        adapted: those of `tensors` whose shape or values were changed on the way.
        dropped: names in the file that no network needs: counters, momenta.
        notes: what the user has to know or to choose, since nothing in the file tells it.
        trunks: networks that call the trunk otherwise than `tensors` do: what opens its names there.
    """

    format: str
    tensors: StateDict
    arguments: dict[str, Any] = field(default_factory=dict)
    specs: tuple[ClipSpec, ...] | None = None
    clip: dict[str, Any] = field(default_factory=dict)
    adapted: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    trunks: Mapping[str, str] = field(default_factory=dict)

    def named_for(self, network: str) -> "Converted":
        """The same by the names of a network, which may call its trunk in its own way.

        >>> weight = {"backbone.conv1.weight": Tensor(), "head.fc.bias": Tensor()}
        >>> found = Converted(format="", tensors=weight, trunks={"two_stream_spatial": "tower."})
        >>> list(found.named_for("two_stream_spatial").tensors), list(found.named_for("tsn").tensors)
        (['tower.conv1.weight', 'head.fc.bias'], ['backbone.conv1.weight', 'head.fc.bias'])
        """
        if network not in self.trunks:
            return self
        names = {key: re.sub(r"^backbone\.", self.trunks[network], key) for key in self.tensors}
        return replace(
            self,
            tensors={names[key]: value for key, value in self.tensors.items()},
            adapted=tuple(names[key] for key in self.adapted),
        )


class Format(NamedTuple):
    """A code base whose files can be read.

    Attributes:
        name: for `--from`.
        recognises: whether a file with these tensors is one.
        convert: tensors by its names to tensors by ours.
    """

    name: str
    recognises: Callable[[Mapping[str, Tensor]], bool]
    convert: Callable[[Mapping[str, Tensor]], Converted]


@dataclass(frozen=True)
class Rule:
    """How the names of some layers change.

    Attributes:
        pattern: of the name without its last part, a regular expression with named groups.
        name: the new name; `{group}` stands for what a group matched.
        counted_from: for groups that are numbers: what is counted from 0 here begins there with this.
        words: for groups that are words: here and there.
    """

    pattern: str
    name: str
    counted_from: Mapping[str, int] = field(default_factory=dict)
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def apply(self, place: str) -> str | None:
        r"""The new name of a layer; None if it is not one of these.

        >>> rule = Rule(r"layer(?P<s>[1-4])\.(?P<j>\d+)\.conv", "stages.{s}.{j}.conv", {"s": 1})
        >>> rule.apply("layer2.0.conv"), rule.apply("layer5.0.conv")
        ('stages.1.0.conv', None)
        """
        match = re.fullmatch(self.pattern, place)
        if match is None:
            return None
        groups = {key: value or "" for key, value in match.groupdict().items()}
        for key, first in self.counted_from.items():
            groups[key] = str(int(groups[key]) - first)
        for key, words in self.words.items():
            groups[key] = words[groups[key]]
        return self.name.format(**groups)


def renamed(state: Mapping[str, Tensor], rules: Sequence[Rule]) -> StateDict:
    """The tensors by new names. What no rule knows keeps its own and is reported when it is loaded.

    Raises:
        WeightsError: two tensors would have the same name.
    """
    tensors: StateDict = {}
    for key, value in state.items():
        place, _, leaf = key.rpartition(".")
        new = next((name for rule in rules if (name := rule.apply(place)) is not None), None)
        put(tensors, f"{new}.{leaf}" if new is not None else key, value, old=key)
    return tensors


def put(tensors: StateDict, name: str, value: Tensor, *, old: str) -> None:
    """Adds a tensor.

    Raises:
        WeightsError: there is one of that name.
    """
    if name in tensors:
        raise WeightsError(f"{old} would be a second {name}: the file is of no network that is known here")
    tensors[name] = value


def without_ones(tensors: StateDict, names: Collection[str]) -> tuple[str, ...]:
    """Makes a classifier [K, D] that is a convolution, [K, D, 1, 1, 1]; gives the names that changed."""
    changed = []
    for name in names:
        value = tensors.get(name)
        if value is not None and value.ndim > 2 and value[0, 0].numel() == 1:
            tensors[name] = value.flatten(1)
            changed.append(name)
    return tuple(changed)
