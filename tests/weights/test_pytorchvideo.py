"""pytorchvideo's hub: the same random weights in its network and in ours give the same logits."""

import pytest
import torch
from pytorchvideo.models import hub
from tolerances import FLOAT32_PEER, FLOAT64_PEER, NOTICED, relative_error
from torch import Tensor, nn

from muybridge.models.contract import VideoModel
from muybridge.models.registry import build
from muybridge.weights.convert import Converted, convert, mismatches

# Ours: the hub's name, its number of tensors by the spec sheet, and alpha of two pathways.
PEERS = {
    "c2d_r50": ("c2d_r50", 320, 0),
    "i3d_r50": ("i3d_r50", 320, 0),
    "slow_r50_8x8": ("slow_r50", 320, 0),
    "slowfast_r50_8x8": ("slowfast_r50", 662, 4),
    "slowfast_r101_8x8": ("slowfast_r101", 1274, 4),
    "slowfast_r101_16x8": ("slowfast_16x8_r101_50_50", 1274, 4),
}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_values(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """For names and shapes without memory: values with which activations stay of one size."""
    torch.manual_seed(0)
    values = {}
    for key, tensor in state.items():
        if not tensor.is_floating_point():
            values[key] = torch.zeros(tensor.shape, dtype=tensor.dtype)
        elif tensor.ndim > 1:
            values[key] = torch.randn(tensor.shape) * (2 / tensor[0].numel()) ** 0.5
        elif key.endswith((".weight", "running_var")):  # of a BatchNorm
            values[key] = torch.rand(tensor.shape) + 0.5
        else:
            values[key] = 0.1 * torch.randn(tensor.shape)
    return values


def paired(name: str) -> tuple[VideoModel, nn.Module, Converted]:
    """Ours and the hub's with the same random weights; neither was ever filled with others."""
    with torch.device("meta"):
        theirs = getattr(hub, PEERS[name][0])(pretrained=False)
        ours = build(name)
    state = random_values(theirs.state_dict())
    found = convert(state)
    assert len(state) == PEERS[name][1]
    assert (found.format, found.adapted, found.dropped) == ("pytorchvideo", (), ())
    assert mismatches(found.tensors, ours) == []
    theirs.load_state_dict(state, assign=True)
    ours.load_state_dict(found.tensors, assign=True)
    for name, module in list(theirs.named_modules()):
        if isinstance(module, nn.AvgPool3d):  # of the whole map at 224 pixels; here the map is smaller
            theirs.set_submodule(name, nn.AdaptiveAvgPool3d(1))
    for module in (*theirs.modules(), *ours.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return ours.eval(), theirs.eval(), found


def of_hub(model: nn.Module, clip: Tensor, alpha: int) -> Tensor:
    """The hub's network on a clip. It gets copies, since it writes into the list that it is given."""
    if not alpha:
        return model(clip.clone())
    frames = clip.shape[2]
    slow = torch.linspace(0, frames - 1, frames // alpha).long()
    return model([clip[:, :, slow].clone(), clip.clone()])


@torch.no_grad()
@pytest.mark.parametrize("name", PEERS)
def test_logits_are_those_of_the_hub(name: str):
    ours, theirs, found = paired(name)
    alpha = PEERS[name][2]
    clip = torch.randn(1, 3, 16 if alpha else 4, 48, 48)
    expected = of_hub(theirs, clip, alpha)
    assert relative_error(ours(clip), expected) < FLOAT32_PEER
    assert relative_error(ours(clip.flip(3)), expected) > NOTICED
    back = ours.state_dict()  # what came out is what went in
    assert all(torch.equal(back[key], value) for key, value in found.tensors.items())


@torch.no_grad()
@pytest.mark.parametrize("name", ["i3d_r50", "slowfast_r50_8x8"])
def test_logits_and_statistics_in_training_are_those_of_the_hub(name: str):
    """In float64: BatchNorm of the few values in the last stages makes rounding some ten times larger."""
    ours, theirs, _ = paired(name)
    ours, theirs = ours.double().train(), theirs.double().train()
    alpha = PEERS[name][2]
    clip = torch.randn(2, 3, 8 if alpha else 4, 48, 48, dtype=torch.float64)
    assert relative_error(ours(clip), of_hub(theirs, clip, alpha)) < FLOAT64_PEER
    moved = convert(theirs.state_dict()).tensors
    for key, value in ours.state_dict().items():
        if "running" in key:
            assert relative_error(value, moved[key]) < FLOAT64_PEER, key


@pytest.mark.parametrize(
    ("ours", "theirs"), [("slow_r50_4x16", "slow_r50"), ("slowfast_r50_4x16", "slowfast_r50")]
)
def test_the_hub_s_4x16_files_have_the_names_of_its_8x8_ones(ours: str, theirs: str):
    with torch.device("meta"):
        state = getattr(hub, theirs)(pretrained=False).state_dict()
        wrong = mismatches(convert({"model_state": state}).tensors, build(ours))
    kernels = [line for line in wrong if line.startswith("lateral.") and ".conv.weight is " in line]
    assert wrong == kernels  # 8 x 8 has laterals of 7 frames, 4 x 16 of 5
    assert len(kernels) == (4 if "fast" in ours else 0)


@pytest.mark.parametrize("name", ["x3d_xs", "csn_r101", "r2plus1d_r50"])
def test_other_networks_of_the_hub_are_refused(name: str):
    with torch.device("meta"):
        state = getattr(hub, name)(pretrained=False).state_dict()
        ours = build("slow_r50_8x8")
    if name == "x3d_xs":
        with pytest.raises(Exception, match="depthwise"):
            convert(state)
        return
    assert mismatches(convert(state).tensors, ours)
