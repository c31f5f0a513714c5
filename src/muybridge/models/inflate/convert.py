"""`inflate`: from a 2D network to a 3D one.

Shape letters: B clips, C channels, T frames, H height, W width, D features.
"""

from typing import get_args

from torch import fx, nn

from muybridge.errors import ConfigError
from muybridge.models.inflate.functions import HANDLERS, NAMES
from muybridge.models.inflate.layers import FilterInit, TimePadding
from muybridge.models.inflate.rewrite import Rewriter, Settings
from muybridge.models.inflate.rules import NamedLayers, RuleLike, find_rule
from muybridge.models.inflate.trace import Traced, run_on_meta, trace

IMAGE = (3, 224, 224)
TRIAL_FRAMES = 16  # of the clip that the new network must take: an odd stride over time shows in its length


def inflate(
    network: nn.Module,
    *,
    rule: RuleLike = "all",
    filters: FilterInit = "mean",
    padding: TimePadding = "replicate",
    image: tuple[int, int, int] = IMAGE,
) -> fx.GraphModule:
    """A 3D network with the names and the weights of a 2D one, which is left as it was.

    Args:
        network: takes one tensor of images; of torchvision, of timm, or anyone's.
        rule: "all" makes k x k into k x k x k; "alternate_3x1x1" puts a 3 x 1 x 1 in place of a 1 x 1 in
            every second residual block; "none" leaves each layer within a frame. Or patterns of layers' names
            with a kernel and a stride each, {"conv1": (5, 2)}; or a function of a layer's name and the layer.
        filters: "mean" spreads 1 / N of a filter over each of N frames; "centre" puts it on one.
        padding: what stands before the first and behind the last frame of a layer's input.
        image: (C, H, W) of images that the network takes; shapes are followed with them, nothing is computed.

    Raises:
        InflationError: an operation that the tables do not have; it is named.
        ConfigError: no such rule, or it fits no layer.

    Shape:
        input  [B, C, T, H, W]
        output as the 2D network's; a map of features has time before height

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> video_net = inflate(net)
    >>> video_net(torch.zeros(2, 3, 6, 32, 32)).shape, video_net.get_parameter("0.weight").shape
    (torch.Size([2, 8]), torch.Size([8, 3, 3, 3, 3]))
    """
    return rewrite(trace(network, image), rule=rule, filters=filters, padding=padding, image=image)


def rewrite(
    traced: Traced, *, rule: RuleLike, filters: FilterInit, padding: TimePadding, image: tuple[int, int, int]
) -> fx.GraphModule:
    """As `inflate`, of a network that has been followed already."""
    for word, value, kind in (("filters", filters, FilterInit), ("padding", padding, TimePadding)):
        if value not in get_args(kind):
            raise ConfigError(f"inflation: {word} is one of {', '.join(get_args(kind))}, not '{value}'")
    found = find_rule(rule, traced.network)
    rewriter = Rewriter(traced, Settings(found, filters, padding), HANDLERS, NAMES)
    inflated = rewriter.run()
    if isinstance(found, NamedLayers) and (idle := found.unused()):
        layers = [name for name, module in inflated.named_modules() if hasattr(module, "kernel_size")]
        raise ConfigError(
            f"inflation rule: '{idle[0]}' fits no layer; there are {', '.join(layers[:6])}, ..."
        )
    channels, height, width = image
    run_on_meta(inflated, inflated.graph, (2, channels, TRIAL_FRAMES, height, width), _name)
    return inflated.train(traced.network.training)


def _name(node: fx.Node) -> str:
    target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.target)
    return f"'{target}' ({node.name}) of the inflated network"
