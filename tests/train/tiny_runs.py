"""What the tests of training share: a run that takes a second or two, and how to look at what it left."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from muybridge.config import AugmentConfig, ClipSpec, DataConfig, ModelConfig, OptimConfig, TrainConfig
from muybridge.models.registry import build

NETWORK = ModelConfig(name="r2plus1d_10", width=1 / 16)
BATCHNORMS = tuple(
    name
    for name, module in build(NETWORK.name, width=NETWORK.width).named_modules()
    if isinstance(module, nn.BatchNorm3d)
)


def tiny_config(root: Path, *, data: dict[str, Any] | None = None, **changes: Any) -> TrainConfig:
    """A run on the figures: 4 frames of 32 x 32, a network of about 60 thousand parameters, no validation.

    With `freeze=BATCHNORMS` a clip's gradient does not depend on the other clips of its batch.
    """
    table = root / "labels.csv"
    values: dict[str, Any] = {
        "data": DataConfig(
            root=str(table if table.is_file() else root), **{"train": ("train", "test"), **(data or {})}
        ),
        "model": NETWORK,
        "clip": (ClipSpec(num_frames=4, frame_stride=None, resize=32, crop=32),),
        "augment": AugmentConfig(flip=False),
        "optim": OptimConfig(lr=0.02),
        "batch_size": 4,
        "epochs": 2,
    }
    return TrainConfig(**(values | changes))


def weights(run_dir: Path, name: str = "last.safetensors") -> dict[str, Tensor]:
    """The tensors of a checkpoint."""
    return load_file(run_dir / name)


def log_lines(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    """Those lines of the log."""
    lines = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Equal, not near."""
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different
