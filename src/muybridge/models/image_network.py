"""A 2D network of torchvision or timm as a tower: of each frame of a clip, for any number of channels.

Shape letters: B clips, C channels, T frames, H height, W width, D features.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from muybridge.config import ClipSpec
from muybridge.errors import ConfigError
from muybridge.models.contract import Adapted
from muybridge.models.inflate.backbones import build_backbone, by_own_names
from muybridge.models.two_stream_inputs import IMAGENET_MEAN_BGR
from muybridge.models.vgg import Vgg16, from_torchvision


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
        self._shapes_2d = {key: value.shape for key, value in network.state_dict().items()}
        self.spec: ClipSpec = spec.model_copy(update={"frame_stride": 1})
        self.out_channels = _drop_classifier(network, backbone)
        if in_channels != 3:
            _widen_input(network, in_channels, backbone)
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        frames = x.transpose(1, 2)
        features: Tensor = self.network(frames.flatten(0, 1))
        return features.view(*frames.shape[:2], -1).transpose(1, 2)[..., None, None]

    def from_2d(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """The tensors of the 2D network by the names that they have here; and what is left, its classifier's.

        Args:
            state: the state dict of the backbone, by its library's names; or by other names, all of them, if
                each tensor in its order has the shape of its place.
        """
        own, renamed = self.network.state_dict(), by_own_names(state, self._shapes_2d)
        taken = {f"network.{key}": value for key, value in renamed.items() if key in own}
        return taken, tuple(key for key in renamed if key not in own)


def fit_frames(tensors: Mapping[str, Tensor], tower: nn.Module, prefix: str) -> Adapted:
    """The tensors of a trunk to start from, for a tower of frames: see `VideoModel.adapt`.

    First filters for another number of channels are made to fit (`cross_modality`). An `ImageNetwork` takes
    the file of its 2D network and a `Vgg16` that of torchvision's; the classifier is left over.

    Args:
        tensors: of a checkpoint, by our names, or of a 2D network's file.
        tower: the tower.
        prefix: of its names in the network.
    """
    fitted = dict(tensors)
    is_foreign = not any(name.startswith(prefix) for name in fitted)
    if isinstance(tower, ImageNetwork) and is_foreign:
        taken, rest = tower.from_2d(fitted)
        fitted = {f"{prefix}{name}": value for name, value in taken.items()}
        fitted |= {f"head.{name}": torch.empty(0) for name in rest}
    if isinstance(tower, Vgg16) and is_foreign:
        found = fit_vgg_16(fitted, tower.get_parameter("conv1_1.weight").shape[1])
        if found.tensors:
            named = {
                name if name.startswith("head.") else f"{prefix}{name}": value
                for name, value in found.tensors.items()
            }
            return Adapted(named, tuple(f"{prefix}{name}" for name in found.changed))
    first = next(f"{prefix}{name}" for name, one in tower.named_parameters() if one.ndim > 3)
    found_first, own = fitted.get(first), tower.get_parameter(first.removeprefix(prefix))
    if found_first is None or found_first.ndim != own.ndim or found_first.shape[1] == own.shape[1]:
        return Adapted(fitted)
    fitted[first] = cross_modality(found_first, own.shape[1])
    return Adapted(fitted, (first,))


def fit_vgg_16(tensors: Mapping[str, Tensor], in_channels: int) -> Adapted:
    """A file of torchvision's VGG-16 for a stream, by the names of `VGG_16`; nothing of another network's.

    A picture is given in pixels, blue first, less ImageNet's mean; other channels have the mean of the first
    filters, repeated.

    Args:
        tensors: of a file.
        in_channels: C of the stream's tower.

    Raises:
        WeightsError: the file has no fully connected layers.
    """
    is_picture = in_channels == 3
    layers = from_torchvision(tensors, mean_bgr=IMAGENET_MEAN_BGR if is_picture else None)
    if not layers:
        return Adapted({})
    if is_picture:
        return Adapted(layers, ("conv1_1.weight", "conv1_1.bias"))
    layers["conv1_1.weight"] = cross_modality(layers["conv1_1.weight"], in_channels)
    return Adapted(layers, ("conv1_1.weight",))


def cross_modality(filters: Tensor, in_channels: int) -> Tensor:
    """First filters for another number of channels: their mean over the channels, repeated.

    Nothing is rescaled, so that on channels that are all equal they answer in_channels / C times what they
    answered on a grey picture.

    Shape:
        filters [O, C, h, w] or [O, C, t, h, w]
        output  the same, with in_channels for C

    >>> import torch
    >>> cross_modality(torch.tensor([1.0, 2.0, 6.0]).view(1, 3, 1, 1), 4).flatten()
    tensor([3., 3., 3., 3.])
    """
    return filters.mean(1, keepdim=True).repeat_interleave(in_channels, dim=1)


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
