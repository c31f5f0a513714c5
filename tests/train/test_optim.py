"""The schedule, the optimiser's groups, the moving average, and what is frozen."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from muybridge.config import OptimConfig, TrainConfig
from muybridge.errors import ConfigError, TrainingError
from muybridge.models.registry import build
from muybridge.train.optim import (
    MovingAverage,
    build_optimizer,
    first_bad_gradient,
    learning_rate,
    parameter_groups,
    set_rate,
    set_trainable,
    step_seed,
)


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return build("r2plus1d_10", num_classes=3, width=1 / 16)


def rates(config: OptimConfig, steps_per_epoch: int = 10, num_epochs: int = 4) -> list[float]:
    return [
        learning_rate(step, config, steps_per_epoch=steps_per_epoch, num_epochs=num_epochs)
        for step in range(steps_per_epoch * num_epochs)
    ]


def test_the_warm_up_rises_in_a_straight_line_from_a_hundredth_and_ends_at_lr() -> None:
    warm = rates(OptimConfig(lr=0.5, schedule="constant", warmup_epochs=0.5))
    assert warm[0] == pytest.approx(0.005)
    differences = {round(b - a, 12) for a, b in pairwise(warm[:6])}
    assert len(differences) == 1
    assert warm[5:] == [0.5] * 35


def test_the_cosine_starts_after_the_warm_up_and_falls_to_zero() -> None:
    cosine = rates(OptimConfig(lr=0.2, schedule="cosine", warmup_epochs=1))
    assert cosine[10] == 0.2
    assert cosine[25] == pytest.approx(0.1)  # half way from step 10 to step 40
    assert cosine[39] == pytest.approx(0.1 * (1 + math.cos(math.pi * 29 / 30)))
    assert all(a > b for a, b in pairwise(cosine[10:]))


def test_steps_multiply_at_the_milestones() -> None:
    step = rates(OptimConfig(lr=1.0, schedule="step", milestones=(1, 2.5), gamma=0.1))
    assert step[9] == 1.0
    assert step[10] == step[24] == pytest.approx(0.1)
    assert step[25] == step[39] == pytest.approx(0.01)


def test_only_kernels_and_matrices_decay() -> None:
    model = small_network()
    decayed, spared = parameter_groups(model, OptimConfig(weight_decay=0.01))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.01, 0.0)
    assert sorted(names[id(one)] for one in decayed["params"]) == sorted(
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv3d | nn.Linear)
    )
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("config", "reference"),
    [
        (OptimConfig(kind="sgd", lr=0.1, momentum=0.9, weight_decay=0.01), "sgd"),
        (OptimConfig(kind="adamw", lr=0.1, momentum=0.9, weight_decay=0.01), "adamw"),
    ],
)
def test_the_update_is_the_textbook_one(config: OptimConfig, reference: str) -> None:
    """Against three steps by hand in float64: Sutskever's momentum, Loshchilov and Hutter's AdamW."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 2, bias=False)
    weight = layer.weight.detach().double().clone()
    optimizer = build_optimizer(layer, config)
    velocity, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for step in range(1, 4):
        gradient = torch.randn(2, 3)
        layer.weight.grad = gradient.clone()
        optimizer.step()
        g = gradient.double()
        if reference == "sgd":
            g = g + 0.01 * weight
            velocity = 0.9 * velocity + g
            weight = weight - 0.1 * (g + 0.9 * velocity)
        else:
            weight = weight * (1 - 0.1 * 0.01)
            velocity = 0.9 * velocity + 0.1 * g
            second = 0.999 * second + 0.001 * g**2
            denominator = (second / (1 - 0.999**step)).sqrt() + 1e-8
            weight = weight - 0.1 * velocity / (1 - 0.9**step) / denominator
    torch.testing.assert_close(layer.weight.double(), weight, rtol=1e-5, atol=1e-6)


def test_parts_have_rates_of_their_own() -> None:
    """Plain gradient descent: a weight moves by lr times the factor of its innermost part."""
    model = small_network()
    factors = {"head": 10.0, "stages": 0.5, "stages.1": 2.0, "stem.bn.bias": 3.0}
    config = OptimConfig(lr=0.1, lr_factors=factors, momentum=0.0, weight_decay=0.0)
    optimizer = build_optimizer(model, config)
    grouped = [one for group in optimizer.param_groups for one in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))  # each in one group
    before = copy.deepcopy(dict(model.named_parameters()))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    set_rate(optimizer, 0.01)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 3 if name == "stem.bn.bias" else 10 if name.startswith("head.") else 1
        if name.startswith("stages."):
            factor = 2 if name.startswith("stages.1.") else 0.5
        moved = before[name] - parameter
        torch.testing.assert_close(moved, torch.full_like(moved, 0.01 * factor), rtol=1e-4, atol=1e-7)


def test_parts_with_a_rate_of_their_own_decay_as_all_do() -> None:
    model = small_network()
    groups = parameter_groups(model, OptimConfig(weight_decay=0.01, lr_factors={"head": 10}))
    found = [(group["lr_factor"], group["weight_decay"], len(group["params"])) for group in groups]
    count = len(list(model.parameters()))
    kernels = sum(one.ndim > 1 for one in model.parameters())
    assert found == [(1, 0.01, kernels - 1), (1, 0, count - kernels - 1), (10, 0.01, 1), (10, 0, 1)]


@pytest.mark.parametrize("part", ["hea", "head.fc2", "stage", ""])
def test_an_unknown_part_has_no_rate(part: str) -> None:
    message = (
        rf"optim\.lr_factors: r2plus1d_10 has no part '{part}' that trains; those that do are head, stem, st"
    )
    with pytest.raises(TrainingError, match=message):
        build_optimizer(small_network(), OptimConfig(lr_factors={part: 2}))


def test_a_part_that_rests_has_no_rate() -> None:
    model = small_network()
    set_trainable(model, frozen=("stem",))
    with pytest.raises(TrainingError, match="no part 'stem' that trains; those that do are head, stages"):
        build_optimizer(model, OptimConfig(lr_factors={"stem": 2}))
    with pytest.raises(ConfigError, match=r"optim\.lr_factors\.head: .* greater than 0, got 0"):
        TrainConfig.from_dict({"data": {"root": "."}, "optim": {"lr_factors": {"head": 0}}})


def test_the_moving_average_takes_in_weights_and_batchnorm_statistics() -> None:
    model = small_network()
    average = MovingAverage(model, 0.999)
    start = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(1)
    average.update(model, step=0)  # d = 1/10: nine tenths of the new weights
    for name, value in average.model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, start[name] + 0.9)
        else:
            assert value == start[name] + 1
    average.update(model, step=10**6)  # d = 0.999
    name = "stem.bn.running_mean"
    torch.testing.assert_close(average.model.state_dict()[name], start[name] + 0.9 + 0.001 * 0.1)
    assert not average.model.training
    assert not any(parameter.requires_grad for parameter in average.model.parameters())


def test_a_frozen_part_has_no_gradient_and_its_batchnorm_does_not_move() -> None:
    model = small_network()
    set_trainable(model, frozen=("stem", "stages.0"))
    before = copy.deepcopy(model.state_dict())
    optimizer = build_optimizer(model, OptimConfig(lr=0.1))
    model(torch.randn(2, 3, 4, 32, 32)).square().sum().backward()
    optimizer.step()
    changed = {
        name.rsplit(".", 1)[0].split(".conv")[0].split(".bn")[0]
        for name, value in model.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert not any(name.startswith(("stem", "stages.0")) for name in changed)
    assert any(name.startswith("stages.1") for name in changed)
    assert any(name.startswith("head") for name in changed)


def test_the_head_alone_trains_at_first_and_all_of_it_afterwards() -> None:
    model = small_network()
    set_trainable(model, head_only=True)
    assert {name for name, one in model.named_parameters() if one.requires_grad} == {
        "head.fc.weight",
        "head.fc.bias",
    }
    assert model.head.training
    assert not model.stem.bn.training
    set_trainable(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


def test_an_unknown_part_cannot_be_frozen() -> None:
    with pytest.raises(TrainingError, match=r"no part 'layer1'; its parts are stem, stages\.0"):
        set_trainable(small_network(), frozen=("layer1",))


def test_something_must_be_left_to_train() -> None:
    with pytest.raises(TrainingError, match="leaves nothing to train"):
        set_trainable(small_network(), frozen=("stem", "stages", "head"))


def test_the_first_bad_gradient_is_named() -> None:
    model = small_network()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    assert first_bad_gradient(model) is None
    model.stages[1][0].conv_a.temporal.weight.grad[0, :2] = math.inf
    bad = first_bad_gradient(model)
    assert bad is not None
    assert bad.name == "stages.1.0.conv_a.temporal.weight"
    assert bad.num_bad == 6
    assert bad.num_values == model.stages[1][0].conv_a.temporal.weight.numel()


def test_steps_have_seeds_of_their_own() -> None:
    seeds = {step_seed(seed, step, rank) for seed in range(3) for step in range(50) for rank in range(2)}
    assert len(seeds) == 300
    assert max(seeds) < 2**63
