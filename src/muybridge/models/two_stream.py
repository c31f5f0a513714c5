"""Two-Stream Convolutional Networks for Action Recognition in Videos. NIPS 2014 (arXiv:1406.2199).

Simonyan, Zisserman.

Where to find the paper here:
    Fig. 1 (the layers of both streams)                        `CNN_M`, `CnnM`
    Sec. 2 (two streams, their softmax scores averaged)        `TwoStream`, `two_stream_heads.MeanOfSoftmax`
    Sec. 2 (or an SVM on them)                                 `embed(..., layer="softmax")`
    Sec. 3.1, eq. (1) (L flow fields as 2L channels)           `two_stream_inputs.stack_channels`
    Sec. 3.1, eq. (2) (trajectories; bi-directional stacks)    `muybridge.flow.stack`: fields like any others
    Sec. 3.1 (mean flow subtraction)                           `two_stream_inputs.flow_spec`
    Sec. 4 (multi-task learning)                               `tasks`, `two_stream_heads.TaskHeads`
    Table 1 (a): the spatial stream                            `SpatialStream`
    Table 1 (b): the temporal stream, L = 1, 5, 10             `TemporalStream`

Shape letters: B clips, C channels, T frames, L flow fields of a stack, H height, W width, D features,
K classes; h, w are H, W inside a network.
"""

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muybridge.errors import ConfigError, WeightsError
from muybridge.models.contract import Adapted, Head, VideoModel
from muybridge.models.image_network import fit_frames
from muybridge.models.two_stream_heads import MeanOfSoftmax, TaskHeads
from muybridge.models.two_stream_inputs import check_inputs
from muybridge.models.two_stream_towers import CNN_M, CnnM, make_stream, run_stream

__all__ = ["CNN_M", "CnnM", "OneStream", "SpatialStream", "TemporalStream", "TwoStream"]


class OneStream(VideoModel):
    """A tower and its classifier: what the two streams share.

    Args:
        num_classes: K.
        width: scales every channel count.
        num_flows: L; of no meaning to RGB.
        crop: H and W, part of full6; None is 224, or what images of the backbone have.
        backbone: "cnn_m", "vgg_16", "bn_inception", "torchvision/NAME" or "timm/NAME".
        dropout: behind full6 and full7; in backbones that have none, before the classifier alone.
        tasks: classes of each data set, by name, in the order of the logits: each gets a classifier of its
            own. None is one data set.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        width: float,
        num_flows: int,
        crop: int | None,
        backbone: str,
        dropout: float,
        tasks: Mapping[str, int] | None,
    ) -> None:
        stream = make_stream(
            self.modalities[0], num_flows, width=width, crop=crop, backbone=backbone, dropout=dropout
        )
        one_head = partial(Head, stream.feature_dim, dropout=dropout)
        heads = partial(TaskHeads, stream.feature_dim, tasks=tasks, dropout=dropout) if tasks else one_head
        super().__init__(
            num_classes=num_classes,
            feature_dim=stream.feature_dim,
            default_specs=(stream.spec,),
            stage_names=stream.stages("tower"),
            make_head=heads,
        )
        self.num_flows, self.crop = num_flows, stream.crop
        self.tower = stream.tower
        self._one_head = one_head

    def forward_features(self, *inputs: Tensor) -> Tensor:
        """full7, or what a backbone gives its classifier.

        Shape:
            input  [B, 3, 1, H, W], or of flow [B, 2, L, H, W]
            output [B, feature_dim]
        """
        who = self._who
        (x,) = check_inputs(inputs, self.modalities, self.num_flows, crop=self.crop, who=who)
        return run_stream(self.tower, x)

    def adapt(self, tensors: Mapping[str, Tensor]) -> Adapted:
        """Takes a file of the backbone's 2D network, too, and first filters of the other stream, as TSN."""
        return fit_frames(tensors, self.tower, "tower.")

    def embed(self, *inputs: Tensor, layer: str | None = None) -> Tensor:
        """As of every network, and with layer="softmax" the scores, of which Sec. 2 trains an SVM."""
        if layer == "softmax":
            return self.forward(*inputs).softmax(1)
        return super().embed(*inputs, layer=layer)

    def own_task(self, logits: Tensor, target: Tensor) -> Tensor:
        """With `tasks` the logits of each clip's own data set alone.

        Shape:
            logits [B, K]
            target int64 [B]
            output [B, K]
        """
        return self.head.own_task(logits, target) if isinstance(self.head, TaskHeads) else logits

    def reset_head(self, num_classes: int) -> None:
        """One new, random classifier for other classes, also where there was one for each data set."""
        self._make_head = self._one_head
        if "tasks" in self.arguments:
            self.arguments = {**self.arguments, "tasks": None}
        super().reset_head(num_classes)

    def keep_task(self, task: str) -> None:
        """Leaves the classifier of one data set alone: to test on that data set, or to go on with it.

        Raises:
            ConfigError: there is no such task.
        """
        heads = self.head
        if not isinstance(heads, TaskHeads) or task not in heads.sizes:
            known = ", ".join(heads.sizes) if isinstance(heads, TaskHeads) else "none: it has one classifier"
            raise ConfigError(f"{self._who} has no task '{task}'; its tasks: {known}")
        head, classes = heads.get_submodule(f"of.{task}"), heads.sizes[task]
        self.reset_head(classes)
        self.head = head


class SpatialStream(OneStream):
    """The spatial stream: one RGB frame.

    Args:
        num_classes: K.
        width: scales every channel count.
        crop, backbone, dropout, tasks: see `OneStream`. The paper has a dropout of 0.5 where only the last
            layer is trained (`freeze: [tower]`), and 0.9 elsewhere.

    Shape:
        input  [B, 3, 1, crop, crop]
        output [B, K]

    >>> SpatialStream(num_classes=5, width=1 / 32, crop=64)(torch.zeros(2, 3, 1, 64, 64)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        *,
        num_classes: int = 101,
        width: float = 1.0,
        crop: int | None = None,
        backbone: str = "cnn_m",
        dropout: float = 0.9,
        tasks: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            width=width,
            num_flows=1,
            crop=crop,
            backbone=backbone,
            dropout=dropout,
            tasks=tasks,
        )


class TemporalStream(OneStream):
    """The temporal stream: a stack of L flow fields.

    Args:
        num_classes: K.
        width: scales every channel count.
        num_flows: L.
        crop, backbone, dropout, tasks: see `OneStream`.

    Shape:
        input  [B, 2, num_flows, crop, crop]
        output [B, K]

    >>> stream = TemporalStream(num_classes=152, tasks={"hmdb51": 51, "ucf101": 101}, width=1 / 32, crop=64)
    >>> stream(torch.zeros(2, 2, 10, 64, 64)).shape
    torch.Size([2, 152])
    >>> stream.keep_task("hmdb51")
    >>> stream(torch.zeros(2, 2, 10, 64, 64)).shape
    torch.Size([2, 51])
    """

    modalities = ("flow",)

    def __init__(
        self,
        *,
        num_classes: int = 101,
        width: float = 1.0,
        num_flows: int = 10,
        crop: int | None = None,
        backbone: str = "cnn_m",
        dropout: float = 0.9,
        tasks: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            width=width,
            num_flows=num_flows,
            crop=crop,
            backbone=backbone,
            dropout=dropout,
            tasks=tasks,
        )


class TwoStream(VideoModel):
    """Both streams, each with its own classifier, and the mean of their softmax scores; `model(rgb, flow)`.

    Each stream has its own loss in training, as if it was trained by itself, which the paper does:
    `take_streams` puts two such streams together. The logits of one are
    `model.embed(rgb, flow, layer="head.rgb")`.

    Args:
        num_classes: K.
        width: scales every channel count.
        num_flows: L.
        crop, backbone, dropout: of both streams, see `OneStream`.

    Shape:
        inputs [B, 3, 1, crop, crop] and [B, 2, num_flows, crop, crop]
        output [B, K], the logarithm of the mean softmax

    >>> model = TwoStream(num_classes=5, width=1 / 32, crop=64)
    >>> model(torch.zeros(2, 3, 1, 64, 64), torch.zeros(2, 2, 10, 64, 64)).shape
    torch.Size([2, 5])
    """

    modalities = ("rgb", "flow")

    def __init__(
        self,
        *,
        num_classes: int = 101,
        width: float = 1.0,
        num_flows: int = 10,
        crop: int | None = None,
        backbone: str = "cnn_m",
        dropout: float = 0.9,
    ) -> None:
        rgb, flow = (
            make_stream(one, num_flows, width=width, crop=crop, backbone=backbone, dropout=dropout)
            for one in self.modalities
        )
        super().__init__(
            num_classes=num_classes,
            feature_dim=2 * rgb.feature_dim,
            default_specs=(rgb.spec, flow.spec),
            stage_names=rgb.stages("rgb") + flow.stages("flow"),
            make_head=partial(MeanOfSoftmax, rgb.feature_dim, dropout=dropout),
        )
        self.num_flows, self.crop = num_flows, rgb.crop
        self.rgb, self.flow = rgb.tower, flow.tower

    def forward_features(self, *inputs: Tensor) -> Tensor:
        """full7 of the spatial stream, then of the temporal one.

        Shape:
            inputs [B, 3, 1, crop, crop] and [B, 2, num_flows, crop, crop]
            output [B, feature_dim]
        """
        who = self._who
        rgb, flow = check_inputs(inputs, self.modalities, self.num_flows, crop=self.crop, who=who)
        return torch.cat([run_stream(self.rgb, rgb), run_stream(self.flow, flow)], dim=1)

    def adapt(self, tensors: Mapping[str, Tensor]) -> Adapted:
        """Takes a file of the backbone's 2D network, too, into both streams."""
        if any(name.startswith(("rgb.", "flow.")) for name in tensors):
            return Adapted(dict(tensors))
        rgb = fit_frames(tensors, self.rgb, "rgb.")
        flow = fit_frames(tensors, self.flow, "flow.")
        return Adapted({**rgb.tensors, **flow.tensors}, rgb.changed + flow.changed)

    def training_logits(self, *inputs: Tensor) -> tuple[Tensor, tuple[float, ...]]:
        """The logits of each stream, whose losses are added.

        Shape:
            inputs as `forward` takes them
            output [B, 2, K], and two numbers
        """
        return torch.stack(self._joint.each(self.forward_features(*inputs)), 1), (1.0, 1.0)

    def embed(self, *inputs: Tensor, layer: str | None = None) -> Tensor:
        """As of every network; layer="softmax" is the scores of each stream, of length 1 each: Sec. 2."""
        if layer == "softmax":
            each = self._joint.each(self.forward_features(*inputs))
            return torch.cat([F.normalize(logits.softmax(1)) for logits in each], dim=1)
        return super().embed(*inputs, layer=layer)

    def take_streams(self, spatial: SpatialStream, temporal: TemporalStream) -> None:
        """Takes the weights of two streams that were trained by themselves.

        Raises:
            WeightsError: they are streams of other arguments.
        """
        pairs = (
            ("spatial", self.rgb, spatial.tower),
            ("spatial", self._joint.rgb, spatial.head),
            ("temporal", self.flow, temporal.tower),
            ("temporal", self._joint.flow, temporal.head),
        )
        for stream, own, theirs in pairs:
            if _shapes(own) != _shapes(theirs):
                raise WeightsError(
                    f"the {stream} stream is another network than that of {self.name or 'this TwoStream'}: "
                    "build both with the same num_classes, width, crop, backbone and num_flows, and keep one "
                    "of several tasks (keep_task)"
                )
        for _, own, theirs in pairs:
            own.load_state_dict(theirs.state_dict())

    @property
    def _joint(self) -> MeanOfSoftmax:
        assert isinstance(self.head, MeanOfSoftmax)
        return self.head


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}
