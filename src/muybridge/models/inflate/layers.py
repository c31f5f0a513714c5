"""The layers of an inflated network: each is its 2D layer on every frame, and a window over time.

A window of N frames with stride s has its place at frame 0, s, 2 s, ...: (N - 1) // 2 frames in front of it
and N // 2 behind, so that T frames become ceil(T / s), whatever N.

Shape letters: B clips, C input channels, O output channels, T frames, H height, W width.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muybridge.models.blocks import Size3
from muybridge.models.inception import same_padding

TimePadding = Literal["zero", "replicate"]
FilterInit = Literal["mean", "centre"]
Ends = tuple[int, int]  # what is added before and behind, along one axis


class Temporal(NamedTuple):
    """What a layer gets along time: N frames of a window, and from how many frames to the next.

    >>> Temporal(3)
    Temporal(kernel=3, stride=1)
    """

    kernel: int = 1
    stride: int = 1


def inflate_weight(weight: Tensor, kernel: int, how: FilterInit) -> Tensor:
    """A 2D filter over N frames, such that N equal frames give what the 2D filter gives on one of them.

    Args:
        weight: of a 2D convolution, depthwise or not.
        kernel: N.
        how: "mean" has 1 / N of it at each frame (Sec. 2.2); "centre" has it at one frame, zeros elsewhere.

    Shape:
        weight [O, C, H, W]
        output [O, C, N, H, W]

    >>> inflate_weight(torch.ones(1, 1, 1, 1), 3, "centre").flatten().tolist()
    [0.0, 1.0, 0.0]
    """
    filters = weight.detach().unsqueeze(2)
    if how == "mean":
        return filters.repeat(1, 1, kernel, 1, 1) / kernel
    inflated = torch.zeros_like(filters).repeat(1, 1, kernel, 1, 1)
    inflated[:, :, (kernel - 1) // 2] = weight.detach()
    return inflated


def extend_time(x: Tensor, kernel: int, padding: TimePadding) -> Tensor:
    """Frames at both ends, so that a window of `kernel` frames has its place at each frame.

    Args:
        x: a clip.
        kernel: N.
        padding: "zero" adds frames of zeros; "replicate" the first and the last frame once more.

    Shape:
        x      [B, C, T, H, W]
        output [B, C, T + N - 1, H, W]

    >>> extend_time(torch.tensor([5.0, 6.0]).view(1, 1, 2, 1, 1), 4, "replicate").flatten().tolist()
    [5.0, 5.0, 6.0, 6.0, 6.0]
    """
    before, behind = (kernel - 1) // 2, kernel // 2
    if padding == "zero":
        return F.pad(x, (0, 0, 0, 0, before, behind))
    return torch.cat([x[:, :, :1]] * before + [x] + [x[:, :, -1:]] * behind, dim=2)


def frame_by_frame(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A 2D layer or function on each frame. In channels-last memory nothing is copied.

    Shape:
        x      [B, C, T, H, W]
        output [B, O, T, H', W']
    """
    frames = x.transpose(1, 2)
    y = layer(frames.flatten(0, 1))
    return y.view(*frames.shape[:2], *y.shape[1:]).transpose(1, 2)


def interpolate_frames(x: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
    """`torch.nn.functional.interpolate` on each frame.

    Shape:
        x      [B, C, T, H, W]
        output [B, C, T, H', W']
    """
    return frame_by_frame(lambda frames: F.interpolate(frames, *arguments, **keywords), x)


class InflatedConv3d(nn.Conv3d):
    """`blocks.Conv3d` with what 2D networks ask of a convolution besides: groups, dilation, uneven padding.

    It takes the same short ways (a kernel of one frame, a kernel of one pixel), and the same care of bfloat16
    on a CPU: where an axis is shorter than the kernel, the padding is put around the input beforehand.

    Args:
        in_channels: C.
        out_channels: O.
        kernel: (time, height, width).
        stride: (time, height, width).
        space_padding: zeros before and behind height and width; "tf_same" is TensorFlow's SAME, computed
            from the size of each input.
        dilation: (height, width).
        groups: C of them is a depthwise convolution.
        bias: whether there is one.
        time_padding: what stands before the first and behind the last frame.

    Shape:
        input  [B, C, T, H, W]
        output [B, O, ceil(T / stride), H', W']

    >>> conv = InflatedConv3d(4, 4, (3, 5, 5), stride=(2, 2, 2), space_padding="tf_same", groups=4)
    >>> conv(torch.zeros(1, 4, 5, 7, 8)).shape
    torch.Size([1, 4, 3, 4, 4])
    """

    bf16_safe = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Size3,
        *,
        stride: Size3 = (1, 1, 1),
        space_padding: tuple[Ends, Ends] | Literal["tf_same"] = ((0, 0), (0, 0)),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        bias: bool = False,
        time_padding: TimePadding = "zero",
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel, stride, dilation=(1, *dilation), groups=groups, bias=bias
        )
        self.space_padding = space_padding
        self.time_padding = time_padding

    def forward(self, input: Tensor) -> Tensor:
        kernel_t, stride_t = self.kernel_size[0], self.stride[0]
        if kernel_t == 1:
            x, pad = self._pad_space(input[:, :, ::stride_t])
            return self._frame_by_frame(x, pad, self.weight.squeeze(2), self.bias)
        # Depthwise, the backward pass of the 3D kernel is slower on a CPU than those of its parts.
        if self.groups == self.in_channels and torch.is_grad_enabled() and self.weight.requires_grad:
            return self._tap_by_tap(input)
        x, pad = self._pad_space(extend_time(input, kernel_t, self.time_padding))
        if self.kernel_size[1:] == (1, 1) and self.stride[1:] == (1, 1) and pad == (0, 0):
            return self._pixel_by_pixel(x)
        return F.conv3d(x, self.weight, self.bias, self.stride, (0, *pad), self.dilation, self.groups)

    def extra_repr(self) -> str:
        own = super().extra_repr()  # type: ignore[no-untyped-call]  # torch has not annotated it
        return f"{own}, space={self.space_padding}, time={self.time_padding}"

    def _pad_space(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The input, padded where the convolution cannot or must not do it, and the padding left to do."""
        spans = [d * (k - 1) + 1 for d, k in zip(self.dilation[1:], self.kernel_size[1:], strict=True)]
        ends = self.space_padding
        if ends == "tf_same":
            sizes = zip(x.shape[3:], spans, self.stride[1:], strict=True)
            height, width = (same_padding(size, span, stride) for size, span, stride in sizes)
            ends = (height, width)
        left = [
            before if before == behind and size >= span else 0
            for (before, behind), size, span in zip(ends, x.shape[3:], spans, strict=True)
        ]
        (top, bottom), (west, east) = (
            (before - done, behind - done) for (before, behind), done in zip(ends, left, strict=True)
        )
        padded = F.pad(x, (west, east, top, bottom)) if any((west, east, top, bottom)) else x
        return padded, (left[0], left[1])

    def _tap_by_tap(self, input: Tensor) -> Tensor:
        """One 2D convolution of all frames for each frame of the window; their sum, each one later."""
        x, pad = self._pad_space(input)
        y = None
        for tap, weight in enumerate(self.weight.unbind(2)):
            frames = extend_time(self._frame_by_frame(x, pad, weight), self.kernel_size[0], self.time_padding)
            shifted = frames[:, :, tap : tap + x.shape[2] : self.stride[0]]
            y = shifted if y is None else y + shifted
        assert y is not None
        return y if self.bias is None else y + self.bias.view(-1, 1, 1, 1)

    def _frame_by_frame(
        self, x: Tensor, pad: tuple[int, int], weight: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        stride, dilation = self.stride[1:], self.dilation[1:]
        return frame_by_frame(
            lambda frames: F.conv2d(frames, weight, bias, stride, pad, dilation, self.groups), x
        )

    def _pixel_by_pixel(self, x: Tensor) -> Tensor:
        stride = (self.stride[0], 1)
        y = F.conv2d(x.flatten(3), self.weight.squeeze(4), self.bias, stride, groups=self.groups)
        return y.view(*y.shape[:3], *x.shape[3:])


class FramePool(nn.Module):
    """A 2D pooling layer on each frame, then the same pooling over a window of frames.

    Args:
        pool: the 2D layer, with its own ideas of padding and rounding.
        temporal: the window over time.
        kind: "max" or "avg", over time.
        time_padding: for "avg"; a maximum is the same with either.

    Shape:
        input  [B, C, T, H, W]
        output [B, C, ceil(T / stride), H', W']

    >>> FramePool(nn.MaxPool2d(3, 2, 1), Temporal(3, 2), kind="max")(torch.zeros(1, 2, 5, 8, 8)).shape
    torch.Size([1, 2, 3, 4, 4])
    """

    def __init__(
        self,
        pool: nn.Module,
        temporal: Temporal = Temporal(),  # noqa: B008 -- frozen
        *,
        kind: Literal["max", "avg"],
        time_padding: TimePadding = "replicate",
    ) -> None:
        super().__init__()
        self.pool = pool
        self.temporal = temporal
        self.kind = kind
        self.time_padding: TimePadding = "replicate" if kind == "max" else time_padding

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.temporal
        if kernel == 1:
            return frame_by_frame(self.pool, x[:, :, ::stride])
        y = extend_time(frame_by_frame(self.pool, x), kernel, self.time_padding)
        pool_time = F.max_pool3d if self.kind == "max" else F.avg_pool3d
        return pool_time(y, (kernel, 1, 1), (stride, 1, 1))

    def extra_repr(self) -> str:
        return f"{self.kind}, {self.temporal}, time={self.time_padding}"


class FrameByFrame(nn.Module):
    """A 2D layer on each frame.

    Shape:
        input  [B, C, T, H, W]
        output [B, O, T, H', W']
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return frame_by_frame(self.layer, x)


class PoolTimeThenSpace(nn.Module):
    """An adaptive 2D pooling layer, and the whole of time with it: one frame is left.

    Args:
        pool: the 2D layer.
        kind: "max" or "avg", over time.

    Shape:
        input  [B, C, T, H, W]
        output [B, C, 1, H', W']

    >>> PoolTimeThenSpace(nn.AdaptiveAvgPool2d((2, 1)), kind="avg")(torch.zeros(1, 3, 5, 8, 8)).shape
    torch.Size([1, 3, 1, 2, 1])
    """

    def __init__(self, pool: nn.Module, *, kind: Literal["max", "avg"]) -> None:
        super().__init__()
        self.pool = pool
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        frame = x.amax(2) if self.kind == "max" else x.mean(2)
        y: Tensor = self.pool(frame)
        return y.unsqueeze(2)

    def extra_repr(self) -> str:
        return self.kind


class BatchNormAct3d(nn.BatchNorm3d):
    """BatchNorm, dropout and activation in one layer, as timm has them.

    Shape:
        input  [B, C, T, H, W]
        output [B, C, T, H, W]
    """

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        y: Tensor = self.act(self.drop(super().forward(input)))
        return y
