"""Axes of a 2D network's tensors, and where they are in the new ones.

Axes are numbered as in the 2D network until `axis_of` turns them into the new tensor's. Where `time` is the
axis of time in the new tensor, height and width are the axes `time` and `time + 1` of the old one.
"""

import operator
from collections.abc import Sequence
from typing import Any

from torch import fx

from muybridge.models.inflate.rewrite import Rewriter

Result = tuple[fx.Node, int | None]

ALIASES = {"dim": "axis", "keepdim": "keepdims"}  # NumPy's words, which torch takes too


def source_of(node: fx.Node) -> fx.Node:
    """The tensor that a method belongs to, or a function's first argument."""
    source = node.args[0] if node.args else node.kwargs["input"]
    assert isinstance(source, fx.Node)
    return source


def argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """An argument by its place or its name."""
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, node.kwargs.get(ALIASES.get(name, ""), default))


def time_of(to: Rewriter, node: fx.Node) -> int:
    """The axis of time, of a clip."""
    time = to.time[node]
    if time is None:
        to.refuse(node, "a clip is wanted here")
    return time


def axis_of(to: Rewriter, source: fx.Node, dim: int) -> int:
    """An axis of the 2D tensor in the new one."""
    axis = dim % len(to.shape(source))
    return axis if axis < time_of(to, source) else axis + 1


def is_place(to: Rewriter, source: fx.Node, dim: int) -> bool:
    """Whether an axis is height or width."""
    return dim % len(to.shape(source)) - time_of(to, source) in (0, 1)


def new_axis(to: Rewriter, node: fx.Node, source: fx.Node, dim: int) -> tuple[int, int]:
    """Where a new axis goes, and where time is then."""
    axis, time = dim % (len(to.shape(source)) + 1), time_of(to, source)
    if axis == time + 1:
        to.refuse(node, "it parts height from width")
    return (axis, time + 1) if axis <= time else (axis + 1, time)


def with_dim(to: Rewriter, node: fx.Node, *, dim: int | list[int], position: int = 1) -> fx.Node:
    """The node on its new inputs, with another `dim`."""
    copied = to.copy(node)
    if len(copied.args) > position:
        copied.update_arg(position, dim)
    else:
        rest = {key: value for key, value in copied.kwargs.items() if key != ALIASES["dim"]}
        copied.kwargs = {**rest, "dim": dim}
    return copied


def reorder(to: Rewriter, node: fx.Node, order: list[int]) -> Result:
    """All axes in another order; width must still follow height."""
    source = source_of(node)
    time = time_of(to, source)
    order = [one % len(to.shape(source)) for one in order]
    place = order.index(time)
    if order[place + 1 : place + 2] != [time + 1]:
        to.refuse(node, "width does not follow height any more")
    dims = [axis_of(to, source, one) for one in order]
    dims.insert(place, time)
    return to.graph.call_method("permute", (to.new[source], *dims)), place


def index_axes(to: Rewriter, node: fx.Node, listed: list[Any], time: int) -> tuple[list[Any], int]:
    """An index for each axis, with all frames, and where time comes out."""
    items: list[Any] = []
    axis, out, place = 0, 0, -1
    for one in listed:
        if (isinstance(one, int) and axis in (time, time + 1)) or (one is None and axis == time + 1):
            to.refuse(node, "it takes one row or one column of each frame")
        if axis == time and one is not None:
            items.append(slice(None))
            place, out = out, out + 1
        items.append(one)
        axis += one is not None
        out += not isinstance(one, int)
    return items, place


def get_size(to: Rewriter, node: fx.Node, time: int) -> fx.Node:
    """A part of a clip's sizes, without its number of frames."""
    source, index = source_of(node), node.args[1]
    axes = range(len(to.traced.values[source]))
    picked = axes[index] if isinstance(index, int | slice) else None
    if isinstance(picked, int):
        return to.graph.call_function(operator.getitem, (to.new[source], picked + (picked >= time)))
    if not picked or picked.step != 1 or picked.start < time < picked.stop:
        to.refuse(node, "it takes sizes of a clip across its number of frames")
    moved = int(picked.start >= time)
    part = slice(picked.start + moved, picked.stop + moved)
    return to.graph.call_function(operator.getitem, (to.new[source], part))


def listed(node: fx.Node, name: str) -> list[Any]:
    """Sizes or axes that are given one by one, or as one sequence, which a keyword may name."""
    first = argument(node, 1, name)
    return list(first) if isinstance(first, Sequence) else list(node.args[1:])


def want_channels_first(to: Rewriter, node: fx.Node) -> None:
    """Refuses a node whose input is no [B, C, H, W]."""
    source = source_of(node)
    if (len(to.shape(source)), to.time[source]) != (4, 2):
        to.refuse(node, f"{list(to.shape(source))} is not a map of features with the channels before it")
