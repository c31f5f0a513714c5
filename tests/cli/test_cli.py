"""The command line: what it prints where, its exit codes, and the messages of a user's mistakes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import muybridge
from cli.commands import ACTIONS, in_process, only_line
from muybridge.cli import main


def test_help_names_every_verb_and_is_light():
    code = (
        "import sys; from muybridge.cli import main; code = main(['--help']); "
        "print(code, len(sys.modules), *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *page, last = done.stdout.splitlines()
    for verb in (
        "demo",
        "recognize",
        "train",
        "eval",
        "models",
        "svm",
        "fuse",
        "convert",
        "flow",
        "data",
        "probe",
        "env",
    ):
        assert any(verb in line for line in page), verb
    exit_code, num_modules, *loaded = last.split()
    assert exit_code == "0"
    assert int(num_modules) < 450, "muybridge --help has become slow to start"
    assert not set(loaded) & {"torch", "numpy", "av", "cv2", "pydantic", "yaml", "matplotlib"}


@pytest.mark.parametrize(
    "verb", ["demo", "recognize", "train", "eval", "models", "svm", "convert", "flow", "data", "probe", "env"]
)
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
