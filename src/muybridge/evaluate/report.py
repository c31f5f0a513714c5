"""One HTML file that shows what a network reached: numbers, pictures, mistakes. It needs no other file."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from muybridge.config import ClipSpec
from muybridge.errors import VideoError
from muybridge.evaluate.metrics import per_class_accuracy
from muybridge.evaluate.page import STYLE
from muybridge.evaluate.result import Evaluation, spec_text
from muybridge.files import atomic_path
from muybridge.types import Clip, Prediction, Sample, Size
from muybridge.video.decode import VideoReader
from muybridge.video.sampling import frame_range
from muybridge.viz import confusion_figure, contact_sheet, learning_curve, probability_bars

__all__ = ["Example", "make_example", "read_strip", "write_report"]

MAX_MISTAKES = 8
MAX_BROKEN = 50
STRIP_HEIGHT_PX = 240  # frames are decoded at this height: more than a page shows


@dataclass(frozen=True, kw_only=True)
class Example:
    """A recognised video to show.

    Attributes:
        prediction: its best labels.
        clip: frames of it.
        truth: the labels it has, where they are known.
    """

    prediction: Prediction
    clip: Clip
    truth: tuple[str, ...] = ()


def make_example(sample: Sample, prediction: Prediction, *, max_frames: int = 16) -> Example:
    """Reads some frames of a recognised video, evenly from its start to its end.

    Raises:
        VideoError: the video cannot be read.
    """
    return Example(prediction=prediction, clip=read_strip(sample, max_frames), truth=sample.labels)


def read_strip(sample: Sample, num_frames: int) -> Clip:
    """At most `num_frames` frames of a sample, evenly from its start to its end, at a page's size.

    Raises:
        VideoError: the video cannot be read.
    """
    with VideoReader(sample.path) as reader:
        first, stop = frame_range(reader.info, sample.start_seconds, sample.end_seconds)
        count = min(num_frames, stop - first)
        indices = [first + round(i * (stop - 1 - first) / max(1, count - 1)) for i in range(count)]
        width = max(1, round(STRIP_HEIGHT_PX * reader.info.width / reader.info.height))
        return reader.read_clip(indices, size=Size(STRIP_HEIGHT_PX, width))


def write_report(
    path: Path | str,
    *,
    title: str,
    evaluation: Evaluation,
    examples: Sequence[Example] = (),
    log: Sequence[Mapping[str, Any]] = (),
    facts: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Writes the report; a kill or a full disk leaves the old file whole.

    Args:
        path: of the HTML file.
        title: its heading.
        evaluation: the test that it is about.
        examples: recognised videos to show, the first ones of the page.
        log: rows of the run's log.jsonl, for the learning curve; none leaves it out.
        facts: further lines of the model card, such as "parameters": "0.9 M".
        notes: sentences under the heading.

    Raises:
        StorageError: the file cannot be written.
    """
    has_epochs = any(row.get("kind") == "epoch" for row in log)
    sections = [
        _headline(evaluation),
        _section("Recognised", *map(_example, examples)) if examples else "",
        _section("Training", _figure(learning_curve(log), "Loss and accuracy")) if has_epochs else "",
        _confusion(evaluation),
        _mistakes(evaluation),
        _broken(evaluation),
        _cards(evaluation, facts or {}),
    ]
    notes_html = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    page = (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n<body><main>"
        f"<header><h1>{html.escape(title)}</h1>{notes_html}</header>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main></body></html>\n"
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _headline(evaluation: Evaluation) -> str:
    first, fifth = ("hit@1", "hit@5") if evaluation.multi_label else ("top-1", "top-5")
    interval = evaluation.interval95
    if interval is None:
        under = "no interval: all videos are of one group"
    else:
        drawn = f"{evaluation.num_groups} groups" if evaluation.num_groups else "videos"
        under = f"95 % interval {interval[0]:.1%} to {interval[1]:.1%}, {drawn} resampled"
    tiles = [_tile(first, f"{evaluation.top1:.1%}", under, big=True)]
    if len(evaluation.labels) > 5:
        tiles.append(_tile(fifth, f"{evaluation.top5:.1%}", f"of {len(evaluation.labels)} classes"))
    if evaluation.mean_class_accuracy is not None:
        tiles.append(
            _tile("mean class accuracy", f"{evaluation.mean_class_accuracy:.1%}", "each class alike")
        )
    if evaluation.multi_label:
        tiles.append(
            _tile("mAP", f"{evaluation.mean_average_precision:.3f}", "over the classes that are there")
        )
    if evaluation.has_views:
        tiles.append(_tile("single views", f"{evaluation.clip_top1:.1%}", "before they are averaged"))
    groups = f"of {evaluation.num_groups} groups" if evaluation.num_groups else "without groups"
    tiles.append(_tile("test videos", str(evaluation.num_samples), groups))
    protocol = html.escape(evaluation.protocol.explain().replace("\n", " "))
    fusion = f" {html.escape(evaluation.fusion)}." if evaluation.fusion else ""
    text = f'<p class="quiet">{protocol} Digest of the spec: {evaluation.spec}.{fusion}</p>'
    return f'<section><div class="tiles">{"".join(tiles)}</div>{text}</section>'


def _tile(name: str, value: str, under: str, *, big: bool = False) -> str:
    kind = "tile big" if big else "tile"
    return (
        f'<div class="{kind}"><div class="name">{html.escape(name)}</div>'
        f'<div class="value">{html.escape(value)}</div><div class="under">{html.escape(under)}</div></div>'
    )


def _example(example: Example) -> str:
    prediction = example.prediction
    verdict = ""
    if example.truth:
        right = prediction.label in example.truth
        kind, word = ("right", "right") if right else ("wrong", f"wrong: it is {_words(*example.truth)}")
        verdict = f' <span class="{kind}">{html.escape(word)}</span>'
    views = "1 view" if prediction.num_views == 1 else f"{prediction.num_views} views"
    return (
        f"<h3>{html.escape(_words(prediction.label))}{verdict}</h3>"
        f"{_frames(contact_sheet(example.clip), f'Frames of {prediction.path}')}"
        f'<div class="beside">{_figure(probability_bars(prediction, truth=example.truth), "Best labels")}'
        f'<p class="quiet">{html.escape(Path(prediction.path).name)}<br>{views} under the protocol '
        f"{html.escape(prediction.protocol)}</p></div>"
    )


def _confusion(evaluation: Evaluation) -> str:
    if evaluation.confusion is None:
        return ""
    accuracy = per_class_accuracy(evaluation.confusion)
    order = [k for k in np.argsort(accuracy, kind="stable") if not np.isnan(accuracy[k])]
    hardest = [f"{_words(evaluation.labels[k])} {accuracy[k]:.0%}" for k in order[:3] if accuracy[k] < 1]
    text = f"Hardest: {', '.join(hardest)}." if hardest else "Every video was recognised."
    wide = " wide" if len(evaluation.labels) > 14 else ""
    return _section(
        "Confusion",
        f'<p class="quiet">{html.escape(text)} Rows are the truth, columns the answers.</p>',
        _figure(
            confusion_figure(evaluation.confusion, evaluation.labels),
            "Confusion matrix",
            kind=f"square{wide}",
        ),
    )


def _mistakes(evaluation: Evaluation) -> str:
    """The wrong answers that the network was surest of."""
    scores = evaluation.probabilities
    best = scores.argmax(axis=1)
    surety = np.where(evaluation.correct, -1.0, scores.max(axis=1))
    worst = [
        index for index in np.argsort(-surety, kind="stable")[:MAX_MISTAKES] if not evaluation.correct[index]
    ]
    if not worst:
        return ""
    rows = []
    for index in worst:
        sample, label = evaluation.samples[index], evaluation.labels[best[index]]
        truth_score = float(scores[index][evaluation.truth[index]].max())
        rows.append(
            f"<tr><td>{_strip(sample)}</td><td>{html.escape(_words(*sample.labels))}"
            f'<div class="quiet">{truth_score:.1%}</div></td><td class="wrong">{html.escape(_words(label))}'
            f'<div class="quiet">{scores[index].max():.1%}</div></td>'
            f'<td class="quiet file">{html.escape(Path(sample.key).name)}</td></tr>'
        )
    head = "<tr><th>frames</th><th>truth</th><th>taken for</th><th>file</th></tr>"
    count = int((~evaluation.correct).sum())
    text = f"{count} of {evaluation.num_samples} are wrong; these are the ones the network was surest of."
    return _section(
        "Mistakes",
        f'<p class="quiet">{text}</p><div class="scroll"><table>{head}{"".join(rows)}</table></div>',
    )


def _strip(sample: Sample) -> str:
    try:
        clip = read_strip(sample, 4)
    except VideoError:
        return '<span class="quiet">the file is not there any more</span>'
    return _frames(contact_sheet(clip, columns=4, tile_width_px=112), "Frames", kind="strip")


def _broken(evaluation: Evaluation) -> str:
    if not evaluation.broken:
        return ""
    low, high = evaluation.bounds_with_broken
    shown = evaluation.broken[:MAX_BROKEN]
    reasons = [one.reason.removeprefix(f"{one.path}: ") for one in shown]
    items = "".join(
        f"<li><code>{html.escape(one.path)}</code>: {html.escape(reason)}</li>"
        for one, reason in zip(shown, reasons, strict=True)
    )
    more = len(evaluation.broken) - len(shown)
    items += f"<li>and {more} more</li>" if more else ""
    text = (
        f"{evaluation.broken_text()} With them top-1 would lie "
        f"between {low:.1%} (all wrong) and {high:.1%} (all right)."
    )
    return _section("Unreadable videos", f"<p>{text}</p><ul>{items}</ul>")


def _cards(evaluation: Evaluation, facts: Mapping[str, str]) -> str:
    card = evaluation.card
    model = {"network": card.model if card else "not saved"}
    if card:
        model["arguments"] = ", ".join(f"{name} {value}" for name, value in card.arguments.items())
        model["training digest"] = card.training_protocol
        model["saved by"] = f"muybridge {card.version}" if card.version else ""
        model |= {name.replace("_", " "): f"{value:.4g}" for name, value in card.metrics.items()}
    model["sees"] = "; ".join(map(spec_text, evaluation.specs))
    model["made from"] = "; ".join(map(_preparation, evaluation.specs))
    model |= facts
    counts = evaluation.truth.sum(axis=0)
    sizes = (counts[counts > 0].min(), counts.max())
    data = {
        "videos": str(evaluation.num_samples),
        "groups": ", ".join(sorted({sample.group for sample in evaluation.samples if sample.group})),
        "splits": ", ".join(sorted({sample.split for sample in evaluation.samples if sample.split})),
        "videos a class": "{} to {}".format(*sizes) if sizes[0] < sizes[1] else str(sizes[0]),
        "classes": ", ".join(map(_words, evaluation.labels)),
    }
    if absent := [_words(evaluation.labels[k]) for k in np.flatnonzero(counts == 0)]:
        data["classes without a video"] = ", ".join(absent)
    columns = (("Model", model), ("Test data", data))
    parts = (f"<div><h2>{heading}</h2>{_definitions(values)}</div>" for heading, values in columns)
    return f'<section class="cards">{"".join(parts)}</section>'


def _preparation(spec: ClipSpec) -> str:
    resize = (
        f"short side {spec.resize}"
        if isinstance(spec.resize, int)
        else f"{spec.resize[0]} x {spec.resize[1]}"
    )
    return f"frames resized to {resize} px ({spec.resize_filter}), {spec.channel_order}, white {spec.scale}"


def _definitions(values: Mapping[str, str]) -> str:
    rows = (f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in values.items() if v)
    return f"<dl>{''.join(rows)}</dl>"


def _section(heading: str, *parts: str) -> str:
    return f"<section><h2>{html.escape(heading)}</h2>{''.join(parts)}</section>"


def _figure(image: Image.Image, text: str, *, kind: str = "") -> str:
    """A drawing: the page turns its white into black where the reader likes dark pages."""
    return _img(image, text, f"drawing {kind}".strip(), "PNG")


def _frames(image: Image.Image, text: str, *, kind: str = "") -> str:
    """Photographs: as JPEG, a tenth of the size."""
    return _img(image, text, f"frames {kind}".strip(), "JPEG")


def _img(image: Image.Image, text: str, kind: str, file_format: str) -> str:
    file = io.BytesIO()
    image.save(file, file_format, **({"optimize": True} if file_format == "PNG" else {"quality": 88}))
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return (
        f'<img class="{kind}" width="{image.width}" height="{image.height}" alt="{html.escape(text)}" '
        f'src="data:image/{file_format.lower()};base64,{data}">'
    )


def _words(*labels: str) -> str:
    return ", ".join(label.replace("_", " ") for label in labels)
