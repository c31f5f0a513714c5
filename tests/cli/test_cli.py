"""The command line: what it prints where, its exit codes, and every message of a user's mistake."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import muybridge
from muybridge.cli import main
from muybridge.cli.training import _free_folder
from muybridge.config import TrainConfig
from muybridge.data.figures import render
from muybridge.models.registry import build
from muybridge.weights.store import load, save

ACTIONS = ("step_left", "walk")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two actions of three people, two clips each: a folder with labels.csv and a folder per class."""
    folder = tmp_path_factory.mktemp("cli") / "videos"
    render(folder, num_groups=3, num_frames=20, short_side_px=48, actions=ACTIONS)
    return folder


@pytest.fixture(scope="module")
def clip(videos: Path) -> Path:
    return sorted((videos / "walk").glob("*.mp4"))[0]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network with random weights that knows the two actions."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    model = build("r3d_10", num_classes=2, width=0.05)
    spec = model.default_specs[0].model_copy(update={"resize": 48, "crop": 32, "num_frames": 8})
    save(path, model, labels=ACTIONS, specs=(spec,))
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    """Runs a command in this process: (exit code, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def in_process(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "muybridge", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def only_line(err: str) -> str:
    """The message of a user's error: one line."""
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    return err.strip()


# --- the command itself ---------------------------------------------------------------------------------


def test_help_names_every_verb_and_is_light():
    code = (
        "import sys; from muybridge.cli import main; code = main(['--help']); "
        "print(code, len(sys.modules), *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *page, last = done.stdout.splitlines()
    for verb in ("demo", "recognize", "train", "eval", "models", "data", "probe", "env"):
        assert any(verb in line for line in page), verb
    exit_code, num_modules, *loaded = last.split()
    assert exit_code == "0"
    assert int(num_modules) < 450, "muybridge --help has become slow to start"
    assert not set(loaded) & {"torch", "numpy", "av", "cv2", "pydantic", "yaml", "matplotlib"}


@pytest.mark.parametrize("verb", ["demo", "recognize", "train", "eval", "models", "data", "probe", "env"])
def test_every_verb_has_help(run, verb: str):
    code, out, _ = run(verb, "--help")
    assert code == 0
    assert "Usage: muybridge" in out


def test_version(run):
    assert run("--version") == (0, f"muybridge {muybridge.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["fly"], "No such command 'fly'"),
        (["recognise"], "Did you mean 'recognize'"),
        (["recognize"], "Missing argument 'VIDEO"),
        (["probe", "--colour", "x.mp4"], "No such option"),
        (["recognize", "x.mp4", "--top", "0"], "Invalid value for '--top'"),
        (["train"], "--data"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_goes_to_stderr(run, arguments: list[str], text: str):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert text in err


def test_a_mistake_of_ours_is_a_traceback(monkeypatch: pytest.MonkeyPatch):
    def broken() -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("muybridge.environment.describe", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        main(["env"])


@pytest.mark.parametrize("verb", ["--help", "--version"])
def test_a_reader_that_goes_away_is_no_error(verb: str):
    """`muybridge --help | true`: nothing on stderr, though nobody reads what is written."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "muybridge", verb], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_module_and_script_are_the_same_command():
    done = in_process("--version")
    assert (done.returncode, done.stdout) == (0, f"muybridge {muybridge.__version__}\n")


# --- models, env ----------------------------------------------------------------------------------------


def test_models_prints_the_table_of_the_paper(run):
    code, out, _ = run("models")
    assert code == 0
    row = next(line for line in out.splitlines() if line.split()[:1] == ["r2plus1d_18"])
    assert row.split()[1:5] == ["33.37", "M", "41.50", "16x112x112"]
    assert "68.0" in row


def test_one_model_in_full(run):
    code, out, _ = run("models", "r3d_18")
    assert code == 0
    assert "33,371,472" in out
    assert "3x16x112x112" in out
    assert "stem stages.0 stages.1 stages.2 stages.3" in out


def test_models_as_json_lines(run):
    code, out, _ = run("models", "mc3_18", "--json")
    (row,) = map(json.loads, out.splitlines())
    assert code == 0
    assert (row["name"], row["parameters"], row["input"]) == ("mc3_18", 11_695_440, [[3, 16, 112, 112]])
    assert round(row["macs_per_view"] / 1e9, 2) == 43.34


def test_an_unknown_model_names_its_neighbour(run):
    code, out, err = run("models", "r2plus1_18")
    assert (code, out) == (1, "")
    assert only_line(err) == (
        "muybridge: no model 'r2plus1_18'; did you mean 'r2plus1d_18'? All names: muybridge models"
    )


def test_env_says_what_a_bug_report_needs(run):
    code, out, _ = run("env")
    assert code == 0
    for word in (
        "muybridge",
        "python",
        "cpu",
        "memory",
        "torch threads",
        "FFmpeg",
        "libavcodec",
        "free disk",
    ):
        assert word in out
    found = json.loads(run("env", "--json")[1])
    assert found["libraries"]["torch"]
    assert found["cores"] >= 1
    assert found["ffmpeg"]["libavcodec"]


# --- probe, data ----------------------------------------------------------------------------------------


def test_probe(run, clip: Path):
    code, out, err = run("probe", clip)
    assert (code, err) == (0, "")
    row = next(line.split() for line in out.splitlines() if str(clip) in line)
    assert row[1:7] == ["20", "25", "0.80", "64", "48", "h264"]


def test_probe_one_bad_among_many(run, clip: Path, tmp_path: Path):
    text = tmp_path / "notes.mp4"
    text.write_text("no video at all\n")
    code, out, err = run("probe", clip, text, "--json")
    assert code == 3
    assert json.loads(out)["num_frames"] == 20
    assert str(text) in err.splitlines()[0]
    assert err.splitlines()[-1] == "muybridge: 1 of 2 files failed"


@pytest.mark.parametrize("kind", ["text", "empty", "missing", "directory"])
def test_probe_of_what_is_no_video(run, tmp_path: Path, kind: str):
    path = tmp_path / "it.mp4"
    if kind == "directory":
        path.mkdir()
    elif kind != "missing":
        path.write_text("hello " * 50 if kind == "text" else "")
    code, out, err = run("probe", path)
    assert (code, out) == (1, "")
    assert str(path) in only_line(err)


def test_data_looks_at_all_videos(run, videos: Path):
    code, out, err = run("data", videos)
    assert (code, err) == (0, "")
    assert "12 samples in 12 files" in out
    assert "step_left 6, walk 6" in out
    found = json.loads(run("data", videos, "--json", "--no-decode")[1])
    assert (found["num_files"], found["decoded"], found["ok"]) == (12, False, True)


def test_data_ends_with_3_if_a_file_is_broken(run, videos: Path, tmp_path: Path):
    folder = tmp_path / "videos"
    for action in ACTIONS:
        shutil.copytree(videos / action, folder / action)
    victim = sorted((folder / "walk").iterdir())[0]
    victim.write_bytes(victim.read_bytes()[:700])
    code, out, err = run("data", folder)
    assert code == 3
    assert f"broken: {victim}" in out
    assert "1 of 12 files failed" in err


@pytest.mark.parametrize(("name", "text"), [("nowhere", "no data at"), ("", "no videos in")])
def test_data_without_videos(run, tmp_path: Path, name: str, text: str):
    code, out, err = run("data", tmp_path / name)
    assert (code, out) == (1, "")
    assert text in only_line(err)


def test_an_unknown_format_lists_those_there_are(run, videos: Path):
    code, _, err = run("data", videos, "--format", "ucf")
    assert code == 1
    assert "'weizmann'" in only_line(err)


# --- recognize ------------------------------------------------------------------------------------------


def test_recognize_prints_labels_and_scores(run, clip: Path, checkpoint: Path):
    code, out, err = run("recognize", clip, "--weights", checkpoint)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == str(clip)
    assert sorted(line.split()[1] for line in lines[1:]) == list(ACTIONS)
    assert sum(float(line.split()[0]) for line in lines[1:]) == pytest.approx(1, abs=0.002)


def test_recognize_takes_folders_and_patterns_each_video_once(run, videos: Path, checkpoint: Path):
    code, out, _ = run(
        "recognize",
        videos / "walk",
        videos / "*" / "person01_1.mp4",
        "--weights",
        checkpoint,
        "--top",
        1,
        "--json",
    )
    answers = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    names = [Path(answer["video"]).relative_to(videos).as_posix() for answer in answers]
    expected = [f"walk/person0{person}_{k}.mp4" for person in (1, 2, 3) for k in (1, 2)]
    assert names == [*expected, "step_left/person01_1.mp4"]
    assert all(len(answer["top"]) == 1 and answer["protocol"] == "center" for answer in answers)
    assert all(len(answer["views"]) == len(answer["spec"]) == 8 for answer in answers)


def test_recognize_answers_the_others_when_one_is_broken(run, clip: Path, checkpoint: Path, tmp_path: Path):
    text = tmp_path / "notes.mp4"
    text.write_text("no video at all\n")
    code, out, err = run("recognize", text, clip, tmp_path / "gone.mp4", "--weights", checkpoint, "--json")
    assert code == 3
    assert [json.loads(line)["video"] for line in out.splitlines()] == [str(clip)]
    assert str(text) in err
    assert f"{tmp_path / 'gone.mp4'}: there is no such video" in err
    assert err.splitlines()[-1] == "muybridge: 2 of 3 files failed"


def test_recognize_without_any_answer_is_exit_code_1(run, checkpoint: Path, tmp_path: Path):
    code, out, err = run("recognize", tmp_path / "gone.mp4", "--weights", checkpoint)
    assert (code, out) == (1, "")
    assert "gone.mp4: there is no such video" in only_line(err)


def test_recognize_without_weights_says_which_there_are(
    run, clip: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("recognize", clip)
    assert code == 1
    assert "there is none in runs/* or demo/run. To make one: muybridge train --data FOLDER" in only_line(err)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "empty").mkdir()
    shutil.copy(checkpoint, tmp_path / "runs" / "mine" / "model.safetensors")
    code, _, err = run("recognize", clip)
    assert code == 1
    assert "here are runs/mine (r3d_10, 2 classes). To make another:" in only_line(err)


def test_an_unknown_protocol_names_its_neighbour(run, clip: Path, checkpoint: Path):
    code, _, err = run("recognize", clip, "--weights", checkpoint, "--protocol", "centre")
    assert code == 1
    assert only_line(err) == "muybridge: no protocol 'centre'; did you mean 'center'?"


@pytest.mark.parametrize("kind", ["missing", "half", "empty folder", "text"])
def test_weights_that_are_none(run, clip: Path, checkpoint: Path, tmp_path: Path, kind: str):
    path = tmp_path / "bad.safetensors"
    if kind == "half":
        content = checkpoint.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    elif kind == "empty folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("weights")
    code, out, err = run("recognize", clip, "--weights", path)
    expected = {
        "missing": "there is no file",
        "half": "cut short",
        "empty folder": "holds no model.safetensors",
        "text": "not a whole safetensors file",
    }
    assert (code, out) == (1, "")
    assert expected[kind] in only_line(err)
    assert str(path) in err


# --- train ----------------------------------------------------------------------------------------------


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


def test_resume_of_a_finished_run(run, trained: tuple[Path, str, str], videos: Path):
    run_dir, _, _ = trained
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


def test_a_recipe_goes_by_its_name(run, tmp_path: Path):
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


# --- eval -----------------------------------------------------------------------------------------------


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
