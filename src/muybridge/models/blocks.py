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
    """A 3D convolution without bias, computed the fastest exact way for its kernel.

    A kernel of one frame is a 2D convolution of each frame; a kernel of one pixel is a 2D convolution over
    (time, pixels). In channels-last memory both are views: nothing is copied. Weights have the shape of
    `nn.Conv3d` and the names of its state dict.

    Shape:
        input  [B, C, T, H, W]
        output [B, O, T', H', W']
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
        if self.kernel_size[0] == 1 and self._pad[0] == 0:
            return self._frame_by_frame(input)
        if self.kernel_size[1:] == (1, 1) and self._pad[1:] == (0, 0) and self.stride[1:] == (1, 1):
            return self._pixel_by_pixel(input)
        return super().forward(input)

    def _frame_by_frame(self, x: Tensor) -> Tensor:
        frames = x[:, :, :: self.stride[0]].transpose(1, 2)  # [B, T', C, H, W]
        weight, stride, padding = self.weight.squeeze(2), self.stride[1:], self._pad[1:]
        y = F.conv2d(frames.flatten(0, 1), weight, self.bias, stride, padding)
        return y.view(*frames.shape[:2], *y.shape[1:]).transpose(1, 2)

    def _pixel_by_pixel(self, x: Tensor) -> Tensor:
        weight, stride, padding = self.weight.squeeze(4), (self.stride[0], 1), (self._pad[0], 0)
        y = F.conv2d(x.flatten(3), weight, self.bias, stride, padding)
        return y.view(*y.shape[:3], *x.shape[3:])


def init_msra(module: nn.Module) -> None:
    """MSRA initialisation (He et al. 2015) as Caffe2 has it: normal, by the fan-out. For `Module.apply`."""
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def channels_last(x: Tensor) -> Tensor:
    """The same clip with the channels of a pixel side by side in memory."""
    return x.contiguous(memory_format=torch.channels_last_3d)
