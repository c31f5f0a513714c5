"""What the benchmarks share: the machine's name, and two sides timed in turn."""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch

import muybridge


def machine() -> str:
    """CPU, cores, threads, versions and commit, in one line: without it a time means nothing."""
    return (
        f"{_cpu()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads; "
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"muybridge {muybridge.__version__} {_commit()}"
    )


def in_turn(
    ours: Callable[[], object], peer: Callable[[], object], *, rounds: int, warmup: int = 1
) -> tuple[float, float]:
    """Median seconds of both sides, ours and the peer's by turns: a slow moment of the machine hits both."""
    for _ in range(warmup):
        ours()
        peer()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for work, taken in zip((ours, peer), times, strict=True):
            start = time.perf_counter()
            work()
            taken.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def report(case: str, ours_seconds: float, peer: str, peer_seconds: float, **more: object) -> None:
    """One JSON line on stdout; the ratio is above 1 where ours is faster."""
    row = {
        "case": case,
        "ours_ms": round(1000 * ours_seconds, 3),
        "peer": peer,
        "peer_ms": round(1000 * peer_seconds, 3),
        "ratio": round(peer_seconds / ours_seconds, 3),
        **more,
        "machine": machine(),
    }
    print(json.dumps(row), flush=True)


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown commit"
