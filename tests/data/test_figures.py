"""The embedded figures: a whole set, the same each time, of bodies that hold together."""

import csv
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from muybridge.data.annotations import from_csv, from_folder
from muybridge.data.figure_motions import MOTIONS, Style
from muybridge.data.figure_skeleton import Build, Joints, joints
from muybridge.data.figures import ACTIONS, MOTION_PAIRS, ClipPlan, frames, render
from muybridge.errors import DataError
from muybridge.types import Sample
from muybridge.video.decode import VideoReader

SMALL = {"num_groups": 3, "clips_per_group": 1, "short_side_px": 32, "num_frames": 5}
PAIR_ACTIONS = tuple(action for pair in MOTION_PAIRS for action in pair)


@dataclass(frozen=True)
class Rendered:
    folder: Path
    samples: list[Sample]
    progress: list[tuple[int, int]]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    folder = tmp_path_factory.mktemp("figures") / "small"
    progress: list[tuple[int, int]] = []
    samples = render(folder, **SMALL, on_progress=lambda done, total: progress.append((done, total)))
    return Rendered(folder, samples, progress)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# The set.


def test_there_are_enough_actions_and_pairs() -> None:
    assert len(set(ACTIONS) - set(PAIR_ACTIONS)) >= 8
    assert len(set(PAIR_ACTIONS)) == 4
    assert set(PAIR_ACTIONS) <= set(ACTIONS)


def test_each_person_does_each_action(small: Rendered) -> None:
    done = [(sample.label, sample.group) for sample in small.samples]
    assert len(done) == len(set(done)) == 3 * len(ACTIONS)
    assert {label for label, _ in done} == set(ACTIONS)
    assert {group for _, group in done} == {"person01", "person02", "person03"}
    assert all(sample.path.parent.name == sample.label for sample in small.samples)
    assert small.progress == [(i, 3 * len(ACTIONS)) for i in range(1, 3 * len(ACTIONS) + 1)]


def test_no_person_is_in_two_splits(small: Rendered) -> None:
    groups = {
        split: {sample.group for sample in small.samples if sample.split == split}
        for split in ("train", "test")
    }
    assert groups == {"train": {"person01", "person02"}, "test": {"person03"}}
    assert {sample.split for sample in small.samples} == {"train", "test"}


@pytest.mark.parametrize(("num_groups", "num_test"), [(2, 1), (3, 1), (10, 3), (20, 6)])
def test_three_tenths_of_the_people_are_the_test(num_groups: int, num_test: int, tmp_path: Path) -> None:
    samples = render(
        tmp_path / "a",
        actions=["bend"],
        num_groups=num_groups,
        clips_per_group=1,
        short_side_px=32,
        num_frames=1,
    )
    assert [sample.split for sample in samples] == ["train"] * (num_groups - num_test) + ["test"] * num_test


def test_each_file_is_a_video_of_the_asked_size(small: Rendered) -> None:
    for sample in small.samples:
        with VideoReader(sample.path) as reader:
            assert (reader.info.num_frames, reader.info.codec, reader.info.fps) == (5, "h264", 25.0)
            assert reader.info.size == (32, 42)
            assert reader.read(range(5)).shape == (5, 32, 42, 3)


def test_a_file_shows_the_frames_it_was_made_of(small: Rendered) -> None:
    plan = ClipPlan(action="walk", group=1, clip=0, short_side_px=32, num_frames=5)
    with VideoReader(small.folder / plan.file_name) as reader:
        decoded = reader.read(range(5)).astype(int)
    drawn = np.stack(list(frames(plan))).astype(int)
    # The codec halves the colour: compare the green channel, most of the brightness.
    assert np.abs(decoded - drawn)[..., 1].mean() < 6
    assert np.abs(np.roll(decoded, 1, axis=0) - drawn)[..., 1].mean() > 9


def test_the_label_file_reads_back(small: Rendered) -> None:
    with (small.folder / "labels.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["path", "label", "group", "split"]
    assert rows[1] == ["arm_circle_clockwise/person01_1.mp4", "arm_circle_clockwise", "person01", "train"]
    assert from_csv(small.folder / "labels.csv") == small.samples


def test_the_folders_are_the_classes(small: Rendered) -> None:
    found = from_folder(small.folder)
    assert [(sample.path, sample.labels) for sample in found] == [
        (sample.path, sample.labels) for sample in small.samples
    ]


# Repeating it.


def test_the_same_seed_gives_the_same_bytes(small: Rendered, tmp_path: Path) -> None:
    again = render(tmp_path / "again", **SMALL, actions=["jump"])
    for sample in again:
        assert sha256(sample.path) == sha256(small.folder / "jump" / sample.path.name)


def test_another_seed_gives_other_people_and_clips() -> None:
    plan = ClipPlan(action="walk", group=0, clip=0, short_side_px=32, num_frames=2)
    first = np.stack(list(frames(plan)))
    for other in (replace(plan, seed=1), replace(plan, group=1), replace(plan, clip=1)):
        assert np.abs(np.stack(list(frames(other))).astype(int) - first).mean() > 5


def test_processes_give_the_same_bytes(tmp_path: Path) -> None:
    arguments = {"actions": ["clap", "walk"], "num_groups": 2, "clips_per_group": 1, "num_frames": 3}
    alone = render(tmp_path / "alone", **arguments, short_side_px=32)
    progress: list[tuple[int, int]] = []
    together = render(
        tmp_path / "together",
        **arguments,
        short_side_px=32,
        num_workers=2,
        on_progress=lambda done, total: progress.append((done, total)),
    )
    assert [sha256(sample.path) for sample in alone] == [sha256(sample.path) for sample in together]
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_finished_folder_is_left_alone(small: Rendered) -> None:
    before = {path: path.stat().st_mtime_ns for path in small.folder.rglob("*")}
    progress: list[tuple[int, int]] = []
    samples = render(small.folder, **SMALL, on_progress=lambda done, total: progress.append((done, total)))
    assert samples == small.samples
    assert progress == []
    assert {path: path.stat().st_mtime_ns for path in small.folder.rglob("*")} == before


def test_damaged_and_missing_files_are_rendered_again(tmp_path: Path) -> None:
    arguments = {**SMALL, "actions": ["bend", "box"]}
    samples = render(tmp_path / "set", **arguments)
    before = [sha256(sample.path) for sample in samples]
    kept = samples[2].path.stat().st_mtime_ns
    samples[0].path.write_bytes(samples[0].path.read_bytes()[:100])
    samples[1].path.unlink()
    (tmp_path / "set" / "labels.csv").unlink()
    progress: list[tuple[int, int]] = []
    assert render(tmp_path / "set", **arguments, on_progress=lambda *done: progress.append(done)) == samples
    assert progress == [(5, 6), (6, 6)]
    assert [sha256(sample.path) for sample in samples] == before
    assert samples[2].path.stat().st_mtime_ns == kept
    assert (tmp_path / "set" / "labels.csv").is_file()


def test_a_stopped_call_is_taken_up(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    arguments = {**SMALL, "actions": ["bend", "box"]}
    with pytest.raises(KeyboardInterrupt):
        render(tmp_path / "set", **arguments, on_progress=stop)
    assert not json.loads((tmp_path / "set" / "figures.json").read_text())["digests"]
    samples = render(tmp_path / "set", **arguments)
    assert all(sample.path.is_file() for sample in samples)
    assert len(json.loads((tmp_path / "set" / "figures.json").read_text())["digests"]) == 6


# What cannot be asked.


def test_other_arguments_are_refused(small: Rendered) -> None:
    with pytest.raises(DataError, match=r"small holds other figures \(seed = 0 there, 1 asked\): name a new"):
        render(small.folder, **{**SMALL, "seed": 1})


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match=r"is not empty and holds no figures \(no figures.json\)"):
        render(tmp_path, **SMALL)
    with pytest.raises(DataError, match="is not empty and holds no figures"):
        render(tmp_path / "thesis.txt", **SMALL)


def test_a_damaged_marker_is_refused(tmp_path: Path) -> None:
    (tmp_path / "figures.json").write_text('{"version": 1, "arg')
    with pytest.raises(DataError, match=r"figures.json is damaged \(.*\): delete .* and render again"):
        render(tmp_path, **SMALL)


def test_figures_of_another_version_are_refused(tmp_path: Path) -> None:
    (tmp_path / "figures.json").write_text('{"version": 0, "arguments": {}, "digests": {}}')
    with pytest.raises(DataError, match=r"rendered by another version \(0, this is \d+\): name a new folder"):
        render(tmp_path, **SMALL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": ["fly"]}, "no figure does fly; the actions are: arm_circle_clockwise, "),
        ({"actions": []}, "name at least one action, each once; got: none"),
        ({"actions": ["box", "box"]}, "name at least one action, each once; got: box, box"),
        ({"num_groups": 1}, "num_groups must be at least 2: some people train, others test; got 1"),
        ({"num_frames": 0}, r"num_frames must be at least 1, .* got 1, 0, 25 and 0"),
        ({"clips_per_group": 0}, r"clips_per_group and .* must be at least 1, .* got 0, 5, 25 and 0"),
        ({"fps": 0}, r"fps above 0 .* got 1, 5, 0 and 0"),
        ({"seed": -1}, r"seed not negative; got 1, 5, 25 and -1"),
        ({"short_side_px": 33}, "short_side_px must be even, for h264, and at least 32; got 33"),
        ({"short_side_px": 16}, "short_side_px must be even, for h264, and at least 32; got 16"),
    ],
)
def test_arguments_are_checked(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        render(tmp_path / "set", **{**SMALL, **changes})
    assert not (tmp_path / "set").exists()


# The poses.

CYCLES = np.linspace(0, 1, 48, endpoint=False)


def skeleton(action: str, cycles: np.ndarray = CYCLES, style: Style = Style()) -> Joints:  # noqa: B008
    motion = MOTIONS[action]
    pose = motion.perform(cycles, style)
    return joints(pose, Build(), num_frames=len(cycles), follow_hips=motion.travel != (0.0, 0.0))


@pytest.mark.parametrize("pair", MOTION_PAIRS)
@pytest.mark.parametrize("is_mirrored", [False, True])
def test_a_pair_has_the_same_poses_in_opposite_order(pair: tuple[str, str], is_mirrored: bool) -> None:
    style = Style(is_mirrored=is_mirrored)
    first, second = (skeleton(action, style=style) for action in pair)
    backwards = -np.arange(len(CYCLES))  # phase 0, then from the end
    for name, one, other in zip(Joints._fields, first, second, strict=True):
        np.testing.assert_allclose(one[..., backwards, :], other, atol=1e-12, err_msg=name)
    assert any(np.abs(one - other).max() > 0.1 for one, other in zip(first, second, strict=True))


def test_left_right_and_clockwise_are_those_of_the_picture() -> None:
    for is_mirrored in (False, True):
        style = Style(is_mirrored=is_mirrored)
        for action, sign in (("arm_circle_counter_clockwise", 1), ("arm_circle_clockwise", -1)):
            found = skeleton(action, style=style)
            arm = (found.wrists - found.shoulders)[int(is_mirrored)]  # x to the right, y up
            turns = np.diff(np.unwrap(np.arctan2(arm[:, 1], arm[:, 0])))
            assert (np.sign(turns) == sign).all()
        for action, sign in (("step_right", 1), ("step_left", -1)):
            found = skeleton(action, style=style)
            apart = found.ankles[0, :, 0] - found.ankles[1, :, 0]  # the foot at the picture's right is 0
            higher = found.ankles[0, :, 1] - found.ankles[1, :, 1]
            opening = np.gradient(apart) > 1e-3
            assert np.sign(higher[opening].mean()) == sign  # it opens with the foot that leads
            assert sign * higher[np.gradient(apart) < -1e-3].mean() < 0


@pytest.mark.parametrize("action", ACTIONS)
def test_bodies_hold_together_and_stand_on_the_floor(action: str) -> None:
    found = skeleton(action)
    for one, other in (("hips", "knees"), ("knees", "ankles"), ("shoulders", "elbows"), ("elbows", "wrists")):
        length = np.linalg.norm(getattr(found, one) - getattr(found, other), axis=-1)
        np.testing.assert_allclose(length, length[0, 0], rtol=1e-9)
    sole = np.minimum(found.ankles[..., 1] - Build().ankle, found.toes[..., 1] - 0.4 * Build().ankle).min(0)
    assert -1e-9 < sole.min() < 1e-3
    assert (sole.max() > 0.03) == (action in ("jump", "run", "jumping_jack"))  # these leave it


@pytest.mark.parametrize("action", ACTIONS)
def test_a_cycle_has_no_seam(action: str) -> None:
    cycles = np.linspace(0, 2, 401)
    for name, points in zip(Joints._fields, skeleton(action, cycles), strict=True):
        steps = np.linalg.norm(np.diff(points, axis=-2), axis=-1)
        assert steps.max() < 0.05, name
        np.testing.assert_allclose(points[..., :201, :], points[..., 200:, :], atol=1e-9)
