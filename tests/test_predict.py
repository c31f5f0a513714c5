import gc
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor, nn

import muybridge
from muybridge.config import ClipSpec
from muybridge.data.cache import FrameCache
from muybridge.data.views import load_view
from muybridge.errors import ConfigError, VideoError, WeightsError
from muybridge.models.contract import Card, VideoModel
from muybridge.predict import Broken, VideoScores, recognize, recognize_each, run_views, to_prediction
from muybridge.predict.loading import Job
from muybridge.protocol import get_protocol, plan_views
from muybridge.types import Sample
from muybridge.video.decode import VideoReader
from muybridge.video.encode import write_video

SPEC = ClipSpec(num_frames=4, frame_stride=2, resize=36, crop=32)
LABELS = ("box", "clap", "wave")
SHAPE = (3, 4, 32, 32)  # of one view


class TinyNet(VideoModel):
    """Small, but each frame and each channel counts, and BatchNorm tells training from testing."""

    def __init__(self) -> None:
        super().__init__(
            num_classes=3, feature_dim=6, default_specs=(SPEC,), stage_names=("conv", "bn"), dropout=0.5
        )
        self.conv = nn.Conv3d(3, 6, (4, 8, 8), stride=(1, 8, 8))
        self.bn = nn.BatchNorm3d(6)
        self.name = "tiny"

    def forward_features(self, *inputs: Tensor) -> Tensor:
        return self.bn(self.conv(inputs[0])).relu().mean((2, 3, 4))


class TwoModalities(TinyNet):
    modalities = ("rgb", "rgb_diff")

    def forward_features(self, *inputs: Tensor) -> Tensor:
        rgb, diff = inputs
        return super().forward_features(rgb + diff.abs().sum((1, 2, 3, 4), keepdim=True))


def tiny(kind: type[TinyNet] = TinyNet, *, card: bool = True) -> TinyNet:
    torch.manual_seed(0)
    model = kind()
    with torch.no_grad():
        model.head.fc.weight.normal_()
    if card:
        model.card = Card(model="tiny", arguments={}, specs=(SPEC,), labels=LABELS)
    return model


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[Path]:
    """Three videos of different lengths and shapes, of noise that moves."""
    folder = tmp_path_factory.mktemp("videos")
    paths = []
    for k, (count, height, width) in enumerate([(40, 48, 64), (9, 64, 48), (25, 48, 80)]):
        rng = np.random.default_rng(k)
        picture = np.kron(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8), np.ones((12, 12, 1), np.uint8))
        frames = (np.roll(picture, 3 * t, axis=1)[:height, :width] for t in range(count))
        paths.append(folder / f"video_{k}.mp4")
        write_video(paths[-1], frames, fps=25)
    return paths


@pytest.fixture(scope="module")
def not_a_video(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("broken") / "text.mp4"
    path.write_text("this is not a video\n" * 50)
    return path


def logits_of(results: list[VideoScores | Broken]) -> list[np.ndarray]:
    return [one.logits for one in results if isinstance(one, VideoScores)]


@pytest.mark.parametrize("name", ["center", "10x3", "2x10"])
def test_logits_are_those_of_each_view_by_itself(videos, name):
    model, protocol = tiny(), get_protocol(name)
    results = list(run_views(model, videos, protocol, batch_size=7))
    assert [one.index for one in results] == [0, 1, 2]
    model.eval()
    for path, found in zip(videos, results, strict=True):
        with VideoReader(path) as reader:
            views = plan_views(reader.info, Sample(path=path), (SPEC,), protocol)
        with torch.no_grad():
            expected = torch.cat([model(load_view(path, view, SPEC)[None]) for view in views])
        assert found.sample.path == path
        assert found.views == views
        assert found.logits.dtype == np.float32
        np.testing.assert_allclose(found.logits, expected.numpy(), rtol=1e-5, atol=1e-6)
    assert np.ptp(results[0].logits, axis=0).max() > 1e-3 or name == "center"  # views do differ


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (1, 1), (4, 3), (64, 0), (64, 2)])
def test_scores_do_not_depend_on_batches_or_threads(videos, batch_size, num_workers):
    reference = logits_of(list(run_views(tiny(), videos, "5x3")))
    found = logits_of(list(run_views(tiny(), videos, "5x3", batch_size=batch_size, num_workers=num_workers)))
    for one, other in zip(found, reference, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_broken_video_raises_with_its_name(videos, not_a_video):
    with pytest.raises(VideoError, match=r"text\.mp4"):
        list(run_views(tiny(), [videos[0], not_a_video, videos[1]]))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_broken_videos_are_listed_in_their_place(videos, not_a_video, tmp_path, num_workers):
    asked = [not_a_video, videos[0], tmp_path / "missing.mp4", tmp_path, videos[1], not_a_video]
    found = list(run_views(tiny(), asked, "5x3", batch_size=4, num_workers=num_workers, skip_broken=True))
    assert [one.index for one in found] == list(range(6))
    assert [isinstance(one, Broken) for one in found] == [True, False, True, True, False, True]
    assert found[0].path == str(not_a_video)
    assert "missing.mp4" in found[2].reason
    whole = logits_of(list(run_views(tiny(), [videos[0], videos[1]], "5x3")))
    for one, other in zip(logits_of(found), whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_video_that_breaks_in_the_middle_has_no_score(videos, tmp_path):
    data = videos[0].read_bytes()
    damaged = tmp_path / "damaged.mp4"
    start = data.index(b"mdat") + 4
    third = (len(data) - start) // 3
    damaged.write_bytes(data[: start + third] + b"\xff" * third + data[start + 2 * third :])
    found = list(run_views(tiny(), [damaged, videos[1]], "10x3", batch_size=3, skip_broken=True))
    assert isinstance(found[0], Broken)
    assert "damaged.mp4" in found[0].reason
    assert isinstance(found[1], VideoScores)


@pytest.mark.real
def test_real_broken_files(wild):
    names = ["corrupted.mp4", "empty_ImgVideo.mp4", "v_Biking_g06_c03.avi"]
    found = list(run_views(tiny(), [wild / name for name in names], "5x1", skip_broken=True))
    assert isinstance(found[1], Broken)
    assert "empty_ImgVideo.mp4" in found[1].reason
    assert isinstance(found[2], VideoScores)


def test_the_network_is_in_eval_mode_and_then_as_it_was(videos):
    model = tiny().train()
    model.bn.eval()  # frozen
    mean = model.bn.running_mean.clone()
    scores = run_views(model, videos, "center", batch_size=1)
    next(scores)
    assert not any(module.training for module in model.modules())
    assert not torch.is_inference_mode_enabled()  # the caller goes on in its own mode
    scores.close()
    assert model.training
    assert model.head.dropout.training
    assert not model.bn.training
    first, second = (logits_of(list(run_views(model, videos))) for _ in range(2))
    assert all((one == other).all() for one, other in zip(first, second, strict=True))  # no dropout
    assert (model.bn.running_mean == mean).all()


def test_memory_does_not_grow_with_the_number_of_views(videos):
    alive = []

    class Watching(TinyNet):
        def forward_features(self, *inputs: Tensor) -> Tensor:
            tensors = [one for one in gc.get_objects() if type(one) is Tensor and one.shape == SHAPE]
            alive.append(len(tensors) + len(inputs[0]))
            return super().forward_features(*inputs)

    (result,) = run_views(tiny(Watching), videos[:1], "16x3", batch_size=6, num_workers=2)
    assert result.logits.shape == (48, 3)
    assert len(alive) == 8
    assert max(alive) <= 4 * 6  # a batch and its stack, a batch that is decoded ahead, the clips in hand


@pytest.mark.parametrize("num_workers", [0, 2])
def test_files_and_threads_are_closed(videos, num_workers):
    process = psutil.Process()
    before = process.num_fds()
    list(run_views(tiny(), videos, "5x3", num_workers=num_workers))
    stopped = run_views(tiny(), videos * 3, "10x1", batch_size=2, num_workers=num_workers)
    next(stopped)
    stopped.close()
    assert process.num_fds() == before
    assert not [one for one in threading.enumerate() if one.name.startswith("muybridge-decode")]


def test_few_files_are_open_at_a_time(videos):
    process = psutil.Process()
    before = process.num_fds()
    opened = [process.num_fds() - before for _ in run_views(tiny(), videos * 6, "2x3", batch_size=6)]
    assert len(opened) == 18
    assert max(opened) <= 4


def test_the_crops_of_a_clip_are_decoded_once(videos):
    decoded = []
    for name in ("2x1", "2x10"):
        job = Job(0, videos[0], get_protocol(name), (SPEC,), None, None)
        assert len(job.load(0)) == job.protocol.num_crops
        with job._reader() as reader:
            assert reader is not None
            decoded.append(reader.num_decoded)
        job.close()
    assert decoded[0] == decoded[1] > 0


def test_a_cache_changes_nothing(videos, tmp_path):
    samples = [Sample(path=path) for path in videos]
    plain = logits_of(list(run_views(tiny(), samples, "5x3")))
    for _ in range(2):  # it is made, then used
        cached = list(run_views(tiny(), samples, "5x3", cache=FrameCache(tmp_path), num_workers=2))
        assert all((one == other).all() for one, other in zip(logits_of(cached), plain, strict=True))
    assert list(tmp_path.glob("*.npy"))


def test_progress_counts_videos(videos, not_a_video):
    calls = []
    asked = [videos[0], not_a_video, videos[1]]
    list(run_views(tiny(), asked, skip_broken=True, on_progress=lambda *call: calls.append(call)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_nothing_asked_for_is_nothing_done():
    assert list(run_views(tiny(), [])) == []


def test_two_modalities(videos):
    model = tiny(TwoModalities, card=False)
    specs = (SPEC, ClipSpec(num_frames=2, resize=36, crop=32, modality="rgb_diff"))
    protocol = get_protocol("2x3")
    (found,) = run_views(model, videos[:1], protocol, specs=specs)
    model.eval()
    with torch.no_grad():
        expected = [
            model(*(tensor[None] for tensor in load_view(videos[0], view, specs))) for view in found.views
        ]
    np.testing.assert_allclose(found.logits, torch.cat(expected).numpy(), rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError, match="tiny looks at rgb, rgb_diff: give one spec for each, got 1"):
        run_views(model, videos)


def test_scores_that_are_not_finite_name_the_video(videos):
    model = tiny()
    with torch.no_grad():
        model.head.fc.bias[1] = float("nan")
    with pytest.raises(WeightsError, match=r"video_0\.mp4: the scores of tiny are not all finite"):
        list(run_views(model, videos))


def test_bad_numbers_are_refused(videos):
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        run_views(tiny(), videos, batch_size=0)
    with pytest.raises(ConfigError, match="no protocol '10y3'"):
        run_views(tiny(), videos, "10y3")


def test_one_video_gives_one_prediction_whatever_it_comes_as(videos):
    model = tiny()
    path = videos[0]
    with VideoReader(path) as reader:
        frames = reader.read(range(reader.info.num_frames))
    expected = recognize(path, model, protocol="2x3")
    assert expected.num_views == 6
    assert expected.protocol == "2x3"
    assert expected.views == get_protocol("2x3").digest()
    assert expected.path == str(path)
    assert sum(expected.scores) == pytest.approx(1)
    assert sorted(expected.labels) == sorted(LABELS)
    assert list(expected.scores) == sorted(expected.scores, reverse=True)
    with path.open("rb") as file:
        sources = [str(path), path.read_bytes(), file, Sample(path=path)]
        for source, name in zip(sources, [str(path), "<bytes>", "<file object>", str(path)], strict=True):
            found = recognize(source, model, protocol="2x3")
            assert (found.labels, found.scores, found.path) == (expected.labels, expected.scores, name)
    decoded = recognize(frames, model, protocol="2x3")  # resized from RGB and not from the file's YUV
    assert decoded.path == "<arrays>"
    assert decoded.scores == pytest.approx(expected.scores, abs=0.02)


def test_many_videos_give_a_list(videos, not_a_video):
    model = tiny()
    one, other = recognize([videos[0], videos[2]], model)
    assert one == recognize(videos[0], model)
    assert other == recognize(videos[2], model)
    assert recognize([], model) == []
    mixed = recognize([not_a_video, videos[0]], model, skip_broken=True)
    assert [type(one).__name__ for one in mixed] == ["Broken", "Prediction"]
    with pytest.raises(VideoError, match=r"text\.mp4"):
        recognize(not_a_video, model, skip_broken=True)  # nothing else to answer


def test_answers_come_one_by_one(videos):
    answers = recognize_each([videos[1], videos[0]], tiny(), batch_size=1)
    assert next(answers) == recognize(videos[1], tiny())
    answers.close()


def test_top_labels_and_ties(videos):
    model = tiny()
    assert recognize(videos[0], model, top=1).labels == recognize(videos[0], model).labels[:1]
    with torch.no_grad():
        model.head.fc.weight.zero_()
    assert recognize(videos[0], model).labels == LABELS  # equal scores: the order of the labels
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        recognize(videos[0], model, top=0)


def test_a_piece_is_not_the_whole(videos):
    piece = Sample(path=videos[0], start_seconds=0.8)
    (scores,) = run_views(tiny(), [piece])
    assert min(scores.views[0].indices[0]) >= 20
    assert to_prediction(scores, LABELS).scores != recognize(videos[0], tiny()).scores


def test_a_network_must_say_what_its_outputs_mean(videos):
    with pytest.raises(WeightsError, match="this tiny does not say what its outputs mean: it was built"):
        recognize(videos[0], tiny(card=False))
    model = tiny()
    model.card = Card(model="tiny", arguments={}, specs=(SPEC,), labels=("one", "two"))
    with pytest.raises(WeightsError, match="names 2 labels, but it has 3 outputs"):
        recognize(videos[0], model)


def test_a_checkpoint_needs_nothing_else(videos, tmp_path):
    from muybridge.weights.store import build, save

    model = build("r2plus1d_10", num_classes=3, width=1 / 16)
    save(tmp_path / "model.safetensors", model, labels=LABELS, specs=(SPEC,))
    with_card = muybridge.load(tmp_path)
    expected = recognize(videos[0], with_card, protocol="2x1")
    assert recognize(videos[0], tmp_path, protocol="2x1") == expected  # a run folder
    assert recognize(str(videos[0]), str(tmp_path / "model.safetensors"), protocol="2x1") == expected
    with pytest.raises(WeightsError, match="there is no file"):
        recognize(videos[0], tmp_path / "other.safetensors")


def test_recognition_loads_no_library_that_it_does_not_need(videos, tmp_path):
    """In a fresh process: these cost seconds at each start, and the server does not need them."""
    from muybridge.weights.store import build, save

    save(
        tmp_path / "a.safetensors", build("r3d_10", num_classes=3, width=1 / 16), labels=LABELS, specs=(SPEC,)
    )
    code = (
        "import sys, muybridge\n"
        "print(muybridge.recognize(sys.argv[1], sys.argv[2], protocol='2x3').label)\n"
        "unwanted = 'torchvision torchmetrics sklearn accelerate scipy matplotlib pyarrow'.split()\n"
        "print([name for name in unwanted if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(videos[0]), str(tmp_path / "a.safetensors")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    label, loaded = done.stdout.splitlines()
    assert label in LABELS
    assert loaded == "[]"
