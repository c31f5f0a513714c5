"""`muybridge train`: its defaults, its files, and the messages of a user's mistakes."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli.commands import ACTIONS, in_process, only_line
from muybridge.cli.training import _free_folder
from muybridge.config import TrainConfig
from muybridge.weights.store import load


@pytest.fixture(scope="module")
def trained(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """One epoch of what `--data` alone chooses, narrowed: the run's folder, what was printed, and where."""
    folder = tmp_path_factory.mktemp("trained")
    done = in_process("train", "--data", videos, "--epochs", 1, "--width", 0.05, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "videos", done.stdout, done.stderr


def test_train_chooses_and_says_what(trained: tuple[Path, str, str]):
    run_dir, out, err = trained
    assert out == "runs/videos/model.safetensors\n"
    assert (run_dir / "model.safetensors").is_file()
    assert "chosen: clips are not mirrored: that would change the class of step_left" in err
    assert "as asked: model.width 0.05, epochs 1, data.root" in err
    settings = TrainConfig.from_yaml(run_dir / "config.yaml")
    assert (settings.epochs, settings.model.width, settings.augment.flip) == (1, 0.05, False)


def test_a_run_is_enough_to_test_and_to_recognize(run, trained: tuple[Path, str, str], clip: Path):
    run_dir, _, _ = trained
    code, out, _ = run("eval", "--weights", run_dir, "--json")
    assert (code, json.loads(out)["num_samples"]) == (0, 4), "the split 'test' of the run's own data"
    code, out, _ = run("recognize", clip, "--weights", run_dir, "--json")
    assert (code, json.loads(out)["label"] in ACTIONS) == (0, True)


def test_a_run_does_not_write_over_another(run, trained: tuple[Path, str, str], videos: Path):
    run_dir, _, _ = trained
    code, _, err = run("train", "--config", run_dir / "config.yaml", "--data", videos, "--out", run_dir)
    assert code == 1
    assert f"{run_dir} holds a run already: resume it" in err.splitlines()[-1]


def test_resume_of_a_finished_run(
    run, trained: tuple[Path, str, str], videos: Path, monkeypatch: pytest.MonkeyPatch
):
    run_dir, _, _ = trained
    monkeypatch.chdir(run_dir.parent.parent)  # the cache of its config.yaml is a relative path
    before = (run_dir / "model.safetensors").read_bytes()
    code, out, _ = run("train", "--resume", run_dir, "--data", videos, "--json")
    assert (code, json.loads(out)["weights"]) == (0, str(run_dir / "model.safetensors"))
    assert (run_dir / "model.safetensors").read_bytes() == before


def test_fine_tuning_says_what_was_loaded(run, trained: tuple[Path, str, str], videos: Path, tmp_path: Path):
    run_dir, _, _ = trained
    code, out, err = run(
        "train", "--data", videos, "--init", run_dir, "--freeze", "stem,stages.0", "--head-epochs", 1,
        "--epochs", 1, "--out", tmp_path / "tuned",
    )  # fmt: skip
    assert (code, out) == (0, f"{tmp_path / 'tuned' / 'model.safetensors'}\n")
    assert re.search(r"^  loaded +\d+ tensors  stem, stages", err, re.MULTILINE)
    assert re.search(r"^  random +2 tensors  head", err, re.MULTILINE)
    frozen = load(tmp_path / "tuned").state_dict()
    assert all(
        frozen[name].equal(value)
        for name, value in load(run_dir).state_dict().items()
        if name.startswith("stem")
    )


def test_ctrl_c_saves_and_says_how_to_go_on(videos: Path, tmp_path: Path):
    command = [sys.executable, "-m", "muybridge", "train", "--data", str(videos), "--width", "0.05"]
    process = subprocess.Popen(
        [*command, "--epochs", "500", "--out", "endless"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith("epoch 1/"):
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, "".join(seen) + err
    assert out == ""
    assert "go on with: muybridge train --resume endless" in err
    assert err.splitlines()[-1] == "muybridge: interrupted"
    assert "Traceback" not in err
    assert (tmp_path / "endless" / "state").is_dir()


def test_a_new_run_gets_a_free_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert _free_folder(Path("data/my videos.csv")) == Path("runs/my videos")
    for name in ("my videos", "my videos-2"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert _free_folder(Path("data/my videos.csv")) == Path("runs/my videos-3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {root: videos}\nepocs: 3\n", "exp.yaml: unknown key 'epocs'; did you mean 'epochs'?"),
        ("data: {root: videos, groups: [a]}\n", "exp.yaml, data: unknown key 'groups'"),
        ("epochs: 3\n", "exp.yaml, data: the key 'data' is missing"),
        ("data: [", "exp.yaml is not YAML"),
        (None, "exp.yaml and no recipe of that name; the recipes are: figures,"),
    ],
)
def test_settings_that_are_wrong(run, tmp_path: Path, text: str | None, message: str):
    path = tmp_path / "exp.yaml"
    if text is not None:
        path.write_text(text)
    code, out, err = run("train", "--config", path, "--out", tmp_path / "run")
    assert (code, out) == (1, "")
    assert message.replace("exp.yaml, data: the", "exp.yaml: the") in err


def test_a_recipe_goes_by_its_name(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weizmann").mkdir()  # a folder of clips that bears the recipe's name does not hide it
    flags = ("--data", tmp_path / "gone", "--out", tmp_path / "run")
    code, _, err = run("train", "--config", "weizmann", *flags)
    assert (code, f"no data at {tmp_path / 'gone'}" in err.splitlines()[-1]) == (1, True)
    code, _, err = run("train", "--config", "weizman", *flags)
    assert (code, only_line(err)) == (
        1,
        "muybridge: there is no file weizman and no recipe of that name; did you mean 'weizmann'?",
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "r2plus1_10"], "no model 'r2plus1_10'; did you mean 'r2plus1d_10'?"),
        (["--precision", "fp8"], "precision: Input should be 'float32' or 'bf16', got 'fp8'"),
        (["--width", "-1"], "model.width: Input should be greater than 0, got -1.0"),
        (["--test", "anna"], "data.test: there is no group or split 'anna'"),
        (["--init", "gone.safetensors"], "there is no file gone.safetensors"),
        (["--freeze", "stem.9"], "stem.9"),
        (["--head-epochs", "1"], "give init, or set head_epochs to 0"),
    ],
)
def test_flags_that_are_wrong(run, videos: Path, tmp_path: Path, flags: list[str], message: str):
    code, out, err = run("train", "--data", videos, "--out", tmp_path / "run", *flags)
    assert (code, out) == (1, "")
    *_, last = err.splitlines()
    assert last.startswith("muybridge: ")
    assert message in last


def test_resume_where_there_is_nothing(run, tmp_path: Path):
    code, _, err = run("train", "--resume", tmp_path)
    assert code == 1
    assert f"nothing to resume in {tmp_path}" in only_line(err)


@pytest.mark.parametrize("flags", [["--epochs", "3"], ["--out", "elsewhere"], ["--config", "exp.yaml"]])
def test_a_run_goes_on_as_it_began(run, trained: tuple[Path, str, str], flags: list[str]):
    code, _, err = run("train", "--resume", trained[0], *flags)
    assert code == 2
    assert "a run goes on as it began" in err


def test_several_processes_need_a_common_folder(run, videos: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = run("train", "--data", videos)
    assert code == 2
    assert "--out" in err
