"""The verb that trains a linear SVM on a network's features: svm."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from muybridge.cli.inspection import DataFormat, Json
from muybridge.cli.output import finish, print_json, progress, report_failure
from muybridge.cli.training import config_of_run
from muybridge.errors import DataError

if TYPE_CHECKING:
    from muybridge.types import Sample


def svm(
    weights: Annotated[
        list[Path],
        typer.Option(
            help="A run of muybridge train, or a checkpoint; features of several stand side by side.",
            metavar="RUN_OR_FILE",
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="A folder of videos or a CSV file; the run's own if left out.", metavar="FOLDER_OR_CSV"
        ),
    ] = None,
    format: DataFormat = "auto",
    layer: Annotated[
        str | None,
        typer.Option(
            help="Whose features, such as fc6; what the classifier takes if left out.", metavar="NAME"
        ),
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="Which views: slidingN, a clip every N frames, or NxM.", metavar="NAME")
    ] = "sliding8",
    train: Annotated[
        str | None,
        typer.Option(help="Groups or splits to train on; all that do not test if left out.", metavar="NAMES"),
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(help="Groups or splits to test on; the split test if left out.", metavar="NAMES"),
    ] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="List videos that cannot be read instead of stopping.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Views that go through the network at once.", min=1)] = 8,
    json: Json = False,
) -> None:
    """Train a linear SVM on a network's features, and test it."""
    from muybridge.evaluate.svm import evaluate_svm

    train_samples, test_samples = _parts(weights[0], data, format, train, test)
    with progress("features") as on_progress:
        result = evaluate_svm(
            weights,
            train_samples,
            test_samples,
            layer=layer,
            protocol=protocol,
            batch_size=batch_size,
            skip_broken=skip_broken,
            on_progress=on_progress,
        )
    for broken in result.broken:
        report_failure(broken.reason)
    if json:
        print_json(result.numbers())
    else:
        print(result.text())
    finish(len(result.broken), len(train_samples) + len(test_samples))


def _parts(
    weights: Path, data: Path | None, format: str, train: str | None, test: str | None
) -> tuple[Sequence["Sample"], Sequence["Sample"]]:
    """The videos to train and to test on: as named, or as the run of the network had them.

    Raises:
        DataError: no data are named, or none of them test.
    """
    from muybridge.config import DataConfig
    from muybridge.data.annotations import read_samples
    from muybridge.data.splits import split

    run = config_of_run(weights)
    if data is not None:
        source = DataConfig.from_dict({"root": str(data), "format": format})
    elif run is not None:
        source = run.data.model_copy(update={"val_fraction": 0.0})
    else:
        raise DataError(f"{weights} does not say what it was trained on: give --data FOLDER_OR_CSV")
    named = {"train": _names(train), "test": _names(test)}
    source = source.model_copy(update={part: names for part, names in named.items() if names})
    parts = split(read_samples(source), source, seed=0)
    if not parts.test:
        raise DataError(f"nothing of {source.root} is there to test on: name groups or splits with --test")
    return parts.train, parts.test


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())
