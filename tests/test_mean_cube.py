"""C3D's mean cube: in a spec by its digest, in a checkpoint by its numbers, off a clip before the crop."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from muybridge.config import AugmentConfig, ClipSpec, TrainConfig, specs_digest
from muybridge.data.views import load_view, plan_random_view, plan_view
from muybridge.errors import ConfigError, WeightsError
from muybridge.predict import run_views
from muybridge.train.setup import build_network, read_init
from muybridge.types import Box, MeanCube, Sample, Size, View
from muybridge.video.decode import VideoReader
from muybridge.video.transform import to_tensor
from muybridge.weights.read import read_tensors
from muybridge.weights.store import build, load, read_card, save

FRAMES, HEIGHT, WIDTH, CROP = 4, 24, 32, 16


def cube(seed: int = 0) -> MeanCube:
    return MeanCube.of(np.random.default_rng(seed).uniform(0, 255, (3, FRAMES, HEIGHT, WIDTH)))


def spec(**changes: object) -> ClipSpec:
    plain = ClipSpec(
        num_frames=FRAMES,
        resize=(HEIGHT, WIDTH),
        crop=CROP,
        scale=255,
        channel_order="bgr",
        mean=(0, 0, 0),
        std=(1, 2, 4),
    )
    return plain.model_copy(update={"mean_cube": cube(), **changes})


def frames() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)


def view(**changes: object) -> View:
    values = {"size": Size(HEIGHT, WIDTH), "box": Box(5, 9, CROP, CROP), **changes}
    return View(indices=(tuple(range(FRAMES)),), **values)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "c3d.safetensors"
    model = build("c3d", num_classes=2, width=1 / 32, num_frames=FRAMES, crop=CROP)
    save(path, model, labels=("a", "b"), specs=(spec(),))
    return path


@pytest.mark.parametrize("flip", [False, True])
def test_subtracted_and_cropped_is_cropped_and_subtracted(flip: bool):
    values, numbers = frames(), cube().values
    whole = values[..., ::-1].transpose(3, 0, 1, 2) - numbers  # blue, green, red
    cut = whole[:, :, 5 : 5 + CROP, 9 : 9 + CROP] / np.array([1, 2, 4]).reshape(3, 1, 1, 1)
    expected = cut[..., ::-1] if flip else cut
    found = to_tensor(values, view(flip=flip), spec())
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-4)
    assert np.abs(cut - cut[..., ::-1]).max() > 1  # the cube has no mirror symmetry that would hide a mistake


def test_a_constant_cube_is_a_mean():
    constant = MeanCube.of(np.full((3, FRAMES, HEIGHT, WIDTH), 128.0))
    for box in (Box(5, 9, CROP, CROP), Box(2, 3, 20, 20)):  # the second one is resized to the crop
        found = to_tensor(frames(), view(box=box), spec(mean_cube=constant))
        expected = to_tensor(frames(), view(box=box), spec(mean_cube=None, mean=(128, 128, 128)))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-4)


def test_a_box_of_another_size_is_resized_as_the_frames_are():
    slope = np.broadcast_to(np.arange(WIDTH, dtype=np.float32), (3, FRAMES, HEIGHT, WIDTH))
    black = np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    found = to_tensor(black, view(box=Box(0, 4, 24, 24)), spec(mean_cube=MeanCube.of(slope), std=(1, 1, 1)))
    centers = 4 + (np.arange(CROP) + 0.5) * 24 / CROP - 0.5  # pixel centres of the crop, in the frame
    np.testing.assert_allclose(-found[0, 0, 0].numpy(), centers, atol=1e-4)


def test_cubes_are_equal_by_their_digests():
    assert cube() == cube() == MeanCube(str(cube()))
    assert cube() != cube(1)
    assert len({cube(), cube(), cube(1)}) == 2
    with pytest.raises(
        ValueError, match=r"a mean cube is \[3, T, H, W\] of finite numbers, got \[4, 24, 32\]"
    ):
        MeanCube.of(np.zeros((FRAMES, HEIGHT, WIDTH)))


def test_files_have_the_digest_and_specs_without_a_cube_are_as_before():
    with_cube, without = spec(), spec(mean_cube=None)
    assert with_cube.to_dict()["mean_cube"] == str(cube())
    assert ClipSpec.from_dict(with_cube.to_dict()) == with_cube
    assert "mean_cube" not in without.to_dict()
    assert (
        "mean_cube"
        not in TrainConfig.from_dict({"data": {"root": "x"}, "clip": [without.to_dict()]}).to_yaml()
    )
    others = [spec(mean_cube=cube(1)), without]
    assert len({specs_digest((one,)) for one in (with_cube, *others)}) == 3
    # Of a spec as it was written before there were cubes.
    assert specs_digest((ClipSpec(num_frames=8),)) == "67e14bb1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean_cube": "no digest"}, "mean_cube is the digest of a mean cube, eight hex digits"),
        (
            {"mean_cube": "0123abcd", "resize": 24},
            "goes with rgb, one segment and a resize to .height, width",
        ),
        ({"mean_cube": "0123abcd", "num_segments": 3}, "goes with rgb, one segment"),
        ({"mean_cube": "0123abcd", "modality": "rgb_diff"}, "goes with rgb, one segment"),
    ],
)
def test_cubes_that_do_not_fit_a_spec(changes: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        ClipSpec(**{"num_frames": 4, "resize": (24, 32), "crop": 16, **changes})


def test_a_clip_that_does_not_fit_its_cube():
    unknown = spec(mean_cube=MeanCube("0123abcd"))
    with pytest.raises(
        ConfigError, match="mean cube 0123abcd is known by its digest alone: take the spec out of"
    ):
        to_tensor(frames(), view(), unknown)
    small = view(size=Size(HEIGHT, WIDTH - 2))
    message = r"mean cube is \[3, 4, 24, 32\], the clip 4 frames of 24 x 30: keep both as the cube has them"
    with pytest.raises(ConfigError, match=message):
        to_tensor(frames()[:, :, 2:], small, spec())


def test_it_travels_in_the_checkpoint(checkpoint: Path):
    for specs in (load(checkpoint).card.specs, load(checkpoint).default_specs, read_card(checkpoint).specs):
        assert specs == (spec(),)
        np.testing.assert_array_equal(specs[0].mean_cube.values, cube().values)
    assert not [name for name in read_tensors(checkpoint) if "cube" in name]  # it is no weight
    built = build("c3d", weights=checkpoint, num_classes=2, width=1 / 32)
    assert built.default_specs[0].mean_cube.values is not None


def test_recognition_takes_it_off(checkpoint: Path):
    """Frames that are the mean itself come to the network as zeros."""
    clip = np.broadcast_to(np.uint8([10, 200, 90]), (FRAMES, HEIGHT, WIDTH, 3)).copy()
    mean = MeanCube.of(np.ascontiguousarray(clip[..., ::-1].transpose(3, 0, 1, 2)))
    model = load(checkpoint)
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    list(run_views(model, [clip], specs=(spec(mean_cube=mean),)))
    list(run_views(model, [clip]))
    assert float(seen[0].abs().max()) < 1e-4
    assert float(seen[1].abs().max()) > 1


def test_training_starts_with_it_and_resumes_from_the_configuration(checkpoint: Path):
    arguments = {"data": {"root": "x"}, "model": {"name": "c3d", "width": 1 / 32}, "init": str(checkpoint)}
    assert read_init(checkpoint).specs[0].mean_cube.values is not None
    written = TrainConfig.from_dict({**arguments, "clip": [spec().to_dict()]})
    assert written.clip[0].mean_cube.values is None
    for config in (TrainConfig.from_dict(arguments), written):
        model, specs = build_network(config, ("a", "b", "c"), lambda text: None)
        assert specs == (spec(),)
        assert specs[0].mean_cube.values is not None
        assert (model.num_frames, model.crop) == (FRAMES, CROP)


def test_random_views_of_training_have_it_too(tmp_path: Path):
    clip = frames()
    info = VideoReader(clip).info
    one = plan_random_view(info, Sample(path=tmp_path), spec(), AugmentConfig(), random.Random(3))
    without = load_view(clip, one, spec(mean_cube=None))
    top, left, height, width = one.box
    cut = cube().values[:, :, top : top + height, left : left + width]
    expected = without - torch.from_numpy(
        np.ascontiguousarray(cut[..., ::-1] if one.flip else cut)
    ) / torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1, 1)
    torch.testing.assert_close(load_view(clip, one, spec()), expected, rtol=1e-5, atol=1e-4)
    center = plan_view(info, Sample(path=tmp_path), spec())
    assert load_view(clip, center, spec()).shape == (3, FRAMES, CROP, CROP)


def test_checkpoints_that_lack_it_or_have_another(checkpoint: Path, tmp_path: Path):
    with pytest.raises(WeightsError, match="mean cube 0123abcd is known by its digest alone: load the spec"):
        save(
            tmp_path / "a.safetensors",
            load(checkpoint),
            labels=("a", "b"),
            specs=(spec(mean_cube=MeanCube("0123abcd")),),
        )
    tensors = load_file(checkpoint)
    with safe_open(checkpoint, framework="pt") as file:
        metadata = file.metadata()
    (name,) = [key for key in tensors if key.startswith("mean_cube.")]
    for change in (lambda: tensors.pop(name), lambda: tensors.update({name: torch.zeros(3, 2, 2, 2)})):
        change()
        save_file(tensors, tmp_path / "b.safetensors", metadata=metadata)
        with pytest.raises(WeightsError, match=f"names the mean cube {cube()} and does not have it"):
            load(tmp_path / "b.safetensors")
