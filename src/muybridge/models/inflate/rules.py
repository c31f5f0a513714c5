"""Which layer gets which window over time.

A rule is asked for each convolution and each pooling layer, by its name in the 2D network:

>>> def stem_only(name: str, layer: nn.Module) -> Temporal:
...     return Temporal(5, 2) if name == "conv1" else Temporal()
"""

import fnmatch
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from muybridge.errors import ConfigError, InflationError
from muybridge.models.inflate.layers import Temporal

Rule = Callable[[str, nn.Module], Temporal]
RuleLike = str | Mapping[str, Sequence[int]] | Rule


def every_kernel(name: str, layer: nn.Module) -> Temporal:
    """I3D, Sec. 2.2: k x k becomes k x k x k; 1 x 7 and 7 x 1 stay within a frame. Time keeps its length.

    >>> every_kernel("conv1", nn.Conv2d(3, 64, 7, stride=2)), every_kernel("fold", nn.Conv2d(8, 8, (1, 7)))
    (Temporal(kernel=7, stride=1), Temporal(kernel=1, stride=1))
    """
    return Temporal(min(_kernel(layer)))


def no_kernel(name: str, layer: nn.Module) -> Temporal:
    """Every layer sees one frame: time is averaged at the end, and nothing else (f-R2D)."""
    return Temporal()


class NamedLayers:
    """A window for each layer whose name fits a pattern; all others see one frame.

    Args:
        patterns: shell patterns ("layer3.*.conv1") -> kernel and stride; the first that fits counts.

    >>> rule = NamedLayers({"conv1": (5, 2), "layer[34].*.conv1": (3, 1)})
    >>> rule("layer3.0.conv1", nn.Conv2d(1, 1, 1)), rule("layer3.0.conv2", nn.Conv2d(1, 1, 1)), rule.unused()
    (Temporal(kernel=3, stride=1), Temporal(kernel=1, stride=1), ['conv1'])
    """

    def __init__(self, patterns: Mapping[str, Sequence[int]]) -> None:
        self.patterns = {pattern: _temporal(value, pattern) for pattern, value in patterns.items()}
        self._used: set[str] = set()

    def __call__(self, name: str, layer: nn.Module) -> Temporal:
        for pattern, temporal in self.patterns.items():
            if fnmatch.fnmatchcase(name, pattern):
                self._used.add(pattern)
                return temporal
        return Temporal()

    def unused(self) -> list[str]:
        """Patterns that fitted no layer."""
        return [pattern for pattern in self.patterns if pattern not in self._used]


def alternate_3x1x1(network: nn.Module) -> Rule:
    """Non-local Neural Networks, Sec. 4.2: one 3 x 1 x 1 for every two residual blocks, in place of a 1 x 1.

    A block is the outermost module, no mere container, whose class the network has more than once and that
    holds at least two convolutions. The 1 x 1 is the first of stride 1 in it; blocks without one (a basic
    ResNet block) do not count. Counting starts anew in each container, and with the first of its blocks.

    Raises:
        InflationError: no block has a 1 x 1 convolution.
    """
    firsts = _first_pointwise(network)
    if not firsts:
        raise InflationError(
            f"rule 'alternate_3x1x1': no repeated block of {type(network).__name__} has a 1 x 1 convolution "
            "of stride 1; take the rule 'all', or name the layers yourself"
        )
    chosen: set[str] = set()
    seen: Counter[str] = Counter()
    for block, conv in firsts.items():
        container = block.rpartition(".")[0]
        if seen[container] % 2 == 0:
            chosen.add(conv)
        seen[container] += 1
    return lambda name, layer: Temporal(3 if name in chosen else 1)


NAMED_RULES: dict[str, Callable[[nn.Module], Rule]] = {
    "all": lambda network: every_kernel,
    "alternate_3x1x1": alternate_3x1x1,
    "none": lambda network: no_kernel,
}


def find_rule(rule: RuleLike, network: nn.Module) -> Rule:
    """The rule of this name or of these patterns, for this network.

    Raises:
        ConfigError: no rule has this name, or a pattern has no (kernel, stride).
        InflationError: the rule cannot be applied to this network.
    """
    if isinstance(rule, str):
        if rule not in NAMED_RULES:
            known = ", ".join(NAMED_RULES)
            raise ConfigError(
                f"no inflation rule '{rule}': choose from {known}, or map layers to [kernel, stride]"
            )
        return NAMED_RULES[rule](network)
    return NamedLayers(rule) if isinstance(rule, Mapping) else rule


def ask(rule: Rule, name: str, layer: nn.Module) -> Temporal:
    """What the rule gives for one layer, checked.

    Raises:
        ConfigError: it gave something else than a kernel and a stride, each at least 1.
    """
    return _temporal(rule(name, layer), name)


def _temporal(value: object, name: str) -> Temporal:
    whole = isinstance(value, Sequence) and len(value) == 2 and all(type(one) is int for one in value)
    if not isinstance(value, Sequence) or not whole or min(value) < 1:
        raise ConfigError(
            f"the inflation rule gives {value!r} for '{name}': a kernel and a stride are wanted, whole "
            "numbers from 1 on, such as [3, 1]"
        )
    return Temporal(*value)


def _kernel(layer: nn.Module) -> tuple[int, ...]:
    size = getattr(layer, "kernel_size", 1)
    return tuple(size) if isinstance(size, Sequence) else (size,)


def _first_pointwise(network: nn.Module) -> dict[str, str]:
    """Name of each block -> name of the first 1 x 1 convolution in it."""
    counts = Counter(type(module) for module in network.modules())
    firsts: dict[str, str] = {}
    blocks: list[str] = []
    for name, module in network.named_modules():
        inside = any(name.startswith(f"{block}.") for block in blocks)
        if inside or counts[type(module)] < 2 or not _is_block(module):
            continue
        blocks.append(name)
        inner = (f"{name}.{key}" for key, one in module.named_modules() if _is_pointwise(one))
        if first := next(inner, None):
            firsts[name] = first
    return firsts


def _is_block(module: nn.Module) -> bool:
    container = isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)
    return not container and sum(isinstance(one, nn.Conv2d) for one in module.modules()) >= 2


def _is_pointwise(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and tuple(module.kernel_size) == (1, 1)
        and tuple(module.stride) == (1, 1)
        and module.groups == 1
    )
