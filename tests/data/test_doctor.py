"""The doctor finds what is wrong with a data set, and says nothing where nothing is."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from muybridge.config import ClipSpec, DataConfig
from muybridge.data.annotations import from_utd_mhad, from_weizmann
from muybridge.data.doctor import DoctorReport, check, mirror_sensitive
from muybridge.data.splits import split
from muybridge.types import Sample
from muybridge.video.encode import write_video


def clip(path: Path, *, number: int = 0, num_frames: int = 10, width: int = 64, fps: float = 25) -> Path:
    rng = np.random.default_rng(number)
    write_video(path, rng.integers(0, 256, (num_frames, 48, width, 3), np.uint8), fps=fps)
    return path


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Six clips of two classes and three groups."""
    return [
        Sample(
            path=clip(tmp_path / f"{number}.mp4", number=number, num_frames=10 + number),
            labels=("wave" if number % 2 else "clap",),
            group=f"s{number // 2}",
            split="test" if number > 3 else "train",
        )
        for number in range(6)
    ]


def reasons(report: DoctorReport) -> dict[str, str]:
    return {Path(path).name: reason for path, reason in report.broken}


def test_a_sound_data_set(samples: list[Sample]) -> None:
    told: list[tuple[int, int, str]] = []
    report = check(samples, on_progress=lambda done, total, path: told.append((done, total, path.name)))
    assert report.ok
    assert (report.num_samples, report.num_files, report.frames) == (6, 6, (10, 15))
    assert report.hours == pytest.approx(sum(range(10, 16)) / 25 / 3600)
    assert report.classes == {"clap": 3, "wave": 3}
    assert report.groups == {"s0": 2, "s1": 2, "s2": 2}
    assert report.parts == {"train": 4, "test": 2}
    assert (report.sizes, report.fps) == ({"64x48": 6}, {25.0: 6})
    assert told == [(number + 1, 6, f"{number}.mp4") for number in range(6)]
    assert report.to_text() == (
        "6 samples in 6 files, 0.00 hours (all frames decoded)\n"
        "classes  2: clap 3, wave 3\n"
        "groups   3: s0 2, s1 2, s2 2\n"
        "splits   train 4, test 2\n"
        "sizes    64x48 6\n"
        "fps      25 6\n"
        "frames   10 to 15 a file\n"
        "nothing is wrong with it"
    )
    values = json.loads(json.dumps(report.to_dict()))
    assert (values["ok"], values["imbalance"], values["fps"]) == (True, 1.0, {"25": 6})


def cut(path: Path, part: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])


def test_broken_files_and_why(samples: list[Sample], tmp_path: Path) -> None:
    (tmp_path / "0.mp4").write_bytes(b"")
    (tmp_path / "1.mp4").write_text("this is no video")
    (tmp_path / "2.mp4").unlink()
    report = check(samples)
    assert not report.ok
    assert set(reasons(report)) == {"0.mp4", "1.mp4", "2.mp4"}
    assert all(reason and "\n" not in reason for reason in reasons(report).values())
    assert "broken: " in report.to_text()
    assert [entry["path"] for entry in report.to_dict()["broken"]] == [one.path for one in report.broken]


@pytest.mark.real
def test_damage_in_the_middle_is_only_found_by_decoding(wild: Path) -> None:
    samples = [Sample(path=wild / name, labels=("a",)) for name in ("corrupted.mp4", "v_Biking_g06_c03.avi")]
    assert set(reasons(check(samples))) == {"corrupted.mp4"}
    opened = check(samples, decode=False)
    assert "files opened, frames not decoded" in opened.to_text()


def test_no_file_is_intact(tmp_path: Path) -> None:
    report = check([Sample(path=tmp_path / "gone.mp4", labels=("a",))])
    assert (report.hours, report.frames) == (0, (0, 0))
    assert "sizes" not in report.to_text()


def test_copies_and_contradictions(samples: list[Sample], tmp_path: Path) -> None:
    for source, copy in ((0, 2), (1, 4)):
        shutil.copy(tmp_path / f"{source}.mp4", tmp_path / f"{copy}.mp4")
    report = check(samples)
    assert [[Path(path).name for path in copies.paths] for copies in report.copies] == [
        ["0.mp4", "2.mp4"],
        ["1.mp4", "4.mp4"],
    ]
    assert [copies.labels for copies in report.copies] == [("clap",), ("clap", "wave")]
    assert "4.mp4, with different labels: clap, wave" in report.to_text()
    # 4 tests, 1 trains: the same video is on both sides.
    assert [leak.rpartition("/")[2] for leak in report.leaks] == ["1.mp4 is in test and in train"]
    assert not report.ok


def test_leaks_of_groups_and_of_files(samples: list[Sample], tmp_path: Path) -> None:
    extra = [
        Sample(path=clip(tmp_path / "extra.mp4", number=9), labels=("wave",), group="s0", split="test"),
        Sample(path=samples[2].path, labels=("wave",), group="s1", split="val", start_seconds=0.2),
    ]
    leaks = check([*samples, *extra], decode=False).leaks
    assert leaks[:2] == ("the group 's0' is in test and in train", "the group 's1' is in train and in val")
    assert leaks[2].endswith("2.mp4 is in train and in val")
    assert len(leaks) == 3


def test_a_given_split_counts_instead_of_the_files_own(samples: list[Sample]) -> None:
    parts = split(samples, DataConfig(root="x", val=("s0",)), seed=0)
    assert check(samples, decode=False, splits=parts).parts == {"train": 4, "val": 2}


def test_short_clips(samples: list[Sample]) -> None:
    specs = [ClipSpec(num_frames=4, frame_stride=4), ClipSpec(num_frames=8)]  # the longest spans 13 frames
    late = Sample(path=samples[5].path, labels=("wave",), start_seconds=9)
    piece = Sample(path=samples[5].path, labels=("wave",), end_seconds=0.4)
    report = check([*samples, late, piece], specs=specs)
    found = {Path(path).name: reason for path, reason in report.too_short}
    assert {name: found[name] for name in ("0.mp4", "1.mp4", "2.mp4", "5.mp4@0-0.4")} == {
        "0.mp4": "10 frames, a clip needs 13",
        "1.mp4": "11 frames, a clip needs 13",
        "2.mp4": "12 frames, a clip needs 13",
        "5.mp4@0-0.4": "10 frames, a clip needs 13",
    }
    assert "the video ends at" in found["5.mp4@9-"]
    assert len(found) == 5
    assert [path for path, _ in check([*samples, late]).too_short] == [late.key]
    assert "too short: " in report.to_text()


def of_classes(samples: Sequence[Sample], *labels: str) -> list[Sample]:
    return [Sample(path=samples[0].path, labels=(label,)) for label in labels]


def test_imbalance_and_missing_groups(samples: list[Sample]) -> None:
    report = check(of_classes(samples, *["wave"] * 7, "clap"), decode=False)
    assert report.imbalance == 7
    text = report.to_text()
    assert (
        "imbalance: the largest class has 7.0 times the samples of the smallest: `data.balanced: true`"
        in text
    )
    assert "groups: none are known" in text
    assert "groups   none known\nsplits   none given\n" in text


TURNING = ("circle CCW", "turn-clockwise", "counter-clockwise", "anticlockwise spin", "circle_cw")
SIDES = ("left", "Swipe_Right", "SwipeLeft", "moving something rightwards", "raiseLeftHand", "lefthand up")


@pytest.mark.parametrize("name", SIDES + TURNING)
def test_names_that_change_in_a_mirror(name: str) -> None:
    assert mirror_sensitive(["wave", name]) == (name,)


@pytest.mark.parametrize(
    "name", ["wave", "upright_bass", "brightness", "cleft", "copyright", "howclever", "walk2"]
)
def test_names_that_do_not(name: str) -> None:
    assert mirror_sensitive([name]) == ()


def test_mirrored_classes_are_reported(samples: list[Sample]) -> None:
    report = check(of_classes(samples, "swipe_left", "clap"), decode=False)
    assert report.mirror_sensitive == ("swipe_left",)
    assert "mirror: these classes change when mirrored, so flip must be off: swipe_left" in report.to_text()


@pytest.mark.real
def test_the_real_data_sets(data_dir: Path) -> None:
    samples = from_weizmann(data_dir / "weizmann")
    weizmann = check(samples, decode=False)
    assert weizmann.ok
    assert (weizmann.num_files, weizmann.sizes, weizmann.fps) == (90, {"180x144": 90}, {25.0: 90})
    assert weizmann.frames == (36, 146)
    assert weizmann.mirror_sensitive == ()
    assert check([sample for sample in samples if sample.group == "ido"]).ok
    depth = check(from_utd_mhad(data_dir / "utd_mhad_depth")[::7], decode=False)
    assert depth.ok
    assert set(depth.parts) == {"train", "test"}
    assert depth.mirror_sensitive == ("draw_circle_ccw", "draw_circle_cw", "swipe_left", "swipe_right")
