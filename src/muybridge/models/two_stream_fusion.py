"""Convolutional Two-Stream Network Fusion for Video Action Recognition. CVPR 2016 (arXiv:1604.06573).

Feichtenhofer, Pinz, Zisserman.

Where to find the paper here:
    Table 1: sum, max, concatenation, bilinear, conv fusion    two_stream_fusion_operators.py; `operator`
    Table 2: at which layers                                   two_stream_fusion_towers.py; `layer`
    fusion that replaces both towers, or keeps one of them     `keep`
    2D pooling, 3D pooling, 3D convolution and 3D pooling      `temporal`
    the final architecture: two branches, two losses           the defaults, `BranchHead`
    predictions fused, FC8                                     `ClassHead`
    towers are trained by themselves first                     `start_from`

Deviation: bilinear features are averaged over the stacks, and a linear classifier takes them; the paper's is
    a linear SVM (`muybridge svm` trains one on them).
Deviation: pictures are tested as crops; in the paper's ablations the networks see the whole frame.

Shape letters: B clips, T stacks, L flow fields of a stack, H height, W width, D features, K classes.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from muybridge.errors import ConfigError, WeightsError
from muybridge.models.alexnet import Tower
from muybridge.models.blocks import channels_last
from muybridge.models.contract import Adapted, Head, VideoModel, check_choices, check_positive
from muybridge.models.image_network import fit_vgg_16
from muybridge.models.two_stream_fusion_operators import Fusion, Operator
from muybridge.models.two_stream_fusion_towers import (
    Keep,
    Parts,
    Plan,
    Stream,
    Temporal,
    checked_layers,
    clip_specs,
    make_parts,
    stacked_inputs,
    tower_rows,
)
from muybridge.models.vgg import VGG_16


class TwoStreamFusion(VideoModel):
    """Two towers that become one at a layer; `model(rgb, flow)`. The defaults are the paper's final network.

    Behind the fusion goes on the rest of the spatial tower, or that of the temporal one where the spatial
    tower is kept. With a tower kept each branch has a classifier and a loss of its own, and their logits are
    averaged; those of one are `model.embed(rgb, flow, layer="head.kept")`. `spatial` and `temporal` are the
    layers below the fusion: with both frozen, gradients go as far down as in the paper.

    Args:
        num_classes: K.
        width: scales every channel count.
        operator: "sum", "max", "concat", "conv" or "bilinear", behind which there is the classifier alone.
        layer: "relu2" to "relu5", "fc6" to "fc8", or several in order, such as "relu3+relu5+fc6".
        temporal: "2d_pooling" has features of each stack, which are averaged; "3d_pooling" one pool5 for all
            stacks; "3d_conv" that, and a 3 x 3 x 3 kernel in conv fusion.
        keep: "none", or the tower that goes on by itself as well: "temporal" or "spatial".
        towers: "cnn_m" (the paper's VGG-M) or "vgg_16"; "vgg_16+cnn_m" has the first for RGB, the second for
            flow.
        num_flows: L, flow fields of a stack.
        crop: H and W, which the fully connected layers fix.
        dropout: behind fc6 and fc7.

    Shape:
        inputs [B, 3, T, H, W] and [B, 2, (T - 1) tau + L, H, W], or [B, T, 3, 1, H, W] and [B, T, 2, L, H, W]
        output [B, K]

    >>> net = TwoStreamFusion(num_classes=5, width=1 / 64, num_flows=4, crop=32)
    >>> net(torch.zeros(2, 3, 5, 32, 32), torch.zeros(2, 2, 20, 32, 32)).shape
    torch.Size([2, 5])
    """

    modalities = ("rgb", "flow")

    def __init__(
        self,
        *,
        num_classes: int = 101,
        width: float = 1.0,
        operator: Operator = "conv",
        layer: str = "relu5",
        temporal: Temporal = "3d_conv",
        keep: Keep = "temporal",
        towers: str = "vgg_16",
        num_flows: int = 10,
        crop: int = 224,
        dropout: float = 0.85,
    ) -> None:
        check_choices(operator=(operator, Operator), temporal=(temporal, Temporal), keep=(keep, Keep))
        check_positive(width=width, num_flows=num_flows)
        plan = Plan(
            operator=operator,
            layers=checked_layers(layer, operator=operator, temporal=temporal, keep=keep),
            temporal=temporal,
            keep=keep,
            rows=tower_rows(towers),
            channels={"spatial": 3, "temporal": 2 * num_flows},
            crop=crop,
            width=width,
            dropout=dropout,
        )
        parts = make_parts(plan)
        super().__init__(
            num_classes=num_classes,
            feature_dim=sum(parts.dims),
            default_specs=clip_specs(num_flows, crop=crop),
            stage_names=_stage_names(parts),
            make_head=_make_head(plan, parts.dims),
        )
        self.num_flows, self.plan = num_flows, plan
        self.spatial, self.temporal, self.kept = parts.spatial, parts.temporal, parts.kept
        self.fusion, self.fused = nn.ModuleDict(parts.fusions), nn.ModuleDict(parts.fused)

    def forward_features(self, *inputs: Tensor) -> Tensor:
        """What the classifiers see: the branch behind the fusion, then the kept tower.

        Shape:
            inputs [B, 3, T, H, W] and [B, 2, (T - 1) tau + L, H, W], or with snippets apart
            output [B, feature_dim]
        """
        who = self._who
        rgb, flow = stacked_inputs(inputs, self.num_flows, who, crop=self.plan.crop)
        given: dict[Stream, Tensor] = {"spatial": channels_last(rgb), "temporal": channels_last(flow)}
        towers: dict[Stream, Tower] = {"spatial": self.spatial, "temporal": self.temporal}
        into, other = self.plan.into, self.plan.other
        first: Tensor = towers[into](given[into])
        second, at = given[other], None
        for layer, fusion in self.fusion.items():
            row = self.plan.row(other, layer)
            second, at = towers[other](second, after=at, until=row), row
            first = self.fused[layer](fusion(first, second) if into == "spatial" else fusion(second, first))
        branches = [first]
        if not self.fusion:
            branches.append(towers[other](second))
        elif self.kept is not None:
            branches.append(self.kept(second))
        return torch.cat([x.mean((2, 3, 4)) for x in branches], dim=1)

    def adapt(self, tensors: Mapping[str, Tensor]) -> Adapted:
        """Takes torchvision's VGG-16, too, into both towers and what goes on behind the fusion.

        Raises:
            WeightsError: the file has no fully connected layers, or too narrow ones for a concatenation.
        """
        if any(rows != VGG_16 for rows in self.plan.rows.values()):
            return Adapted(dict(tensors))
        fitted: dict[str, Tensor] = {}
        changed: list[str] = []
        own = self.state_dict()
        for stream, channels in self.plan.channels.items():
            found = fit_vgg_16(tensors, channels)
            if not found.tensors:
                return Adapted(dict(tensors))
            fitted |= {name: value for name, value in found.tensors.items() if name.startswith("head.")}
            for name in own:
                layer = _place_in(name)
                if self.stream_of(name) == stream and layer in found.tensors:
                    fitted[name] = found.tensors[layer]
                    changed += [name] if layer in found.changed else []
        wider = [
            name for name in fitted if name.startswith("fused.") and fitted[name].shape != own[name].shape
        ]
        if self.plan.operator == "concat" and wider:
            raise WeightsError(
                f"concatenation makes {wider[0]} {list(own[wider[0]].shape)}, the file has "
                f"{list(fitted[wider[0]].shape)}: start two_stream_spatial and two_stream_temporal from the "
                "file, and this network from both (two_stream_fusion.start_from)"
            )
        return Adapted(fitted, tuple(changed), gained=("fusion.",))

    def stream_of(self, name: str) -> Stream | None:
        """The stream that a tensor belongs to, where that is one; behind the fusion its tower goes on."""
        parts: dict[str, Stream] = {"spatial": "spatial", "temporal": "temporal"}
        parts |= {"fused": self.plan.into, "kept": self.plan.other, "fc": self.plan.into}
        return parts.get(name.removeprefix("head.").partition(".")[0])

    def training_logits(self, *inputs: Tensor) -> tuple[Tensor, tuple[float, ...]]:
        """The logits of both branches, whose losses are added; or the answer, where no tower is kept.

        Shape:
            inputs as `forward` takes them
            output [B, R, K], R = 2 or 1, and R numbers
        """
        if not isinstance(self.head, BranchHead):
            return super().training_logits(*inputs)
        rows = torch.stack(self.head.branches(self.forward_features(*inputs)), dim=1)
        return rows, (1.0, 1.0)


class BranchHead(nn.Module):
    """A classifier for each of two branches; the answer is the mean of their logits.

    Args:
        dims: features of the branch behind the fusion, and of the kept tower.
        num_classes: K.
        dropout: before each classifier.

    Shape:
        input  [B, D]
        output [B, K]
    """

    def __init__(self, dims: tuple[int, ...], num_classes: int, *, dropout: float) -> None:
        super().__init__()
        self.dims = dims
        self.fused, self.kept = (Head(dim, num_classes, dropout=dropout) for dim in dims)

    def branches(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of each branch.

        Shape:
            x      [B, D]
            output [B, K] twice
        """
        dim = self.dims[0]
        return self.fused(x[:, :dim]), self.kept(x[:, dim:])

    def forward(self, x: Tensor) -> Tensor:
        fused, kept = self.branches(x)
        return (fused + kept) / 2


class ClassHead(nn.Module):
    """Fusion at fc8: the logits of both towers, summed or convolved.

    Args:
        dims: features of the spatial and of the temporal tower.
        num_classes: K.
        operator: "sum" or "conv".
        dropout: before each classifier.

    Shape:
        input  [B, D]
        output [B, K]
    """

    def __init__(
        self, dims: tuple[int, ...], num_classes: int, *, operator: Operator, dropout: float
    ) -> None:
        super().__init__()
        self.dims = dims
        self.spatial, self.temporal = (Head(dim, num_classes, dropout=dropout) for dim in dims)
        self.fusion = Fusion(operator, (num_classes, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        dim = self.dims[0]
        logits = (self.spatial(x[:, :dim]), self.temporal(x[:, dim:]))
        fused: Tensor = self.fusion(*(one[..., None, None, None] for one in logits))
        return fused.flatten(1)


@torch.no_grad()
def start_from(model: TwoStreamFusion, *, spatial: VideoModel, temporal: VideoModel) -> tuple[str, ...]:
    """Takes the weights of two networks that were trained by themselves, one for RGB and one for flow.

    The branch behind the fusion starts as the tower that it is the rest of; fusions keep their first weights.

    Args:
        model: is filled.
        spatial: with the same spatial tower.
        temporal: with the same temporal tower, of as many flow fields.

    Returns:
        The names of tensors that stay random: those that concatenation has made wider, and classifiers of
        other classes.

    Raises:
        ConfigError: a tower is another one's.
    """
    sources: dict[Stream, dict[str, Tensor]] = {"spatial": _layers(spatial), "temporal": _layers(temporal)}
    random: list[str] = []
    for name, value in model.state_dict(keep_vars=True).items():
        stream = model.stream_of(name)
        if stream is None:
            continue
        found = sources[stream].get(_place_in(name))
        if found is not None and found.shape == value.shape:
            value.copy_(found)
        else:
            random.append(name)
    wrong = [name for name in random if name.startswith(("spatial.", "temporal."))]
    if wrong:
        raise ConfigError(
            f"{wrong[0]} is not in the network it should come from, or of another shape: train it with the "
            "same towers, width and num_flows"
        )
    return tuple(random)


def _layers(network: VideoModel) -> dict[str, Tensor]:
    """Weights by the names that they have in a tower, and fc.weight and fc.bias of the classifier."""
    return {_place_in(name): value for name, value in network.state_dict().items()}


def _place_in(name: str) -> str:
    """conv1_1.weight of spatial.conv1_1.weight."""
    return ".".join(name.split(".")[-2:])


def _stage_names(parts: Parts) -> tuple[str, ...]:
    towers: dict[str, Tower] = {"spatial": parts.spatial, "temporal": parts.temporal}
    towers |= {f"fused.{layer}": tower for layer, tower in parts.fused.items()}
    towers |= {} if parts.kept is None else {"kept": parts.kept}
    fusions = [f"fusion.{layer}" for layer in parts.fusions]
    return (*(f"{name}.{row}" for name, tower in towers.items() for row in tower.layer_names), *fusions)


def _make_head(plan: Plan, dims: tuple[int, ...]) -> Callable[[int], nn.Module]:
    if plan.layers == ("fc8",):
        return partial(ClassHead, dims, operator=plan.operator, dropout=plan.dropout)
    if plan.keep != "none":
        return partial(BranchHead, dims, dropout=plan.dropout)
    return partial(Head, dims[0], dropout=plan.dropout)
