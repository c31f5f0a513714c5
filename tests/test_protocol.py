import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from muybridge.config import ClipSpec
from muybridge.errors import ConfigError, MissingViewsError, VideoTooShortError
from muybridge.protocol import PROTOCOLS, Protocol, aggregate, get_protocol, plan_views, view_probabilities
from muybridge.types import Box, Sample, Size, VideoInfo

SPEC = ClipSpec(num_frames=4, frame_stride=2, resize=128, crop=112)


def info(*, num_frames: int = 100, height: int = 240, width: int = 320) -> VideoInfo:
    return VideoInfo(
        path="a.mp4",
        num_frames=num_frames,
        exact=True,
        fps=25,
        height=height,
        width=width,
        duration_seconds=num_frames / 25,
        codec="h264",
    )


@pytest.fixture
def sample(tmp_path) -> Sample:
    return Sample(path=tmp_path / "a.mp4", labels=("wave",))


def test_the_named_protocols():
    assert {name: (p.clips, p.crops, p.aggregation, p.step_seconds) for name, p in PROTOCOLS.items()} == {
        "center": (1, "center", "softmax_mean", None),
        "10x1": (10, "center", "softmax_mean", None),
        "10x3": (10, "three", "softmax_mean", None),
        "m_twi": (1, "center", "m_twi", 1),
    }
    assert [PROTOCOLS[name].num_views for name in ("center", "10x1", "10x3")] == [1, 10, 30]


def test_digests_do_not_change_with_versions():
    # Numbers written down long ago must stay comparable: a change here needs an entry in the CHANGELOG.
    found = {
        name: get_protocol(name).digest()
        for name in ("center", "10x1", "10x3", "25x10", "5x5/logit_mean", "m_twi")
    }
    assert found == {
        "center": "98727d87",
        "10x1": "a6fc1d1a",
        "10x3": "8874ad84",
        "25x10": "d773775b",
        "5x5/logit_mean": "71fcaf7c",
        "m_twi": "7082768f",
    }


def test_the_digest_is_of_the_views_and_not_of_the_name():
    base = Protocol(name="a", clips=5, crops="three")
    assert base.digest() == Protocol(name="b", clips=5, crops="three").digest()
    others = [
        Protocol(name="a", clips=6, crops="three"),
        Protocol(name="a", clips=5, crops="five"),
        Protocol(name="a", clips=5, crops="three", aggregation="logit_mean"),
        Protocol(name="a", clips=5, crops="three", aggregation="sigmoid_mean"),
    ]
    assert len({base.digest(), *(other.digest() for other in others)}) == 5


@pytest.mark.parametrize(
    ("name", "clips", "crops", "aggregation"),
    [
        ("5x1", 5, "center", "softmax_mean"),
        ("25x10", 25, "ten", "softmax_mean"),
        ("2x5", 2, "five", "softmax_mean"),
        ("1x3", 1, "three", "softmax_mean"),
        ("10x3/logit_mean", 10, "three", "logit_mean"),
        ("center/sigmoid_mean", 1, "center", "sigmoid_mean"),
    ],
)
def test_names_of_any_number_of_views(name, clips, crops, aggregation):
    assert get_protocol(name) == Protocol(name=name, clips=clips, crops=crops, aggregation=aggregation)


def test_a_protocol_is_its_own_name():
    assert get_protocol(PROTOCOLS["10x3"]) is PROTOCOLS["10x3"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("centre", r"no protocol 'centre'; did you mean 'center'\?"),
        ("10x", r"no protocol '10x'; did you mean '10x1'\?|did you mean '10x3'\?"),
        ("full", r"no protocol 'full'; center, 10x1, 10x3, m_twi, or NxM: N clips of M crops, or slid"),
        ("0x1", r"no protocol '0x1'"),
        (
            "10x2",
            r"protocol '10x2': no 2 crops of a clip; there are 1 \(center\), 3 \(three\), 5 \(five\), 10",
        ),
        (
            "10x1/mean",
            r"protocol '10x1/mean': no aggregation 'mean'; there are softmax_mean, logit_mean, sig",
        ),
    ],
)
def test_unknown_protocols_name_their_neighbour(name, message):
    with pytest.raises(ConfigError, match=message):
        get_protocol(name)


def test_ten_clips_of_three_crops(sample):
    views = plan_views(info(), sample, (SPEC,), get_protocol("10x3"))
    assert len(views) == 30
    assert [view.name for view in views[:4]] == [
        "clip 1/10, left",
        "clip 1/10, center",
        "clip 1/10, right",
        "clip 2/10, left",
    ]
    assert {view.size for view in views} == {Size(128, 170)}
    # 128 - 112 = 16 free rows, 170 - 112 = 58 free columns
    assert [view.box for view in views[:3]] == [Box(8, x, 112, 112) for x in (0, 29, 58)]
    # Clips of 7 frames start at 0 .. 93: floor(94 i / 9), the last at 93.
    assert [view.indices[0][0] for view in views[::3]] == [0, 10, 20, 31, 41, 52, 62, 73, 83, 93]
    assert views[-1].indices == ((93, 95, 97, 99),)


def test_an_upright_video_has_its_three_crops_above_each_other(sample):
    views = plan_views(info(height=320, width=240), sample, (SPEC,), get_protocol("1x3"))
    assert [(view.name, view.box.top) for view in views] == [
        ("clip 1/1, top", 0),
        ("clip 1/1, center", 29),
        ("clip 1/1, bottom", 58),
    ]


def test_ten_crops_are_five_and_their_mirror_images(sample):
    views = plan_views(info(), sample, (SPEC,), get_protocol("1x10"))
    assert [view.flip for view in views] == [False] * 5 + [True] * 5
    assert [view.box for view in views[:5]] == [view.box for view in views[5:]]
    assert len({view.box for view in views}) == 5
    assert views[0].name == "clip 1/1, top left"
    assert views[9].name == "clip 1/1, center, mirrored"


def test_views_lie_inside_the_piece(tmp_path):
    piece = Sample(path=tmp_path / "a.mp4", start_seconds=1, end_seconds=2)
    views = plan_views(info(), piece, (SPEC,), get_protocol("10x1"))
    assert {view.indices[0][0] for view in views} <= set(range(25, 44))
    assert (views[0].indices[0][0], views[-1].indices[0][-1]) == (25, 49)


def test_a_short_video_still_has_all_views(sample):
    views = plan_views(info(num_frames=3), sample, (SPEC,), get_protocol("10x3"))
    assert len(views) == 30
    assert {view.indices for view in views} == {((0, 2, 1, 0),)}  # looped


def test_too_short_is_an_error_where_the_spec_says_so(sample):
    strict = ClipSpec(num_frames=4, frame_stride=2, resize=128, crop=112, short_policy="error")
    with pytest.raises(VideoTooShortError, match="needs 7 frames, found 3"):
        plan_views(info(num_frames=3), sample, (strict,), get_protocol("center"))


def test_modalities_share_instant_and_crop(sample):
    specs = (SPEC, ClipSpec(num_frames=1, resize=128, crop=112, modality="rgb_diff"))
    for view in plan_views(info(), sample, specs, get_protocol("5x3")):
        assert len(view.indices) == 2
        assert view.indices[0][0] == view.indices[1][0]


def test_mean_of_softmax_by_hand():
    # softmax([0, ln 3]) = [1/4, 3/4]; softmax([ln 4, 0]) = [4/5, 1/5]
    logits = np.log([[1.0, 3.0], [4.0, 1.0]])
    np.testing.assert_allclose(aggregate(logits, get_protocol("2x1")), [0.525, 0.475], rtol=1e-14)


def test_softmax_of_the_mean_by_hand():
    # mean logits: [ln 2, ln sqrt 3]
    logits = np.log([[1.0, 3.0], [4.0, 1.0]])
    expected = np.array([2, np.sqrt(3)]) / (2 + np.sqrt(3))
    np.testing.assert_allclose(aggregate(logits, get_protocol("2x1/logit_mean")), expected, rtol=1e-14)


def test_independent_probabilities_by_hand():
    # 1 / (1 + exp(-ln 3)) = 3/4
    logits = np.log([[1.0, 3.0], [3.0, 1.0]])
    found = aggregate(logits, get_protocol("2x1/sigmoid_mean"))
    np.testing.assert_allclose(found, [0.625, 0.625], rtol=1e-14)


@pytest.mark.parametrize("aggregation", ["softmax_mean", "logit_mean", "sigmoid_mean"])
def test_huge_logits_do_not_overflow(aggregation):
    found = aggregate([[1e4, 0.0, -1e4]], Protocol(name="a", aggregation=aggregation))
    np.testing.assert_allclose(found, [1, 0.5 if aggregation == "sigmoid_mean" else 0, 0], atol=1e-300)


@pytest.mark.parametrize("aggregation", ["softmax_mean", "logit_mean"])
def test_the_sum_over_many_views_is_exact(aggregation):
    logits = np.random.default_rng(0).normal(size=(250, 101)).astype(np.float32)
    protocol = Protocol(name="25x10", clips=25, crops="ten", aggregation=aggregation)
    found = aggregate(torch.from_numpy(logits), protocol)
    wide = torch.from_numpy(logits.astype(np.float64))
    expected = wide.softmax(1).mean(0) if aggregation == "softmax_mean" else wide.mean(0).softmax(0)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-12)
    assert abs(found.sum() - 1) < 1e-12


def test_the_order_of_views_does_not_matter():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(30, 7))
    shuffled = rng.permutation(logits, axis=0)
    protocol = get_protocol("10x3")
    np.testing.assert_allclose(aggregate(shuffled, protocol), aggregate(logits, protocol), rtol=1e-13)


@pytest.mark.parametrize("num_views", [0, 29, 31])
def test_a_missing_view_is_an_error_and_never_a_zero(num_views):
    with pytest.raises(
        MissingViewsError, match=rf"'10x3' makes a score of 30 views, got .*\[{num_views}, 4\]"
    ):
        aggregate(np.zeros((num_views, 4)), get_protocol("10x3"))


def test_logits_without_a_view_axis_are_refused():
    with pytest.raises(MissingViewsError, match=r"1 views, got logits of shape \[4\]"):
        aggregate(np.zeros(4), get_protocol("center"))


def m_twi_by_the_paper(logits: list[list[list[float]]]) -> list[float]:
    """TSN's windows over untrimmed video, of [second][crop][class]: in Python's floats, one after another."""
    seconds = [[max(of_class) for of_class in zip(*crops, strict=True)] for crops in logits]
    totals = []
    for of_class in zip(*seconds, strict=True):
        of_lengths = []
        for length in (1, 2, 4, 8, 16):
            apart = {1: 1, 2: 2, 4: 4, 8: 7, 16: 13}[length]  # 0.8 l, rounded up
            windows = [max(of_class[start : start + length]) for start in range(0, len(of_class), apart)]
            best = sorted(windows, reverse=True)[: max(15, -(-len(windows) // 4))]
            of_lengths.append(sum(best) / len(best))
        totals.append(sum(of_lengths) / 5)
    powers = [math.exp(total) for total in totals]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize(("name", "crops"), [("m_twi", 1), ("m_twi3", 3), ("m_twi10", 10)])
@pytest.mark.parametrize("seconds", [1, 14, 61, 150])
def test_windows_over_untrimmed_video_in_loops(name, crops, seconds):
    logits = np.random.default_rng(seconds).normal(size=(seconds, crops, 5))
    found = aggregate(logits.reshape(-1, 5), get_protocol(name))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, m_twi_by_the_paper(logits.tolist()), rtol=1e-12)


def test_untrimmed_video_has_a_clip_a_second(sample):
    one = ClipSpec(num_frames=1, resize=128, crop=112)
    views = plan_views(info(num_frames=260), sample, (one,), get_protocol("m_twi3"))  # 10.4 s at 25 a second
    assert len(views) == 11 * 3
    assert [view.indices[0][0] for view in views[::3]] == list(range(0, 251, 25))
    assert [view.name for view in views[3:5]] == ["clip 2/11, left", "clip 2/11, center"]
    ntsc = replace(info(num_frames=3597), fps=29.97)  # two minutes: rounded to 30 frames they would be 119.9
    places = [view.indices[0][0] for view in plan_views(ntsc, sample, (one,), get_protocol("m_twi"))]
    assert places == [round(second * 29.97) for second in range(120)]
    assert len(plan_views(info(num_frames=3), sample, (SPEC,), get_protocol("m_twi"))) == 1


def test_untrimmed_video_is_seen_in_lone_snippets(sample):
    segments = (ClipSpec(num_frames=5, num_segments=3, resize=128, crop=112, modality="rgb_diff"),)
    assert get_protocol("m_twi").seen(segments) == (segments[0].model_copy(update={"num_segments": 1}),)
    assert get_protocol("25x10").seen(segments) == segments
    views = plan_views(info(), sample, get_protocol("m_twi").seen(segments), get_protocol("m_twi"))
    assert [view.indices[0] for view in views] == [tuple(range(s, s + 6)) for s in (0, 25, 50, 75)]


def test_what_makes_no_protocol_of_seconds():
    with pytest.raises(
        ConfigError, match='"m_twi" takes one clip a second: name the protocol m_twi or m_twi10'
    ):
        get_protocol("10x3/m_twi")
    with pytest.raises(ConfigError, match=r"give clips \(5\) or a step \(2 s\), not both"):
        Protocol(name="a", clips=5, step_seconds=2)
    with pytest.raises(ConfigError, match=r"give step \(8\) or step_seconds \(0\.5\), not both"):
        Protocol(name="a", step=8, step_seconds=0.5)
    with pytest.raises(ConfigError, match=r"'m_twi' looks at more views of a longer video.*take NxM"):
        get_protocol("m_twi").num_views  # noqa: B018 -- the access is what is tested
    with pytest.raises(
        MissingViewsError, match=r"'m_twi3' makes a score of one or more views, got .*\[4, 2\]"
    ):
        aggregate(np.zeros((4, 2)), get_protocol("m_twi3"))


def test_probabilities_of_each_view():
    found = view_probabilities(np.log([[1.0, 3.0], [4.0, 1.0]]), get_protocol("2x1"))
    np.testing.assert_allclose(found, [[0.25, 0.75], [0.8, 0.2]], rtol=1e-14)


def test_explain_says_what_it_costs():
    assert "1 view a video: the cheapest there is" in get_protocol("center").explain()
    assert "a clip every second, from the first frame on" in get_protocol("m_twi").explain()
    assert "More views of a longer video" in get_protocol("m_twi").explain()
    assert "a clip every 0.5 seconds" in Protocol(name="a", step_seconds=0.5).explain()
    text = get_protocol("25x10/logit_mean").explain()
    assert "25 clips" in text
    assert "mirror images" in text
    assert "softmax of the views' mean logits" in text
    assert '250 views a video: 250 times the work of "center"' in text
    assert get_protocol("25x10/logit_mean").digest() in text
