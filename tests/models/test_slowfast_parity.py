"""SlowFast and Slow against pytorchvideo's, and that such a comparison would notice a mistake.

Mutations that must be noticed, each by `test_a_change_is_noticed`: time reversed, height and width exchanged,
other frames of Slow, a lateral dropped, shifted or joined in front, a BatchNorm dropped or its eps moved, a
ReLU missing, a temporal kernel of one frame, the pathways exchanged before the head.
"""

import copy
import re
from collections.abc import Callable

import pytest
import torch
from test_slowfast import R50, SMALL, clip, randomize
from tolerances import FLOAT32_PEER, FLOAT64_GRADIENT, FLOAT64_PEER, FLOAT64_SAME, NOTICED, relative_error
from torch import Tensor, nn

from muybridge.models.contract import VideoModel
from muybridge.models.registry import build
from muybridge.models.slowfast import SlowFast

PEERS = {
    "slow_r50_8x8": "slow_r50",
    "slowfast_r50_8x8": "slowfast_r50",
    "slowfast_r101_8x8": "slowfast_r101",
    "slowfast_r101_16x8": "slowfast_16x8_r101_50_50",
}
INSIDE = {
    r"res_blocks\.(\d+)\.branch1_conv": r"\1.shortcut.conv",
    r"res_blocks\.(\d+)\.branch1_norm": r"\1.shortcut.bn",
    r"res_blocks\.(\d+)\.branch2\.conv_": r"\1.conv_",
    r"res_blocks\.(\d+)\.branch2\.norm_": r"\1.bn_",
    r"\.norm\.": ".bn.",
    r"conv_fast_to_slow": "conv",
}


def renamed(key: str) -> str:
    """Our name of one of pytorchvideo's tensors."""
    for old, new in INSIDE.items():
        key = re.sub(old, new, key)
    block, rest = re.fullmatch(r"blocks\.(\d+)\.(.*)", key).groups()
    if rest.startswith("proj."):
        return f"head.fc.{rest[5:]}"
    if rest.startswith("multipathway_fusion."):
        return f"lateral.{block}.{rest[20:]}"
    which = ""
    if rest.startswith("multipathway_blocks."):
        which, rest = {"0": "slow.", "1": "fast."}[rest[20]], rest[22:]
    return f"{which}stem.{rest}" if block == "0" else f"{which}stages.{int(block) - 1}.{rest}"


def paired(name: str) -> tuple[VideoModel, Callable[[Tensor], Tensor], nn.Module]:
    """Ours and pytorchvideo's with the same random weights, in float64; theirs of one clip too."""
    hub = pytest.importorskip("pytorchvideo.models.hub")
    torch.manual_seed(0)
    with torch.device("meta"):
        net, ours = getattr(hub, PEERS[name])(model_num_class=11), build(name, num_classes=11)
    net = net.double().to_empty(device="cpu")
    randomize(net)
    nn.init.zeros_(net.blocks[-1].proj.bias)
    weights = {renamed(key): value.clone() for key, value in net.state_dict().items()}
    ours.load_state_dict(weights, assign=True)
    ours.head.dropout.p = net.blocks[-1].dropout.p = 0.0
    # Theirs pool windows of 7 x 7: all there is of 224 pixels, more than there is of 64.
    if name.startswith("slow_"):
        net.blocks[-1].pool = nn.AdaptiveAvgPool3d(1)
        return ours, net, net
    net.blocks[-2].pool = nn.ModuleList([nn.AdaptiveAvgPool3d(1)] * 2)

    def theirs(x: Tensor) -> Tensor:
        slow = torch.linspace(0, x.shape[2] - 1, x.shape[2] // 4).long()
        return net([x[:, :, slow], x])  # a new list: it writes into it

    return ours, theirs, net


@pytest.mark.parametrize("name", PEERS)
def test_outputs_are_pytorchvideo_s(name):
    ours, theirs, net = paired(name)
    x = clip(8, size=64)
    with torch.no_grad():
        ours.train(), net.train()
        assert relative_error(ours(x), theirs(x)) < FLOAT64_PEER
        own = ours.state_dict()
        for key, value in net.state_dict().items():
            torch.testing.assert_close(own[renamed(key)], value, **FLOAT64_SAME)
        ours.float().eval(), net.float().eval()
        assert relative_error(ours(x.float()), theirs(x.float())) < FLOAT32_PEER


def test_gradients_are_pytorchvideo_s():
    ours, theirs, net = paired("slowfast_r50_8x8")
    x = clip(16)
    for model, forward in ((ours, ours), (net, theirs)):
        model.train()
        nn.functional.cross_entropy(forward(x), torch.tensor([3, 5])).backward()
    gradients = {renamed(key): one.grad for key, one in net.named_parameters()}
    for key, parameter in ours.named_parameters():
        assert relative_error(parameter.grad, gradients[key]) < FLOAT64_GRADIENT, key


def take_other_frames(model: SlowFast) -> None:
    model.slow_frames = "stride"


def exchange_pathways(model: SlowFast) -> None:
    model.pool.register_forward_pre_hook(lambda _, args: args[::-1])


def shift_a_lateral(model: SlowFast) -> None:
    model.lateral[1].register_forward_pre_hook(lambda _, args: (args[0].roll(1, 2),))


def drop_a_lateral(model: SlowFast) -> None:
    model.lateral[2].register_forward_hook(lambda module, args, output: 0 * output)


def join_fast_first(model: SlowFast) -> None:
    model._join = lambda slow, side: torch.cat((side, slow), 1)


def drop_a_lateral_s_norm(model: SlowFast) -> None:
    model.lateral[0].bn = nn.Identity()


def drop_a_lateral_s_relu(model: SlowFast) -> None:
    model.lateral[3].relu = nn.Identity()


def drop_a_norm(model: SlowFast) -> None:
    model.fast.stages[2][1].bn_b = nn.Identity()


def no_stem_relu(model: SlowFast) -> None:
    model.slow.stem.relu = nn.Identity()


def fast_looks_at_one_frame(model: SlowFast) -> None:
    for stage in model.fast.stages:
        for block in stage:
            block.conv_a.weight[:, :, [0, 2]] = 0


def reversed_time(model: SlowFast) -> None:
    model.register_forward_pre_hook(lambda _, args: (args[0].flip(2),))


def exchanged_height_and_width(model: SlowFast) -> None:
    model.register_forward_pre_hook(lambda _, args: (args[0].transpose(3, 4),))


def other_eps(model: SlowFast) -> None:
    for module in model.lateral.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = 0.1


MUTATIONS = [
    take_other_frames,
    exchange_pathways,
    shift_a_lateral,
    drop_a_lateral,
    join_fast_first,
    drop_a_lateral_s_norm,
    drop_a_lateral_s_relu,
    drop_a_norm,
    no_stem_relu,
    fast_looks_at_one_frame,
    reversed_time,
    exchanged_height_and_width,
    other_eps,
]


@torch.no_grad()
@pytest.mark.parametrize("mutate", MUTATIONS)
def test_a_change_is_noticed(mutate: Callable[[SlowFast], None]):
    torch.manual_seed(0)
    model = build(R50, **SMALL).eval()
    randomize(model)
    mutant = copy.deepcopy(model)
    mutate(mutant)
    x = clip(32).float()
    assert relative_error(mutant(x), model(x)) > NOTICED
