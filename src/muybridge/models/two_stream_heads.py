"""Two-Stream Convolutional Networks (arXiv:1406.2199), the classifiers: of two streams, and of two data sets.

The streams are in two_stream.py.

Where to find the paper here:
    Sec. 2 (the softmax scores of two streams, averaged)       `MeanOfSoftmax`
    Sec. 4 (multi-task learning: a softmax and a loss          `TaskHeads`, `own_task`
        for each data set, on one network)

Shape letters: B clips, D features, K classes of all data sets together.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from muybridge.errors import ConfigError
from muybridge.models.contract import Head


class MeanOfSoftmax(nn.Module):
    """A classifier for each stream; the answer is the logarithm of the mean of their softmax scores.

    Its softmax is that mean.

    Args:
        feature_dim: D, of one stream.
        num_classes: K.
        dropout: before each classifier.

    Shape:
        input  [B, 2 D], the spatial stream's half first
        output [B, K]
    """

    def __init__(self, feature_dim: int, num_classes: int, *, dropout: float) -> None:
        super().__init__()
        self.rgb = Head(feature_dim, num_classes, dropout=dropout)
        self.flow = Head(feature_dim, num_classes, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        rgb, flow = (logits.log_softmax(1) for logits in self.each(x))
        return torch.logaddexp(rgb, flow) - math.log(2)

    def each(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of either stream.

        Shape:
            input   [B, 2 D]
            outputs [B, K]
        """
        rgb, flow = x.chunk(2, dim=1)
        return self.rgb(rgb), self.flow(flow)


class TaskHeads(nn.Module):
    """A classifier for each data set, on the same features; their logits side by side.

    Args:
        feature_dim: D.
        num_classes: K, of all tasks together.
        tasks: classes of each data set, by name, in the order of the logits.
        dropout: before each classifier.

    Shape:
        input  [B, D]
        output [B, K]

    >>> heads = TaskHeads(8, 152, tasks={"hmdb51": 51, "ucf101": 101}, dropout=0.0)
    >>> [tuple(logits.shape) for logits in heads(torch.zeros(2, 8)).split([51, 101], dim=1)]
    [(2, 51), (2, 101)]
    """

    def __init__(
        self, feature_dim: int, num_classes: int, *, tasks: Mapping[str, int], dropout: float
    ) -> None:
        super().__init__()
        self.sizes = dict(tasks)
        total = sum(self.sizes.values())
        if total != num_classes or min(self.sizes.values()) < 1:
            parts = " + ".join(f"{count} ({name})" for name, count in self.sizes.items())
            raise ConfigError(
                f"tasks has {parts} = {total} classes, but there are {num_classes}: give each data set its "
                "number of classes, or no tasks where there is one data set"
            )
        if wrong := [name for name in self.sizes if not name.isidentifier()]:
            raise ConfigError(f"a task is named by letters, digits and underscores, got '{wrong[0]}'")
        self.of = nn.ModuleDict(
            {name: Head(feature_dim, count, dropout=dropout) for name, count in self.sizes.items()}
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([head(x) for head in self.of.values()], dim=1)

    def own_task(self, logits: Tensor, target: Tensor) -> Tensor:
        """`own_task` of these data sets.

        Shape:
            logits [B, K]
            target int64 [B]
            output [B, K]
        """
        return own_task(logits, target, tuple(self.sizes.values()))


def own_task(logits: Tensor, target: Tensor, sizes: Sequence[int]) -> Tensor:
    """Logits of which a cross entropy is that of each clip's own data set alone (Sec. 4).

    Those of other data sets become minus infinity: they have no part in the softmax and get no gradient. The
    sum of the clips' losses is then the sum of the tasks' losses.

    Args:
        logits: of all data sets side by side.
        target: the true class of each clip, counted over all data sets.
        sizes: classes of each data set.

    Shape:
        logits [B, K]
        target int64 [B]
        output [B, K]

    >>> own_task(torch.zeros(2, 5), torch.tensor([1, 4]), (2, 3))
    tensor([[0., 0., -inf, -inf, -inf],
            [-inf, -inf, 0., 0., 0.]])
    """
    task_of_class = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).to(logits.device)
    others = task_of_class[None, :] != task_of_class[target][:, None]
    return logits.masked_fill(others, -math.inf)
