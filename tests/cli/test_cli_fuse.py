"""`muybridge fuse`: the scores that `muybridge eval` has kept become one."""

import json
from pathlib import Path

import pytest

from cli.commands import ACTIONS, only_line
from muybridge.models.registry import build
from muybridge.weights.store import save

PEOPLE = {"train": "person01,person02", "test": "person03"}


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another tiny network with random weights that knows the two actions."""
    path = tmp_path_factory.mktemp("second") / "second.safetensors"
    model = build("r2plus1d_10", num_classes=2, width=0.05)
    spec = model.default_specs[0].model_copy(update={"resize": 40, "crop": 32, "num_frames": 4})
    save(path, model, labels=ACTIONS, specs=(spec,))
    return path


@pytest.fixture
def scores(run, videos: Path, checkpoint: Path, second: Path, tmp_path: Path) -> dict[str, Path]:
    """What both networks say of the people to train on and of the others."""
    found = {}
    for name, weights in (("a", checkpoint), ("b", second)):
        for part, people in PEOPLE.items():
            folder = found[f"{name}_{part}"] = tmp_path / f"{name}_{part}"
            code, _, err = run(
                "eval", "--weights", weights, "--data", videos, "--groups", people, "--out", folder
            )
            assert code == 0, err
    return found


def test_fuse_prints_what_eval_does(run, scores: dict[str, Path], tmp_path: Path):
    code, out, err = run(
        "fuse", scores["a_test"], scores["b_test"], "--weights", "1,1.5",
        "--out", tmp_path / "both", "--report", tmp_path / "both.html",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "4 videos of 1 groups, 2 classes; protocol center (views" in out
    assert "fused: mean of the probabilities of 1 x r3d_10, 1.5 x r2plus1d_10" in out
    assert "1.5 x r2plus1d_10" in (tmp_path / "both.html").read_text()
    code, out, _ = run("fuse", tmp_path / "both", scores["a_test"], "--method", "logits", "--json")
    assert code == 0
    assert json.loads(out)["fusion"].startswith("fused: mean of the logits")


def test_fuse_by_an_svm(run, scores: dict[str, Path]):
    code, out, err = run(
        "fuse", scores["a_test"], scores["b_test"], "--method", "svm",
        "--train", scores["a_train"], "--train", scores["b_train"], "--json",
    )  # fmt: skip
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["num_samples"] == 4
    assert "linear SVM on the probabilities of r3d_10, r2plus1d_10; C " in found["fusion"]
    assert "on 8 training videos" in found["fusion"]


def test_fuse_of_what_does_not_go_together(run, scores: dict[str, Path], tmp_path: Path):
    code, _, err = run("fuse", scores["a_test"], scores["b_train"])
    assert code == 1
    message = only_line(err)
    assert "8 only in" in message
    assert f"4 only in {scores['a_test']}" in message
    code, _, err = run("fuse", scores["a_test"], scores["b_test"], "--weights", "1;2")
    assert code == 1
    assert "--weights takes numbers joined by commas, such as 1,1.5; got '1;2'" in only_line(err)
    code, _, err = run("fuse", scores["a_test"], tmp_path)
    assert code == 1
    assert "holds no evaluation" in only_line(err)
