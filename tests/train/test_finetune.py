"""From a checkpoint to other classes: what is taken, what is new, what rests; defaults for a folder."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import NETWORK, log_lines, tiny_config, weights

from muybridge.config import ClipSpec, ModelConfig, OptimConfig, TrainConfig
from muybridge.data.annotations import read_samples
from muybridge.errors import ConfigError, DataError, TrainingError, WeightsError
from muybridge.models.registry import build
from muybridge.train.defaults import default_config
from muybridge.train.optim import parameter_groups, set_trainable
from muybridge.train.recipes import read_recipe, recipe_names
from muybridge.train.run import train
from muybridge.types import UInt8Array
from muybridge.video.decode import VideoReader
from muybridge.video.encode import write_video
from muybridge.weights.store import save

SPEC = ClipSpec(num_frames=4, frame_stride=2, resize=32, crop=24)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network for seven other classes, with a spec and a BatchNorm eps of its own."""
    path = tmp_path_factory.mktemp("init") / "seven.safetensors"
    torch.manual_seed(7)
    model = build(NETWORK.name, num_classes=7, width=NETWORK.width, bn_eps=1e-3)
    save(path, model, labels=[f"class {i}" for i in range(7)], specs=(SPEC,))
    return path


def is_head(name: str) -> bool:
    return name.startswith("head.")


def test_the_trunk_is_taken_and_the_head_is_new(
    figures_dir: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    still = OptimConfig(lr=1e-12, weight_decay=0, schedule="constant")
    config = tiny_config(figures_dir, init=str(checkpoint), clip=None, epochs=1, optim=still)
    result = train(config, tmp_path / "run")
    before, after = load_file(checkpoint), weights(result.run_dir)
    for name in after:
        if not is_head(name) and "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(after[name], before[name])
    assert after["head.fc.weight"].shape == (3, before["head.fc.weight"].shape[1])
    written = type(config).from_yaml(result.run_dir / "config.yaml")
    assert written.clip == (SPEC,)  # the clips are those that the trunk knows
    printed = capsys.readouterr().err.splitlines()
    assert any(line.split()[0] == "loaded" and "stem" in line for line in printed)
    assert any(line.split()[0] == "random" and "head" in line for line in printed)


def test_what_a_network_needs_beside_its_weights_comes_with_them(
    figures_dir: Path, checkpoint: Path, tmp_path: Path
) -> None:
    from muybridge.weights.store import load

    result = train(tiny_config(figures_dir, init=str(checkpoint), epochs=1), tmp_path / "run")
    assert load(result.run_dir).stem.bn.eps == 1e-3


def test_frozen_parts_keep_their_bits(figures_dir: Path, checkpoint: Path, tmp_path: Path) -> None:
    config = tiny_config(
        figures_dir,
        init=str(checkpoint),
        freeze=("stem", "stages.0"),
        optim=OptimConfig(lr=0.1, ema_decay=0.5),
    )
    train(config, tmp_path / "run")
    before, after = load_file(checkpoint), weights(tmp_path / "run")
    frozen = {name for name in after if name.startswith(("stem.", "stages.0."))}
    assert any("running_mean" in name for name in frozen)
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    trunk = {name for name in after if not is_head(name)} - frozen
    assert not any(torch.equal(before[name], after[name]) for name in trunk)


def test_the_head_trains_first(figures_dir: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Its epoch alone leaves the trunk's bits; the epoch after it, in the same run, moves them."""
    before = load_file(checkpoint)
    first_epoch: dict[str, torch.Tensor] = {}

    def keep_the_first_epoch(record: object) -> None:
        if getattr(record, "kind", "") == "epoch" and not first_epoch:
            first_epoch.update(weights(tmp_path / "run"))

    config = tiny_config(figures_dir, init=str(checkpoint), head_epochs=1, epochs=2)
    train(config, tmp_path / "run", on_event=keep_the_first_epoch)
    after = weights(tmp_path / "run")
    trunk = [name for name in before if not is_head(name)]
    assert all(torch.equal(before[name], first_epoch[name]) for name in trunk)
    assert not any(torch.equal(before[name], after[name]) for name in trunk)
    assert float(first_epoch["head.fc.bias"].abs().sum()) > 0  # it starts at zero


def test_a_trunk_of_another_width_is_refused(figures_dir: Path, checkpoint: Path, tmp_path: Path) -> None:
    config = tiny_config(figures_dir, init=str(checkpoint), model=ModelConfig(name=NETWORK.name, width=1 / 8))
    with pytest.raises(WeightsError, match="does not fit r2plus1d_10"):
        train(config, tmp_path / "run")


def test_a_foreign_file_gives_its_trunk(
    figures_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """torchvision's network with random weights: a file like those of its pretrained ones."""
    video = pytest.importorskip("torchvision.models.video")
    state = video.mc3_18(num_classes=400).state_dict()
    save_file(state, tmp_path / "mc3.safetensors")
    config = tiny_config(
        figures_dir,
        init=str(tmp_path / "mc3.safetensors"),
        model=ModelConfig(name="mc3_18"),
        freeze=("stem", "stages"),
        epochs=1,
        batch_size=12,
    )
    train(config, tmp_path / "run")
    after = weights(tmp_path / "run")
    assert torch.equal(after["stem.conv.weight"], state["stem.0.weight"])
    assert "weights of torchvision" in capsys.readouterr().err


def test_defaults_work_for_a_folder_and_say_why(figures_dir: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    names = {"walk": "stepLeft", "box": "box", "clap": "clap"}
    samples = read_samples(tiny_config(figures_dir).data)
    rows = [f"{sample.path},{names[sample.label]},{sample.group}\n" for sample in samples]
    more = []  # the same files again, as other people
    for number, sample in enumerate(samples):
        copy = tmp_path / f"{number}.mp4"
        copy.symlink_to(sample.path)
        more.append(f"{copy},{names[sample.label]},{(sample.group or '').replace('person', 'copy')}\n")
    table.write_text("path,label,group\n" + "".join(rows + more))
    config, said = default_config(table, run_dir=tmp_path / "run")
    text = "\n".join(said)
    assert "not mirrored: that would change the class of stepLeft" in text
    assert not config.augment.flip
    assert "a fifth of the 8 groups is held out" in text
    assert config.data.val_fraction == 0.2
    assert config.data.cache == str(tmp_path / "run" / "cache")
    assert config.clip is not None
    assert config.clip[0].frame_stride is None
    assert config.clip[0].modality == "rgb_diff"  # the figures' camera stands still
    assert config.clip[0].mean == (0.0, 0.0, 0.0)
    assert "the camera stands still (" in text
    assert "set in config.yaml: modality: rgb, mean: [" in text
    assert (config.model.name, config.model.width) == ("r2plus1d_10", 0.25)
    result = train(config.model_copy(update={"epochs": 1}), tmp_path / "run")
    assert result.num_val == 6
    assert (tmp_path / "run" / "cache").is_dir()


@pytest.mark.parametrize(
    ("name", "width", "looks_at"),
    [
        ("two_stream_temporal", 0.25, [("flow", 10, 1)]),
        ("two_stream", 0.25, [("rgb", 1, 1), ("flow", 10, 1)]),
        ("tsn", 0.25, [("rgb", 1, 3)]),
        ("deepvideo_single", 0.25, [("rgb", 1, 1)]),
        ("slowfast_r50_4x16", 0.25, [("rgb_diff", 32, 1)]),
        ("inflated", 1.0, [("rgb_diff", 16, 1)]),
    ],
)
def test_defaults_for_a_named_network_give_it_the_clips_it_takes(
    figures_dir: Path, name: str, width: float, looks_at: list[tuple[str, int, int]]
) -> None:
    config, said = default_config(figures_dir / "labels.csv", model=name)
    assert (config.model.name, config.model.width) == (name, width)
    assert [(one.modality, one.num_frames, one.num_segments) for one in config.clip or ()] == looks_at
    assert f"{name} with {width:g} of the paper's channels" in said


def filmed(
    folder: Path, *, person: float = 0.0, camera: float = 0.0, contrast: float = 1.0, noise: float = 0.0
) -> Path:
    """Two videos of a textured wall; a disc before it and the camera move by so many pixels a frame.

    `noise` is that of the camera, in levels of 255.
    """
    rng = np.random.default_rng(1)
    spots = np.random.default_rng(0).integers(0, 256, (12, 50, 3)) * contrast
    wall = cv2.resize(spots.astype(np.uint8), (400, 96))

    def frames() -> Iterator[UInt8Array]:
        for index in range(40):
            at = round(camera * index)
            picture = np.ascontiguousarray(wall[:, at : at + 128])
            cv2.circle(picture, (round(30 + person * index), 48), 12, (255, 255, 255), -1)
            yield (picture + rng.normal(0, noise, picture.shape)).clip(0, 255).astype(np.uint8)

    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        write_video(folder / label / "1.mp4", frames(), fps=25)
    return folder


@pytest.mark.parametrize(
    ("motion", "modality"),
    [
        ({"person": 1.5}, "rgb_diff"),
        ({"camera": 3.0}, "rgb"),
        ({"person": 1.5, "camera": 3.0}, "rgb"),
        ({"person": 1.5, "contrast": 0.0}, "rgb"),  # nothing is behind it, as in a depth map
        ({}, "rgb"),  # nothing moves: differences would show nothing
        ({"noise": 8.0}, "rgb"),  # nor would they but noise
        ({"person": 1.5, "noise": 8.0}, "rgb_diff"),
    ],
)
def test_a_still_camera_is_seen(tmp_path: Path, motion: dict[str, float], modality: str) -> None:
    config, said = default_config(filmed(tmp_path / "videos", **motion))
    assert config.clip is not None
    (spec,) = config.clip
    assert spec.modality == modality
    assert any("the camera stands still" in sentence for sentence in said) == (modality == "rgb_diff")
    if modality == "rgb_diff":
        assert 0.02 <= min(spec.std) <= max(spec.std) < 0.3
    else:
        assert min(spec.mean) > 0.03  # those of the pictures


def test_only_the_piece_that_is_labelled_is_looked_at(tmp_path: Path) -> None:
    """The camera moves in the first half of the film alone; the pieces are in its second half."""
    wall = filmed(tmp_path / "videos", camera=3.0)
    still = filmed(tmp_path / "still", person=1.5)
    with VideoReader(wall / "a" / "1.mp4") as first, VideoReader(still / "a" / "1.mp4") as second:
        both = [*first.read(range(40)), *second.read(range(40))]
    write_video(tmp_path / "film.mp4", iter(both), fps=25)
    table = tmp_path / "labels.csv"
    for start, end, modality in ((0, 1.6, "rgb"), (1.6, 3.2, "rgb_diff")):
        half = (end - start) / 2  # two pieces of that half of the film
        table.write_text(
            f"path,label,start,end\nfilm.mp4,a,{start},{start + half}\nfilm.mp4,b,{start + half},{end}\n"
        )
        config, _ = default_config(table)
        assert [spec.modality for spec in config.clip or ()] == [modality]


def test_a_small_folder_is_seen_often_and_a_trained_network_needs_less(figures_dir: Path, checkpoint: Path):
    fresh, _ = default_config(figures_dir / "labels.csv")
    tuned, _ = default_config(figures_dir / "labels.csv", init=checkpoint)
    assert (fresh.epochs, fresh.head_epochs) == (80, 0)
    assert (tuned.epochs, tuned.head_epochs) == (26, 4)


def test_defaults_for_fine_tuning_take_the_network_of_the_checkpoint(
    figures_dir: Path, checkpoint: Path, tmp_path: Path
) -> None:
    config, said = default_config(figures_dir / "labels.csv", init=checkpoint)
    assert (config.model.name, config.model.width) == (NETWORK.name, NETWORK.width)
    assert config.clip == (SPEC,)
    assert config.head_epochs > 0
    assert any("only the new head trains" in sentence for sentence in said)
    result = train(config.model_copy(update={"epochs": 2, "head_epochs": 1}), tmp_path / "run")
    assert len(log_lines(result.run_dir, "epoch")) == 2


def test_defaults_need_a_video_that_can_be_read(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.mp4").write_text("no video")
    with pytest.raises(
        DataError, match=r"none of the videos that were looked at can be read; one of them: \S*1.mp4"
    ):
        default_config(tmp_path)


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_are_whole_and_their_networks_can_be_built(name: str) -> None:
    config = read_recipe(name, root="videos")
    assert config.data.root == "videos"
    arguments = config.model.arguments
    num_classes = sum(arguments.get("tasks", {"": 10}).values())
    with torch.device("meta"):
        model = build(config.model.name, num_classes=num_classes, width=config.model.width, **arguments)
    assert len(config.clip or model.default_specs) == len(model.modalities)
    model.partial_batchnorm = config.partial_batchnorm
    set_trainable(model, frozen=config.freeze)
    factors = {group["lr_factor"] for group in parameter_groups(model, config.optim) if group["params"]}
    assert factors == {1, *config.optim.lr_factors.values()}
    assert TrainConfig.from_dict(config.to_dict()) == config


def test_a_recipe_that_is_not_there() -> None:
    with pytest.raises(
        ConfigError, match="no recipe of that name; the recipes are: figures, r2plus1d_kinetics"
    ):
        read_recipe("cooking")
    with pytest.raises(ConfigError, match=r"there is no file mine\.yaml"):
        read_recipe("mine.yaml")


def test_freezing_needs_names_that_exist(figures_dir: Path, checkpoint: Path, tmp_path: Path) -> None:
    config = tiny_config(figures_dir, init=str(checkpoint), freeze=("stem", "layer2"))
    with pytest.raises(TrainingError, match="no part 'layer2'"):
        train(config, tmp_path / "run")
