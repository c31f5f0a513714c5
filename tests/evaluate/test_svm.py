from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from muybridge.config import ClipSpec
from muybridge.errors import DataError, VideoError
from muybridge.evaluate import metrics
from muybridge.evaluate.svm import CS, choose_c, evaluate_svm
from muybridge.models.contract import VideoModel
from muybridge.types import Sample
from muybridge.video.encode import write_video

SPEC = ClipSpec(num_frames=4, resize=16, crop=16, mean=(0, 0, 0), std=(1, 1, 1))
COLORS = {"blue": (20, 20, 200), "green": (20, 200, 20), "red": (200, 20, 20)}


class ColorNet(VideoModel):
    """Its features are the mean red, green and blue of a clip; its logits know nothing."""

    def __init__(self) -> None:
        super().__init__(num_classes=5, feature_dim=3, default_specs=(SPEC,), stage_names=())
        self.name = "color"

    def forward_features(self, *inputs: Tensor) -> Tensor:
        return inputs[0].mean((2, 3, 4))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Four people, each with two videos of each colour; what person 4 shows as red says that it is green."""
    folder = tmp_path_factory.mktemp("people")
    rng = np.random.default_rng(0)
    found = []
    for person in range(1, 5):
        for label, color in COLORS.items():
            for n in range(2):
                path = folder / f"{label}_{person}_{n}.mp4"
                shade = np.clip(np.array(color) + rng.integers(-20, 20, 3), 0, 255).astype(np.uint8)
                write_video(path, (np.broadcast_to(shade, (16, 24, 3)) for _ in range(9)), fps=25)
                truth = "green" if (person, label) == (4, "red") else label
                found.append(Sample(path=path, labels=(truth,), group=f"person {person}"))
    return found


def of(samples: list[Sample], *people: int) -> list[Sample]:
    return [sample for sample in samples if int(sample.group[-1]) in people]


def test_known_answers(samples: list[Sample]):
    found = evaluate_svm([ColorNet()], of(samples, 1, 2), of(samples, 3, 4))
    assert found.labels == ("blue", "green", "red")
    assert [sample.path.name for sample in found.samples] == [
        sample.path.name for sample in of(samples, 3, 4)
    ]
    assert found.correct.tolist() == [True] * 10 + [False] * 2  # the two that lie
    assert found.top1 == pytest.approx(10 / 12)
    # blue 4 of 4, green 4 of 6, red 2 of 2
    assert found.mean_class_accuracy == pytest.approx((1 + 4 / 6 + 1) / 3)
    assert found.interval95 == metrics.bootstrap_interval([1] * 6 + [1, 1, 1, 1, 0, 0], ["3"] * 6 + ["4"] * 6)
    assert found.chosen_by[found.c] == 1
    assert found.num_train == 12


def test_the_decisions_are_scikit_learn_s_on_the_descriptors(samples: list[Sample]):
    from sklearn.svm import LinearSVC

    from muybridge.evaluate.descriptors import describe

    train, test = of(samples, 1, 2), of(samples, 3)
    found = evaluate_svm([ColorNet()], train, test)
    values = describe(ColorNet(), [*train, *test]).values
    svm = LinearSVC(C=found.c, dual="auto", max_iter=20_000, random_state=0)
    svm.fit(values[:12], [sample.label for sample in train])
    assert list(svm.classes_) == list(found.labels)
    np.testing.assert_allclose(found.decisions, svm.decision_function(values[12:]), rtol=1e-9)


def test_two_classes_have_two_decisions(samples: list[Sample]):
    two = [sample for sample in samples if sample.label != "green"]
    found = evaluate_svm([ColorNet()], of(two, 1, 2), of(two, 3))
    assert found.decisions.shape == (4, 2)
    np.testing.assert_array_equal(found.decisions[:, 0], -found.decisions[:, 1])
    assert found.top1 == 1


def test_the_test_videos_have_no_say(samples: list[Sample]):
    """What is trained, and C, are the same whatever is tested on."""
    train = of(samples, 1, 2)
    first = evaluate_svm([ColorNet()], train, of(samples, 3, 4))
    second = evaluate_svm([ColorNet()], train, of(samples, 4))
    assert (first.c, first.chosen_by) == (second.c, second.chosen_by)
    np.testing.assert_array_equal(first.decisions[6:], second.decisions)


def separable(
    rng: np.random.Generator, groups: int, shift: float
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Two classes in two dimensions; `shift` moves each group's videos together."""
    rows, classes, names = [], [], []
    for group in range(groups):
        moved = rng.normal(size=2) * shift
        for k in range(2):
            for _ in range(5):
                rows.append(np.array([2 * k - 1, 0]) + moved + rng.normal(size=2) * 0.1)
                classes.append(k)
                names.append(f"g{group}")
    return np.array(rows), np.array(classes), names


def test_c_is_the_best_one_and_of_equal_ones_the_smallest():
    values, classes, groups = separable(np.random.default_rng(0), 5, 0.0)
    c, accuracy = choose_c(values, classes, groups)
    assert tuple(accuracy) == CS
    assert accuracy[c] == max(accuracy.values()) == 1
    assert c == min(one for one in CS if accuracy[one] == 1)


def test_groups_are_never_on_both_sides():
    """Each group has an answer of its own: known groups are easy, new ones a matter of luck."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(10), 8)
    values = 5 * np.eye(10)[groups] + rng.normal(size=(80, 10)) * 0.1
    classes = rng.integers(0, 2, 10)[groups]
    _, by_group = choose_c(values, classes, [str(group) for group in groups])
    _, by_video = choose_c(values, classes, [str(row) for row in range(80)])
    assert max(by_video.values()) == 1
    assert max(by_group.values()) < 0.8


def test_one_group_gives_nothing_to_choose_by(samples: list[Sample]):
    found = evaluate_svm([ColorNet()], of(samples, 1), of(samples, 3))
    assert (found.c, found.chosen_by) == (1.0, {})
    assert "C 1, not chosen, for want of two groups with two classes, on 6 training videos" in found.text()
    assert choose_c(np.eye(4), np.array([0, 0, 1, 1]), ["a", "a", "b", "b"]) == (
        1.0,
        {},
    )  # each fold has one class


def test_videos_without_groups_are_their_own(samples: list[Sample]):
    alone = [replace(sample, group="") for sample in of(samples, 1, 2)]
    assert evaluate_svm([ColorNet()], alone, of(samples, 3)).chosen_by


def test_a_rare_class_warns_nobody(samples: list[Sample]):
    few = [one for one in of(samples, 1, 2) if one.label != "red" or one.path.name == "red_1_0.mp4"]
    assert evaluate_svm([ColorNet()], few, of(samples, 3)).labels == ("blue", "green", "red")


def test_text_and_numbers_never_lack_the_digests(samples: list[Sample]):
    found = evaluate_svm([ColorNet(), ColorNet()], of(samples, 1, 2), of(samples, 3, 4), protocol="sliding4")
    numbers, text = found.numbers(), found.text()
    assert numbers["features"] == ["color features", "color features"]
    assert (numbers["num_features"], numbers["num_samples"], numbers["num_groups"]) == (6, 12, 2)
    assert numbers["cross_validation"][f"{found.c:g}"] == 1
    assert (
        f"top-1 0.833 [{found.interval95[0]:.3f}, {found.interval95[1]:.3f}], mean class accuracy 0.889"
        in text
    )
    assert f"protocol sliding4 (views {numbers['views']}, spec {numbers['spec']})" in text
    assert (
        "linear SVM on 6 features (color features + color features); C 0.01, chosen by group cross-val"
        in text
    )
    assert repr(found) == "SvmResult(12 videos, C 0.01, top1 0.833)"


def test_broken_videos_are_listed_and_in_no_number(samples: list[Sample], tmp_path: Path):
    bad = [Sample(path=tmp_path / f"{k}.mp4", labels=("red",), group="person 1") for k in range(2)]
    for one in bad:
        one.path.write_text("no video")
    train, test = [*of(samples, 1, 2), bad[0]], [bad[1], *of(samples, 3)]
    with pytest.raises(VideoError, match=r"0\.mp4"):
        evaluate_svm([ColorNet()], train, test)
    found = evaluate_svm([ColorNet()], train, test, skip_broken=True)
    assert (found.num_train, len(found.samples), len(found.broken)) == (12, 6, 2)
    assert "videos that could not be read and are in no number: 2" in found.text()
    with pytest.raises(DataError, match=r"none of the videos to test on can be read; the first: .*0\.mp4"):
        evaluate_svm([ColorNet()], of(samples, 1, 2), bad, skip_broken=True)
    without_red = [one for one in of(samples, 1, 2) if one.label != "red"]
    with pytest.raises(DataError, match="no training video of the class 'red' can be read"):
        evaluate_svm([ColorNet()], [*without_red, bad[0]], of(samples, 3), skip_broken=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda train, test: ([], test), "no videos to train on: the list of samples is empty"),
        (lambda train, test: (train, []), "no videos to test on: the list of samples is empty"),
        (lambda train, test: (train, [train[0]]), r"blue_1_0\.mp4 is in the list twice"),
        (
            lambda train, test: (train, [replace(test[0], labels=("gren",))]),
            r"has the label 'gren', which is not one of the 3 known classes; did you mean 'green'\?",
        ),
        (
            lambda train, test: (train, [replace(test[0], labels=("red", "blue"))]),
            r"blue_3_0\.mp4 needs exactly one label for an SVM, it has red and blue",
        ),
        (
            lambda train, test: ([replace(train[0], labels=())], test),
            r"blue_1_0\.mp4 needs exactly one label for an SVM, it has none",
        ),
        (lambda train, test: (train[:2], test[:1]), "an SVM needs two classes at least, training has blue"),
    ],
)
def test_lists_that_make_no_svm(samples: list[Sample], change, message: str):
    train, test = change(of(samples, 1, 2), of(samples, 3))
    with pytest.raises(DataError, match=message):
        evaluate_svm([ColorNet()], train, test)
