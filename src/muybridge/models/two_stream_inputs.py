"""Two-Stream Convolutional Networks (arXiv:1406.2199), what goes into them.

The networks are in two_stream.py.

Where to find the paper here:
    Sec. 3.1, eq. (1) (L flow fields as 2L channels)     `stack_channels`
    Sec. 3.1 (mean flow subtraction)                     `flow_spec`
    Sec. 5 (short side 256, a crop of 224)               `rgb_spec`, `flow_spec`

Deviation: flow is TV-L1 and cut off at 20 pixels; the paper has Brox's method (`flow_method="brox"` of the
    clip) and keeps each field's range.
Deviation: frames are blue, green, red less ImageNet's mean, as Caffe's CNN-M takes them; the paper does
    not say.

Shape letters: B clips, L flow fields of a stack, H height, W width.
"""

from torch import Tensor

from muybridge.config import ClipSpec
from muybridge.errors import ConfigError
from muybridge.models.contract import check_clip

CROP, RESIZED = 224, 256  # pixels
IMAGENET_MEAN_BGR = (104, 117, 123)
FLOW_BOUND = 20  # pixels


def stack_channels(flow: Tensor) -> Tensor:
    """Eq. (1): the fields of a stack as the channels of one frame, x and y of the first, then of the next.

    Shape:
        flow   [B, 2, L, H, W]
        output [B, 2 L, 1, H, W]

    >>> import torch
    >>> stack_channels(torch.tensor([[1, 3, 5], [2, 4, 6]]).view(1, 2, 3, 1, 1)).flatten()
    tensor([1, 2, 3, 4, 5, 6])
    """
    return flow.transpose(1, 2).flatten(1, 2).unsqueeze(2)


def rgb_spec(crop: int = CROP) -> ClipSpec:
    """Sec. 5: one frame, its short side 256, a crop of 224, and others in proportion."""
    spec = ClipSpec(num_frames=1, scale=255, channel_order="bgr", mean=IMAGENET_MEAN_BGR, std=(1, 1, 1))
    return resized(spec, crop)


def flow_spec(num_flows: int = 10, *, like: ClipSpec) -> ClipSpec:
    """L fields in pixels, each less its mean, of the size of another modality.

    >>> spec = flow_spec(10, like=rgb_spec())
    >>> spec.num_frames, spec.std, spec.mean_subtraction
    (10, (0.025, 0.025), True)
    """
    return ClipSpec(
        num_frames=num_flows,
        resize=like.resize,
        resize_filter=like.resize_filter,
        crop=like.crop,
        mean=(0.5, 0.5),
        std=(0.5 / FLOW_BOUND, 0.5 / FLOW_BOUND),  # so that 1 is one pixel
        modality="flow",
        flow_method="tvl1",
        flow_bound=FLOW_BOUND,
        mean_subtraction=True,
    )


def resized(spec: ClipSpec, crop: int) -> ClipSpec:
    """The same for another crop; the short side is 256 to its 224.

    Raises:
        ConfigError: the crop is not above 0.

    >>> resized(rgb_spec(), 112).resize
    128
    """
    return ClipSpec.from_dict({**spec.to_dict(), "crop": crop, "resize": round(crop * RESIZED / CROP)})


def check_inputs(
    inputs: tuple[Tensor, ...], modalities: tuple[str, ...], num_flows: int, *, crop: int | None, who: str
) -> tuple[Tensor, ...]:
    """The inputs, as many, as long and as large as the streams take; None is any crop.

    Raises:
        ConfigError: says what was given and what is taken.
    """
    if len(inputs) != len(modalities):
        raise ConfigError(f"{who} is called as model({', '.join(modalities)}), got {len(inputs)} inputs")
    for x, modality in zip(inputs, modalities, strict=True):
        check_clip(x, channels=3 if modality == "rgb" else 2, who=who)
        if modality == "rgb" and x.shape[2] != 1:
            raise ConfigError(
                f"{who} takes one RGB frame, got {x.shape[2]}: sample clips of one frame; its protocol "
                "averages the scores of several"
            )
        if modality == "flow" and x.shape[2] != num_flows:
            raise ConfigError(
                f"{who} was built for stacks of {num_flows} flow fields, got {x.shape[2]}: build it with "
                f"num_flows={x.shape[2]}, or make clips of {num_flows}"
            )
        if crop is not None and x.shape[3:] != (crop, crop):
            found = " x ".join(map(str, x.shape[3:]))
            raise ConfigError(
                f"{who} was built for {modality} of {crop} x {crop} pixels, which full6 fixes, got {found}: "
                f"build it with crop={x.shape[3]}, or cut out clips of {crop}"
            )
    if len({len(x) for x in inputs}) > 1:
        found = " and ".join(str(len(x)) for x in inputs)
        raise ConfigError(f"{who} takes {' and '.join(modalities)} of the same clips, got {found} clips")
    return inputs
