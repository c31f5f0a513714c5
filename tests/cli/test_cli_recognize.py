"""`muybridge recognize`: answers, broken videos among many, weights that are none."""

import json
import shutil
from pathlib import Path

import pytest

from cli.commands import ACTIONS, only_line


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
