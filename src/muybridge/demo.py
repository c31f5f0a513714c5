"""The whole road in a few minutes, with nothing but this package: `muybridge demo`.

Figures are rendered to video files, a small network learns their actions from some people and is tested on
others, one video of these is recognised, and a report shows all of it. What is there is not done again.
"""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from muybridge.config import TrainConfig
from muybridge.data.figures import render
from muybridge.environment import available_cores
from muybridge.evaluate.report import make_example, write_report
from muybridge.evaluate.result import Evaluation
from muybridge.evaluate.run import evaluate
from muybridge.models.count import count_parameters
from muybridge.predict import recognize
from muybridge.train.checkpoint import has_state
from muybridge.train.run import train
from muybridge.types import Prediction, Sample
from muybridge.weights.store import load

__all__ = ["RECIPE", "DemoResult", "run"]

RECIPE = resources.files("muybridge") / "recipes" / "figures.yaml"
PROTOCOL = "10x1"  # what the report's number is made of


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demonstration left behind.

    Attributes:
        report: the HTML file.
        run_dir: the trained network and its log.
        evaluation: the test on people that training has not seen.
        prediction: what the network says about one of their videos.
        truth: what that video shows.
    """

    report: Path
    run_dir: Path
    evaluation: Evaluation
    prediction: Prediction
    truth: str


def run(
    out: Path | str = "demo",
    *,
    seed: int = 0,
    epochs: int | None = None,
    num_groups: int = 10,
    clips_per_group: int = 2,
    recipe: Path | None = None,
    say: Callable[[str], None] = print,
) -> DemoResult:
    """Renders, trains, tests, recognises and reports; all files lie in `out`.

    Args:
        out: a folder; a second run in it goes on where the first one ended.
        seed: fixes the videos and the training.
        epochs: passes over the training videos; None takes the recipe's.
        num_groups: people in the videos; the last three of ten are the test.
        clips_per_group: videos of each action by each of them.
        recipe: settings of the training; None takes those of the package.
        say: given a line for people at each step.

    Raises:
        DataError: `out` holds figures of another seed.
        TrainingError: `out` holds a run with other settings.
        StorageError: the disk is full.
    """
    out = Path(out)
    say(f"1/4  rendering figures to {out / 'figures'}")
    samples = render(
        out / "figures",
        seed=seed,
        num_groups=num_groups,
        num_workers=available_cores(),
        on_progress=_every(say),
    )
    test = [sample for sample in samples if sample.split == "test"]
    config = demo_config(out, recipe, seed=seed, epochs=epochs)
    say(f"2/4  training {config.model.name} on {len(samples) - len(test)} videos, {config.epochs} epochs")
    run_dir = out / "run"
    train(config, run_dir, resume=has_state(run_dir))
    say(f"3/4  testing on {len(test)} videos of people it has never seen, protocol {PROTOCOL}")
    model = load(run_dir)
    evaluation = evaluate(model, test, protocol=PROTOCOL)
    evaluation.save(out / "evaluation")
    say(evaluation.text())
    shown = test[seed % len(test)]
    prediction = recognize(shown, model, protocol=PROTOCOL)
    say(f"4/4  recognising {shown.path}: {prediction.label}, {prediction.score:.1%} (it is {shown.label})")
    report = out / "report.html"
    write_report(
        report,
        title="muybridge: the whole road on rendered figures",
        evaluation=evaluation,
        examples=[make_example(shown, prediction)],
        log=_log_rows(run_dir / "log.jsonl"),
        facts={"parameters": f"{count_parameters(model) / 1e6:.2f} M", "seed": str(seed)},
        notes=[_note(samples, test)],
    )
    return DemoResult(
        report=report, run_dir=run_dir, evaluation=evaluation, prediction=prediction, truth=shown.label
    )


def demo_config(out: Path, recipe: Path | None, *, seed: int, epochs: int | None) -> TrainConfig:
    """The recipe, pointed to the rendered figures."""
    with nullcontext(recipe) if recipe is not None else resources.as_file(RECIPE) as path:
        chosen = TrainConfig.from_yaml(path)
    data = chosen.data.model_copy(update={"root": str(out / "figures"), "cache": str(out / "cache")})
    return chosen.model_copy(update={"data": data, "seed": seed, "epochs": epochs or chosen.epochs})


def _every(say: Callable[[str], None], share: float = 0.25) -> Callable[[int, int], None]:
    """Tells of progress at each quarter."""
    told = [0.0]

    def on_progress(done: int, total: int) -> None:
        if done / total >= told[0] + share or done == total:
            told[0] = done / total
            say(f"     {done} of {total} videos")

    return on_progress


def _log_rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _note(samples: list[Sample], test: list[Sample]) -> str:
    people = len({sample.group for sample in samples})
    testers = len({sample.group for sample in test})
    return (
        f"{len(samples)} videos of {people} rendered people. The network was trained on {people - testers} "
        f"of them and tested on the {testers} others, whom it had never seen."
    )
