"""Who trains and who tests. What is split are groups (subjects, source videos), not clips.

A group is what the data set names as one; where it names none, the video file itself is the group, so that
two pieces of one file never lie on both sides. Clips of one person on both sides measure how well the person
is remembered: on UTD-MHAD depth a nearest neighbour on coarse motion images then scores .93, against .22 on
new subjects.
"""

import difflib
import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from muybridge.config import DataConfig
from muybridge.data.annotations import DataWarning, label_names, listed
from muybridge.errors import DataError
from muybridge.types import Sample

PARTS = ("train", "val", "test")
SYNONYMS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class Splits:
    """The three parts of a data set; `val` and `test` may be empty.

    Attributes:
        train: to learn from.
        val: to choose by: the best checkpoint.
        test: to report; nothing may be chosen by it.
    """

    train: tuple[Sample, ...]
    val: tuple[Sample, ...] = ()
    test: tuple[Sample, ...] = ()

    def __repr__(self) -> str:
        return "Splits(" + ", ".join(f"{name} {len(getattr(self, name))}" for name in PARTS) + ")"


def split(samples: Sequence[Sample], config: DataConfig, seed: int) -> Splits:
    """Divides the samples as the configuration says.

    1. Groups or splits that are named in `config.train`, `val` and `test`; an empty `train` takes the rest.
    2. Where none is named: the splits of the data set itself ("train", "val", "test").
    3. Where it has none: everything trains.

    Then, if there is no validation part, `config.val_fraction` of the training groups become it.

    Args:
        samples: the whole data set.
        config: says who trains and who tests.
        seed: decides which groups are held out for `val_fraction`, and nothing else.

    Raises:
        DataError: an unknown name, an empty part, a group in two parts, or a class that training lacks.
    """
    if not samples:
        raise DataError("there are no videos to split")
    if config.train or config.val or config.test:
        parts = _named(samples, config)
    elif any(sample.split for sample in samples):
        parts = _official(samples)
    else:
        parts = Splits(tuple(samples))
    _check(parts)
    if config.val_fraction and not parts.val:
        hold_out = hold_out_groups if any(sample.group for sample in parts.train) else random_split
        train, val = hold_out(parts.train, config.val_fraction, seed)
        parts = Splits(train, val, parts.test)
        _check(parts)
    return parts


def leave_one_group_out(
    samples: Sequence[Sample],
) -> Iterator[tuple[str, tuple[Sample, ...], tuple[Sample, ...]]]:
    """Each group once as the test: (group, train, test), in the order of the names.

    Raises:
        DataError: samples without a group, a single group, or a class that only one group shows.
    """
    without = [sample.path for sample in samples if not sample.group]
    groups = sorted({sample.group for sample in samples})
    if without or len(groups) < 2:
        found = f"{len(without)} videos without one" if without else f"{len(groups)} group"
        raise DataError(
            f"to leave one group out, each video must be in a group, and there must be two or more; found "
            f"{found}: give a CSV file with a column 'group'"
        )
    for group in groups:
        train = tuple(sample for sample in samples if sample.group != group)
        test = tuple(sample for sample in samples if sample.group == group)
        _check(Splits(train, (), test))
        yield group, train, test


def hold_out_groups(
    samples: Sequence[Sample], fraction: float, seed: int
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Holds out a fraction of the groups, one at least, and never the last group that shows a class.

    Returns:
        The samples that stay, and those held out, both in their order.

    Raises:
        DataError: each group is the only one with some class.
    """
    groups = sorted({_group(sample) for sample in samples})
    labels: dict[str, set[str]] = {}
    for sample in samples:
        labels.setdefault(_group(sample), set()).update(sample.labels)
    groups_with = Counter(label for shown in labels.values() for label in shown)
    random.Random(f"val/{seed}").shuffle(groups)
    wanted = max(1, round(fraction * len(groups)))
    held: set[str] = set()
    for group in groups:
        if len(held) < wanted and all(groups_with[label] > 1 for label in labels[group]):
            held.add(group)
            groups_with.subtract(labels[group])
    if not held:
        raise DataError(
            f"no group can be held out for validation: each of the {len(groups)} is the only one with "
            f"some class; set `data.val_fraction: 0`, or name a validation group in `data.val`"
        )
    return _divide(samples, held, _group)


def random_split(
    samples: Sequence[Sample], fraction: float, seed: int
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Holds out a fraction of the video files of each class, whatever their groups; never all of a class.

    Warns with `DataWarning` where the samples have groups: the result says little about new ones.

    Returns:
        The samples that stay, and those held out, both in their order.

    Raises:
        DataError: no class has two files.
    """
    if grouped := {sample.group for sample in samples} - {""}:
        warnings.warn(
            f"a random split puts clips of the same group on both sides ({len(grouped)} groups): a score "
            f"on such clips says little about new groups; split by group instead",
            DataWarning,
            stacklevel=2,
        )
    files: dict[tuple[str, ...], list[str]] = {}
    for path, sample in {sample.path.as_posix(): sample for sample in samples}.items():
        files.setdefault(sample.labels, []).append(path)
    rng = random.Random(f"val/{seed}")
    ranked: list[tuple[float, float, str]] = []
    for labels in sorted(files):
        members = sorted(files[labels])
        rng.shuffle(members)
        # Taken in the order of (place + 1/2) / size, any number of files has all classes in proportion.
        ranked += [((at + 0.5) / len(members), rng.random(), path) for at, path in enumerate(members[:-1])]
    num_files = sum(map(len, files.values()))
    held = {path for _, _, path in sorted(ranked)[: max(1, round(fraction * num_files))]}
    if not held:
        raise DataError("nothing can be held out for validation: every class has a single video file")
    return _divide(samples, held, lambda sample: sample.path.as_posix())


def _named(samples: Sequence[Sample], config: DataConfig) -> Splits:
    wanted = {"train": set(config.train), "val": set(config.val), "test": set(config.test)}
    _refuse_unknown(samples, wanted)
    parts: dict[str, list[Sample]] = {part: [] for part in PARTS}
    for sample in samples:
        hits = [part for part in PARTS if {sample.group, sample.split} & wanted[part]]
        if len(hits) > 1:
            raise DataError(
                f"{sample.path} (group '{sample.group}', split '{sample.split}') is named for {hits[0]} and "
                f"for {hits[1]}: take it out of `data.{hits[0]}` or of `data.{hits[1]}`"
            )
        if hits or not config.train:
            parts[hits[0] if hits else "train"].append(sample)
    return Splits(**{part: tuple(members) for part, members in parts.items()})


def _refuse_unknown(samples: Sequence[Sample], wanted: dict[str, set[str]]) -> None:
    known = sorted({name for sample in samples for name in (sample.group, sample.split)} - {""})
    for part in PARTS:
        for name in sorted(wanted[part] - set(known)):
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else "."
            found = listed(known) if known else "none: give a CSV file with a column group or split"
            raise DataError(
                f"data.{part}: there is no group or split '{name}'{hint} The data set has: {found}"
            )


def _official(samples: Sequence[Sample]) -> Splits:
    part_of = {name: part for part, names in SYNONYMS.items() for name in names}
    parts: dict[str, list[Sample]] = {part: [] for part in PARTS}
    others = []
    for sample in samples:
        if part := part_of.get(sample.split.lower()):
            parts[part].append(sample)
        else:
            others.append(sample)
    if not parts["train"]:
        found = listed(sorted({sample.split for sample in samples} - {""}))
        raise DataError(
            f"no video has the split 'train'; the splits are: {found}. Say who trains in `data.train`"
        )
    if others:
        found = listed(sorted({sample.split or "(none)" for sample in others}))
        warnings.warn(
            f"{len(others)} of {len(samples)} videos are in no part, their split is: {found}",
            DataWarning,
            stacklevel=3,
        )
    return Splits(**{part: tuple(members) for part, members in parts.items()})


def _check(parts: Splits) -> None:
    if not parts.train:
        raise DataError("nobody is left to train on: `data.val` and `data.test` together name every video")
    known = set(label_names(parts.train))
    for part, members in (("val", parts.val), ("test", parts.test)):
        for label in label_names(members):
            if label not in known:
                raise DataError(
                    f"the class '{label}' is in {part}, but no training video shows it: a network cannot "
                    f"know it. Move a group that shows it into training, or leave those videos out"
                )
    _refuse_shared_groups(parts)


def _refuse_shared_groups(parts: Splits) -> None:
    part_of: dict[str, str] = {}
    for part in PARTS:
        for sample in getattr(parts, part):
            first = part_of.setdefault(_group(sample), part)
            if first == part:
                continue
            if sample.group:
                raise DataError(
                    f"the group '{sample.group}' is in {first} and in {part}: a score on clips of a group "
                    f"that training has seen says little about new ones. Move it to one side"
                )
            warnings.warn(f"pieces of {sample.path} are in {first} and in {part}", DataWarning, stacklevel=4)


def _group(sample: Sample) -> str:
    """What must stay on one side: the group, or else the file."""
    return sample.group or f"file {sample.path.as_posix()}"


def _divide(
    samples: Sequence[Sample], held: set[str], key: Callable[[Sample], str]
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    return (
        tuple(sample for sample in samples if key(sample) not in held),
        tuple(sample for sample in samples if key(sample) in held),
    )
