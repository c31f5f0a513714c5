"""The loop: load, forward, loss, backward, sum over processes, clip, step, log.

Accelerate gives the device, the processes and the sums over them. Its prepared loaders, wrapped networks and
saved states are not used: they do not resume bit for bit.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from muybridge.config import TrainConfig
from muybridge.data.loader import Batch, Loader
from muybridge.errors import BrokenFilesError, NonFiniteError
from muybridge.models.contract import VideoModel
from muybridge.train.checkpoint import Learner, Progress
from muybridge.train.interrupt import Interrupt
from muybridge.train.log import RunLog, Tally
from muybridge.train.optim import first_bad_gradient, learning_rate, set_rate, set_trainable, step_seed

__all__ = ["Session", "broken_text", "fit", "note_broken", "steps_per_epoch"]

MAX_LISTED = 20


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """What one optimiser step saw, over all processes.

    Attributes:
        tally: its clips; empty if the step was skipped.
        gradient_norm: of the mean loss, before clipping.
        broken: files of this step that did not decode.
        stop: some process was asked to stop.
        skipped: why the step moved nothing; "" if it did.
    """

    tally: Tally
    gradient_norm: float
    broken: int
    stop: bool
    skipped: str = ""


@dataclass(frozen=True, kw_only=True)
class Session:
    """All that a run of the loop works with.

    Attributes:
        learner: network, optimiser and moving average.
        loader: gives this process its part of each batch.
        config: the run.
        progress: where the run stands; moves on.
        accelerator: the processes and their device.
        log: told of each step.
        num_files: videos for training and validation.
        interrupt: a wish to stop: the step is finished and the state kept first.
        keep: saves the state.
        end_epoch: called after each pass over the samples: validates and writes checkpoints.
    """

    learner: Learner
    loader: Loader
    config: TrainConfig
    progress: Progress
    accelerator: Accelerator
    log: RunLog
    num_files: int
    interrupt: Interrupt
    keep: Callable[[], None]
    end_epoch: Callable[[], None]


def fit(session: Session) -> None:
    """Trains from where `session.progress` stands to the last epoch.

    Raises:
        NonFiniteError: a loss or a gradient is not finite.
        BrokenFilesError: more files do not decode than the limit allows.
        KeyboardInterrupt: the run was asked to stop; its state is saved.
    """
    config, progress = session.config, session.progress
    while progress.epoch < config.epochs:
        head_only = progress.epoch < config.head_epochs
        set_trainable(session.learner.model, frozen=config.freeze, head_only=head_only)
        train_epoch(session)
        try:
            session.end_epoch()
        except KeyboardInterrupt:
            session.keep()  # all batches are done: the run resumes with the validation
            raise
        progress.epoch, progress.batch, progress.tally = progress.epoch + 1, 0, Tally()
        session.keep()


def train_epoch(session: Session) -> None:
    """One pass over the samples, or what is left of it."""
    config, progress = session.config, session.progress
    num_steps = steps_per_epoch(len(session.loader), config.optim.accumulation)
    batches = session.loader.epoch(progress.epoch, first_batch=progress.batch)
    started = time.perf_counter()
    for group in grouped(batches, config.optim.accumulation):
        lr = learning_rate(progress.step, config.optim, steps_per_epoch=num_steps, num_epochs=config.epochs)
        outcome = train_step(session, group, lr=lr)
        outcome.tally.seconds = time.perf_counter() - started
        progress.batch += len(group)
        progress.step += 1
        progress.tally.add(outcome.tally)
        progress.seconds += outcome.tally.seconds
        report(session, outcome, lr=lr)
        if outcome.broken:
            mine = [(one.path, one.reason) for batch in group for one in batch.broken]
            note_broken(session, dict(gather_object(mine)))  # of all processes
        due = config.checkpoint_every and progress.step % config.checkpoint_every == 0
        if due or outcome.stop:
            session.keep()
        if outcome.stop:
            session.accelerator.wait_for_everyone()  # the first process to leave ends the others
            raise KeyboardInterrupt
        started = time.perf_counter()


def train_step(session: Session, group: Sequence[Batch], *, lr: float) -> StepOutcome:
    """One optimiser step on the mean loss of all clips of a group of batches, over all processes."""
    learner, config, progress = session.learner, session.config, session.progress
    rank, device = session.accelerator.process_index, session.accelerator.device
    torch.manual_seed(step_seed(config.seed, progress.step, rank))
    statistics = copy_statistics(learner.model) if config.allow_non_finite else {}

    global_count = sum(batch.global_count for batch in group)
    flags = [float(session.interrupt.asked), float(sum(len(batch.broken) for batch in group))]
    sums = torch.tensor([0.0, 0.0, 0.0, *flags], device=device)
    for batch in group:
        if bool(batch.weight.any()):  # otherwise nothing of this process's part decodes
            sums[:3] += forward_backward(learner.model, batch, config, global_count, device)
    sums = sum_over_processes(learner.model, sums, session.accelerator)
    norm = gradient_norm(learner.model)

    # The one time in a step that the host waits for the device: a bad gradient must not reach the weights.
    loss_sum, correct, clips, stop, broken, norm_value = [*sums.tolist(), float(norm)]
    seen = StepOutcome(tally=Tally(), gradient_norm=0.0, broken=round(broken), stop=stop > 0)
    if not (math.isfinite(loss_sum) and math.isfinite(norm_value)):
        reason = non_finite_text(session, loss=loss_sum / max(1.0, clips), lr=lr)
        if not config.allow_non_finite:
            raise NonFiniteError(reason)
        restore_statistics(learner.model, statistics)
        learner.optimizer.zero_grad(set_to_none=True)
        return replace(seen, skipped=f"{reason}; the step is skipped")
    if clips == 0:
        return replace(seen, skipped=f"step {progress.step + 1} is skipped: none of its clips decodes")
    apply_gradients(learner, norm, lr=lr, step=progress.step, max_norm=config.optim.clip_grad_norm)
    return replace(seen, tally=Tally(loss_sum, round(correct), round(clips)), gradient_norm=norm_value)


def forward_backward(
    model: VideoModel, batch: Batch, config: TrainConfig, global_count: int, device: torch.device
) -> Tensor:
    """Adds the gradient of (sum of the clips' losses) / global_count.

    A clip's loss is the weighted sum over its rows of logits: see `VideoModel.training_logits`. Where the
    network has classifiers of several data sets, it is that of the clip's own: see `VideoModel.own_task`.

    Shape:
        output float32 [3]: sum of the losses, clips whose best score is on a true label, clips
    """
    inputs = [one.to(device, non_blocking=True) for one in batch.inputs]
    target = batch.target.to(device, non_blocking=True)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
        rows, row_weights = model.training_logits(*inputs)  # [B, R, K]
    rows, weights = rows.float(), torch.tensor(row_weights, device=device)
    of_rows = target.repeat_interleave(len(weights), dim=0)
    own = model.own_task(rows.flatten(0, 1), of_rows)
    losses = clip_losses(own, of_rows, config.loss, config.optim.label_smoothing)
    loss = (losses.view(-1, len(weights)) * weights).sum()
    torch.autograd.backward(loss / global_count)
    best = (own.detach().view_as(rows) * weights[:, None]).sum(dim=1).argmax(dim=1)
    hits = best == target if target.ndim == 1 else target.gather(1, best[:, None]) > 0
    return torch.stack([loss.detach(), hits.sum().float(), torch.tensor(float(len(batch)), device=device)])


def clip_losses(logits: Tensor, target: Tensor, kind: str, label_smoothing: float) -> Tensor:
    """The loss of each clip: cross entropy, or the mean of the classes' binary cross entropies.

    Shape:
        logits [B, K]
        target int64 [B], or float32 [B, K] for "bce"
        output [B]
    """
    if kind == "bce":
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=1)
    return F.cross_entropy(logits, target, reduction="none", label_smoothing=label_smoothing)


@torch.no_grad()
def sum_over_processes(model: VideoModel, sums: Tensor, accelerator: Accelerator) -> Tensor:
    """Sums gradients and `sums` over the processes, and averages BatchNorm's running statistics.

    All of it goes in one vector, once a step. torch's DistributedDataParallel sums in an order that it
    settles in the first step after a start, so that a resumed run of three processes would differ in the last
    bit; it also wants every parameter to have a gradient in every process, which a part without clips cannot
    give.
    """
    if accelerator.num_processes == 1:
        return sums
    parameters = [one for one in model.parameters() if one.requires_grad]
    statistics = [
        buffer
        for module in model.modules()
        for buffer in module.buffers(recurse=False)
        if module.training and buffer.is_floating_point()
    ]
    has_gradient = torch.tensor([one.grad is not None for one in parameters], device=sums.device)
    gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
    pieces = [sums, has_gradient, *gradients, *statistics]
    flat = accelerator.reduce(torch.cat([one.flatten().float() for one in pieces]), reduction="sum")
    parts = flat.split([one.numel() for one in pieces])
    sums, num_gradients, *totals = (part.view(one.shape) for part, one in zip(parts, pieces, strict=True))

    for index, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        parameter.grad = gradient.copy_(totals[index]) if num_gradients[index] else None
    for buffer, total in zip(statistics, totals[len(parameters) :], strict=True):
        buffer.copy_(total / accelerator.num_processes)
    return sums


def gradient_norm(model: VideoModel) -> Tensor:
    """The 2-norm of all gradients together; not finite if any value of any gradient is not."""
    return get_total_norm([one.grad for one in model.parameters() if one.grad is not None])


def apply_gradients(learner: Learner, norm: Tensor, *, lr: float, step: int, max_norm: float | None) -> None:
    """Clips, moves the weights and then their average, and drops the gradients."""
    if max_norm is not None:
        clip_grads_with_norm_(learner.model.parameters(), max_norm, norm)
    set_rate(learner.optimizer, lr)
    learner.optimizer.step()
    learner.optimizer.zero_grad(set_to_none=True)
    if learner.average is not None:
        learner.average.update(learner.model, step)


def report(session: Session, outcome: StepOutcome, *, lr: float) -> None:
    """Tells the log of one step."""
    progress = session.progress
    if outcome.skipped:
        progress.skipped_steps += 1
        session.log.skipped(step=progress.step, reason=outcome.skipped)
        return
    session.log.step(
        outcome.tally,
        epoch=progress.epoch + 1,
        step=progress.step,
        lr=lr,
        gradient_norm=outcome.gradient_norm,
    )


def note_broken(session: Session, found: Mapping[str, str]) -> None:
    """Notes files that do not decode, with the reason.

    Raises:
        BrokenFilesError: they are more than the limit allows.
    """
    broken, limit = session.progress.broken, session.config.data.max_broken
    broken.update(found)
    if len(broken) > limit * session.num_files:
        raise BrokenFilesError(broken_text(broken, session.num_files, limit))


def broken_text(broken: Mapping[str, str], num_files: int, limit: float) -> str:
    """Lists files that do not decode."""
    listed = "".join(f"\n  {path}: {reason}" for path, reason in islice(broken.items(), MAX_LISTED))
    more = f"\n  and {len(broken) - MAX_LISTED} more" if len(broken) > MAX_LISTED else ""
    return (
        f"{len(broken)} of {num_files} videos do not decode, the limit is {limit:.2%} (data.max_broken): "
        f"mend or drop them (`muybridge data` checks all files at once), or raise the limit:{listed}{more}"
    )


def non_finite_text(session: Session, *, loss: float, lr: float) -> str:
    """Names the step, the first bad gradient, and what to change."""
    config, progress = session.config, session.progress
    found = first_bad_gradient(session.learner.model)
    where = (
        f"the gradient of {found.name} has {found.num_bad} of {found.num_values} values that are not finite"
        if found
        else "the norm of the gradient is not finite"
    )
    remedies = [f"lower optim.lr (it is {lr:.3g} at this step)"]
    remedies += ["train in float32"] if config.precision == "bf16" else []
    remedies += ["set optim.clip_grad_norm"] if config.optim.clip_grad_norm is None else []
    remedies += ["set allow_non_finite to skip such steps"]
    return (
        f"step {progress.step + 1}, epoch {progress.epoch + 1}: the loss is {loss:.4g}, {where}: "
        + ", or ".join(remedies)
    )


def copy_statistics(model: VideoModel) -> dict[str, Tensor]:
    """BatchNorm's running statistics, which the forward pass of a bad step would spoil."""
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def restore_statistics(model: VideoModel, statistics: Mapping[str, Tensor]) -> None:
    """The inverse of `copy_statistics`."""
    for name, buffer in model.named_buffers():
        buffer.copy_(statistics[name])


def steps_per_epoch(num_batches: int, accumulation: int) -> int:
    """Optimiser steps of an epoch; the last one may have fewer batches.

    >>> steps_per_epoch(10, accumulation=4)
    3
    """
    return -(-num_batches // accumulation)


def grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Groups of `size` batches; the last one may be smaller.

    >>> list(grouped(range(5), 2))
    [[0, 1], [2, 3], [4]]
    """
    batches = iter(batches)
    while group := list(islice(batches, size)):
        yield group
