"""The non-local block against loops in float64, identities, the paper's counts and pytorchvideo's block.

Mutations that a test here must notice, each by `test_the_loops_notice`: theta and phi exchanged, phi and g
exchanged, softmax over the queries, pooling on the other side or not at all, another scale of the logits,
another function or scope, the BatchNorm or the residual left out.
"""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from pytorchvideo.layers.nonlocal_net import create_nonlocal
from tolerances import BFLOAT16_CONV, FLOAT64_GRADIENT, FLOAT64_PEER, FLOAT64_SAME, NOTICED, relative_error
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from muybridge.errors import ConfigError
from muybridge.models.count import count_parameters
from muybridge.models.nonlocal_block import (
    KINDS,
    POOLS,
    SCOPES,
    NonLocalBlock,
    concatenation_attention,
    dot_product_attention,
    insert_nonlocal,
    pool_pixels,
    softmax_attention,
)


def randomized(**arguments: object) -> NonLocalBlock:
    """A block of 6 channels with nothing left at its start value, in float64 and eval mode."""
    torch.manual_seed(0)
    block = NonLocalBlock(6, 3, **arguments)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    nn.init.normal_(block.bn.running_mean)
    nn.init.uniform_(block.bn.running_var, 0.5, 2.0)
    return block.double().eval()


def clip(*, batch: int = 2, size: tuple[int, int, int] = (2, 4, 3)) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(batch, 6, *size, dtype=torch.float64)


def project(conv: nn.Module, at: Tensor) -> Tensor:
    """A 1 x 1 x 1 convolution of one position."""
    if isinstance(conv, nn.Identity):
        return at
    return conv.weight[:, :, 0, 0, 0] @ at + conv.bias


def pooled(values: dict[tuple[int, int, int], Tensor]) -> dict[tuple[int, int, int], Tensor]:
    """The largest of each 2 x 2 pixels; an odd last row or column is left out."""
    t, h, w = (max(axis) + 1 for axis in zip(*values, strict=True))
    return {
        (k, i, j): torch.stack(
            [values[k, 2 * i + a, 2 * j + b] for a, b in itertools.product((0, 1), repeat=2)]
        ).amax(0)
        for k, i, j in itertools.product(range(t), range(h // 2), range(w // 2))
    }


def by_the_paper(block: NonLocalBlock, x: Tensor, pool: str) -> Tensor:
    """Eq. (1) - (6) with loops over positions; `x` is one clip [C, T, H, W]."""
    positions = list(itertools.product(*map(range, x.shape[1:])))
    at = {place: x[:, *place] for place in positions}
    source = pooled(at) if pool == "before" else at
    phi = {place: project(block.phi, value) for place, value in source.items()}
    g = {place: project(block.g, value) for place, value in source.items()}
    if pool == "after":
        phi, g = pooled(phi), pooled(g)
    z = torch.empty_like(x)
    bn = block.bn
    for i in positions:
        seen = {
            "spacetime": list(phi),
            "space": [j for j in phi if j[0] == i[0]],
            "time": [j for j in phi if j[1:] == i[1:]],
        }[block.scope]
        theta = project(block.theta, at[i])
        f = [float(theta @ phi[j]) for j in seen]
        if block.kind == "concatenation":
            f = [max(0.0, float(block.w_f.weight[0] @ torch.cat((theta, phi[j])))) for j in seen]
        elif block.kind != "dot_product":
            f = [math.exp(block.logit_scale * value) for value in f]
        c = sum(f) if "gaussian" in block.kind else len(seen)
        y = sum(value / c * g[j] for value, j in zip(f, seen, strict=True))
        normed = (project(block.out, y) - bn.running_mean) / (bn.running_var + bn.eps).sqrt()
        z[:, *i] = at[i] + normed * bn.weight + bn.bias
    return z


CASES = [
    (kind, scope, pool)
    for kind, scope, pool in itertools.product(KINDS, SCOPES, POOLS)
    if scope != "time" or pool == "none"
]


@torch.no_grad()
@pytest.mark.parametrize(("kind", "scope", "pool"), CASES)
def test_the_block_is_the_paper_s_equations_in_loops(kind, scope, pool):
    block = randomized(kind=kind, scope=scope, pool=pool)
    x = clip()
    expected = torch.stack([by_the_paper(block, one, pool) for one in x])
    torch.testing.assert_close(block(x), expected, **FLOAT64_SAME)


@torch.no_grad()
def test_the_logits_are_scaled_as_in_the_authors_code():
    block = randomized(logit_scale=3**-0.5)
    x = clip(batch=1)
    torch.testing.assert_close(block(x)[0], by_the_paper(block, x[0], "before"), **FLOAT64_SAME)


def exchange(first: str, second: str) -> Callable[[NonLocalBlock], None]:
    def mutate(block: NonLocalBlock) -> None:
        one, other = getattr(block, first), getattr(block, second)
        setattr(block, first, other)
        setattr(block, second, one)

    return mutate


def set_to(name: str, value: object) -> Callable[[NonLocalBlock], None]:
    return lambda block: setattr(block, name, value)


def softmax_over_queries(block: NonLocalBlock) -> None:
    def mutant(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return (block.logit_scale * query @ key.transpose(1, 2)).softmax(1) @ value

    block._attend = mutant


def no_residual(block: NonLocalBlock) -> None:
    block.register_forward_hook(lambda module, args, output: output - args[0])


@torch.no_grad()
@pytest.mark.parametrize(
    "mutate",
    [
        exchange("theta", "phi"),
        exchange("phi", "g"),
        softmax_over_queries,
        set_to("pool", "after"),
        set_to("pool", "none"),
        set_to("scope", "space"),
        set_to("kind", "dot_product"),
        set_to("logit_scale", 3**-0.5),
        set_to("bn", nn.Identity()),
        no_residual,
    ],
)
def test_the_loops_notice(mutate):
    block, mutant = randomized(), randomized()
    mutate(mutant)
    x = clip(batch=1)
    expected = by_the_paper(block, x[0], "before")
    torch.testing.assert_close(block(x)[0], expected, **FLOAT64_SAME)
    assert relative_error(mutant(x)[0], expected) > NOTICED


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_block_is_the_identity(kind, training):
    torch.manual_seed(0)
    x = torch.randn(2, 8, 2, 5, 4)
    assert torch.equal(NonLocalBlock(8, 4, kind=kind).train(training)(x), x)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "scope", "pool"), CASES)
def test_the_weights_that_are_shown_are_those_that_are_used(kind, scope, pool):
    block = randomized(kind=kind, scope=scope, pool=pool)
    x, (t, h, w) = clip(), (1, 2, 0)
    weights = block.attention(x, (t, h, w))
    if "gaussian" in kind:
        torch.testing.assert_close(weights.flatten(1).sum(1), torch.ones(2, dtype=torch.float64))
    _, _, g = block._project(x)
    g = {"spacetime": g, "space": g[:, :, t : t + 1], "time": g[..., h : h + 1, w : w + 1]}[scope]
    assert weights.shape == (2, *g.shape[2:])
    y = torch.einsum("bthw,bdthw->bd", weights, g)
    z = x[:, :, t, h, w] + block.bn(block.out(y[:, :, None, None, None]))[:, :, 0, 0, 0]
    torch.testing.assert_close(block(x)[:, :, t, h, w], z, **FLOAT64_SAME)


@torch.no_grad()
def test_on_a_constant_clip_the_dot_product_is_theta_phi_g():
    block = randomized(kind="dot_product")
    x = clip()[:, :, :1, :1, :1].expand(-1, -1, 3, 4, 4)
    theta, phi, g = (conv(x) for conv in (block.theta, block.phi, block.g))
    expected = x + block.bn(block.out((theta * phi).sum(1, keepdim=True) * g))
    torch.testing.assert_close(block(x), expected, **FLOAT64_SAME)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_without_pooling_moving_the_positions_moves_the_outputs(kind):
    block = randomized(kind=kind, pool="none")
    x = clip()
    order = torch.randperm(x[0, 0].numel())
    moved = x.flatten(2)[..., order].view_as(x)
    torch.testing.assert_close(block(moved), block(x).flatten(2)[..., order].view_as(x), **FLOAT64_SAME)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_space_sees_its_frame_and_time_its_pixel(kind):
    x = clip(size=(3, 4, 4))
    other_frame, other_pixel = x.clone(), x.clone()
    other_frame[:, :, 2] += 1
    other_pixel[..., 3, 1] += 1
    space, time, both = (randomized(kind=kind, scope=scope) for scope in ("space", "time", "spacetime"))
    torch.testing.assert_close(space(other_frame)[:, :, :2], space(x)[:, :, :2], **FLOAT64_SAME)
    changed = (time(other_pixel) - time(x)).abs().amax((0, 1, 2)) > 1e-12
    assert changed.nonzero().tolist() == [[3, 1]]
    assert relative_error(both(other_frame)[:, :, :2], both(x)[:, :, :2]) > NOTICED
    assert relative_error(both(other_pixel)[..., :3, :], both(x)[..., :3, :]) > NOTICED


def explicit(kind: str, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """With the matrix of all pairs."""
    if kind == "concatenation":
        f = F.relu(query[:, :, None] + key[:, None]) / key.shape[1]
    else:
        f = query @ key.transpose(1, 2)
        f = f / key.shape[1] if kind == "dot_product" else (0.5 * f).softmax(2)
    return f @ value


def attend(kind: str, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    if kind == "concatenation":
        return concatenation_attention(query, key, value)
    if kind == "dot_product":
        return dot_product_attention(query, key, value)
    return softmax_attention(query, key, value, scale=0.5)


def operands(kind: str, n: int, m: int, d: int, e: int) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = [(2, n), (2, m)] if kind == "concatenation" else [(2, n, d), (2, m, d)]
    return [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in (*shapes, (2, m, e))]


# Few positions of many channels, and many of few: the dot product takes another order in each.
@pytest.mark.parametrize("size", [(6, 5, 24, 12), (70, 40, 4, 3)])
@pytest.mark.parametrize("kind", ["gaussian", "dot_product", "concatenation"])
def test_sums_and_gradients_are_those_of_the_matrix_of_all_pairs(kind, size):
    inputs = operands(kind, *size)
    found, expected = attend(kind, *inputs), explicit(kind, *inputs)
    torch.testing.assert_close(found, expected, **FLOAT64_SAME)
    gradient = torch.randn_like(found)
    for ours, theirs in zip(
        torch.autograd.grad(found, inputs, gradient),
        torch.autograd.grad(expected, inputs, gradient),
        strict=True,
    ):
        assert relative_error(ours, theirs) < FLOAT64_GRADIENT


def test_concatenation_where_all_none_and_equal_keys_are_let_through():
    key = torch.tensor([[1.0, -2.0, 1.0, 3.0]], dtype=torch.float64)
    value = torch.randn(1, 4, 2, dtype=torch.float64)
    query = torch.tensor([[9.0, -9.0, -1.0, 2.0, -3.0, 0.0]], dtype=torch.float64)
    found = concatenation_attention(query, key, value)
    torch.testing.assert_close(found, explicit("concatenation", query, key, value), **FLOAT64_SAME)
    assert found[0, 1].tolist() == [0, 0]


@torch.no_grad()
def test_concatenation_keeps_float32_s_precision_over_many_keys():
    query, key, value = (one.detach() for one in operands("concatenation", 200, 20_000, 1, 8))
    expected = explicit("concatenation", query, key, value)
    found = concatenation_attention(query.float(), key.float(), value.float())
    assert relative_error(found, expected) < 1e-5
    half = concatenation_attention(query.bfloat16(), key.bfloat16(), value.bfloat16())
    assert half.dtype == torch.bfloat16
    assert relative_error(half, expected) < BFLOAT16_CONV


class Largest(TorchDispatchMode):
    """How many values the largest tensor has that is made inside."""

    values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(one, Tensor):
                self.values = max(self.values, one.untyped_storage().nbytes() // one.element_size())
        return made


@pytest.mark.parametrize("pool", ["before", "after", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_matrix_of_all_pairs_is_made_neither_forward_nor_backward(kind, pool):
    block = NonLocalBlock(8, 4, kind=kind, pool=pool).train()
    x = torch.randn(1, 8, 4, 24, 24, requires_grad=True)
    n = x[0, 0].numel()
    with Largest() as largest:
        block(x).square().sum().backward()
    assert largest.values <= 2 * x.numel()  # of all pairs there are n * n / 4, at least
    assert 2 * x.numel() < n * n / 16


# Parameters by channels, with half of them inside.
@pytest.mark.parametrize(
    ("channels", "parameters"), [(256, 132_224), (512, 526_592), (1024, 2_101_760), (2048, 8_397_824)]
)
def test_counts(channels, parameters):
    def count(kind: str) -> int:
        with torch.device("meta"):
            return count_parameters(NonLocalBlock(channels, channels // 2, kind=kind))

    assert count("embedded_gaussian") == count("dot_product") == parameters
    assert count("concatenation") == parameters + channels
    assert count("gaussian") == parameters - channels * channels - channels


@pytest.mark.parametrize(("kind", "instantiation"), [("embedded_gaussian", "softmax"), ("dot_product",) * 2])
@pytest.mark.parametrize("pool", ["before", "none"])
def test_outputs_and_gradients_are_pytorchvideo_s(kind, instantiation, pool):
    ours = randomized(kind=kind, pool=pool, logit_scale=3**-0.5)
    size = (1, 2, 2) if pool == "before" else (1, 1, 1)
    theirs = create_nonlocal(dim_in=6, dim_inner=3, pool_size=size, instantiation=instantiation)
    names = {"conv_theta": "theta", "conv_phi": "phi", "conv_g": "g", "conv_out": "out", "norm": "bn"}
    theirs = theirs.double().eval()
    for name, peer in names.items():
        theirs.get_submodule(name).load_state_dict(ours.get_submodule(peer).state_dict())
    x = clip()
    torch.testing.assert_close(ours(x), theirs(x), **FLOAT64_SAME)
    gradients = []
    for block in (ours.train(), theirs.train()):
        leaf = x.clone().requires_grad_()
        y = block(leaf)
        (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
        gradients.append(
            (y.detach(), leaf.grad, block.get_submodule("bn" if block is ours else "norm").running_mean)
        )
    for found, expected in zip(*gradients, strict=True):
        assert relative_error(found, expected) < FLOAT64_PEER
    for name, peer in names.items():
        for found, expected in zip(
            ours.get_submodule(peer).parameters(), theirs.get_submodule(name).parameters(), strict=True
        ):
            # A bias before BatchNorm or of phi before softmax changes nothing: its gradient is rounding.
            if expected.grad.norm() > 1e-9:
                assert relative_error(found.grad, expected.grad) < FLOAT64_GRADIENT, name


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_is_finite_and_near(kind):
    block = randomized(kind=kind).float().train()
    x = clip(size=(2, 7, 7)).float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = block(x)
    y.float().square().sum().backward()
    assert all(one.grad.isfinite().all() for one in (x, *block.parameters()))
    with torch.no_grad():
        assert relative_error(y, block.double()(x.double())) < 2 * BFLOAT16_CONV  # several in a row


@pytest.mark.parametrize(("size", "expected"), [((1, 1), (1, 1)), ((5, 1), (2, 1)), ((1, 4), (1, 2))])
def test_what_is_one_row_or_column_is_not_pooled_away(size, expected):
    x = torch.randn(2, 6, 3, *size)
    assert pool_pixels(x).shape == (2, 6, 3, *expected)
    assert NonLocalBlock(6, 3)(x).shape == x.shape


def test_channels_last_memory_stays():
    x = torch.randn(2, 6, 2, 4, 4).contiguous(memory_format=torch.channels_last_3d)
    assert NonLocalBlock(6, 3)(x).is_contiguous(memory_format=torch.channels_last_3d)


def test_residual_blocks_keep_their_names():
    stage = nn.Sequential(*(nn.Conv3d(6, 6, 1) for _ in range(4)))
    merged = insert_nonlocal(stage, (1, 3), lambda: NonLocalBlock(6, 3))
    assert [name for name, _ in merged.named_children()] == ["0", "1", "nl1", "2", "3", "nl3"]
    assert set(stage.state_dict()) < set(merged.state_dict())
    x = torch.randn(2, 6, 2, 4, 4)
    torch.testing.assert_close(merged(x), stage(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"kind": "softmax"}, "kind must be one of 'gaussian', 'embedded_gaussian', .*, got 'softmax'"),
        ({"scope": "all"}, "scope must be one of 'spacetime', 'space', 'time', got 'all'"),
        ({"pool": True}, "pool must be one of 'before', 'after', 'none', got True"),
    ],
)
def test_arguments_that_make_no_sense(arguments, text):
    with pytest.raises(ConfigError, match=text):
        NonLocalBlock(6, 3, **arguments)
