"""RAFT: Recurrent All-Pairs Field Transforms. Teed and Deng, ECCV 2020: torchvision's network.

Shape letters: T frames, H height, W width.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from muybridge.config import Config, Positive
from muybridge.errors import WeightsError
from muybridge.flow.quantise import Float32Array
from muybridge.types import UInt8Array

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["MIN_SIDE", "RaftParams", "fields"]

MIN_SIDE = 128  # its features are 1/8 as large and halved three times more


class RaftParams(Config):
    """RAFT, Teed and Deng 2020, torchvision's network.

    Attributes:
        size: "large" (the paper's) or "small".
        weights: file of its state dict (.pth or .safetensors): nothing is downloaded.
        num_updates: iterations of the update block.
    """

    size: Literal["large", "small"] = "large"
    weights: str | None = None
    num_updates: Positive = 12


def fields(frames: UInt8Array, params: RaftParams, device: str) -> Float32Array:
    """Fields by torchvision's RAFT, one pair after another.

    Shape:
        frames [T, H, W, 3]
        output [T - 1, 2, H, W]
    """
    import torch
    import torch.nn.functional as F

    network = _network(params, device)
    height, width = frames.shape[1:3]
    padding = (0, -width % 8, 0, -height % 8)  # its features are 1/8 as large
    flow = np.empty((len(frames) - 1, 2, height, width), np.float32)

    def image(frame: UInt8Array) -> "torch.Tensor":
        pixels = torch.from_numpy(np.ascontiguousarray(frame)).to(device).permute(2, 0, 1)[None]
        return F.pad(pixels.float() * (2 / 255) - 1, padding, mode="replicate")

    with torch.inference_mode():
        second = image(frames[0])
        for frame, field in zip(frames[1:], flow, strict=True):
            first, second = second, image(frame)
            found = network(first, second, num_flow_updates=params.num_updates)[-1]
            field[:] = found[0, :, :height, :width].cpu().numpy()
    return flow


@lru_cache(maxsize=2)  # warped flow asks for it pair by pair
def _network(params: RaftParams, device: str) -> "nn.Module":
    from torchvision.models import optical_flow

    from muybridge.weights.read import read_tensors

    name = f"raft_{params.size}"
    if params.weights is None:
        raise WeightsError(
            f"flow method 'raft' needs the weights of torchvision's {name}, and none were named: download "
            f"them (torchvision.models.optical_flow.{name.title()}_Weights.DEFAULT.url) and give weights=FILE"
        )
    network: nn.Module = getattr(optical_flow, name)()
    try:
        network.load_state_dict(read_tensors(params.weights))
    except RuntimeError as error:
        raise WeightsError(
            f"{params.weights} does not hold the weights of torchvision's {name}; give another file, or "
            f"another size than '{params.size}'. {error}"
        ) from None
    return network.eval().to(device)
