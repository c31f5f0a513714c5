"""How many bytes does stored flow take, and how far off is it: our stores beside JPEG folders?

    python benchmarks/flow_store.py                       UTD-MHAD RGB, Weizmann, and three clips of UCF101
    python benchmarks/flow_store.py --every 20            every 20th clip of each: minutes instead of an hour
    python benchmarks/flow_store.py --rows rows.jsonl     keeps what each clip gave; a second run goes on

TV-L1 with its default preset at the size of the clips; all sides store the same codes at the same bound of 20
pixels. `error_px` is the mean end-point error against the flow as it was computed, so a lossless store has
that of the quantiser; `error_codes` is the mean difference from the codes. "high" is compared with JPEG 95,
"small" with JPEG 75; `ratio` is the peer's bytes by ours. One JSON line a data set.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from common import machine

from muybridge.flow import estimate
from muybridge.flow.header import QUALITIES, FlowHeader
from muybridge.flow.quantise import dequantise, quantise
from muybridge.flow.store import FlowReader, write_store
from muybridge.video.decode import VideoReader

ROOT = Path(__file__).resolve().parent.parent
CLIPS = Path(os.environ.get("MUYBRIDGE_DATA", ROOT.parent / "shared" / "data"))
BOUND = 20.0
PIECE = 64
JPEGS = (95, 75)
PEERS = {"high": "jpeg_95", "small": "jpeg_75"}
UCF101_PAIRS = 2_400_000  # 13,320 videos of about 180 frames
SETS = {
    "utd_mhad_rgb": "utd_mhad_rgb/*/*.mp4",
    "weizmann": "weizmann/*/*.avi",
    "ucf101_samples": "wild/v_*.avi",
}


def main() -> None:
    """Measures every clip, and prints a line a data set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="*", help=f"of {', '.join(SETS)}; all if left out")
    parser.add_argument("--clips", type=Path, default=CLIPS, help="the folder of real clips (%(default)s)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every N-th clip only")
    parser.add_argument("--rows", type=Path, help="a file that keeps what each clip gave")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="clips at once, one core each")
    asked = parser.parse_args()
    for name in asked.sets or SETS:
        paths = sorted(asked.clips.glob(SETS[name]))[:: asked.every]
        rows = list(measured(paths, asked.rows, asked.jobs))
        print(json.dumps(summary(name, rows) | {"machine": machine()}), flush=True)


def measured(paths: Sequence[Path], kept: Path | None, jobs: int) -> Iterator[dict[str, float]]:
    """A row a clip: of an earlier run where it is kept, else measured now."""
    known = {}
    if kept is not None and kept.is_file():
        known = {row["clip"]: row for row in map(json.loads, kept.read_text().splitlines())}
    yield from (known[path.name] for path in paths if path.name in known)
    missing = [path for path in paths if path.name not in known]
    if not missing:
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for row in pool.map(measure, missing):
            if kept is not None:
                with kept.open("a") as file:
                    print(json.dumps(row), file=file)
            yield row


def measure(path: Path) -> dict[str, object]:
    """Sums over the fields of one clip, of bytes and of errors, for each way to store them."""
    cv2.setNumThreads(1)
    with VideoReader(path, threads=1) as reader:
        frames = reader.read(range(reader.info.num_frames))
    pieces = range(0, len(frames) - 1, PIECE)
    fields = np.concatenate([estimate(frames[i : i + PIECE + 1], num_threads=1) for i in pieces])
    codes = quantise(fields, BOUND)
    row: dict[str, object] = {"clip": path.name, "pairs": len(fields)}
    ways = {f"jpeg_{quality}": partial(jpegs, quality=quality) for quality in JPEGS}
    ways |= {name: partial(store, quality=name) for name in QUALITIES}
    for name, way in ways.items():
        num_bytes, decoded = way(codes)
        apart = dequantise(decoded, BOUND) - fields
        row[name] = {
            "bytes": num_bytes,
            "error_px": float(np.hypot(apart[:, 0], apart[:, 1]).mean(axis=(1, 2)).sum()),
            "error_codes": float(cv2.absdiff(decoded, codes).mean(axis=(1, 2, 3)).sum()),
        }
    return row


def jpegs(codes: np.ndarray, *, quality: int) -> tuple[int, np.ndarray]:
    """Bytes of the pictures alone, without what a file system adds to each file, and what they decode to."""
    decoded = np.empty_like(codes)
    num_bytes = 0
    for field, out in zip(codes, decoded, strict=True):
        for component in range(2):
            _, encoded = cv2.imencode(".jpg", field[component], [cv2.IMWRITE_JPEG_QUALITY, quality])
            num_bytes += len(encoded)
            out[component] = cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)
    return num_bytes, decoded


def store(codes: np.ndarray, *, quality: str) -> tuple[int, np.ndarray]:
    """Bytes of the whole file, header and index included, and what it decodes to."""
    size = codes.shape[2:]
    header = FlowHeader(
        source="",
        source_sha256="0" * 64,
        num_frames=len(codes) + 1,
        fps=25,
        source_size=size,
        size=size,
        method="tvl1",
        parameters={},
        bound=BOUND,
        quality=quality,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.flow"
        with write_store(path, header) as writer:
            writer.add(codes)
        with FlowReader(path) as reader:
            return path.stat().st_size, reader.codes([(i, i + 1) for i in range(len(codes))])


def summary(name: str, rows: Sequence[dict]) -> dict[str, object]:
    """Means over all pairs of a data set."""
    pairs = sum(row["pairs"] for row in rows)
    ways = [key for key in rows[0] if key not in ("clip", "pairs")]
    means = {
        way: {key: round(sum(row[way][key] for row in rows) / pairs, 4) for key in rows[0][way]}
        for way in ways
    }
    compared = [
        {
            "ours": ours,
            "peer": peer,
            "ratio": round(means[peer]["bytes"] / means[ours]["bytes"], 2),
            "no_worse": means[ours]["error_px"] <= means[peer]["error_px"],
        }
        for ours, peer in PEERS.items()
    ]
    line = {"case": f"flow_store_{name}", "clips": len(rows), "pairs": pairs, "a_pair": means}
    line["compared"] = compared
    if name == "ucf101_samples":
        line["ucf101_gb"] = {way: round(means[way]["bytes"] * UCF101_PAIRS / 1e9, 1) for way in ways}
    return line


if __name__ == "__main__":
    main()
