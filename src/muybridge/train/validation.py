"""Testing a network between two epochs, through the one inference loop and a named protocol."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from muybridge.config import ClipSpec, TrainConfig
from muybridge.data.cache import FrameCache
from muybridge.evaluate.tasks import in_own_task
from muybridge.flow.source import FlowStore
from muybridge.models.contract import VideoModel
from muybridge.predict import Broken, run_views
from muybridge.protocol import Protocol, get_protocol
from muybridge.types import Sample

__all__ = ["Validation", "validate", "validation_protocol", "video_loss"]

SMALLEST_PROBABILITY = 1e-12


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What a network reaches on the validation videos that decode.

    Attributes:
        top1: part of the videos whose best score is on a true label.
        loss: mean of `video_loss`.
        num_videos: how many there were.
        broken: files that do not decode, with the reason.
        seconds: what it took.
    """

    top1: float
    loss: float
    num_videos: int
    broken: dict[str, str]
    seconds: float


def validation_protocol(config: TrainConfig) -> Protocol:
    """The protocol of a configuration; with several labels a clip, the views vote for each class alone.

    >>> validation_protocol(TrainConfig.from_dict({"data": {"root": "."}, "loss": "bce"})).aggregation
    'sigmoid_mean'
    """
    protocol = get_protocol(config.protocol)
    if config.loss == "bce" and "/" not in protocol.name:
        return get_protocol(f"{protocol.name}/sigmoid_mean")
    return protocol


def video_loss(probabilities: npt.NDArray[np.float64], truth: Sequence[int], *, each: bool) -> float:
    """What training minimises, of one video's probabilities.

    Args:
        probabilities: [K].
        truth: the true classes.
        each: whether each class has a probability of its own: then it is the mean binary cross entropy over
            the classes, and else -log of what the true ones have together.

    >>> round(video_loss(np.array([0.5, 0.25, 0.25]), [0], each=False), 4)
    0.6931
    """
    p = probabilities.clip(SMALLEST_PROBABILITY, 1.0)
    if not each:
        return -math.log(min(1.0, p[list(truth)].sum()))
    is_true = np.isin(np.arange(len(p)), list(truth))
    right = np.where(is_true, p, np.maximum(1.0 - p, SMALLEST_PROBABILITY))
    return float(-np.log(right).mean())


def validate(
    model: VideoModel,
    samples: Sequence[Sample],
    classes: Sequence[Sequence[int]],
    *,
    protocol: Protocol,
    specs: tuple[ClipSpec, ...],
    accelerator: Accelerator,
    batch_size: int,
    cache: FrameCache | None,
    flow: FlowStore | None,
    asked_to_stop: Callable[[], bool],
) -> Validation:
    """Tests a network; each process takes every n-th video.

    Args:
        model: the network.
        samples: the validation videos.
        classes: the true classes of each.
        protocol: which views are looked at.
        specs: how the network sees a clip, one spec a modality.
        accelerator: the processes and their device.
        batch_size: views at once in one process.
        cache: decoded clips on disk.
        flow: stored flow.
        asked_to_stop: looked at after each video.

    Raises:
        KeyboardInterrupt: a lone process was asked to stop. Several could not agree on where, and go on.
    """
    started = time.perf_counter()
    rank, world_size = accelerator.process_index, accelerator.num_processes
    results = run_views(
        model,
        samples[rank::world_size],
        protocol,
        specs=specs,
        device=accelerator.device,
        batch_size=batch_size,
        skip_broken=True,
        cache=cache,
        flow=flow,
    )
    hits, loss, count = 0, 0.0, 0
    broken: list[tuple[str, str]] = []
    for result, truth in zip(results, classes[rank::world_size], strict=True):
        if isinstance(result, Broken):
            broken.append((result.path, result.reason))
        elif truth:  # with several labels a video may also have none
            probabilities = in_own_task(result, model, truth).probabilities
            hits += int(probabilities.argmax()) in truth
            loss += video_loss(probabilities, truth, each=protocol.aggregation == "sigmoid_mean")
            count += 1
        if world_size == 1 and asked_to_stop():
            raise KeyboardInterrupt
    sums = torch.tensor([hits, loss, count], device=accelerator.device)
    hits_all, loss_all, count_all = accelerator.reduce(sums, reduction="sum").tolist()
    return Validation(
        top1=hits_all / max(1.0, count_all),
        loss=loss_all / max(1.0, count_all),
        num_videos=round(count_all),
        broken=dict(gather_object(broken)),
        seconds=time.perf_counter() - started,
    )
