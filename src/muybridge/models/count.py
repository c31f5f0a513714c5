"""How large a network is and how much it computes. Nothing is computed for it: shapes alone are followed."""

from collections.abc import Sequence

import torch
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from muybridge.models.contract import VideoModel


def count_parameters(model: torch.nn.Module) -> int:
    """Trainable or not; buffers such as BatchNorm's running mean are not counted."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: VideoModel, *input_shapes: Sequence[int]) -> int:
    """Multiply-adds of one view: half of what `torch.utils.flop_counter` counts.

    Args:
        model: any network; its weights and modes are left as they are.
        *input_shapes: of one view without the batch, [C, T, H, W], one for each modality.

    >>> from muybridge.models.registry import build
    >>> count_macs(build("r3d_10", width=0.125), (3, 16, 112, 112)) // 10**6
    465
    """
    modes = {module: module.training for module in model.modules()}
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    on_meta = {name: tensor.detach().to("meta") for name, tensor in tensors.items()}
    dtype = next(model.parameters()).dtype
    inputs = tuple(torch.empty(1, *shape, device="meta", dtype=dtype) for shape in input_shapes)
    counter = FlopCounterMode(display=False)
    try:
        model.eval()
        with torch.no_grad(), counter:
            functional_call(model, on_meta, inputs)
    finally:
        for module, training in modes.items():
            module.training = training
    return int(counter.get_total_flops()) // 2


def input_shapes(model: VideoModel) -> list[list[int]]:
    """The shapes of one view as the network's specs make it, without the batch, one for each modality.

    >>> from muybridge.models.registry import build
    >>> input_shapes(build("r3d_10", width=0.125))
    [[3, 16, 112, 112]]
    """
    shapes = []
    for spec in model.default_specs:
        clip = [spec.num_channels, spec.num_frames, spec.crop, spec.crop]
        shapes.append(clip if spec.num_segments == 1 else [spec.num_segments, *clip])
    return shapes
