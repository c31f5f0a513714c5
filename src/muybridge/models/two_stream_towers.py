"""Two-Stream Convolutional Networks (arXiv:1406.2199), the layers of the streams.

The networks are in two_stream.py.

Where to find the paper here:
    Fig. 1 (the layers of both streams)     `CNN_M`, `CnnM`

Deviation: layers start with the random weights of models/alexnet.py, the spatial conv1 with an eighth of
    them, since pixels are around 64; the paper's spatial stream starts from ImageNet's.
Deviation: poolings round up, as in Caffe. At 224 pixels only pool2 has something to round.

Shape letters: B clips, C channels, T frames, L flow fields of a stack, H height, W width, D features.
"""

from typing import NamedTuple

from torch import Tensor, nn

from muybridge.config import ClipSpec
from muybridge.errors import ConfigError
from muybridge.models.alexnet import Conv, Drop, Full, Norm, Pool, Row, Tower
from muybridge.models.blocks import channels_last
from muybridge.models.bn_inception import STAGE_NAMES, BnInceptionBlock, make_bn_inception
from muybridge.models.image_network import ImageNetwork
from muybridge.models.two_stream_inputs import CROP, flow_spec, resized, rgb_spec, stack_channels
from muybridge.models.vgg import VGG_16, Vgg16

# fmt: off
# Fig. 1: CNN-M-2048 of Chatfield et al. 2014
CNN_M: tuple[Row, ...] = (
    #     name    channels kernel     stride     padding
    Conv("conv1",    96, (1, 7, 7), (1, 2, 2)),
    Norm("norm1",  beta=0.75),
    Pool("pool1",          3),
    Conv("conv2",   256, (1, 5, 5), (1, 2, 2), (0, 1, 1)),
    Norm("norm2",  beta=0.75),                              # the temporal stream has none here
    Pool("pool2",          3),
    Conv("conv3",   512, (1, 3, 3), (1, 1, 1), (0, 1, 1)),
    Conv("conv4",   512, (1, 3, 3), (1, 1, 1), (0, 1, 1)),
    Conv("conv5",   512, (1, 3, 3), (1, 1, 1), (0, 1, 1)),
    Pool("pool5",          3),
    Full("full6",  4096),
    Drop("drop6"),
    Full("full7",  2048),
)
# fmt: on
TOWERS: dict[str, tuple[Row, ...]] = {"cnn_m": CNN_M, "vgg_16": VGG_16}
FIRST_GAIN = 1 / 8  # of the first weights of the spatial conv1


class Stream(NamedTuple):
    """One stream without its classifier.

    Attributes:
        tower: of pictures with the channels of one input.
        feature_dim: D.
        spec: how the stream sees clips.
        layer_names: the parts of the tower that have weights; "" is the whole.
        crop: H and W that it takes; None is any.
    """

    tower: nn.Module
    feature_dim: int
    spec: ClipSpec
    layer_names: tuple[str, ...]
    crop: int | None = None

    def stages(self, prefix: str) -> tuple[str, ...]:
        """The parts of a network that has the tower under this name.

        >>> Stream(nn.Identity(), 1, rgb_spec(), ("conv1", "conv2")).stages("flow")
        ('flow.conv1', 'flow.conv2')
        """
        return tuple(f"{prefix}.{name}".rstrip(".") for name in self.layer_names)


class CnnM(Tower):
    """CNN-M-2048 up to full7, of each frame.

    `tower(x, until="conv5")` is ReLU5, and `tower(y, after="conv5")` goes on from there.

    Args:
        in_channels: C of the input: 3, or 2L of a stack of L flow fields.
        modality: "rgb" or "flow", whose tower has the first normalisation alone.
        width: scales every channel count.
        crop: H and W of the picture, which full6 fixes.
        dropout: behind full6.
        first_gain: of the first layer's first weights: below 1 for pixels of 0 to 255.

    Shape:
        input  [B, in_channels, T, crop, crop]
        output [B, 2048, T, 1, 1]

    >>> import torch
    >>> tower = CnnM(20, modality="flow", width=1 / 32, crop=64)
    >>> tower(torch.zeros(2, 20, 1, 64, 64)).shape, tower(torch.zeros(2, 20, 1, 64, 64), until="conv5").shape
    (torch.Size([2, 64, 1, 1, 1]), torch.Size([2, 16, 1, 3, 3]))
    """

    def __init__(
        self,
        in_channels: int,
        *,
        modality: str = "rgb",
        width: float = 1.0,
        crop: int = 224,
        dropout: float = 0.9,
        first_gain: float = 1.0,
    ) -> None:
        rows = rows_for("cnn_m", modality)
        super().__init__(rows, in_channels, side=crop, width=width, dropout=dropout, first_gain=first_gain)


def rows_for(tower: str, modality: str) -> tuple[Row, ...]:
    """The table of a tower; the CNN-M of flow has no second normalisation (Fig. 1).

    >>> [row.name for row in rows_for("cnn_m", "flow") if isinstance(row, Norm)]
    ['norm1']
    """
    return tuple(row for row in TOWERS[tower] if modality == "rgb" or row.name != "norm2")


def make_stream(
    modality: str, num_flows: int, *, width: float, crop: int | None, backbone: str, dropout: float
) -> Stream:
    """One stream without its classifier, with random weights.

    Raises:
        ConfigError: there is no such backbone, or numbers that make no sense.
    """
    if width <= 0 or num_flows < 1:
        raise ConfigError(f"width and num_flows must be above 0, got {width} and {num_flows}")
    channels = 3 if modality == "rgb" else 2 * num_flows
    if "/" in backbone:
        if width != 1:
            raise ConfigError(f"width must be 1 for {backbone}, got {width}: choose a narrower backbone")
        network = ImageNetwork(backbone, channels)
        picture = network.spec if crop is None else resized(network.spec, crop)
        spec = picture if modality == "rgb" else flow_spec(num_flows, like=picture)
        return Stream(network, network.out_channels, spec, ("",))
    side = CROP if crop is None else crop
    picture = rgb_spec(side)
    spec = picture if modality == "rgb" else flow_spec(num_flows, like=picture)
    if backbone == "bn_inception":
        trunk = make_bn_inception(channels, width=width)
        last = trunk[-1]
        assert isinstance(last, BnInceptionBlock)
        return Stream(trunk, last.out_channels, spec, STAGE_NAMES)
    tower = _tower(backbone, channels, modality, width=width, crop=side, dropout=dropout)
    return Stream(tower, tower.out_channels, spec, tower.layer_names, crop=side)


def _tower(backbone: str, channels: int, modality: str, *, width: float, crop: int, dropout: float) -> Tower:
    gain = FIRST_GAIN if modality == "rgb" else 1.0
    if backbone == "cnn_m":
        return CnnM(channels, modality=modality, width=width, crop=crop, dropout=dropout, first_gain=gain)
    if backbone == "vgg_16":
        return Vgg16(channels, width=width, crop=crop, dropout=dropout, first_gain=gain)
    raise ConfigError(
        f"backbone must be cnn_m, vgg_16, bn_inception, torchvision/NAME or timm/NAME, got '{backbone}'"
    )


def run_stream(tower: nn.Module, x: Tensor) -> Tensor:
    """A frame, or a stack of fields as the channels of one, through a tower; what is left of it, averaged.

    Shape:
        x      [B, 3, 1, H, W] or [B, 2, L, H, W]
        output [B, D]
    """
    y: Tensor = tower(channels_last(x if x.shape[1] == 3 else stack_channels(x)))
    return y.mean((2, 3, 4))
