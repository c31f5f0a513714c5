"""Prior art that several papers use unchanged: convolutions, and how channel counts scale.

Shape letters: B clips, C input channels, O output channels, T frames, H height, W width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size3 = tuple[int, int, int]


def scaled(channels: int, width: float) -> int:
    """A channel count of a network that is `width` times as wide.

    >>> scaled(64, 0.25), scaled(45, 0.5), scaled(3, 0.01)
    (16, 22, 1)
    """
    return max(1, round(channels * width))


class Conv3d(nn.Conv3d):
    """A 3D convolution, computed the fastest exact way for its kernel, and safe in bfloat16 on a CPU.

    A kernel of one frame is a 2D convolution of each frame; a kernel of one pixel is a 2D convolution over
    (time, pixels). In channels-last memory both are views: nothing is copied. Weights have the shape of
    `nn.Conv3d` and its names in the state dict.

    Safe: where the input is smaller than the kernel along an axis, as time is in the last stages, oneDNN's
    bfloat16 backward pass gives wrong or non-finite weight gradients, from memory that it has not filled
    (torch 2.14, AVX-512: T = 2 under a kernel of 3, T = 4 under one of 5, H = 1 under one of 3 with stride 2;
    at the worst it hangs or breaks the heap). Along such an axis the zeros are put around the input
    beforehand.

    Args:
        in_channels: C.
        out_channels: O.
        kernel: (time, height, width).
        stride: (time, height, width).
        padding: zeros at both ends of (time, height, width); None is half the kernel.
        bias: whether there is one; BatchNorm after it makes it idle.

    Shape:
        input  [B, C, T, H, W]
        output [B, O, T', H', W']

    >>> Conv3d(3, 8, (3, 1, 1), stride=(2, 1, 1))(torch.zeros(1, 3, 16, 7, 7)).shape
    torch.Size([1, 8, 8, 7, 7])
    """

    bf16_safe = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Size3,
        *,
        stride: Size3 = (1, 1, 1),
        padding: Size3 | None = None,
        bias: bool = False,
    ) -> None:
        if padding is None:
            padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        super().__init__(in_channels, out_channels, kernel, stride=stride, padding=padding, bias=bias)
        self._pad = padding

    def forward(self, input: Tensor) -> Tensor:
        x, pad = self._pad_short_axes(input)
        if self.kernel_size[0] == 1 and pad[0] == 0:
            return self._frame_by_frame(x, pad)
        if self.kernel_size[1:] == (1, 1) and pad[1:] == (0, 0) and self.stride[1:] == (1, 1):
            return self._pixel_by_pixel(x, pad)
        return F.conv3d(x, self.weight, self.bias, self.stride, pad)

    def _pad_short_axes(self, x: Tensor) -> tuple[Tensor, Size3]:
        """The input, padded where it is shorter than the kernel, and the padding that is left to do."""
        short = [extent < kernel for extent, kernel in zip(x.shape[2:], self.kernel_size, strict=True)]
        if not any(short):
            return x, self._pad
        t, h, w = (pad if is_short else 0 for pad, is_short in zip(self._pad, short, strict=True))
        return F.pad(x, (w, w, h, h, t, t)), (self._pad[0] - t, self._pad[1] - h, self._pad[2] - w)

    def _frame_by_frame(self, x: Tensor, pad: Size3) -> Tensor:
        t, h, w = self.stride
        if self.kernel_size == (1, 1, 1):  # what the stride passes over need not be copied
            x, h, w = x[..., ::h, ::w], 1, 1
        frames = x[:, :, ::t].transpose(1, 2)  # [B, T', C, H, W]
        y = F.conv2d(frames.flatten(0, 1), self.weight.squeeze(2), self.bias, (h, w), pad[1:])
        return y.view(*frames.shape[:2], *y.shape[1:]).transpose(1, 2)

    def _pixel_by_pixel(self, x: Tensor, pad: Size3) -> Tensor:
        y = F.conv2d(x.flatten(3), self.weight.squeeze(4), self.bias, (self.stride[0], 1), (pad[0], 0))
        return y.view(*y.shape[:3], *x.shape[3:])


def init_msra(module: nn.Module) -> None:
    """MSRA initialisation (He et al. 2015) as Caffe2 has it: normal, by the fan-out. For `Module.apply`."""
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def channels_last(x: Tensor) -> Tensor:
    """The same clip with the channels of a pixel side by side in memory."""
    return x.contiguous(memory_format=torch.channels_last_3d)
