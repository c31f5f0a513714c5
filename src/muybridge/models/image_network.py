"""A 2D network of torchvision or timm as a tower: of each frame of a clip, for any number of channels.

Shape letters: B clips, C channels, T frames, H height, W width, D features.
"""

from torch import Tensor, nn

from muybridge.config import ClipSpec
from muybridge.errors import ConfigError
from muybridge.models.inflate.backbones import build_backbone


class ImageNetwork(nn.Module):
    """A 2D network without its classifier, with random weights.

    Its last linear layer goes, and its first convolution takes `in_channels`. Other than in
    `inflate.InflatedNetwork` the network itself is run, so that any will do that ends in a linear layer.

    Args:
        backbone: "torchvision/resnet50", "timm/tf_efficientnet_lite0": the library and its name there.
        in_channels: C.

    Attributes:
        out_channels: D, what the classifier took.
        spec: clips of one frame that look as the network's images do.

    Shape:
        input  [B, C, T, H, W]
        output [B, D, T, 1, 1]

    >>> import torch
    >>> with torch.device("meta"):
    ...     tower = ImageNetwork("torchvision/resnet18", 20)
    >>> tower(torch.empty(2, 20, 3, 64, 64, device="meta")).shape
    torch.Size([2, 512, 3, 1, 1])
    """

    def __init__(self, backbone: str, in_channels: int = 3) -> None:
        super().__init__()
        network, spec = build_backbone(backbone, num_frames=1)
        self.spec: ClipSpec = spec.model_copy(update={"frame_stride": 1})
        self.out_channels = _drop_classifier(network, backbone)
        if in_channels != 3:
            _widen_input(network, in_channels, backbone)
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        frames = x.transpose(1, 2)
        features: Tensor = self.network(frames.flatten(0, 1))
        return features.view(*frames.shape[:2], -1).transpose(1, 2)[..., None, None]


def _drop_classifier(network: nn.Module, backbone: str) -> int:
    """Puts the identity in the place of the last linear layer; how many features it took."""
    linear = [(name, one) for name, one in network.named_modules() if isinstance(one, nn.Linear)]
    if not linear:
        raise ConfigError(
            f"{backbone} has no linear layer as its classifier, so that there are no features for another; "
            "take another backbone"
        )
    name, last = linear[-1]
    _replace(network, name, nn.Identity())
    return last.in_features


def _widen_input(network: nn.Module, channels: int, backbone: str) -> None:
    """Lets the first convolution take other channels than three, with new random weights."""
    for one in network.modules():
        if isinstance(one, nn.Conv2d) and one.in_channels == 3:
            shape = (one.out_channels, channels, *one.kernel_size)
            one.weight = nn.Parameter(one.weight.new_empty(shape))
            one.in_channels = channels
            nn.init.kaiming_normal_(one.weight, mode="fan_out", nonlinearity="relu")
            return
    raise ConfigError(f"{backbone} has no convolution of 3 channels to widen; take another backbone")


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
