"""How well do small networks of the R(2+1)D family name actions in real clips, trained from scratch on a CPU?

    python benchmarks/real_clips.py weizmann                 leave one person out, 9 folds
    python benchmarks/real_clips.py utd_mhad_depth           R(2+1)D with the package's recipe, 3 seeds
    python benchmarks/real_clips.py variants                 R2D, MC3, R3D, R(2+1)D of equal size, 3 seeds, on
                                                             UTD-MHAD depth, with fewer pixels and epochs
    python benchmarks/real_clips.py line_3d                  C3D, I3D, Non-local, SlowFast on UTD-MHAD depth
    python benchmarks/real_clips.py utd_mhad_depth --choose  judged on a training subject alone

Every run is `muybridge train` and `muybridge eval` with a recipe of the package. The last epoch is what
counts; nothing is chosen by the test subjects. A run that is done already is not done again. One JSON line a
run, then one of the whole; the floor is a nearest neighbour on motion-energy images.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from muybridge.config import TrainConfig
from muybridge.data.annotations import from_utd_mhad, from_weizmann
from muybridge.train.recipes import read_recipe
from muybridge.types import Sample, Size
from muybridge.video.decode import VideoReader

ROOT = Path(__file__).resolve().parent.parent
CLIPS = Path(os.environ.get("MUYBRIDGE_DATA", ROOT.parent / "shared" / "data"))

# About 0.9 million parameters each; R(2+1)D and R3D of one width are equal by construction.
SAME_SIZE = {
    "r2plus1d_10": 0.25,
    "r3d_10": 0.25,
    "mc3_10": 0.418,
    "r2d_10": 0.415,
}


# What each network of the 3D line needs beside the recipe: width, its own arguments, how a clip differs.
LINE_3D: dict[str, tuple[float, dict[str, object], dict[str, object]]] = {
    "c3d": (0.1875, {"bn_eps": 1e-5}, {"frame_stride": 3}),  # an SVM slides windows of neighbouring frames
    "i3d_rgb": (0.35, {}, {}),
    "i3d_r50_nl5": (0.25, {}, {}),
    "slowfast_r50_4x16": (0.25, {"alpha": 4}, {}),
}


def main() -> None:
    """Runs what is asked for and prints it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", choices=["weizmann", "utd_mhad_depth", "variants", "line_3d"])
    parser.add_argument("--clips", type=Path, default=CLIPS, help="the folder of real clips (%(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "runs", help="where the runs go (%(default)s)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--protocol", default="10x1")
    parser.add_argument("--choose", action="store_true", help="hold out subject s7 of the training subjects")
    parser.add_argument("--folds", nargs="+", default=None, help="persons to leave out; all if left out")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at once, one core each")
    parser.add_argument(
        "--train", default="", metavar="FLAGS", help="further flags of muybridge train, in one text"
    )
    asked = parser.parse_args()
    start = time.perf_counter()
    rows = weizmann(asked) if asked.data == "weizmann" else utd_mhad_depth(asked)
    totals: dict[str, list[float]] = {}
    for row in rows:
        totals.setdefault(str(row["model"]), []).append(float(row["top1"]))
    summary = {
        "case": f"{asked.data}{' (choosing)' if asked.choose else ''}",
        "mean": {model: round(statistics.mean(all_of), 4) for model, all_of in totals.items()},
        "lowest": {model: min(all_of) for model, all_of in totals.items()},
        "runs": len(rows),
        "minutes": round((time.perf_counter() - start) / 60, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {asked.jobs} runs at once, one core each",
    }
    print(json.dumps(summary), flush=True)


def weizmann(asked: argparse.Namespace) -> list[dict[str, object]]:
    """Each person is left out once."""
    folder = asked.clips / "weizmann"
    samples = from_weizmann(folder)
    persons = asked.folds or sorted({sample.group for sample in samples})
    model = "r2plus1d_10"
    jobs = []
    for person in persons:
        floor = nearest_neighbour(
            [one for one in samples if one.group != person], [one for one in samples if one.group == person]
        )
        flags = ["--config", "weizmann", "--test", person, "--seed", "0"]
        jobs.append(({"model": model, "fold": person, "floor": floor}, f"weizmann-{person}", flags))
    return run_all(asked, folder, jobs)


def utd_mhad_depth(asked: argparse.Namespace) -> list[dict[str, object]]:
    """Subjects 1, 3, 5, 7 train, 2, 4, 6, 8 test; with --choose 1, 3, 5 train and 7 tests."""
    folder = asked.clips / "utd_mhad_depth"
    samples = from_utd_mhad(folder)
    pool = [one for one in samples if one.split == "train"]
    train = [one for one in pool if one.group != "s7"] if asked.choose else pool
    others = [one for one in samples if one.split == "test"]
    test = [one for one in pool if one.group == "s7"] if asked.choose else others
    floor = nearest_neighbour(train, test)
    held_out = "s2,s4,s6,s8" + (",s7" if asked.choose else "")
    recipes = recipes_of(asked)
    jobs = []
    for seed in asked.seeds:
        for model, recipe in recipes.items():
            flags = ["--config", recipe, "--test", held_out, "--seed", str(seed)]
            name = f"{asked.data}-{'choose-' if asked.choose else ''}{model}-{seed}"
            jobs.append(({"model": model, "seed": seed, "floor": floor}, name, flags))
    return run_all(asked, folder, jobs, only="s7" if asked.choose else held_out)


def recipes_of(asked: argparse.Namespace) -> dict[str, str]:
    """The recipe of each network on UTD-MHAD: the package's, or that with 64 x 64 pixels.

    Of the variants MC3 costs three times what R(2+1)D does, and no run may take over 6 minutes of two cores:
    they have 20 epochs.
    """
    if asked.data == "utd_mhad_depth":
        return {"r2plus1d_10": "utd_mhad_depth"}
    if asked.data == "line_3d":
        return {model: small_recipe(asked.out, model, *row, epochs=25) for model, row in LINE_3D.items()}
    return {model: small_recipe(asked.out, model, width, epochs=20) for model, width in SAME_SIZE.items()}


def small_recipe(
    out: Path,
    model: str,
    width: float,
    arguments: dict[str, object] | None = None,
    clip: dict[str, object] | None = None,
    *,
    epochs: int,
) -> str:
    """Writes the package's recipe for UTD-MHAD with 64 x 64 pixels and another network."""
    recipe = read_recipe("utd_mhad_depth").to_dict()
    for spec in recipe["clip"]:
        spec.update({"resize": 72, "crop": 64, **(clip or {})})
    recipe["data"]["cache"] = str(out.resolve() / "cache")  # decoded once for all runs
    recipe["model"] = {"name": model, "width": width, "arguments": arguments or {}}
    path = out / f"{model}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(TrainConfig.from_dict({**recipe, "epochs": epochs}).to_yaml())
    return str(path)


def run_all(
    asked: argparse.Namespace,
    folder: Path,
    jobs: Sequence[tuple[dict[str, object], str, list[str]]],
    only: str | None = None,
) -> list[dict[str, object]]:
    """Trains and tests, several runs at once; prints each as it ends."""

    def run(job: tuple[dict[str, object], str, list[str]]) -> dict[str, object]:
        facts, name, flags = job
        row = facts | train_and_test(asked, folder, asked.out / name, flags, only)
        print(json.dumps(row), flush=True)
        return row

    with ThreadPoolExecutor(asked.jobs) as pool:
        return list(pool.map(run, jobs))


def train_and_test(
    asked: argparse.Namespace, folder: Path, run: Path, flags: list[str], only: str | None
) -> dict[str, object]:
    """One run of the command line, from the recipe to the numbers of its last epoch."""
    numbers = run / "test" / "numbers.json"
    if numbers.is_file():
        return json.loads(numbers.read_text())
    start = time.perf_counter()
    command = ["train", "--data", str(folder), "--out", str(run)]
    muybridge([*command, *flags, *shlex.split(asked.train)])
    trained = time.perf_counter() - start
    test = ["eval", "--weights", str(run / "last.safetensors"), "--protocol", asked.protocol, "--json"]
    test += ["--out", str(run / "test"), *(["--groups", only] if only else [])]
    found = json.loads(muybridge(test))
    row = {
        key: found[key]
        for key in ("top1", "mean_class_accuracy", "interval95", "views", "spec", "num_samples")
    }
    row |= {"train_minutes": round(trained / 60, 2), "minutes": round((time.perf_counter() - start) / 60, 2)}
    numbers.write_text(json.dumps(row))
    return row


def muybridge(arguments: list[str]) -> str:
    """The command on one core; its output."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "muybridge", *arguments], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"muybridge {' '.join(arguments)}\n{done.stderr}")
    return done.stdout


def nearest_neighbour(train: Sequence[Sample], test: Sequence[Sample]) -> float:
    """The floor: accuracy of one nearest neighbour on motion-energy images of 32 x 24 pixels."""
    known = np.stack([motion_energy(sample) for sample in train])
    right = 0
    for sample in test:
        distances = np.square(known - motion_energy(sample)).sum((1, 2))
        right += train[int(distances.argmin())].labels == sample.labels
    return round(right / len(test), 4)


_ENERGIES: dict[Path, np.ndarray] = {}


def motion_energy(sample: Sample) -> np.ndarray:
    """Mean absolute difference of neighbouring frames, [24, 32], of unit sum."""
    if sample.path not in _ENERGIES:
        with VideoReader(sample.path) as reader:
            frames = reader.read(range(reader.info.num_frames), size=Size(96, 128)).mean(3)
        energy = cv2.resize(np.abs(np.diff(frames, axis=0)).mean(0), (32, 24), interpolation=cv2.INTER_AREA)
        _ENERGIES[sample.path] = energy / max(float(energy.sum()), 1e-6)
    return _ENERGIES[sample.path]


if __name__ == "__main__":
    main()
