"""One run of training, from a configuration to a folder with checkpoints and a log."""

import shlex
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast

from muybridge import __version__
from muybridge.config import ClipSpec, TrainConfig
from muybridge.data.cache import FrameCache
from muybridge.data.dataset import ViewDataset, stored_flow
from muybridge.data.doctor import mirror_sensitive
from muybridge.data.loader import Loader
from muybridge.errors import TrainingError
from muybridge.files import atomic_path
from muybridge.flow.source import FlowStore
from muybridge.models.memory import keep_freed_memory
from muybridge.train.checkpoint import (
    Learner,
    Progress,
    RunIdentity,
    has_state,
    load_state,
    protocol_digest,
    remove_leftovers,
    save_state,
)
from muybridge.train.interrupt import Interrupt
from muybridge.train.log import EpochRecord, RunLog, StepRecord, duration_text, say
from muybridge.train.loop import Session, fit, note_broken, steps_per_epoch
from muybridge.train.optim import MovingAverage, build_optimizer
from muybridge.train.setup import TrainingData, bf16_share, build_network, check_config, read_data
from muybridge.train.validation import Validation, validate, validation_protocol
from muybridge.weights import store

__all__ = ["TrainResult", "train"]

Event = StepRecord | EpochRecord
BEST, LAST = "model.safetensors", "last.safetensors"
CLIPS_WORTH_MEASURING = 2000  # in a shorter run it would not pay to measure what bf16 saves


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run left behind.

    Attributes:
        run_dir: its folder.
        best_path: model.safetensors: the best epoch on validation, or the last one without validation.
        last_path: last.safetensors.
        best_epoch: counted from 1; the last one without validation.
        val_top1: of the best epoch; None without validation.
        val_loss: of the best epoch; None without validation.
        labels: class names.
        num_train: training videos.
        num_val: validation videos.
        broken: files that did not decode, with the reason.
        skipped_steps: steps that moved nothing: a gradient was not finite, or no clip decoded.
        seconds: of training and validation, over all starts of the run.
    """

    run_dir: Path
    best_path: Path
    last_path: Path
    best_epoch: int
    val_top1: float | None
    val_loss: float | None
    labels: tuple[str, ...]
    num_train: int
    num_val: int
    broken: dict[str, str] = field(default_factory=dict)
    skipped_steps: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        lines = [f"trained {self.best_epoch} epochs in {duration_text(self.seconds)}: {self.best_path}"]
        if self.val_top1 is not None:
            lines = [
                f"{self.best_path}: epoch {self.best_epoch}, the best on {self.num_val} validation clips, "
                f"{self.val_top1:.3f} right; {duration_text(self.seconds)}"
            ]
        if self.skipped_steps:
            lines.append(f"{self.skipped_steps} steps were skipped: see log.jsonl")
        if self.broken:
            lines.append(f"{len(self.broken)} videos do not decode and were left out:")
            lines += [f"  {path}: {reason}" for path, reason in sorted(self.broken.items())]
        return "\n".join(lines)


def train(
    config: TrainConfig,
    run_dir: Path | str,
    *,
    resume: bool = False,
    on_event: Callable[[Event], None] | None = None,
) -> TrainResult:
    """Trains a network; fills the run folder: checkpoints, config.yaml, log.jsonl, TensorBoard file, state/.

    Several processes are started with `python -m torch.distributed.run`; they share each batch, and the first
    one writes. All of them must see `run_dir`.

    Args:
        config: the run.
        run_dir: made if it is not there.
        resume: go on from the state that was saved last; the configuration must be the same.
        on_event: given each record of the log, in the first process.

    Raises:
        TrainingError: the folder holds a run already, there is nothing to resume, or the configuration is not
            the run's; NonFiniteError if a loss or a gradient is not finite.
        DataError: the videos or their labels do not hold together.
        BrokenFilesError: too many videos do not decode.
        StorageError: the disk is full; the last state is whole.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the state is saved, and what resumes it is printed.
    """
    run_dir = Path(run_dir)
    keep_freed_memory()
    accelerator = make_accelerator()
    tell = partial(say, active=accelerator.is_main_process)
    check_config(config)
    check_folder(run_dir, resume=resume)
    accelerator.wait_for_everyone()  # all have looked before the first one writes
    data = read_data(config)
    tell(data.describe())
    if config.augment.flip and (names := mirror_sensitive(data.labels)):
        tell(f"warning: augment.flip is on, but a mirror image changes the class: {', '.join(names)}")
    model, specs = build_network(config, data.labels, tell)
    model.to(accelerator.device)
    for tensor in model.state_dict().values():
        broadcast(tensor)
    learner = Learner(
        model=model,
        optimizer=build_optimizer(model, config.optim),
        average=None if config.optim.ema_decay is None else MovingAverage(model, config.optim.ema_decay),
    )
    run = _Run(
        config=config.model_copy(update={"clip": specs}),
        folder=run_dir,
        data=data,
        specs=specs,
        learner=learner,
        accelerator=accelerator,
        cache=FrameCache(config.data.cache) if config.data.cache is not None else None,
        flow=stored_flow(config.data),
        on_event=on_event,
    )
    result = run.go(resume=resume)
    tell(str(result))
    return result


def make_accelerator() -> Accelerator:
    """The processes and their device: a GPU if torch finds one, otherwise CPUs that talk through gloo."""
    return Accelerator(cpu=not torch.accelerator.is_available())


def check_folder(run_dir: Path, *, resume: bool) -> None:
    """Never writes over another run.

    Raises:
        TrainingError: there is a run in the folder, or, to resume, none.
    """
    if resume and not has_state(run_dir):
        raise TrainingError(
            f"nothing to resume in {run_dir}: no state was saved there; start without resuming"
        )
    if not resume and (has_state(run_dir) or (run_dir / "log.jsonl").exists()):
        how = f"resume it ({resume_command(run_dir)})" if has_state(run_dir) else "remove it"
        raise TrainingError(f"{run_dir} holds a run already: {how}, or take another folder")


def resume_command(run_dir: Path) -> str:
    """What to type to go on with a run.

    >>> resume_command(Path("runs/my run"))
    "muybridge train --resume 'runs/my run'"
    """
    return f"muybridge train --resume {shlex.quote(str(run_dir))}"


@dataclass(kw_only=True)
class _Run:
    """The parts of a run, and what happens to them at the end of an epoch and when the state is kept."""

    config: TrainConfig
    folder: Path
    data: TrainingData
    specs: tuple[ClipSpec, ...]
    learner: Learner
    accelerator: Accelerator
    cache: FrameCache | None
    flow: FlowStore | None
    on_event: Callable[[Event], None] | None
    progress: Progress = field(default_factory=Progress)
    interrupt: Interrupt = field(default_factory=Interrupt)

    @property
    def first(self) -> bool:
        """This is the process that writes."""
        return bool(self.accelerator.is_main_process)

    @property
    def identity(self) -> RunIdentity:
        return RunIdentity(config=self.config.to_dict(), samples=self.data.digest)

    def go(self, *, resume: bool) -> TrainResult:
        """Trains to the last epoch."""
        log_bytes = 0
        if resume:
            self.progress, log_bytes = load_state(self.folder, self.learner, self.identity)
        self.accelerator.wait_for_everyone()  # all have read the state before the first one writes another
        with self._loader() as loader, closing(self._open_log(len(loader), log_bytes)) as log, self.interrupt:
            session = Session(
                learner=self.learner,
                loader=loader,
                config=self.config,
                progress=self.progress,
                accelerator=self.accelerator,
                log=log,
                num_files=self.data.num_files,
                interrupt=self.interrupt,
                keep=lambda: self._keep(log),
                end_epoch=lambda: self._end_epoch(session),
            )
            if self.first and (text := self._precision_text(loader)):
                log.say(text)
            session.keep()  # before hours of work: can the folder be written?
            try:
                fit(session)
            except KeyboardInterrupt:
                log.say(f"stopped after step {self.progress.step}; go on with: {resume_command(self.folder)}")
                raise
        return self._result()

    def _loader(self) -> Loader:
        config = self.config
        dataset = ViewDataset(
            self.data.train,
            self.data.labels,
            self.specs,
            config.augment,
            seed=config.seed,
            cache=self.cache,
            flow=self.flow,
            multi_label=config.loss == "bce",
        )
        return Loader(
            dataset,
            batch_size=config.batch_size,
            seed=config.seed,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            num_workers=config.data.num_workers,
            balanced=config.data.balanced,
        )

    def _open_log(self, num_batches: int, log_bytes: int) -> RunLog:
        num_steps = steps_per_epoch(num_batches, self.config.optim.accumulation)
        if self.first:
            _write_text(self.folder / "config.yaml", self.config.to_yaml())
            remove_leftovers(self.folder)
        log = RunLog(
            self.folder,
            active=self.first,
            num_epochs=self.config.epochs,
            total_steps=num_steps * self.config.epochs,
            first_step=self.progress.step,
            offset=log_bytes,
            every=max(1, min(50, num_steps // 5)),
            on_event=self.on_event,
        )
        log.start(self._start_entry())
        if self.progress.step:
            log.say(f"resumed at epoch {self.progress.epoch + 1}, step {self.progress.step}")
        return log

    def _start_entry(self) -> dict[str, object]:
        return {
            "kind": "start",
            "step": self.progress.step,
            "world_size": self.accelerator.num_processes,
            "device": str(self.accelerator.device),
            "threads": torch.get_num_threads(),
            "version": __version__,
            "torch": torch.__version__,
            "training_protocol": protocol_digest(self.config.to_dict()),
            "samples": self.data.digest,
        }

    def _precision_text(self, loader: Loader) -> str:
        """On a CPU, what bf16 would save; "" where it is in use, not to be had, or not worth measuring."""
        config, model = self.config, self.learner.model
        worth = config.epochs * len(loader.dataset) >= CLIPS_WORTH_MEASURING and self.progress.step == 0
        if (
            self.accelerator.device.type != "cpu"
            or config.precision == "bf16"
            or not model.bf16_safe
            or not worth
        ):
            return ""
        share = bf16_share(model, loader.dataset, config)
        advice = "`precision: bf16` would save the rest" if share < 0.9 else "there is nothing to gain in it"
        return f"training in float32; here a step in bf16 takes {share:.0%} of its time: {advice}"

    def _keep(self, log: RunLog) -> None:
        if self.first:
            save_state(self.folder, self.learner, self.progress, self.identity, log_bytes=log.position())

    def _end_epoch(self, session: Session) -> None:
        """Validates, writes checkpoints, tells the log."""
        progress, config = self.progress, self.config
        epoch = progress.epoch + 1
        due = epoch % config.eval_every == 0 or epoch == config.epochs
        validation = self._validate(session) if self.data.val and due else None
        best = not self.data.val
        if validation is not None and progress.is_better(validation.top1, validation.loss):
            best = True
            progress.best_top1, progress.best_loss = validation.top1, validation.loss
        if best:
            progress.best_epoch = epoch
        self._write_checkpoints(validation, best=best)
        session.log.epoch(
            EpochRecord(
                epoch=epoch,
                step=progress.step,
                loss=progress.tally.loss,
                accuracy=progress.tally.accuracy,
                lr=self.learner.optimizer.param_groups[0]["lr"],
                clips_per_second=progress.tally.clips_per_second,
                seconds=progress.tally.seconds,
                val_top1=validation.top1 if validation else None,
                val_loss=validation.loss if validation else None,
                val_seconds=validation.seconds if validation else None,
                best=best,
            )
        )

    def _validate(self, session: Session) -> Validation:
        validation = validate(
            self.learner.tested,
            self.data.val,
            self.data.val_classes,
            protocol=validation_protocol(self.config),
            specs=self.specs,
            accelerator=self.accelerator,
            batch_size=self.config.batch_size,
            cache=self.cache,
            flow=self.flow,
            asked_to_stop=lambda: self.interrupt.asked,
        )
        self.progress.seconds += validation.seconds
        if validation.broken:
            note_broken(session, validation.broken)
        return validation

    def _write_checkpoints(self, validation: Validation | None, *, best: bool) -> None:
        if not self.first:
            return
        progress = self.progress
        metrics = {
            "epoch": float(progress.epoch + 1),
            "seed": float(self.config.seed),
            "train_loss": progress.tally.loss,
            "train_accuracy": progress.tally.accuracy,
        }
        if validation:
            metrics |= {"val_top1": validation.top1, "val_loss": validation.loss}
        for name in (BEST, LAST) if best else (LAST,):
            store.save(
                self.folder / name,
                self.learner.tested,
                labels=self.data.labels,
                specs=self.specs,
                training_protocol=protocol_digest(self.config.to_dict()),
                digests={"samples": self.data.digest},
                metrics=metrics,
            )

    def _result(self) -> TrainResult:
        progress, validated = self.progress, bool(self.data.val)
        return TrainResult(
            run_dir=self.folder,
            best_path=self.folder / BEST,
            last_path=self.folder / LAST,
            best_epoch=progress.best_epoch,
            val_top1=progress.best_top1 if validated else None,
            val_loss=progress.best_loss if validated else None,
            labels=self.data.labels,
            num_train=len(self.data.train),
            num_val=len(self.data.val),
            broken=dict(progress.broken),
            skipped_steps=progress.skipped_steps,
            seconds=progress.seconds,
        )


def _write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
