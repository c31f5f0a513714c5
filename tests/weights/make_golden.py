"""Makes golden.json: what other code bases compute, for `test_golden.py`. Never run to make a test green.

    pip install --target FOLDER --no-deps mmaction2==1.2.0 mmengine==0.10.7 mmcv-lite==2.1.0 cd-fvd==0.1.1 \\
        i3dfeatureextraction==0.3.3 addict yapf termcolor einops importlib_metadata zipp platformdirs
    python tests/weights/make_golden.py FOLDER

Weights and clips are `foreign.hashed`, so only logits are kept.
"""

import importlib
import json
import pickle
import sys
import tempfile
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from foreign import caffe2, hashed, hashed_clip, i3d, tensors
from torch import Tensor, nn

GOLDEN = Path(__file__).with_name("golden.json")
BASE = 8  # channels of conv1: an eighth of the full networks
CLASSES = 5
SHAPES = {"slow": (4, 64, 64), "i3d": (16, 64, 64), "slowfast": (16, 64, 64)}


class Recognizer(nn.Module):
    """A backbone and the classifier of mmaction2, with its names."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.cls_head = backbone, head

    def forward(self, x: Tensor) -> Tensor:
        return self.cls_head(self.backbone(x))


def mmaction2() -> dict[str, list[float]]:
    """Logits of its networks. Its package does not import as it is published (a folder is missing in it)."""
    models = f"{sys.path[0]}/mmaction/models"
    importlib.import_module("mmaction")
    for part in ("", ".backbones", ".utils", ".heads"):
        module = types.ModuleType(f"mmaction.models{part}")
        module.__path__ = [models + part.replace(".", "/")]
        sys.modules[module.__name__] = module
    importlib.import_module("mmaction.models.losses")
    backbones = "mmaction.models.backbones"
    slowfast = importlib.import_module(f"{backbones}.resnet3d_slowfast").ResNet3dSlowFast
    slow_only = importlib.import_module(f"{backbones}.resnet3d_slowonly").ResNet3dSlowOnly
    resnet = importlib.import_module(f"{backbones}.resnet3d").ResNet3d
    i3d_head = importlib.import_module("mmaction.models.heads.i3d_head").I3DHead
    slowfast_head = importlib.import_module("mmaction.models.heads.slowfast_head").SlowFastHead

    slow = {"depth": 50, "pretrained": None, "lateral": False, "conv1_kernel": (1, 7, 7), "conv1_stride_t": 1}
    slow |= {"pool1_stride_t": 1, "inflate": (0, 0, 1, 1), "norm_eval": False, "base_channels": BASE}
    networks: dict[str, tuple[str, nn.Module]] = {
        "slow": ("slow", Recognizer(slow_only(**slow), i3d_head(CLASSES, 32 * BASE))),
        "i3d": ("i3d", Recognizer(resnet(**_i3d(None)), i3d_head(CLASSES, 32 * BASE))),
    }
    for mode in ("gaussian", "embedded_gaussian", "dot_product"):
        networks[f"i3d {mode}"] = ("i3d", Recognizer(resnet(**_i3d(mode)), i3d_head(CLASSES, 32 * BASE)))
    for name, rate, kernel in (("slowfast 4x16", 8, 5), ("slowfast 8x8", 4, 7)):
        backbone = slowfast(**_slowfast(rate, kernel))
        networks[name] = ("slowfast", Recognizer(backbone, slowfast_head(CLASSES, 36 * BASE)))
    return {
        f"mmaction2 {name}": logits(net, hashed_clip(3, *SHAPES[kind]))
        for name, (kind, net) in networks.items()
    }


def _i3d(non_local: str | None) -> dict[str, Any]:
    """Its configuration i3d_imagenet-pretrained-r50_8xb8-32x2x1-100e_kinetics400-rgb."""
    options: dict[str, Any] = {"depth": 50, "pretrained": None, "pretrained2d": False, "base_channels": BASE}
    options |= {"conv1_kernel": (5, 7, 7), "conv1_stride_t": 2, "pool1_stride_t": 2, "norm_eval": False}
    inflate = ((1, 1, 1), (1, 0, 1, 0), (1, 0, 1, 0, 1, 0), (0, 1, 0))
    options |= {"conv_cfg": {"type": "Conv3d"}, "inflate": inflate}
    if non_local is not None:
        block = {"sub_sample": True, "use_scale": False, "norm_cfg": {"type": "BN3d"}, "mode": non_local}
        places = ((0, 0, 0), (0, 1, 0, 1), (0, 1, 0, 1, 0, 1), (0, 0, 0))
        options |= {"non_local_cfg": block, "non_local": places}
    return options


def _slowfast(rate: int, kernel: int) -> dict[str, Any]:
    """Its configurations slowfast_r50_8xb8-4x16x1-256e and -8x8x1-256e_kinetics400-rgb."""
    both = {"type": "resnet3d", "depth": 50, "pretrained": None, "conv1_stride_t": 1, "pool1_stride_t": 1}
    both |= {"norm_eval": False}
    slow = {
        **both,
        "lateral": True,
        "conv1_kernel": (1, 7, 7),
        "inflate": (0, 0, 1, 1),
        "fusion_kernel": kernel,
    }
    slow |= {"base_channels": BASE, "dilations": (1, 1, 1, 1)}
    fast = {**both, "lateral": False, "conv1_kernel": (5, 7, 7), "base_channels": BASE // 8}
    pathways = {"slow_pathway": slow, "fast_pathway": fast}
    return {"pretrained": None, "resample_rate": rate, "speed_ratio": rate, "channel_ratio": 8, **pathways}


def piergiaj() -> dict[str, list[float]]:
    """Its network, in cd-fvd, with its own eps again; the last pooling is as small as the map is here."""
    net = importlib.import_module("cdfvd.third_party.i3d.pytorch_i3d").InceptionI3d(CLASSES, in_channels=3)
    net.avg_pool = nn.AvgPool3d((2, 2, 2), stride=1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = 1e-3
    return {"piergiaj": logits(net, hashed_clip(3, *SHAPES["i3d"]))}


def video_nonlocal_net() -> dict[str, list[float]]:
    """Its Caffe2 files: i3dfeatureextraction has a converter of its own, and the network in PyTorch."""
    package = types.ModuleType("i3dFeatureExtraction")
    package.__path__ = [f"{sys.path[0]}/i3dFeatureExtraction"]  # importing the package needs ffmpeg
    sys.modules[package.__name__] = package
    convert_weights = importlib.import_module("i3dFeatureExtraction.utils.convert_weights").convert_weights
    network = importlib.import_module("i3dFeatureExtraction.models.resnet").I3Res50
    found = {}
    for name, use_nl in (("i3d", False), ("i3d nl", True)):
        blobs = hashed(tensors(i3d(nonlocal_blocks=True), caffe2, device="meta"))
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "a.pkl"
            file.write_bytes(pickle.dumps({"blobs": {key: value.numpy() for key, value in blobs.items()}}))
            convert_weights(str(file))
            state = torch.load(Path(folder) / "i3d_r50_kinetics.pth")
        net = network(num_classes=400, use_nl=use_nl).double().eval()
        missing, extra = net.load_state_dict(state, strict=False)
        assert all(key.endswith("num_batches_tracked") for key in missing)
        assert all(".nl." in key for key in extra)
        with torch.no_grad():
            answer = net.fc(net.forward_single(hashed_clip(3, *SHAPES["i3d"])).flatten(1))
        assert answer.isfinite().all()
        found[f"video-nonlocal-net {name}"] = [round(float(number), 13) for number in answer[0, :CLASSES]]
    return found


@torch.no_grad()
def logits(net: nn.Module, x: Tensor) -> list[float]:
    """In float64 and eval mode, with hashed weights."""
    net = net.double().eval()
    net.load_state_dict(hashed(net.state_dict()))
    answer = net(x)
    answer = answer[1] if isinstance(answer, tuple) else answer
    numbers = answer.reshape(CLASSES, -1).mean(1)
    assert numbers.isfinite().all()
    return [round(float(number), 13) for number in numbers]


MAKERS: dict[str, Callable[[], dict[str, list[float]]]] = {
    "mmaction2 1.2.0, mmengine 0.10.7, mmcv-lite 2.1.0": mmaction2,
    "cd-fvd 0.1.1, its copy of github.com/piergiaj/pytorch-i3d": piergiaj,
    "i3dfeatureextraction 0.3.3": video_nonlocal_net,
}


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    warnings.simplefilter("ignore")
    golden = {}
    for source, make in MAKERS.items():
        for name, numbers in make().items():
            golden[name] = {"made_by": f"{source}, torch {torch.__version__}, float64", "logits": numbers}
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
