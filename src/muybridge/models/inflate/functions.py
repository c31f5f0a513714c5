"""The table of functions and methods: how each is written for clips.

A function that is here neither by its name nor as a module is refused, unless nothing of what it takes has
time: then it stays as it is.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from muybridge.models.inflate.axes import (
    Result,
    argument,
    axis_of,
    get_size,
    index_axes,
    is_place,
    listed,
    new_axis,
    reorder,
    source_of,
    time_of,
    want_channels_first,
    with_dim,
)
from muybridge.models.inflate.layers import interpolate_frames
from muybridge.models.inflate.rewrite import Handler, Rewriter

# fmt: off
ELEMENTWISE = (
    "add", "sub", "mul", "div", "truediv", "true_divide", "floordiv", "mod", "pow", "neg", "iadd", "isub",
    "imul", "itruediv", "eq", "ne", "lt", "le", "gt", "ge", "where", "lerp", "minimum", "maximum", "abs",
    "exp", "log", "sqrt", "rsqrt", "square", "reciprocal", "erf", "sin", "cos",
    "clamp", "clamp_min", "clamp_max", "clip", "threshold",
    "relu", "relu6", "leaky_relu", "prelu", "elu", "celu", "selu", "gelu", "silu", "mish", "softplus",
    "softsign", "sigmoid", "logsigmoid", "tanh", "hardswish", "hardsigmoid", "hardtanh",
    "clone", "detach", "float", "double", "half", "type_as", "to", "expand_as",
)
# fmt: on


def elementwise(to: Rewriter, node: fx.Node) -> Result:
    """Values of one place, from any number of tensors; those without time get an axis of one frame."""
    clips = to.clips(node)
    behind = {len(to.shape(one)) - time_of(to, one) for one in clips}
    if len(behind) > 1:
        to.refuse(node, "its inputs have height and width at different places")
    (rear,) = behind
    replaced = {}
    for one in node.all_input_nodes:
        if one in clips or not to.is_tensor(one) or len(to.shape(one)) <= rear:
            continue
        axes = len(to.shape(one))
        if one not in to.fixed and max(to.shape(one)[axes - rear : axes - rear + 2]) > 1:
            to.refuse(node, f"{list(to.shape(one))}, a map without time, meets a clip")
        replaced[one] = to.graph.call_method("unsqueeze", (to.new[one], axes - rear))
    return to.copy(node, replaced), len(to.shape(node)) - rear


def contiguous(to: Rewriter, node: fx.Node) -> Result:
    """The memory format of an argument is one of images: the clip keeps its own."""
    source = source_of(node)
    return to.graph.call_method("contiguous", (to.new[source],)), to.time[source]


def along_channels(to: Rewriter, node: fx.Node) -> Result:
    """Softmax and the like over one axis that is not a place."""
    source, dim = source_of(node), argument(node, 1, "dim")
    if not isinstance(dim, int) or is_place(to, source, dim):
        to.refuse(node, "it works over height or width, or does not say over which axis")
    return with_dim(to, node, dim=axis_of(to, source, dim)), to.time[source]


def layer_norm(to: Rewriter, node: fx.Node) -> Result:
    """Over the last axes, as long as these are channels."""
    source, normalized = source_of(node), argument(node, 1, "normalized_shape")
    if len(normalized) > len(to.shape(source)) - time_of(to, source) - 2:
        to.refuse(node, "it normalises over height and width")
    return to.copy(node), to.time[source]


def group_norm(to: Rewriter, node: fx.Node) -> Result:
    """Over groups of channels, height and width, and all frames."""
    want_channels_first(to, node)
    return to.copy(node), 2


def reduction(to: Rewriter, node: fx.Node) -> Result:
    """Mean and maximum over both axes of a place take time with them; over others they do not look at it."""
    source, dims = source_of(node), argument(node, 1, "dim")
    time = time_of(to, source)
    if dims is None:
        return to.copy(node), None
    axes_2d = [dims] if isinstance(dims, int) else list(dims)
    places = [one for one in axes_2d if is_place(to, source, one)]
    if len(places) == 1:
        to.refuse(node, "it works over height alone or over width alone")
    axes = [axis_of(to, source, one) for one in axes_2d] + ([time] if places else [])
    keep = bool(argument(node, 2, "keepdim", False))
    new = with_dim(to, node, dim=axes if len(axes) > 1 else axes[0])
    if keep:
        return new, time
    return new, None if places else time - sum(axis < time for axis in axes)


def along_one_axis(to: Rewriter, node: fx.Node) -> Result:
    """Sum, product, largest value with its index: over an axis that is not a place."""
    dims = argument(node, 1, "dim")
    axes_2d = dims if isinstance(dims, Sequence) else [dims]
    if any(not isinstance(one, int) or is_place(to, source_of(node), one) for one in axes_2d):
        to.refuse(node, "it works over height and width, or over all: mean and amax can take time with them")
    return reduction(to, node)


def cat(to: Rewriter, node: fx.Node) -> Result:
    """Clips side by side."""
    tensors, dim = argument(node, 0, "tensors"), argument(node, 1, "dim", 0)
    times = {to.time[one] for one in tensors}
    if len(times) > 1 or None in times:
        to.refuse(node, "some of its inputs have time and some have not")
    return with_dim(to, node, dim=axis_of(to, tensors[0], dim)), time_of(to, tensors[0])


def stack(to: Rewriter, node: fx.Node) -> Result:
    """Clips on a new axis, before height."""
    tensors, dim = argument(node, 0, "tensors"), argument(node, 1, "dim", 0)
    if len({to.time[one] for one in tensors}) > 1:
        to.refuse(node, "some of its inputs have time and some have not")
    axis, time = new_axis(to, node, tensors[0], dim)
    return with_dim(to, node, dim=axis), time


def parts(to: Rewriter, node: fx.Node) -> Result:
    """Chunk and split: a tuple of clips."""
    source, dim = source_of(node), argument(node, 2, "dim", 0)
    return with_dim(to, node, position=2, dim=axis_of(to, source, dim)), to.time[source]


def flatten(to: Rewriter, node: fx.Node) -> Result:
    """To one vector an image: time is averaged first."""
    return to.without_time(node, source_of(node))


def reshape(to: Rewriter, node: fx.Node) -> Result:
    """Channels in another arrangement keep their frames; a vector an image loses them."""
    source = source_of(node)
    old, new = to.shape(source), to.shape(node)
    rear = len(old) - time_of(to, source)
    sizes = listed(node, "shape")
    if len(new) < 3 or new[-rear:] != old[-rear:] or len(sizes) != len(new):
        return to.without_time(node, source)
    frames = to.graph.call_method("size", (to.new[source], time_of(to, source)))
    place = len(new) - rear
    sizes = [to.new[one] if isinstance(one, fx.Node) else one for one in sizes]
    arguments = (to.new[source], (*sizes[:place], frames, *sizes[place:]))
    return to.graph.call_method("reshape", arguments), place


def permute(to: Rewriter, node: fx.Node) -> Result:
    """Axes in another order; width must still follow height."""
    return reorder(to, node, listed(node, "dims"))


def transpose(to: Rewriter, node: fx.Node) -> Result:
    """Two axes exchanged."""
    axes = len(to.shape(source_of(node)))
    order = list(range(axes))
    one, other = (int(argument(node, place, f"dim{place - 1}")) % axes for place in (1, 2))
    order[one], order[other] = order[other], order[one]
    return reorder(to, node, order)


def squeeze(to: Rewriter, node: fx.Node) -> Result:
    """An axis of length one: of channels, or of a place after the last pooling."""
    source, dim = source_of(node), argument(node, 1, "dim")
    if not isinstance(dim, int) or is_place(to, source, dim):
        return to.without_time(node, source)
    time, axis = time_of(to, source), axis_of(to, source, dim)
    gone = len(to.shape(source)) > len(to.shape(node))
    return with_dim(to, node, dim=axis), time - (gone and axis < time)


def unsqueeze(to: Rewriter, node: fx.Node) -> Result:
    """A new axis, not between height and width."""
    axis, time = new_axis(to, node, source_of(node), argument(node, 1, "dim"))
    return with_dim(to, node, dim=axis), time


def sizes(to: Rewriter, node: fx.Node) -> Result:
    """`x.shape`, `x.size()`, `x.size(1)`; the type and the device are none of ours."""
    source = source_of(node)
    attribute = node.args[1] if node.op == "call_function" else "shape"
    if attribute in ("dtype", "device"):
        return to.copy(node), None
    if attribute != "shape":
        to.refuse(node, f"it reads '{attribute}' of a clip")
    if node.op == "call_method" and len(node.args) + len(node.kwargs) > 1:
        return with_dim(to, node, dim=axis_of(to, source, argument(node, 1, "dim"))), None
    to.sizes_of[node] = time_of(to, source)
    return to.copy(node), None


def getitem(to: Rewriter, node: fx.Node) -> Result:
    """A part of a tensor, of its sizes, or of several tensors."""
    source, index = source_of(node), node.args[1]
    if source in to.sizes_of:
        return get_size(to, node, to.sizes_of[source]), None
    if not to.is_tensor(source):
        return to.copy(node), to.time[source]
    picks = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(one, fx.Node | list | torch.Tensor) for one in picks):
        to.refuse(node, "it takes elements by a tensor or a list")
    given = sum(one is not None and one is not Ellipsis for one in picks)
    at = next((place for place, one in enumerate(picks) if one is Ellipsis), len(picks))
    picks[at : at + 1] = [slice(None)] * (len(to.shape(source)) - given)
    items, place = index_axes(to, node, picks, time_of(to, source))
    return to.graph.call_function(operator.getitem, (to.new[source], tuple(items))), place


def expand(to: Rewriter, node: fx.Node) -> Result:
    """To larger sizes, with as many frames as there are."""
    source = source_of(node)
    time, given = time_of(to, source), listed(node, "size")
    if len(given) != len(to.shape(source)):
        to.refuse(node, "it adds axes")
    given = [to.new[one] if isinstance(one, fx.Node) else one for one in given]
    return to.graph.call_method("expand", (to.new[source], *given[:time], -1, *given[time:])), time


def interpolate(to: Rewriter, node: fx.Node) -> Result:
    """Each frame by itself."""
    want_channels_first(to, node)
    arguments, keywords = fx.map_arg((node.args, node.kwargs), lambda one: to.new[one])
    return to.graph.call_function(interpolate_frames, arguments, keywords), to.time[source_of(node)]


def pad(to: Rewriter, node: fx.Node) -> Result:
    """Around each frame; time has the padding of its layers alone."""
    want_channels_first(to, node)
    ends = argument(node, 1, "pad")
    if not isinstance(ends, Sequence):
        to.refuse(node, "its sizes depend on the input")
    ends = [to.new[one] if isinstance(one, fx.Node) else one for one in ends]
    ends = [*[*ends, 0, 0][:4], 0, 0, *ends[4:]]  # width, height, time, channels
    mode, value = argument(node, 2, "mode", "constant"), argument(node, 3, "value")
    return to.graph.call_function(F.pad, (to.new[source_of(node)], ends, mode, value)), 2


def dropout(to: Rewriter, node: fx.Node) -> Result:
    """As a module, so that training has it: the network was followed in eval mode."""
    if argument(node, 2, "training", True):
        to.refuse(node, "it drops in eval mode, too")
    return to.add_module(node, nn.Dropout(argument(node, 1, "p", 0.5)), "dropout")


def as_module(label: str, make: Callable[..., nn.Module], names: str) -> Handler:
    """A function that is a layer without weights: its module takes its place, and the rule is asked for it.

    Args:
        label: of the new module.
        make: the module's class.
        names: of the function's arguments after the input, by spaces; the module's have the same.
    """

    def write(to: Rewriter, node: fx.Node) -> Result:
        given = {name: argument(node, place, name) for place, name in enumerate(names.split(), start=1)}
        if len(node.all_input_nodes) > 1:
            to.refuse(node, "its arguments depend on the size of the input")
        given = {name: value for name, value in given.items() if value is not None}
        return to.add_module(node, make(**given), label)

    return write


HANDLERS: dict[str, Handler] = {
    **{name + tail: elementwise for name in ELEMENTWISE for tail in ("", "_")},
    **dict.fromkeys(("softmax", "log_softmax", "cumsum", "glu"), along_channels),
    **dict.fromkeys(("mean", "amax", "amin"), reduction),
    **dict.fromkeys(("sum", "prod", "max", "min"), along_one_axis),
    **dict.fromkeys(("cat", "concat", "concatenate"), cat),
    **dict.fromkeys(("chunk", "split"), parts),
    **dict.fromkeys(("view", "reshape"), reshape),
    **dict.fromkeys(("transpose", "swapaxes"), transpose),
    **dict.fromkeys(("getattr", "size"), sizes),
    "stack": stack,
    "contiguous": contiguous,
    "layer_norm": layer_norm,
    "group_norm": group_norm,
    "flatten": flatten,
    "permute": permute,
    "squeeze": squeeze,
    "unsqueeze": unsqueeze,
    "getitem": getitem,
    "expand": expand,
    "interpolate": interpolate,
    "pad": pad,
    "dropout": dropout,
    "max_pool2d": as_module("max_pool2d", nn.MaxPool2d, "kernel_size stride padding dilation ceil_mode"),
    "avg_pool2d": as_module(
        "avg_pool2d", nn.AvgPool2d, "kernel_size stride padding ceil_mode count_include_pad divisor_override"
    ),
    "adaptive_avg_pool2d": as_module("adaptive_avg_pool2d", nn.AdaptiveAvgPool2d, "output_size"),
    "adaptive_max_pool2d": as_module("adaptive_max_pool2d", nn.AdaptiveMaxPool2d, "output_size"),
    "pixel_shuffle": as_module("pixel_shuffle", nn.PixelShuffle, "upscale_factor"),
    "channel_shuffle": as_module("channel_shuffle", nn.ChannelShuffle, "groups"),
    "local_response_norm": as_module("local_response_norm", nn.LocalResponseNorm, "size alpha beta k"),
}

# Functions by what they are, so that somebody's own function of the same name is not taken for torch's.
NAMES: dict[Callable[..., Any], str] = {
    getattr(home, name): name for home in (torch, F, operator) for name in HANDLERS if hasattr(home, name)
}
NAMES[getattr] = "getattr"
