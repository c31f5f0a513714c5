"""Verbs that look and change nothing: models, env, probe, data."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muybridge.cli.output import finish, print_json, print_pairs, print_table, progress, report_failure

if TYPE_CHECKING:
    from muybridge.models.registry import ModelEntry

DataFormat = Annotated[
    str, typer.Option(help="auto, folder, csv, weizmann or utd_mhad: how labels are found.", metavar="NAME")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")]


def models(
    name: Annotated[str | None, typer.Argument(help="Show this one in full.", metavar="[NAME]")] = None,
    json: Json = False,
) -> None:
    """List the networks: size, work a view, published accuracy."""
    from muybridge.models.registry import MODELS, find

    chosen = MODELS if name is None else {name: find(name)}
    if json:
        for key, entry in chosen.items():
            print_json(_model_row(key, entry))
    elif name is not None:
        row = _model_row(name, chosen[name])
        print_pairs({key.replace("_", " "): _plain(value) for key, value in row.items()})
    else:
        _print_models(chosen)


def env(json: Json = False) -> None:
    """Print what a bug report needs: versions, processor, memory, FFmpeg, disk."""
    from muybridge.environment import describe

    found = describe()
    if json:
        print_json(found.to_dict())
        return
    print_pairs(
        {
            "muybridge": found.muybridge,
            "python": f"{found.python} on {found.platform}",
            "cpu": f"{found.cpu}, {found.cores} cores for us, {found.instructions}",
            "memory": f"{found.memory_gb:g} GB",
            "torch threads": found.threads,
            "accelerators": ", ".join(found.devices) or "none",
            "free disk here": f"{found.free_disk_gb:g} GB",
            "MUYBRIDGE_DATA": found.data_dir or "not set",
            "FFmpeg": ", ".join(f"{library} {version}" for library, version in found.ffmpeg.items()),
            **{library: version or "not installed" for library, version in found.libraries.items()},
        }
    )


def probe(
    files: Annotated[list[Path], typer.Argument(help="Video files.", metavar="FILE")],
    json: Json = False,
) -> None:
    """Say what is in a video file: frames, rate, size, codec."""
    from dataclasses import asdict

    from muybridge.errors import VideoError
    from muybridge.video.decode import probe as probe_video

    infos, num_failed = [], 0
    for file in files:
        try:
            info = probe_video(file)
        except VideoError as error:
            report_failure(error)
            num_failed += 1
        else:
            infos.append(info)
            if json:
                print_json(asdict(info))
    if infos and not json:
        print_table(
            ("file", "frames", "fps", "seconds", "width", "height", "codec", "pixels", "turned", "audio"),
            [
                (
                    info.path,
                    f"{'' if info.exact else 'about '}{info.num_frames}",
                    f"{info.fps:.4g}",
                    f"{info.duration_seconds:.2f}",
                    info.width,
                    info.height,
                    info.codec,
                    info.pixel_format,
                    f"{info.rotation_degrees}\N{DEGREE SIGN}" if info.rotation_degrees else "",
                    "yes" if info.has_audio else "",
                )
                for info in infos
            ],
            right=("frames", "fps", "seconds", "width", "height"),
        )
    finish(num_failed, len(files))


def data(
    root: Annotated[Path, typer.Argument(help="A folder of videos, or a CSV file.", metavar="FOLDER_OR_CSV")],
    format: DataFormat = "auto",
    no_decode: Annotated[
        bool, typer.Option("--no-decode", help="Open the files only; broken frames are not found.")
    ] = False,
    json: Json = False,
) -> None:
    """Look at a data set: classes, groups, sizes; broken files, copies, leaks between splits."""
    from muybridge.config import DataConfig
    from muybridge.data.annotations import read_samples
    from muybridge.data.doctor import check

    samples = read_samples(DataConfig.from_dict({"root": str(root), "format": format}))
    with progress("looking at the videos") as on_progress:
        report = check(
            samples, decode=not no_decode, on_progress=lambda done, total, _: on_progress(done, total)
        )
    if json:
        print_json(report.to_dict())
    else:
        print(report.to_text())
    finish(len(report.broken), report.num_files)
    if not report.ok:
        raise typer.Exit(3)


def _model_row(name: str, entry: "ModelEntry") -> dict[str, Any]:
    """What `muybridge models` says of one network; its weights are never made, only their shapes."""
    import torch

    from muybridge.models.count import count_macs, count_parameters, input_shapes
    from muybridge.models.registry import build
    from muybridge.weights.manifest import of_network

    with torch.device("meta"):
        model = build(name)
    shapes = input_shapes(model)
    return {
        "name": name,
        "summary": entry.summary,
        "paper": entry.paper,
        "year": entry.year,
        "parameters": count_parameters(model),
        "macs_per_view": count_macs(model, *shapes),
        "input": shapes,
        "modalities": list(model.modalities),
        "clip": [spec.to_dict() for spec in model.default_specs],
        "feature_dim": model.feature_dim,
        "stages": list(model.stage_names),
        "arguments": model.arguments,
        "published": entry.accuracy,
        "weights": [public.name for public in of_network(name)],
    }


def _print_models(chosen: "dict[str, ModelEntry]") -> None:
    """A table a paper, each as soon as its networks are counted."""
    papers = dict.fromkeys((entry.year, entry.paper) for entry in chosen.values())
    for year, paper in sorted(papers):
        rows = [_model_row(name, entry) for name, entry in chosen.items() if entry.paper == paper]
        print_table(
            ("name", "parameters", "GMAC a view", "clip", "published", "weights"),
            [
                (
                    row["name"],
                    f"{row['parameters'] / 1e6:.2f} M",
                    f"{row['macs_per_view'] / 1e9:.2f}",
                    " + ".join(_clip_size(shape) for shape in row["input"]),
                    row["published"],
                    _first(row["weights"]),
                )
                for row in rows
            ],
            title=f"{paper}, {year}",
            right=("parameters", "GMAC a view"),
        )
    print("400 classes, width 1. GMAC: 10^9 multiply-adds. Weights: of others, to convert or to build with.")
    print("`muybridge models NAME` shows one in full.")


def _clip_size(shape: list[int]) -> str:
    """An input without its channels: "16x112x112", or "3 of 1x224x224" for three snippets."""
    *snippets, _, frames, height, width = shape
    return "".join(f"{count} of " for count in snippets) + f"{frames}x{height}x{width}"


def _first(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    return " ".join([*names[:1], *([f"+{len(names) - 1}"] if len(names) > 1 else [])])


def _plain(value: object) -> str:
    """A list, a dictionary or a number of one network, readable in one line."""
    if isinstance(value, list):
        separator = "x" if all(isinstance(one, int) for one in value) else " "
        return separator.join(str(one) if isinstance(one, int) else _plain(one) for one in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {one}" for key, one in value.items() if one is not None)
    return f"{value:,}" if isinstance(value, int) and value > 9999 else str(value)
