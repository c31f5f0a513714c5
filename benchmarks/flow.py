"""How fast is optical flow on a CPU, and how far off is it?

    python benchmarks/flow.py                      the speed cases, then the trade-off
    python benchmarks/flow.py --plot flow.png      and draws the trade-off

  tvl1_320x240, tvl1_640x480   pairs of real frames: OpenCV's DualTVL1 against TV-L1 of each preset, both on
                               all cores: ours works on as many pairs at once, OpenCV within each pair
  trade_off_320x240            milliseconds a pair and mean end-point error on known motions of real frames,
                               for each preset of TV-L1, Brox, Farneback and DIS, and for OpenCV's TV-L1

Checked first: on every known motion `accurate` errs no more than OpenCV's TV-L1, `opencv` at most 0.01 pixels
more, `fast` at most 0.05; on the real pairs the median difference between preset `opencv` and OpenCV is
below 0.05 pixels. The known motions are those of the tests: translations up to 6 pixels, rotation, zoom,
smooth random fields; the second frame of a pair is real, the first one is it, moved.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from common import in_turn, machine, report

from muybridge.environment import available_cores
from muybridge.flow import estimate, presets
from muybridge.flow.tvl1 import compile_kernels
from muybridge.types import Size
from muybridge.video.decode import VideoReader

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "flow"))
from motions import endpoint_error, known_motions, moved, opencv_tvl1  # noqa: E402

CLIPS = Path(os.environ.get("MUYBRIDGE_DATA", ROOT.parent / "shared" / "data"))
NUM_FRAMES = 9
SPEED = {  # clips whose frames have that size or more, and where they start
    Size(240, 320): {
        "wild/v_BaseballPitch_g01_c01.avi": 20,
        "wild/v_Biking_g06_c03.avi": 20,
        "utd_mhad_rgb/clap/a4_s1_t1_color.mp4": 15,
        "utd_mhad_rgb/throw/a5_s3_t2_color.mp4": 15,
    },
    Size(480, 640): {"wild/bt709_full_range.mp4": 4, "wild/corrupted.mp4": 2},
}
MOTIONS = ["wild/v_BaseballPitch_g01_c01.avi", "wild/v_Biking_g06_c03.avi"]
ALLOWED = {"accurate": 0.0, "opencv": 0.01, "fast": 0.05}  # pixels worse than OpenCV on a known motion
TIMED = ("opencv", "accurate", "fast")


def main() -> None:
    """Checks, times, prints a JSON line a case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--clips", type=Path, default=CLIPS, help="the folder of real clips (%(default)s)")
    parser.add_argument("--plot", type=Path, help="draw the trade-off into this file")
    asked = parser.parse_args()
    cv2.setNumThreads(available_cores())
    print(json.dumps({"case": "compile_or_read_kernels", "seconds": round(compile_kernels(), 2)}), flush=True)
    points = trade_off(asked.clips, asked.rounds)
    if asked.plot is not None:
        plot(points, asked.plot)
    for size in SPEED:
        speed(asked.clips, size, asked.rounds)


def real_frames(path: Path, first: int, size: Size) -> np.ndarray:
    """Successive frames of a clip, resized where they are larger, as RGB of equal channels."""
    with VideoReader(path) as reader:
        frames = reader.read(range(first, first + NUM_FRAMES), size=size)
    greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    return np.repeat(np.stack(greys)[..., None], 3, axis=3)


def by_opencv(frames: np.ndarray) -> np.ndarray:
    """OpenCV's TV-L1 on each pair, [T - 1, 2, H, W]."""
    greys = frames[..., 0]
    return np.stack([opencv_tvl1(a, b) for a, b in itertools.pairwise(greys)])


def speed(clips: Path, size: Size, rounds: int) -> None:
    """Times whole runs of frames of every clip."""
    runs = [real_frames(clips / name, first, size) for name, first in SPEED[size].items()]
    num_pairs = sum(len(frames) - 1 for frames in runs)
    for frames in runs:
        apart = np.hypot(*(estimate(frames, preset="opencv") - by_opencv(frames)).swapaxes(0, 1))
        assert np.median(apart) < 0.05, f"preset opencv is {np.median(apart):.3f} px from OpenCV"
    for preset in TIMED:
        ours_seconds, peer_seconds = in_turn(
            lambda: [estimate(frames, preset=preset) for frames in runs],  # noqa: B023
            lambda: [by_opencv(frames) for frames in runs],
            rounds=rounds,
        )
        report(
            f"tvl1_{size.width}x{size.height}",
            ours_seconds / num_pairs,
            "opencv_tvl1",
            peer_seconds / num_pairs,
            preset=preset,
            pairs=num_pairs,
        )


def trade_off(clips: Path, rounds: int) -> list[dict[str, object]]:
    """Milliseconds a pair and end-point error, a JSON line a method."""
    size = Size(240, 320)
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {"OpenCV TV-L1": by_opencv}
    for method in ("tvl1", "brox", "farneback", "dis"):
        for preset in presets(method):
            ways[f"{method} {preset}"] = lambda frames, m=method, p=preset: estimate(
                frames, method=m, preset=p
            )
    pairs = []
    for name in MOTIONS:
        frame = real_frames(clips / name, SPEED[size][name], size)[0]
        for motion, flow in known_motions(*size):
            before, inside = moved(frame[..., 0], flow)
            pairs.append((motion, np.stack([np.repeat(before[..., None], 3, axis=2), frame]), flow, inside))
    errors = {
        way: [endpoint_error(find(frames)[0], flow)[inside].mean() for _, frames, flow, inside in pairs]
        for way, find in ways.items()
    }
    for preset, allowed in ALLOWED.items():
        for (motion, *_), error, theirs in zip(
            pairs, errors[f"tvl1 {preset}"], errors["OpenCV TV-L1"], strict=True
        ):
            assert error <= theirs + allowed, f"{preset} on {motion}: {error:.3f} px, OpenCV {theirs:.3f}"
    run = np.concatenate([frames for _, frames, _, _ in pairs[:8]])
    points = []
    for way, find in ways.items():
        find(run)
        times = []
        for _ in range(1 if find is by_opencv else rounds):
            start = time.perf_counter()
            find(run)
            times.append((time.perf_counter() - start) / (len(run) - 1))
        point = {
            "case": "trade_off_320x240",
            "method": way,
            "ms": round(1000 * statistics.median(times), 2),
            "error_px": round(float(np.mean(errors[way])), 4),
            "worst_px": round(float(np.max(errors[way])), 3),
        }
        print(json.dumps(point | {"machine": machine()}), flush=True)
        points.append(point)
    return points


def plot(points: list[dict[str, object]], path: Path) -> None:
    """Time against error, a dot a method."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for point in points:
        family = str(point["method"]).split()[0]
        color = {"tvl1": "C0", "farneback": "C1", "dis": "C2", "brox": "C4"}.get(family, "C3")
        axes.scatter(point["ms"], point["error_px"], color=color)
        place = (5, -12) if str(point["method"]).endswith("cuda") else (5, 4)
        axes.annotate(
            str(point["method"]),
            (point["ms"], point["error_px"]),
            place,
            textcoords="offset points",
            fontsize=8,
        )
    axes.set(
        xscale="log", yscale="log", xlabel="milliseconds a pair, 320 x 240", ylabel="mean end-point error, px"
    )
    axes.set_xlim(right=5 * max(float(str(point["ms"])) for point in points))
    axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
