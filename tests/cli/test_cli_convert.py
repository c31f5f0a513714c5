"""The verb convert: what it prints, what it writes, and what it refuses."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from cli.commands import only_line
from muybridge.weights.store import load


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """torchvision's mc3_18 with random weights for three classes; its name has its hash, as theirs have."""
    path = tmp_path_factory.mktemp("foreign") / "mc3.pth"
    torch.save(torchvision.models.video.mc3_18(num_classes=3).state_dict(), path)
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    return path.rename(path.with_name(f"mc3_18-{digits}.pth"))


def test_the_table_says_what_became_of_each_tensor(run, foreign: Path):
    code, out, err = run("convert", foreign, "--to", "mc3_18")
    assert (code, err) == (0, "")
    assert f"torchvision, into mc3_18; SHA-256 {foreign.stem[-8:]}..." in out.replace("\n", "")
    (row,) = [line.split() for line in out.splitlines() if line.split()[:1] == ["loaded"]]
    assert row[1] == "122"
    assert {part.strip(",") for part in row[2:]} == {
        "stem",
        "head",
        *(f"stages.{index}" for index in range(4)),
    }


def test_a_checkpoint_of_ours_is_written_with_the_names_of_the_classes(run, foreign: Path, tmp_path: Path):
    labels = tmp_path / "labels.txt"
    labels.write_text("jump\nrun\nwalk\n")
    out_file = tmp_path / "mc3.safetensors"
    code, out, err = run("convert", foreign, "--to", "mc3_18", "--out", out_file, "--labels", labels)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == str(out_file)
    model = load(out_file)
    assert model.card is not None
    assert model.card.labels == ("jump", "run", "walk")
    assert model.default_specs[0].fps == 15  # torchvision's clips
    state = torch.load(foreign, weights_only=True)
    assert torch.equal(model.head.fc.weight, state["fc.weight"])


def test_classes_without_names_have_numbers_and_it_is_said(run, foreign: Path, tmp_path: Path):
    out_file = tmp_path / "mc3.safetensors"
    code, _, err = run("convert", foreign, "--to", "mc3_18", "--out", out_file)
    assert code == 0
    assert only_line(err) == ("muybridge: the 3 classes have numbers for names: --labels FILE.txt has others")
    card = load(out_file).card
    assert card is not None
    assert card.labels == ("class 0", "class 1", "class 2")


def test_json_has_the_numbers_and_the_names_of_what_changed(run, foreign: Path):
    code, out, _ = run("convert", foreign, "--to", "mc3_18", "--set", "bn_eps=0.001", "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["format"], found["network"], found["loaded"], found["random"]) == (
        "torchvision",
        "mc3_18",
        122,
        0,
    )
    assert found["sha256"].startswith(foreign.stem[-8:])
    assert found["arguments"]["bn_eps"] == 0.001
    assert found["arguments"]["num_classes"] == 3
    assert found["changed"] == {"adapted": [], "random": [], "dropped": []}
    assert found["clip"][0]["fps"] == 15


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--to", "mc3_81"], "no model 'mc3_81'; did you mean 'mc3_18'?"),
        (["--to", "mc3_18", "--from", "caffe2"], "this is no file of caffe2 (auto finds the format)"),
        (
            ["--to", "mc3_18", "--from", "keras"],
            "no format 'keras': choose from auto, muybridge, torchvision",
        ),
        (["--to", "mc3_18", "--set", "speed=3"], "mc3_18 has no argument 'speed'"),
        (
            ["--to", "mc3_18", "--labels", "nowhere.txt", "--out", "x.safetensors"],
            "cannot read the names of classes",
        ),
    ],
)
def test_a_user_s_mistakes(run, foreign: Path, tmp_path: Path, monkeypatch, arguments: list[str], text: str):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("convert", foreign, *arguments)
    assert (code, out) == (1, "")
    assert text in only_line(err)
    assert list(tmp_path.iterdir()) == []


# CNN-M-2048 of Caffe at a 32nd of its width, for flow of ten fields and pictures of 64 pixels.
BLOBS = {
    "conv1": (3, 20, 7, 7),
    "conv2": (8, 3, 5, 5),
    "conv3": (16, 8, 3, 3),
    "conv4": (16, 16, 3, 3),
    "conv5": (16, 16, 3, 3),
    "fc6": (128, 16),
    "fc7": (64, 128),
    "fc8": (3, 64),
}


def test_blobs_of_caffe_are_recognised_and_a_leftover_is_refused(run, tmp_path: Path):
    file, settings = tmp_path / "flow.npz", ("--set", "width=0.03125", "--set", "crop=64")
    blobs = {f"{layer}/0": np.full(shape, 0.5, "f4") for layer, shape in BLOBS.items()}
    blobs |= {f"{layer}/1": np.ones(shape[0], "f4") for layer, shape in BLOBS.items()}
    np.savez(file, **blobs)
    code, out, err = run(
        "convert", file, "--to", "two_stream_temporal", "--from", "auto", *settings, "--json"
    )
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [found[key] for key in ("format", "loaded", "adapted", "random", "dropped")] == [
        "CNN-M of Caffe",
        11,
        5,
        0,
        0,
    ]
    assert found["changed"]["adapted"] == [f"tower.conv{layer}.weight" for layer in range(1, 6)]
    assert (found["arguments"]["num_flows"], found["arguments"]["num_classes"]) == (10, 3)
    np.savez(file, **blobs, **{"fc9/0": np.zeros((3, 3))})
    code, _, err = run("convert", file, "--to", "two_stream_temporal", *settings)
    assert code == 1
    assert "unexpected fc9/0" in only_line(err)


@pytest.mark.parametrize("setting", ["layout", "layout=[1"])
def test_settings_that_are_none(run, foreign: Path, setting: str):
    code, _, err = run("convert", foreign, "--to", "mc3_18", "--set", setting)
    assert code == 2
    assert "--set" in err


def test_another_network_s_file_names_the_right_one(run, foreign: Path):
    code, out, err = run("convert", foreign, "--to", "r3d_18")
    assert (code, out) == (1, "")
    assert "does not fit r3d_18, it fits mc3_18; here " in only_line(err)


def test_a_file_that_is_not_what_its_name_says(run, foreign: Path, tmp_path: Path):
    path = tmp_path / "mc3_18-0123abcd.pth"
    shutil.copy(foreign, path)
    code, _, err = run("convert", path, "--to", "mc3_18")
    assert code == 1
    assert "not 0123abcd..." in only_line(err)


def test_leftovers_are_refused(run, foreign: Path, tmp_path: Path):
    path = tmp_path / "more.pth"
    state = torch.load(foreign, weights_only=True)
    torch.save({**state, "aux.weight": torch.zeros(1)}, path)
    code, _, err = run("convert", path, "--to", "mc3_18")
    assert code == 1
    assert "unexpected aux.weight" in only_line(err)


def test_models_lists_the_public_weights(run):
    code, out, _ = run("models", "i3d_r50_nl5", "--json")
    assert code == 0
    names = json.loads(out)["weights"]
    assert names[0] == "kinetics400/pyslowfast"
    assert "kinetics400/mmaction2-dot-product" in names
    code, out, _ = run("models", "mc3_18")
    assert "kinetics400/torchvision" in out


def test_fine_tuning_takes_weights_of_others_by_the_name_of_a_network(
    run, foreign: Path, videos: Path, tmp_path: Path
):
    arguments = ["--data", videos, "--init", foreign, "--epochs", 1, "--head-epochs", 1, "--threads", 1]
    code, out, err = run("train", *arguments, "--out", tmp_path / "a")
    assert (code, out) == (1, "")
    assert "does not say which network it is: name it (--model, or in --config)" in err.splitlines()[-1]
    config = tmp_path / "config.yaml"
    config.write_text(
        "data: {root: .}\nclip: [{num_frames: 4, frame_stride: null, resize: 36, crop: 32}]\nbatch_size: 4\n"
    )
    code, out, err = run(
        "train", "--config", config, "--model", "mc3_18", *arguments, "--out", tmp_path / "run"
    )
    assert code == 0, err
    assert f"{foreign}, weights of torchvision:" in err
    trained, state = load(tmp_path / "run"), torch.load(foreign, weights_only=True)
    assert torch.equal(trained.stem.conv.weight, state["stem.0.weight"])  # the head alone has trained
    code, out, err = run("train", "--data", videos, "--init", "kinetics400", "--out", tmp_path / "b")
    assert code == 1
    assert (
        "there is no file kinetics400; public weights go with the name of their network"
        in err.splitlines()[-1]
    )
