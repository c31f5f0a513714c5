"""What moves the weights: the optimiser, its learning rate, the moving average, what is frozen."""

import copy
import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from muybridge.config import OptimConfig
from muybridge.errors import TrainingError
from muybridge.models.contract import VideoModel

__all__ = [
    "MovingAverage",
    "build_optimizer",
    "learning_rate",
    "parameter_groups",
    "set_rate",
    "set_trainable",
    "step_seed",
]


def learning_rate(step: int, config: OptimConfig, *, steps_per_epoch: int, num_epochs: int) -> float:
    """The rate of one optimiser step, counted from 0 over the whole run: a function of nothing else.

    It rises linearly from lr / 100 over the warm-up; the cosine falls to 0 over the steps after it.

    >>> config = OptimConfig(lr=1.0, schedule="step", milestones=(2, 3), warmup_epochs=1)
    >>> [round(learning_rate(s, config, steps_per_epoch=2, num_epochs=4), 4) for s in range(8)]
    [0.01, 0.505, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    """
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup_steps:
        return config.lr * (0.01 + 0.99 * step / warmup_steps)
    if config.schedule == "step":
        passed = sum(step >= milestone * steps_per_epoch for milestone in config.milestones)
        return config.lr * config.gamma**passed
    if config.schedule == "cosine":
        done = (step - warmup_steps) / max(1, num_epochs * steps_per_epoch - warmup_steps)
        return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return config.lr


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Two groups for each factor of the rate, 1 first: of what decays and of what does not.

    Kernels and matrices decay; biases and the scales of norms, which are vectors, do not. Parameters that
    never train are left out.

    Raises:
        TrainingError: a factor of a part that is not there, or does not train.
    """
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    for prefix in config.lr_factors:
        if not any(_inside(name, prefix) for name in trained):
            who, known = getattr(model, "name", "") or type(model).__name__, _parts(trained)
            raise TrainingError(
                f"optim.lr_factors: {who} has no part '{prefix}' that trains; those that do are {known}"
            )
    factor_of = {name: _factor(name, config.lr_factors) for name in trained}
    return [
        {
            "params": [
                one for name, one in trained.items() if factor_of[name] == factor and (one.ndim > 1) == decays
            ],
            "weight_decay": config.weight_decay if decays else 0.0,
            "lr_factor": factor,
        }
        for factor in dict.fromkeys((1.0, *sorted(factor_of.values())))
        for decays in (True, False)
    ]


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Gives each group its rate: `lr` times the factor of its part."""
    for group in optimizer.param_groups:
        # A state that was saved before there were factors has none.
        group["lr"] = lr * group.get("lr_factor", 1.0)


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW; the rate is set before each step.

    Parameters that never train are left out. All others belong, also while `set_trainable` rests them: an
    optimiser passes over a parameter that has no gradient. (torch's fused SGD does not take one that joins
    later, so SGD is not fused.)

    Raises:
        TrainingError: a factor of a part that is not there, or does not train.
    """
    groups = parameter_groups(model, config)
    if config.kind == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999), fused=True)
    nesterov = config.momentum > 0
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov, foreach=True)


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of everything random inside one step (dropout): of the step alone, not of what came before.

    >>> step_seed(0, 1, 0) == step_seed(0, 1, 0) != step_seed(0, 2, 0)
    True
    """
    digest = hashlib.sha256(f"{seed}, {step}, {rank}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # torch takes 63 bits


class MovingAverage:
    """A second copy of the network that follows the trained one: average <- d average + (1 - d) weights.

    BatchNorm's running mean and variance are averaged with the same d, so that they belong to the averaged
    weights; whole numbers (its count of batches) are copied. d grows from 0.1 to `decay`, as
    (1 + step) / (10 + step), so that the random weights of the start are forgotten soon.

    Attributes:
        model: the averaged network, always in eval mode.
    """

    def __init__(self, model: VideoModel, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: VideoModel, step: int) -> None:
        """Takes in the weights after one optimiser step; `step` counts from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        theirs = model.state_dict()
        for name, average in self.model.state_dict().items():
            if average.is_floating_point():
                average.lerp_(theirs[name], 1 - decay)
            else:
                average.copy_(theirs[name])


def set_trainable(model: VideoModel, *, frozen: tuple[str, ...] = (), head_only: bool = False) -> None:
    """Puts the network into training mode, save for the parts that rest.

    A part that rests has no gradient, and its BatchNorm and dropout work as in eval mode. What the network's
    `partial_batchnorm` keeps rests as well.

    Args:
        model: the network.
        frozen: parts that rest, by the start of their names, as in `model.stage_names`.
        head_only: everything but the head rests.

    Raises:
        TrainingError: no part has such a name, or nothing is left to train.
    """
    names = [name for name, _ in model.named_modules()]
    for prefix in frozen:
        if prefix not in names:
            known = ", ".join(model.stage_names)
            raise TrainingError(f"freeze: {model.name} has no part '{prefix}'; its parts are {known}")
    head = next(name for name, module in model.named_modules() if module is model.head)

    def trains(name: str) -> bool:
        rests = any(_inside(name, prefix) for prefix in frozen)
        return not rests and (_inside(name, head) or not head_only)

    for name, module in model.named_modules():
        module.training = trains(name)  # one by one: train() and eval() would go down into the head as well
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trains(name))
    model.rest_batchnorms()
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainingError(
            f"freeze: {', '.join(frozen)} leaves nothing to train; leave out at least the head"
        )


class BadGradient(NamedTuple):
    """A gradient with values that are infinite or not a number."""

    name: str
    num_bad: int
    num_values: int


def first_bad_gradient(model: nn.Module) -> BadGradient | None:
    """The first parameter, in the order of the network, whose gradient is not finite."""
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        if gradient is not None and (count := int((~gradient.isfinite()).sum())):
            return BadGradient(name, count, gradient.numel())
    return None


def _factor(name: str, factors: Mapping[str, float]) -> float:
    """Of the parts that a parameter is in, the factor of the innermost."""
    fitting = [prefix for prefix in factors if _inside(name, prefix)]
    return factors[max(fitting, key=len)] if fitting else 1.0


def _parts(names: Iterable[str]) -> str:
    """The outermost parts that parameters are in."""
    return ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))


def _inside(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")
