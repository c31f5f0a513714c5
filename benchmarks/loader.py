"""Does one process load clips faster than a small training run takes them, and than a plain loader does?

    python benchmarks/loader.py                        the embedded figures at 320 x 240
    python benchmarks/loader.py --data FOLDER          clips of one's own, such as utd_mhad_depth

Cases, in milliseconds a clip (16 frames out of the whole video, short side 80, random 72 x 72):
  loader_clips_per_s_decode, loader_clips_per_s_cache
      our loader, decoding each time or on a filled cache; the peer decodes the whole file with OpenCV's
      VideoCapture, then resizes and cuts in torch, clip after clip in one process
  loader_feeds_training_decode, loader_feeds_training_cache
      our loader; the "peer" is a training step of R(2+1)D-10 with 0.9 million parameters on the same cores.
      Above 1 the loader is not what the training waits for; decoding takes cores from it all the same

Both sides load the same views, and their tensors are compared first. Ours runs in the training process with
one background thread (`num_workers: 0`). The sides take turns; medians.
"""

import argparse
import itertools
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from common import in_turn, report
from torch import Tensor

from muybridge.config import AugmentConfig, ClipSpec, DataConfig
from muybridge.data.annotations import label_names, read_samples
from muybridge.data.cache import FrameCache
from muybridge.data.dataset import Item, ViewDataset
from muybridge.data.figures import render
from muybridge.data.loader import Loader, epoch_order
from muybridge.data.views import plan_random_view, video_info
from muybridge.types import Sample, View
from muybridge.weights.store import build

SPEC = ClipSpec(num_frames=16, frame_stride=None, resize=80, crop=72)
AUGMENT = AugmentConfig()
BATCH = 16
MEAN_LEVELS = (
    2.0  # the sides may differ by so many levels of 255 on average: two resizers, two colour converters
)


def main() -> int:
    """Compares, times and prints; 1 if the tensors differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a folder of videos (default: the embedded figures)")
    parser.add_argument("--clips", type=int, default=96, help="clips an epoch (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="timed epochs a side (%(default)s)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        samples = _samples(asked.data, Path(folder), asked.clips)
        plain = _dataset(samples, None)
        cached = _dataset(samples, FrameCache(Path(folder) / "cache"))
        difference = statistics.mean(_difference(plain, index) for index in range(0, len(samples), 8))
        print(f"mean difference: {difference:.2f} levels of 255", file=sys.stderr)
        if difference > MEAN_LEVELS:
            print(f"that is more than {MEAN_LEVELS}: nothing was timed", file=sys.stderr)
            return 1
        step = _training_step(plain)
        for name, dataset in (("decode", plain), ("cache", cached)):
            epochs = {side: itertools.count() for side in ("ours", "peer")}
            ours, peer = in_turn(
                lambda dataset=dataset, epochs=epochs: _load_ours(dataset, next(epochs["ours"])),
                lambda epochs=epochs: _load_naively(plain, next(epochs["peer"])),
                rounds=asked.rounds,
            )
            _report(
                f"loader_clips_per_s_{name}", ours / len(samples), "opencv_whole_file", peer / len(samples)
            )
            ours, peer = in_turn(
                lambda dataset=dataset, epochs=epochs: _load_ours(dataset, next(epochs["ours"])),
                step,
                rounds=asked.rounds,
            )
            _report(f"loader_feeds_training_{name}", ours / len(samples), "step_of_r2plus1d_10", peer / BATCH)
    return 0


def _samples(data: Path | None, folder: Path, num_clips: int) -> list[Sample]:
    if data is None:
        return render(folder / "figures", num_groups=2, clips_per_group=4, short_side_px=240)[:num_clips]
    samples = read_samples(DataConfig(root=str(data)))
    return samples[:: max(1, len(samples) // num_clips)][:num_clips]


def _dataset(samples: list[Sample], cache: FrameCache | None) -> ViewDataset:
    return ViewDataset(samples, label_names(samples), (SPEC,), AUGMENT, seed=0, cache=cache)


def _load_ours(dataset: ViewDataset, epoch: int) -> None:
    with Loader(dataset, batch_size=BATCH, seed=0) as loader:
        for batch in loader.epoch(epoch):
            assert not batch.broken


def _load_naively(dataset: ViewDataset, epoch: int) -> None:
    order = epoch_order(len(dataset), epoch, seed=0)
    for first in range(0, len(order), BATCH):
        views = [(index, _view(dataset, epoch, index)) for index in order[first : first + BATCH]]
        torch.stack([_naive_clip(dataset.samples[index].path, view) for index, view in views])


def _view(dataset: ViewDataset, epoch: int, index: int) -> View:
    """The view that the dataset plans too."""
    sample = dataset.samples[index]
    rng = random.Random(f"{dataset.seed}/{epoch}/{index}")
    return plan_random_view(video_info(sample.path), sample, SPEC, AUGMENT, rng)


def _naive_clip(path: Path, view: View) -> Tensor:
    """Shape: [3, T, crop, crop]."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        found, frame = capture.read()
        if not found:
            break
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    capture.release()
    picked = torch.from_numpy(np.stack([frames[index] for index in view.indices[0]])).permute(0, 3, 1, 2)
    resized = F.interpolate(picked.float(), view.size, mode="bilinear", antialias=True, align_corners=False)
    top, left, height, width = view.box
    cut = resized[..., top : top + height, left : left + width]
    cut = cut.flip(-1) if view.flip else cut
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (SPEC.mean, SPEC.std))
    return ((cut / 255 - mean) / std).transpose(0, 1)


def _difference(dataset: ViewDataset, index: int) -> float:
    """Of one clip: mean absolute difference, in levels of 255."""
    item = dataset[0, index]
    assert isinstance(item, Item)
    naive = _naive_clip(dataset.samples[index].path, _view(dataset, 0, index))
    return ((item.inputs[0] - naive).abs() * torch.tensor(SPEC.std).view(3, 1, 1, 1)).mean().item() * 255


def _training_step(dataset: ViewDataset) -> Callable[[], None]:
    """A step on one batch."""
    network = build("r2plus1d_10", num_classes=len(dataset.labels), width=0.25)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    inputs = torch.randn(BATCH, 3, SPEC.num_frames, SPEC.crop, SPEC.crop)
    target = torch.zeros(BATCH, dtype=torch.int64)

    def step() -> None:
        F.cross_entropy(network(inputs), target).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _report(case: str, ours_seconds: float, peer: str, peer_seconds: float) -> None:
    report(case, ours_seconds, peer, peer_seconds, ours_clips_per_s=round(1 / ours_seconds, 1))


if __name__ == "__main__":
    sys.exit(main())
