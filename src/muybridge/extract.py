"""The one many-files job: a queue of files, one output each, that can be stopped at any moment and goes on.

    what is whole stays    an output appears under its name only when it is whole, so a kill loses at most the
                           files in work, and the next run makes what is missing
    what fails is a row    a file that cannot be read, or that kills the process which reads it, is reported
                           and the rest goes on
    what fails for all     a full disk, a wrong parameter: ends the job at once; nothing done is lost

`run_files` knows nothing of flow; `extract_flow` is the flow of a folder of videos.
"""

import os
import re
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from muybridge.data.workers import ProcessWorkers
from muybridge.errors import ConfigError, DataError, DecodeError, VideoError
from muybridge.flow.preview import write_preview
from muybridge.flow.recipe import FlowRecipe, sha256_of
from muybridge.flow.source import SUFFIX
from muybridge.flow.store import FlowReader
from muybridge.flow.video import StoreSettings, gaps_at, write_flow
from muybridge.types import Size
from muybridge.video.crops import resized_size

__all__ = ["FileTask", "FlowWork", "Outcome", "Progress", "extract_flow", "run_files"]

LEFTOVER_SECONDS = 3600.0  # so old, a temporary file is nobody's, though a process of its number may run
CLOSE_SECONDS = 5.0
PREVIEW_SUFFIX = ".preview.mp4"
TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<process>\d+)\.tmp(\..+)?")  # as `files.atomic_path` names them


@dataclass(frozen=True)
class FileTask:
    """One file of the job.

    Attributes:
        source: what is read.
        output: what is made of it.
        beside: other files that are made with it.
    """

    source: Path
    output: Path
    beside: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes:
        source: what was read.
        output: what was made of it.
        status: "done" now; "there" from an earlier run; "failed".
        reason: why it failed, in one line.
        seconds: what it took.
        num_bytes: of the output.
        facts: what the work says of it.
    """

    source: Path
    output: Path
    status: Literal["done", "there", "failed"]
    reason: str = ""
    seconds: float = 0.0
    num_bytes: int = 0
    facts: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "source": self.source.as_posix(),
            "output": self.output.as_posix(),
            "status": self.status,
            "reason": self.reason,
            "seconds": round(self.seconds, 3),
            "bytes": self.num_bytes,
            **self.facts,
        }


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    Attributes:
        num_done: files that are through, failed ones included.
        num_files: of the job.
        num_failed: of those that are through.
        part: of the bytes of all files that are through, in [0, 1].
        seconds_left: judged by those bytes; None at the start.
    """

    num_done: int
    num_files: int
    num_failed: int
    part: float
    seconds_left: float | None


Report = Callable[[float], None]  # is told which part of one file is through
Work = Callable[[FileTask, Report], Outcome]
OnProgress = Callable[[Progress], None]


def run_files(
    tasks: Sequence[FileTask], work: Work, *, num_workers: int = 0, on_progress: OnProgress | None = None
) -> Iterator[Outcome]:
    """Works through files; yields what became of each, as they are through.

    Args:
        tasks: the files.
        work: makes one output and says what it did; whether the output is there already, it must see itself.
            Goes to the workers: a function of a module, or a frozen value that can be called.
        num_workers: processes; 0 works in this one, file after file.
        on_progress: called after each file, and within one where there are no worker processes.

    Raises:
        MuybridgeError: what would fail for every file alike: a full disk, a wrong parameter.
    """
    clock = _Clock(tasks, on_progress)
    _remove_leftovers(tasks)
    for outcome in _in_processes(tasks, work, num_workers) if num_workers else _here(tasks, work, clock):
        clock.count(outcome)
        yield outcome


@dataclass(frozen=True)
class FlowWork:
    """The flow of one video into its store, with a preview beside it: the work of `extract_flow`.

    Attributes:
        recipe: how flow is made.
        settings: what else a store holds.
    """

    recipe: FlowRecipe
    settings: StoreSettings

    def __call__(self, task: FileTask, report: Report) -> Outcome:
        start = time.perf_counter()
        sha256 = sha256_of(task.source)
        status: Literal["done", "there"] = "there"
        if not self._is_there(task, sha256):
            status = "done"
            write_flow(
                task.source,
                task.output,
                self.recipe,
                self.settings,
                source_sha256=sha256,
                on_fields=lambda done, total: report(done / total),
            )
        for preview in task.beside:
            if not preview.exists() or preview.stat().st_mtime_ns < task.output.stat().st_mtime_ns:
                write_preview(task.source, task.output, preview)
        with FlowReader(task.output) as reader:
            header = reader.header
        num_bytes = task.output.stat().st_size
        return Outcome(
            source=task.source,
            output=task.output,
            status=status,
            seconds=time.perf_counter() - start,
            num_bytes=num_bytes,
            facts={"fields": header.num_fields, "size": list(header.size), "method": header.name},
        )

    def _is_there(self, task: FileTask, sha256: str) -> bool:
        """Whether the output is whole and of this video; one of another recipe is an error."""
        if not task.output.exists():
            return False
        try:
            reader = FlowReader(task.output)
        except DecodeError:
            return False  # cut short by a copy: made anew
        with reader:
            header, settings = reader.header, self.settings
            if header.source_sha256 != sha256:
                return False  # of the video as it was before
            size = Size(*header.source_size)
            found = header.differences(
                self.recipe.kind,
                size=size if settings.resize is None else resized_size(size, settings.resize),
                resize_filter=settings.resize_filter,
                gaps=gaps_at(header.fps, stride=settings.stride, fps=settings.fps),
            )
            if header.quality != settings.quality:
                found.append(f"quality {header.quality}, not {settings.quality}")
        if found:
            raise ConfigError(
                f"{task.output} is there already, with {'; '.join(found)}: name another folder with --out, "
                "or remove this one"
            )
        return True


def extract_flow(
    videos: Sequence[Path],
    out: Path | str,
    recipe: FlowRecipe,
    settings: StoreSettings | None = None,
    *,
    root: Path | None = None,
    num_workers: int = 0,
    preview: bool = False,
    on_progress: OnProgress | None = None,
) -> Iterator[Outcome]:
    """The flow of many videos: a store each, below `out` as the videos lie below `root`.

    Args:
        videos: the files.
        out: the folder of the stores.
        recipe: how flow is made.
        settings: what else a store holds.
        root: the folder of the videos; None puts all stores side by side, by the names of the files.
        num_workers: processes, each with one thread; 0 works in this one, with all cores on one video.
        preview: also write a video of frames and flow beside each store.
        on_progress: called as the job goes on.

    Raises:
        ConfigError: two videos would have one store, a store is there that was made otherwise, or previews
            would lie among the videos.
        StorageError: the disk is full, or the folder cannot be written.
    """
    if preview and root is not None and Path(out).resolve().is_relative_to(root.resolve()):
        raise ConfigError(
            f"previews in {out} would be taken for videos of {root}: name another folder with --out, or make "
            "none"
        )
    tasks = [_task(video, Path(out), root, preview=preview) for video in videos]
    seen: dict[Path, Path] = {}
    for task in tasks:
        if task.output in seen:
            raise ConfigError(
                f"{seen[task.output]} and {task.source} would both become {task.output}: give the folder "
                "that holds them all, or another --out for each"
            )
        seen[task.output] = task.source
    work = FlowWork(recipe, settings or StoreSettings())
    return run_files(tasks, work, num_workers=num_workers, on_progress=on_progress)


def _task(video: Path, out: Path, root: Path | None, *, preview: bool) -> FileTask:
    below = video.relative_to(root) if root is not None else Path(video.name)
    store = out / below.with_name(below.name + SUFFIX)
    return FileTask(video, store, (store.with_suffix(PREVIEW_SUFFIX),) if preview else ())


def _failed(task: FileTask, reason: str, seconds: float = 0.0) -> Outcome:
    return Outcome(task.source, task.output, "failed", reason, seconds)


def _attempt(task: FileTask, work: Work, report: Report) -> Outcome:
    """What fails because of this one file becomes a row; the rest is raised."""
    start = time.perf_counter()
    try:
        return work(task, report)
    except (VideoError, DataError) as error:
        reason = " ".join(str(error).split()).removeprefix(str(task.source)).lstrip(": ")
        return _failed(task, reason, time.perf_counter() - start)


def _here(tasks: Sequence[FileTask], work: Work, clock: "_Clock") -> Iterator[Outcome]:
    for task in tasks:
        yield _attempt(task, work, partial(clock.within, task))


@dataclass(frozen=True)
class _InWorker:
    """What a worker runs: it tells which task it begins, so that one that kills it can be named."""

    work: Work

    def __call__(self, numbered: tuple[int, FileTask], begin: Callable[[int], None]) -> Outcome:
        number, task = numbered
        begin(number)
        return _attempt(task, self.work, lambda part: None)


def _in_processes(tasks: Sequence[FileTask], work: Work, num_workers: int) -> Iterator[Outcome]:
    """Where a process dies, the files that were in work are tried again, each in a process of its own."""
    rest = list(range(len(tasks)))
    while rest:
        rest, suspects = yield from _pool(tasks, rest, work, num_workers)
        for number in suspects:
            _, killers = yield from _pool(tasks, [number], work, 1)
            if killers:
                reason = "it kills the process that reads it, or memory ran out: drop it"
                yield _failed(tasks[number], reason)


def _pool(
    tasks: Sequence[FileTask], numbers: Sequence[int], work: Work, num_workers: int
) -> Generator[Outcome, None, tuple[list[int], list[int]]]:
    """Yields outcomes until all are through or a process dies; returns the rest, and what was in work."""
    workers: ProcessWorkers[tuple[int, FileTask], Outcome] = ProcessWorkers(
        _InWorker(work), min(num_workers, len(numbers)), preload=__name__
    )
    unfinished = dict.fromkeys(numbers)
    futures: dict[Future[Outcome], int] = {}
    try:
        with suppress(BrokenProcessPool):
            futures |= {workers.submit((number, tasks[number])): number for number in numbers}
        for future in as_completed(futures):
            with suppress(BrokenProcessPool):
                outcome = future.result()
                del unfinished[futures[future]]
                yield outcome
        suspects = [number for number in workers.watch.current if number in unfinished]
        if unfinished and not suspects:
            raise DataError("the worker processes die as they start: try --workers 0, which says why")
        return [number for number in unfinished if number not in suspects], suspects
    finally:
        if unfinished:  # also where an error or Ctrl-C ends the job
            workers.kill()
        workers.close(CLOSE_SECONDS)
        _remove_leftovers([tasks[number] for number in unfinished])


def _remove_leftovers(tasks: Sequence[FileTask]) -> None:
    """Half-written files of processes that were killed: on this machine, or long ago on any."""
    made = {path for task in tasks for path in (task.output, *task.beside)}
    for folder in {path.parent for path in made}:
        for path in folder.glob(".*.tmp*"):
            match = TEMPORARY.fullmatch(path.name)
            if match is None or folder / match["name"] not in made:
                continue
            with suppress(OSError):  # its own process, or another job, was faster
                is_old = time.time() - path.stat().st_mtime > LEFTOVER_SECONDS
                if is_old or not _runs(int(match["process"])):
                    path.unlink()


def _runs(process: int) -> bool:
    """Whether there is a process of this number here."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


class _Clock:
    """What is through, by the bytes of the files, and how long the rest will take."""

    def __init__(self, tasks: Sequence[FileTask], on_progress: OnProgress | None) -> None:
        self._bytes = {task.source: _size_of(task.source) for task in tasks}
        self._total = max(1, sum(self._bytes.values()))
        self._num_files = len(tasks)
        self._on_progress = on_progress
        self._start = time.perf_counter()
        self._num_done = self._num_failed = 0
        self._through = self._worked = 0.0  # bytes; files that were there already are not work

    def count(self, outcome: Outcome) -> None:
        """One file is through."""
        self._num_done += 1
        self._num_failed += outcome.status == "failed"
        self._through += self._bytes[outcome.source]
        self._worked += self._bytes[outcome.source] * (outcome.status != "there")
        self._tell(0.0)

    def within(self, task: FileTask, part: float) -> None:
        """A part of one file is through."""
        self._tell(part * self._bytes[task.source])

    def _tell(self, more: float) -> None:
        if self._on_progress is None:
            return
        worked, left = self._worked + more, self._total - self._through - more
        seconds = (time.perf_counter() - self._start) / worked * left if worked else None
        part = min(1.0, (self._through + more) / self._total)
        self._on_progress(Progress(self._num_done, self._num_files, self._num_failed, part, seconds))


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # the work will say what is wrong
