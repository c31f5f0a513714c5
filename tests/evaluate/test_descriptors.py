from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from muybridge.config import ClipSpec
from muybridge.errors import DataError, VideoError, WeightsError
from muybridge.evaluate.descriptors import describe, descriptor, side_by_side
from muybridge.models.contract import VideoModel
from muybridge.models.registry import build
from muybridge.predict import run_features
from muybridge.types import Sample
from muybridge.video.encode import write_video

SPEC = ClipSpec(num_frames=4, resize=16, crop=16, mean=(0, 0, 0), std=(1, 1, 1))


class ColorNet(VideoModel):
    """Its features are the mean red, green and blue of a clip."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__(num_classes=2, feature_dim=3, default_specs=(SPEC,), stage_names=())
        self.name = "color"
        self.scale = scale

    def forward_features(self, *inputs: Tensor) -> Tensor:
        return self.scale * inputs[0].mean((2, 3, 4))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Videos of 9 to 12 frames whose colour goes from red to green."""
    folder = tmp_path_factory.mktemp("colors")
    found = []
    for k in range(4):
        colors = [np.array([240 - 12 * t, 12 * t + 10 * k, 30], np.uint8) for t in range(9 + k)]
        write_video(folder / f"{k}.mp4", (np.broadcast_to(color, (16, 24, 3)) for color in colors), fps=25)
        found.append(Sample(path=folder / f"{k}.mp4", labels=("a",)))
    return found


def test_a_descriptor_is_the_mean_of_the_clips_made_as_long_as_1(samples: list[Sample]):
    found = describe(ColorNet(), samples, protocol="sliding4")
    assert found.values.shape == (4, 3)
    np.testing.assert_allclose(np.linalg.norm(found.values, axis=1), 1, rtol=1e-12)
    for row, video in zip(found.values, run_features(ColorNet(), samples, "sliding4"), strict=True):
        mean = video.features.astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), rtol=1e-12)
    assert len(video.features) == 3  # 12 frames, clips at 0, 4 and 8
    assert (found.layers, found.protocol.step) == (("color features",), 4)
    assert repr(found) == "Descriptors(4 videos, 3 features: color features)"


def test_the_length_of_the_features_does_not_matter(samples: list[Sample]):
    once, ten_times = (describe(ColorNet(scale), samples).values for scale in (1.0, 10.0))
    np.testing.assert_allclose(ten_times, once, rtol=1e-5)


def test_three_networks_side_by_side_are_as_long_as_the_root_of_three(samples: list[Sample]):
    model = build("c3d_small", num_classes=2, width=1 / 32, num_frames=4, crop=16)
    parts = [
        describe(ColorNet(), samples),
        describe(model, samples, layer="fc6"),
        describe(ColorNet(), samples),
    ]
    joined = side_by_side(parts)
    assert joined.values.shape == (4, 3 + 64 + 3)
    np.testing.assert_allclose(np.linalg.norm(joined.values, axis=1), 3**0.5, rtol=1e-12)
    assert joined.layers == ("color features", "c3d_small fc6", "color features")
    assert len(joined.specs) == 3
    with pytest.raises(
        DataError, match="color features and color features are not of the same videos and views"
    ):
        side_by_side([parts[0], describe(ColorNet(), samples, protocol="sliding1")])
    with pytest.raises(
        DataError, match="color features and color features are not of the same videos and views"
    ):
        side_by_side([parts[0], describe(ColorNet(), samples[::-1])])
    with pytest.raises(DataError, match="no network to take features of"):
        side_by_side([])


def test_some_of_the_videos(samples: list[Sample]):
    found = describe(ColorNet(), samples)
    part = found.of([samples[2], samples[0]])
    assert part.samples == (samples[0], samples[2])
    np.testing.assert_array_equal(part.values, found.values[[0, 2]])


def test_broken_videos_are_listed(samples: list[Sample], tmp_path: Path):
    bad = Sample(path=tmp_path / "bad.mp4", labels=("a",))
    bad.path.write_text("no video")
    found = describe(ColorNet(), [bad, *samples], skip_broken=True)
    assert found.samples == tuple(samples)
    assert [one.path for one in found.broken] == [str(bad.path)]
    with pytest.raises(VideoError, match=r"bad\.mp4"):
        describe(ColorNet(), [bad, *samples])
    with pytest.raises(DataError, match=r"no video of 1 can be read; the first: .*bad\.mp4"):
        describe(ColorNet(), [bad], skip_broken=True)


def test_features_without_a_direction(samples: list[Sample]):
    with pytest.raises(
        WeightsError, match=r"0\.mp4, color features: all features are zero, .* take another layer"
    ):
        describe(ColorNet(0.0), samples)
    assert descriptor([[0.0, 0.0], [0.0, -2.0]]).tolist() == [0, -1]


def test_networks_are_left_as_they_were(samples: list[Sample]):
    model = ColorNet().train()
    describe(model, samples[:1])
    assert model.training
    assert not torch.is_inference_mode_enabled()
