"""What does a non-local block take at its peak, beside one that makes the matrix of all pairs of positions?

    python benchmarks/attention.py                   every case, forward and backward
    python benchmarks/attention.py --only res3_embedded_gaussian res3_dot_product
    python benchmarks/attention.py --forward         without backward

The block is that of res3 for one clip of 32 x 224 x 224: 512 channels at 16 x 28 x 28 in the layout of the
public weights, at 4 x 28 x 28 in the paper's; all positions of space and time. "full" leaves the keys
unpooled, so that 12,544 queries look at 12,544 keys. Both sides have the same weights and must give the same
output and the same gradient of the input; the peer differs in Eq. (1) alone, which it computes as it stands
there. (For the concatenation that is the N x M matrix of relu(w_f^T [theta_i, phi_j]); the N x M x 2D one of
the pairs themselves would not fit into this or any machine.)

Each side of each case has a process of its own. Memory is what the first step adds at its peak (ru_maxrss, on
Linux) to the resident size with the block and its input made. Times are medians, the sides by turns. Two JSON
lines a case.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import machine, report
from torch import Tensor

from muybridge.models.nonlocal_block import KINDS, NonLocalBlock

CHANNELS = 512
SIZES = {"res3": (16, 28, 28), "paper_res3": (4, 28, 28)}
TOLERANCE = 1e-4  # relative, float32
FORGET_PEAK = Path("/proc/self/clear_refs")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One block.

    Attributes:
        kind: of the block.
        size: T, H and W of its input.
        pool: of the block.
        backward: whether a step has a backward pass.
    """

    kind: str
    size: tuple[int, int, int]
    pool: str
    backward: bool


class AllPairs(NonLocalBlock):
    """The same block, with the matrix of all pairs."""

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self.w_f is not None:
            of_query, of_key = self.w_f.weight[0].chunk(2)
            f = F.relu((query @ of_query)[:, :, None] + (key @ of_key)[:, None])
        else:
            f = query @ key.transpose(1, 2)
        f = (self.logit_scale * f).softmax(2) if "gaussian" in self.kind else f / key.shape[1]
        return f @ value


class Side:
    """A block and its input, in a process of their own."""

    current: "Side"

    def __init__(self, case: Case, kind_of_block: type[NonLocalBlock]) -> None:
        self.case = case
        generator = torch.Generator().manual_seed(0)
        self.block = kind_of_block(CHANNELS, CHANNELS // 2, kind=case.kind, pool=case.pool)
        for parameter in self.block.parameters():
            with torch.no_grad():
                parameter.normal_(std=0.05, generator=generator)
        x = 0.1 * torch.randn(1, CHANNELS, *case.size, generator=generator)  # no softmax is all one key's
        self.x = x.contiguous(memory_format=torch.channels_last_3d).requires_grad_(case.backward)

    def step(self) -> tuple[float, Tensor]:
        """Seconds, and what both sides must agree on."""
        start = time.perf_counter()
        self.x.grad = None
        with torch.set_grad_enabled(self.case.backward):
            z = self.block(self.x)
            branch = z - self.x
        if not self.case.backward:
            return time.perf_counter() - start, branch
        branch.square().sum().backward()
        seconds = time.perf_counter() - start
        assert self.x.grad is not None
        return seconds, torch.cat((branch.detach(), self.x.grad))


def start(case: Case, kind_of_block: type[NonLocalBlock], threads: int) -> None:
    """The worker's first call."""
    torch.set_num_threads(threads)
    Side.current = Side(case, kind_of_block)


def first_step() -> tuple[float, Tensor]:
    """In the worker: MB that the first step adds at its peak, and its result."""
    FORGET_PEAK.write_text("5")  # Linux: the highest resident size is from now on counted anew
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, result = Side.current.step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, result


def further_step() -> float:
    """In the worker: seconds."""
    return Side.current.step()[0]


def main() -> int:
    """Measures and prints; 1 if the sides disagree."""
    cases = {
        f"{place}_{kind}{'' if pool == 'before' else '_full'}": (kind, size, pool)
        for place, size in SIZES.items()
        for pool in ("before", "none")
        for kind in KINDS
    }
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=list(cases), choices=cases, metavar="CASE")
    parser.add_argument("--forward", action="store_true", help="no backward pass")
    parser.add_argument("--rounds", type=int, default=3, help="timed steps a side (%(default)s)")
    asked = parser.parse_args()
    for name in asked.only:
        kind, size, pool = cases[name]
        case = Case(kind=kind, size=size, pool=pool, backward=not asked.forward)
        measure(f"{name}_{'forward' if asked.forward else 'step'}", case, rounds=asked.rounds)
    return 0


def measure(name: str, case: Case, *, rounds: int) -> None:
    """Prints the two lines of one case."""
    context: Any = multiprocessing.get_context("spawn")
    workers = [
        ProcessPoolExecutor(
            1, mp_context=context, initializer=start, initargs=(case, block, torch.get_num_threads())
        )
        for block in (NonLocalBlock, AllPairs)
    ]
    try:
        (ours_mb, ours), (peer_mb, peer) = (worker.submit(first_step).result() for worker in workers)
        error = float((ours - peer).norm() / peer.norm())
        if not error <= TOLERANCE:
            sys.exit(f"{name}: the sides differ by {error:.1e} (relative), so the numbers mean nothing")
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds):
            for worker, taken in zip(workers, times, strict=True):
                taken.append(worker.submit(further_step).result())
    finally:
        for worker in workers:
            worker.shutdown()
    positions = case.size[0] * case.size[1] * case.size[2]
    shapes = {"queries": positions, "keys": positions // (4 if case.pool == "before" else 1)}
    row = {
        "case": f"{name}_memory",
        "ours_mb": round(ours_mb, 1),
        "peer": "all_pairs",
        "peer_mb": round(peer_mb, 1),
        "ratio": round(peer_mb / ours_mb, 2),
        **shapes,
        "machine": machine(),
    }
    print(json.dumps(row), flush=True)
    ours_seconds, peer_seconds = map(statistics.median, times)
    report(name, ours_seconds, "all_pairs", peer_seconds, rounds=rounds, difference=float(f"{error:.1e}"))


if __name__ == "__main__":
    sys.exit(main())
