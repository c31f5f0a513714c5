"""The verb that makes one score of the stored scores of several networks: fuse."""

from pathlib import Path
from typing import Annotated

import typer

from muybridge.cli.inspection import Json
from muybridge.cli.output import print_json
from muybridge.errors import ConfigError


def fuse(
    scores: Annotated[
        list[Path],
        typer.Argument(
            help="Folders that muybridge eval --out has written, one a network.", metavar="SCORES..."
        ),
    ],
    method: Annotated[
        str,
        typer.Option(
            help="average (of probabilities), logits (the mean before the softmax), or svm.", metavar="NAME"
        ),
    ] = "average",
    weights: Annotated[
        str | None,
        typer.Option(
            help="Of each network in the mean, such as 1,1.5; all alike if left out.", metavar="NUMBERS"
        ),
    ] = None,
    train: Annotated[
        list[Path] | None,
        typer.Option(
            help="For svm: a network's scores on the training videos; once for each, in the same order.",
            metavar="SCORES",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for all scores and numbers.", metavar="FOLDER")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Also write this page with pictures.", metavar="FILE.html")
    ] = None,
    json: Json = False,
) -> None:
    """Fuse the scores of several networks on the same videos."""
    from muybridge.evaluate.fuse import fuse as fuse_scores
    from muybridge.evaluate.report import write_report

    result = fuse_scores(scores, method=method, weights=_numbers(weights), train=train or ())
    if out is not None:
        result.save(out)
    if report is not None:
        write_report(report, title=" + ".join(map(str, scores)), evaluation=result)
    if json:
        print_json(result.numbers())
    else:
        print(result.text())


def _numbers(text: str | None) -> list[float] | None:
    """The numbers of a list joined by commas.

    Raises:
        ConfigError: one is none.
    """
    if text is None:
        return None
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise ConfigError(f"--weights takes numbers joined by commas, such as 1,1.5; got '{text}'") from None
