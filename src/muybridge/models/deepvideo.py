"""Large-scale Video Classification with Convolutional Neural Networks. CVPR 2014: DeepVideo.

Karpathy, Toderici, Shetty, Leung, Sukthankar, Fei-Fei.

Where to find the paper here:
    Sec. 3.1, C(96,11,3)-N-P-C(256,5,1)-N-P-...     `LAYERS`
    Fig. 1 (single frame, early, late, slow)        `FUSIONS`, one row a network
    Sec. 3.2 and Fig. 2 (fovea and context)         `multires` of `DeepVideo`, `two_resolutions`
    Table 1 (the fovea and the context alone)       `stream` of `DeepVideo`

Deviation: the paper gives no paddings, only last maps of 7 x 7, for 170 pixels as for 89. Here conv1 has
    none, the others keep the size, and poolings round up, which gives 7 x 7 for both.
Deviation: the fovea of 89 pixels lies 44 from the left and the top of 178, and 45 from the other sides; the
    context is the mean of each 2 x 2 pixels. The paper says "centre" and "half the resolution".
Deviation: the short side becomes 200 pixels and crops come from the whole frame; the paper first cuts out the
    centre and makes it 200 x 200. It does not say how 178 pixels come of 200: here as a crop, like 170.
Deviation: no dropout unless asked for; the paper has it (0.9) in the transfer to UCF101 alone.
Deviation: first weights are those of models/alexnet.py, and conv1's an eighth, since pixels are around 64;
    the paper does not give its own.

Shape letters: B clips, C channels, T frames, H height, W width, K classes; h, w are H, W inside the network;
S streams: one of the full frame, or fovea and context.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muybridge.config import ClipSpec
from muybridge.errors import ConfigError
from muybridge.models.alexnet import Conv, FullRelu, Norm, Pool, Row, Tower, he_init
from muybridge.models.blocks import channels_last, scaled
from muybridge.models.contract import VideoModel, check_choices, check_clip, check_positive

Stream = Literal["both", "fovea", "context"]


class Fusion(NamedTuple):
    """A row of Fig. 1: which frames are seen, and frames that a kernel spans and strides over."""

    num_frames: int
    frame_stride: int
    conv1: tuple[int, int]
    conv2: tuple[int, int]
    conv3: tuple[int, int]


# fmt: off
# Sec. 3.1; kernels and strides of time come from FUSIONS
LAYERS: tuple[Row, ...] = (
    #     name    channels kernel       stride     padding
    Conv("conv1",    96, (1, 11, 11), (1, 3, 3)),
    Norm("norm1",  beta=0.5),
    Pool("pool1",          2),
    Conv("conv2",   256, (1, 5, 5),   (1, 1, 1), (0, 2, 2)),
    Norm("norm2",  beta=0.5),
    Pool("pool2",          2),
    Conv("conv3",   384, (1, 3, 3),   (1, 1, 1), (0, 1, 1)),
    Conv("conv4",   384, (1, 3, 3),   (1, 1, 1), (0, 1, 1)),
    Conv("conv5",   256, (1, 3, 3),   (1, 1, 1), (0, 1, 1)),
    Pool("pool5",          2),                               # not in networks of fovea and context
)
FC = 4096  # FC(4096)-FC(4096)

# Fig. 1
FUSIONS = {
    #                frames stride conv1    conv2   conv3
    "single": Fusion(    1,     1, (1, 1),  (1, 1), (1, 1)),
    "early":  Fusion(   10,     1, (10, 1), (1, 1), (1, 1)),  # conv1 spans all frames
    "late":   Fusion(    2,    15, (1, 1),  (1, 1), (1, 1)),  # the frames meet in fc6
    "slow":   Fusion(   10,     1, (4, 2),  (2, 2), (2, 2)),  # 10 -> 4 -> 2 -> 1
}
# fmt: on
CROP, MULTIRES_CROP, RESIZED = 170, 178, 200  # pixels
FIRST_GAIN = 1 / 8  # of conv1's first weights


class DeepVideo(VideoModel):
    """One network of Fig. 1, of the full frame or of two resolutions (Fig. 2).

    Args:
        fusion: a row of `FUSIONS`.
        num_classes: K.
        width: scales every channel count.
        num_frames: T; None is the row's. Early and late fusion take another, which is part of conv1 or fc6.
        crop: H and W, part of fc6; None is 170, or 178 with `multires`.
        multires: see the frame at half its resolution (context) and its centre at the full one (fovea).
        shared_streams: one set of convolutions for fovea and context.
        stream: with `multires`, one of the two streams alone.
        dropout: behind fc6 and fc7.

    Shape:
        input  [B, 3, T, crop, crop]
        output [B, K]

    >>> DeepVideo("slow", num_classes=5, width=1 / 16, crop=32)(torch.zeros(2, 3, 10, 32, 32)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        fusion: str = "single",
        *,
        num_classes: int = 487,
        width: float = 1.0,
        num_frames: int | None = None,
        crop: int | None = None,
        multires: bool = False,
        shared_streams: bool = False,
        stream: Stream = "both",
        dropout: float = 0.0,
    ) -> None:
        frames = _checked_frames(fusion, num_frames)
        side = crop if crop is not None else MULTIRES_CROP if multires else CROP
        names = _stream_names(width, side, multires, shared_streams, stream)
        rows = layers_of(fusion, frames, multires=multires)
        convs = tuple(row.name for row in rows if isinstance(row, Conv))
        super().__init__(
            num_classes=num_classes,
            feature_dim=scaled(FC, width),
            default_specs=(clip_spec(fusion, frames, side, multires=multires),),
            stage_names=(*(f"{name}.{conv}" for name in names for conv in convs), "fc6", "fc7"),
            dropout=dropout,
        )
        self.num_frames, self.crop, self.stream_names = frames, side, names
        for name in names:
            picture = side // 2 if multires else side
            self.add_module(name, Tower(rows, 3, side=picture, width=width, first_gain=FIRST_GAIN))
        tower = self._tower(names[0])
        num_streams = 2 if multires and stream == "both" else 1
        num_maps = num_streams * (frames if fusion == "late" else 1) * tower.out_channels
        self.fc6 = FullRelu(num_maps * tower.out_side**2, self.feature_dim)
        self.drop6 = nn.Dropout(dropout)
        self.fc7 = FullRelu(self.feature_dim, self.feature_dim)
        self.fc6.apply(he_init)
        self.fc7.apply(he_init)

    def forward_features(self, *inputs: Tensor) -> Tensor:
        """fc7, after its ReLU.

        Shape:
            input  [B, 3, T, crop, crop]
            output [B, feature_dim]
        """
        (x,) = inputs
        self._check_clip(x)
        maps = self._maps(x).permute(0, 3, 1, 2, 4, 5)  # [B, T', S, C, h, w]: fc6 sees frame after frame
        y: Tensor = self.fc7(self.drop6(self.fc6(maps.flatten(1, 3).unsqueeze(2))))
        return y.flatten(1)

    def _maps(self, x: Tensor) -> Tensor:
        """The last maps of each stream.

        Shape:
            x      [B, 3, T, crop, crop]
            output [B, S, C, T', h, w]
        """
        if self.stream_names == ("full",):
            pictures = {"full": x}
        else:
            fovea, context = two_resolutions(x)
            pictures = {"fovea": fovea, "context": context}
        if self.stream_names == ("streams",):  # both through one tower, the two of a clip side by side
            both = torch.stack(tuple(pictures.values()), 1)
            maps: Tensor = self._tower("streams")(channels_last(both.flatten(0, 1)))
            return maps.view(-1, 2, *maps.shape[1:])
        each = [self._tower(name)(channels_last(pictures[name])) for name in self.stream_names]
        return torch.stack(each, 1)

    def _tower(self, name: str) -> Tower:
        tower = self.get_submodule(name)
        assert isinstance(tower, Tower)
        return tower

    def _check_clip(self, x: Tensor) -> None:
        who = self.name or "DeepVideo"
        check_clip(x, channels=3, who=who)
        if x.shape[2:] == (self.num_frames, self.crop, self.crop):
            return
        found = " x ".join(map(str, x.shape[2:]))
        wrong = f"num_frames={x.shape[2]}" if x.shape[2] != self.num_frames else f"crop={x.shape[3]}"
        raise ConfigError(
            f"{who} was built for clips of exactly {self.num_frames} x {self.crop} x {self.crop}, got "
            f"{found}: build it with {wrong}, or make clips of that size"
        )


def layers_of(fusion: str, num_frames: int, *, multires: bool = False) -> tuple[Row, ...]:
    """The layers of a network up to fc6: `LAYERS` with kernels and strides of time.

    Without the last pooling where the crop is halved, so that the last maps are as large (Sec. 3.2).

    >>> [row.kernel[0] for row in layers_of("early", 10) if isinstance(row, Conv)]
    [10, 1, 1, 1, 1]
    """
    times = FUSIONS[fusion]._asdict()
    if fusion == "early":
        times["conv1"] = (num_frames, 1)
    rows: list[Row] = []
    for row in LAYERS:
        if isinstance(row, Conv) and row.name in times:
            t, stride = times[row.name]
            row = row._replace(kernel=(t, *row.kernel[1:]), stride=(stride, *row.stride[1:]))
        rows.append(row)
    return tuple(rows[:-1] if multires else rows)


def two_resolutions(x: Tensor) -> tuple[Tensor, Tensor]:
    """The fovea, which is the frame's centre, and the context, which is all of it at half the resolution.

    Shape:
        x       [B, C, T, H, W], H and W even
        outputs [B, C, T, H / 2, W / 2], both

    >>> fovea, context = two_resolutions(torch.arange(16.0).view(1, 1, 1, 4, 4))
    >>> fovea.flatten(), context.flatten()
    (tensor([ 5.,  6.,  9., 10.]), tensor([ 2.5000,  4.5000, 10.5000, 12.5000]))
    """
    height, width = x.shape[3] // 2, x.shape[4] // 2
    top, left = (x.shape[3] - height) // 2, (x.shape[4] - width) // 2
    return x[..., top : top + height, left : left + width], F.avg_pool3d(x, (1, 2, 2))


def clip_spec(fusion: str, num_frames: int, crop: int = CROP, *, multires: bool = False) -> ClipSpec:
    """Sec. 3.3: short side 200, a crop of 170 (178), other crops in proportion; 117 is taken off.

    >>> clip_spec("late", 2).span, clip_spec("single", 1, 85).resize
    (16, 100)
    """
    return ClipSpec(
        num_frames=num_frames,
        frame_stride=FUSIONS[fusion].frame_stride,
        resize=round(crop * RESIZED / (MULTIRES_CROP if multires else CROP)),
        crop=crop,
        scale=255,
        mean=(117, 117, 117),
        std=(1, 1, 1),
    )


def _checked_frames(fusion: str, num_frames: int | None) -> int:
    if fusion not in FUSIONS:
        raise ConfigError(f"no fusion '{fusion}': choose from {', '.join(FUSIONS)}")
    own = FUSIONS[fusion].num_frames
    if num_frames is None:
        return own
    if num_frames != own and fusion not in ("early", "late"):
        raise ConfigError(
            f"DeepVideo '{fusion}' takes clips of exactly {own} frame{'s' if own > 1 else ''}, got "
            f"num_frames={num_frames}: leave it out, or take early or late fusion"
        )
    if num_frames < 1:
        raise ConfigError(f"num_frames must be at least 1, got {num_frames}")
    return num_frames


def _stream_names(
    width: float, crop: int, multires: bool, shared_streams: bool, stream: str
) -> tuple[str, ...]:
    """How the towers are called: a tower for each stream, or "streams" for both."""
    check_positive(width=width)
    check_choices(stream=(stream, Stream))
    if not multires:
        if shared_streams or stream != "both":
            raise ConfigError("shared_streams and stream go with multires=True: the full frame is one stream")
        return ("full",)
    if crop % 2:
        raise ConfigError(f"multires halves the crop, so that it must be even, got {crop}")
    if stream != "both":
        if shared_streams:
            raise ConfigError(f"shared_streams needs both streams, got stream='{stream}'")
        return (stream,)
    return ("streams",) if shared_streams else ("fovea", "context")
