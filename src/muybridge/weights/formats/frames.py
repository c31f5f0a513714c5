"""What the files of networks of frames have in common.

Their filters have no axis of time, and their first convolution tells what the network sees: a picture, the
differences of several, or fields of flow as the channels of one.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from muybridge.errors import WeightsError
from muybridge.models.tsn_backbones import Modality, clip_spec
from muybridge.weights.formats.naming import StateDict

# Fields of a ClipSpec that say how a frame or a field looks to a network.
LOOK = ("resize", "crop", "scale", "channel_order", "mean", "std", "mean_subtraction")


@dataclass(frozen=True)
class Snippet:
    """What the first convolution of a network of frames takes.

    Attributes:
        modality: of TSN.
        num_frames: frames, differences or fields.
    """

    modality: Modality
    num_frames: int

    @property
    def arguments(self) -> dict[str, Any]:
        """Of `tsn`, and of streams of flow, which call the number otherwise."""
        flows = {"num_flows": self.num_frames} if self.modality == "flow" else {}
        return {"modality": self.modality, "num_frames": self.num_frames, **flows}

    @property
    def note(self) -> tuple[str, ...]:
        """What has been guessed of it."""
        if self.modality == "rgb":
            return ()
        what = "flow fields" if self.modality == "flow" else "RGB differences"
        return (
            f"the first filters are taken for those of {self.num_frames} {what}: no name in the file says so",
        )


def snippet_of(filters: Tensor) -> Snippet:
    """By how many channels the first filters take: 3 are a picture, 2 L are fields, 3 L differences.

    Raises:
        WeightsError: they are no filters of frames.

    Shape:
        filters [O, C, h, w]

    >>> import torch
    >>> snippet_of(torch.zeros(64, 30, 7, 7)), snippet_of(torch.zeros(64, 15, 7, 7))
    (Snippet(modality='flow', num_frames=15), Snippet(modality='rgb_diff', num_frames=5))
    """
    if filters.ndim != 4:
        raise WeightsError(
            f"the first filters of a network of frames are [O, C, h, w], these are {list(filters.shape)}: "
            "the file is of another network"
        )
    channels = filters.shape[1]
    if channels == 3:
        return Snippet("rgb", 1)
    return Snippet("rgb_diff", channels // 3) if channels % 2 else Snippet("flow", channels // 2)


def look_of(snippet: Snippet) -> dict[str, Any]:
    """How the authors of TSN show a frame or a field, whatever network takes it."""
    spec = clip_spec(snippet.modality, num_frames=snippet.num_frames)
    return {field: getattr(spec, field) for field in LOOK}


def with_frame_axis(tensors: StateDict) -> tuple[str, ...]:
    """Gives filters [O, I, h, w] an axis of one frame, [O, I, 1, h, w]; the names of those that changed.

    >>> import torch
    >>> tensors = {"conv1.weight": torch.zeros(8, 3, 7, 7), "fc.weight": torch.zeros(5, 8)}
    >>> with_frame_axis(tensors), tensors["conv1.weight"].shape
    (('conv1.weight',), torch.Size([8, 3, 1, 7, 7]))
    """
    flat = tuple(name for name, value in tensors.items() if value.ndim == 4)
    for name in flat:
        tensors[name] = tensors[name].unsqueeze(2)
    return flat
