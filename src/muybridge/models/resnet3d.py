"""Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet? CVPR 2018 (arXiv:1711.09577).

Hara, Kataoka, Satoh. ResNets whose convolutions and poolings are all 3D; their code has public weights.

Where to find the paper here:
    Fig. 3 (basic and bottleneck blocks)                     `resnet.ResidualBlock`
    Table 1 (conv1, pooling, channels, blocks of a stage)    `BLOCKS`, `CHANNELS`, `ResNet3D`
    shortcuts of type A, of type B                           `resnet.ZeroPadding`, `resnet.Projection`

Deviation: ResNeXt, Wide ResNet, DenseNet and the pre-activation ResNet of the paper are not here.
Deviation: clips are normalised with the mean and std of the authors' later weights; the first ones, of 2017,
    had a mean alone.

Shape letters: B clips, C channels, T frames, H height, W width, K classes.
"""

from typing import Literal, get_args

from torch import Tensor, nn

from muybridge.config import ClipSpec
from muybridge.errors import ConfigError
from muybridge.models.blocks import Conv3d, Size3, channels_last, init_msra, scaled
from muybridge.models.contract import VideoModel, check_clip
from muybridge.models.resnet import ResidualBlock, Stem, ZeroPadding

Shortcut = Literal["A", "B"]

# Table 1: blocks in conv2_x .. conv5_x
BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
BOTTLENECKS_FROM = 50  # layers; fewer have basic blocks
EXPANSION = 4  # of a bottleneck's output
CHANNELS = (64, 128, 256, 512)
KINETICS_MEAN = (0.4345, 0.4051, 0.3775)
KINETICS_STD = (0.2768, 0.2713, 0.2737)


class ResNet3D(VideoModel):
    """A ResNet of 3 x 3 x 3 convolutions: conv1 is 7 x 7 x 7, and time is halved wherever space is after it.

    Args:
        layers: a key of `BLOCKS`.
        num_classes: K.
        width: scales every channel count.
        num_frames: T of its default clip; the network takes any.
        shortcut: "B" projects where the shape changes; "A" pads with zeros, as the first weights of 18 and 34
            layers had it.
        bn_eps: of every BatchNorm.

    Shape:
        input  [B, 3, T, H, W]
        output [B, K]

    >>> import torch
    >>> model = ResNet3D(18, num_classes=5, width=0.125)
    >>> model(torch.zeros(2, 3, 16, 64, 64)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        layers: int = 18,
        *,
        num_classes: int = 400,
        width: float = 1.0,
        num_frames: int = 16,
        shortcut: Shortcut = "B",
        bn_eps: float = 1e-5,
    ) -> None:
        _check(layers, width, num_frames, shortcut)
        expansion = EXPANSION if layers >= BOTTLENECKS_FROM else 1
        channels = [scaled(count, width) for count in CHANNELS]
        super().__init__(
            num_classes=num_classes,
            feature_dim=channels[-1] * expansion,
            default_specs=(clip_spec(num_frames),),
            stage_names=("stem", "stages.0", "stages.1", "stages.2", "stages.3"),
        )
        self.shortcut = shortcut
        conv1 = Conv3d(3, channels[0], (7, 7, 7), stride=(1, 2, 2))
        self.stem = Stem(conv1, channels[0], bn_eps=bn_eps, pool=nn.MaxPool3d(3, stride=2, padding=1))
        self.stages = nn.Sequential()
        in_channels = channels[0]
        for number, (inner, blocks) in enumerate(zip(channels, BLOCKS[layers], strict=True)):
            stage = nn.Sequential()
            for index in range(blocks):
                s = 2 if number > 0 and index == 0 else 1
                stage.append(self._block(in_channels, inner, expansion, (s, s, s), bn_eps))
                in_channels = inner * expansion
            self.stages.append(stage)
        self.apply(init_msra)

    def forward_features(self, *inputs: Tensor) -> Tensor:
        """The last stage, averaged over time and space.

        Shape:
            input  [B, 3, T, H, W]
            output [B, feature_dim]
        """
        (x,) = inputs
        check_clip(x, channels=3, who=self.name or "ResNet3D")
        y: Tensor = self.stages(self.stem(channels_last(x)))
        return y.mean((2, 3, 4))

    def _block(
        self, in_channels: int, inner: int, expansion: int, stride: Size3, bn_eps: float
    ) -> ResidualBlock:
        """Two 3 x 3 x 3 convolutions, or one between two of 1 x 1 x 1; the first 3 x 3 x 3 has the stride."""
        out_channels = inner * expansion
        if expansion == 1:
            convs = [
                Conv3d(in_channels, inner, (3, 3, 3), stride=stride),
                Conv3d(inner, inner, (3, 3, 3)),
            ]
        else:
            convs = [
                Conv3d(in_channels, inner, (1, 1, 1)),
                Conv3d(inner, inner, (3, 3, 3), stride=stride),
                Conv3d(inner, out_channels, (1, 1, 1)),
            ]
        channels = [*(inner for _ in convs[:-1]), out_channels]
        block = ResidualBlock(in_channels, convs, channels, stride=stride, bn_eps=bn_eps)
        if self.shortcut == "A" and block.shortcut is not None:
            block.shortcut = ZeroPadding(out_channels, stride=stride)
        return block


def clip_spec(num_frames: int = 16) -> ClipSpec:
    """Consecutive frames of 112 x 112 pixels.

    >>> clip_spec().span
    16
    """
    return ClipSpec(num_frames=num_frames, resize=112, crop=112, mean=KINETICS_MEAN, std=KINETICS_STD)


def _check(layers: int, width: float, num_frames: int, shortcut: str) -> None:
    if layers not in BLOCKS:
        raise ConfigError(f"layers must be one of {', '.join(map(str, BLOCKS))}, got {layers}")
    if width <= 0 or num_frames < 1:
        raise ConfigError(f"width and num_frames must be above 0, got {width} and {num_frames}")
    if shortcut not in get_args(Shortcut):
        raise ConfigError(f"shortcut must be 'A' or 'B', got '{shortcut}'")
