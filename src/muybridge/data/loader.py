"""Training clips in batches: seeded, prefetched, the same for any number of workers and ranks.

What a batch holds is a function of (seed, epoch, batch number): not of the worker or the rank that makes it,
nor of what was loaded before. So a run resumes in the middle of an epoch at no cost, and the slices that
several ranks see are together exactly the batch that one process sees.

The last batch of an epoch is kept although it may be shorter: each sample is seen once an epoch.
"""

import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import islice
from types import TracebackType
from typing import NamedTuple, Self

import torch
from torch import Tensor

from muybridge.data.dataset import Broken, Draw, Item, ViewDataset
from muybridge.data.workers import ProcessWorkers, ThreadWorker
from muybridge.errors import DataError

PREFETCH = 2  # batches that each worker is ahead of the training
STALL_SECONDS = 300.0
CLOSE_SECONDS = 10.0


class Part(NamedTuple):
    """What one rank loads for one batch.

    Attributes:
        draws: its clips; may be empty in a short last batch.
        global_count: clips of the whole batch over all ranks.
    """

    draws: tuple[Draw, ...]
    global_count: int


@dataclass(frozen=True)
class Batch:
    """What one rank sees of one batch.

    The loss of a step is `sum(weight * loss of each clip) / global_count`, summed over the ranks: it is the
    same for any number of ranks, and a broken file counts as a clip without loss.

    Attributes:
        inputs: one tensor a modality, float32 [B, C, T, H, W], or [B, S, C, T, H, W] with segments.
        target: int64 [B], or float32 [B, K] with several labels.
        index: int64 [B], positions in the list of samples.
        weight: float32 [B]: 1. Where none of this rank's clips decodes, or it has none in a short last
            batch, B is 1 and that clip is all zeros, of weight 0 and index -1, so that ranks stay in step.
        global_count: clips of the whole batch over all ranks, broken ones included.
        broken: the files of this rank's part that did not decode.
    """

    inputs: tuple[Tensor, ...]
    target: Tensor
    index: Tensor
    weight: Tensor
    global_count: int
    broken: tuple[Broken, ...] = ()

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        shapes = " + ".join(str(list(tensor.shape)) for tensor in self.inputs)
        broken = f", {len(self.broken)} broken" if self.broken else ""
        return f"Batch({shapes} of {self.global_count} clips{broken})"


def num_batches(num_samples: int, batch_size: int) -> int:
    """Batches of an epoch; the last one may be short.

    >>> num_batches(10, 4)
    3
    """
    return -(-num_samples // batch_size)


def epoch_order(num_samples: int, epoch: int, seed: int, classes: Sequence[int] | None = None) -> list[int]:
    """The samples of an epoch, in the order they are seen: a function of (seed, epoch).

    With `classes`, the class of each sample, every class is drawn equally often (plus or minus one), and the
    epoch keeps its length: samples of large classes are left out, those of small ones come several times.

    >>> sorted(epoch_order(5, epoch=0, seed=0))
    [0, 1, 2, 3, 4]
    >>> order = epoch_order(6, epoch=0, seed=0, classes=[0, 0, 0, 0, 0, 1])
    >>> sum(index == 5 for index in order)
    3
    """
    rng = random.Random(f"order/{seed}/{epoch}")
    order = list(range(num_samples)) if classes is None else _balanced(classes, rng)
    rng.shuffle(order)
    return order


def _balanced(classes: Sequence[int], rng: random.Random) -> list[int]:
    members: dict[int, list[int]] = {}
    for index, label in enumerate(classes):
        members.setdefault(label, []).append(index)
    each, left = divmod(len(classes), len(members))
    one_more = set(rng.sample(sorted(members), left))
    picks: list[int] = []
    for label in sorted(members):
        rounds, rest = divmod(each + (label in one_more), len(members[label]))
        picks += members[label] * rounds + rng.sample(members[label], rest)
    return picks


def epoch_parts(
    order: Sequence[int], *, epoch: int, batch_size: int, rank: int = 0, world_size: int = 1
) -> list[Part]:
    """What one rank loads in an epoch: of each batch a contiguous slice, which may be empty at the end.

    >>> [[draw.sample for draw in part.draws] for part in epoch_parts([4, 2, 0, 1, 3], epoch=0, batch_size=4)]
    [[4, 2, 0, 1], [3]]
    """
    seen: Counter[int] = Counter()
    draws = []
    for index in order:
        draws.append(Draw(epoch, index, seen[index]))
        seen[index] += 1
    parts = []
    for first in range(0, len(draws), batch_size):
        batch = draws[first : first + batch_size]
        start, stop = (len(batch) * r // world_size for r in (rank, rank + 1))
        parts.append(Part(tuple(batch[start:stop]), len(batch)))
    return parts


def collate(dataset: ViewDataset, items: Sequence[Item | Broken], global_count: int) -> Batch:
    """Stacks what decodes; a clip of zeros and weight 0 stands in where nothing does."""
    broken = tuple(item for item in items if isinstance(item, Broken))
    intact = [item for item in items if isinstance(item, Item)]
    weight = torch.ones(len(intact)) if intact else torch.zeros(1)
    intact = intact or [dataset.blank()]
    return Batch(
        inputs=tuple(torch.stack(tensors) for tensors in zip(*(item.inputs for item in intact), strict=True)),
        target=torch.stack([item.target for item in intact]),
        index=torch.tensor([item.index for item in intact]),
        weight=weight,
        global_count=global_count,
        broken=broken,
    )


def load_batch(dataset: ViewDataset, part: Part, begin: Callable[[int], None]) -> Batch:
    """Makes one rank's part of a batch; `begin` is told the index of each sample before it is decoded."""
    items = []
    for draw in part.draws:
        begin(draw.sample)
        items.append(dataset[draw])
    return collate(dataset, items, part.global_count)


Workers = ThreadWorker[Part, Batch] | ProcessWorkers[Part, Batch]


class Loader:
    """Feeds one rank with batches. Its workers live across epochs; use it as a context manager.

    Args:
        dataset: what is drawn from.
        batch_size: clips a batch over all ranks.
        seed: fixes the order.
        rank: which of the ranks this is.
        world_size: how many there are.
        num_workers: processes; with 0 a thread decodes while the training computes.
        balanced: draw every class equally often.
        stall_seconds: how long the workers may be at the same clips.

        with Loader(dataset, batch_size=16, seed=0, num_workers=2) as loader:
            for epoch in range(30):
                for batch in loader.epoch(epoch):
                    step(batch)
    """

    def __init__(
        self,
        dataset: ViewDataset,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        balanced: bool = False,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        if batch_size < 1 or num_workers < 0 or not 0 <= rank < world_size:
            raise ValueError(
                f"batch_size must be at least 1, num_workers at least 0 and rank below world_size, got "
                f"batch_size={batch_size}, num_workers={num_workers}, rank={rank}, world_size={world_size}"
            )
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.num_workers = num_workers
        self.stall_seconds = stall_seconds
        self._classes = dataset.classes if balanced else None
        self._workers: Workers | None = None

    def __len__(self) -> int:
        return num_batches(len(self.dataset), self.batch_size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def epoch(self, epoch: int, *, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from `first_batch` on; those before it are not decoded.

        Raises:
            DataError: a worker died or stands still; names the files that were being decoded.
        """
        order = epoch_order(len(self.dataset), epoch, self.seed, self._classes)
        parts = epoch_parts(
            order, epoch=epoch, batch_size=self.batch_size, rank=self.rank, world_size=self.world_size
        )
        todo = iter(parts[first_batch:])
        workers = self._started()
        waiting: deque[Future[Batch]] = deque()
        try:
            waiting.extend(map(workers.submit, islice(todo, PREFETCH * workers.num_workers)))
            while waiting:
                batch = self._wait_for(waiting.popleft(), workers)
                waiting.extend(map(workers.submit, islice(todo, 1)))
                yield batch
        except BrokenProcessPool:
            raise self._loss(workers) from None
        finally:  # also where the training leaves the epoch in the middle
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """Ends the workers. An epoch that is asked for afterwards starts new ones."""
        if self._workers is not None:
            self._workers.close(CLOSE_SECONDS)
            self._workers = None

    def _started(self) -> Workers:
        if self._workers is None:
            load = partial(load_batch, self.dataset)
            self._workers = (
                ProcessWorkers(load, self.num_workers, preload=__name__)
                if self.num_workers
                else ThreadWorker(load)
            )
        return self._workers

    def _wait_for(self, future: Future[Batch], workers: Workers) -> Batch:
        while True:
            begun = workers.watch.begun
            if wait([future], self.stall_seconds).done:
                return future.result()
            # Otherwise they are slow, or still starting, but not stuck.
            if workers.watch.begun == begun and workers.watch.current:
                raise self._stall(workers)

    def _stall(self, workers: Workers) -> DataError:
        files = self._files(workers.watch.current)
        workers.kill()
        self._workers = None
        return DataError(
            f"loading has stood still for {self.stall_seconds:g} s at: {files}. Drop the file if it hangs in "
            f"`muybridge probe` too; otherwise look at the disk or the network that it comes from"
        )

    def _loss(self, workers: Workers) -> DataError:
        files = self._files(workers.watch.current)
        self.close()
        return DataError(
            f"a loader process died; being decoded were: {files}. Memory ran out, /dev/shm is too small, or "
            f"a file crashes the decoder: try `data.num_workers: 0`, and `muybridge probe` on the files"
        )

    def _files(self, indices: Iterable[int]) -> str:
        return ", ".join(str(self.dataset.samples[index].path) for index in indices) or "none"


def batches(
    dataset: ViewDataset,
    *,
    epoch: int,
    batch_size: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    first_batch: int = 0,
    num_workers: int = 0,
    balanced: bool = False,
) -> Iterator[Batch]:
    """One epoch of a `Loader` that ends with it; several epochs keep their workers with `Loader` itself."""
    with Loader(
        dataset,
        batch_size=batch_size,
        seed=seed,
        rank=rank,
        world_size=world_size,
        num_workers=num_workers,
        balanced=balanced,
    ) as loader:
        yield from loader.epoch(epoch, first_batch=first_batch)
