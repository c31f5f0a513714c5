"""What a batch holds follows from (seed, epoch, number): not from workers, ranks, or what came before."""

import os
import pickle
import random
import resource
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from muybridge.config import AugmentConfig, ClipSpec
from muybridge.data.cache import FrameCache
from muybridge.data.dataset import Broken, Draw, Item, ViewDataset
from muybridge.data.loader import (
    Batch,
    Loader,
    batches,
    collate,
    epoch_order,
    epoch_parts,
    num_batches,
)
from muybridge.errors import ConfigError, DataError, StorageError
from muybridge.types import Sample
from muybridge.video.encode import write_video

SPEC = ClipSpec(num_frames=4, frame_stride=2, resize=32, crop=24)
AUGMENT = AugmentConfig(short_side=(24, 36), crop="area", brightness=0.2, hue=0.1)
LABELS = ("clap", "walk", "wave")
NUM_CLIPS = 7
unhurried = settings(deadline=None)  # a busy machine is no error


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("clips")
    made = []
    for number in range(NUM_CLIPS):
        rng = np.random.default_rng(number)
        coarse = rng.integers(0, 256, (20 + number, 6, 8, 3), np.uint8)
        path = folder / f"{number}.mp4"
        write_video(path, coarse.repeat(8, 1).repeat(8, 2), fps=25)
        made.append(Sample(path=path, labels=(LABELS[number % 3],), group=f"s{number}"))
    return made


def make(samples: Sequence[Sample], *, augment: AugmentConfig = AUGMENT, seed: int = 3) -> ViewDataset:
    return ViewDataset(samples, LABELS, (SPEC,), augment, seed=seed)


@pytest.fixture(scope="module")
def dataset(samples: list[Sample]) -> ViewDataset:
    return make(samples)


@pytest.fixture
def with_broken(samples: list[Sample], tmp_path: Path) -> list[Sample]:
    """Samples 1, 3 and 4 do not decode."""
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video")
    bad = {1: tmp_path / "empty.mp4", 3: tmp_path / "text.mp4", 4: tmp_path / "missing.mp4"}
    return [
        Sample(path=bad.get(number, sample.path), labels=sample.labels)
        for number, sample in enumerate(samples)
    ]


def assert_same(one: Batch, other: Batch) -> None:
    assert torch.equal(one.index, other.index)
    assert torch.equal(one.target, other.target)
    assert torch.equal(one.weight, other.weight)
    assert all(torch.equal(a, b) for a, b in zip(one.inputs, other.inputs, strict=True))
    assert (one.global_count, one.broken) == (other.global_count, other.broken)


# The order


@unhurried
@given(st.integers(1, 50), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_sees_each_sample_once(num_samples: int, epoch: int, seed: int) -> None:
    order = epoch_order(num_samples, epoch, seed)
    assert sorted(order) == list(range(num_samples))
    assert order == epoch_order(num_samples, epoch, seed)


def test_each_epoch_and_seed_has_its_order() -> None:
    orders = {tuple(epoch_order(20, epoch, seed)) for epoch in range(5) for seed in range(5)}
    assert len(orders) == 25
    # A run that goes on with another Python must go on with the same order.
    assert epoch_order(10, 1, 7) == [4, 0, 3, 8, 2, 1, 5, 9, 7, 6]


@unhurried
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 9))
def test_balanced_epochs_draw_classes_equally(classes: list[int], epoch: int) -> None:
    order = epoch_order(len(classes), epoch, 0, classes)
    drawn = Counter(classes[index] for index in order)
    assert len(order) == len(classes)
    assert set(drawn) <= set(classes)
    counts = [drawn[label] for label in set(classes)]
    assert max(counts) - min(counts) <= 1
    for label in set(classes):  # inside a class nobody is drawn twice before all were drawn once
        times = [order.count(index) for index, other in enumerate(classes) if other == label]
        assert max(times) - min(times) <= 1


@unhurried
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 4))
def test_ranks_together_see_what_one_sees(num_samples: int, batch_size: int, world_size: int) -> None:
    order = epoch_order(num_samples, 0, 0)
    whole = epoch_parts(order, epoch=0, batch_size=batch_size)
    ranks = [
        epoch_parts(order, epoch=0, batch_size=batch_size, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert len(whole) == num_batches(num_samples, batch_size)
    for part, *shares in zip(whole, *ranks, strict=True):
        assert part.draws == tuple(draw for share in shares for draw in share.draws)
        assert {share.global_count for share in shares} == {part.global_count} == {len(part.draws)}
        assert max(len(share.draws) for share in shares) - min(len(share.draws) for share in shares) <= 1
    assert [draw.sample for part in whole for draw in part.draws] == order


# One clip


def test_a_clip_follows_from_seed_epoch_and_sample(dataset: ViewDataset, samples: list[Sample]) -> None:
    first = dataset[2, 5]
    assert isinstance(first, Item)
    assert first.inputs[0].shape == (3, 4, 24, 24)
    assert (first.target.item(), first.index) == (2, 5)
    for _ in range(3):
        dataset[0, 1]
        random.seed(0)
    again = make(samples)[Draw(2, 5)]
    assert isinstance(again, Item)
    assert torch.equal(first.inputs[0], again.inputs[0])
    others = [dataset[3, 5], dataset[2, 5, 1], make(samples, seed=4)[2, 5]]
    for other in others:
        assert isinstance(other, Item)
        assert not torch.equal(first.inputs[0], other.inputs[0])


def test_no_global_random_state_is_touched(dataset: ViewDataset) -> None:
    states = random.getstate(), torch.get_rng_state()
    dataset[0, 0]
    list(batches(dataset, epoch=0, batch_size=3, seed=0))
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])


def test_a_dataset_travels(dataset: ViewDataset, tmp_path: Path) -> None:
    cached = ViewDataset(
        dataset.samples, LABELS, (SPEC,), AugmentConfig(), seed=3, cache=FrameCache(tmp_path)
    )
    plain = make(dataset.samples, augment=AugmentConfig())
    for _ in range(2):  # filled, then read
        item, expected = pickle.loads(pickle.dumps(cached))[1, 2], plain[1, 2]
        assert torch.equal(item.inputs[0], expected.inputs[0])
    assert any(tmp_path.iterdir())


def test_files_that_do_not_decode_come_back_broken(with_broken: list[Sample]) -> None:
    dataset = make(with_broken)
    items = [dataset[0, number] for number in range(NUM_CLIPS)]
    assert [isinstance(item, Broken) for item in items] == [False, True, False, True, True, False, False]
    broken = items[4]
    assert isinstance(broken, Broken)
    assert (Path(broken.path).name, broken.index) == ("missing.mp4", 4)
    assert broken.reason
    assert "\n" not in broken.reason


@pytest.mark.real
def test_a_damaged_real_file(wild: Path) -> None:
    spec = ClipSpec(num_frames=16, frame_stride=None, resize=32, crop=24)
    sample = Sample(path=wild / "corrupted.mp4", labels=("wave",))
    item = ViewDataset([sample], LABELS, (spec,), AugmentConfig(), seed=0)[0, 0]
    # Spread over the whole file, the clip needs frames from behind the damage.
    assert isinstance(item, Broken)
    assert item.reason.startswith("9 of the 16 frames asked for decode")


def test_several_labels_make_a_vector(samples: list[Sample]) -> None:
    two = Sample(path=samples[0].path, labels=("wave", "clap"))
    none = Sample(path=samples[1].path)
    dataset = ViewDataset([two, none], LABELS, (SPEC,), AUGMENT, seed=0, multi_label=True)
    (batch,) = batches(dataset, epoch=0, batch_size=2, seed=0)
    order = batch.index.tolist()
    assert batch.target[order.index(0)].tolist() == [1, 0, 1]
    assert batch.target[order.index(1)].tolist() == [0, 0, 0]
    assert batch.target.dtype == torch.float32
    with pytest.raises(
        DataError, match=r"exactly one label, it has wave, clap: several labels go with `loss: bce`"
    ):
        make([two])
    with pytest.raises(DataError, match=r"needs exactly one label, it has none"):
        make([none])
    with pytest.raises(DataError, match=r"balanced classes need exactly one label a video"):
        Loader(dataset, batch_size=2, seed=0, balanced=True)


def test_bad_data_sets_are_refused(samples: list[Sample]) -> None:
    with pytest.raises(
        DataError, match=r"the label 'wavee', which is not one of the 3 known.*did you mean 'wave'\?"
    ):
        make([Sample(path=samples[0].path, labels=("wavee",))])
    with pytest.raises(DataError, match=r"no videos to train on"):
        make([])


# Batches


def test_batches_are_the_same_for_any_workers_ranks_and_start(dataset: ViewDataset) -> None:
    expected = {epoch: list(batches(dataset, epoch=epoch, batch_size=3, seed=1)) for epoch in range(2)}
    assert [len(batch) for batch in expected[0]] == [3, 3, 1]
    assert [batch.global_count for batch in expected[0]] == [3, 3, 1]
    assert not torch.equal(expected[0][0].inputs[0], expected[1][0].inputs[0])
    with Loader(dataset, batch_size=3, seed=1, num_workers=2) as loader:
        assert len(loader) == 3
        next(loader.epoch(0))  # left in the middle
        for epoch in range(2):
            for one, other in zip(expected[epoch], loader.epoch(epoch), strict=True):
                assert_same(one, other)
        for one, other in zip(expected[1][1:], loader.epoch(1, first_batch=1), strict=True):
            assert_same(one, other)
        assert loader._workers is not None
        pids = loader._workers.watch.pids
        assert 1 <= len(pids) <= 2  # the same processes for all four epochs
    assert not any(map(psutil.pid_exists, pids))


def test_two_ranks_see_together_what_one_sees(dataset: ViewDataset) -> None:
    whole = list(batches(dataset, epoch=4, batch_size=3, seed=1))
    ranks = [
        list(batches(dataset, epoch=4, batch_size=3, seed=1, rank=rank, world_size=2)) for rank in range(2)
    ]
    for batch, *shares in zip(whole, *ranks, strict=True):
        real = [share for share in shares if share.weight.any()]
        assert torch.equal(batch.inputs[0], torch.cat([share.inputs[0] for share in real]))
        assert torch.equal(batch.target, torch.cat([share.target for share in real]))
        assert torch.equal(batch.index, torch.cat([share.index for share in real]))
        assert {share.global_count for share in shares} == {batch.global_count}
    # The last batch has one clip for two ranks: one of them gets a clip of zeros, without weight.
    blank, clip = (rank[-1] for rank in ranks)
    assert (blank.weight.tolist(), blank.index.tolist(), blank.inputs[0].abs().sum()) == ([0], [-1], 0)
    assert blank.inputs[0].shape == clip.inputs[0].shape


def test_resuming_decodes_nothing_of_what_was_seen(with_broken: list[Sample]) -> None:
    dataset = make(with_broken)
    rest = list(batches(dataset, epoch=0, batch_size=2, seed=0, first_batch=2))
    whole = list(batches(dataset, epoch=0, batch_size=2, seed=0))
    for one, other in zip(whole[2:], rest, strict=True):
        assert_same(one, other)
    assert list(batches(dataset, epoch=0, batch_size=2, seed=0, first_batch=4)) == []
    with Loader(dataset, batch_size=2, seed=0) as loader:
        assert len(list(loader.epoch(0, first_batch=3))) == 1
        assert loader._workers is not None
        assert loader._workers.watch.begun == 1  # the last batch has one clip; six were skipped


def test_broken_clips_leave_the_batch(with_broken: list[Sample]) -> None:
    dataset = make(with_broken)
    found = list(batches(dataset, epoch=0, batch_size=NUM_CLIPS, seed=0))
    assert len(found) == 1
    assert sorted(found[0].index.tolist()) == [0, 2, 5, 6]
    assert found[0].global_count == NUM_CLIPS
    assert {broken.index for broken in found[0].broken} == {1, 3, 4}
    assert repr(found[0]) == "Batch([4, 3, 4, 24, 24] of 7 clips, 3 broken)"


def test_a_wholly_broken_batch_is_one_clip_of_zeros(with_broken: list[Sample]) -> None:
    dataset = make(with_broken)
    batch = collate(dataset, [dataset[0, 1], dataset[0, 3]], 2)
    assert (batch.weight.tolist(), batch.index.tolist(), batch.global_count) == ([0], [-1], 2)
    assert batch.inputs[0].shape == (1, 3, 4, 24, 24)
    assert not batch.inputs[0].any()
    assert len(batch.broken) == 2


def test_blanks_have_the_shapes_of_clips(samples: list[Sample]) -> None:
    specs = (
        ClipSpec(num_frames=1, num_segments=3, resize=32, crop=24),
        ClipSpec(num_frames=5, num_segments=3, resize=32, crop=24, modality="rgb_diff"),
    )
    dataset = ViewDataset(samples, LABELS, specs, AugmentConfig(), seed=0, multi_label=True)
    item, blank = dataset[0, 0], dataset.blank()
    assert isinstance(item, Item)
    assert (
        [t.shape for t in blank.inputs]
        == [t.shape for t in item.inputs]
        == [(3, 3, 1, 24, 24), (3, 3, 5, 24, 24)]
    )
    assert (blank.target.shape, blank.target.dtype) == (item.target.shape, item.target.dtype)


def test_balanced_batches_show_new_views_of_repeated_samples(samples: list[Sample]) -> None:
    few = [samples[0], samples[1], samples[4], *([samples[1]] * 5)]  # one clip of class 0, seven of class 1
    dataset = make(few)
    with Loader(dataset, batch_size=8, seed=0, balanced=True) as loader:
        (batch,) = loader.epoch(0)
    assert Counter(batch.target.tolist()) == {0: 4, 1: 4}
    views = batch.inputs[0][batch.target == 0]
    assert not any(torch.equal(views[i], views[j]) for i in range(4) for j in range(i))


def test_loading_goes_on_while_the_training_computes(dataset: ViewDataset) -> None:
    with Loader(dataset, batch_size=1, seed=0) as loader:
        epoch = loader.epoch(0)
        next(epoch)
        assert loader._workers is not None
        watch = loader._workers.watch
        end = time.monotonic() + 60
        while watch.begun < 3 and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.1)
        assert watch.begun == 3  # the batch that was taken, and two ahead; no more than those
        epoch.close()


def test_impossible_loaders_are_refused(dataset: ViewDataset) -> None:
    with pytest.raises(ValueError, match=r"rank below world_size, got batch_size=2, .* rank=2, world_size=2"):
        Loader(dataset, batch_size=2, seed=0, rank=2, world_size=2)


# When something goes wrong


class TroubleDataset(ViewDataset):
    """5.mp4 hangs and 6.mp4 kills the process: what a file may do to a decoder."""

    def __getitem__(self, draw: tuple[int, ...]) -> Item | Broken:
        name = self.samples[draw[1]].path.name
        if name == "5.mp4":
            time.sleep(1000)
        if name == "6.mp4":
            os._exit(1)
        return super().__getitem__(draw)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_file_that_hangs_is_named(samples: list[Sample], num_workers: int) -> None:
    dataset = TroubleDataset(samples[5:6], LABELS, (SPEC,), AUGMENT, seed=0)
    message = r"loading has stood still for 0.5 s at: .*5\.mp4\. Drop the file if"
    with Loader(dataset, batch_size=2, seed=0, num_workers=num_workers, stall_seconds=0.5) as loader:
        with pytest.raises(DataError, match=message):
            list(loader.epoch(0))
        assert loader._workers is None  # another epoch would start new ones


def test_a_file_that_kills_its_worker_is_named(samples: list[Sample]) -> None:
    dataset = TroubleDataset([*samples[:5], samples[6]], LABELS, (SPEC,), AUGMENT, seed=0)
    message = r"a loader process died; being decoded were: .*6\.mp4\. Memory ran out"
    with (
        Loader(dataset, batch_size=2, seed=0, num_workers=1) as loader,
        pytest.raises(DataError, match=message),
    ):
        list(loader.epoch(0))


def test_a_worker_that_died_meanwhile_is_noticed(samples: list[Sample]) -> None:
    chosen = [samples[0]] * 5
    chosen[epoch_order(5, 0, 0)[2]] = samples[6]
    dataset = TroubleDataset(chosen, LABELS, (SPEC,), AUGMENT, seed=0)
    with Loader(dataset, batch_size=1, seed=0, num_workers=1) as loader:
        epoch = loader.epoch(0)
        next(epoch)
        assert loader._workers is not None
        (pid,) = loader._workers.watch.pids
        while psutil.pid_exists(pid):  # dies over the third batch, while the training has the first
            time.sleep(0.01)
        with pytest.raises(DataError, match=r"a loader process died; being decoded were: .*6\.mp4"):
            list(epoch)
        # The next epoch would have new workers.
        assert loader._workers is None


@pytest.mark.parametrize("num_workers", [0, 1])
def test_our_own_errors_stay_what_they_are(samples: list[Sample], num_workers: int) -> None:
    dataset = make(samples, augment=AugmentConfig(short_side=(8, 16)))
    with pytest.raises(ConfigError, match=r"short_side starts at 8 pixels, below the crop of 24"):
        list(batches(dataset, epoch=0, batch_size=2, seed=0, num_workers=num_workers))


def test_a_full_disk_is_no_broken_file(samples: list[Sample], tmp_path: Path) -> None:
    cache = FrameCache(tmp_path)
    dataset = ViewDataset(samples, LABELS, (SPEC,), AugmentConfig(), seed=0, cache=cache)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # no file may become longer
    try:
        with pytest.raises(StorageError, match=r"cannot write .*\.json"):
            dataset[0, 0]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
