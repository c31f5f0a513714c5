"""What a run tells: log.jsonl, TensorBoard's file, a progress bar, a line an epoch."""

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from muybridge.files import storage_error

__all__ = ["EpochRecord", "RunLog", "StepRecord", "Tally", "duration_text", "say"]

STEPS_BEFORE_ESTIMATE = 20


@dataclass
class Tally:
    """Sums over clips, from which the mean loss and accuracy follow."""

    loss_sum: float = 0.0
    correct: int = 0
    clips: int = 0
    seconds: float = 0.0

    def add(self, other: "Tally") -> None:
        """Takes in the clips of another tally."""
        self.loss_sum += other.loss_sum
        self.correct += other.correct
        self.clips += other.clips
        self.seconds += other.seconds

    @property
    def loss(self) -> float:
        """Mean loss of a clip."""
        return self.loss_sum / max(1, self.clips)

    @property
    def accuracy(self) -> float:
        """Part of the clips whose best score is on a true label."""
        return self.correct / max(1, self.clips)

    @property
    def clips_per_second(self) -> float:
        """Over loading and computing, all processes together."""
        return self.clips / max(1e-9, self.seconds)


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """A line of the log: the mean over the steps since the line before.

    Attributes:
        epoch: counted from 1, for people.
        step: optimiser steps done since the start of the run.
        loss: mean training loss of a clip.
        accuracy: training accuracy, on augmented clips and with the weights of the moment.
        lr: learning rate of the last step.
        gradient_norm: of the last step, before clipping.
        clips_per_second: all processes together.
        seconds: what these steps took.
    """

    kind: str = "step"
    epoch: int
    step: int
    loss: float
    accuracy: float
    lr: float
    gradient_norm: float
    clips_per_second: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """A line of the log: one pass over the training samples, and the validation after it.

    Attributes:
        epoch: counted from 1.
        step: optimiser steps done since the start of the run.
        loss: mean training loss of a clip.
        accuracy: training accuracy, on augmented clips and while the weights changed.
        lr: learning rate of the last step.
        clips_per_second: training alone, all processes together.
        seconds: training alone.
        val_top1: part of the validation videos whose best score is on a true label; None where this epoch has
            no validation.
        val_loss: mean of -log(probability of the true label).
        val_seconds: what validation took.
        best: this epoch is the best on validation so far.
    """

    kind: str = "epoch"
    epoch: int
    step: int
    loss: float
    accuracy: float
    lr: float
    clips_per_second: float
    seconds: float
    val_top1: float | None = None
    val_loss: float | None = None
    val_seconds: float | None = None
    best: bool = False


class _Last(NamedTuple):
    """Where the last step stood, for the line that the next flush writes."""

    epoch: int
    step: int
    lr: float
    gradient_norm: float


class RunLog:
    """Writes what happens; on all processes but the first it writes and prints nothing.

    Args:
        folder: of the run.
        active: this is the first process.
        num_epochs: of the whole run.
        total_steps: optimiser steps of the whole run.
        first_step: those done before this start.
        offset: bytes of log.jsonl that belong to those; what stands after them is cut off.
        every: optimiser steps from one line to the next.
        on_event: also gets each record.
    """

    def __init__(
        self,
        folder: Path,
        *,
        active: bool,
        num_epochs: int,
        total_steps: int,
        first_step: int = 0,
        offset: int = 0,
        every: int = 10,
        on_event: Callable[[StepRecord | EpochRecord], None] | None = None,
    ) -> None:
        self.folder, self.active, self.every, self.on_event = folder, active, every, on_event
        self.num_epochs, self.total_steps, self.first_step = num_epochs, total_steps, first_step
        self._console = Console(stderr=True)
        self._pending = Tally()
        self._epoch = Tally()
        self._last: _Last | None = None
        self._measured = Tally()
        self._measured_steps = 0
        self._file: BinaryIO | None = None
        self._scalars: ScalarFile | None = None
        self._bar: tuple[Progress, TaskID] | None = None
        if active:
            path = folder / "log.jsonl"
            with _storage(path):
                self._file = path.open("r+b" if path.exists() else "w+b")
                self._file.truncate(min(offset, path.stat().st_size))
                self._file.seek(0, os.SEEK_END)
                self._scalars = ScalarFile(folder, first_step=first_step)
            if sys.stderr.isatty():
                self._bar = _progress_bar(self._console, total_steps, first_step)

    def say(self, text: str) -> None:
        """A line for people, on stderr."""
        if self.active:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def write(self, entry: Mapping[str, Any]) -> None:
        """One object as a line of log.jsonl."""
        if self._file is not None:
            with _storage(self.folder / "log.jsonl"):
                self._file.write(json.dumps(entry).encode() + b"\n")
                self._file.flush()

    def start(self, entry: Mapping[str, Any]) -> None:
        """The first line of a start: what it runs on."""
        self.write(entry)

    def step(self, tally: Tally, *, epoch: int, step: int, lr: float, gradient_norm: float) -> None:
        """Takes in one optimiser step; each `every` of them make a line.

        Args:
            tally: its clips.
            epoch: counted from 1.
            step: optimiser steps done, this one included.
            lr: its learning rate.
            gradient_norm: before clipping.
        """
        self._pending.add(tally)
        self._epoch.add(tally)
        self._last = _Last(epoch, step, lr, gradient_norm)
        if self._bar is not None:
            bar, task = self._bar
            bar.update(task, completed=step, description=_bar_text(epoch, self.num_epochs, self._epoch))
        if step % self.every == 0:
            self.flush()
        self._estimate(step - self.first_step, tally)

    def skipped(self, *, step: int, reason: str) -> None:
        """A step whose gradient was not finite moved nothing."""
        self.write({"kind": "skipped", "step": step, "reason": reason})
        self.say(reason)

    def epoch(self, record: EpochRecord) -> None:
        """One pass over the samples is done."""
        self.flush()
        self._epoch = Tally()
        self._emit(record)
        self.say(_epoch_text(record, self.num_epochs))

    def flush(self) -> None:
        """Writes the line of the steps since the last one."""
        if self._last is None:
            return
        pending, last = self._pending, self._last
        self._pending, self._last = Tally(), None
        self._emit(
            StepRecord(
                epoch=last.epoch,
                step=last.step,
                loss=pending.loss,
                accuracy=pending.accuracy,
                lr=last.lr,
                gradient_norm=last.gradient_norm,
                clips_per_second=pending.clips_per_second,
                seconds=pending.seconds,
            )
        )

    def position(self) -> int:
        """Bytes of log.jsonl with all that has happened so far."""
        self.flush()
        return self._file.tell() if self._file is not None else 0

    def close(self) -> None:
        """Ends the files and the bar."""
        if self._bar is not None:
            self._bar[0].stop()
        if self._file is not None:
            self._file.close()
        if self._scalars is not None:
            self._scalars.close()

    def _emit(self, record: StepRecord | EpochRecord) -> None:
        self.write({name: _rounded(value) for name, value in asdict(record).items()})
        if self._scalars is not None:
            part = "train" if isinstance(record, StepRecord) else "epoch"
            values = {name: value for name, value in asdict(record).items() if isinstance(value, float)}
            with _storage(self.folder):
                self._scalars.add({f"{part}/{name}": value for name, value in values.items()}, record.step)
        if self.active and self.on_event is not None:
            self.on_event(record)

    def _estimate(self, num_steps: int, tally: Tally) -> None:
        """After the first steps says how long the run takes; the very first one warms up and is left out."""
        if 1 < num_steps <= STEPS_BEFORE_ESTIMATE:
            self._measured.add(tally)
            self._measured_steps += 1
        steps_left = self.total_steps - self.first_step - num_steps
        if num_steps == STEPS_BEFORE_ESTIMATE and steps_left > 0:
            seconds = self._measured.seconds / self._measured_steps * (steps_left + num_steps)
            self.say(
                f"{self._measured.clips_per_second:.1f} clips/s: about {duration_text(seconds)} of training "
                f"for {self.total_steps - self.first_step} steps, validation aside"
            )


class ScalarFile:
    """TensorBoard's file of numbers, written at once and in this thread.

    torch's SummaryWriter is not used: its writer thread keeps a full disk to itself, and it imports
    TensorFlow where that is installed.
    """

    def __init__(self, folder: Path, *, first_step: int) -> None:
        # TensorBoard reads files in the order of their names; a run may resume in the second of its start.
        order = f"{int(time.time()):010d}.{first_step:010d}"
        name = f"events.out.tfevents.{order}.{socket.gethostname()}.{os.getpid()}.muybridge"
        self._file = (folder / name).open("ab")
        self._records = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if first_step:  # TensorBoard then drops what an interrupted run had written after this step
            restart = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=time.time(), step=first_step + 1, session_log=restart))

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Numbers by name, at an optimiser step."""
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._write(Event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        """Ends the file."""
        self._file.close()

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())
        self._file.flush()


def say(text: str, *, active: bool = True) -> None:
    """A line for people, on stderr, where no bar is drawn."""
    if active:
        print(text, file=sys.stderr, flush=True)


def duration_text(seconds: float) -> str:
    """A duration for people.

    >>> duration_text(42), duration_text(150), duration_text(7300)
    ('42 s', '2.5 min', '2.0 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


@contextmanager
def _storage(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error


def _progress_bar(console: Console, total_steps: int, first_step: int) -> tuple[Progress, TaskID]:
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps, left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    task = bar.add_task("the first step", total=total_steps, completed=first_step)
    bar.start()
    return bar, task


def _bar_text(epoch: int, num_epochs: int, tally: Tally) -> str:
    rate = f"{tally.clips_per_second:.1f} clips/s"
    return f"epoch {epoch}/{num_epochs}, loss {tally.loss:.3f}, accuracy {tally.accuracy:.3f}, {rate}"


def _epoch_text(record: EpochRecord, num_epochs: int) -> str:
    text = (
        f"epoch {record.epoch}/{num_epochs}: loss {record.loss:.3f}, accuracy {record.accuracy:.3f}, "
        f"lr {record.lr:.2g}, {record.clips_per_second:.1f} clips/s, {duration_text(record.seconds)}"
    )
    if record.val_top1 is not None and record.val_loss is not None:
        text += f"; validation {record.val_top1:.3f}, loss {record.val_loss:.3f}"
        text += ", the best so far" if record.best else ""
    return text


def _rounded(value: object) -> object:
    """Six significant digits are enough for a log, and keep its lines short."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
