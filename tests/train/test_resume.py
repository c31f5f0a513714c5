"""A run that was stopped, by a signal, a kill or a full disk, ends with the weights of one that was not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import assert_same_bits, log_lines, tiny_config, weights
from torch import Tensor, nn

from muybridge.config import AugmentConfig, ClipSpec, ModelConfig, OptimConfig, TrainConfig
from muybridge.errors import StorageError, TrainingError
from muybridge.models.contract import VideoModel
from muybridge.models.registry import MODELS, ModelEntry
from muybridge.train.log import EpochRecord, StepRecord
from muybridge.train.run import train

EPOCHS = 3
STEPS = 9 * EPOCHS
PROGRAM = """
import sys
from muybridge.config import TrainConfig
from muybridge.train.run import train

train(TrainConfig.from_yaml(sys.argv[1]), sys.argv[2])
"""


def config_of(figures_dir: Path) -> TrainConfig:
    """All that has a memory: momentum, a moving average, jittered crops, an odd place for the states."""
    return tiny_config(
        figures_dir,
        data={"train": ("train",), "val": ("test",)},
        augment=AugmentConfig(flip=True, crop="area", brightness=0.2),
        optim=OptimConfig(kind="adamw", lr=0.01, warmup_epochs=1, ema_decay=0.9, clip_grad_norm=1.0),
        batch_size=1,
        epochs=EPOCHS,
        checkpoint_every=5,
    )


@pytest.fixture(scope="module")
def whole(figures_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stops."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(config_of(figures_dir), folder)
    return folder


def assert_ended_alike(run: Path, whole: Path) -> None:
    """Same weights, best and last; the same log, times aside."""
    for name in ("last.safetensors", "model.safetensors"):
        assert_same_bits(weights(run, name), weights(whole, name))
    for kind in ("step", "epoch"):
        mine, theirs = (
            [
                {key: value for key, value in line.items() if "second" not in key}
                for line in log_lines(one, kind)
            ]
            for one in (run, whole)
        )
        assert mine == theirs


def test_kill_9_and_resume_give_the_bits_of_a_run_that_was_not_stopped(
    figures_dir: Path, whole: Path, tmp_path: Path
) -> None:
    config, run = config_of(figures_dir), tmp_path / "run"
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "config.yaml"), str(run)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        wait_for_step(run, 13, process)
    finally:
        process.kill()
        process.wait()
    reached = json.loads((run / "state" / "state.json").read_text())["progress"]["step"]
    assert 10 <= reached < STEPS  # it was in the middle of its work
    logged = len(log_lines(run, "step"))
    assert logged >= 13

    train(config, run, resume=True)
    assert_ended_alike(run, whole)
    starts = log_lines(run, "start")
    assert [line["step"] for line in starts] == [0, reached]
    assert not list(run.glob(".*"))  # what the kill left half-written is gone
    points = EventAccumulator(str(run)).Reload().Scalars("train/loss")
    assert [point.step for point in points] == list(range(1, STEPS + 1))  # TensorBoard shows each step once


def wait_for_step(run: Path, step: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"the run ended by itself, with {process.returncode}, before step {step}")
        log = run / "log.jsonl"
        if log.exists() and f'"step": {step}, ' in log.read_text():
            return
        time.sleep(0.002)
    raise AssertionError(f"no step {step} in time")


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(
    figures_dir: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: signal.Signals
) -> None:
    config, run = config_of(figures_dir), tmp_path / "run"
    before = signal.getsignal(kind)

    def stop_after_step_7(record: StepRecord | EpochRecord) -> None:
        if record.step == 7:
            os.kill(os.getpid(), kind)

    with pytest.raises(KeyboardInterrupt):
        train(config, run, on_event=stop_after_step_7)
    assert signal.getsignal(kind) == before
    assert f"stopped after step 8; go on with: muybridge train --resume {run}" in capsys.readouterr().err
    assert json.loads((run / "state" / "state.json").read_text())["progress"]["step"] == 8
    train(config, run, resume=True)
    assert_ended_alike(run, whole)


def test_ctrl_c_during_validation_resumes_with_the_validation(
    figures_dir: Path, whole: Path, tmp_path: Path
) -> None:
    config, run = config_of(figures_dir), tmp_path / "run"
    pid = os.getpid()

    def stop_after_the_last_step_of_an_epoch(record: StepRecord | EpochRecord) -> None:
        if record.step == 18 and isinstance(record, StepRecord):
            os.kill(pid, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(config, run, on_event=stop_after_the_last_step_of_an_epoch)
    progress = json.loads((run / "state" / "state.json").read_text())["progress"]
    assert (progress["epoch"], progress["batch"], progress["step"]) == (1, 9, 18)
    assert len(log_lines(run, "epoch")) == 1
    train(config, run, resume=True)
    assert_ended_alike(run, whole)


def test_a_kill_between_the_two_renames_leaves_the_old_state(
    figures_dir: Path, whole: Path, tmp_path: Path
) -> None:
    config, run = config_of(figures_dir), tmp_path / "run"
    stop_at_step(config, run, 12)
    (run / "state").rename(run / "state.old")
    train(config, run, resume=True)
    assert_ended_alike(run, whole)


def stop_at_step(config: TrainConfig, run: Path, step: int) -> None:
    def stop(record: StepRecord | EpochRecord) -> None:
        if record.step == step - 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(config, run, on_event=stop)


@pytest.fixture(scope="module")
def stopped(figures_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped in its second epoch; tests work on copies of it."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    stop_at_step(config_of(figures_dir), folder, 12)
    return folder


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    """A copy of the stopped run."""
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def test_another_configuration_is_refused_and_what_differs_is_said(figures_dir: Path, run: Path) -> None:
    config = config_of(figures_dir)
    other = config.model_copy(update={"seed": 5, "optim": config.optim.model_copy(update={"lr": 0.5})})
    with pytest.raises(
        TrainingError, match=r"another configuration: optim\.lr was 0\.01, is 0\.5; seed was 0, is 5"
    ):
        train(other, run, resume=True)


def test_what_changes_no_result_may_change(figures_dir: Path, whole: Path, run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(figures_dir, moved)
    config = config_of(moved)
    data = config.data.model_copy(update={"max_broken": 0.5, "cache": str(tmp_path / "cache")})
    train(config.model_copy(update={"data": data, "checkpoint_every": 2}), run, resume=True)
    assert_ended_alike(run, whole)


def test_other_videos_are_refused(figures_dir: Path, run: Path, tmp_path: Path) -> None:
    fewer = tmp_path / "fewer"
    shutil.copytree(figures_dir, fewer)
    lines = (fewer / "labels.csv").read_text().splitlines()
    next(fewer.glob("walk/person01*")).unlink()
    (fewer / "labels.csv").write_text("\n".join(line for line in lines if "walk/person01" not in line) + "\n")
    with pytest.raises(TrainingError, match="videos are not those it began with"):
        train(config_of(fewer), run, resume=True)


def test_a_damaged_state_is_named(figures_dir: Path, run: Path) -> None:
    tensors = run / "state" / "tensors.pt"
    tensors.write_bytes(tensors.read_bytes()[:1000])
    with pytest.raises(
        TrainingError, match=r"the state in \S+state cannot be used .* `init: \S+last.safetensors`"
    ):
        train(config_of(figures_dir), run, resume=True)


def test_nothing_to_resume(figures_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"nothing to resume in .*: no state was saved there"):
        train(config_of(figures_dir), tmp_path / "run", resume=True)


def test_a_run_that_is_done_stays_as_it_is(figures_dir: Path, whole: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    result = train(config_of(figures_dir), run, resume=True)
    assert result.val_top1 is not None
    assert_ended_alike(run, whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a full disk needs a small one: mounting a tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as filler:
        while shutil.disk_usage(folder).free:
            filler.write(bytes(4096))


@pytest.mark.parametrize(
    ("fill_after", "kept"), [(14, 10), (16, 15)], ids=["while saving a state", "while saving a checkpoint"]
)
def test_a_full_disk_leaves_the_last_state_whole(
    figures_dir: Path, whole: Path, small_disk: Path, fill_after: int, kept: int
) -> None:
    config, run = config_of(figures_dir), small_disk / "run"

    def fill_the_disk(record: StepRecord | EpochRecord) -> None:
        if record.step == fill_after:
            fill(small_disk)

    with pytest.raises(StorageError, match=r"no space left to write .*; what was there is untouched"):
        train(config, run, on_event=fill_the_disk)
    (small_disk / "filler").unlink()
    assert json.loads((run / "state" / "state.json").read_text())["progress"]["step"] == kept
    train(config, run, resume=True)
    assert_ended_alike(run, whole)


def test_rates_of_parts_are_the_same_after_a_resume(figures_dir: Path, whole: Path, tmp_path: Path) -> None:
    config = config_of(figures_dir)
    optim = config.optim.model_copy(update={"lr_factors": {"head": 10.0, "stem": 0.1}})
    config = config.model_copy(update={"optim": optim})
    train(config, tmp_path / "whole")
    stop_at_step(config, tmp_path / "run", 12)
    train(config, tmp_path / "run", resume=True)
    assert_ended_alike(tmp_path / "run", tmp_path / "whole")
    ours, plain = weights(tmp_path / "run"), weights(whole)
    assert not any(torch.equal(ours[name], plain[name]) for name in ("head.fc.weight", "stem.bn.weight"))
    assert [line["lr"] for line in log_lines(tmp_path / "run", "epoch")] == [
        line["lr"] for line in log_lines(whole, "epoch")
    ]


def test_a_state_of_before_there_were_rates_of_parts(figures_dir: Path, whole: Path, run: Path) -> None:
    path = run / "state" / "tensors.pt"
    tensors = torch.load(path, weights_only=True)
    for group in tensors["optimizer"]["param_groups"]:
        del group["lr_factor"]
    torch.save(tensors, path)
    train(config_of(figures_dir), run, resume=True)
    assert_ended_alike(run, whole)


class Forgetful(VideoModel):
    """Half of its features are dropped at random in each step."""

    def __init__(self, *, num_classes: int, width: float = 1.0) -> None:
        spec = ClipSpec(num_frames=4, resize=32, crop=32)
        super().__init__(
            num_classes=num_classes,
            feature_dim=3 * 8 * 8,
            default_specs=(spec,),
            stage_names=("stem",),
            dropout=0.5,
        )
        self.stem = nn.BatchNorm3d(3)

    def forward_features(self, *inputs: Tensor) -> Tensor:
        return self.stem(inputs[0])[..., ::4, ::4].mean(2).flatten(1)


def test_dropout_is_the_same_after_a_resume(
    figures_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = ModelEntry(builder=Forgetful, paper="none", year=0, summary="for this test")
    monkeypatch.setitem(MODELS, "forgetful", entry)
    config = config_of(figures_dir).model_copy(update={"model": ModelConfig(name="forgetful")})
    train(config, tmp_path / "whole")
    stop_at_step(config, tmp_path / "run", 12)
    train(config, tmp_path / "run", resume=True)
    assert_ended_alike(tmp_path / "run", tmp_path / "whole")
