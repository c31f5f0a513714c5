"""How long is one training step on a CPU, beside torchvision's network in its reference script's plain loop?

    python benchmarks/train_step.py                four cases, 16 x 112 x 112, batch 4
    python benchmarks/train_step.py --steps 50     beforehand, 50 steps in bf16 at a smaller size: is every
                                                   gradient finite?

A step is forward, cross entropy, backward and SGD. The peer is torchvision's network with float32,
contiguous memory and torch.optim.SGD; ours is what `muybridge train` does. Both start from the same weights.
Before anything is timed they must give the same logits, and bf16's gradient must have float32's norm within
3 %. Each side has a process of its own (ours keeps freed memory, which is a setting of the process), and the
sides take turns. Medians; one JSON line a case.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from common import machine, report

from muybridge.config import OptimConfig
from muybridge.models.memory import keep_freed_memory
from muybridge.train.optim import build_optimizer
from muybridge.weights.store import build

OURS = {"r3d_18": "r3d_18", "r2plus1d_18": "r2plus1d_18_torchvision"}  # torchvision's name -> ours
CLASSES = 400
LOGITS_TOLERANCE = 1e-4  # relative, float32, two orders of summation
NORM_TOLERANCE = 0.03


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the networks that are compared.

    Attributes:
        network: torchvision's name of it.
        ours: ours, or torchvision's.
        precision: "float32" or "bf16".
        weights: a state dict of torchvision's network.
        batch: clips.
        crop: pixels.
    """

    network: str
    ours: bool
    precision: str
    weights: Path
    batch: int
    crop: int


def main() -> int:
    """Checks, times and prints; 1 if a check fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=list(OURS), choices=OURS)
    parser.add_argument("--rounds", type=int, default=5, help="timed steps a side (%(default)s)")
    parser.add_argument("--batch", type=int, default=4, help="clips a step (%(default)s)")
    parser.add_argument("--crop", type=int, default=112, help="pixels (%(default)s)")
    parser.add_argument("--steps", type=int, default=0, help="bf16 steps to check beforehand (%(default)s)")
    parser.add_argument("--check-crop", type=int, default=56, help="pixels in that check (%(default)s)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for network in asked.networks:
            weights = Path(folder) / f"{network}.pth"
            torch.manual_seed(0)
            torch.save(getattr(torchvision.models.video, network)(num_classes=CLASSES).state_dict(), weights)
            if asked.steps:
                check_steps(network, weights, steps=asked.steps, crop=asked.check_crop)
            if asked.rounds:
                time_network(network, weights, asked)
    return 0


def check_steps(network: str, weights: Path, *, steps: int, crop: int) -> None:
    """Ours in bf16: whether `steps` steps have finite gradients."""
    side = Side(network=network, ours=True, precision="bf16", weights=weights, batch=2, crop=crop)
    with worker(side) as bf16:
        bad = [index for index in range(steps) if not ask(bf16, "finite_step")]
    row = {
        "case": f"{network}_bf16_finite",
        "steps": steps,
        "steps_not_finite": len(bad),
        "clip": [side.batch, 16, crop, crop],
        "machine": machine(),
    }
    print(json.dumps(row), flush=True)
    if bad:
        sys.exit(f"{network}: the gradient is not finite in the steps {bad}")


def time_network(network: str, weights: Path, asked: argparse.Namespace) -> None:
    """Prints the two cases of one network."""
    size = {"network": network, "weights": weights, "batch": asked.batch, "crop": asked.crop}
    with (
        worker(Side(ours=False, precision="float32", **size)) as peer,
        worker(Side(ours=True, precision="float32", **size)) as plain,
        worker(Side(ours=True, precision="bf16", **size)) as bf16,
    ):
        expected, found = ask(peer, "logits"), ask(plain, "logits")
        error = float((found - expected).norm() / expected.norm())
        if not error <= LOGITS_TOLERANCE:
            sys.exit(f"{network}: the logits differ by {error:.1e} (relative), so the times mean nothing")
        norm = float(ask(bf16, "gradient").norm() / ask(plain, "gradient").norm())
        if not abs(norm - 1) <= NORM_TOLERANCE:
            sys.exit(f"{network}: the norm of bf16's gradient is {norm:.4f} of float32's")
        times = take_turns({"peer": peer, "float32": plain, "bf16": bf16}, rounds=asked.rounds)
    for precision in ("float32", "bf16"):
        report(
            f"{network}_{precision}",
            times[precision],
            "torchvision_float32",
            times["peer"],
            rounds=asked.rounds,
            logits_difference=float(f"{error:.1e}"),
            bf16_gradient_norm=round(norm, 4),
            clip=[asked.batch, 16, asked.crop, asked.crop],
        )


def take_turns(sides: dict[str, Connection], *, rounds: int) -> dict[str, float]:
    """The median step of each side in seconds, after one step each to warm up."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, side in sides.items():
            seconds = ask(side, "step")
            if turn:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def ask(side: Connection, what: str) -> Any:
    """One command to a worker and its answer."""
    side.send(what)
    return side.recv()


@contextmanager
def worker(side: Side) -> Iterator[Connection]:
    """A process that holds one side and does one thing at a time."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=work, args=(side, there), daemon=True)
    process.start()
    there.close()
    try:
        yield here
    finally:
        here.close()
        process.join()


def work(side: Side, pipe: Connection) -> None:
    """The worker: answers until the pipe closes."""
    if side.ours:
        keep_freed_memory()
    model, optimizer = prepare(side)
    generator = torch.Generator().manual_seed(1)
    clip = torch.randn(side.batch, 3, 16, side.crop, side.crop, generator=generator)
    target = torch.randint(CLASSES, (side.batch,), generator=generator)

    def backward() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=side.precision == "bf16"):
            logits = model(clip)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(F.cross_entropy(logits.float(), target))

    def step() -> float:
        start = time.perf_counter()
        backward()
        optimizer.step()
        return time.perf_counter() - start

    def gradient() -> torch.Tensor:
        backward()
        return torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])

    def finite_step() -> bool:
        finite = bool(gradient().isfinite().all())
        optimizer.step()
        return finite

    def logits() -> torch.Tensor:
        with torch.no_grad():
            out: torch.Tensor = model.eval()(clip)
        model.train()
        return out

    commands = {"step": step, "gradient": gradient, "finite_step": finite_step, "logits": logits}
    while True:
        try:
            pipe.send(commands[pipe.recv()]())
        except EOFError:
            return


def prepare(side: Side) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """The network in training mode and its optimiser, as each side's own training has them."""
    if side.ours:
        model: torch.nn.Module = build(OURS[side.network], num_classes=CLASSES, weights=side.weights)
        return model.train(), build_optimizer(model, OptimConfig(lr=0.01))
    model = getattr(torchvision.models.video, side.network)(num_classes=CLASSES)
    model.load_state_dict(torch.load(side.weights, weights_only=True))
    return model.train(), torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)


if __name__ == "__main__":
    sys.exit(main())
