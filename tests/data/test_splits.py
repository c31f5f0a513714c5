"""Groups, not clips, are divided; whatever would make a score mean nothing is refused or said."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muybridge.config import DataConfig
from muybridge.data.annotations import DataWarning, from_utd_mhad, from_weizmann
from muybridge.data.splits import Splits, hold_out_groups, leave_one_group_out, random_split, split
from muybridge.errors import DataError
from muybridge.types import Sample

unhurried = settings(deadline=None)  # a busy machine is no error


def make(*rows: tuple[str, str, str]) -> list[Sample]:
    """(label, group, split) of one clip each."""
    return [
        Sample(path=Path(f"{i}.mp4"), labels=(label,), group=group, split=part)
        for i, (label, group, part) in enumerate(rows)
    ]


def grid(groups: int = 5, labels: int = 3, *, grouped: bool = True, each: int = 1) -> list[Sample]:
    rows = [(f"c{k}", f"s{g}" if grouped else "", "") for g in range(groups) for k in range(labels)]
    return make(*rows * each)


def groups(samples: Sequence[Sample]) -> set[str]:
    return {sample.group for sample in samples}


def test_named_groups() -> None:
    parts = split(grid(), DataConfig(root="x", val=("s1",), test=("s2", "s4")), seed=0)
    assert [groups(part) for part in (parts.train, parts.val, parts.test)] == [
        {"s0", "s3"},
        {"s1"},
        {"s2", "s4"},
    ]
    assert repr(parts) == "Splits(train 6, val 3, test 6)"


def test_named_training_groups_leave_the_others_out() -> None:
    parts = split(grid(), DataConfig(root="x", train=("s0",), test=("s2",)), seed=0)
    assert [groups(part) for part in (parts.train, parts.val, parts.test)] == [{"s0"}, set(), {"s2"}]


def test_official_splits_and_named_splits() -> None:
    samples = make(("a", "1", "training"), ("a", "2", "Valid"), ("a", "3", "test"))
    expected = Splits((samples[0],), (samples[1],), (samples[2],))
    assert split(samples, DataConfig(root="x"), seed=0) == expected
    named = DataConfig(root="x", train=("training",), val=("Valid",), test=("3",))
    assert split(samples, named, seed=0) == expected


def test_videos_outside_the_official_splits_are_counted() -> None:
    samples = make(("a", "", "train"), ("a", "", "unused"), ("a", "", ""))
    with pytest.warns(DataWarning, match=r"2 of 3 videos are in no part, their split is: \(none\), unused"):
        assert len(split(samples, DataConfig(root="x"), seed=0).train) == 1


def test_official_splits_without_train() -> None:
    with pytest.raises(
        DataError, match=r"no video has the split 'train'; the splits are: fold1, fold2. Say who"
    ):
        split(make(("a", "", "fold1"), ("a", "", "fold2")), DataConfig(root="x"), seed=0)


def test_everything_trains_where_nothing_is_said() -> None:
    samples = grid()
    assert split(samples, DataConfig(root="x"), seed=0) == Splits(tuple(samples))


@unhurried
@given(st.integers(2, 12), st.integers(1, 4), st.floats(0.01, 1), st.integers(0, 1000))
def test_held_out_groups_are_whole_and_leave_every_class(n: int, k: int, fraction: float, seed: int) -> None:
    samples = grid(n, k)
    parts = split(samples, DataConfig(root="x", val_fraction=fraction), seed=seed)
    assert not groups(parts.train) & groups(parts.val)
    assert len(groups(parts.val)) == min(max(1, round(fraction * n)), n - 1)
    assert {s.label for s in parts.train} == {s.label for s in samples}
    assert sorted((*parts.train, *parts.val), key=samples.index) == samples
    assert split(samples, DataConfig(root="x", val_fraction=fraction), seed=seed) == parts


def test_the_seed_decides_who_is_held_out() -> None:
    found = {tuple(groups(hold_out_groups(grid(), 0.2, seed)[1])) for seed in range(60)}
    assert len(found) == 5


def test_the_only_group_with_a_class_is_not_held_out() -> None:
    samples = make(("a", "1", ""), ("b", "1", ""), ("a", "2", ""), ("a", "3", ""))
    assert all("1" not in groups(hold_out_groups(samples, 0.9, seed)[1]) for seed in range(20))
    with pytest.raises(
        DataError, match=r"no group can be held out for validation: each of the 2 is the only one"
    ):
        hold_out_groups(make(("a", "1", ""), ("b", "2", "")), 0.5, 0)


def test_the_official_validation_part_is_used_first() -> None:
    samples = make(("a", "1", "train"), ("a", "2", "val"), ("a", "3", "train"))
    parts = split(samples, DataConfig(root="x", val_fraction=0.5), seed=0)
    assert groups(parts.val) == {"2"}


def test_without_groups_every_class_is_divided_in_proportion() -> None:
    samples = make(*[("a", "", "")] * 40, *[("b", "", "")] * 10, ("c", "", ""))
    parts = split(samples, DataConfig(root="x", val_fraction=0.2), seed=0)
    assert Counter(s.label for s in parts.val) == {"a": 8, "b": 2}
    assert Counter(s.label for s in parts.train) == {"a": 32, "b": 8, "c": 1}
    other = split(samples, DataConfig(root="x", val_fraction=0.2), seed=1)
    assert other.val != parts.val


def test_small_classes_keep_a_clip_for_training() -> None:
    train, held = random_split(make(*[("a", "", ""), ("b", "", "")] * 2), 0.9, 0)
    assert Counter(s.label for s in train) == Counter(s.label for s in held) == {"a": 1, "b": 1}
    with pytest.raises(DataError, match=r"nothing can be held out for validation: every class has a single"):
        random_split(make(("a", "", ""), ("b", "", "")), 0.5, 0)


def test_pieces_of_one_file_stay_together() -> None:
    samples = [
        Sample(path=Path(f"{i}.mp4"), labels=(label,), start_seconds=start, end_seconds=start + 1)
        for i in range(10)
        for label in "ab"
        for start in range(3)
    ]
    train, held = random_split(samples, 0.3, 0)
    assert len(held) == 3 * 6
    assert not {s.path for s in train} & {s.path for s in held}


def test_a_random_split_of_groups_warns() -> None:
    with pytest.warns(
        DataWarning, match=r"clips of the same group on both sides \(5 groups\).*split by group"
    ):
        random_split(grid(each=4), 0.2, 0)


def test_unknown_names_have_neighbours() -> None:
    samples = make(("a", "lena", "train"), ("a", "moshe", "test"))
    with pytest.raises(
        DataError,
        match=r"data.test: there is no group or split 'mosche'; did you mean 'moshe'\? .* lena, moshe, ",
    ):
        split(samples, DataConfig(root="x", test=("mosche",)), seed=0)
    with pytest.raises(DataError, match=r"data.val: .* 'lena'\. The data set has: none: give a CSV file"):
        split(grid(grouped=False), DataConfig(root="x", val=("lena",)), seed=0)


def test_one_group_in_two_parts_is_refused() -> None:
    both = DataConfig(root="x", val=("s1",), test=("s1",))
    with pytest.raises(DataError, match=r"group 's1'.* is named for val and for test: take it out of"):
        split(grid(), both, seed=0)
    leaking = make(("a", "s1", "train"), ("a", "s2", "train"), ("a", "s1", "test"))
    with pytest.raises(DataError, match=r"the group 's1' is in train and in test: .* Move it to one side"):
        split(leaking, DataConfig(root="x"), seed=0)


def test_pieces_of_one_file_on_both_sides_are_said() -> None:
    pieces = [
        Sample(path=Path("a.mp4"), labels=("a",), end_seconds=1, split="train"),
        Sample(path=Path("a.mp4"), labels=("a",), start_seconds=1, split="test"),
    ]
    with pytest.warns(DataWarning, match=r"pieces of a.mp4 are in train and in test"):
        split(pieces, DataConfig(root="x"), seed=0)


def test_a_class_that_training_lacks_is_refused() -> None:
    samples = make(("a", "1", "train"), ("b", "2", "test"))
    with pytest.raises(DataError, match=r"the class 'b' is in test, but no training video shows it"):
        split(samples, DataConfig(root="x"), seed=0)


def test_empty_parts_are_refused() -> None:
    with pytest.raises(DataError, match=r"there are no videos to split"):
        split([], DataConfig(root="x"), seed=0)
    with pytest.raises(DataError, match=r"nobody is left to train on: `data.val` and `data.test` together"):
        split(grid(2), DataConfig(root="x", val=("s0",), test=("s1",)), seed=0)


def test_leave_one_group_out() -> None:
    folds = list(leave_one_group_out(grid()))
    assert [group for group, _, _ in folds] == ["s0", "s1", "s2", "s3", "s4"]
    assert all(groups(test) == {group} and group not in groups(train) for group, train, test in folds)
    assert all(len(train) + len(test) == 15 for _, train, test in folds)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (make(("a", "1", ""), ("a", "", "")), "found 1 videos without one: give a CSV file"),
        (make(("a", "1", ""), ("a", "1", "")), "found 1 group: give"),
        (make(("a", "1", ""), ("b", "2", "")), "the class 'a' is in test, but no training"),
    ],
)
def test_leave_one_group_out_refuses(samples: list[Sample], message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(leave_one_group_out(samples))


@pytest.mark.real
def test_the_real_protocols(data_dir: Path) -> None:
    folds = list(leave_one_group_out(from_weizmann(data_dir / "weizmann")))
    assert [(len(train), len(test)) for _, train, test in folds] == [(80, 10)] * 9
    samples = from_utd_mhad(data_dir / "utd_mhad_depth")
    official = split(samples, DataConfig(root="x", val_fraction=0.25), seed=0)
    assert groups(official.test) == {"s2", "s4", "s6", "s8"}
    assert (len(groups(official.train)), len(groups(official.val))) == (3, 1)
    named = DataConfig(root="x", train=("s1", "s3", "s5", "s7"), test=("s2", "s4", "s6", "s8"))
    assert split(samples, named, seed=0) == split(samples, DataConfig(root="x"), seed=0)
