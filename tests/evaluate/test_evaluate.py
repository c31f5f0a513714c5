import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from muybridge.config import ClipSpec
from muybridge.data.dataset import Broken
from muybridge.errors import DataError, StorageError, VideoError, WeightsError
from muybridge.evaluate import Evaluation, compare_ready, evaluate, load_evaluation, pool
from muybridge.models.contract import Card, VideoModel
from muybridge.protocol import aggregate, get_protocol
from muybridge.types import Sample
from muybridge.video.encode import write_video

LABELS = ("blue", "green", "red")
SPEC = ClipSpec(num_frames=2, resize=16, crop=16, mean=(0, 0, 0), std=(1, 1, 1))


class ColorNet(VideoModel):
    """Knows the colour of a video: what it answers can be told without it."""

    def __init__(self) -> None:
        super().__init__(num_classes=3, feature_dim=3, default_specs=(SPEC,), stage_names=())
        self.name = "color"
        with torch.no_grad():
            self.head.fc.weight.copy_(4 * torch.eye(3).flip(0))  # red comes last among the labels

    def forward_features(self, *inputs: Tensor) -> Tensor:
        return inputs[0].mean((2, 3, 4))


def color_net() -> ColorNet:
    model = ColorNet()
    model.card = Card(model="color", arguments={}, specs=(SPEC,), labels=LABELS, version="0.1.0")
    return model


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[Sample]:
    """Nine videos of one colour each; the last one of each class says another class than it shows."""
    folder = tmp_path_factory.mktemp("colors")
    found = []
    for k, label in enumerate(LABELS):
        for n in range(3):
            path = folder / f"{label}_{n}.mp4"
            color = np.zeros(3, np.uint8)
            color[2 - k] = 200
            write_video(path, (np.broadcast_to(color, (16, 24, 3)) for _ in range(6)), fps=25)
            truth = label if n < 2 else LABELS[(k + 1) % 3]
            found.append(Sample(path=path, labels=(truth,), group=f"person {n}", split="test"))
    return found


@pytest.fixture(scope="module")
def evaluation(samples) -> Evaluation:
    return evaluate(color_net(), samples, protocol="2x3")


def made_up(
    scores: list[list[float]], truth: list[tuple[str, ...]], groups: list[str] | None = None
) -> Evaluation:
    """An evaluation of given probabilities under the protocol "center"."""
    groups = groups or [""] * len(truth)
    probabilities = np.array(scores, dtype=np.float64)
    return Evaluation(
        protocol=get_protocol("center"),
        specs=(SPEC,),
        labels=LABELS,
        samples=tuple(
            Sample(path=Path(f"{k}.mp4"), labels=labels, group=group)
            for k, (labels, group) in enumerate(zip(truth, groups, strict=True))
        ),
        probabilities=probabilities,
        logits=tuple(np.log(probabilities).astype(np.float32)[:, None]),
    )


def test_known_answers(evaluation, samples):
    assert evaluation.top1 == pytest.approx(6 / 9)
    assert evaluation.clip_top1 == pytest.approx(6 / 9)
    assert evaluation.top5 == 1
    assert evaluation.mean_class_accuracy == pytest.approx(6 / 9)
    assert evaluation.confusion.tolist() == [[2, 0, 1], [1, 2, 0], [0, 1, 2]]
    assert evaluation.correct.tolist() == [True, True, False] * 3
    assert evaluation.samples == tuple(samples)
    assert (evaluation.num_samples, evaluation.num_groups) == (9, 3)
    # Two persons are always right, one never: drawing three of them gives anything from none to all.
    assert evaluation.interval95 == (0, 1)
    assert evaluation.views == get_protocol("2x3").digest()
    assert [logits.shape for logits in evaluation.logits] == [(6, 3)] * 9
    for probabilities, logits in zip(evaluation.probabilities, evaluation.logits, strict=True):
        np.testing.assert_array_equal(probabilities, aggregate(logits, evaluation.protocol))


def test_text_never_lacks_the_digests(evaluation):
    text = evaluation.text()
    assert "top-1 0.667 [0.000, 1.000], mean class accuracy 0.667, single views 0.667" in text
    assert "9 videos of 3 groups, 3 classes" in text
    assert f"protocol 2x3 (views {evaluation.views}, spec {evaluation.spec})" in text
    assert repr(evaluation) == "Evaluation(9 videos, 2x3, top1 0.667)"


def test_an_unknown_class_is_an_error_before_the_test_starts(samples):
    wrong = [samples[0], replace(samples[1], labels=("gren",))]
    message = r"blue_1\.mp4: .* no class 'gren'; did you mean 'green'\? It knows 3: blue, green, red"
    with pytest.raises(DataError, match=message):
        evaluate(color_net(), wrong)
    many = [replace(sample, labels=(f"class {k}",)) for k, sample in enumerate(samples)]
    with pytest.raises(
        DataError, match=r"no class 'class 0'\. 9 labels are unknown: class 0, class 1, class 2"
    ):
        evaluate(color_net(), many)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda samples: [], "no videos to test"),
        (lambda samples: [samples[0], samples[0]], r"blue_0\.mp4 is in the list twice"),
        (
            lambda samples: [replace(samples[0], labels=())],
            r"blue_0\.mp4 has no label: a test needs the truth",
        ),
    ],
)
def test_lists_that_make_no_test(samples, change, message):
    with pytest.raises(DataError, match=message):
        evaluate(color_net(), change(samples))


def test_broken_videos_are_rows_and_in_no_number(samples, tmp_path):
    bad = Sample(path=tmp_path / "bad.mp4", labels=("red",), group="person 0")
    bad.path.write_text("no video")
    mixed = [samples[0], bad, *samples[1:]]
    with pytest.raises(VideoError, match=r"bad\.mp4"):
        evaluate(color_net(), mixed)
    found = evaluate(color_net(), mixed, skip_broken=True)
    assert found.samples == tuple(samples)
    assert found.top1 == pytest.approx(6 / 9)
    (broken,) = found.broken
    assert (broken.path, broken.index) == (str(bad.path), 1)
    assert found.bounds_with_broken == pytest.approx((6 / 10, 7 / 10))
    assert "1 video could not be read and is in no number. With them top-1 lies between 0.600 and 0.700." in (
        found.text()
    )
    with pytest.raises(DataError, match=r"no video of 1 can be read; the first: .*bad\.mp4"):
        evaluate(color_net(), [bad], skip_broken=True)


def test_labels_come_from_the_card_or_are_given(samples):
    model = ColorNet()
    with pytest.raises(WeightsError, match="does not say what its outputs mean"):
        evaluate(model, samples)
    found = evaluate(model, samples, labels=LABELS)
    assert found.card is None
    assert found.top1 == pytest.approx(6 / 9)
    with pytest.raises(DataError, match="2 labels for the 3 outputs of color"):
        evaluate(model, samples, labels=LABELS[:2])


def test_the_number_of_views_must_fit(evaluation):
    message = r"green_1\.mp4: the logits are \[5, 3\], which the protocol '2x3' does not make of 3 labels"
    with pytest.raises(DataError, match=message):
        replace(evaluation, logits=(*evaluation.logits[:4], evaluation.logits[4][:5], *evaluation.logits[5:]))
    with pytest.raises(
        DataError, match=r"9 videos and 3 labels, .* are \[9, 3\] and there are logits of 8 vid"
    ):
        replace(evaluation, logits=evaluation.logits[1:])


def test_several_labels_a_video():
    found = made_up(
        [[0.6, 0.3, 0.1], [0.5, 0.1, 0.4], [0.2, 0.5, 0.3]],
        [("blue", "green"), ("red",), ("red",)],
    )
    assert found.multi_label
    assert found.top1 == pytest.approx(1 / 3)
    assert found.confusion is None
    assert found.mean_class_accuracy is None
    # blue: its only one comes first. green: second behind video 2. red: 1st of 2 and 2nd of 2.
    assert found.mean_average_precision == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert "hit@1 0.333" in found.text()
    assert "mAP 0.833" in found.text()


def test_an_interval_needs_groups():
    scores, truth = [[0.8, 0.1, 0.1]] * 4, [("blue",)] * 3 + [("red",)]
    assert made_up(scores, truth, ["ann"] * 4).interval95 is None
    assert "no interval: one group" in made_up(scores, truth, ["ann"] * 4).text()
    by_video = made_up(scores, truth).interval95  # no groups: each video is one
    assert by_video is not None
    assert by_video[0] < 0.75 < by_video[1]


def test_saved_and_loaded_it_is_the_same(evaluation, tmp_path):
    broken = (Broken("x.mp4", "cut short", 3),)
    whole = replace(evaluation, broken=broken)
    whole.save(tmp_path / "test")
    found = load_evaluation(tmp_path / "test")
    for name in ("protocol", "specs", "labels", "samples", "broken", "card"):
        assert getattr(found, name) == getattr(whole, name), name
    mine, theirs = ((one.probabilities, *one.logits) for one in (found, whole))
    for array, expected in zip(mine, theirs, strict=True):
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)
    assert found.numbers() == whole.numbers()
    content = json.loads((tmp_path / "test" / "evaluation.json").read_text())
    assert content["top1"] == whole.top1
    assert content["confusion"] == whole.confusion.tolist()
    assert (content["views"], content["spec"]) == (whole.views, whole.spec)


def test_pieces_of_a_file_survive_saving(tmp_path):
    found = made_up([[0.8, 0.1, 0.1]] * 2, [("blue",), ("blue", "red")])
    pieces = (replace(found.samples[0], start_seconds=1.5, end_seconds=2.5), found.samples[1])
    replace(found, samples=pieces).save(tmp_path)
    assert load_evaluation(tmp_path).samples == pieces


def test_the_scores_can_be_read_without_us(evaluation, tmp_path):
    import pyarrow.parquet as pq

    evaluation.save(tmp_path)
    table = pq.read_table(tmp_path / "scores.parquet")
    assert table.num_rows == 9
    row = table.to_pylist()[0]
    assert row["path"].endswith("blue_0.mp4")
    assert row["labels"] == ["blue"]
    assert row["probabilities"] == pytest.approx(evaluation.probabilities[0])
    assert len(row["logits"]) == 6 * 3


def test_what_is_no_evaluation_is_refused(evaluation, tmp_path):
    with pytest.raises(DataError, match=r"holds no evaluation \(evaluation\.json and scores\.parquet\)"):
        load_evaluation(tmp_path)
    evaluation.save(tmp_path / "one")
    made_up([[0.8, 0.1, 0.1]], [("blue",)]).save(tmp_path / "two")
    (tmp_path / "two" / "scores.parquet").replace(tmp_path / "one" / "scores.parquet")
    with pytest.raises(DataError, match="are not of one test: test again"):
        load_evaluation(tmp_path / "one")
    (tmp_path / "one" / "evaluation.json").write_text('{"format": 9}')
    with pytest.raises(DataError, match="has format 9, this version reads 1"):
        load_evaluation(tmp_path / "one")
    (tmp_path / "one" / "evaluation.json").write_text('{"format": 1')
    with pytest.raises(DataError, match=r"evaluation\.json cannot be read \(JSONDecodeError"):
        load_evaluation(tmp_path / "one")


def test_a_folder_that_cannot_be_written_keeps_its_files(evaluation, tmp_path):
    evaluation.save(tmp_path)
    (tmp_path / "scores.parquet").unlink()
    (tmp_path / "scores.parquet").mkdir()  # in the way
    before = (tmp_path / "evaluation.json").read_bytes()
    with pytest.raises(StorageError, match=r"cannot write .*scores\.parquet"):
        replace(evaluation, card=None).save(tmp_path)
    assert (tmp_path / "evaluation.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation.json", "scores.parquet"]


def test_other_files_of_the_folder_stay(evaluation, tmp_path):
    (tmp_path / "model.safetensors").write_text("precious")
    evaluation.save(tmp_path)
    evaluation.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "evaluation.json",
        "model.safetensors",
        "scores.parquet",
    ]


def test_folds_are_pooled(evaluation, samples):
    folds = [
        evaluate(color_net(), [one for one in samples if one.group == f"person {n}"], protocol="2x3")
        for n in range(3)
    ]
    assert [fold.top1 for fold in folds] == [1, 1, 0]
    assert all(fold.interval95 is None for fold in folds)
    whole = pool(folds)
    assert whole.top1 == evaluation.top1
    assert whole.interval95 == evaluation.interval95
    assert (whole.confusion == evaluation.confusion).all()
    assert whole.card is None


def test_what_cannot_be_pooled(evaluation, samples):
    with pytest.raises(DataError, match="no evaluations to pool"):
        pool([])
    with pytest.raises(DataError, match=r"blue_0\.mp4 was tested in two folds"):
        pool([evaluation, evaluation])
    with pytest.raises(DataError, match="the folds differ in views"):
        pool([evaluation, evaluate(color_net(), samples)])


def test_ready_to_compare(evaluation, samples):
    wide = SPEC.model_copy(update={"num_frames": 4})
    other = evaluate(color_net(), samples, protocol="2x3", specs=(wide,))
    text = compare_ready(evaluation, other)
    assert f"first: color, spec {evaluation.spec}: 2 frames of rgb, stride 1, 16 x 16 px" in text
    assert f"second: color, spec {other.spec}: 4 frames of rgb" in text


def test_not_to_be_compared(evaluation, samples):
    with pytest.raises(DataError, match=r"looked at different views, 2x3 .* and center"):
        compare_ready(evaluation, evaluate(color_net(), samples))
    fewer = evaluate(color_net(), samples[:8], protocol="2x3")
    with pytest.raises(DataError, match=r"; 1 only in first: \S*red_2\.mp4; test both on"):
        compare_ready(evaluation, fewer)
    turned = evaluate(color_net(), samples[::-1], protocol="2x3")
    with pytest.raises(DataError, match="the same videos in another order"):
        compare_ready(evaluation, turned)
    relabelled = replace(evaluation, samples=(replace(samples[0], labels=("red",)), *samples[1:]))
    with pytest.raises(
        DataError, match=r"not of the same videos and labels; 1 with other labels: \S*blue_0\.mp4;"
    ):
        compare_ready(evaluation, relabelled)
    with pytest.raises(DataError, match="different labels, only in one of them: black, red"):
        compare_ready(evaluation, replace(evaluation, labels=("blue", "green", "black")))
    with pytest.raises(DataError, match="different labels, the same ones in another order"):
        compare_ready(evaluation, replace(evaluation, labels=LABELS[::-1]))
