"""`muybridge svm`: which videos train and test, what it prints, what it says when it cannot."""

import json
import shutil
from pathlib import Path

from cli.commands import ACTIONS, only_line


def test_svm_trains_on_the_split_train_and_tests_on_test(run, videos: Path, checkpoint: Path):
    code, out, err = run("svm", "--weights", checkpoint, "--data", videos, "--layer", "stages.1")
    assert (code, err) == (0, "")
    assert "4 videos of 1 groups, 2 classes; protocol sliding8 (views" in out
    assert "linear SVM on 6 features (r3d_10 stages.1); C " in out
    assert "on 8 training videos" in out
    assert "(no interval: one group)" in out


def test_svm_of_named_groups_as_json(run, videos: Path, checkpoint: Path):
    code, out, _ = run(
        "svm", "--weights", checkpoint, "--weights", checkpoint, "--data", videos,
        "--train", "person01", "--test", "person02,person03", "--protocol", "2x1", "--json",
    )  # fmt: skip
    found = json.loads(out)
    assert code == 0
    assert (found["num_train"], found["num_samples"], found["num_groups"]) == (4, 8, 2)
    assert found["features"] == ["r3d_10 features"] * 2
    assert (found["protocol"], found["c"], found["cross_validation"]) == ("2x1", 1.0, {})
    assert 0 <= found["interval95"][0] <= found["top1"] <= found["interval95"][1] <= 1


def test_svm_needs_somebody_to_test_on(run, videos: Path, checkpoint: Path, tmp_path: Path):
    for action in ACTIONS:
        shutil.copytree(videos / action, tmp_path / "videos" / action)
    code, _, err = run("svm", "--weights", checkpoint, "--data", tmp_path / "videos")
    assert code == 1
    assert "is there to test on: name groups or splits with --test" in only_line(err)
    code, _, err = run("svm", "--weights", checkpoint)
    assert code == 1
    assert "does not say what it was trained on: give --data" in only_line(err)


def test_svm_of_a_layer_that_is_not_there(run, videos: Path, checkpoint: Path):
    code, _, err = run("svm", "--weights", checkpoint, "--data", videos, "--layer", "fc6")
    assert code == 1
    assert "r3d_10 has no layer 'fc6'; its stages: stem" in only_line(err)


def test_svm_with_a_broken_video(run, videos: Path, checkpoint: Path, tmp_path: Path):
    shutil.copytree(videos, tmp_path / "videos")
    victim = tmp_path / "videos" / "walk" / "person01_1.mp4"
    victim.write_bytes(b"")
    arguments = ("svm", "--weights", checkpoint, "--data", tmp_path / "videos", "--protocol", "center")
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert str(victim) in err
    code, out, err = run(*arguments, "--skip-broken", "--json")
    assert code == 3
    assert (json.loads(out)["num_broken"], json.loads(out)["num_train"]) == (1, 7)
    assert str(victim) in err
