"""Two-stream fusion: operators in loops, the paper's counts, whole networks written out.

Mutations that a test here must notice: the towers exchanged, the identities exchanged or of another share, a
Gaussian that does not sum to 1, ReLU before a fusion left out, x and y of a field exchanged, stacks another
tau apart, pool5 of one stack alone, the mean of two branches a sum, the kept tower fed with fused maps.
"""

import json

import pytest
import torch
import torch.nn.functional as F
from tolerances import FLOAT64_SAME, NOTICED, relative_error
from torch import Tensor, nn
from torchvision.models.vgg import make_layers

from muybridge.config import DataConfig, TrainConfig
from muybridge.data.loader import Batch
from muybridge.errors import ConfigError
from muybridge.models.contract import VideoModel
from muybridge.models.count import count_macs, count_parameters
from muybridge.models.registry import build
from muybridge.models.two_stream_fusion import BranchHead, TwoStreamFusion, start_from
from muybridge.models.two_stream_fusion_operators import (
    Fusion,
    FusionConv,
    bilinear,
    gaussian_3d,
    normalise_bilinear,
    same_size,
)
from muybridge.models.two_stream_fusion_towers import clip_specs, stacked_inputs
from muybridge.train.loop import forward_backward
from muybridge.train.optim import set_trainable
from muybridge.weights.store import init_trunk, load, save

SMALL = {"num_classes": 5, "width": 1 / 64, "num_flows": 3, "crop": 64}
PLAIN = {"temporal": "2d_pooling", "keep": "none"}  # a network of Table 1


def maps(*, channels: int = 4, frames: int = 3, side: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    shape = (2, channels, frames, side, side)
    return torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)


def net(**arguments: object) -> TwoStreamFusion:
    """In float64, all its weights and biases away from where they start."""
    torch.manual_seed(0)
    model = build("two_stream_fusion", **(SMALL | arguments)).double().eval()
    assert isinstance(model, TwoStreamFusion)
    stir(model)
    return model


def stir(model: nn.Module) -> None:
    for name, one in model.named_parameters():
        if name.endswith("bias") or name.startswith("head"):
            nn.init.normal_(one, std=0.3)
        elif ".conv" in name or "full" in name:
            nn.init.kaiming_normal_(one)


def clips(*, stacks: int = 2, tau: int = 2, num_flows: int = 3, side: int = 64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    fields = (stacks - 1) * tau + num_flows
    return (
        torch.randn(2, 3, stacks, side, side, dtype=torch.float64),
        torch.randn(2, 2, fields, side, side, dtype=torch.float64),
    )


# The operators.


@torch.no_grad()
@pytest.mark.parametrize("operator", ["sum", "max", "concat", "conv", "bilinear"])
def test_operators_in_loops(operator):
    a, b = maps()
    fusion = Fusion(operator, (4, 4)).double()
    for one in fusion.parameters():
        nn.init.normal_(one)
    y = fusion(a, b)
    assert y.shape[1] == fusion.out_channels
    if operator == "bilinear":
        torch.testing.assert_close(y, bilinear_by_hand(a, b)[..., None, None], **FLOAT64_SAME)
        return
    for place in ((0, 0, 0, 0), (1, 2, 4, 3)):
        batch, t, i, j = place
        at_a, at_b = a[batch, :, t, i, j], b[batch, :, t, i, j]
        expected = {
            "sum": [float(at_a[d]) + float(at_b[d]) for d in range(4)],
            "max": [max(float(at_a[d]), float(at_b[d])) for d in range(4)],
            "concat": [*at_a.tolist(), *at_b.tolist()],
        }.get(operator)
        if operator == "conv":
            weight, bias = fusion.conv.weight[:, :, 0, 0, 0], fusion.conv.bias
            expected = [
                float(bias[d])
                + sum(float(weight[d, c]) * float(at_a[c]) for c in range(4))
                + sum(float(weight[d, 4 + c]) * float(at_b[c]) for c in range(4))
                for d in range(4)
            ]
        found = y[batch, :, t, i, j]
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), **FLOAT64_SAME)


def bilinear_by_hand(a: Tensor, b: Tensor, *, normalised: bool = True) -> Tensor:
    """[B, D * D, T]"""
    batch, channels, frames, height, width = a.shape
    out = torch.zeros(batch, channels**2, frames, dtype=torch.float64)
    for n in range(batch):
        for t in range(frames):
            products = [
                sum(
                    float(a[n, c, t, i, j]) * float(b[n, d, t, i, j])
                    for i in range(height)
                    for j in range(width)
                )
                for c in range(channels)
                for d in range(channels)
            ]
            if normalised:
                products = [abs(one) ** 0.5 * (1 if one > 0 else -1) for one in products]
                length = sum(one * one for one in products) ** 0.5
                products = [one / length for one in products]
            out[n, :, t] = torch.tensor(products, dtype=torch.float64)
    return out


@torch.no_grad()
def test_bilinear_before_and_after_its_normalisation():
    a, b = maps()
    products = bilinear(a, b)
    torch.testing.assert_close(
        products.flatten(1, 2), bilinear_by_hand(a, b, normalised=False), **FLOAT64_SAME
    )
    x_a, x_b = (x[1, :, 2].flatten(1).T for x in (a, b))  # (H W, D)
    torch.testing.assert_close(products[1, :, :, 2], x_a.T @ x_b, **FLOAT64_SAME)
    torch.testing.assert_close(bilinear(b, a), products.transpose(1, 2), **FLOAT64_SAME)
    torch.testing.assert_close(normalise_bilinear(products), bilinear_by_hand(a, b), **FLOAT64_SAME)
    lengths = normalise_bilinear(products).square().sum(1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths), **FLOAT64_SAME)


def test_bilinear_of_dead_channels_has_finite_gradients():
    a, b = (x.requires_grad_() for x in maps())
    (normalise_bilinear(bilinear(a * 0, b)).sum() + normalise_bilinear(bilinear(a, b)).sum()).backward()
    assert a.grad.isfinite().all()
    assert b.grad.isfinite().all()


@torch.no_grad()
def test_swapping_the_towers():
    a, b = maps()
    for operator in ("sum", "max"):
        fusion = Fusion(operator, (4, 4))
        torch.testing.assert_close(fusion(a, b), fusion(b, a), rtol=0, atol=0)
    concat = Fusion("concat", (4, 4))
    order = [4, 5, 6, 7, 0, 1, 2, 3]
    torch.testing.assert_close(concat(a, b)[:, order], concat(b, a), rtol=0, atol=0)


@torch.no_grad()
def test_conv_fusion_starts_as_sum():
    a, b = maps()
    torch.testing.assert_close(Fusion("conv", (4, 4)).double()(a, b), a + b, **FLOAT64_SAME)


@torch.no_grad()
def test_the_3d_form_starts_as_a_quarter_and_three_quarters():
    a, b = (x.abs()[:, :, :1].expand(-1, -1, 5, -1, -1) for x in maps(side=1))
    a, b = (x.expand(-1, -1, -1, 5, 5) for x in (a, b))  # equal everywhere, as from T equal frames
    y = Fusion("conv", (4, 4), kernel=3).double()(a, b)
    share = 0.25 * a + 0.75 * b
    torch.testing.assert_close(y[:, :, 1:4, 1:4, 1:4], share[:, :, 1:4, 1:4, 1:4], rtol=1e-6, atol=0)
    first = (y / share)[:, :, :, 1:4, 1:4]
    torch.testing.assert_close(
        first[:, :, [0, 4]], torch.full_like(first[:, :, [0, 4]], 0.7259), rtol=1e-4, atol=0
    )
    assert float(gaussian_3d(3)[1, 1, 1]) == pytest.approx(0.0923, abs=5e-5)
    assert float(gaussian_3d(3).double().sum()) == pytest.approx(1, abs=1e-6)


@torch.no_grad()
def test_the_3d_form_in_loops():
    a, b = maps(channels=2, frames=3, side=3)
    conv = FusionConv(2, kernel=3).double()
    for one in conv.parameters():
        nn.init.normal_(one)
    y, x = conv(torch.cat((a, b), dim=1)), torch.cat((a, b), dim=1)
    for t, i, j, d in ((0, 0, 0, 0), (1, 1, 1, 1), (2, 1, 0, 1)):
        total = float(conv.bias[d])
        for s in range(3):
            for u in range(3):
                for v in range(3):
                    at = (t + s - 1, i + u - 1, j + v - 1)
                    if min(at) >= 0 and max(at) <= 2:
                        total += sum(
                            float(conv.weight[d, c, s, u, v]) * float(x[1, c, *at]) for c in range(4)
                        )
        assert float(y[1, d, t, i, j]) == pytest.approx(max(0.0, total), rel=1e-10)


@torch.no_grad()
def test_of_one_stack_a_kernel_of_one_slice_is_conv_fusion():
    a, b = (x.abs() for x in maps(frames=1))
    flat, deep = Fusion("conv", (4, 4)).double(), Fusion("conv", (4, 4), kernel=3).double()
    nn.init.uniform_(flat.conv.weight)
    deep.conv.weight.zero_()
    deep.conv.weight[:, :, 1:2, 1:2, 1:2] = flat.conv.weight
    torch.testing.assert_close(deep(a, b), flat(a, b), **FLOAT64_SAME)


@torch.no_grad()
def test_the_smaller_map_gets_zeros_at_the_bottom_and_on_the_right():
    a, b = maps(side=14)
    small = b[..., :13, :13]
    for pair, larger in (((a, small), 0), ((small, a), 1)):
        x, y = same_size(*pair)
        assert x.shape == y.shape == a.shape
        padded = (x, y)[1 - larger]
        torch.testing.assert_close(padded[..., :13, :13], small, rtol=0, atol=0)
        assert float(padded[..., 13, :].abs().sum() + padded[..., 13].abs().sum()) == 0
        torch.testing.assert_close((x, y)[larger], a, rtol=0, atol=0)


# Stacks.


@torch.no_grad()
@pytest.mark.parametrize(("stacks", "tau"), [(5, 1), (5, 3), (2, 12), (1, 1)])
def test_stacks_are_tau_apart_and_interleave_x_and_y(stacks, tau):
    rgb, flow = clips(stacks=stacks, tau=tau, num_flows=4, side=2)
    frames, channels = stacked_inputs((rgb, flow), 4, "it")
    assert frames is rgb
    assert channels.shape == (2, 8, stacks, 2, 2)
    for t in range(stacks):
        for k in range(4):
            for c in range(2):
                torch.testing.assert_close(channels[:, 2 * k + c, t], flow[:, c, t * tau + k], rtol=0, atol=0)
    snippets = torch.stack([flow[:, :, t * tau : t * tau + 4] for t in range(stacks)], dim=1)
    apart = stacked_inputs((rgb.transpose(1, 2).unsqueeze(3), snippets), 4, "it")
    torch.testing.assert_close(apart[0], frames, rtol=0, atol=0)
    torch.testing.assert_close(apart[1], channels, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("rgb", "flow", "text"),
    [
        (
            (2, 3, 5, 8, 8),
            (2, 2, 24, 8, 8),
            "each frame, .*, got 24 fields for 5 frames: build it with another",
        ),
        ((2, 3, 5, 8, 8), (2, 2, 10, 8, 8), "got 10 fields for 5 frames"),  # tau 0
        ((2, 3, 1, 8, 8), (2, 2, 11, 8, 8), "got 11 fields for 1 frames"),
        ((2, 5, 3, 1, 8, 8), (2, 5, 2, 9, 8, 8), "got 45 fields for 5 frames"),
        ((2, 5, 3, 1, 8, 8), (2, 4, 2, 10, 8, 8), "got 40 fields for 5 frames"),
        (
            (2, 3, 5, 8, 8),
            (1, 2, 50, 8, 8),
            r"RGB and flow of the same clips, model\(rgb, flow\), got \[2, 3",
        ),
        ((2, 3, 5, 8, 8), (2, 3, 50, 8, 8), r"it takes \[B, 2, T, H, W\], got \[2, 3, 50, 8, 8\]"),
        (
            (2, 5, 2, 1, 8, 8),
            (2, 5, 2, 10, 8, 8),
            r"it takes snippets \[B, S, 3, T, H, W\], got \[2, 5, 2, 1",
        ),
    ],
)
def test_stacks_that_do_not_fit(rgb, flow, text):
    with pytest.raises(ConfigError, match=text):
        stacked_inputs((torch.empty(rgb, device="meta"), torch.empty(flow, device="meta")), 10, "it")


def test_pictures_of_another_size():
    with pytest.raises(
        ConfigError, match=r"two_stream_fusion was built for 64 x 64 pixels, .*, got 48 x 48: build"
    ):
        net()(*clips(side=48))


def test_flow_that_is_missing():
    with pytest.raises(
        ConfigError, match=r"RGB and flow of the same clips, model\(rgb, flow\), got \[2, 3, 5"
    ):
        stacked_inputs((torch.empty(2, 3, 5, 8, 8, device="meta"),), 10, "it")


# Whole networks, written out with 2D functions, stack by stack.


def conv(model: nn.Module, name: str, x: Tensor, **arguments: int) -> Tensor:
    layer = model.get_submodule(name)
    return F.conv2d(x, layer.weight[:, :, 0], layer.bias, **arguments).relu()


def full(model: nn.Module, name: str, x: Tensor) -> Tensor:
    layer = model.get_submodule(name)
    return (x.flatten(1) @ layer.weight.T + layer.bias).relu()


def classify(model: nn.Module, name: str, x: Tensor) -> Tensor:
    layer = model.get_submodule(name)
    return x @ layer.weight.T + layer.bias


VGG_CONVS = ("1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3", "4_1", "4_2", "4_3", "5_1", "5_2", "5_3")


def vgg_relu5(model: nn.Module, tower: str, x: Tensor) -> Tensor:
    previous = "1"
    for name in VGG_CONVS:
        if name[0] != previous:
            x, previous = F.max_pool2d(x, 2), name[0]
        x = conv(model, f"{tower}.conv{name}", x, padding=1)
    return x


def stacks_of(rgb: Tensor, flow: Tensor, *, tau: int, num_flows: int) -> list[tuple[Tensor, Tensor]]:
    return [
        (rgb[:, :, t], flow[:, :, t * tau : t * tau + num_flows].transpose(1, 2).flatten(1, 2))
        for t in range(rgb.shape[2])
    ]


@torch.no_grad()
def test_the_final_architecture_written_out():
    model = net()
    rgb, flow = clips()
    pairs = stacks_of(rgb, flow, tau=2, num_flows=3)
    spatial = torch.stack([vgg_relu5(model, "spatial", x) for x, _ in pairs], dim=2)
    temporal = torch.stack([vgg_relu5(model, "temporal", y) for _, y in pairs], dim=2)
    kernel = model.fusion["relu5"].conv
    fused = F.conv3d(torch.cat((spatial, temporal), dim=1), kernel.weight, kernel.bias, padding=1).relu()
    logits = []
    for branch, prefix, x in (("fused", "fused.relu5", fused), ("kept", "kept", temporal)):
        x = F.max_pool3d(x, (2, 2, 2), 2)  # all of the two stacks
        x = full(model, f"{prefix}.full7", full(model, f"{prefix}.full6", x))
        logits.append(classify(model, f"head.{branch}.fc", x))
    torch.testing.assert_close(model(rgb, flow), (logits[0] + logits[1]) / 2, **FLOAT64_SAME)
    rows, weights = model.training_logits(rgb, flow)
    torch.testing.assert_close(rows, torch.stack(logits, dim=1), **FLOAT64_SAME)
    assert weights == (1.0, 1.0)
    torch.testing.assert_close(model.embed(rgb, flow, layer="head.kept"), logits[1], **FLOAT64_SAME)


def cnn_m(model: nn.Module, tower: str, x: Tensor, *, until: int, after: int = 0) -> Tensor:
    """ReLU `after` -> ReLU `until`."""
    for n in range(after + 1, until + 1):
        if n == 2:
            x = F.max_pool2d(F.local_response_norm(x, 5, alpha=5e-4, beta=0.75, k=2.0), 3, 2, ceil_mode=True)
        if n == 3:
            if tower != "temporal":
                x = F.local_response_norm(x, 5, alpha=5e-4, beta=0.75, k=2.0)
            x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        x = conv(model, f"{tower}.conv{n}", x, stride=2 if n < 3 else 1, padding=int(n > 1))
    return x


def operate(operator: str, model: nn.Module, layer: str, a: Tensor, b: Tensor) -> Tensor:
    if operator == "conv":
        kernel = model.get_submodule(f"fusion.{layer}.conv")
        x = torch.cat((a, b), dim=1)
        flat = x[..., None, None] if x.ndim == 2 else x
        return F.conv2d(flat, kernel.weight[:, :, 0], kernel.bias).view(len(a), -1, *a.shape[2:])
    return {"sum": a + b, "max": torch.maximum(a, b), "concat": torch.cat((a, b), dim=1)}[operator]


@torch.no_grad()
@pytest.mark.parametrize("operator", ["sum", "max", "concat", "conv"])
@pytest.mark.parametrize("layer", [2, 4, 5])
def test_fusion_at_any_convolution_of_cnn_m_written_out(layer, operator):
    name = f"relu{layer}"
    model = net(**PLAIN, layer=name, operator=operator, towers="cnn_m")
    assert all(not key.startswith("temporal.full") for key in model.state_dict())
    rgb, flow = clips(tau=1)
    features = []
    for x, y in stacks_of(rgb, flow, tau=1, num_flows=3):
        a, b = cnn_m(model, "spatial", x, until=layer), cnn_m(model, "temporal", y, until=layer)
        fused = operate(operator, model, name, a, b)
        fused = cnn_m(model, f"fused.{name}", fused, until=5, after=layer)
        fused = F.max_pool2d(fused, 3, 2, ceil_mode=True)
        features.append(full(model, f"fused.{name}.full7", full(model, f"fused.{name}.full6", fused)))
    expected = sum(classify(model, "head.fc", one) for one in features) / 2  # predictions averaged
    torch.testing.assert_close(model(rgb, flow), expected, **FLOAT64_SAME)


@torch.no_grad()
@pytest.mark.parametrize("operator", ["sum", "conv"])
def test_fusion_of_fully_connected_layers_written_out(operator):
    rgb, flow = clips(stacks=1)
    ((x, y),) = stacks_of(rgb, flow, tau=1, num_flows=3)

    def fc(model: nn.Module, tower: str, relu5: Tensor, until: int) -> Tensor:
        z = full(model, f"{tower}.full6", F.max_pool2d(relu5, 2))
        return z if until == 6 else full(model, f"{tower}.full7", z)

    for depth in (6, 7):
        model = net(**PLAIN, layer=f"fc{depth}", operator=operator)
        a = fc(model, "spatial", vgg_relu5(model, "spatial", x), depth)
        b = fc(model, "temporal", vgg_relu5(model, "temporal", y), depth)
        fused = operate(operator, model, f"fc{depth}", a, b)
        if depth == 6:
            fused = full(model, "fused.fc6.full7", fused)
        torch.testing.assert_close(model(rgb, flow), classify(model, "head.fc", fused), **FLOAT64_SAME)
    model = net(**PLAIN, layer="fc8", operator=operator)
    a = classify(model, "head.spatial.fc", fc(model, "spatial", vgg_relu5(model, "spatial", x), 7))
    b = classify(model, "head.temporal.fc", fc(model, "temporal", vgg_relu5(model, "temporal", y), 7))
    expected = a + b
    if operator == "conv":
        kernel = model.head.fusion.conv
        expected = torch.cat((a, b), dim=1) @ kernel.weight[:, :, 0, 0, 0].T + kernel.bias
    torch.testing.assert_close(model(rgb, flow), expected, **FLOAT64_SAME)


@torch.no_grad()
def test_fusion_at_three_layers_written_out():
    model = net(**PLAIN, layer="relu3+relu5+fc6", operator="conv", towers="cnn_m")
    rgb, flow = clips(stacks=1)
    ((x, y),) = stacks_of(rgb, flow, tau=1, num_flows=3)
    a, b = cnn_m(model, "spatial", x, until=3), cnn_m(model, "temporal", y, until=3)
    a = operate("conv", model, "relu3", a, b)
    a = cnn_m(model, "fused.relu3", a, until=5, after=3)
    b = cnn_m(model, "temporal", b, until=5, after=3)
    a = operate("conv", model, "relu5", a, b)
    a = full(model, "fused.relu5.full6", F.max_pool2d(a, 3, 2, ceil_mode=True))
    b = full(model, "temporal.full6", F.max_pool2d(b, 3, 2, ceil_mode=True))
    a = full(model, "fused.fc6.full7", operate("conv", model, "fc6", a, b))
    torch.testing.assert_close(model(rgb, flow), classify(model, "head.fc", a), **FLOAT64_SAME)


@torch.no_grad()
def test_bilinear_features_go_to_the_classifier_alone():
    model = net(**PLAIN, operator="bilinear", towers="cnn_m")
    rgb, flow = clips(tau=1)
    features = []
    for x, y in stacks_of(rgb, flow, tau=1, num_flows=3):
        a, b = (cnn_m(model, *pair, until=5)[:, :, None] for pair in (("spatial", x), ("temporal", y)))
        features.append(bilinear_by_hand(a, b).flatten(1))
    mean = sum(features) / 2
    torch.testing.assert_close(model.forward_features(rgb, flow), mean, rtol=1e-8, atol=1e-8)
    assert not any("full" in name for name, _ in model.named_parameters())
    assert model.feature_dim == 64


@torch.no_grad()
def test_two_towers_of_different_maps():
    model = net(towers="vgg_16+cnn_m", temporal="3d_pooling")
    rgb, flow = clips()
    pairs = stacks_of(rgb, flow, tau=2, num_flows=3)
    spatial = torch.stack([vgg_relu5(model, "spatial", x) for x, _ in pairs], dim=2)
    temporal = torch.stack([cnn_m(model, "temporal", y, until=5) for _, y in pairs], dim=2)
    assert (spatial.shape[-1], temporal.shape[-1]) == (4, 3)
    padded = F.pad(temporal, (0, 1, 0, 1))
    kernel = model.fusion["relu5"].conv
    fused = F.conv3d(torch.cat((spatial, padded), dim=1), kernel.weight, kernel.bias)
    x = full(model, "fused.relu5.full6", F.max_pool3d(fused, (2, 2, 2), 2))
    logits = classify(model, "head.fused.fc", full(model, "fused.relu5.full7", x))
    torch.testing.assert_close(model.embed(rgb, flow, layer="head.fused"), logits, **FLOAT64_SAME)


@torch.no_grad()
def test_a_tower_is_torchvision_s():
    model = net()
    ours = [model.get_submodule(f"spatial.conv{name}") for name in VGG_CONVS]
    plan: list[int | str] = []
    for name, layer in zip(VGG_CONVS, ours, strict=True):
        plan += ["M"] * (name.endswith("_1") and name != "1_1") + [layer.out_channels]
    theirs = make_layers(plan).double()
    convs = [layer for layer in theirs if isinstance(layer, nn.Conv2d)]
    for layer, own in zip(convs, ours, strict=True):
        layer.weight.copy_(own.weight[:, :, 0])
        layer.bias.copy_(own.bias)
    rgb, _ = clips()
    found = torch.stack([theirs(rgb[:, :, t]) for t in range(2)], dim=2)
    torch.testing.assert_close(model.spatial(rgb), found, **FLOAT64_SAME)


# Towers that were trained by themselves.


def streams(backbone: str = "vgg_16") -> tuple[VideoModel, VideoModel]:
    torch.manual_seed(2)
    same = {"num_classes": 5, "width": 1 / 64, "crop": 64, "backbone": backbone}
    spatial = build("two_stream_spatial", **same).double().eval()
    temporal = build("two_stream_temporal", num_flows=3, **same).double().eval()
    stir(spatial)
    stir(temporal)
    return spatial, temporal


@torch.no_grad()
@pytest.mark.parametrize("towers", ["vgg_16", "cnn_m"])
def test_dropping_the_fused_branch_leaves_the_kept_tower(towers):
    spatial, temporal = streams(towers)
    rgb, flow = clips(stacks=1)
    for keep, alone in (("temporal", temporal(flow)), ("spatial", spatial(rgb))):
        model = net(keep=keep, towers=towers)
        assert start_from(model, spatial=spatial, temporal=temporal) == ()
        torch.testing.assert_close(model.embed(rgb, flow, layer="head.kept"), alone, **FLOAT64_SAME)
        fused = model.embed(rgb, flow, layer="head.fused")
        torch.testing.assert_close(model(rgb, flow), (fused + alone) / 2, **FLOAT64_SAME)
        assert relative_error(fused, alone) > NOTICED


@torch.no_grad()
def test_fc8_sum_is_both_streams_and_the_fused_branch_is_the_rest_of_one():
    spatial, temporal = streams()
    rgb, flow = clips(stacks=1)
    model = net(**PLAIN, layer="fc8", operator="sum")
    assert start_from(model, spatial=spatial, temporal=temporal) == ()
    torch.testing.assert_close(model(rgb, flow), spatial(rgb) + temporal(flow), **FLOAT64_SAME)
    for keep, alone in (("none", spatial(rgb)), ("spatial", temporal(flow))):
        model = net(keep=keep, temporal="2d_pooling")
        start_from(model, spatial=spatial, temporal=temporal)
        kernel = model.fusion["relu5"].conv.weight
        kernel.zero_()
        channels = len(kernel)
        chosen = slice(channels, None) if keep == "spatial" else slice(channels)  # of one tower alone
        kernel[:, chosen, 0, 0, 0] = torch.eye(channels, dtype=torch.float64)
        model.fusion["relu5"].conv.bias.zero_()
        found = model(rgb, flow) if keep == "none" else model.embed(rgb, flow, layer="head.fused")
        torch.testing.assert_close(found, alone, **FLOAT64_SAME)


@torch.no_grad()
def test_what_concatenation_makes_wider_stays_random():
    spatial, temporal = streams()
    model = net(**PLAIN, operator="concat")
    random = start_from(model, spatial=spatial, temporal=temporal)
    assert random == ("fused.relu5.full6.weight",)
    model.reset_head(7)
    random = start_from(model, spatial=spatial, temporal=temporal)
    assert random == ("head.fc.weight", "head.fc.bias", "fused.relu5.full6.weight")


def test_starting_from_other_towers_says_so():
    spatial, temporal = streams("cnn_m")
    with pytest.raises(
        ConfigError, match=r"spatial\.conv1_1\.weight is not in the network it should come from"
    ):
        start_from(net(), spatial=spatial, temporal=temporal)


def test_dropout_and_first_weights_are_those_of_the_streams():
    torch.manual_seed(0)
    model = build("two_stream_fusion", **(SMALL | {"towers": "cnn_m", "width": 1 / 8}))
    found = {name: one.p for name, one in model.named_modules() if isinstance(one, nn.Dropout)}
    names = ("fused.relu5.drop6", "kept.drop6", "head.fused.dropout", "head.kept.dropout")
    assert found == dict.fromkeys(names, 0.85)
    late = build("two_stream_fusion", **(SMALL | PLAIN | {"layer": "fc8", "operator": "sum", "dropout": 0.5}))
    assert [one.p for one in late.modules() if isinstance(one, nn.Dropout)] == [0.5] * 4
    for tower, gain in ((model.spatial, 1 / 8), (model.temporal, 1)):
        first = tower.conv1.weight.detach()
        assert float(first.std()) == pytest.approx(gain * (2 / first[0].numel()) ** 0.5, rel=0.1)


def test_gradients_end_at_the_fusion():
    model = net(dropout=0.0)
    set_trainable(model, frozen=("spatial", "temporal"))
    rows, _ = model.training_logits(*clips())
    rows.square().sum().backward()
    with_gradient = {name.split(".")[0] for name, one in model.named_parameters() if one.grad is not None}
    assert with_gradient == {"head", "fusion", "fused", "kept"}


def test_training_adds_two_losses():
    config = TrainConfig(data=DataConfig(root="videos"))
    model = net(dropout=0.0).float().train()
    rgb, flow = (x.float() for x in clips())
    target = torch.tensor([3, 0])
    batch = Batch(
        inputs=(rgb, flow), target=target, index=torch.arange(2), weight=torch.ones(2), global_count=2
    )
    seen = forward_backward(model, batch, config, 2, torch.device("cpu"))
    found = {name: one.grad.clone() for name, one in model.named_parameters()}
    model.zero_grad()
    branches = [model.embed(rgb, flow, layer=f"head.{name}") for name in ("fused", "kept")]
    losses = [F.cross_entropy(one, target) for one in branches]
    (losses[0] + losses[1]).backward()
    assert float(seen[0]) == pytest.approx(2 * float((losses[0] + losses[1]).detach()), rel=1e-5)
    for name, one in model.named_parameters():
        torch.testing.assert_close(found[name], one.grad, rtol=1e-3, atol=1e-5)


# Counts: parameters with 101 classes; theirs in millions where the sheet's arithmetic meets them.


@pytest.mark.parametrize(
    ("arguments", "parameters", "millions"),
    [
        ({}, 283_514_762, None),
        ({"keep": "none"}, 163_555_109, None),
        ({**PLAIN, "towers": "cnn_m", "layer": "fc8", "operator": "sum"}, 181_335_594, 181.42),
        ({**PLAIN, "towers": "cnn_m", "operator": "max"}, 97_236_421, 97.31),
        ({**PLAIN, "towers": "cnn_m", "operator": "sum"}, 97_236_421, 97.31),
        ({**PLAIN, "towers": "cnn_m", "operator": "concat"}, 97_236_421 + 75_497_472, 172.81),
        ({**PLAIN, "towers": "cnn_m"}, 97_236_421 + 524_800, 97.58),
        ({**PLAIN, "towers": "cnn_m", "layer": "relu4"}, 95_401_413, 95.48),
        ({**PLAIN, "towers": "cnn_m", "layer": "relu3"}, 93_041_605, 93.08),
        ({**PLAIN, "towers": "cnn_m", "keep": "temporal"}, 181_860_394, 181.68),
        ({**PLAIN, "towers": "cnn_m", "layer": "relu2"}, 91_467_973, None),
        ({**PLAIN, "towers": "cnn_m", "layer": "relu3+relu5+fc6"}, 207_346_117, None),
        ({**PLAIN, "towers": "cnn_m", "operator": "bilinear"}, 6_528_640 + 6_608_608 + 26_476_645, None),
    ],
)
def test_parameters_of_the_tables(arguments, parameters, millions):
    with torch.device("meta"):
        model = TwoStreamFusion(**arguments)
    assert count_parameters(model) == parameters
    assert millions is None or parameters / 1e6 == pytest.approx(millions, abs=0.3)


def test_parts_of_the_final_network():
    with torch.device("meta"):
        model = TwoStreamFusion()
    assert count_parameters(model.fusion) == 14_156_288
    assert count_parameters(model.temporal) == 14_724_480
    spatial = (
        count_parameters(model.spatial) + count_parameters(model.fused) + count_parameters(model.head.fused)
    )
    temporal = (
        count_parameters(model.temporal) + count_parameters(model.kept) + count_parameters(model.head.kept)
    )
    assert (spatial, temporal) == (134_674_341, 134_684_133)


def test_multiply_adds_of_the_final_network():
    with torch.device("meta"):
        model = TwoStreamFusion()
    sides = {"1": 224, "2": 112, "3": 56, "4": 28, "5": 14}
    channels, per_stack = 0, 0
    for name in VGG_CONVS:
        out = {"1": 64, "2": 128, "3": 256}.get(name[0], 512)
        per_stack += 2 * 9 * channels * out * sides[name[0]] ** 2
        channels = out
    per_stack += 9 * (3 + 20) * 64 * 224**2  # conv1_1 of both towers
    fusion = 27 * 1024 * 512 * 5 * 14**2
    full_layers = 2 * (25_088 * 4096 + 4096**2 + 4096 * 101)
    shapes = [(spec.num_channels, spec.num_frames, spec.crop, spec.crop) for spec in model.default_specs]
    assert count_macs(model, *shapes) == 5 * per_stack + fusion + full_layers


def test_the_maps_of_the_walk_through():
    with torch.device("meta"):
        model = TwoStreamFusion()
        mixed = TwoStreamFusion(towers="vgg_16+cnn_m")
    assert (model.spatial.out_channels, model.spatial.out_side) == (512, 14)
    assert model.fused["relu5"].sides["pool5"] == 7
    assert (mixed.spatial.out_side, mixed.temporal.out_side) == (14, 13)
    assert mixed.kept is not None
    assert mixed.kept.sides["pool5"] == 6


# The contract, and what goes wrong.


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"keep": "spatial", "temporal": "3d_pooling", "operator": "concat", "towers": "cnn_m"},
        {**PLAIN, "operator": "bilinear"},
        {**PLAIN, "layer": "fc8"},
        {"keep": "none", "layer": "relu4+fc7", "operator": "max", "temporal": "3d_pooling"},
    ],
)
def test_it_is_saved_with_all_it_needs_and_trains_in_bf16(arguments, tmp_path):
    model = net(**arguments).float()
    inputs = [x.float() for x in clips()]
    save(tmp_path / "net.safetensors", model, labels=[f"class {n}" for n in range(5)])
    again = load(tmp_path / "net.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(again(*inputs), model(*inputs), rtol=0, atol=0)
    assert json.loads(json.dumps(again.arguments)) == model.arguments
    again.reset_head(7)
    nn.init.zeros_(next(again.temporal.parameters()))
    report = init_trunk(again, tmp_path / "net.safetensors")
    assert all(name.startswith("head.") for name in report.random)
    torch.testing.assert_close(again.temporal.state_dict(), model.temporal.state_dict(), rtol=0, atol=0)
    again.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows, weights = again.training_logits(*inputs)
    assert rows.shape == (2, len(weights), 7)
    assert len(weights) == (2 if isinstance(again.head, BranchHead) else 1)
    rows.float().square().sum().backward()
    assert again.bf16_safe
    assert all(one.grad is not None and one.grad.isfinite().all() for one in again.parameters())


@torch.no_grad()
def test_any_number_of_stacks_is_taken():
    model = net()
    for stacks in (1, 4):
        assert model(*clips(stacks=stacks)).shape == (2, 5)


def test_clips_of_the_paper():
    rgb, flow = clip_specs(10)
    assert (rgb.num_frames, rgb.frame_stride, rgb.crop, rgb.resize) == (5, 10, 224, 256)
    assert (flow.num_frames, flow.frame_stride, flow.flow_bound, flow.mean_subtraction) == (50, 1, 20, False)
    assert (rgb.span - 1 + 10, clip_specs(10, crop=112)[0].resize) == (flow.span, 128)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"operator": "mean"}, "operator must be one of sum, max, concat, conv, bilinear, got 'mean'"),
        ({"layer": "relu6"}, "layer must be one of relu2, relu3, .*, or several in this order.*; got relu6"),
        ({"layer": "relu5+relu3"}, "layer must be one of relu2"),
        (
            {"layer": "relu5+fc8", **PLAIN},
            "fc8 is fused alone: for the paper's ReLU5 \\+ FC8 take layer='relu5'",
        ),
        (
            {"layer": "fc8", "temporal": "2d_pooling"},
            "fc8 goes with operator 'sum' or 'conv' and keep 'none'",
        ),
        ({"layer": "fc8", "operator": "max", **PLAIN}, "fc8 goes with operator 'sum' or 'conv'"),
        (
            {"operator": "bilinear"},
            "'bilinear' goes with one layer from relu2 to relu5 and temporal '2d_pooling'",
        ),
        ({"operator": "bilinear", "layer": "fc6", **PLAIN}, "'bilinear' goes with one layer"),
        (
            {"operator": "sum"},
            "'3d_conv' goes with operator 'conv' and layers from relu2 to relu5; got relu5, sum",
        ),
        ({"layer": "fc6"}, "'3d_conv' goes with operator 'conv' and layers from relu2"),
        ({"temporal": "mean"}, "temporal must be one of 2d_pooling, 3d_pooling, 3d_conv, got 'mean'"),
        ({"keep": "both"}, "keep must be one of none, spatial, temporal, got 'both'"),
        ({"towers": "vgg_16+resnet"}, r"towers must be one or two of cnn_m, vgg_16, .*got 'vgg_16\+resnet'"),
        ({"layer": "relu4", "towers": "vgg_16+cnn_m"}, "the maps at relu4 are 3 and 8 pixels wide"),
        (
            {"layer": "fc7", "towers": "vgg_16+cnn_m", "operator": "sum", **PLAIN},
            "operator 'sum' takes two maps of equal channels, got 64 and 32: choose concat",
        ),
        ({"num_flows": 0}, "num_flows must be above 0, got 0"),
    ],
)
def test_arguments_that_make_no_sense(arguments, text):
    with pytest.raises(ConfigError, match=text):
        TwoStreamFusion(**{**SMALL, **arguments})


def test_an_operator_by_itself_names_the_others():
    with pytest.raises(
        ConfigError, match="operator must be one of sum, max, concat, conv, bilinear, got 'mean'"
    ):
        Fusion("mean", (4, 4))
