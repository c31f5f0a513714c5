"""The many-files job: nothing done is lost, nothing that failed is silent, whatever ends it.

Seen to fail: an output written in place; the rest lost with a worker that dies; a store of another recipe
taken for done; a full disk reported as a broken file.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from full_disk import largest_file

from muybridge.errors import ConfigError, DataError, StorageError, VideoError
from muybridge.extract import FileTask, Outcome, Progress, extract_flow, run_files
from muybridge.flow.recipe import FlowRecipe
from muybridge.flow.store import FlowReader
from muybridge.flow.video import StoreSettings
from muybridge.types import UInt8Array
from muybridge.video.decode import probe
from muybridge.video.encode import write_video

RECIPE = FlowRecipe.of("dis/ultrafast", bound=8)


def drifting(num_frames: int, seed: int = 0, height: int = 48, width: int = 64) -> Iterator[UInt8Array]:
    y, x = np.mgrid[:height, :width]
    for t in range(num_frames):
        waves = np.sin((x + (1 + seed) * t) / 5) + np.cos((y - t) / 6)
        yield np.repeat((60 * waves + 127).astype(np.uint8)[..., None], 3, axis=-1)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    for seed in range(4):
        (folder / f"class{seed % 2}").mkdir(parents=True, exist_ok=True)
        write_video(folder / f"class{seed % 2}" / f"{seed}.mp4", drifting(9, seed), fps=25)
    return folder


def found(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.mp4"))


def statuses(outcomes: Sequence[Outcome]) -> dict[str, str]:
    return {outcome.source.name: outcome.status for outcome in outcomes}


# Works of other kinds than flow, as features will be


def copy(task: FileTask, report: Callable[[float], None]) -> Outcome:
    """Copies a text; its words are orders."""
    text = task.source.read_text()
    if text == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if text == "fail":
        raise VideoError(f"{task.source}: it is no text")
    if text == "full":
        raise StorageError("no space left")
    report(0.5)
    task.output.write_text(text)
    return Outcome(task.source, task.output, "done", num_bytes=len(text))


def texts(folder: Path, *contents: str) -> list[FileTask]:
    tasks = []
    for i, content in enumerate(contents):
        (folder / f"{i}.txt").write_text(content)
        tasks.append(FileTask(folder / f"{i}.txt", folder / f"{i}.out"))
    return tasks


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_fails_is_a_row_and_the_rest_goes_on(tmp_path: Path, num_workers: int) -> None:
    tasks = texts(tmp_path, "a", "fail", "b")
    told: list[Progress] = []
    outcomes = list(run_files(tasks, copy, num_workers=num_workers, on_progress=told.append))
    assert statuses(outcomes) == {"0.txt": "done", "1.txt": "failed", "2.txt": "done"}
    assert [one.reason for one in outcomes if one.status == "failed"] == ["it is no text"]
    assert (told[-1].num_done, told[-1].num_files, told[-1].num_failed) == (3, 3, 1)
    assert told[-1].part == 1
    assert told[-1].seconds_left == 0
    assert [one.part for one in told] == sorted(one.part for one in told)
    assert len(told) == (5 if num_workers == 0 else 3)  # within a file too where it runs here


def test_a_file_that_kills_its_process_is_named_and_the_rest_is_done(tmp_path: Path) -> None:
    tasks = texts(tmp_path, "a", "b", "kill", "c", "d", "e")
    outcomes = list(run_files(tasks, copy, num_workers=2))
    failed = [one for one in outcomes if one.status == "failed"]
    assert [one.source.name for one in failed] == ["2.txt"]
    assert failed[0].reason == "it kills the process that reads it, or memory ran out: drop it"
    assert len(outcomes) == 6
    assert all(task.output.exists() for task in tasks if task.source.name != "2.txt")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_fails_for_all_ends_the_job(tmp_path: Path, num_workers: int) -> None:
    tasks = texts(tmp_path, "a", "full", *"b" * 30)
    with pytest.raises(StorageError, match="no space left"):
        list(run_files(tasks, copy, num_workers=num_workers))
    if num_workers == 0:
        assert tasks[0].output.exists()
        assert not tasks[2].output.exists()


class DiesOnArrival:
    """What cannot be unpickled in a worker."""

    def __call__(self, task: FileTask, report: Callable[[float], None]) -> Outcome:
        raise AssertionError("never called")

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (1,)


def test_workers_that_do_not_start(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the worker processes die as they start: try --workers 0"):
        list(run_files(texts(tmp_path, "a", "b"), DiesOnArrival(), num_workers=1))


def test_half_written_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    beside = tmp_path / "0.preview.mp4"
    tasks = [FileTask(task.source, task.output, (beside,)) for task in texts(tmp_path, "a")]
    runs, is_gone = os.getppid(), ended.pid
    left = {
        f".0.out.{is_gone}.tmp.out": False,
        f".0.preview.mp4.{is_gone}.tmp.mp4": False,
        f".0.out.{runs}.tmp.out": True,
        f".x.out.{is_gone}.tmp.out": True,  # of another job
    }
    for name in left:
        (tmp_path / name).write_text("half")
    list(run_files(tasks, copy))
    assert {name: (tmp_path / name).exists() for name in left} == left
    os.utime(tmp_path / f".0.out.{runs}.tmp.out", (0, 0))  # the number has another process by now
    list(run_files(tasks, copy))
    assert not (tmp_path / f".0.out.{runs}.tmp.out").exists()


# Flow


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_folder_becomes_a_folder_of_stores(videos: Path, tmp_path: Path, num_workers: int) -> None:
    (videos / "class0" / "broken.mp4").write_bytes(b"no video")
    write_video(videos / "class0" / "one.mp4", drifting(1), fps=25)
    write_video(videos / "class0" / "tiny.mp4", drifting(5, height=8, width=8), fps=25)
    out = tmp_path / "flow"
    outcomes = list(extract_flow(found(videos), out, RECIPE, root=videos, num_workers=num_workers))
    assert statuses(outcomes) == {
        **dict.fromkeys(("broken.mp4", "one.mp4", "tiny.mp4"), "failed"),
        **dict.fromkeys(("0.mp4", "1.mp4", "2.mp4", "3.mp4"), "done"),
    }
    reasons = {one.source.name: one.reason for one in outcomes}
    assert "is not a video" in reasons["broken.mp4"]
    assert reasons["one.mp4"].startswith("flow needs frames 1 apart, and the video has 1")
    assert "needs frames of" in reasons["tiny.mp4"]
    stores = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert stores == [f"class{i % 2}/{i}.mp4.flow" for i in (0, 2, 1, 3)]
    row = next(one for one in outcomes if one.source.name == "3.mp4").to_dict()
    assert (row["fields"], row["size"], row["method"]) == (8, [48, 64], "dis/ultrafast")
    assert row["bytes"] == (out / "class1" / "3.mp4.flow").stat().st_size

    again = list(extract_flow(found(videos), out, RECIPE, root=videos))
    assert sorted(one.status for one in again) == ["failed"] * 3 + ["there"] * 4


def test_workers_write_the_same_bytes(videos: Path, tmp_path: Path) -> None:
    contents = []
    for num_workers in (0, 2):
        out = tmp_path / f"{num_workers}"
        list(extract_flow(found(videos), out, RECIPE, root=videos, num_workers=num_workers))
        contents.append({path.name: path.read_bytes() for path in out.rglob("*.flow")})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 4


def test_what_is_damaged_or_of_a_video_that_changed_is_made_anew(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "flow"
    list(extract_flow(found(videos), out, RECIPE, root=videos))
    cut = out / "class0" / "0.mp4.flow"
    cut.write_bytes(cut.read_bytes()[:-100])
    write_video(videos / "class1" / "1.mp4", drifting(6, seed=9), fps=25)
    outcomes = list(extract_flow(found(videos), out, RECIPE, root=videos))
    assert statuses(outcomes) == {"0.mp4": "done", "1.mp4": "done", "2.mp4": "there", "3.mp4": "there"}
    with FlowReader(out / "class1" / "1.mp4.flow") as reader:
        assert reader.header.num_fields == 5


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        (FlowRecipe.of("dis/fast", bound=8), StoreSettings(), "method dis/ultrafast .*, not dis/fast"),
        (FlowRecipe.of("dis/ultrafast", bound=9), StoreSettings(), "bound 8, not 9"),
        (RECIPE, StoreSettings(quality="high"), "quality lossless, not high"),
        (RECIPE, StoreSettings(resize=40), "64x48 pixels, not 53x40"),
        (RECIPE, StoreSettings(stride=2), "fields over 1 frame, not over 2 frames"),
    ],
)
def test_a_folder_of_other_flow_is_not_mixed(
    videos: Path, tmp_path: Path, recipe: FlowRecipe, settings: StoreSettings, message: str
) -> None:
    out = tmp_path / "flow"
    list(extract_flow(found(videos)[:1], out, RECIPE, root=videos))
    with pytest.raises(
        ConfigError, match=rf"is there already, with {message}.*: name another folder with --out"
    ):
        list(extract_flow(found(videos), out, recipe, settings, root=videos))


def test_two_videos_of_one_name(videos: Path, tmp_path: Path) -> None:
    write_video(videos / "class1" / "0.mp4", drifting(3), fps=25)
    with pytest.raises(
        ConfigError, match=r"class0/0\.mp4 and .*class1/0\.mp4 would both become .*0\.mp4\.flow"
    ):
        extract_flow(found(videos), tmp_path / "flow", RECIPE)


def test_a_preview_is_made_where_it_is_missing_or_older_than_its_flow(videos: Path, tmp_path: Path) -> None:
    out, video = tmp_path / "flow", videos / "class0" / "0.mp4"

    def frames_shown() -> int:
        list(extract_flow([video], out, RECIPE, root=videos, preview=True))
        return probe(preview).num_frames

    preview = out / "class0" / "0.mp4.preview.mp4"
    list(extract_flow([video], out, RECIPE, root=videos))
    assert not preview.exists()
    assert frames_shown() == 8
    written = preview.stat().st_mtime_ns
    assert frames_shown() == 8
    assert preview.stat().st_mtime_ns == written
    write_video(video, drifting(6, seed=9), fps=25)
    assert frames_shown() == 5


@pytest.mark.parametrize("below", ["", "flow"])
def test_previews_do_not_lie_among_the_videos(videos: Path, below: str) -> None:
    with pytest.raises(
        ConfigError, match=r"previews in .* would be taken for videos of .*videos: name another"
    ):
        extract_flow(found(videos), videos / below, RECIPE, root=videos, preview=True)
    outcomes = list(extract_flow(found(videos)[:1], videos / below, RECIPE, root=videos))
    assert [one.status for one in outcomes] == ["done"]


def test_a_full_disk_ends_the_job_and_what_is_done_stays(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "flow"
    write_video(videos / "class1" / "0.mp4", drifting(60), fps=25)
    small = found(videos)[:2]
    list(extract_flow(small[:1], out, RECIPE, root=videos))
    size = (out / "class0" / "0.mp4.flow").stat().st_size
    with largest_file(2 * size), pytest.raises(StorageError, match=r"cannot write .*class1/0\.mp4\.flow"):
        list(extract_flow([*small, videos / "class1" / "0.mp4"], out, RECIPE, root=videos))
    assert sorted(path.name for path in out.rglob("*.flow*")) == ["0.mp4.flow", "2.mp4.flow"]
    outcomes = list(extract_flow(found(videos), out, RECIPE, root=videos))
    assert sorted(one.status for one in outcomes) == ["done"] * 3 + ["there"] * 2


def test_a_kill_loses_at_most_the_video_in_work(videos: Path, tmp_path: Path) -> None:
    """kill -9 in the middle of a long video; the run after it makes what is missing, and only that."""
    write_video(videos / "class1" / "long.mp4", drifting(1500), fps=25)
    out = tmp_path / "flow"
    arguments = [str(videos), "--out", str(out), "--method", "dis", "--workers", "0"]
    command = [sys.executable, "-m", "muybridge", "flow", *arguments]
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 200
        while not list(out.rglob(".long.mp4.flow.*")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    whole = {path: path.stat().st_mtime_ns for path in out.rglob("[!.]*.flow")}
    assert sorted(path.name for path in whole) == [f"{i}.mp4.flow" for i in range(4)]
    write_video(videos / "class1" / "long.mp4", drifting(6), fps=25)  # it need not be long any more
    outcomes = list(extract_flow(found(videos), out, FlowRecipe.of("dis"), root=videos))
    assert statuses(outcomes) == {**{f"{i}.mp4": "there" for i in range(4)}, "long.mp4": "done"}
    assert {path: path.stat().st_mtime_ns for path in whole} == whole
