"""Inception I3D, C3D and VMZ in other code bases' names: each tensor goes to its place, in our layout."""

import pytest
import torch
from tolerances import FLOAT32_PEER, relative_error
from torch import Tensor, nn

from muybridge.errors import WeightsError
from muybridge.models.r2plus1d import CHANNELS, DEPTHS, mid_channels
from muybridge.models.registry import build
from muybridge.weights.convert import convert, mismatches

# Fig. 3 of I3D: input channels, then those of b0, b1a, b1b, b2a, b2b, b3b.
MIXED = {
    "3b": (192, 64, 96, 128, 16, 32, 32),
    "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}
NAMES = {  # ours: piergiaj's are the same, hassony2's, TensorFlow's
    "b0": ("branch_0", "Branch_0/Conv3d_0a_1x1"),
    "b1a": ("branch_1.0", "Branch_1/Conv3d_0a_1x1"),
    "b1b": ("branch_1.1", "Branch_1/Conv3d_0b_3x3"),
    "b2a": ("branch_2.0", "Branch_2/Conv3d_0a_1x1"),
    "b2b": ("branch_2.1", "Branch_2/Conv3d_0b_3x3"),
    "b3b": ("branch_3.1", "Branch_3/Conv3d_0b_1x1"),
}


def units(in_channels: int, width: float) -> list[tuple[str, str, str, tuple[int, ...]]]:
    """Each convolution with BatchNorm: its name here, hassony2's, TensorFlow's; the shape of its weight."""

    def n(count: int) -> int:
        return max(1, round(count * width))

    found = [
        ("Conv3d_1a_7x7", "conv3d_1a_7x7", "Conv3d_1a_7x7", (n(64), in_channels, 7, 7, 7)),
        ("Conv3d_2b_1x1", "conv3d_2b_1x1", "Conv3d_2b_1x1", (n(64), n(64), 1, 1, 1)),
        ("Conv3d_2c_3x3", "conv3d_2c_3x3", "Conv3d_2c_3x3", (n(192), n(64), 3, 3, 3)),
    ]
    channels = n(192)
    for name, (_, b0, b1a, b1b, b2a, b2b, b3b) in MIXED.items():
        shapes = {
            "b0": (n(b0), channels, 1, 1, 1),
            "b1a": (n(b1a), channels, 1, 1, 1),
            "b1b": (n(b1b), n(b1a), 3, 3, 3),
            "b2a": (n(b2a), channels, 1, 1, 1),
            "b2b": (n(b2b), n(b2a), 3, 3, 3),
            "b3b": (n(b3b), channels, 1, 1, 1),
        }
        for branch, shape in shapes.items():
            hassony2, tensorflow = NAMES[branch]
            if (name, branch) == ("5b", "b2b"):
                tensorflow = "Branch_2/Conv3d_0a_3x3"  # DeepMind's slip
            found.append(
                (
                    f"Mixed_{name}.{branch}",
                    f"mixed_{name}.{hassony2}",
                    f"Mixed_{name}/{tensorflow}",
                    shape,
                )
            )
        channels = n(b0) + n(b1b) + n(b2b) + n(b3b)
    return found


def inception(
    naming: str, *, in_channels: int = 3, width: float = 1.0, device: str = "cpu"
) -> dict[str, Tensor]:
    """The state dict of "ours", "piergiaj", "hassony2" or "tensorflow"; the same values in all of them."""
    torch.manual_seed(0)
    state: dict[str, Tensor] = {}

    def values(*shape: int) -> Tensor:
        return torch.rand(shape) + 0.5 if device == "cpu" else torch.empty(shape, device=device)

    for own, hassony2, tensorflow, shape in units(in_channels, width):
        weight, (beta, mean, variance) = values(*shape), (values(shape[0]) for _ in range(3))
        if naming == "tensorflow":
            place = f"RGB/inception_i3d/{tensorflow}"
            state[f"{place}/conv_3d/w"] = weight.permute(2, 3, 4, 1, 0)
            for leaf, value in (("beta", beta), ("moving_mean", mean), ("moving_variance", variance)):
                state[f"{place}/batch_norm/{leaf}"] = value[None, None, None, None]
            continue
        conv, bn = {
            "ours": (f"{own}.conv", f"{own}.bn"),
            "piergiaj": (f"{own}.conv3d", f"{own}.bn"),
            "hassony2": (f"{hassony2}.conv3d", f"{hassony2}.batch3d"),
        }[naming]
        state[f"{conv}.weight"] = weight
        norm = {"weight": torch.ones_like(beta), "bias": beta, "running_mean": mean, "running_var": variance}
        state |= {f"{bn}.{leaf}": value for leaf, value in norm.items()}
    last = sum(max(1, round(count * width)) for count in (384, 384, 128, 128))
    weight, bias = values(400, last), values(400)
    if naming == "tensorflow":
        state["RGB/inception_i3d/Logits/Conv3d_0c_1x1/conv_3d/w"] = weight.T[None, None, None]
        state["RGB/inception_i3d/Logits/Conv3d_0c_1x1/conv_3d/b"] = bias
        return state
    place = {"ours": "head.fc", "piergiaj": "logits.conv3d", "hassony2": "conv3d_0c_1x1.conv3d"}[naming]
    state[f"{place}.weight"] = weight if naming == "ours" else weight[:, :, None, None, None]
    state[f"{place}.bias"] = bias
    return state


INCEPTIONS = {
    "piergiaj": "piergiaj's I3D",
    "hassony2": "hassony2's I3D",
    "tensorflow": "DeepMind's I3D",
}


@pytest.mark.parametrize("naming", INCEPTIONS)
@pytest.mark.parametrize(("name", "in_channels"), [("i3d_rgb", 3), ("i3d_flow", 2)])
def test_inception_s_tensors_are_all_of_ours(naming: str, name: str, in_channels: int):
    state = inception(naming, in_channels=in_channels, device="meta")
    found = convert(state)
    assert found.format == INCEPTIONS[naming]
    assert found.arguments == {"bn_eps": 1e-3}
    with torch.device("meta"):
        assert mismatches(found.tensors, build(name)) == []
    if naming == "piergiaj":  # the sheet's 344 keys are with the counters of 57 BatchNorms
        assert len(state) + 57 == 344


@pytest.mark.parametrize("naming", INCEPTIONS)
def test_inception_s_values_go_to_their_places(naming: str):
    expected = inception("ours", width=1 / 16)
    found = convert(inception(naming, width=1 / 16))
    assert set(found.tensors) == set(expected)
    for key, value in expected.items():
        assert torch.equal(found.tensors[key], value), key
    model = build("i3d_rgb", width=1 / 16)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.fill_(float("nan"))  # the canary
    model.load_state_dict(found.tensors, strict=False)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    assert "head.fc.weight" in found.adapted


def test_tensorflow_s_names_may_have_colons_and_lack_the_prefix():
    state = inception("tensorflow", width=1 / 16)
    plain = {key.removeprefix("RGB/inception_i3d/") + ":0": value for key, value in state.items()}
    expected = convert(state).tensors
    found = convert(plain).tensors
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    odd = convert(
        {**plain, "Mixed_3b/Branch_9/Conv3d_0a_1x1/conv_3d/w:0": torch.zeros(1, 1, 1, 1, 1)}
    ).tensors
    assert set(odd) - set(found) == {"Mixed_3b/Branch_9/Conv3d_0a_1x1/conv_3d/w:0"}


# Caffe's layers of C3D: channels in and out.
C3D_CONVS = {
    "conv1a": (3, 64),
    "conv2a": (64, 128),
    "conv3a": (128, 256),
    "conv3b": (256, 256),
    "conv4a": (256, 512),
    "conv4b": (512, 512),
    "conv5a": (512, 512),
    "conv5b": (512, 512),
}


def c3d(*, suffix: str, device: str = "meta") -> dict[str, Tensor]:
    """Blobs of C3D, as pycaffe gives them: fully connected ones with leading axes of length 1."""
    shapes = {
        layer: ((n_out, n_in, 3, 3, 3), (1, 1, 1, 1, n_out)) for layer, (n_in, n_out) in C3D_CONVS.items()
    }
    for layer, (n_in, n_out) in {"fc6": (8192, 4096), "fc7": (4096, 4096), "fc8": (4096, 487)}.items():
        shapes[f"{layer}{suffix}"] = ((1, 1, 1, n_out, n_in), (1, 1, 1, 1, n_out))
    return {
        f"{layer}/{index}": torch.empty(shape, device=device)
        for layer, pair in shapes.items()
        for index, shape in enumerate(pair)
    }


@pytest.mark.parametrize("suffix", ["-1", ""])
def test_c3d_s_blobs_are_all_of_ours(suffix: str):
    found = convert(c3d(suffix=suffix))
    assert sum(value.numel() for value in found.tensors.values()) == 79_991_015  # Sports-1M's, by the sheet
    with torch.device("meta"):
        assert mismatches(found.tensors, build("c3d", num_classes=487)) == []
    assert found.arguments == {"pool5": "ceil"}
    assert len(found.adapted) == 14  # eleven biases, three fully connected layers
    assert "mean cube" in found.notes[0]


def test_c3d_s_values_keep_their_order():
    state = {"conv1a/0": torch.randn(4, 3, 3, 3, 3), "conv1a/1": torch.randn(1, 1, 1, 1, 4)}
    state |= {"fc6-1/0": torch.randn(1, 1, 1, 5, 6), "fc8-1/1": torch.randn(7)}
    found = convert(state).tensors
    assert torch.equal(found["conv1a.weight"], state["conv1a/0"])
    assert torch.equal(found["conv1a.bias"], state["conv1a/1"].flatten())
    assert torch.equal(found["fc6.weight"], state["fc6-1/0"][0, 0, 0])
    assert torch.equal(found["head.fc.bias"], state["fc8-1/1"])


@pytest.mark.parametrize("prefix", ["backbone.", ""])
def test_mmaction2_s_c3d(prefix: str):
    state = {}
    for layer, (n_in, n_out) in C3D_CONVS.items():
        state[f"{prefix}{layer}.conv.weight"] = torch.empty(n_out, n_in, 3, 3, 3, device="meta")
        state[f"{prefix}{layer}.conv.bias"] = torch.empty(n_out, device="meta")
    for layer, (n_in, n_out) in {"fc6": (8192, 4096), "fc7": (4096, 4096)}.items():
        state[f"{prefix}{layer}.weight"] = torch.empty(n_out, n_in, device="meta")
        state[f"{prefix}{layer}.bias"] = torch.empty(n_out, device="meta")
    if prefix:  # without it the file is the Sports-1M one, which has no classifier
        state["cls_head.fc_cls.weight"] = torch.empty(101, 4096, device="meta")
        state["cls_head.fc_cls.bias"] = torch.empty(101, device="meta")
        assert sum(value.numel() for value in state.values()) == 78_409_573
    found = convert(state)
    assert (found.format, found.arguments) == ("mmaction2", {"pool5": "symmetric"})
    with torch.device("meta"):
        model = build("c3d", num_classes=101, **found.arguments)
    assert mismatches(found.tensors, model, trunk_only=True) == []
    missing = [] if prefix else ["missing head.fc.weight", "missing head.fc.bias"]
    assert mismatches(found.tensors, model) == missing


def vmz(layers: int, classes: int = 400) -> dict[str, Tensor]:
    """VMZ's R(2+1)D: `comp_i` counts blocks over the whole network."""
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(place: str, channels: int) -> None:
        shapes.update({f"{place}_{leaf}": (channels,) for leaf in ("s", "b", "rm", "riv")})

    shapes["conv1_middle_w"], shapes["conv1_w"] = (45, 3, 1, 7, 7), (64, 45, 3, 1, 1)
    norm("conv1_middle_spatbn_relu", 45)
    norm("conv1_spatbn_relu", 64)
    index, n_in = 0, 64
    for n_out, blocks in zip(CHANNELS, DEPTHS[layers], strict=True):
        for block in range(blocks):
            for conv, n in (("1", n_in), ("2", n_out)):
                mid = mid_channels(n, n_out)
                shapes[f"comp_{index}_conv_{conv}_middle_w"] = (mid, n, 1, 3, 3)
                norm(f"comp_{index}_spatbn_{conv}_middle", mid)
                shapes[f"comp_{index}_conv_{conv}_w"] = (n_out, mid, 3, 1, 1)
                norm(f"comp_{index}_spatbn_{conv}", n_out)
            if block == 0 and n_in != n_out:
                shapes[f"shortcut_projection_{index}_w"] = (n_out, n_in, 1, 1, 1)
                norm(f"shortcut_projection_{index}_spatbn", n_out)
            index, n_in = index + 1, n_out
    shapes[f"last_out_L{classes}_w"], shapes[f"last_out_L{classes}_b"] = (classes, 512), (classes,)
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


@pytest.mark.parametrize(("layers", "parameters"), [(18, 33_370_839), (34, 63_697_175)])
def test_vmz_s_tensors_are_all_of_ours(layers: int, parameters: int):
    state = vmz(layers)
    trainable = [value for key, value in state.items() if not key.endswith(("_rm", "_riv"))]
    assert sum(value.numel() for value in trainable) == parameters
    found = convert({**state, "lr": torch.zeros(()), "conv1_w_momentum": torch.zeros(1)})
    assert found.arguments == {"bn_eps": 1e-3}
    assert found.dropped == ("lr", "conv1_w_momentum")
    with torch.device("meta"):
        assert mismatches(found.tensors, build(f"r2plus1d_{layers}")) == []


def test_vmz_s_blocks_are_counted_over_the_whole_network():
    """The spec sheet: the stages of 34 layers start at blocks 0, 3, 7 and 13."""
    state = vmz(34)
    found = convert(state).tensors
    for index, place in ((0, "0.0"), (3, "1.0"), (7, "2.0"), (13, "3.0"), (15, "3.2")):
        theirs = state[f"comp_{index}_conv_2_middle_w"]
        assert found[f"stages.{place}.conv_b.spatial.weight"].shape == theirs.shape
    one = {**state, "comp_7_spatbn_1_riv": torch.full((256,), 7.0)}
    assert torch.equal(convert(one).tensors["stages.2.0.bn_a.running_var"], one["comp_7_spatbn_1_riv"])
    with pytest.raises(
        WeightsError, match=r"the file has 3 residual blocks; networks here have 4 \(10 layers\)"
    ):
        convert(
            {
                "conv1_middle_w": torch.zeros(1),
                "comp_0_conv_1_middle_w": torch.zeros(1),
                "comp_2_x": torch.zeros(1),
            }
        )


class Unit(nn.Module):
    """TensorFlow's convolution of stride 1, padding SAME, BatchNorm without a scale, ReLU, in its layout."""

    def __init__(self, state: dict[str, Tensor], place: str) -> None:
        super().__init__()
        self.w = state[f"{place}/conv_3d/w"]
        self.norm = [
            state[f"{place}/batch_norm/{leaf}"] for leaf in ("beta", "moving_mean", "moving_variance")
        ]

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, H, W, C] to the same, a sum over taps of the kernel."""
        t, h, w = (size // 2 for size in self.w.shape[:3])
        padded = nn.functional.pad(x, (0, 0, w, w, h, h, t, t))
        y = torch.zeros(*x.shape[:-1], self.w.shape[-1])
        for i in range(self.w.shape[0]):
            for j in range(self.w.shape[1]):
                for k in range(self.w.shape[2]):
                    y += (
                        padded[:, i : i + x.shape[1], j : j + x.shape[2], k : k + x.shape[3]]
                        @ self.w[i, j, k]
                    )
        beta, mean, variance = self.norm
        return ((y - mean) / (variance + 1e-3).sqrt() + beta).relu()


@torch.no_grad()
def test_a_module_of_tensorflow_computes_the_same_in_its_own_layout():
    """With axes exchanged or BatchNorm's eps another, it would not."""
    torch.manual_seed(1)
    state = {
        key: 0.2 * torch.randn_like(value) for key, value in inception("tensorflow", width=1 / 16).items()
    }
    state |= {key: value.abs() + 0.5 for key, value in state.items() if key.endswith("variance")}
    found = convert(state)
    model = build("i3d_rgb", width=1 / 16, **found.arguments).eval()
    model.load_state_dict(found.tensors, strict=False)
    x = torch.randn(2, model.get_submodule("Mixed_3b.b0.conv").in_channels, 3, 5, 6)
    last = x.movedim(1, -1)
    place = "RGB/inception_i3d/Mixed_3b/Branch_1"
    expected = Unit(state, f"{place}/Conv3d_0b_3x3")(Unit(state, f"{place}/Conv3d_0a_1x1")(last))
    block = model.get_submodule("Mixed_3b")
    assert relative_error(block.b1b(block.b1a(x)), expected.movedim(-1, 1)) < FLOAT32_PEER
