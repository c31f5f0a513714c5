"""Does `muybridge flow` survive kill -9 at any moment, as often as it comes?

    python benchmarks/flow_soak.py                20 kills of a job over rendered clips
    python benchmarks/flow_soak.py --kills 200    a night

The flow of a folder is computed once without a kill. Then the same job is killed again and again, at a
random moment, alone or with all its workers, and started again; where it comes through before its kill, its
folder is emptied and it begins anew. After each kill every store that has its name must be, byte for byte,
the one made without a kill; after a last run all must be there, and nothing else. One JSON line; exits with 1
if something is wrong.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import machine

from muybridge.data.figures import render
from muybridge.flow.source import SUFFIX
from muybridge.flow.store import FlowReader

ACTIONS = ("walk", "jump", "bend")


def main() -> int:
    """Soaks, prints a line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="(%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes of the job (%(default)s)")
    parser.add_argument("--method", default="tvl1", help="of the flow (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        row = soak(Path(folder), asked.kills, asked.workers, asked.method, random.Random(asked.seed))
    print(json.dumps(row | {"machine": machine()}), flush=True)
    return 0 if not (row["damaged"] or row["missing"] or row["left_behind"]) else 1


def soak(folder: Path, kills: int, workers: int, method: str, rng: random.Random) -> dict[str, object]:
    """What was found, in numbers; the last three should be 0."""
    videos, whole, out = folder / "videos", folder / "whole", folder / "flow"
    render(videos, num_groups=2, clips_per_group=1, num_frames=150, short_side_px=128, actions=ACTIONS)
    command = [sys.executable, "-m", "muybridge", "flow", str(videos)]
    command += ["--method", method, "--workers", str(workers), "--out"]
    start = time.monotonic()
    subprocess.run([*command, str(whole)], check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - start
    expected = stores(whole)
    done = half = rounds = damaged = 0
    while done < kills:
        if not killed([*command, str(out)], rng.uniform(0, seconds), rng.choice((os.kill, os.killpg))):
            rounds += 1
            shutil.rmtree(out)
            continue
        done += 1
        half += any(path.name.startswith(".") for path in out.rglob("*"))
        damaged += sum(content != expected[name] for name, content in stores(out).items())
    subprocess.run([*command, str(out)], check=True, stdout=subprocess.DEVNULL)
    made = stores(out)
    return {
        "case": "flow_soak",
        "kills": done,
        "kills_with_half_a_file": half,
        "rounds_finished": rounds,
        "stores": len(made),
        "fields": sum(num_fields(out / name) for name in made),
        "damaged": damaged + sum(content != expected[name] for name, content in made.items()),
        "missing": len(expected.keys() - made.keys()),
        "left_behind": sum(path.is_file() for path in out.rglob("*")) - len(made),
    }


def killed(command: list[str], seconds: float, kill: Callable[[int, int], None]) -> bool:
    """Runs a command; kills it after so many seconds, unless it is through by then, which must be well."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            kill(process.pid, signal.SIGKILL)  # its group has the same number
            return True
    assert code == 0, f"{' '.join(command)} ended with {code}"
    return False


def stores(folder: Path) -> dict[str, bytes]:
    """The files that have their names, by these."""
    paths = (path for path in folder.rglob(f"*{SUFFIX}") if not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def num_fields(path: Path) -> int:
    """Fields of a store, each of them read."""
    with FlowReader(path) as reader:
        return len(reader.codes([(i, i + 1) for i in range(reader.header.num_fields)]))


if __name__ == "__main__":
    sys.exit(main())
