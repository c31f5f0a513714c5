"""Sliding windows: a protocol with more views of longer videos; and features through the one loop."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from muybridge.config import ClipSpec, specs_digest
from muybridge.data.cache import FrameCache
from muybridge.data.views import load_view
from muybridge.errors import ConfigError, MissingViewsError, VideoError, WeightsError
from muybridge.evaluate import evaluate, load_evaluation
from muybridge.models.contract import Card, VideoModel
from muybridge.models.registry import build
from muybridge.predict import Broken, VideoFeatures, recognize, run_features, run_views
from muybridge.protocol import Protocol, aggregate, get_protocol, plan_views
from muybridge.types import Sample, VideoInfo
from muybridge.video.encode import write_video

SPEC = ClipSpec(num_frames=4, frame_stride=2, resize=36, crop=32)  # 7 frames from the first to the last
PLAIN = ClipSpec(num_frames=16, resize=(128, 171), crop=112)


class TinyNet(VideoModel):
    """Sees each frame and each channel; BatchNorm and dropout tell training from testing."""

    def __init__(self) -> None:
        super().__init__(
            num_classes=3, feature_dim=6, default_specs=(SPEC,), stage_names=("conv", "bn"), dropout=0.5
        )
        self.conv = nn.Conv3d(3, 6, (4, 8, 8), stride=(1, 8, 8))
        self.bn = nn.BatchNorm3d(6)
        self.name = "tiny"

    def forward_features(self, *inputs: Tensor) -> Tensor:
        return self.bn(self.conv(inputs[0])).relu().mean((2, 3, 4))


def tiny() -> TinyNet:
    torch.manual_seed(0)
    model = TinyNet()
    model.card = Card(model="tiny", arguments={}, specs=(SPEC,), labels=("box", "clap", "wave"))
    return model


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of 40, 5 (less than a clip) and 23 frames."""
    folder = tmp_path_factory.mktemp("videos")
    paths = []
    for k, count in enumerate([40, 5, 23]):
        rng = np.random.default_rng(k)
        picture = np.kron(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8), np.ones((12, 12, 1), np.uint8))
        paths.append(folder / f"video_{k}.mp4")
        write_video(paths[-1], (np.roll(picture, 3 * t, axis=1)[:48, :64] for t in range(count)), fps=25)
    return paths


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("broken") / "text.mp4"
    path.write_text("no video\n" * 50)
    return path


def info(num_frames: int) -> VideoInfo:
    return VideoInfo(
        path="a.mp4", num_frames=num_frames, exact=True, fps=25, height=240, width=320,
        duration_seconds=num_frames / 25, codec="h264",
    )  # fmt: skip


def starts(num_frames: int, name: str = "sliding8", sample: Sample | None = None) -> list[int]:
    sample = sample or Sample(path=Path("a.mp4"))
    views = plan_views(info(num_frames), sample, (PLAIN,), get_protocol(name))
    for view in views:
        (indices,) = view.indices
        if num_frames >= 16:
            assert indices == tuple(range(indices[0], indices[0] + 16))
    return [view.indices[0][0] for view in views]


@pytest.mark.parametrize("num_frames", [16, 17, 23, 24, 25, 31, 32, 100, 250, 1799, 10_007])
@pytest.mark.parametrize("step", [1, 8, 16])
def test_clips_start_every_n_frames_as_long_as_they_lie_whole_in_the_video(num_frames: int, step: int):
    found = starts(num_frames, f"sliding{step}")
    assert found == list(range(0, num_frames - 15, step))
    assert len(found) == (num_frames - 16) // step + 1  # Sec. 3.3 of the C3D paper, with a step of 8


def test_a_video_shorter_than_a_clip_has_one():
    assert starts(15) == starts(1) == [0]


def test_windows_slide_inside_the_piece():
    piece = Sample(path=Path("a.mp4"), start_seconds=2, end_seconds=4)  # frames 50 .. 99
    assert starts(200, sample=piece) == [50, 58, 66, 74, 82]


def test_clips_with_a_stride_slide_by_frames_of_the_file():
    views = plan_views(info(20), Sample(path=Path("a.mp4")), (SPEC,), get_protocol("sliding4"))
    assert [view.indices[0] for view in views] == [(s, s + 2, s + 4, s + 6) for s in (0, 4, 8, 12)]
    assert [view.name for view in views] == [f"clip {n}/4, center" for n in (1, 2, 3, 4)]


def test_its_digest_is_of_the_step_and_another_than_that_of_any_number_of_clips():
    found = [
        get_protocol(name).digest()
        for name in ("sliding8", "sliding16", "center", "10x1", "sliding8/logit_mean")
    ]
    assert len(set(found)) == 5
    assert found[0] == Protocol(name="mine", step=8).digest() == "2ba09266"  # sha256sum of its canonical JSON
    assert (
        "a clip every 8 frames, from the first one on; of each the center"
        in get_protocol("sliding8").explain()
    )


def test_what_makes_no_sliding_protocol():
    with pytest.raises(ConfigError, match="no protocol 'sliding0'"):
        get_protocol("sliding0")
    with pytest.raises(ConfigError, match=r"give clips \(5\) or a step \(8\), not both"):
        Protocol(name="a", clips=5, step=8)
    spread = ClipSpec(num_frames=8, frame_stride=None)
    with pytest.raises(
        ConfigError, match="'sliding8' slides a clip through the video, but the network's clips are"
    ):
        plan_views(info(50), Sample(path=Path("a.mp4")), (spread,), get_protocol("sliding8"))
    with pytest.raises(
        ConfigError, match="'sliding8' looks at more views of a longer video, so it has no num"
    ):
        get_protocol("sliding8").num_views  # noqa: B018 -- the access is what is tested
    with pytest.raises(
        MissingViewsError, match=r"'sliding8' makes a score of one or more views, got .*\[0, 3\]"
    ):
        aggregate(np.zeros((0, 3)), get_protocol("sliding8"))


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (3, 1), (16, 2)])
def test_every_window_is_scored_whatever_the_length(videos: list[Path], batch_size: int, num_workers: int):
    model = tiny()
    results = list(run_views(model, videos, "sliding4", batch_size=batch_size, num_workers=num_workers))
    assert [len(one.logits) for one in results] == [(40 - 7) // 4 + 1, 1, (23 - 7) // 4 + 1]
    model.eval()
    for path, found in zip(videos, results, strict=True):
        with torch.no_grad():
            expected = torch.cat([model(load_view(path, view, SPEC)[None]) for view in found.views])
        np.testing.assert_allclose(found.logits, expected.numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.probabilities, expected.softmax(1).mean(0).numpy(), rtol=1e-5)


def test_broken_videos_keep_their_place(videos: list[Path], text_file: Path, tmp_path: Path):
    asked = [text_file, videos[0], tmp_path / "missing.mp4", videos[1]]
    for workers in (0, 2):
        found = list(run_views(tiny(), asked, "sliding4", num_workers=workers, skip_broken=True))
        assert [isinstance(one, Broken) for one in found] == [True, False, True, False]
    with pytest.raises(VideoError, match=r"text\.mp4"):
        list(run_views(tiny(), asked, "sliding4"))


def test_recognition_takes_it_from_files_bytes_and_caches(videos: list[Path], tmp_path: Path):
    model = tiny()
    expected = recognize(videos[0], model, protocol="sliding4")
    assert expected.num_views == 9
    for source in (videos[0].read_bytes(), io.BytesIO(videos[0].read_bytes())):
        assert recognize(source, model, protocol="sliding4").scores == expected.scores
    (cached,) = run_views(model, videos[:1], "sliding4", cache=FrameCache(tmp_path))
    assert cached.probabilities.max() == pytest.approx(expected.score, rel=1e-6)


def test_a_test_keeps_all_views_of_each_video(videos: list[Path], tmp_path: Path):
    samples = [Sample(path=path, labels=("box",)) for path in videos]
    found = evaluate(tiny(), samples, protocol="sliding4")
    assert [len(views) for views in found.logits] == [9, 1, 5]
    rows = np.concatenate(found.logits)
    assert found.clip_top1 == pytest.approx((rows.argmax(axis=1) == 0).mean())
    assert f"single views {found.clip_top1:.3f}" in found.text()
    found.save(tmp_path)
    again = load_evaluation(tmp_path)
    assert again.numbers() == found.numbers()
    for mine, theirs in zip(again.logits, found.logits, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_windows_over_untrimmed_video_through_the_loop(tmp_path: Path):
    """M-TWI of a TSN whose clips have three segments: it answers for the frame of each second by itself."""
    path, spec = tmp_path / "a.mp4", ClipSpec(num_frames=1, num_segments=3, resize=36, crop=32)
    rng = np.random.default_rng(0)
    write_video(path, iter(rng.integers(0, 256, (23, 48, 64, 3), dtype=np.uint8)), fps=4)
    torch.manual_seed(0)
    model = build("tsn", num_classes=3, width=1 / 32).eval()
    with torch.no_grad():
        model.head.fc.weight.normal_()
    model.card = Card(model="tsn", arguments={}, specs=(spec,), labels=("box", "clap", "wave"))
    alone = spec.model_copy(update={"num_segments": 1})
    (found,) = run_views(model, [path], "m_twi3")
    assert found.spec == specs_digest((alone,))
    assert [view.indices[0] for view in found.views[::3]] == [(0,), (4,), (8,), (12,), (16,), (20,)]
    with torch.no_grad():
        expected = torch.cat([model(load_view(path, view, alone)[None]) for view in found.views])
    np.testing.assert_allclose(found.logits, expected.numpy(), rtol=1e-4, atol=1e-5)
    assert recognize(path, model, protocol="m_twi3").score == pytest.approx(found.probabilities.max())
    tested = evaluate(model, [Sample(path=path, labels=("box",))], protocol="m_twi3")
    np.testing.assert_array_equal(tested.probabilities[0], found.probabilities)
    assert (tested.specs, tested.spec) == ((alone,), found.spec)


@pytest.mark.parametrize("layer", [None, "bn", "head"])
def test_features_are_those_of_each_view_by_itself(videos: list[Path], layer: str | None):
    model = tiny().train()
    results = list(run_features(model, videos, "sliding4", layer=layer, batch_size=4))
    assert model.training
    model.eval()
    for k, (path, found) in enumerate(zip(videos, results, strict=True)):
        assert isinstance(found, VideoFeatures)
        assert (found.index, found.sample.path) == (k, path)
        with torch.no_grad():
            expected = torch.cat(
                [model.embed(load_view(path, view, SPEC)[None], layer=layer) for view in found.views]
            )
        assert found.features.dtype == np.float32
        np.testing.assert_allclose(found.features, expected.numpy(), rtol=1e-5, atol=1e-6)
    assert repr(results[0]) == f"VideoFeatures(video_0.mp4: 9 views, {results[0].features.shape[1]} features)"


def test_features_of_any_protocol_and_of_broken_videos(videos: list[Path], text_file: Path):
    found = list(run_features(tiny(), [text_file, videos[0]], "2x3", skip_broken=True))
    assert isinstance(found[0], Broken)
    assert found[1].features.shape == (6, 6)


def test_features_that_cannot_be(videos: list[Path]):
    with pytest.raises(ConfigError, match=r"tiny has no layer 'cov'; did you mean 'conv'\?"):
        list(run_features(tiny(), videos, layer="cov"))
    model = tiny()
    with torch.no_grad():
        model.bn.bias[1] = float("inf")
    with pytest.raises(WeightsError, match=r"video_0\.mp4: the features of tiny are not all finite"):
        list(run_features(model, videos))
