"""Beyond Short Snippets (arXiv:1503.08909), the LSTM: five layers of 512 units, an answer at every frame.

The CNN of each frame is in short_snippets_towers.py, the pooling architectures in short_snippets.py.

Where to find the paper here:
    the equations of the cell                               `PeepholeLSTM`; without W_c: torch's `nn.LSTM`
    five layers on the last layer of the CNN                `SnippetLSTM`, `LSTMStack`
    a gain g for the loss of each frame, from 0 to 1        `step_weights`, `SnippetLSTM.training_logits`
    four ways to one answer: last, max, sum, weighted sum   `StepHead`

Deviation: peepholes, the terms with c in the gates, are an option (`peepholes`); without them the LSTM is
    torch's.
Deviation: g counts the frames of a clip from 0 to T - 1, so that the first has the weight 0 and the last 1.
Deviation: weights start as torch's, but those from a layer's input to its cell as normal ones of 2 / sqrt(C),
    without which signals fade from layer to layer; the paper does not say.

Shape letters: B clips, C channels, T frames or steps, U units, D features, K classes.
"""

from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from muybridge.errors import ConfigError
from muybridge.models.alexnet import FullRelu, he_init
from muybridge.models.blocks import channels_last, scaled
from muybridge.models.contract import Head, VideoModel, check_choices, check_positive
from muybridge.models.inception import feature_channels
from muybridge.models.short_snippets import FULL_UNITS
from muybridge.models.short_snippets_towers import (
    CHANNELS,
    Modality,
    TowerName,
    clip_spec,
    make_tower,
    one_clip,
    tower_output,
    tower_stages,
)

Gain = Literal["linear", "uniform", "last"]
Answer = Literal["linear", "uniform", "last", "max"]

LSTM_UNITS = 512
LSTM_LAYERS = 5
CELL_GAIN = 2.0  # of the first weights from a layer's input to its cell


class SnippetLSTM(VideoModel):
    """The CNN of each frame, five layers of LSTM, a softmax at every step.

    Training takes a cross entropy at each step; the loss of a clip is their weighted sum.

    Args:
        num_classes: K.
        width: scales every channel count, the LSTM's units as well.
        tower: "alexnet" (the LSTM sees fc7) or "googlenet" (the last average pooling).
        modality: "rgb" or "flow".
        num_frames: T of a clip as it is sampled; the network takes any number.
        crop: H and W, which fc6 of AlexNet fixes.
        peepholes: whether the gates see the cell.
        weighting: of the steps in the loss ("linear", "uniform", "last") and in the answer (these, or "max");
            two of them, such as "linear+last", or one for both.
        dropout: behind fc6 and fc7, and before the classifier.
        bn_eps: of every BatchNorm of GoogLeNet.

    Shape:
        input  [B, C, T, crop, crop] or [B, T, C, 1, crop, crop]; C is 3, of flow 2
        output [B, K]

    >>> net = SnippetLSTM(num_classes=5, width=1 / 32, num_frames=6, crop=32)
    >>> rows, weights = net.training_logits(torch.zeros(2, 3, 6, 32, 32))
    >>> rows.shape, weights
    (torch.Size([2, 6, 5]), (0.0, 0.2, 0.4, 0.6, 0.8, 1.0))
    """

    def __init__(
        self,
        *,
        num_classes: int = 487,
        width: float = 1.0,
        tower: TowerName = "alexnet",
        modality: Modality = "rgb",
        num_frames: int = 30,
        crop: int = 220,
        peepholes: bool = False,
        weighting: str = "linear",
        dropout: float = 0.6,
        bn_eps: float = 1e-5,
    ) -> None:
        check_choices(tower=(tower, TowerName), modality=(modality, Modality))
        check_positive(width=width, num_frames=num_frames)
        gain, answer = _checked_weighting(weighting)
        units = scaled(LSTM_UNITS, width)
        with_full = tower == "alexnet"
        super().__init__(
            num_classes=num_classes,
            feature_dim=num_frames * units,
            default_specs=(clip_spec(modality, num_frames, crop=crop),),
            stage_names=(*tower_stages(tower), *("fc6", "fc7") * with_full, "lstm"),
            make_head=partial(StepHead, units, dropout=dropout, answer=answer),
        )
        self.modalities, self.gain = (modality,), gain
        self.tower = make_tower(tower, CHANNELS[modality], width=width, crop=crop, bn_eps=bn_eps)
        self.full, self.crop = with_full, crop if with_full else None
        channels = feature_channels(width)
        if with_full:
            maps, side = tower_output(self.tower, width)
            channels = scaled(FULL_UNITS, width)
            self.fc6, self.fc7 = FullRelu(maps * side**2, channels), FullRelu(channels, channels)
            self.fc6.apply(he_init)
            self.fc7.apply(he_init)
        self.dropout = nn.Dropout(dropout)
        self.lstm = LSTMStack(channels, units, peepholes=peepholes)

    def forward_features(self, *inputs: Tensor) -> Tensor:
        """The LSTM's output of every step, one step after another.

        Shape:
            input  [B, C, T, crop, crop] or [B, T, C, 1, crop, crop]
            output [B, T * U]; of `num_frames` frames that is feature_dim
        """
        (x,) = inputs
        channels, who = CHANNELS[self.modalities[0]], self._who
        x = one_clip(x, channels=channels, who=who, crop=self.crop)
        x = self.tower(channels_last(x))
        if self.full:
            x = self.dropout(self.fc7(self.dropout(self.fc6(x))))
        steps: Tensor = self.lstm(x.mean((3, 4)))
        return steps.transpose(1, 2).flatten(1)

    def training_logits(self, *inputs: Tensor) -> tuple[Tensor, tuple[float, ...]]:
        """The logits of every step, and the weight of each one's loss.

        Shape:
            inputs as `forward` takes them
            output [B, T, K], and T numbers
        """
        head = self.head
        assert isinstance(head, StepHead)
        rows = head.steps(self.forward_features(*inputs))
        return rows, step_weights(self.gain, rows.shape[1])


class StepHead(Head):
    """One classifier for all steps, and one answer of theirs.

    Args:
        units: U.
        num_classes: K.
        dropout: before the classifier.
        answer: of the steps' probabilities: "linear" is their mean weighted with g, "uniform" their mean,
            "max" the largest of each class, "last" the last step's.

    Shape:
        input  [B, T * U]
        output [B, K], of which the softmax is that answer ("max" divided by its sum)

    >>> StepHead(4, 3, dropout=0.0, answer="linear")(torch.zeros(2, 5 * 4)).shape
    torch.Size([2, 3])
    """

    def __init__(self, units: int, num_classes: int, *, dropout: float, answer: Answer) -> None:
        super().__init__(units, num_classes, dropout=dropout)
        self.units = units
        self.answer: Answer = answer

    def steps(self, x: Tensor) -> Tensor:
        """The logits of every step.

        Shape:
            x      [B, T * U]
            output [B, T, K]
        """
        return super().forward(x.view(len(x), -1, self.units))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.steps(x)
        if self.answer == "last":
            return logits[:, -1]
        log_p = logits.log_softmax(2)
        if self.answer == "max":
            return log_p.amax(1)
        weights = log_p.new_tensor(step_weights(self.answer, logits.shape[1]))
        return (log_p + (weights / weights.sum()).log()[:, None]).logsumexp(1)  # of weight 0: minus infinity


class LSTMStack(nn.Module):
    """Five layers of LSTM, one on another.

    Args:
        in_channels: C.
        units: U, of every layer.
        peepholes: whether the gates see the cell.

    Shape:
        input  [B, C, T]
        output [B, U, T], of the last layer

    >>> LSTMStack(6, 4, peepholes=True)(torch.zeros(2, 6, 5)).shape
    torch.Size([2, 4, 5])
    """

    def __init__(self, in_channels: int, units: int, *, peepholes: bool) -> None:
        super().__init__()
        self.layers: nn.Module
        if peepholes:
            sizes = (in_channels, *(units,) * (LSTM_LAYERS - 1))
            self.layers = nn.Sequential(*(PeepholeLSTM(size, units) for size in sizes))
        else:
            self.layers = nn.LSTM(in_channels, units, LSTM_LAYERS, batch_first=True)
        for name, weight in self.layers.named_parameters():
            if "weight_ih" in name or name.endswith("w_x.weight"):  # rows: i, f, cell, o
                into_cell = weight.detach()[2 * units : 3 * units]
                nn.init.normal_(into_cell, std=CELL_GAIN * weight.shape[1] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x.transpose(1, 2))
        steps: Tensor = y[0] if isinstance(self.layers, nn.LSTM) else y
        return steps.transpose(1, 2)


class PeepholeLSTM(nn.Module):
    """A layer of the paper's LSTM: the gates see the cell as well.

        i = sigmoid(W_xi x + W_hi h + w_ci c + b_i)        h, c of the step before
        f = sigmoid(W_xf x + W_hf h + w_cf c + b_f)
        c' = f c + i tanh(W_xc x + W_hc h + b_c)
        o = sigmoid(W_xo x + W_ho h + w_co c' + b_o)
        h' = o tanh(c')

    w_ci, w_cf and w_co have one weight for each unit (Graves 2013).

    Shape:
        input  [B, T, C]
        output [B, T, U], h' of every step
    """

    def __init__(self, in_channels: int, units: int) -> None:
        super().__init__()
        self.w_x = nn.Linear(in_channels, 4 * units)  # i, f, c, o
        self.w_h = nn.Linear(units, 4 * units, bias=False)
        self.w_c = nn.Parameter(torch.empty(3, units))  # i, f, o
        bound = units**-0.5  # as torch's LSTM starts
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        into_i, into_f, into_o = self.w_c
        hidden: list[Tensor] = []
        cell = x.new_zeros(len(x), self.w_h.in_features)
        for gates in self.w_x(x).unbind(1):
            if hidden:
                gates = gates + self.w_h(hidden[-1])
            i, f, c, o = gates.chunk(4, dim=1)
            cell = (f + into_f * cell).sigmoid() * cell + (i + into_i * cell).sigmoid() * c.tanh()
            hidden.append((o + into_o * cell).sigmoid() * cell.tanh())
        return torch.stack(hidden, dim=1)


def step_weights(kind: str, num_steps: int) -> tuple[float, ...]:
    """The gain g of each step: "linear" rises from 0 to 1, "uniform" is 1, "last" 1 at the last step alone.

    >>> step_weights("linear", 5), sum(step_weights("linear", 121))
    ((0.0, 0.25, 0.5, 0.75, 1.0), 60.5)
    >>> step_weights("linear", 1), step_weights("last", 3)
    ((1.0,), (0.0, 0.0, 1.0))
    """
    last = num_steps - 1
    if kind == "linear" and last:
        return tuple(step / last for step in range(num_steps))
    return tuple(float(kind == "uniform" or step == last) for step in range(num_steps))


def _checked_weighting(weighting: str) -> tuple[Gain, Answer]:
    """The weighting of the losses and that of the answer."""
    gain, _, answer = weighting.partition("+")
    gains: dict[str, Gain] = {name: name for name in get_args(Gain)}
    answers: dict[str, Answer] = {name: name for name in get_args(Answer)}
    if gain not in gains or (answer or gain) not in answers:
        raise ConfigError(
            f"weighting must be one of {', '.join(gains)}, or two such as linear+last, the second for the "
            f"answer ({', '.join(answers)}); got '{weighting}'"
        )
    return gains[gain], answers[answer or gain]
