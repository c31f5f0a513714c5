"""Temporal Segment Networks (arXiv:1608.00859, arXiv:1705.02953): how the scores of snippets become one.

Where to find the papers here:
    the segmental consensus, in front of the softmax                    `SegmentHead`
    average, max and top-K pooling                                      `Average`, `TopK`
    linear weighting                                                    `Linear`
    attention weighting                                                 `Attention`
    M-TWI: multi-scale temporal window integration, untrimmed video     `window_scores`, `integrate_windows`

Deviation: the weights of linear weighting are trained with all others; the paper takes turns.
Deviation: attention sees the features in front of dropout; the paper does not say.
Deviation: windows of l seconds are ceil(0.8 l) apart, as in the authors' code; the paper's 0.8 l seconds are
    no whole number of snippets, of which there is one a second.
Deviation: of K = max(15, a quarter of the windows) the quarter rounds up, as in the paper; the authors' code
    rounds down.

Shape letters: B clips, S segments, D features, K classes, M snippets of a video, V crops of a snippet,
N windows.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from muybridge.errors import ConfigError
from muybridge.models.contract import check_choices

Consensus = Literal["average", "max", "top_k", "linear", "attention"]

WINDOW_SECONDS = (1, 2, 4, 8, 16)
LEAST_WINDOWS = 15  # of a length: so many, if there are, have a say


class SegmentHead(nn.Module):
    """Dropout and a fully connected layer for each snippet, and one answer of all of their scores.

    One snippet alone is answered by its own scores, whatever the consensus: so are the 25 snippets of a test.

    Args:
        feature_dim: D.
        num_classes: K.
        dropout: of the features; each snippet has a mask of its own.
        consensus: "average", "max", "top_k", "linear" or "attention".
        num_segments: S, which linear weighting fixes.
        top_k: of "top_k", the snippets that count, of each class the best ones.

    Shape:
        input  [B, S, D], or [B, D] for one snippet
        output [B, K]

    >>> head = SegmentHead(6, 5, consensus="attention", num_segments=3)
    >>> head(torch.zeros(2, 3, 6)).shape, head(torch.zeros(2, 6)).shape
    (torch.Size([2, 5]), torch.Size([2, 5]))
    """

    def __init__(
        self,
        feature_dim: int,
        num_classes: int,
        *,
        dropout: float = 0.0,
        consensus: Consensus = "average",
        num_segments: int = 3,
        top_k: int = 3,
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(feature_dim, num_classes)
        self.consensus = make_consensus(
            consensus, feature_dim=feature_dim, num_segments=num_segments, top_k=top_k
        )
        nn.init.normal_(self.fc.weight, std=0.001)  # of the authors' code
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        features = x[:, None] if x.ndim == 2 else x
        scores: Tensor = self.fc(self.dropout(features.flatten(0, 1)))
        scores = scores.view(*features.shape[:2], -1)  # [B, S, K]
        if scores.shape[1] == 1:
            return scores[:, 0]
        answer: Tensor = self.consensus(scores, features)
        return answer


def make_consensus(
    consensus: Consensus, *, feature_dim: int, num_segments: int, top_k: int
) -> "Average | TopK | Linear | Attention":
    """The consensus of this name.

    Raises:
        ConfigError: no such consensus, or numbers that do not go with it.
    """
    check_choices(consensus=(consensus, Consensus))
    if consensus == "top_k":
        if not 1 <= top_k <= num_segments:
            raise ConfigError(
                f"consensus 'top_k' takes the top_k best of the num_segments snippets, got {top_k} of "
                f"{num_segments}: lower top_k, or raise num_segments"
            )
        return TopK(top_k)
    if consensus == "linear":
        if num_segments < 2:
            raise ConfigError(
                f"consensus 'linear' weighs several snippets, got num_segments={num_segments}: raise it, or "
                "take consensus='average'"
            )
        return Linear(num_segments)
    if consensus == "attention":
        return Attention(feature_dim)
    return TopK(1) if consensus == "max" else Average()


class Average(nn.Module):
    """g = mean_k f_k.

    Shape:
        scores [B, S, K], features [B, S, D]
        output [B, K]
    """

    def forward(self, scores: Tensor, features: Tensor) -> Tensor:
        return scores.mean(1)


class TopK(nn.Module):
    """Of each class the mean of its k largest scores; the largest one is max pooling.

    Shape:
        scores [B, S, K], features [B, S, D]
        output [B, K]

    >>> TopK(2)(torch.tensor([[[1.0, 9.0], [2.0, 8.0], [3.0, 1.0]]]), torch.zeros(1, 3, 6))
    tensor([[2.5000, 8.5000]])
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, scores: Tensor, features: Tensor) -> Tensor:
        if scores.shape[1] < self.k:
            raise ConfigError(
                f"the consensus takes the {self.k} best of at least as many snippets, got {scores.shape[1]}: "
                f"sample clips of num_segments={self.k} or more, or of one"
            )
        return scores.topk(self.k, dim=1).values.mean(1)

    def extra_repr(self) -> str:
        """How many."""
        return f"k={self.k}"


class Linear(nn.Module):
    """g = sum_k w_k f_k; the weights are learned and are those of all videos. At first they are 1 / S.

    Shape:
        scores [B, S, K], features [B, S, D]
        output [B, K]
    """

    def __init__(self, num_segments: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((num_segments,), 1 / num_segments))

    def forward(self, scores: Tensor, features: Tensor) -> Tensor:
        if scores.shape[1] != len(self.weight):
            raise ConfigError(
                f"the consensus has weights for {len(self.weight)} snippets, got {scores.shape[1]}: sample "
                f"clips of num_segments={len(self.weight)}, or of one, or take another consensus"
            )
        return torch.einsum("bsk,s->bk", scores, self.weight)


class Attention(nn.Module):
    """g = sum_k A_k f_k with A = softmax_k(w . R_k), R_k the features of snippet k. At first A is 1 / S.

    Shape:
        scores [B, S, K], features [B, S, D]
        output [B, K]
    """

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(feature_dim))

    def forward(self, scores: Tensor, features: Tensor) -> Tensor:
        attention = (features @ self.weight).softmax(1)  # [B, S]
        return torch.einsum("bsk,bs->bk", scores, attention)


def window_scores(scores: Tensor, seconds: int) -> Tensor:
    """The largest score of each class in each window of a video; the last windows may be shorter.

    Args:
        scores: of one snippet a second, before the softmax.
        seconds: l, the length of a window.

    Shape:
        scores [M, K]
        output [N, K], N = M / ceil(0.8 l), rounded up

    >>> window_scores(torch.tensor([[1.0], [5.0], [2.0], [3.0], [0.0]]), 2).flatten()    # 2 apart
    tensor([5., 3., 0.])
    """
    step = -(-4 * seconds // 5)
    return torch.stack([scores[start : start + seconds].amax(0) for start in range(0, len(scores), step)])


def integrate_windows(scores: Tensor, *, seconds: Sequence[int] = WINDOW_SECONDS) -> Tensor:
    """M-TWI: the score of an untrimmed video, before the softmax.

    Of each length of window the K best ones of a class are averaged, K being 15 or a quarter of them,
    whichever is more; then the lengths are. With several crops the best one of a snippet counts, as in the
    authors' code.

    Args:
        scores: of one snippet a second, before the softmax.
        seconds: the lengths of windows.

    Raises:
        ValueError: there is no snippet.

    Shape:
        scores [M, K], or [M, V, K] of several crops
        output [K]

    >>> integrate_windows(torch.tensor([[2.0, 0.0], [4.0, 0.0]]))    # 3 of single snippets, then 4
    tensor([3.8000, 0.0000])
    """
    if not len(scores):
        raise ValueError(f"M-TWI needs the scores of one snippet a second, got {list(scores.shape)}")
    snippets = scores.amax(1) if scores.ndim == 3 else scores
    of_lengths = []
    for length in seconds:
        windows = window_scores(snippets, length)
        best = max(LEAST_WINDOWS, math.ceil(len(windows) / 4))
        of_lengths.append(windows.topk(min(best, len(windows)), dim=0).values.mean(0))
    return torch.stack(of_lengths).mean(0)
