"""Networks with a classifier for each of several data sets (Two-Stream, Sec. 4): how they are tested."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from muybridge.models.contract import VideoModel
from muybridge.predict import VideoScores

__all__ = ["in_own_task"]

LOWEST = np.finfo(np.float32).min


def in_own_task(scores: VideoScores, model: VideoModel, classes: Sequence[int]) -> VideoScores:
    """The scores of a video as they count: among the classes of its own data set.

    The logits of all other classes become the lowest number there is, so that their probability is zero under
    every protocol. A network of one data set has its scores as they are.

    Args:
        scores: of all data sets.
        model: whose scores they are.
        classes: the true classes of the video.
    """
    logits = torch.from_numpy(scores.logits)
    own = model.own_task(logits, torch.full((len(logits),), classes[0]))
    return replace(scores, logits=own.clamp(min=float(LOWEST)).numpy())
