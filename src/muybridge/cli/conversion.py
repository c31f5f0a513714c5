"""The verb that takes weights of others: convert."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muybridge.cli.inspection import Json
from muybridge.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from muybridge.models.contract import VideoModel
    from muybridge.weights.source import Source


def convert(
    weights: Annotated[
        str,
        typer.Argument(
            help="A file of weights, or public ones by name, such as kinetics400.", metavar="FILE_OR_NAME"
        ),
    ],
    to: Annotated[str, typer.Option("--to", help="The network: see muybridge models.", metavar="NAME")],
    source: Annotated[
        str, typer.Option("--from", help="Whose file it is; auto finds it.", metavar="FORMAT")
    ] = "auto",
    out: Annotated[
        Path | None, typer.Option(help="Write a checkpoint of ours; without it, only look.", metavar="FILE")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Names of the classes, one a line, for --out.", metavar="FILE.txt")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="An argument of the network, such as layout=caffe2.", metavar="KEY=VALUE"),
    ] = None,
    json: Json = False,
) -> None:
    """Load weights of another code base into a network; say what became of each tensor."""
    from muybridge.weights.download import sha256_of
    from muybridge.weights.store import build_from, open_weights

    opened = open_weights(weights, to, format=source)
    model, report = build_from(opened, **_arguments(settings or ()))
    if out is not None:
        _write(out, model, opened, labels)
    sha256 = sha256_of(opened.path)
    if json:
        print_json(
            {
                "file": str(opened.path),
                "sha256": sha256,
                "format": report.format,
                "network": model.name,
                "arguments": model.arguments,
                **{name: len(getattr(report, name)) for name in ("loaded", "adapted", "random", "dropped")},
                "changed": {name: list(getattr(report, name)) for name in ("adapted", "random", "dropped")},
                "notes": [*report.differs, *report.notes],
                "clip": [spec.to_dict() for spec in model.default_specs],
                "out": None if out is None else str(out),
            }
        )
        return
    print_table(
        ("", "tensors", "where"),
        report.rows(),
        title=f"{opened.path}, {report.format}, into {model.name}; SHA-256 {sha256[:8]}...",
        right=("tensors",),
    )
    for note in (*report.differs, *report.notes):
        print(f"note: {note}")
    if out is not None:
        print(out)


def _arguments(settings: Sequence[str]) -> dict[str, Any]:
    """The arguments of a network, as YAML reads their values."""
    import yaml

    values = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise typer.BadParameter(f"'{setting}' is not KEY=VALUE", param_hint="--set")
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise typer.BadParameter(f"'{text}' is no value", param_hint="--set") from None
    return values


def _write(out: Path, model: "VideoModel", opened: "Source", labels: Path | None) -> None:
    """The checkpoint, with the names of the classes that are known, or numbers for names."""
    from muybridge.weights.labels import read_labels
    from muybridge.weights.store import save

    names = read_labels(labels) if labels is not None else opened.labels
    if not names:
        names = tuple(f"class {index}" for index in range(model.num_classes))
        say(
            f"muybridge: the {model.num_classes} classes have numbers for names: --labels FILE.txt has others"
        )
    save(out, model, labels=names)
