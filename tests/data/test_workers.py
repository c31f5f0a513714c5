"""Worker processes: one thread each, never left behind, and they say what they are at."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import psutil
import pytest
import torch

from muybridge.data.workers import NOTHING, ProcessWorkers, ThreadWorker

HANG, DIE, FAIL, THREADS, PAUSE = 101, 102, 103, 104, 105

Workers = ThreadWorker[int, tuple[int, ...]] | ProcessWorkers[int, tuple[int, ...]]


def load(task: int, begin: Callable[[int], None]) -> tuple[int, ...]:
    """Runs in the workers: does what the number says."""
    begin(task)
    if task == HANG:
        time.sleep(1000)
    if task == PAUSE:
        time.sleep(1)
    if task == DIE:
        os._exit(1)
    if task == FAIL:
        raise OSError(f"task {task} fails")
    if task == THREADS:
        import cv2
        import numba

        return torch.get_num_threads(), numba.get_num_threads(), cv2.getNumThreads()
    return task, os.getpid()


@pytest.fixture(params=["thread", "processes"])
def workers(request: pytest.FixtureRequest) -> Iterator[Workers]:
    made = ThreadWorker(load) if request.param == "thread" else ProcessWorkers(load, 2)
    yield made
    made.close(0.1)


def wait_until(condition: Callable[[], bool], seconds: float = 90) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def test_results_come_in_order_and_errors_as_they_are(workers: Workers) -> None:
    futures = [workers.submit(task) for task in range(10)]
    failing = workers.submit(FAIL)
    assert [future.result(120)[0] for future in futures] == list(range(10))
    with pytest.raises(OSError, match="task 103 fails"):
        failing.result(120)
    assert wait_until(lambda: workers.watch.current == [])
    assert workers.watch.begun == 11
    # A worker that failed a task goes on with the next one.
    assert workers.submit(5).result(120)[0] == 5


def test_closing_does_not_wait_for_a_task_that_hangs(workers: Workers) -> None:
    hanging, waiting = workers.submit(HANG), workers.submit(HANG)
    assert wait_until(lambda: HANG in workers.watch.current)
    start = time.monotonic()
    workers.close(0.2)
    assert time.monotonic() - start < 60
    assert not hanging.done() or hanging.exception() is not None
    assert waiting.cancelled() or not waiting.done() or waiting.exception() is not None


def test_closing_drops_what_waits(workers: Workers) -> None:
    pause = workers.submit(PAUSE)
    assert wait_until(lambda: PAUSE in workers.watch.current)
    waiting = [workers.submit(PAUSE) for _ in range(20)]
    workers.close(60)
    assert pause.result(0)[0] == PAUSE
    assert sum(future.cancelled() for future in waiting) > 10  # a pool has a few on their way already


def test_processes_use_one_thread_each_and_die_loudly() -> None:
    workers = ProcessWorkers(load, 1)
    assert workers.submit(THREADS).result(120) == (1, 1, 1)
    pid = workers.submit(0).result(120)[1]
    assert workers.watch.pids == [pid]
    with pytest.raises(BrokenProcessPool):
        workers.submit(DIE).result(120)
    assert workers.watch.current == [DIE]
    workers.close(1)
    assert not psutil.pid_exists(pid)


SCRIPT = """
import signal, time
from muybridge.data.workers import ProcessWorkers

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

def sleep(seconds, begin):
    begin(seconds)
    time.sleep(seconds)

if __name__ == "__main__":
    workers = ProcessWorkers(sleep, 2)
    try:
        for seconds in (1, 1):
            workers.submit(seconds)
        while len(workers.watch.pids) < 2 or workers.watch.current:
            time.sleep(0.01)
        workers.submit(1000)  # one hangs, the other one waits
        while not workers.watch.current:
            time.sleep(0.01)
        print(*workers.watch.pids, flush=True)
        time.sleep(100)
    finally:
        workers.close(0.5)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_behind(tmp_path: Path, how: signal.Signals) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as main:
        assert main.stdout is not None
        assert main.stderr is not None
        pids = [int(pid) for pid in main.stdout.readline().split()]
        # A terminal sends Ctrl-C to all processes of the group; kill -9 hits one.
        os.killpg(main.pid, how) if how == signal.SIGINT else main.kill()
        assert main.wait(90) == -how
        assert wait_until(lambda: not any(map(psutil.pid_exists, pids)))
        assert main.stderr.read().count("Traceback") == (
            how == signal.SIGINT
        )  # its own, none of the workers'
    assert len(pids) == 2


def test_the_thread_has_one_torch_thread_and_the_others_keep_theirs() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        workers: Workers = ThreadWorker(load)
        assert workers.submit(THREADS).result(60)[0] == 1
        workers.close(1)
        with ThreadPoolExecutor(1) as others:
            assert others.submit(torch.get_num_threads).result() == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_worker_that_rests_is_at_nothing() -> None:
    workers = ThreadWorker(load)
    workers.submit(3).result(60)
    assert wait_until(lambda: list(workers.watch.cells) == [0, NOTHING, 1])
    workers.close(1)
