"""A network of torchvision or timm, inflated: it is built, trained, saved and loaded as all others are.

Shape letters: B clips, T frames, H height, W width, D features, K classes.
"""

from collections.abc import Mapping
from types import UnionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from muybridge.errors import ConfigError, InflationError, WeightsError
from muybridge.models.blocks import channels_last
from muybridge.models.contract import Adapted, VideoModel, check_clip
from muybridge.models.inflate.backbones import build_backbone, by_own_names
from muybridge.models.inflate.convert import rewrite
from muybridge.models.inflate.layers import FilterInit, TimePadding, inflate_weight
from muybridge.models.inflate.trace import Traced, trace

MAX_LISTED = 6


class From2d(NamedTuple):
    """The tensors of a 2D network, inflated.

    Attributes:
        tensors: by the names of the 3D network.
        inflated: names of those that were spread over time.
        unused: names of the 2D network that found no place: its classifier's.
    """

    tensors: dict[str, Tensor]
    inflated: tuple[str, ...]
    unused: tuple[str, ...]


class InflatedNetwork(VideoModel):
    """A 2D network of someone else's, inflated, with a classifier of its own.

    Its weights are random: nothing is downloaded. `load_2d` takes those of the 2D network.

    Args:
        backbone: "torchvision/resnet50", "timm/tf_efficientnet_lite0": the library and its name there.
        rule: a name, or patterns of layers with a kernel and a stride over time each: see `inflate`.
        filters: "mean" or "centre": see `inflate`.
        padding: "zero" or "replicate", before the first and behind the last frame.
        num_classes: K.
        width: must be 1: the channels are the backbone's.
        num_frames: of a clip as it is sampled, four frames apart; the network takes any number.
        dropout: before the classifier, in place of the backbone's own there.

    Shape:
        input  [B, 3, T, H, W]
        output [B, K]

    >>> import torch
    >>> with torch.device("meta"):
    ...     net = InflatedNetwork(backbone="torchvision/resnet18", rule={"layer?.0.conv1": (3, 1)})
    >>> clips = torch.empty(2, 3, 4, 64, 64, device="meta")
    >>> net(clips).shape, net.get_parameter("trunk.layer1.0.conv1.weight").shape
    (torch.Size([2, 400]), torch.Size([64, 64, 3, 3, 3]))
    """

    def __init__(
        self,
        *,
        backbone: str = "torchvision/resnet50",
        rule: str | Mapping[str, tuple[int, int]] = "all",
        filters: FilterInit = "mean",
        padding: TimePadding = "replicate",
        num_classes: int = 400,
        width: float = 1.0,
        num_frames: int = 16,
        dropout: float = 0.5,
    ) -> None:
        if width != 1:
            raise ConfigError(
                f"width must be 1 for an inflated network, got {width}: choose a narrower backbone"
            )
        network, spec = build_backbone(backbone, num_frames=num_frames)
        image = (3, spec.crop, spec.crop)
        traced = trace(network, image)
        feature_dim = _drop_classifier(traced, backbone)
        trunk = rewrite(traced, rule=rule, filters=filters, padding=padding, image=image)
        super().__init__(
            num_classes=num_classes,
            feature_dim=feature_dim,
            default_specs=(spec,),
            stage_names=_stages(trunk),
            dropout=dropout,
        )
        self.backbone = backbone
        self.filters = filters
        self.trunk = trunk
        self._shapes_2d = {key: value.shape for key, value in network.state_dict().items()}

    def forward_features(self, *inputs: Tensor) -> Tensor:
        """What the 2D network gives its classifier.

        Shape:
            input  [B, 3, T, H, W]
            output [B, D]
        """
        (x,) = inputs
        check_clip(x, channels=3, who=self.name or self.backbone)
        features: Tensor = self.trunk(channels_last(x))
        return features

    def from_2d(self, state: Mapping[str, Tensor]) -> From2d:
        """The tensors of a 2D network for this one: filters are spread over time, all others stay.

        Args:
            state: the state dict of the backbone, by its library's names; or by other names, all of them, if
                each tensor in its order has the shape of its place.

        Raises:
            WeightsError: it is another network's.
        """
        tensors, spread, wrong = {}, [], []
        own, state = self.trunk.state_dict(), by_own_names(state, self._shapes_2d)
        for key, value in own.items():
            if key not in state:
                wrong += [] if key.endswith("num_batches_tracked") else [f"missing {key}"]
                continue
            flat = state[key]
            kernel = value.shape[2] if value.ndim == flat.ndim + 1 else None
            inflated = flat if kernel is None else inflate_weight(flat, kernel, self.filters)
            spread += [] if kernel is None else [f"trunk.{key}"]
            tensors[f"trunk.{key}"] = inflated
            if inflated.shape != value.shape:
                wrong.append(f"{key} is {list(flat.shape)}, {list(value.shape)} is wanted")
        if wrong:
            more = f", and {len(wrong) - MAX_LISTED} more" if len(wrong) > MAX_LISTED else ""
            raise WeightsError(
                f"these are no weights of {self.backbone}: {', '.join(wrong[:MAX_LISTED])}{more}"
            )
        return From2d(tensors, tuple(spread), tuple(key for key in state if key not in own))

    def adapt(self, tensors: Mapping[str, Tensor]) -> Adapted:
        """Takes the weights of the 2D network, too; its classifier is left over as another head.

        Raises:
            WeightsError: they are another 2D network's.
        """
        if any(name.startswith("trunk.") for name in tensors):
            return Adapted(dict(tensors))
        found = self.from_2d(tensors)
        left_over = {f"head.{name}": torch.empty(0) for name in found.unused}
        return Adapted({**found.tensors, **left_over}, found.inflated)

    def load_2d(self, state: Mapping[str, Tensor]) -> From2d:
        """Takes the weights of the 2D network; the classifier stays random.

        Args:
            state: the state dict of the backbone, by its library's names.

        Raises:
            WeightsError: it is another network's.
        """
        found = self.from_2d(state)
        self.load_state_dict(found.tensors, strict=False)
        return found

    def _layer(self, name: str) -> nn.Module:
        """Modules of modules are not called, the identity behind each of them is."""
        probes: dict[str, str] = self.trunk.meta["probes"]
        inner = name.removeprefix("trunk.")
        if name != inner and inner in probes:
            return self.trunk.get_submodule(probes[inner])
        return super()._layer(name)


def _drop_classifier(traced: Traced, backbone: str) -> int:
    """Takes the last linear layer, and dropout before it, out of the graph; how many features it took."""
    output = next(iter(reversed(traced.graph.nodes)))
    behind, last = _passed(traced, output.args[0], nn.Identity)
    layer = _module(traced, last)
    if not isinstance(last, fx.Node) or not isinstance(layer, nn.Linear):
        raise InflationError(
            f"{backbone} does not end in a linear layer, so that it has no features for another classifier; "
            "muybridge.models.inflate.inflate takes it as a whole"
        )
    before, features = _passed(traced, last.all_input_nodes[0], nn.Dropout | nn.Identity)
    output.args = (features,)
    dropped = [*behind, last, *before]
    for node in dropped:
        traced.graph.erase_node(node)
    for name, nodes in list(traced.ends.items()):
        traced.ends[name] = [node for node in nodes if node not in dropped]
    return layer.in_features


def _passed(traced: Traced, node: Any, kinds: type | UnionType) -> tuple[list[fx.Node], Any]:
    """Layers of these kinds, from a node on towards the input, and the node that they end at."""
    passed: list[fx.Node] = []
    while isinstance(_module(traced, node), kinds):
        passed.append(node)
        node = node.all_input_nodes[0]
    return passed, node


def _module(traced: Traced, node: object) -> nn.Module | None:
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    return traced.root.get_submodule(str(node.target))


def _stages(trunk: fx.GraphModule) -> tuple[str, ...]:
    """The parts of the trunk that have weights, in the order in which they are called."""
    called = [str(node.target).partition(".")[0] for node in trunk.graph.nodes if node.op == "call_module"]
    with_weights = {name.partition(".")[0] for name, _ in trunk.named_parameters()}
    return tuple(f"trunk.{name}" for name in dict.fromkeys(called) if name in with_weights)
