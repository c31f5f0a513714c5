"""The table of 2D modules: what each becomes.

Classes of timm and torchvision stand here by name, so that neither is imported.
"""

import copy
from collections.abc import Callable
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from muybridge.errors import InflationError
from muybridge.models.inflate.layers import (
    BatchNormAct3d,
    Ends,
    FilterInit,
    FrameByFrame,
    FramePool,
    InflatedConv3d,
    PoolTimeThenSpace,
    Temporal,
    TimePadding,
    inflate_weight,
)


class Plan(NamedTuple):
    """How one layer is to be inflated.

    Attributes:
        name: of the layer in the 2D network.
        temporal: its window over time.
        filters: how a 2D filter is spread over the window.
        padding: what stands before the first and behind the last frame.
    """

    name: str
    temporal: Temporal
    filters: FilterInit
    padding: TimePadding


class Entry(NamedTuple):
    """A row of the table.

    Attributes:
        make: the 3D layer of a 2D one.
        layout: "clip" takes channels before time and space; "last" works on channels that come last, as
            Linear; "any" does not look; "flat" gives up height and width; "plain" never meets time.
        windowed: the rule decides on its window over time.
    """

    make: Callable[[nn.Module, Plan], nn.Module]
    layout: Literal["clip", "last", "any", "flat", "plain"] = "clip"
    windowed: bool = False


def find_entry(module: nn.Module) -> Entry | None:
    """The row of a module's class, or of the base class whose `forward` it has; None if there is none."""
    if type(module).__module__.startswith("timm.layers.activations"):
        return SAME
    for cls in type(module).__mro__:
        entry = ENTRIES.get(f"{cls.__module__}.{cls.__qualname__}")
        if entry is not None:
            return entry if _computes_as(type(module), cls) else None
    return None


def _computes_as(cls: type, base: type) -> bool:
    methods = ("forward", "_conv_forward")
    return all(getattr(cls, one, None) is getattr(base, one, None) for one in methods)


def check_module(module: nn.Module, name: str) -> None:
    """Refuses what a copy of the layer would lose.

    Raises:
        InflationError: the layer has hooks, or its weights are computed from others.
    """
    if parametrize.is_parametrized(module):
        raise InflationError(
            f"'{name}': its weights are parametrized: call torch.nn.utils.parametrize.remove_parametrizations"
        )
    if module._forward_hooks or module._forward_pre_hooks:
        raise InflationError(f"'{name}' has forward hooks, which inflation would lose: remove them first")


def _same(module: nn.Module, plan: Plan) -> nn.Module:
    return copy.deepcopy(module)


def _conv(module: nn.Module, plan: Plan) -> nn.Module:
    return _inflated_conv(cast(nn.Conv2d, module), plan, _space_padding(cast(nn.Conv2d, module), plan.name))


def _conv_same(module: nn.Module, plan: Plan) -> nn.Module:
    return _inflated_conv(cast(nn.Conv2d, module), plan, "tf_same")


def _inflated_conv(
    conv: nn.Conv2d, plan: Plan, space_padding: tuple[Ends, Ends] | Literal["tf_same"]
) -> nn.Module:
    with torch.device("meta"):  # its weights are set below
        inflated = InflatedConv3d(
            conv.in_channels,
            conv.out_channels,
            (plan.temporal.kernel, *_pair(conv.kernel_size)),
            stride=(plan.temporal.stride, *_pair(conv.stride)),
            space_padding=space_padding,
            dilation=_pair(conv.dilation),
            groups=conv.groups,
            bias=conv.bias is not None,
            time_padding=plan.padding,
        )
    _set(inflated, "weight", inflate_weight(conv.weight, plan.temporal.kernel, plan.filters), like=conv)
    if conv.bias is not None:
        _set(inflated, "bias", conv.bias.detach().clone(), like=conv)
    return inflated


def _space_padding(conv: nn.Conv2d, name: str) -> tuple[Ends, Ends]:
    if conv.padding_mode != "zeros":
        raise InflationError(
            f"'{name}': Conv2d with padding_mode='{conv.padding_mode}' is not in the table, 'zeros' alone is"
        )
    if conv.padding == "same":
        totals = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        height, width = ((total // 2, total - total // 2) for total in totals)
        return height, width
    h, w = (0, 0) if isinstance(conv.padding, str) else _pair(conv.padding)
    return (h, h), (w, w)


def _batch_norm(module: nn.Module, plan: Plan) -> nn.Module:
    return _copied_norm(nn.BatchNorm3d, cast(nn.BatchNorm2d, module))


def _batch_norm_act(module: nn.Module, plan: Plan) -> nn.Module:
    norm = _copied_norm(BatchNormAct3d, cast(nn.BatchNorm2d, module))
    assert isinstance(norm, BatchNormAct3d)
    norm.drop = copy.deepcopy(module.get_submodule("drop"))
    norm.act = copy.deepcopy(module.get_submodule("act"))
    return norm


def _copied_norm(cls: type[nn.BatchNorm3d], norm: nn.BatchNorm2d) -> nn.BatchNorm3d:
    with torch.device("meta"):
        copied = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    for name, parameter in norm.named_parameters(recurse=False):
        _set(copied, name, parameter.detach().clone(), like=norm)
    for name, buffer in norm.named_buffers(recurse=False):
        setattr(copied, name, buffer.clone())
    return copied


def _set(module: nn.Module, name: str, value: Tensor, *, like: nn.Module) -> None:
    setattr(module, name, nn.Parameter(value, requires_grad=like.get_parameter(name).requires_grad))


def _max_pool(module: nn.Module, plan: Plan) -> nn.Module:
    if cast(nn.MaxPool2d, module).return_indices:
        raise InflationError(f"'{plan.name}': a pooling layer that returns indices is not in the table")
    return FramePool(copy.deepcopy(module), plan.temporal, kind="max")


def _avg_pool(module: nn.Module, plan: Plan) -> nn.Module:
    return FramePool(copy.deepcopy(module), plan.temporal, kind="avg", time_padding=plan.padding)


def _adaptive_max_pool(module: nn.Module, plan: Plan) -> nn.Module:
    if cast(nn.AdaptiveMaxPool2d, module).return_indices:
        raise InflationError(f"'{plan.name}': a pooling layer that returns indices is not in the table")
    return PoolTimeThenSpace(copy.deepcopy(module), kind="max")


def _adaptive_avg_pool(module: nn.Module, plan: Plan) -> nn.Module:
    return PoolTimeThenSpace(copy.deepcopy(module), kind="avg")


def _dropout(module: nn.Module, plan: Plan) -> nn.Module:
    dropout = cast(nn.Dropout2d, module)
    return nn.Dropout3d(dropout.p, dropout.inplace)


def _frames(module: nn.Module, plan: Plan) -> nn.Module:
    return FrameByFrame(copy.deepcopy(module))


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


SAME = Entry(_same, "any")
PLAIN = Entry(_same, "plain")

# Each value on its own, or a part of a clip as a whole: written for any number of axes.
UNCHANGED = (
    *(
        nn.ReLU,
        nn.ReLU6,
        nn.LeakyReLU,
        nn.PReLU,
        nn.RReLU,
        nn.ELU,
        nn.CELU,
        nn.SELU,
        nn.GELU,
        nn.SiLU,
        nn.Mish,
    ),
    *(nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Threshold),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Identity, nn.Dropout),
)
# Each frame on its own.
PER_FRAME = (
    *(nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d, nn.PixelShuffle, nn.PixelUnshuffle),
    *(nn.ZeroPad2d, nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d),
    *(nn.LocalResponseNorm, nn.ChannelShuffle),
)

ENTRIES: dict[str, Entry] = {
    **{f"{cls.__module__}.{cls.__qualname__}": SAME for cls in UNCHANGED},
    **{f"{cls.__module__}.{cls.__qualname__}": Entry(_frames) for cls in PER_FRAME},
    "torch.nn.modules.conv.Conv2d": Entry(_conv, windowed=True),
    "torch.nn.modules.batchnorm.BatchNorm2d": Entry(_batch_norm),
    "torch.nn.modules.dropout.Dropout2d": Entry(_dropout),
    "torch.nn.modules.pooling.MaxPool2d": Entry(_max_pool, windowed=True),
    "torch.nn.modules.pooling.AvgPool2d": Entry(_avg_pool, windowed=True),
    "torch.nn.modules.pooling.AdaptiveMaxPool2d": Entry(_adaptive_max_pool),
    "torch.nn.modules.pooling.AdaptiveAvgPool2d": Entry(_adaptive_avg_pool),
    "torch.nn.modules.normalization.GroupNorm": Entry(_same),  # over the frames, too
    "torch.nn.modules.normalization.LayerNorm": Entry(_same, "last"),
    "torch.nn.modules.linear.Linear": Entry(_same, "last"),
    "torch.nn.modules.flatten.Flatten": Entry(_same, "flat"),
    "torchvision.ops.stochastic_depth.StochasticDepth": SAME,
    "timm.layers.conv2d_same.Conv2dSame": Entry(_conv_same, windowed=True),
    "timm.layers.norm_act.BatchNormAct2d": Entry(_batch_norm_act),
    "timm.layers.pool2d_same.MaxPool2dSame": Entry(_max_pool, windowed=True),
    "timm.layers.pool2d_same.AvgPool2dSame": Entry(_avg_pool, windowed=True),
    "timm.layers.blur_pool.BlurPool2d": Entry(_frames),
    "timm.layers.drop.DropPath": SAME,
    "timm.layers.linear.Linear": Entry(_same, "last"),
}
