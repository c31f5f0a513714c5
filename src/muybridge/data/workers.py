"""Where loading runs: in a thread beside the training, or in processes that live across epochs.

Both take a function and hand back futures, and both tell which item each worker is at, so that a file that
hangs or kills a worker can be named. `torch.utils.data.DataLoader` does not tell, and where its workers come
from a fork server and it has a timeout, it sees the death of one only when the timeout ends.
"""

import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
from collections.abc import Callable, MutableSequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, Generic, TypeVar

import torch

Task = TypeVar("Task")
Result = TypeVar("Result")
Load = Callable[[Task, Callable[[int], None]], Result]  # the second argument is told each item that begins

# The fork server starts clean and has no threads; where there is none, each worker starts anew. A plain fork
# would copy the locks of OpenMP, Numba and FFmpeg threads without the threads that hold them.
START_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
NOTHING = -1


class Watch:
    """What each worker is at: three numbers a worker, in memory that all processes see.

    >>> watch = Watch([0, NOTHING, 0])
    >>> watch.begin(0, 7)
    >>> watch.current, watch.begun
    ([7], 1)
    """

    def __init__(self, cells: MutableSequence[int]) -> None:
        self.cells = cells  # of worker i: its process at 3 i, its item at 3 i + 1, the items begun at 3 i + 2

    def begin(self, worker: int, item: int) -> None:
        """Notes that a worker begins an item."""
        self.cells[3 * worker + 1] = item
        self.cells[3 * worker + 2] += 1

    def rest(self, worker: int) -> None:
        """Notes that a worker has nothing to do."""
        self.cells[3 * worker + 1] = NOTHING

    @property
    def pids(self) -> list[int]:
        """The processes that have started."""
        return [pid for pid in self.cells[0::3] if pid]

    @property
    def current(self) -> list[int]:
        """The items that are being worked on."""
        return [item for item in self.cells[1::3] if item != NOTHING]

    @property
    def begun(self) -> int:
        """Items begun so far: where this stands still, so do the workers."""
        return sum(self.cells[2::3])


class ThreadWorker(Generic[Task, Result]):
    """One thread: decoding gives up the interpreter's lock, so it overlaps with the training.

    It has one torch thread: with as many as the training has, the two would wait for each other's cores.
    """

    num_workers = 1

    def __init__(self, load: Load[Task, Result]) -> None:
        self.watch = Watch([0, NOTHING, 0])
        self._load = load
        self._tasks: queue.SimpleQueue[tuple[Future[Result], Task] | None] = queue.SimpleQueue()
        self._closing = False
        # A daemon, unlike the threads of ThreadPoolExecutor: a file that hangs must not hang the exit too.
        self._thread = threading.Thread(target=self._run, name="muybridge-loader", daemon=True)
        self._ready = threading.Event()
        num_threads = torch.get_num_threads()
        self._thread.start()
        self._ready.wait()
        # torch takes the number last set anywhere for threads that have not used it yet: put it back.
        torch.set_num_threads(num_threads)

    def submit(self, task: Task) -> Future[Result]:
        """Queues a task."""
        future: Future[Result] = Future()
        self._tasks.put((future, task))
        return future

    def kill(self) -> None:
        """Does nothing: a thread cannot be stopped from outside; this one ends with the process."""

    def close(self, seconds: float) -> None:
        """Ends the thread; one that does not end in time is left behind."""
        self._closing = True
        self._tasks.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # only the first use binds the number to this thread
        self._ready.set()
        while (entry := self._tasks.get()) is not None:
            future, task = entry
            if self._closing:
                future.cancel()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = self._load(task, lambda item: self.watch.begin(0, item))
            except BaseException as error:  # noqa: BLE001 (handed over to the thread that waits, which raises it)
                future.set_exception(error)
            else:
                future.set_result(result)
            self.watch.rest(0)
            del future, task, entry  # let go of the batch while waiting for the next task


class ProcessWorkers(Generic[Task, Result]):
    """Processes that each run one task at a time, with one thread for torch, Numba and OpenCV each.

    They start at the first task and ignore Ctrl-C: the main process ends them, and they end themselves when
    it dies. As with every process pool that does not fork, a script of one's own needs
    `if __name__ == "__main__":` around what it runs.

    Args:
        load: runs in the workers; it and what it holds are pickled.
        num_workers: how many.
        preload: a module that the fork server imports once for all of them; the first pool decides.
    """

    def __init__(self, load: Load[Task, Result], num_workers: int, *, preload: str = __name__) -> None:
        self.num_workers = num_workers
        # Any: typeshed does not know the Array(lock=False) of a context.
        context: Any = multiprocessing.get_context(START_METHOD)
        if START_METHOD == "forkserver":
            context.set_forkserver_preload(["__main__", preload])  # importing torch in each takes seconds
        cells = context.Array("q", [0, NOTHING, 0] * num_workers, lock=False)
        self.watch = Watch(cells)
        self._pool = ProcessPoolExecutor(
            num_workers,
            mp_context=context,
            initializer=_start_worker,
            # Pickled once, not once a worker: the list of samples may be long.
            initargs=(pickle.dumps(load), cells, context.Value("q", 0)),
        )

    def submit(self, task: Task) -> Future[Result]:
        """Queues a task."""
        return self._pool.submit(_run_in_worker, task)

    def kill(self) -> None:
        """Ends the processes whatever they are at."""
        for pid in self.watch.pids:
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                continue  # it is gone already

    def close(self, seconds: float) -> None:
        """Ends the processes when they are through with what they do, and kills them after `seconds`."""
        closing = threading.Timer(seconds, self.kill)
        closing.daemon = True
        closing.start()
        self._pool.shutdown(wait=True, cancel_futures=True)
        closing.cancel()


class _Worker:
    """What a worker process holds between tasks."""

    load: Callable[..., Any]
    watch: Watch
    number: int


def _start_worker(load: bytes, cells: MutableSequence[int], started: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _use_one_thread()
    with started.get_lock():
        _Worker.number = started.value
        started.value += 1
    _Worker.watch = Watch(cells)
    cells[3 * _Worker.number] = os.getpid()
    _Worker.load = pickle.loads(load)


def _run_in_worker(task: Any) -> Any:
    try:
        return _Worker.load(task, lambda item: _Worker.watch.begin(_Worker.number, item))
    finally:
        _Worker.watch.rest(_Worker.number)


def _use_one_thread() -> None:
    """Workers are many already: threads inside each would fight over the same cores."""
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
        os.environ[name] = "1"  # read by what is not loaded yet
    torch.set_num_threads(1)
    if numba := sys.modules.get("numba"):
        numba.set_num_threads(1)


def _end_with_parent() -> None:
    """A worker waits for its next task for ever, also when nobody is left to send it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
