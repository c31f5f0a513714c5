import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from muybridge.config import ClipSpec
from muybridge.data.dataset import Broken
from muybridge.errors import StorageError, VideoError
from muybridge.evaluate import Evaluation
from muybridge.evaluate.report import make_example, read_strip, write_report
from muybridge.models.contract import Card
from muybridge.protocol import aggregate, get_protocol
from muybridge.types import Prediction, Sample
from muybridge.video.encode import write_video

LABELS = ("<script>alert('class')</script>", "wave_one_hand", "wave & clap")
SPEC = ClipSpec(num_frames=2, resize=16, crop=16)
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Reads a page, and holds that every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory) -> Evaluation:
    """Six videos, of which two are taken for something else; the first of these is gone since."""
    folder = tmp_path_factory.mktemp("clips")
    guesses = [0, 1, 2, 0, 0, 1]  # of truths 0 1 2 0 1 2
    protocol = get_protocol("2x1")
    samples, logits = [], []
    for k, guess in enumerate(guesses):
        path = folder / f"clip_{k} & <b>.mp4"
        write_video(path, (np.full((24, 32, 3), 20 * t, np.uint8) for t in range(10)), fps=10)
        samples.append(
            Sample(path=path, labels=(LABELS[k % 3],), group=f"<i>person</i> {k % 2}", split="test")
        )
        logits.append([[(2.0 + k) * (j == guess) for j in range(3)]] * 2)
    samples[4].path.unlink()
    array = np.array(logits, dtype=np.float32)
    card = Card(
        model="r2plus1d_10",
        arguments={"width": 0.25},
        specs=(SPEC,),
        labels=LABELS,
        training_protocol="ab12cd34",
        metrics={"val_top1": 0.93},
        version="0.1.0",
    )
    return Evaluation(
        protocol=protocol,
        specs=(SPEC,),
        labels=LABELS,
        samples=tuple(samples),
        probabilities=np.stack([aggregate(one, protocol) for one in array]),
        logits=tuple(array),
        broken=(Broken("x<y>.mp4", "cut <short>", 2),),
        card=card,
    )


def predicted(sample: Sample) -> Prediction:
    return Prediction(
        path=str(sample.path),
        labels=LABELS,
        scores=(0.7, 0.2, 0.1),
        protocol="2x1",
        views="v",
        spec="s",
        num_views=2,
    )


@pytest.fixture(scope="module")
def page(evaluation, tmp_path_factory) -> Page:
    path = tmp_path_factory.mktemp("report") / "deep" / "report.html"
    sample = evaluation.samples[0]
    write_report(
        path,
        title="A <test> & more",
        evaluation=evaluation,
        examples=[make_example(sample, predicted(sample))],
        log=[{"kind": "step", "step": 1}, {"kind": "epoch", "epoch": 1, "loss": 2.0, "accuracy": 0.4}],
        facts={"parameters": "0.9 <M>"},
        notes=["Trained on <nobody>."],
    )
    return Page(path.read_text(encoding="utf-8"))


def test_nothing_in_it_is_code_or_comes_from_elsewhere(page):
    names = {tag for tag, _ in page.tags}
    assert not names & {
        "script",
        "link",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "i",
        "b",
        "test",
        "nobody",
    }
    assert not [attrs for _, attrs in page.tags for name in attrs if name.startswith("on")]
    addresses = [attrs[name] for _, attrs in page.tags for name in ("src", "href") if name in attrs]
    assert addresses
    assert all(
        str(address).startswith(("data:image/png;base64,", "data:image/jpeg;base64,"))
        for address in addresses
    )
    style = "".join(page.words[page.words.index(word)] for word in page.words if "font:" in word)
    assert not re.search(r"url\(|@import|https?:", style)


def test_labels_notes_and_file_names_are_text(page):
    for text in (
        "A <test> & more",
        "<script>alert('class')</script>",
        "wave one hand",
        "wave & clap",
        "Trained on <nobody>.",
        "0.9 <M>",
        "clip_0 & <b>.mp4",
        "<i>person</i> 0",
        "x<y>.mp4: cut <short>",
    ):
        assert text in page.text, text


def test_the_headline_has_interval_protocol_and_digests(page, evaluation):
    low, high = evaluation.interval95
    assert f"top-1 66.7% 95 % interval {low:.1%} to {high:.1%}, 2 groups resampled".replace(" ", "") in (
        page.text.replace(" ", "")
    )
    for text in ("mean class accuracy", "test videos", "2x1: 2 clips", evaluation.views, evaluation.spec):
        assert text in page.text


def test_what_is_on_the_page(page):
    for heading in (
        "Recognised",
        "Training",
        "Confusion",
        "Mistakes",
        "Unreadable videos",
        "Model",
        "Test data",
    ):
        assert heading in page.words
    assert "With them top-1 would lie between 57.1% (all wrong) and 71.4% (all right)" in page.text
    for text in (
        "r2plus1d_10",
        "width 0.25",
        "ab12cd34",
        "muybridge 0.1.0",
        "0.93",
        "2 frames of rgb, stride 1",
    ):
        assert text in page.text


def test_mistakes_come_surest_first_and_a_lost_file_is_said(page):
    assert "2 of 6 are wrong" in page.text
    after = page.text[page.text.index("2 of 6 are wrong") :]
    assert after.index("clip_5") < after.index("clip_4")
    assert "the file is not there any more" in after


def test_pictures_are_whole(page):
    images = page.all("img")
    kinds = [str(one["class"]) for one in images]
    assert kinds == ["frames", "drawing", "drawing", "drawing square", "frames strip"]
    for one in images:
        data = base64.b64decode(str(one["src"]).partition(",")[2])
        with Image.open(io.BytesIO(data)) as image:
            assert (str(image.width), str(image.height)) == (one["width"], one["height"])
        assert one["alt"]


def test_parts_without_content_are_left_out(evaluation, tmp_path):
    best = replace(evaluation, probabilities=evaluation.truth.astype(float), broken=(), card=None)
    write_report(tmp_path / "a.html", title="All right", evaluation=best)
    page = Page((tmp_path / "a.html").read_text(encoding="utf-8"))
    for heading in ("Recognised", "Training", "Mistakes", "Unreadable videos"):
        assert heading not in page.words
    assert "Every video was recognised." in page.text
    assert "not saved" in page.text


def test_several_labels_a_video(evaluation, tmp_path):
    several = replace(
        evaluation,
        samples=(replace(evaluation.samples[0], labels=LABELS[:2]), *evaluation.samples[1:]),
    )
    write_report(tmp_path / "a.html", title="Several", evaluation=several)
    page = Page((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert "hit@1" in page.text
    assert "mAP" in page.text
    assert "Confusion" not in page.words


def test_the_report_is_deterministic(evaluation, tmp_path):
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, title="Same", evaluation=evaluation)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_report_that_cannot_be_written(evaluation, tmp_path):
    (tmp_path / "a.html").mkdir()
    with pytest.raises(StorageError, match=r"cannot write .*a\.html"):
        write_report(tmp_path / "a.html", title="No", evaluation=evaluation)


def test_an_example_shows_its_piece(evaluation):
    sample = replace(evaluation.samples[0], start_seconds=0.5, end_seconds=0.8)
    clip = make_example(sample, predicted(sample)).clip
    assert clip.seconds.tolist() == pytest.approx([0.5, 0.6, 0.7])
    assert clip.frames.shape == (3, 240, 320, 3)
    assert [round(float(frame.mean()) / 20) for frame in clip.frames] == [5, 6, 7]
    long = read_strip(evaluation.samples[0], 4)
    assert long.seconds.tolist() == pytest.approx([0, 0.3, 0.6, 0.9])
    with pytest.raises(VideoError, match="does not exist"):
        make_example(Sample(path=Path("nowhere.mp4")), predicted(sample))
