"""`muybridge eval`: which videos it takes, what it writes, what it says when it cannot."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch

from cli.commands import ACTIONS, only_line
from muybridge.evaluate import load_evaluation
from muybridge.models.registry import build
from muybridge.weights.store import save


def test_eval_tests_the_split_and_writes_what_it_is_asked_for(
    run, videos: Path, checkpoint: Path, tmp_path: Path
):
    code, out, err = run(
        "eval", "--weights", checkpoint, "--data", videos, "--protocol", "2x1",
        "--out", tmp_path / "result", "--report", tmp_path / "report.html",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "4 videos of 1 groups, 2 classes; protocol 2x1 (views" in out
    assert (tmp_path / "result" / "evaluation.json").is_file()
    assert "<html" in (tmp_path / "report.html").read_text()


def test_eval_under_windows_over_untrimmed_video(run, videos: Path, checkpoint: Path, tmp_path: Path):
    code, out, _ = run(
        "eval",
        "--weights",
        checkpoint,
        "--data",
        videos,
        "--protocol",
        "m_twi3",
        "--out",
        tmp_path / "result",
    )
    assert code == 0
    assert "4 videos of 1 groups, 2 classes; protocol m_twi3 (views" in out
    assert load_evaluation(tmp_path / "result").text() + "\n" == out


def test_a_network_of_three_segments_is_tested_on_lone_snippets(run, videos: Path, tmp_path: Path):
    torch.manual_seed(0)
    model = build("tsn", num_classes=2, backbone="r2d_10", width=0.125, num_segments=3)
    weights = tmp_path / "tsn.safetensors"
    save(weights, model, labels=ACTIONS)
    rows = {}
    for name, flags in {"own": (), "lone": ("--segments", 1), "three": ("--segments", 3)}.items():
        code, printed, _ = run(
            "eval", "--weights", weights, "--data", videos, "--groups", "person01", "--json",
            "--protocol", "2x10/logit_mean", "--out", tmp_path / name, *flags,
        )  # fmt: skip
        assert code == 0
        rows[name] = json.loads(printed)
    assert rows["own"]["views"] == rows["three"]["views"]
    assert [spec.num_segments for spec in load_evaluation(tmp_path / "lone").specs] == [1]
    scores = {name: load_evaluation(tmp_path / name).logits for name in rows}
    assert all(len(one) == 20 for one in scores["lone"])  # 2 snippets, ten crops
    assert all(np.array_equal(a, b) for a, b in zip(scores["own"], scores["three"], strict=True))
    assert not any(np.allclose(a, b) for a, b in zip(scores["own"], scores["lone"], strict=True))


def test_segments_for_a_network_that_takes_none(run, videos: Path, checkpoint: Path):
    code, _, err = run("eval", "--weights", checkpoint, "--data", videos, "--segments", 2)
    assert code == 1
    assert "[B, 3, T, H, W]" in only_line(err)


def test_eval_of_named_groups_as_json(run, videos: Path, checkpoint: Path):
    code, out, _ = run(
        "eval", "--weights", checkpoint, "--data", videos, "--groups", "person01,person02", "--json"
    )
    found = json.loads(out)
    assert code == 0
    assert (found["num_samples"], found["num_groups"], found["protocol"]) == (8, 2, "center")


def test_eval_of_unknown_groups(run, videos: Path, checkpoint: Path):
    code, _, err = run("eval", "--weights", checkpoint, "--data", videos, "--split", "anna")
    assert code == 1
    assert "there is no group or split 'anna'; the data set has: person01, person02" in only_line(err)


def test_eval_says_when_it_tests_on_everything(run, videos: Path, checkpoint: Path, tmp_path: Path):
    for action in ACTIONS:
        shutil.copytree(videos / action, tmp_path / "videos" / action)
    code, out, err = run("eval", "--weights", checkpoint, "--data", tmp_path / "videos", "--json")
    assert (code, json.loads(out)["num_samples"]) == (0, 12)
    assert "testing on all 12 videos: there is no split 'test'" in err


def test_eval_of_a_class_that_the_network_does_not_know(run, videos: Path, checkpoint: Path, tmp_path: Path):
    shutil.copytree(videos / "walk", tmp_path / "videos" / "walks")
    code, _, err = run("eval", "--weights", checkpoint, "--data", tmp_path / "videos")
    assert code == 1
    assert "the network has no class 'walks'; did you mean 'walk'?" in err


def test_eval_with_a_broken_video(run, videos: Path, checkpoint: Path, tmp_path: Path):
    for action in ACTIONS:
        shutil.copytree(videos / action, tmp_path / "videos" / action)
    victim = tmp_path / "videos" / "walk" / "person01_1.mp4"
    victim.write_bytes(b"")
    arguments = ("eval", "--weights", checkpoint, "--data", tmp_path / "videos")
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert str(victim) in err
    code, out, err = run(*arguments, "--skip-broken")
    assert code == 3
    assert "11 videos" in out
    assert str(victim) in err


def test_eval_needs_data_if_the_checkpoint_lies_alone(run, checkpoint: Path):
    code, _, err = run("eval", "--weights", checkpoint)
    assert code == 1
    assert "does not say what it was trained on: give --data" in only_line(err)
