"""Convolutional Two-Stream Network Fusion (arXiv:1604.06573): the towers, cut where they are fused.

The network is in two_stream_fusion.py.

Where to find the paper here:
    VGG-M-2048, which `two_stream` calls CNN-M       `two_stream_towers.TOWERS`
    VGG-16                                           the same
    Table 2: ReLU2 to ReLU5, FC6 to FC8              `LAYERS`, `row_of`
    one tower goes on, the other ends or is kept     `Plan`, `make_parts`
    3D pooling                                       `TimePool`
    T stacks, tau apart                              `stacked_inputs`, `clip_specs`

Deviation: 3D pooling spans all T stacks and the window of pool5, as in the authors' code (5 x 2 x 2); the
    paper says 3 x 3 x 3.
Deviation: the RGB frame of a stack is the one that its first field starts from; the paper's lies in the
    middle.
Deviation: tau is that of the clip, ten frames unless it says otherwise; the paper draws it anew for each
    training clip, from 1 to 10.
Deviation: flow is TV-L1, as the paper's for VGG-16; for VGG-M it has Brox's.

Shape letters: B clips, S snippets, C channels, T stacks, L flow fields of a stack, H height, W width.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor, nn

from muybridge.config import ClipSpec
from muybridge.errors import ConfigError
from muybridge.models.alexnet import Conv, Row, Tower, between
from muybridge.models.short_snippets_towers import one_clip
from muybridge.models.two_stream_fusion_operators import Fusion, Operator
from muybridge.models.two_stream_inputs import flow_spec, rgb_spec
from muybridge.models.two_stream_towers import FIRST_GAIN, TOWERS, rows_for

Temporal = Literal["2d_pooling", "3d_pooling", "3d_conv"]
Keep = Literal["none", "spatial", "temporal"]
Stream = Literal["spatial", "temporal"]

LAYERS = ("relu2", "relu3", "relu4", "relu5", "fc6", "fc7", "fc8")
NUM_STACKS = 5  # T of a clip as it is sampled
STACK_STRIDE = 10  # tau, as far as a stack of the paper is long


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How two towers are cut and joined.

    Attributes:
        operator: of each fusion.
        layers: where they are fused, in order: some of `LAYERS`.
        temporal: how T stacks become one.
        keep: the tower that also goes on by itself.
        rows: the table of each tower.
        channels: of each tower's input.
        crop: H and W of the input.
        width: scales every channel count.
        dropout: behind fc6.
    """

    operator: Operator
    layers: tuple[str, ...]
    temporal: Temporal
    keep: Keep
    rows: dict[Stream, tuple[Row, ...]]
    channels: dict[Stream, int]
    crop: int
    width: float
    dropout: float

    @property
    def into(self) -> Stream:
        """The tower that is fused into, and goes on."""
        return "temporal" if self.keep == "spatial" else "spatial"

    @property
    def other(self) -> Stream:
        """The tower that ends at the last fusion, or is kept."""
        return "spatial" if self.keep == "spatial" else "temporal"

    def row(self, stream: Stream, layer: str) -> str:
        """The row of a tower's table that ends in a layer."""
        return row_of(self.rows[stream], layer)

    def part(
        self,
        stream: Stream,
        channels: int,
        side: int,
        *,
        after: str | None = None,
        until: str | None = None,
    ) -> Tower:
        """Some of a tower's rows, on maps of these channels and this side."""
        rows = between(self.rows[stream], after=after, until=until)
        gain = FIRST_GAIN if stream == "spatial" and after is None else 1.0
        tower = Tower(rows, channels, side=side, width=self.width, dropout=self.dropout, first_gain=gain)
        if self.temporal != "2d_pooling" and "pool5" in tower.sides:
            tower.add_module("pool5", TimePool(tower.get_submodule("pool5")))
        return tower


class Parts(NamedTuple):
    """The modules of a plan; the first two end at the fusion, the other one at the last fusion."""

    spatial: Tower
    temporal: Tower
    fusions: dict[str, Fusion]  # by the layer
    fused: dict[str, Tower]  # what lies behind each fusion, up to the next
    kept: Tower | None  # the rest of the other tower

    @property
    def dims(self) -> tuple[int, ...]:
        """Features of each branch that a classifier sees."""
        if not self.fused:
            return self.spatial.out_channels, self.temporal.out_channels
        last = list(self.fused.values())[-1].out_channels
        return (last,) if self.kept is None else (last, self.kept.out_channels)


def make_parts(plan: Plan) -> Parts:
    """Builds what a plan says, with random weights.

    Raises:
        ConfigError: the maps of the two towers do not lie on each other, or have other channels.
    """
    ends = {plan.into: plan.row(plan.into, plan.layers[0]), plan.other: plan.row(plan.other, plan.layers[-1])}
    lower = {
        stream: plan.part(stream, plan.channels[stream], plan.crop, until=end) for stream, end in ends.items()
    }
    fusions: dict[str, Fusion] = {}
    fused: dict[str, Tower] = {}
    here = lower[plan.into]
    for layer, following in zip(plan.layers, (*plan.layers[1:], None), strict=True):
        if layer == "fc8":
            break
        row = plan.row(plan.other, layer)
        channels = {plan.into: here.out_channels, plan.other: lower[plan.other].channels[row]}
        sides = (here.out_side, lower[plan.other].sides[row])
        _check_sides(sides, layer)
        kernel = 3 if plan.temporal == "3d_conv" else 1
        fusion = Fusion(plan.operator, (channels["spatial"], channels["temporal"]), kernel=kernel)
        fusions[layer] = fusion
        if plan.operator == "bilinear":
            here = Tower((), fusion.out_channels, side=1)
        else:
            until = following and plan.row(plan.into, following)
            after = plan.row(plan.into, layer)
            here = plan.part(plan.into, fusion.out_channels, max(sides), after=after, until=until)
        fused[layer] = here
    kept = None
    if plan.keep != "none":
        below = lower[plan.other]
        kept = plan.part(plan.other, below.out_channels, below.out_side, after=ends[plan.other])
    return Parts(lower["spatial"], lower["temporal"], fusions, fused, kept)


def _check_sides(sides: tuple[int, int], layer: str) -> None:
    if abs(sides[0] - sides[1]) > 1:
        raise ConfigError(
            f"the maps at {layer} are {min(sides)} and {max(sides)} pixels wide, and a row and a column of "
            "zeros makes up for a difference of 1 alone: choose relu5, or two equal towers"
        )


class TimePool(nn.Module):
    """3D pooling: the largest value over time, and then a pooling of the frame.

    Args:
        pool: of the frame.

    Shape:
        input  [B, C, T, H, W]
        output [B, C, 1, H', W']
    """

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pool(x.max(dim=2, keepdim=True).values)
        return y


def tower_rows(towers: str) -> dict[Stream, tuple[Row, ...]]:
    """The tables of the spatial and of the temporal tower.

    Raises:
        ConfigError: no such towers.

    >>> [len(rows) for rows in tower_rows("vgg_16+cnn_m").values()]
    [21, 12]
    """
    spatial, _, temporal = towers.partition("+")
    temporal = temporal or spatial
    for name in (spatial, temporal):
        if name not in TOWERS:
            raise ConfigError(
                f"towers must be one or two of {', '.join(TOWERS)}, such as vgg_16 or vgg_16+cnn_m, got "
                f"'{towers}'"
            )
    return {"spatial": rows_for(spatial, "rgb"), "temporal": rows_for(temporal, "flow")}


def row_of(rows: tuple[Row, ...], layer: str) -> str:
    """The row that a layer is the output of; of fc8 the row before it.

    >>> [row_of(TOWERS["vgg_16"], layer) for layer in ("relu2", "relu5", "fc6", "fc8")]
    ['conv2_2', 'conv5_3', 'full6', 'full7']
    """
    if layer.startswith("fc"):
        return "full6" if layer == "fc6" else "full7"
    group = layer.replace("relu", "conv")
    return [row.name for row in rows if isinstance(row, Conv) and row.name.split("_")[0] == group][-1]


def checked_layers(layer: str, *, operator: Operator, temporal: Temporal, keep: Keep) -> tuple[str, ...]:
    """The layers of an argument such as "relu3+relu5+fc6".

    Raises:
        ConfigError: there are no such layers, or they do not go with the other arguments.

    >>> checked_layers("relu3+relu5+fc6", operator="conv", temporal="2d_pooling", keep="none")
    ('relu3', 'relu5', 'fc6')
    """
    layers = tuple(layer.split("+"))
    wrong: str | None = None
    if list(layers) != [name for name in LAYERS if name in layers]:
        wrong = f"layer must be one of {', '.join(LAYERS)}, or several in this order, such as relu3+relu5"
    elif "fc8" in layers and len(layers) > 1:
        wrong = "fc8 is fused alone: for the paper's ReLU5 + FC8 take layer='relu5' and keep='temporal'"
    elif "fc8" in layers and (operator not in ("sum", "conv") or keep != "none"):
        wrong = "fc8 goes with operator 'sum' or 'conv' and keep 'none': its outputs are the answer"
    elif operator == "bilinear" and (len(layers) > 1 or "fc" in layer or temporal != "2d_pooling"):
        wrong = "operator 'bilinear' goes with one layer from relu2 to relu5 and temporal '2d_pooling'"
    elif temporal == "3d_conv" and (operator != "conv" or "fc" in layer):
        wrong = "temporal '3d_conv' goes with operator 'conv' and layers from relu2 to relu5"
    if wrong:
        raise ConfigError(f"{wrong}; got {layer}, {operator}, {temporal}, {keep}")
    return layers


def stacked_inputs(
    inputs: tuple[Tensor, ...], num_flows: int, who: str, *, crop: int | None = None
) -> tuple[Tensor, Tensor]:
    """T frames, and T stacks of L flow fields as frames of 2 L channels: x and y of a field, and so on.

    Of a clip the stacks start tau fields apart, of as many as there are for T frames. H and W must be `crop`,
    where it is given.

    Raises:
        ConfigError: there are not two inputs of the same clips, or not L fields for each frame.

    Shape:
        inputs [B, 3, T, H, W] and [B, 2, (T - 1) tau + L, H, W], or [B, T, 3, 1, H, W] and [B, T, 2, L, H, W]
        output [B, 3, T, H, W] and [B, 2 L, T, H, W]

    >>> import torch
    >>> rgb, flow = torch.zeros(1, 3, 5, 8, 8), torch.arange(22.0).expand(1, 2, 8, 8, 22).movedim(4, 2)
    >>> frames, stacks = stacked_inputs((rgb, flow), 10, "it")
    >>> stacks.shape, stacks[0, ::2, 1, 0, 0]    # tau is 3
    (torch.Size([1, 20, 5, 8, 8]), tensor([ 3.,  4.,  5.,  6.,  7.,  8.,  9., 10., 11., 12.]))
    """
    if len(inputs) != 2 or len(inputs[0]) != len(inputs[1]):
        found = ", ".join(str(list(x.shape)) for x in inputs)
        raise ConfigError(f"{who} takes RGB and flow of the same clips, model(rgb, flow), got {found}")
    rgb = one_clip(inputs[0], channels=3, who=who, crop=crop)
    flow = one_clip(inputs[1], channels=2, who=who, crop=crop)
    frames, fields = rgb.shape[2], flow.shape[2]
    if inputs[1].ndim == 6:
        whole, stride = fields == frames * num_flows, num_flows
    else:
        room, gaps = fields - num_flows, frames - 1
        whole = room == 0 if gaps == 0 else room >= gaps and room % gaps == 0
        stride = room // gaps if gaps and whole else 1
    if not whole:
        raise ConfigError(
            f"{who} takes a stack of {num_flows} flow fields for each frame, the stacks equally far apart, "
            f"got {fields} fields for {frames} frames: build it with another num_flows, or make clips of "
            f"(T - 1) tau + {num_flows} fields"
        )
    stacks = flow.unfold(2, num_flows, stride)  # [B, 2, T, H, W, L]
    return rgb, stacks.permute(0, 5, 1, 2, 3, 4).flatten(1, 2)


def clip_specs(num_flows: int, *, crop: int = 224) -> tuple[ClipSpec, ClipSpec]:
    """Frames and fields as `two_stream` sees them, but that no mean is taken off a field.

    Five frames ten apart, and all fields that their stacks need.

    >>> rgb, flow = clip_specs(10)
    >>> rgb.span, flow.num_frames, flow.mean_subtraction
    (41, 50, False)
    """
    rgb = rgb_spec(crop)
    fields = flow_spec((NUM_STACKS - 1) * STACK_STRIDE + num_flows, like=rgb)
    frames = {"num_frames": NUM_STACKS, "frame_stride": STACK_STRIDE}
    return rgb.model_copy(update=frames), fields.model_copy(update={"mean_subtraction": False})
