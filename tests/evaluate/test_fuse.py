"""Late fusion of stored scores: means by hand, an SVM made here, and what does not go together."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from muybridge.config import ClipSpec
from muybridge.data.dataset import Broken
from muybridge.errors import ConfigError, DataError
from muybridge.evaluate import Evaluation, load_evaluation
from muybridge.evaluate.fuse import fuse
from muybridge.models.contract import Card
from muybridge.protocol import aggregate, get_protocol
from muybridge.types import Sample

LABELS = ("box", "clap", "wave")
RGB, FLOW = "two_stream_spatial", "two_stream_temporal"


def spec_of(network: str) -> ClipSpec:
    if network == RGB:
        return ClipSpec(num_frames=1)
    two = {"mean": (0.0, 0.0), "std": (1.0, 1.0), "flow_method": "tvl1", "flow_bound": 20.0}
    return ClipSpec(num_frames=10, modality="flow", **two)


def videos(count: int, *, first: int = 0, labels: Sequence[str] = LABELS) -> tuple[Sample, ...]:
    return tuple(
        Sample(path=Path(f"{n:03}.mp4"), labels=(labels[n % len(labels)],), group=f"person {n // 6}")
        for n in range(first, first + count)
    )


def scored(
    samples: tuple[Sample, ...], *, network: str, seed: int, views: str = "2x1", skill: float = 1.0
) -> Evaluation:
    """What a network of some skill says of videos: noise, and a bit more for the truth."""
    protocol, spec = get_protocol(views), spec_of(network)
    rng = np.random.default_rng(seed)
    num_views = 2 if protocol.slides else protocol.num_views
    logits = rng.normal(size=(len(samples), num_views, 3)).astype(np.float32)
    for row, sample in zip(logits, samples, strict=True):
        row[:, LABELS.index(sample.label)] += skill
    return Evaluation(
        protocol=protocol,
        specs=(spec,),
        labels=LABELS,
        samples=samples,
        probabilities=np.stack([aggregate(one, protocol) for one in logits]),
        logits=tuple(logits),
        card=Card(model=network, arguments={}, specs=(spec,), labels=LABELS),
    )


@pytest.fixture
def streams() -> tuple[Evaluation, Evaluation]:
    samples = videos(9)
    return scored(samples, network=RGB, seed=1), scored(samples, network=FLOW, seed=2)


def test_the_mean_of_probabilities(streams: tuple[Evaluation, Evaluation]) -> None:
    rgb, flow = streams
    found = fuse(streams)
    np.testing.assert_allclose(found.probabilities, (rgb.probabilities + flow.probabilities) / 2, rtol=1e-12)
    weighted = fuse(streams, weights=(1, 1.5))
    expected = (rgb.probabilities + 1.5 * flow.probabilities) / 2.5
    np.testing.assert_allclose(weighted.probabilities, expected, rtol=1e-12)
    np.testing.assert_allclose(np.exp(np.concatenate(weighted.logits)), expected, rtol=1e-5)
    assert weighted.fusion == f"fused: mean of the probabilities of 1 x {RGB}, 1.5 x {FLOW}"
    assert weighted.specs == rgb.specs + flow.specs
    assert (weighted.samples, weighted.labels, weighted.views) == (rgb.samples, rgb.labels, rgb.views)
    assert weighted.card is None


def test_a_network_of_weight_zero_says_nothing(streams: tuple[Evaluation, Evaluation]) -> None:
    for method in ("average", "logits"):
        alone = fuse(streams, method=method, weights=(0, 2))
        np.testing.assert_allclose(alone.probabilities, streams[1].probabilities, rtol=1e-9)


@pytest.mark.parametrize("views", ["2x1", "2x1/logit_mean"])
def test_the_mean_of_logits_comes_before_the_softmax(views: str) -> None:
    samples = videos(9)
    streams = [scored(samples, network=name, seed=seed, views=views) for seed, name in enumerate((RGB, FLOW))]
    found = fuse(streams, method="logits", weights=(1, 1.5))
    for row, rgb, flow in zip(found.probabilities, streams[0].logits, streams[1].logits, strict=True):
        mean = (rgb.astype(float) + 1.5 * flow.astype(float)) / 2.5
        if views.endswith("logit_mean"):
            powers = np.exp(mean.mean(axis=0))
            expected = powers / powers.sum()
        else:
            powers = np.exp(mean)
            expected = (powers / powers.sum(axis=1, keepdims=True)).mean(axis=0)
        np.testing.assert_allclose(row, expected, rtol=1e-6)
    assert found.fusion.startswith("fused: mean of the logits of 1 x")
    assert not np.allclose(found.probabilities, fuse(streams, weights=(1, 1.5)).probabilities, rtol=1e-3)


def test_the_last_window_of_the_longer_clips_is_not_there(streams: tuple[Evaluation, Evaluation]) -> None:
    """A second of which the frame lies in the video, but not the stack of flow."""
    rgb, flow = (replace(one, protocol=get_protocol("m_twi")) for one in streams)
    shorter = replace(flow, logits=(flow.logits[0][:1], *flow.logits[1:]))
    found = fuse([rgb, shorter], method="logits")
    mean = (rgb.logits[0][:1].astype(float) + flow.logits[0][:1].astype(float)) / 2
    np.testing.assert_allclose(found.probabilities[0], aggregate(mean, rgb.protocol), rtol=1e-9)
    assert fuse([rgb, shorter]).num_samples == 9


def test_the_svm_is_one_on_stacked_scores_of_length_one() -> None:
    train, test = videos(36), videos(18, first=36)
    networks = ((RGB, 1), (FLOW, 2))
    parts = [scored(test, network=name, seed=seed) for name, seed in networks]
    training = [scored(train, network=name, seed=10 + seed, skill=1.5) for name, seed in networks]
    found = fuse(parts, method="svm", train=training)

    def stacked(evaluations: Sequence[Evaluation]) -> np.ndarray:
        each = [one.probabilities for one in evaluations]
        return np.concatenate([one / np.sqrt((one**2).sum(axis=1, keepdims=True)) for one in each], axis=1)

    c = float(found.fusion.partition("; C ")[2].partition(",")[0])
    classes = [LABELS.index(sample.label) for sample in train]
    svm = LinearSVC(C=c, max_iter=20_000, random_state=0).fit(stacked(training), classes)
    expected = svm.decision_function(stacked(parts))
    np.testing.assert_allclose(np.concatenate(found.logits), expected, rtol=1e-3, atol=1e-3)
    assert found.probabilities.argmax(axis=1).tolist() == svm.predict(stacked(parts)).tolist()
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
    assert found.fusion.startswith(f"fused: linear SVM on the probabilities of {RGB}, {FLOW}; C ")
    assert found.fusion.endswith("right, on 36 training videos")
    assert "chosen by group cross-validation" in found.fusion


def test_it_is_an_evaluation_like_any_other(streams: tuple[Evaluation, Evaluation], tmp_path: Path) -> None:
    for name, one in zip(("rgb", "flow"), streams, strict=True):
        one.save(tmp_path / name)
    found = fuse([tmp_path / "rgb", str(tmp_path / "flow")], weights=(1, 2))
    text = found.text()
    assert f"9 videos of 2 groups, 3 classes; protocol 2x1 (views {found.views}, spec {found.spec})" in text
    assert text.endswith(f"fused: mean of the probabilities of 1 x {RGB}, 2 x {FLOW}")
    assert "single views" not in text
    found.save(tmp_path / "both")
    again = load_evaluation(tmp_path / "both")
    assert (again.text(), again.numbers()) == (text, found.numbers())
    assert again.numbers()["fusion"] == found.fusion
    assert streams[0].numbers()["fusion"] is None
    fused_again = fuse([tmp_path / "both", tmp_path / "rgb"])
    expected = (found.probabilities + streams[0].probabilities) / 2
    np.testing.assert_allclose(fused_again.probabilities, expected, rtol=1e-12)


def test_videos_that_one_network_did_not_see_are_named(streams: tuple[Evaluation, Evaluation]) -> None:
    rgb, flow = streams
    broken = replace(
        flow,
        samples=flow.samples[:7],
        probabilities=flow.probabilities[:7],
        logits=flow.logits[:7],
        broken=(Broken("007.mp4", "cut short", 7), Broken("008.mp4", "cut short", 8)),
    )
    with pytest.raises(
        DataError, match=r"not of the same videos .*; 2 only in number 1: 007\.mp4, 008\.mp4; test"
    ):
        fuse([rgb, broken])
    with pytest.raises(DataError, match=r"number 1 and number 3, .*; 2 only in number 1: 007"):
        fuse([rgb, flow, broken])
    relabelled = replace(flow, samples=(replace(flow.samples[0], labels=("clap",)), *flow.samples[1:]))
    with pytest.raises(DataError, match=r"1 with other labels: 000\.mp4"):
        fuse([rgb, relabelled])
    other = scored(rgb.samples, network=FLOW, seed=2, views="3x1")
    with pytest.raises(DataError, match=r"looked at different views, 2x1 .* and 3x1"):
        fuse([rgb, other])
    with pytest.raises(DataError, match="have different labels, the same ones in another order"):
        fuse([rgb, replace(flow, labels=LABELS[::-1])])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "vote"}, "no fusion 'vote'; there are average, logits, svm"),
        ({"weights": (1, 2, 3)}, "weights must be 2 numbers, one a network, none below 0 .* got 1, 2, 3"),
        ({"weights": (1, -1)}, "none below 0 and one above, got 1, -1"),
        ({"weights": (0, 0)}, "none below 0 and one above, got 0, 0"),
        ({"method": "svm"}, "scores of each of the 2 networks on them, in the same order, got 0"),
        ({"method": "svm", "weights": (1, 1)}, "learns what each network counts: leave the weights out"),
    ],
)
def test_options_that_do_not_go_together(
    streams: tuple[Evaluation, Evaluation], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        fuse(streams, **options)


def test_one_network_is_not_fused_and_means_are_not_trained(streams: tuple[Evaluation, Evaluation]) -> None:
    with pytest.raises(ConfigError, match="takes the scores of two networks at least, got 1"):
        fuse(streams[:1])
    with pytest.raises(ConfigError, match="are for the fusion 'svm', not for 'average': leave them out"):
        fuse(streams, train=streams)


def test_training_scores_that_do_not_go_with_the_others() -> None:
    train, test = videos(12), videos(6, first=12)
    parts = [scored(test, network=name, seed=1) for name in (RGB, FLOW)]
    training = [scored(train, network=name, seed=2) for name in (RGB, FLOW)]
    with pytest.raises(
        DataError, match="number 1 and number 1 differ in spec: give, of each network in turn"
    ):
        fuse(parts, method="svm", train=training[::-1])
    another = replace(training[0], card=training[0].card.model_copy(update={"metrics": {"epoch": 3.0}}))
    with pytest.raises(DataError, match="are of different networks: give the training scores in the order"):
        fuse(parts, method="svm", train=[another, training[1]])
    with pytest.raises(DataError, match=r"012\.mp4 is in the list twice: each video may count once"):
        fuse(parts, method="svm", train=parts)
    waves = [scored(videos(12, labels=("box", "clap")), network=name, seed=3) for name in (RGB, FLOW)]
    with pytest.raises(DataError, match="wave"):
        fuse(parts, method="svm", train=waves)
