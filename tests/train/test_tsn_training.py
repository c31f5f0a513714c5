"""What TSN adds to training: partial BatchNorm, segments, a start from another modality."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import BATCHNORMS, tiny_config, weights

from muybridge.config import ClipSpec, ModelConfig, OptimConfig, TrainConfig
from muybridge.errors import TrainingError
from muybridge.models.registry import build
from muybridge.train.run import train
from muybridge.train.setup import build_network, read_init, sizes_taken
from muybridge.weights.store import load, save

LABELS = ("walk", "box", "clap")
WIDTH = 1 / 32


def snippets(modality: str = "rgb", *, num_segments: int = 3) -> ClipSpec:
    flow = modality == "flow"
    return ClipSpec(
        num_frames=2 if flow else 1,
        num_segments=num_segments,
        resize=32,
        crop=32,
        mean=(0.5,) * (2 if flow else 3),
        std=(0.5,) * (2 if flow else 3),
        modality=modality,
        flow_method="farneback" if flow else None,
        flow_bound=20 if flow else None,
    )


def tsn(**arguments: object) -> ModelConfig:
    return ModelConfig(name="tsn", width=WIDTH, arguments=arguments)


@pytest.fixture(scope="module")
def rgb_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rgb") / "rgb.safetensors"
    torch.manual_seed(3)
    model = build("tsn", num_classes=3, width=WIDTH, bn_eps=1e-3)
    save(path, model, labels=LABELS, specs=(snippets(),))
    return path


def network_of(config: TrainConfig) -> tuple[torch.nn.Module, tuple[ClipSpec, ...], list[str]]:
    said: list[str] = []
    model, specs = build_network(config, LABELS, said.append)
    return model, specs, said


@pytest.mark.parametrize("kept", ["statistics", "frozen"])
def test_partial_batchnorm_lasts_through_a_run(figures_dir: Path, tmp_path: Path, kept: str) -> None:
    """Through epochs of the head alone, validation between epochs, and the moving average."""
    torch.manual_seed(0)
    init = tmp_path / "init.safetensors"
    config = tiny_config(figures_dir)
    save(init, build(config.model.name, num_classes=3, width=config.model.width), labels=LABELS)
    config = tiny_config(
        figures_dir,
        data={"train": ("train",), "val": ("test",)},
        init=str(init),
        partial_batchnorm=kept,
        head_epochs=1,
        epochs=3,
        optim=OptimConfig(lr=0.05, ema_decay=0.5),
    )
    train(config, tmp_path / "run")
    before, after = load_file(init), weights(tmp_path / "run")
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    first, *others = BATCHNORMS
    assert {f"{first}.running_mean", f"{first}.running_var"} <= changed
    assert not {f"{name}.{leaf}" for name in others for leaf in ("running_mean", "running_var")} & changed
    scales = {f"{name}.{leaf}" for name in others for leaf in ("weight", "bias")}
    assert scales & changed == (scales if kept == "statistics" else set())
    assert f"{first}.weight" in changed


def test_a_run_says_what_rests_and_refuses_where_nothing_does(figures_dir: Path) -> None:
    _, _, said = network_of(tiny_config(figures_dir, partial_batchnorm="frozen"))
    count = len(BATCHNORMS) - 1
    assert f"{count} BatchNorms, all but the first, keep their mean and variance, scale and shift" in said
    clip = (ClipSpec(num_frames=16, resize=32, crop=32),)
    c3d = ModelConfig(name="c3d_small", width=1 / 16, arguments={"num_frames": 16, "crop": 32})
    with pytest.raises(TrainingError, match=r"partial_batchnorm keeps all .* c3d_small has no more than one"):
        network_of(tiny_config(figures_dir, model=c3d, clip=clip, partial_batchnorm="statistics"))


def test_flow_starts_from_rgb_and_trains(
    figures_dir: Path, rgb_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    still = OptimConfig(lr=1e-12, weight_decay=0, schedule="constant")
    config = tiny_config(
        figures_dir,
        init=str(rgb_checkpoint),
        model=tsn(modality="flow"),
        clip=(snippets("flow"),),
        optim=still,
        epochs=1,
    )
    train(config, tmp_path / "run")
    printed = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert ["adapted", "1", "tensors", "backbone"] in printed
    assert ["random", "2", "tensors", "head"] in printed
    model, rgb = load(tmp_path / "run"), load(rgb_checkpoint)
    assert model.arguments["num_frames"] == 2
    assert model.backbone.conv1_7x7_s2.bn.eps == 1e-3  # what no tensor shows comes along
    filters = model.backbone.conv1_7x7_s2.conv.weight
    mean = rgb.backbone.conv1_7x7_s2.conv.weight.mean(1, keepdim=True)
    torch.testing.assert_close(filters, mean.expand_as(filters))
    torch.testing.assert_close(model.backbone.conv2_3x3.conv.weight, rgb.backbone.conv2_3x3.conv.weight)


def test_another_modality_does_not_see_the_clips_of_the_first(
    figures_dir: Path, rgb_checkpoint: Path
) -> None:
    init = str(rgb_checkpoint)
    same, specs, _ = network_of(tiny_config(figures_dir, init=init, model=tsn(), clip=None))
    assert specs == (snippets(),)
    assert same.arguments["modality"] == "rgb"
    model, specs, _ = network_of(
        tiny_config(figures_dir, init=init, model=tsn(modality="rgb_diff"), clip=None)
    )
    assert specs == model.default_specs
    assert (specs[0].modality, specs[0].num_frames, specs[0].crop) == ("rgb_diff", 5, 224)
    started = read_init(init, "tsn")
    assert started.for_modality("rgb") == started.for_modality(None) == started


def test_segments_are_those_of_the_clip_or_of_the_network(figures_dir: Path, rgb_checkpoint: Path) -> None:
    model, specs, said = network_of(tiny_config(figures_dir, model=tsn(), clip=(snippets(num_segments=5),)))
    assert model.arguments["num_segments"] == specs[0].num_segments == 5
    assert any("5 snippets of 1 frames" in line for line in said)
    init = str(rgb_checkpoint)
    _, specs, _ = network_of(tiny_config(figures_dir, init=init, model=tsn(num_segments=7), clip=None))
    assert specs == (snippets(num_segments=7),)
    both = tiny_config(figures_dir, model=tsn(num_segments=7), clip=(snippets(),))
    with pytest.raises(
        TrainingError, match="tsn is built for 7 segments, and clip has 3: give both the same"
    ):
        network_of(both)


@pytest.mark.parametrize(
    ("name", "arguments", "modality"),
    [
        ("short_snippets_local_pooling", {"window": 3, "window_stride": 3, "modality": "flow"}, "flow"),
        ("short_snippets_lstm", {"modality": "flow"}, "flow"),
        ("short_snippets_lstm", {}, "rgb"),
    ],
)
def test_segments_are_the_frames_of_networks_that_count_frames(
    figures_dir: Path, name: str, arguments: dict[str, object], modality: str
) -> None:
    """A stack of flow a frame: seven of them, not as many as a stack has fields."""
    spec = snippets(modality, num_segments=7).model_copy(update={"num_frames": 1})
    network = ModelConfig(name=name, width=1 / 64, arguments=arguments)
    with torch.device("meta"):
        model, specs, _ = network_of(tiny_config(figures_dir, model=network, clip=(spec,)))
    assert model.arguments["num_frames"] == specs[0].num_segments == 7
    plain = {"num_frames": 7, "num_segments": 1}
    assert sizes_taken(name, spec.model_copy(update=plain)) == sizes_taken(name, spec)


def test_a_network_of_clips_becomes_one_of_segments(figures_dir: Path, tmp_path: Path) -> None:
    init, spec = tmp_path / "alone.safetensors", ClipSpec(num_frames=4, frame_stride=2, resize=32, crop=32)
    save(init, build("r3d_10", num_classes=3, width=WIDTH), labels=LABELS, specs=(spec,))
    model, specs, said = network_of(
        tiny_config(figures_dir, init=str(init), model=tsn(backbone="r3d_10", consensus="linear"), clip=None)
    )
    assert specs == (spec.model_copy(update={"num_segments": 3}),)
    assert model(torch.zeros(1, 3, 3, 4, 32, 32)).shape == (1, 3)
    assert any(line.split() == ["random", "3", "tensors", "head"] for line in said)
