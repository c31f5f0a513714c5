"""Two processes learn what one learns."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_runs import BATCHNORMS, log_lines, tiny_config, weights

from muybridge.config import OptimConfig, TrainConfig
from muybridge.data.annotations import read_samples
from muybridge.train.log import EpochRecord, StepRecord
from muybridge.train.run import train


def launch(*arguments: str | Path) -> None:
    """Two processes, as a user would start them."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "muybridge", "train", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr


def assert_learned_alike(one: Path, two: Path) -> None:
    """The same loss curve and weights, but for the order in which floats were summed."""
    for kind, keys in (("step", ("loss", "accuracy", "gradient_norm")), ("epoch", ("val_top1", "val_loss"))):
        lines = [log_lines(run, kind) for run in (one, two)]
        assert len(lines[0]) == len(lines[1]) > 0
        for key in keys:
            curves = [[line[key] for line in part] for part in lines]
            assert curves[0] == pytest.approx(curves[1], rel=1e-4), (kind, key)
    first, second = weights(one), weights(two)
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def videos(figures_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirteen files in class folders, one broken; ten train: the last batch of an epoch is one clip."""
    folder = tmp_path_factory.mktemp("distributed") / "videos"
    for sample in read_samples(tiny_config(figures_dir).data):
        link = folder / sample.label / sample.path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(sample.path)
    (folder / "walk" / "notes.mp4").write_text("this is no video")
    return folder


def test_two_processes_have_the_loss_curve_and_the_weights_of_one(videos: Path, tmp_path: Path) -> None:
    """Uneven parts (10 clips in batches of 3), a broken file, accumulation, validation in two halves.

    BatchNorm rests: its statistics are those of a process's own part of the batch.
    """
    config = resting_config(videos)
    (tmp_path / "two.yaml").write_text(config.to_yaml())
    launch("--config", tmp_path / "two.yaml", "--out", tmp_path / "two")
    one = train(config, tmp_path / "one")

    assert log_lines(tmp_path / "two", "start")[0]["world_size"] == 2
    assert log_lines(tmp_path / "one", "start")[0]["world_size"] == 1
    assert_learned_alike(tmp_path / "one", tmp_path / "two")
    broken = json.loads((tmp_path / "two" / "state" / "state.json").read_text())["progress"]["broken"]
    assert broken == one.broken
    assert [Path(path).name for path in broken] == ["notes.mp4"]


def test_two_processes_go_on_with_what_one_has_begun(videos: Path, tmp_path: Path) -> None:
    config = resting_config(videos)
    train(config, tmp_path / "one")

    def stop_in_the_second_epoch(record: StepRecord | EpochRecord) -> None:
        if isinstance(record, EpochRecord):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "two", on_event=stop_in_the_second_epoch)
    launch("--resume", tmp_path / "two")
    starts = log_lines(tmp_path / "two", "start")
    assert [(line["step"], line["world_size"]) for line in starts] == [(0, 1), (3, 2)]
    assert_learned_alike(tmp_path / "one", tmp_path / "two")


def resting_config(videos: Path) -> TrainConfig:
    """With all that needs care when a batch is shared, BatchNorm at rest."""
    return tiny_config(
        videos,
        data={"train": (), "val_fraction": 0.25, "max_broken": 0.2},
        optim=OptimConfig(lr=0.05, accumulation=2, clip_grad_norm=1.0, ema_decay=0.9),
        freeze=BATCHNORMS,
        batch_size=3,
        epochs=3,
    )
