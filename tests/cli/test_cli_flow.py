"""`muybridge flow`: what it prints, and how it ends."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cli.commands import only_line
from muybridge.flow.store import FlowReader
from muybridge.video.decode import probe
from muybridge.video.encode import write_video


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    (folder / "wave").mkdir(parents=True)
    y, x = np.mgrid[:48, :64]
    frames = [
        np.repeat((100 + 60 * np.sin((x + y + 2 * t) / 6)).astype(np.uint8)[..., None], 3, -1)
        for t in range(7)
    ]
    for name in ("a.mp4", "b.mp4"):
        write_video(folder / "wave" / name, frames, fps=25)
    return folder


def test_a_folder_of_videos(run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "flow"
    code, printed, err = run("flow", folder, "--out", out, "--method", "dis", "--workers", "0")
    assert (code, err) == (0, "")
    assert printed.startswith("2 of 2 videos: 12 fields, 0.0 MB, ")
    assert printed.endswith(f" bytes a field: {out}\n")
    assert (out / "wave" / "a.mp4.flow").exists()
    code, printed, _ = run("flow", folder, "--out", out, "--method", "dis", "--workers", "0")
    assert printed.startswith("2 of 2 videos (2 were there): 12 fields")


def test_all_that_can_be_asked_for(run, folder: Path, tmp_path: Path) -> None:
    code, printed, _ = run(
        *("flow", folder / "wave" / "a.mp4", "--out", tmp_path, "--method", "dis/fast", "--bound", 15),
        *("--warp", "--size", "80x60", "--stride", 2, "--quality", "high", "--preview", "--json"),
        *("--param", "num_descents=9", "--param", "patch_stride=4"),
    )
    assert code == 0
    row = json.loads(printed)
    assert (row["status"], row["fields"], row["size"]) == ("done", 5, [60, 80])
    with FlowReader(tmp_path / "a.mp4.flow") as reader:
        header = reader.header
    assert (header.bound, header.warped, header.gaps, header.quality) == (15, True, (2,), "high")
    assert (header.parameters["num_descents"], header.parameters["finest_scale"]) == (9, 2)
    assert probe(tmp_path / "a.mp4.preview.mp4").width == 160


def test_fields_can_be_computed_on_a_device_of_torch(run, folder: Path, tmp_path: Path) -> None:
    video = folder / "wave" / "a.mp4"
    flags = ("--param", "num_warps=1", "--param", "tolerance_px=0", "--param", "num_outer=2")
    for name, device in (("numba", ()), ("torch", ("--device", "cpu"))):
        code, _, err = run("flow", video, "--out", tmp_path / name, "--workers", "0", *flags, *device)
        assert (code, err) == (0, "")
    codes = []
    for name in ("numba", "torch"):
        with FlowReader(tmp_path / name / "a.mp4.flow") as reader:
            codes.append(reader.codes([(i, i + 1) for i in range(6)]).astype(int))
    assert np.abs(codes[0] - codes[1]).max() <= 1  # of 255 levels
    assert codes[0].std() > 0


def test_the_device_is_the_one_that_computes(folder: Path, tmp_path: Path) -> None:
    """With a device of torch the compiled code is not even imported."""
    words = ["flow", str(folder / "wave" / "a.mp4"), "--workers", "0", "--param", "num_warps=1"]
    code = (
        "import sys; from muybridge.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "print('numba' in sys.modules)"
    )
    found = {}
    for name, device in (("numba", []), ("torch", ["--device", "cpu"])):
        command = [sys.executable, "-c", code, *words, "--out", str(tmp_path / name), *device]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[name] = done.stdout.splitlines()[-1]
    assert found == {"numba": "True", "torch": "False"}


def test_some_files_fail(run, folder: Path, tmp_path: Path) -> None:
    (folder / "wave" / "c.mp4").write_bytes(b"no video")
    code, printed, err = run("flow", folder, "--out", tmp_path / "flow", "--method", "dis", "--workers", "0")
    assert code == 3
    assert printed.startswith("2 of 3 videos: 12 fields")
    lines = err.splitlines()
    assert lines[0].startswith(f"muybridge: {folder / 'wave' / 'c.mp4'}: ")
    assert lines[-1] == "muybridge: 1 of 3 files failed"
    rows = run("flow", folder, "--out", tmp_path / "flow", "--method", "dis", "--workers", "0", "--json")[1]
    assert [json.loads(row)["status"] for row in rows.splitlines()] == ["there", "there", "failed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.mp4"], "nothing.mp4: cannot read nothing.mp4: No such file or directory; check the path"),
        (["VIDEO", "--method", "tvl2"], "no flow method 'tvl2'; did you mean 'tvl1'?"),
        (["VIDEO", "--param", "num_warps"], "--param num_warps: give a name and a value"),
        (
            ["VIDEO", "--method", "dis", "--param", "descents=3"],
            "unknown key 'descents'; did you mean 'num_descents'?",
        ),
        (["VIDEO", "--size", "large"], "--size large: give the short side in pixels, such as 256"),
        (["VIDEO", "--size", "0x9"], "--size 0x9: give the short side"),
        (
            ["VIDEO", "--quality", "best"],
            "no quality 'best' of stored flow; there are: lossless, high, small",
        ),
        (["VIDEO", "--method", "dis", "--device", "cpu"], "flow method 'dis' has no device to choose"),
        (["VIDEO", "--device", "gpu:0"], "device 'gpu:0' cannot be used here ("),
        (["VIDEO", "--bound", "0"], "the flow bound must be above 0 pixels, got 0"),
        (["VIDEO", "--fps", "0"], "the rate of stored flow must be above 0 frames a second"),
        (["EMPTY"], "no videos in"),
    ],
)
def test_mistakes_are_one_line(run, folder: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "empty").mkdir()
    named = {"VIDEO": folder / "wave" / "a.mp4", "EMPTY": tmp_path / "empty"}
    words = [named.get(word, word) for word in arguments]
    code, _, err = run("flow", *words, "--out", tmp_path / "flow")
    assert code == 1
    assert message in only_line(err)
