"""One run in one process: what it learns, what it writes, and what stops it."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import BATCHNORMS, NETWORK, log_lines, tiny_config, weights
from torch import nn

from muybridge.config import AugmentConfig, ClipSpec, ModelConfig, OptimConfig
from muybridge.data.annotations import read_samples
from muybridge.errors import BrokenFilesError, NonFiniteError, TrainingError
from muybridge.models.contract import VideoModel
from muybridge.models.registry import MODELS, ModelEntry
from muybridge.predict import run_views
from muybridge.train.log import EpochRecord, StepRecord
from muybridge.train.loop import clip_losses
from muybridge.train.run import train
from muybridge.train.validation import video_loss
from muybridge.weights.store import load, read_card


def test_a_run_learns_and_writes_its_folder(
    figures_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events: list[StepRecord | EpochRecord] = []
    config = tiny_config(
        figures_dir,
        epochs=16,
        batch_size=6,
        augment=AugmentConfig(crop="center", flip=False),
        optim=OptimConfig(kind="adamw", lr=0.01),
    )
    result = train(config, tmp_path / "run", on_event=events.append)

    epochs = log_lines(result.run_dir, "epoch")
    assert epochs[-1]["loss"] < 0.6 * epochs[0]["loss"]  # 0.2 to 0.4 times, over several seeds
    assert [line["epoch"] for line in epochs] == list(range(1, 17))
    steps = log_lines(result.run_dir, "step")
    assert [line["step"] for line in steps] == list(range(1, 33))  # 2 a pass
    assert steps[-1]["lr"] < 0.01 * steps[0]["lr"]
    assert log_lines(result.run_dir, "start")[0]["world_size"] == 1
    assert len(events) == len(epochs) + len(steps)

    scalars = EventAccumulator(str(result.run_dir)).Reload().Scalars("train/loss")
    assert [one.step for one in scalars] == [line["step"] for line in steps]
    assert [one.value for one in scalars] == pytest.approx([line["loss"] for line in steps], rel=1e-4)
    card = read_card(result.run_dir)
    assert card.labels == ("box", "clap", "walk")
    assert card.specs == config.clip
    assert card.metrics["epoch"] == 16
    assert (result.run_dir / "state" / "state.json").is_file()
    assert type(config).from_yaml(result.run_dir / "config.yaml") == config
    printed = capsys.readouterr().err
    assert "3 classes, 12 training clips of 4 groups, no validation" in printed
    assert "clips/s: about" in printed  # the estimate after 20 steps
    assert "epoch 16/16: loss" in printed


def test_the_best_checkpoint_is_the_one_of_the_best_validation(figures_dir: Path, tmp_path: Path) -> None:
    config = tiny_config(
        figures_dir,
        data={"train": ("train",), "val": ("test",)},
        epochs=4,
        optim=OptimConfig(kind="adamw", lr=0.01, schedule="constant"),
    )
    result = train(config, tmp_path / "run")
    epochs = log_lines(result.run_dir, "epoch")
    best = max(epochs, key=lambda line: (line["val_top1"], -line["val_loss"]))
    assert result.best_epoch == best["epoch"]
    assert result.val_top1 == pytest.approx(best["val_top1"], rel=1e-5)
    assert [line["epoch"] for line in epochs if line["best"]][-1] == best["epoch"]
    assert read_card(result.best_path).metrics["epoch"] == best["epoch"]
    assert read_card(result.last_path).metrics["epoch"] == 4

    model = load(result.run_dir)
    samples = [sample for sample in read_samples(config.data) if sample.split == "test"]
    scores = [one.probabilities for one in run_views(model, samples, "center")]
    right = [
        card_label == sample.label
        for score, sample in zip(scores, samples, strict=True)
        for card_label in [read_card(result.run_dir).labels[int(score.argmax())]]
    ]
    assert sum(right) / len(right) == pytest.approx(result.val_top1, rel=1e-6)


def test_accumulated_batches_make_the_step_of_one_large_batch(figures_dir: Path, tmp_path: Path) -> None:
    one = tiny_config(figures_dir, batch_size=8, freeze=BATCHNORMS)  # batches of 8 and 4
    two = tiny_config(
        figures_dir, batch_size=4, optim=OptimConfig(lr=0.02, accumulation=2), freeze=BATCHNORMS
    )
    train(one, tmp_path / "one")
    train(two, tmp_path / "two")
    assert [line["step"] for line in log_lines(tmp_path / "two", "step")] == [1, 2, 3, 4]
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-6)
    losses = [[line["loss"] for line in log_lines(tmp_path / run, "step")] for run in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_clipping_bounds_what_the_optimiser_sees(figures_dir: Path, tmp_path: Path) -> None:
    """Without momentum and decay, a step moves the weights by lr times the clipped gradient."""
    optim = OptimConfig(lr=1.0, momentum=0, weight_decay=0, schedule="constant", clip_grad_norm=0.05)
    config = tiny_config(figures_dir, batch_size=12, epochs=1, optim=optim)
    train(config, tmp_path / "run")
    untrained = config.model_copy(update={"optim": optim.model_copy(update={"lr": 1e-12})})
    train(untrained, tmp_path / "still")
    before, after = weights(tmp_path / "still"), weights(tmp_path / "run")
    learned = [name for name in before if "running" not in name and "num_batches" not in name]
    moved = math.sqrt(sum(float((after[name] - before[name]).double().square().sum()) for name in learned))
    assert moved == pytest.approx(0.05, rel=1e-3)
    assert log_lines(tmp_path / "run", "step")[0]["gradient_norm"] > 0.05  # it was larger before


def test_the_moving_average_is_what_is_saved(figures_dir: Path, tmp_path: Path) -> None:
    config = tiny_config(figures_dir, epochs=1, optim=OptimConfig(lr=0.02, ema_decay=0.5))
    train(config, tmp_path / "run")
    state = torch.load(tmp_path / "run" / "state" / "tensors.pt", weights_only=True)
    saved = weights(tmp_path / "run")
    assert all(torch.equal(saved[name], state["average"][name]) for name in saved)
    assert not torch.equal(saved["head.fc.weight"], state["model"]["head.fc.weight"])


def test_the_losses_are_those_of_the_books() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0]], dtype=torch.float64)
    probabilities = [math.exp(x) / (math.exp(2) + 1 + math.exp(-1)) for x in (2, 0, -1)]
    plain = clip_losses(logits, torch.tensor([1]), "cross_entropy", 0.0)
    assert float(plain) == pytest.approx(-math.log(probabilities[1]))
    smooth = clip_losses(logits, torch.tensor([1]), "cross_entropy", 0.3)
    wanted = [0.1, 0.8, 0.1]  # 1 - 0.3 on the label, and 0.3 / 3 on each class
    assert float(smooth) == pytest.approx(
        -sum(w * math.log(p) for w, p in zip(wanted, probabilities, strict=True))
    )
    several = clip_losses(logits, torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64), "bce", 0.0)
    sigmoid = [1 / (1 + math.exp(-x)) for x in (2, 0, -1)]
    assert float(several) == pytest.approx(
        -(math.log(sigmoid[0]) + math.log(1 - sigmoid[1]) + math.log(sigmoid[2])) / 3
    )


def test_the_loss_of_a_video_with_several_labels_counts_each_class() -> None:
    p = np.array([0.9, 0.2, 0.6])
    expected = -(math.log(0.9) + math.log(1 - 0.2) + math.log(0.6)) / 3
    assert video_loss(p, [0, 2], each=True) == pytest.approx(expected)
    assert video_loss(p, [0, 1, 2], each=False) == 0  # together they have all there is
    assert video_loss(np.array([0.0, 1.0]), [0], each=True) == pytest.approx(-math.log(1e-12))


def test_several_labels_a_clip(figures_dir: Path, tmp_path: Path) -> None:
    rows = [(sample.path, sample.label) for sample in read_samples(tiny_config(figures_dir).data)]
    table = tmp_path / "labels.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label"))
        writer.writerows((path, f"{label}|person" if label != "box" else label) for path, label in rows)
    config = tiny_config(
        table, data={"train": (), "val_fraction": 0.25}, loss="bce", optim=OptimConfig(kind="adamw", lr=0.01)
    )
    result = train(config, tmp_path / "run")
    assert result.labels == ("box", "clap", "person", "walk")
    epochs = log_lines(result.run_dir, "epoch")
    assert epochs[-1]["loss"] < epochs[0]["loss"] < 1.0  # -log(1/2) a class before it learns
    assert 0 < epochs[-1]["val_loss"] < 1.0  # the same loss; the softmax of 4 classes would give -log(1/4)
    assert 0 <= result.val_top1 <= 1


def test_a_gradient_that_is_not_finite_stops_the_run_and_is_named(figures_dir: Path, tmp_path: Path) -> None:
    config = tiny_config(figures_dir, optim=OptimConfig(lr=1e30, schedule="constant"))
    with pytest.raises(NonFiniteError, match=r"step \d, epoch 1: .* gradient of \S+ has \d+ of \d+ values"):
        train(config, tmp_path / "run")
    with pytest.raises(NonFiniteError, match=r"lower optim.lr \(it is 1e\+30 .*clip_grad_norm"):
        train(config, tmp_path / "again")


def test_steps_that_are_not_finite_can_be_skipped_and_are_counted(figures_dir: Path, tmp_path: Path) -> None:
    optim = OptimConfig(lr=1e30, schedule="constant")
    result = train(tiny_config(figures_dir, optim=optim, allow_non_finite=True), tmp_path / "run")
    skipped = log_lines(result.run_dir, "skipped")
    assert result.skipped_steps == len(skipped) > 0
    assert all(tensor.isfinite().all() for tensor in weights(result.run_dir).values())
    assert f"{len(skipped)} steps were skipped" in str(result)


class PlainConvolution(VideoModel):
    """A network with a convolution whose bf16 gradients cannot be trusted."""

    def __init__(self, *, num_classes: int, width: float = 1.0) -> None:
        spec = ClipSpec(num_frames=4, resize=32, crop=32)
        super().__init__(num_classes=num_classes, feature_dim=4, default_specs=(spec,), stage_names=("conv",))
        self.conv = nn.Conv3d(3, 4, (3, 1, 1))

    def forward_features(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.conv(inputs[0]).mean((2, 3, 4))


def test_bf16_is_refused_where_it_is_not_safe(
    figures_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = ModelEntry(builder=PlainConvolution, paper="none", year=0, summary="for this test")
    monkeypatch.setitem(MODELS, "plain", entry)
    config = tiny_config(figures_dir, model=ModelConfig(name="plain"), precision="bf16", clip=None)
    with pytest.raises(TrainingError, match=r"plain cannot be trained in bf16: .* Set precision to float32"):
        train(config, tmp_path / "run")


def test_bf16_stays_near_float32(figures_dir: Path, tmp_path: Path) -> None:
    for precision in ("float32", "bf16"):
        train(tiny_config(figures_dir, precision=precision, epochs=1), tmp_path / precision)
    losses = [
        [line["loss"] for line in log_lines(tmp_path / precision, "step")]
        for precision in ("float32", "bf16")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.03)
    assert losses[0] != losses[1]


@pytest.fixture
def folder_with_a_broken_file(figures_dir: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    for sample in read_samples(tiny_config(figures_dir).data):
        link = folder / sample.label / sample.path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(sample.path)
    (folder / "walk" / "notes.mp4").write_text("this is no video")
    return folder


def test_a_broken_file_is_skipped_and_named_at_the_end(
    folder_with_a_broken_file: Path, tmp_path: Path
) -> None:
    config = tiny_config(folder_with_a_broken_file, data={"train": (), "max_broken": 0.1}, batch_size=2)
    result = train(config, tmp_path / "run")
    assert [Path(path).name for path in result.broken] == ["notes.mp4"]
    assert "notes.mp4" in str(result)
    assert all(math.isfinite(line["loss"]) for line in log_lines(result.run_dir, "epoch"))


def test_too_many_broken_files_end_the_run(folder_with_a_broken_file: Path, tmp_path: Path) -> None:
    config = tiny_config(folder_with_a_broken_file, data={"train": ()})
    with pytest.raises(
        BrokenFilesError, match=r"(?s)1 of 13 videos do not decode, the limit is 1.00%.*notes"
    ):
        train(config, tmp_path / "run")


def test_a_broken_validation_file_counts_as_well(folder_with_a_broken_file: Path, tmp_path: Path) -> None:
    data = {"train": (), "val_fraction": 0.9, "max_broken": 0.1}
    result = train(tiny_config(folder_with_a_broken_file, data=data, epochs=1), tmp_path / "run")
    assert [Path(path).name for path in result.broken] == ["notes.mp4"]


def test_another_run_is_never_written_over(figures_dir: Path, tmp_path: Path) -> None:
    config = tiny_config(figures_dir, epochs=1)
    train(config, tmp_path / "run")
    with pytest.raises(TrainingError, match=r"holds a run already: resume it \(muybridge train --resume"):
        train(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_epochs": 1}, "give init, or set head_epochs to 0"),
        ({"loss": "bce", "optim": OptimConfig(label_smoothing=0.1)}, "label_smoothing belongs to"),
        ({"loss": "bce", "data": {"balanced": True}}, "balanced draws by the one label"),
        ({"clip": (ClipSpec(num_frames=4),) * 2}, "looks at rgb: give one entry for each, got 2"),
        ({"freeze": ("layer1",)}, "r2plus1d_10 has no part 'layer1'"),
    ],
)
def test_options_that_contradict_each_other(
    figures_dir: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        train(tiny_config(figures_dir, model=NETWORK, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_clip_that_a_mirror_would_make_wrong_is_warned_of(
    figures_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "labels.csv"
    samples = read_samples(tiny_config(figures_dir).data)
    names = {"walk": "walk_left", "box": "box", "clap": "clap"}
    table.write_text("path,label\n" + "".join(f"{sample.path},{names[sample.label]}\n" for sample in samples))
    config = tiny_config(table, data={"train": ()}, epochs=1)
    train(
        config.model_copy(update={"augment": config.augment.model_copy(update={"flip": True})}),
        tmp_path / "run",
    )
    assert "a mirror image changes the class: walk_left" in capsys.readouterr().err
