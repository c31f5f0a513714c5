"""Verbs that name actions: recognize, demo."""

import glob
from pathlib import Path
from typing import Annotated

import typer

from muybridge.cli.inspection import Json
from muybridge.cli.output import finish, print_json, report_failure, say
from muybridge.errors import WeightsError

PLACES = ("runs/*", "demo/run")  # where `muybridge train` and `muybridge demo` leave their networks


def recognize(
    videos: Annotated[
        list[str],
        typer.Argument(help="Video files, folders of them, or quoted patterns.", metavar="VIDEO"),
    ],
    weights: Annotated[
        Path | None, typer.Option(help="A run of muybridge train, or a checkpoint.", metavar="RUN_OR_FILE")
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(help="Which views: center (1, fast), 10x1, NxM, m_twi (long videos).", metavar="NAME"),
    ] = "center",
    top: Annotated[int, typer.Option(help="Labels to print for each video.", min=1, metavar="K")] = 5,
    batch_size: Annotated[int, typer.Option(help="Views that go through the network at once.", min=1)] = 8,
    json: Json = False,
) -> None:
    """Name the action in each video."""
    if weights is None:
        raise WeightsError(which_weights(Path()))
    from muybridge.predict import Broken, recognize_each

    found, missing = expand(videos)
    for argument in missing:
        report_failure(f"{argument}: there is no such video")
    num_failed = len(missing)
    answers = recognize_each(
        found, weights, protocol=protocol, top=top, batch_size=batch_size, skip_broken=True
    )
    for answer in answers:
        if isinstance(answer, Broken):
            report_failure(answer.reason)
            num_failed += 1
        elif json:
            print_json(answer.to_dict())
        else:
            print(answer.path)
            for label, score in zip(answer.labels, answer.scores, strict=True):
                print(f"  {score:.3f}  {label}", flush=True)
    finish(num_failed, len(found) + len(missing))


def demo(
    out: Annotated[Path, typer.Option(help="Everything is written here; a second run goes on.")] = Path(
        "demo"
    ),
    seed: Annotated[int, typer.Option(help="Fixes the rendered videos and the training.")] = 0,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the videos; the default takes about four minutes.", min=1)
    ] = None,
) -> None:
    """Render videos, train on them, test, recognize one: the whole road in a few minutes."""
    from muybridge.demo import run

    result = run(out, seed=seed, epochs=epochs, say=say)
    print(result.report)


def expand(arguments: list[str]) -> tuple[list[Path], list[str]]:
    """The video files that arguments stand for, each once, and the arguments that stand for none.

    A name of a file is that file, whatever its suffix; a folder is all videos below it; anything else is a
    pattern, for those who put it in quotes.
    """
    from muybridge.data.annotations import find_videos

    found: dict[Path, None] = {}
    missing = []
    for argument in arguments:
        path = Path(argument).expanduser()
        if path.is_dir():
            files = find_videos(path)
        else:
            names = glob.glob(str(path), recursive=True)  # noqa: PTH207 -- Path.glob has no absolute patterns
            files = [path] if path.exists() else sorted(map(Path, names))
        found |= dict.fromkeys(files)
        if not files:
            missing.append(argument)
    return list(found), missing


def which_weights(folder: Path) -> str:
    """What to tell someone who gave no weights: what lies here, and how to get some."""
    from muybridge.weights.store import read_card

    runs = []
    for place in sorted(path for pattern in PLACES for path in folder.glob(pattern)):
        try:
            card = read_card(place)
        except WeightsError:
            continue  # not a run, or one that has not saved yet
        runs.append(f"{place.as_posix()} ({card.model}, {len(card.labels)} classes)")
    here = f"here are {', '.join(runs)}" if runs else f"there is none in {' or '.join(PLACES)}"
    return (
        f"which network? Give --weights RUN_OR_FILE; {here}. To make {'another' if runs else 'one'}: "
        f"muybridge train --data FOLDER, or to try it out: muybridge demo"
    )
