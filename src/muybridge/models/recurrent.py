"""Recurrent Batch Normalization. Cooijmans et al., ICLR 2017 (arXiv:1603.09025): an LSTM over frames.

Where to find the paper here: its batch-normalised LSTM, of which the recurrent term is here, is
`BatchNormLSTM`.

Deviation: only W_h h of the LSTM is normalised, with one statistic for all steps; the paper normalises
    W_x x as well, and c before it leaves the cell, with statistics for each step. This is the normalisation
    that Sonnet, the library of I3D's authors, has; it takes any number of steps.
Deviation: before the first step h is 0, and its term is left out instead of normalised.
Deviation: a lone clip of a training step is normalised by the running statistics, as in evaluation: there is
    nothing to take statistics of, and the last batch of an epoch may be one clip.

Shape letters: B clips, C channels, T steps, D features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNormLSTM(nn.Module):
    """An LSTM whose recurrent term is normalised over the batch.

        i, f, g, o = W_x x(t) + b + gamma * norm(W_h h(t-1))
        c(t) = sigmoid(f) c(t-1) + sigmoid(i) tanh(g)
        h(t) = sigmoid(o) tanh(c(t))

    Args:
        in_channels: C.
        units: of h and c.
        bn_eps: of the normalisation.

    Shape:
        input  [B, C, T]
        output [B, units, T], h of every step

    >>> BatchNormLSTM(6, 4, bn_eps=1e-5)(torch.zeros(2, 6, 5)).shape
    torch.Size([2, 4, 5])
    """

    def __init__(self, in_channels: int, units: int, *, bn_eps: float) -> None:
        super().__init__()
        self.w_x = nn.Linear(in_channels, 4 * units)
        self.w_h = nn.Linear(units, 4 * units, bias=False)
        self.norm_h = ClipNorm(4 * units, eps=bn_eps, affine=False)
        self.gamma_h = nn.Parameter(torch.full((4 * units,), 0.1))  # Cooijmans et al.: 1 would saturate tanh
        nn.init.zeros_(self.w_x.bias)
        nn.init.ones_(self.w_x.bias.data[units : 2 * units])  # so that it remembers at first

    def forward(self, x: Tensor) -> Tensor:
        hidden: list[Tensor] = []
        cell: Tensor | None = None
        for gates in self.w_x(x.transpose(1, 2)).unbind(1):
            if hidden:  # h(0) is 0: there is nothing to normalise before the first step
                gates = gates + self.gamma_h * self.norm_h(self.w_h(hidden[-1]))
            i, f, g, o = gates.chunk(4, dim=1)
            kept = 0 if cell is None else f.sigmoid() * cell
            cell = kept + i.sigmoid() * g.tanh()
            hidden.append(o.sigmoid() * cell.tanh())
        return torch.stack(hidden, dim=2)


class ClipNorm(nn.BatchNorm1d):
    """BatchNorm over the clips of a batch; a lone clip is normalised as in evaluation.

    Shape:
        input  [B, D]
        output [B, D]
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and len(input) == 1:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)
