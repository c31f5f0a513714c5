"""Verbs that train and test: train, eval."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muybridge.cli.inspection import DataFormat, Json
from muybridge.cli.output import finish, print_json, progress, report_failure, say
from muybridge.errors import DataError, TrainingError

if TYPE_CHECKING:
    from muybridge.config import TrainConfig
    from muybridge.train.run import TrainResult
    from muybridge.types import Sample

# What may change when a run is resumed: where its videos are and how they are loaded.
FREE = frozenset((("data", "root"), ("data", "max_broken"), ("data", "num_workers"), ("data", "flow")))


def train(
    data: Annotated[
        Path | None, typer.Option(help="A folder of videos, or a CSV file.", metavar="FOLDER_OR_CSV")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Settings, such as the config.yaml of a run; flags win over it.", metavar="FILE.yaml"
        ),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with this run, to the same bits.", metavar="RUN")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; a new one in runs/ if left out.", metavar="RUN")
    ] = None,
    model: Annotated[str | None, typer.Option(help="See muybridge models.", metavar="NAME")] = None,
    width: Annotated[float | None, typer.Option(help="Scales every channel count.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training videos.", min=1)] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Clips a step, over all processes together.", min=1)
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Fixes the run.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32, or bf16.", metavar="NAME")] = None,
    init: Annotated[
        Path | None, typer.Option(help="Take the trunk of this network.", metavar="RUN_OR_FILE")
    ] = None,
    freeze: Annotated[
        str | None, typer.Option(help="Parts that do not train, such as stem,stages.0.", metavar="NAMES")
    ] = None,
    head_epochs: Annotated[
        int | None,
        typer.Option(help="With --init: train the head alone for so many of the epochs first.", min=0),
    ] = None,
    val: Annotated[
        str | None, typer.Option(help="Groups or splits that choose the best epoch.", metavar="NAMES")
    ] = None,
    test: Annotated[
        str | None, typer.Option(help="Groups or splits that training must not touch.", metavar="NAMES")
    ] = None,
    max_broken: Annotated[
        float | None,
        typer.Option(help="Part of the files that may fail before the run does.", metavar="FRACTION"),
    ] = None,
    num_workers: Annotated[
        int | None, typer.Option(help="Processes that load videos; 0 loads in the training process.", min=0)
    ] = None,
    flow: Annotated[
        Path | None,
        typer.Option(help="Stored flow; what is missing is computed and kept there.", metavar="DIR"),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads that torch computes with.", min=1)] = None,
    json: Json = False,
) -> None:
    """Train a network on your videos; --data alone chooses the rest and says so."""
    flags = {
        ("model", "name"): model,
        ("model", "width"): width,
        ("epochs",): epochs,
        ("batch_size",): batch_size,
        ("optim", "lr"): lr,
        ("seed",): seed,
        ("precision",): precision,
        ("init",): None if init is None else str(init),
        ("freeze",): _names(freeze),
        ("head_epochs",): head_epochs,
        ("data", "root"): None if data is None else str(data),
        ("data", "val"): _names(val),
        ("data", "test"): _names(test),
        ("data", "max_broken"): max_broken,
        ("data", "num_workers"): num_workers,
        ("data", "flow"): None if flow is None else str(flow),
    }
    given = {place: value for place, value in flags.items() if value is not None}
    _check_usage(given, config=config, resume=resume, out=out)

    import torch

    from muybridge.train.recipes import read_recipe
    from muybridge.train.run import train as fit

    if threads is not None:
        torch.set_num_threads(threads)
    if resume is not None:
        run_dir, base = resume, _settings_of(resume)
    elif config is not None:
        run_dir, base = out or _free_folder(config), read_recipe(str(config))
    else:
        run_dir = out or _free_folder(Path(str(data)))
        base = _defaults(data, run_dir, init, model, seed)
    settings = _with_flags(base, given)
    if given and _first_process():
        say("as asked: " + ", ".join(f"{'.'.join(place)} {value}" for place, value in given.items()))
    result = fit(settings, run_dir, resume=resume is not None)
    if _first_process():
        if json:
            print_json(_plain_result(result))
        else:
            print(result.best_path)


def _names(text: str | None) -> list[str] | None:
    """The names of a list joined by commas."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _first_process() -> bool:
    """Of several that torch.distributed.run has started, only the first one talks."""
    return os.environ.get("RANK", "0") == "0"


def _check_usage(
    given: Collection[tuple[str, ...]],
    *,
    config: Path | None,
    resume: Path | None,
    out: Path | None,
) -> None:
    """What to train on is said once; a run goes on as it began."""
    if resume is None and config is None and ("data", "root") not in given:
        raise typer.BadParameter(
            "say what to train on: --data FOLDER_OR_CSV, --config FILE_OR_RECIPE or --resume RUN",
            param_hint="--data",
        )
    if resume is not None and (config is not None or out is not None or set(given) - FREE):
        raise typer.BadParameter(
            "a run goes on as it began: "
            "beside it only --data, --flow, --max-broken, --num-workers, --threads",
            param_hint="--resume",
        )
    if resume is None and out is None and "WORLD_SIZE" in os.environ:
        raise typer.BadParameter("several processes need the name of their common run", param_hint="--out")


def _settings_of(run_dir: Path) -> "TrainConfig":
    settings = config_of_run(run_dir)
    if settings is None:
        raise TrainingError(f"nothing to resume in {run_dir}: there is no config.yaml; start with --data")
    return settings


def _defaults(
    data: Path | None, run_dir: Path, init: Path | None, model: str | None, seed: int | None
) -> "TrainConfig":
    """What the library chooses for these videos and this machine; prints what it says of it."""
    from muybridge.train.defaults import default_config

    chosen, reasons = default_config(str(data), run_dir=run_dir, init=init, model=model, seed=seed or 0)
    if _first_process():
        for reason in reasons:
            say(f"chosen: {reason}")
    return chosen


def _with_flags(base: "TrainConfig", given: Mapping[tuple[str, ...], object]) -> "TrainConfig":
    """The settings with the flags in them. A network of another name takes no arguments of the old one."""
    from muybridge.config import TrainConfig

    values = base.to_dict()
    if given.get(("model", "name"), base.model.name) != base.model.name:
        values["model"]["arguments"] = {}
    for place, value in given.items():
        part = values
        for key in place[:-1]:
            part = part[key]
        part[place[-1]] = value
    return TrainConfig.from_dict(values)


def _free_folder(named_after: Path) -> Path:
    """A new folder in runs/, named after the data set or the settings; with a number where that is taken."""
    name = named_after.resolve().stem
    free, number = Path("runs") / name, 1
    while free.exists():
        number += 1
        free = Path("runs") / f"{name}-{number}"
    return free


def _plain_result(result: "TrainResult") -> dict[str, Any]:
    return {
        "run": str(result.run_dir),
        "weights": str(result.best_path),
        "best_epoch": result.best_epoch,
        "val_top1": result.val_top1,
        "val_loss": result.val_loss,
        "labels": list(result.labels),
        "num_train": result.num_train,
        "num_val": result.num_val,
        "broken": result.broken,
        "skipped_steps": result.skipped_steps,
        "seconds": round(result.seconds, 3),
    }


def evaluate(
    weights: Annotated[
        Path, typer.Option(help="A run of muybridge train, or a checkpoint.", metavar="RUN_OR_FILE")
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="A folder of videos or a CSV file; the run's own if left out.", metavar="FOLDER_OR_CSV"
        ),
    ] = None,
    format: DataFormat = "auto",
    protocol: Annotated[
        str,
        typer.Option(help="Which views: center (1, fast), 10x1, NxM, m_twi (long videos).", metavar="NAME"),
    ] = "center",
    segments: Annotated[
        int | None,
        typer.Option(help="Snippets a view, as 1 for TSN's lone ones; the network's own if left out.", min=1),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            "--groups",
            "--split",
            help="Groups or splits to test on, joined by commas; if left out: the run's test part, the split "
            "test, or all.",
            metavar="NAMES",
        ),
    ] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="List videos that cannot be read instead of stopping.")
    ] = False,
    flow: Annotated[
        Path | None, typer.Option(help="Stored flow; the run's own if left out.", metavar="DIR")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for all scores and numbers.", metavar="FOLDER")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Also write this page with pictures.", metavar="FILE.html")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Views that go through the network at once.", min=1)] = 8,
    json: Json = False,
) -> None:
    """Test a network on labelled videos under a named protocol."""
    from muybridge.config import DataConfig
    from muybridge.data.annotations import read_samples
    from muybridge.data.dataset import stored_flow
    from muybridge.evaluate.report import write_report
    from muybridge.evaluate.run import evaluate as test
    from muybridge.predict.loop import specs_of
    from muybridge.weights.store import load

    trained = config_of_run(weights)
    if data is not None:
        source = DataConfig.from_dict({"root": str(data), "format": format})
    elif trained is not None:
        source = trained.data
    else:
        raise DataError(f"{weights} does not say what it was trained on: give --data FOLDER_OR_CSV")
    if flow is not None:
        source = source.model_copy(update={"flow": str(flow)})
    names = _names(groups) or (() if trained is None or data is not None else trained.data.test)
    samples = choose_samples(read_samples(source), names)
    model = load(weights)
    specs = specs_of(model)
    if segments is not None:
        specs = tuple(spec.model_copy(update={"num_segments": segments}) for spec in specs)
    with progress("testing") as on_progress:
        result = test(
            model,
            samples,
            protocol=protocol,
            specs=specs,
            batch_size=batch_size,
            skip_broken=skip_broken,
            flow=stored_flow(source),
            on_progress=on_progress,
        )
    for broken in result.broken:
        report_failure(broken.reason)
    if out is not None:
        result.save(out)
    if report is not None:
        write_report(report, title=f"{weights} on {source.root}", evaluation=result)
    if json:
        print_json(result.numbers())
    else:
        print(result.text())
    finish(len(result.broken), len(samples))


def config_of_run(weights: Path) -> "TrainConfig | None":
    """What a run folder was trained with; None for a checkpoint that lies alone."""
    from muybridge.config import TrainConfig

    path = (weights if weights.is_dir() else weights.parent) / "config.yaml"
    return TrainConfig.from_yaml(path) if path.is_file() else None


def choose_samples(samples: Sequence["Sample"], names: Sequence[str]) -> list["Sample"]:
    """The samples to test on.

    Args:
        samples: the whole data set.
        names: groups or splits; none takes the split "test", and if there is none, everything, and says so.

    Raises:
        DataError: a name that no sample has.
    """
    known = {name for sample in samples for name in (sample.group, sample.split) if name}
    if unknown := [name for name in names if name not in known]:
        found = ", ".join(sorted(known)) or "none"
        raise DataError(f"there is no group or split '{unknown[0]}'; the data set has: {found}")
    if not names and "test" not in known:
        say(
            f"testing on all {len(samples)} videos: there is no split 'test'. If training has seen some of "
            "them, the number says little; --groups names those it has not seen"
        )
        return list(samples)
    wanted = set(names or ("test",))
    return [sample for sample in samples if {sample.group, sample.split} & wanted]
