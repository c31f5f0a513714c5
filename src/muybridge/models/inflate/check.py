"""The boring-video fixed point: on a video of one frame, an inflated network computes what the 2D one does.

Shape letters: B clips, C channels, T frames, H height, W width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.hooks import RemovableHandle

from muybridge.errors import InflationError


@dataclass(frozen=True)
class LayerError:
    """How far one layer is from the 2D network's.

    Attributes:
        name: of the layer, in both networks.
        kind: its class in the 3D network.
        error: ||3D - 2D|| / ||2D|| over all frames; the largest of its calls.
    """

    name: str
    kind: str
    error: float


@dataclass(frozen=True)
class InflationCheck:
    """The error of each layer, in the order in which they are called. Prints itself as a table.

    Attributes:
        layers: of all modules that both networks call, modules of modules included.
        output: error of the networks' outputs.
    """

    layers: tuple[LayerError, ...]
    output: float

    @property
    def worst(self) -> float:
        """The largest error, the output's included."""
        return max(self.output, *(layer.error for layer in self.layers))

    def __str__(self) -> str:
        rows = [*self.layers, LayerError("output", "", self.output)]
        width = max(len(row.name) for row in rows)
        return "\n".join(f"{row.error:8.1e}  {row.name:<{width}}  {row.kind}".rstrip() for row in rows)


@torch.no_grad()
def check_inflation(
    inflated: fx.GraphModule,
    network: nn.Module,
    *,
    num_frames: int = 4,
    image: tuple[int, int, int] = (3, 64, 64),
    seed: int = 0,
) -> InflationCheck:
    """Shows random images to the 2D network, and clips in which each of them stands still to the 3D one.

    With `padding="replicate"`, or filters at the centre, all errors are rounding. With zeros before the first
    and behind the last frame, the layers that see these differ.

    Args:
        inflated: made by `inflate`.
        network: of which it was made.
        num_frames: T of the clips.
        image: (C, H, W).
        seed: of the images.

    Raises:
        InflationError: it was not made of this network.

    >>> from muybridge.models.inflate import inflate
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> check_inflation(inflate(net), net).worst < 1e-5
    True
    >>> check_inflation(inflate(net, padding="zero"), net).worst > 0.1
    True
    """
    axes = {name: list(calls) for name, calls in inflated.meta.get("time_axes", {}).items()}
    kinds = {name: type(module).__name__ for name, module in inflated.named_modules()}
    probes: dict[str, str] = inflated.meta.get("probes", {})
    two_d, weight = dict(network.named_modules()), next(network.parameters())
    names = {name: name for name in two_d if name in axes} | {
        name: probe for name, probe in probes.items() if name in two_d
    }
    if not names or not set(probes) <= set(two_d):
        raise InflationError(f"{type(inflated).__name__} was not inflated from this {type(network).__name__}")
    images = torch.randn(2, *image, generator=torch.Generator().manual_seed(seed)).to(weight)
    clips = images.unsqueeze(2).expand(-1, -1, num_frames, -1, -1)
    wanted: dict[str, list[Tensor]] = {}
    errors: dict[str, float] = {}

    def keep(name: str, output: Tensor) -> None:
        wanted.setdefault(name, []).append(output.clone())  # the next layer may write into it

    def compare(name: str, output: Tensor) -> None:
        axis = axes[names[name]].pop(0)
        errors[name] = max(errors.get(name, 0.0), _error(output, wanted[name].pop(0), axis))

    expected = _hooked(network, {name: name for name in names}, keep, images)
    found = _hooked(inflated, {names[name]: name for name in names}, compare, clips)
    layers = tuple(LayerError(name, kinds[name], error) for name, error in errors.items())
    return InflationCheck(layers, _error(found, expected, 2 if found.ndim > expected.ndim else None))


def _hooked(
    module: nn.Module, names: dict[str, str], see: Callable[[str, Tensor], None], x: Tensor
) -> Tensor:
    """Runs a network in eval mode and shows each module's outputs."""
    handles: list[RemovableHandle] = []
    modes = {one: one.training for one in module.modules()}

    def hook(name: str) -> Callable[..., None]:
        def call(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                see(name, output)

        return call

    try:
        handles += [
            module.get_submodule(key).register_forward_hook(hook(name)) for key, name in names.items()
        ]
        output: Tensor = module.eval()(x)
    finally:
        for handle in handles:
            handle.remove()
        for one, training in modes.items():
            one.training = training
    return output


def _error(found: Tensor, expected: Tensor, time: int | None) -> float:
    """||found - expected|| / ||expected||, over all frames of `found`; time is the axis `time` of it."""
    if time is not None:
        expected = expected.unsqueeze(time).expand_as(found)
    difference, norm = (found.double() - expected.double()).norm(), expected.double().norm()
    return float(difference / norm) if norm > 0 else float(difference)
