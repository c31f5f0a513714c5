"""Verbs that make something of many videos: flow."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from muybridge.cli.inspection import Json
from muybridge.cli.output import finish, print_json, report_failure, say
from muybridge.errors import ConfigError, DataError

if TYPE_CHECKING:
    from muybridge.extract import Outcome, Progress

SECONDS_WORTH_SAYING = 5.0
SECONDS_BETWEEN_LINES = 30.0  # of progress, where stderr is no terminal


def flow(
    videos: Annotated[Path, typer.Argument(help="A video, or a folder of them.", metavar="VIDEO_OR_FOLDER")],
    out: Annotated[Path, typer.Option(help="Folder of the stores; a second run goes on.", metavar="DIR")],
    method: Annotated[
        str, typer.Option(help="tvl1, brox, farneback, dis, raft; a preset after a slash: tvl1/fast.")
    ] = "tvl1",
    param: Annotated[
        list[str] | None,
        typer.Option(help="A parameter of the method; can be repeated.", metavar="NAME=VALUE"),
    ] = None,
    bound: Annotated[float, typer.Option(help="Displacements are cut to so many pixels.")] = 20.0,
    warp: Annotated[bool, typer.Option("--warp", help="Take the motion of the camera away.")] = False,
    size: Annotated[
        str | None, typer.Option(help="Short side in pixels, or WIDTHxHEIGHT.", metavar="SIZE")
    ] = None,
    fps: Annotated[float | None, typer.Option(help="The rate that clips will ask for.")] = None,
    stride: Annotated[int, typer.Option(help="Frames from one to the next of a clip.")] = 1,
    quality: Annotated[
        str, typer.Option(help="lossless; high or small: as near as JPEG 95 or 75, far smaller.")
    ] = "lossless",
    preview: Annotated[bool, typer.Option("--preview", help="Also write an mp4 to look at.")] = False,
    workers: Annotated[
        int | None, typer.Option(help="Processes; 0 is this one. All cores if left out.", min=0)
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="Of torch, such as cuda, for tvl1 and raft; one process unless --workers says more."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Compute optical flow and store it, a small file a video."""
    from muybridge.environment import available_cores
    from muybridge.extract import extract_flow
    from muybridge.flow.recipe import FlowRecipe
    from muybridge.flow.video import StoreSettings

    recipe = FlowRecipe.of(method, bound=bound, warped=warp, device=device, **_params(param or ()))
    settings = StoreSettings(resize=_size(size), stride=stride, fps=fps, quality=quality)
    found = _videos(videos)
    if device is None:
        _compile(recipe.method)
    if workers is None:
        workers = available_cores() if len(found) > 1 and device is None else 0
    outcomes = []
    with _progress(f"flow of {videos}") as on_progress:
        for outcome in extract_flow(
            found,
            out,
            recipe,
            settings,
            root=videos if videos.is_dir() else None,
            num_workers=workers,
            preview=preview,
            on_progress=on_progress,
        ):
            outcomes.append(outcome)
            _show(outcome, json=json)
    if not json:
        print(_summary(outcomes, out))
    finish(sum(outcome.status == "failed" for outcome in outcomes), len(outcomes))


def _compile(method: str) -> None:
    """Before the workers start, so that they find what is compiled; says so where that took a while."""
    from muybridge.flow.tvl1 import compile_kernels

    seconds = compile_kernels() if method == "tvl1" else 0.0
    if seconds > SECONDS_WORTH_SAYING:
        say(f"TV-L1 was compiled for this processor in {seconds:.0f} s; later runs find it")


def _show(outcome: "Outcome", *, json: bool) -> None:
    if outcome.status == "failed":
        report_failure(f"{outcome.source}: {outcome.reason}")
    if json:
        print_json(outcome.to_dict())


def _videos(path: Path) -> list[Path]:
    from muybridge.data.annotations import VIDEO_SUFFIXES, find_videos

    found = find_videos(path) if path.is_dir() else [path]
    if not found:
        raise DataError(
            f"no videos in {path}: looked for {' '.join(sorted(VIDEO_SUFFIXES))} in all its folders"
        )
    return found


def _params(texts: Sequence[str]) -> dict[str, str]:
    """The changed parameters of a method; what they are and may be, the method knows.

    >>> _params(["num_warps=3", "median=1"])
    {'num_warps': '3', 'median': '1'}
    """
    pairs = [text.partition("=") for text in texts]
    for (name, equals, value), text in zip(pairs, texts, strict=True):
        if not (name and equals and value):
            raise ConfigError(f"--param {text}: give a name and a value, such as --param num_warps=3")
    return {name: value for name, _, value in pairs}


def _size(text: str | None) -> int | tuple[int, int] | None:
    """A short side, or height and width.

    >>> _size("256"), _size("340x256"), _size(None)
    (256, (256, 340), None)
    """
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise ConfigError(
            f"--size {text}: give the short side in pixels, such as 256, or WIDTHxHEIGHT: 340x256"
        )
    width, height = int(sides[0]), int(sides[-1])
    return width if len(sides) == 1 else (height, width)


def _summary(outcomes: Sequence["Outcome"], out: Path) -> str:
    good = [outcome for outcome in outcomes if outcome.status != "failed"]
    fields = sum(outcome.facts["fields"] for outcome in good)
    num_bytes = sum(outcome.num_bytes for outcome in good)
    there = sum(outcome.status == "there" for outcome in good)
    earlier = f" ({there} were there)" if there else ""
    each = f", {num_bytes / fields:,.0f} bytes a field" if fields else ""
    done = f"{len(good)} of {len(outcomes)} videos{earlier}"
    return f"{done}: {fields:,} fields, {num_bytes / 1e6:,.1f} MB{each}: {out}"


@contextmanager
def _progress(text: str) -> Iterator["Callable[[Progress], None]"]:
    """A bar with the time left where stderr is a terminal; otherwise a line now and then."""
    if not sys.stderr.isatty():
        yield _Lines(text)
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=1.0)
        yield lambda now: bar.update(task, completed=now.part, description=f"{text}: {_told(now)}")


class _Lines:
    """Says how far the job is, at most twice a minute: for logs."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._said = time.monotonic()

    def __call__(self, now: "Progress") -> None:
        if time.monotonic() - self._said >= SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            say(f"{self._text}: {_told(now)}")


def _told(now: "Progress") -> str:
    failed = f", {now.num_failed} failed" if now.num_failed else ""
    left = "" if now.seconds_left is None else f", {_duration(now.seconds_left)} left"
    return f"{now.num_done} of {now.num_files} files{failed}{left}"


def _duration(seconds: float) -> str:
    """For people.

    >>> _duration(42), _duration(600), _duration(9000)
    ('42 s', '10 min', '2 h 30 min')
    """
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
