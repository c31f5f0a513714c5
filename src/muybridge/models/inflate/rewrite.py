"""The graph of a 2D network, written anew node by node for clips.

Each value of the 2D network is either the same for all frames (weights, features after the last pooling) or
a clip. A clip's new tensor is the old one with one axis more, time, just before height; `Rewriter.time` says
which axis that is. Most nets have channels before (axis 2); ConvNeXt's blocks have them behind (axis 1).

Shape letters: B clips, C channels, T frames, H height, W width.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, fx, nn

from muybridge.errors import InflationError
from muybridge.models.inflate.layers import FilterInit, Temporal, TimePadding
from muybridge.models.inflate.modules import PLAIN, SAME, Entry, Plan, find_entry
from muybridge.models.inflate.rules import Rule, ask
from muybridge.models.inflate.trace import Traced, scope, short_name

Handler = Callable[["Rewriter", fx.Node], tuple[fx.Node, int | None]]


class Settings(NamedTuple):
    """What the caller chose.

    Attributes:
        rule: gives each layer its window over time.
        filters: how a 2D filter is spread over the window.
        padding: what stands before the first and behind the last frame.
    """

    rule: Rule
    filters: FilterInit
    padding: TimePadding


class Rewriter:
    """Writes the new graph.

    Args:
        traced: the 2D network.
        settings: what the caller chose.
        handlers: by the name of a function or method: how it is written for clips.
        names: of the functions that have a handler.

    Attributes:
        graph: the new graph.
        modules: its modules, weights and buffers, by their names in the 2D network.
        new: of each 2D node.
        time: of each 2D node: the axis of the new tensor that is time; None if there is none.
        fixed: 2D nodes that do not depend on the input.
        sizes_of: of each 2D node that is the sizes of a clip: the axis of time in them.
        calls: of each module that is called: the axis of time in its outputs, in the order of the calls.
    """

    def __init__(
        self,
        traced: Traced,
        settings: Settings,
        handlers: dict[str, Handler],
        names: dict[Callable[..., Any], str],
    ) -> None:
        self.traced = traced
        self.settings = settings
        self.handlers = handlers
        self.names = names
        self.graph = fx.Graph()
        self.modules: dict[str, Any] = {}
        self.new: dict[fx.Node, fx.Node] = {}
        self.time: dict[fx.Node, int | None] = {}
        self.fixed: set[fx.Node] = set()
        self.sizes_of: dict[fx.Node, int] = {}
        self.calls: dict[str, list[int | None]] = {}
        self._entries: dict[str, Entry] = {}
        self._probes: dict[str, str] = {}
        self._ends: dict[fx.Node, list[str]] = {}
        for name, nodes in traced.ends.items():
            for node in nodes:
                self._ends.setdefault(node, []).append(name)

    def run(self) -> fx.GraphModule:
        """Writes all nodes.

        Raises:
            InflationError: names the first that cannot be inflated.
        """
        for node in self.traced.graph.nodes:
            write = {
                "placeholder": self._placeholder,
                "get_attr": self._get_attr,
                "output": self._output,
                "call_module": self._call_module,
            }.get(node.op, self._call_function)
            self.new[node], self.time[node] = write(node)
            if node.op != "placeholder" and self.fixed.issuperset(node.all_input_nodes):
                self.fixed.add(node)
            for name in self._ends.get(node, ()):
                self._probe(node, name)
        module = fx.GraphModule(self.modules, self.graph, f"Inflated{type(self.traced.network).__name__}")
        self._keep_persistence(module)
        module.meta.update(time_axes=self.calls, probes=self._probes)
        return module

    def shape(self, node: fx.Node) -> torch.Size:
        """Of a value of the 2D network."""
        value = self.traced.values[node]
        assert isinstance(value, Tensor), f"{node} is no tensor"
        return value.shape

    def is_tensor(self, node: fx.Node) -> bool:
        """Whether a value of the 2D network is one."""
        return isinstance(self.traced.values[node], Tensor)

    def clips(self, node: fx.Node) -> list[fx.Node]:
        """The inputs of a node that have time."""
        return [one for one in node.all_input_nodes if self.time.get(one) is not None]

    def copy(self, node: fx.Node, replaced: dict[fx.Node, fx.Node] | None = None) -> fx.Node:
        """The same node in the new graph, on the new inputs or on those in `replaced`."""
        others = replaced or {}
        copied = self.graph.node_copy(node, lambda one: others.get(one, self.new[one]))
        if node.op == "call_module":
            copied.target = short_name(str(node.target))
        return copied

    def without_time(self, node: fx.Node, source: fx.Node) -> tuple[fx.Node, None]:
        """A node that gives up the map of features: it does so on the average over time.

        Raises:
            InflationError: what it gives is more than one vector an image (positions as tokens, for one).
        """
        time = self.time[source]
        assert time is not None
        old, new = self.shape(source), self.shape(node)
        one_vector = len(new) <= 2 and new[0] == old[0]
        if not one_vector and tuple(old[time : time + 2]) != (1, 1):
            self.refuse(node, f"{list(old)} -> {list(new)} mixes places with channels")
        mean = self.graph.call_method("mean", (self.new[source], time))
        return self.copy(node, {source: mean}), None

    def add_module(self, node: fx.Node, module: nn.Module, label: str) -> tuple[fx.Node, int | None]:
        """A function that is a layer without weights, written as its module."""
        where = scope(node)
        name = self._free_name(f"{where}.{label}" if where else label)
        (source,) = self.clips(node)
        entry = find_entry(module)
        assert entry is not None, f"{label} is a function of the table, its module is not"
        return self._apply(node, source, name, module, entry)

    def refuse(self, node: fx.Node, why: str) -> NoReturn:
        """Raises the error that names a node.

        Raises:
            InflationError: always.
        """
        network = type(self.traced.network).__name__
        where = "" if node.op == "call_module" else scope(node)
        inside = f"{network}, in '{where}'" if where else network
        raise InflationError(f"cannot inflate {self._describe(node)} of {inside}: {why}")

    def _describe(self, node: fx.Node) -> str:
        if node.op == "call_module":
            module = self.traced.root.get_submodule(str(node.target))
            return f"the module '{short_name(str(node.target))}' ({type(module).__name__})"
        if node.op == "call_method":
            return f"the method '{node.target}'"
        if node.op == "get_attr":
            return f"the weight '{short_name(str(node.target))}'"
        module_name = getattr(node.target, "__module__", None) or "torch"
        return f"the function '{module_name}.{getattr(node.target, '__name__', node.target)}'"

    def _placeholder(self, node: fx.Node) -> tuple[fx.Node, int]:
        return self.graph.placeholder("clip"), 2

    def _get_attr(self, node: fx.Node) -> tuple[fx.Node, None]:
        name = short_name(str(node.target))
        owner, _, attribute = str(node.target).rpartition(".")
        module = self.traced.root.get_submodule(owner)
        if find_entry(module) is not None:
            self.refuse(node, f"it is read from outside of its {type(module).__name__}")
        value = getattr(module, attribute)
        if name not in self.modules:
            copied = value.detach().clone()
            is_parameter = isinstance(value, nn.Parameter)
            self.modules[name] = nn.Parameter(copied, value.requires_grad) if is_parameter else copied
        return self.graph.get_attr(name), None

    def _output(self, node: fx.Node) -> tuple[fx.Node, None]:
        return self.copy(node), None

    def _call_function(self, node: fx.Node) -> tuple[fx.Node, int | None]:
        sized = [one for one in node.all_input_nodes if one in self.sizes_of]
        if not sized and not self.clips(node):
            return self.copy(node), None
        name = node.target if isinstance(node.target, str) else self.names.get(node.target)
        handler = self.handlers.get(str(name))
        if handler is None:
            self.refuse(node, "it is not in the table of functions")
        if sized and name != "getitem":
            self.refuse(node, "it takes all the sizes of a clip at once")
        return handler(self, node)

    def _call_module(self, node: fx.Node) -> tuple[fx.Node, int | None]:
        name = short_name(str(node.target))
        module = self.traced.root.get_submodule(str(node.target))
        clips = self.clips(node)
        if not clips:
            self._keep(node, name, module, PLAIN)
            self.calls.setdefault(name, []).append(None)
            return self.copy(node), None
        entry = find_entry(module)
        if entry is None:
            self.refuse(node, "it is not in the table of modules")
        if len(node.all_input_nodes) > 1:
            self.refuse(node, "it takes more than one input")
        return self._apply(node, clips[0], name, module, entry)

    def _apply(
        self, node: fx.Node, source: fx.Node, name: str, module: nn.Module, entry: Entry
    ) -> tuple[fx.Node, int | None]:
        """One layer of the table on one clip."""
        time, axes = self.time[source], len(self.shape(source))
        assert time is not None
        if entry.layout == "clip" and (axes, time) != (4, 2):
            self.refuse(
                node, f"{list(self.shape(source))} is not a map of features with the channels before it"
            )
        if entry.layout == "last" and time + 2 >= axes:
            self.refuse(node, "it works on the last axis, which is the width of a frame")
        self._keep(node, name, module, entry)
        self.calls.setdefault(name, []).append(None if entry.layout == "flat" else time)
        if entry.layout == "flat":
            return self.without_time(node, source)
        return self.graph.call_module(name, (self.new[source],)), time

    def _keep(self, node: fx.Node, name: str, module: nn.Module, entry: Entry) -> None:
        """Makes the new module of a layer, once for all its calls."""
        if name in self.modules:
            both = {entry, self._entries[name]}
            if len(both) > 1 and not both <= {SAME, PLAIN}:
                self.refuse(node, "it is called with frames here and with single vectors there")
            return
        settings = self.settings
        temporal = ask(settings.rule, name, module) if entry.windowed else Temporal()
        self.modules[name] = entry.make(module, Plan(name, temporal, settings.filters, settings.padding))
        self._entries[name] = entry

    def _probe(self, node: fx.Node, name: str) -> None:
        """An identity behind a module of modules, which the flat graph would not call: hooks find it."""
        if not self.is_tensor(node):
            return
        probe = self._probes.setdefault(name, self._free_name(f"{name}.output"))
        self.modules.setdefault(probe, nn.Identity())
        self.calls.setdefault(probe, []).append(self.time[node])
        self.new[node] = self.graph.call_module(probe, (self.new[node],))

    def _free_name(self, base: str) -> str:
        taken = {*self.modules, *(short_name(key) for key, _ in self.traced.root.named_modules())}
        return next(
            one
            for number in itertools.count()
            if (one := f"{base}_{number}" if number else base) not in taken
        )

    def _keep_persistence(self, module: fx.GraphModule) -> None:
        """Buffers that the 2D network leaves out of its state dict stay out of it."""
        for name in self.modules:
            owner, _, attribute = name.rpartition(".")
            if isinstance(self.modules[name], nn.Module):
                continue
            home = self.traced.root if name in self.traced.root._buffers else self.traced.network
            if attribute in home.get_submodule(owner)._non_persistent_buffers_set:
                module.get_submodule(owner)._non_persistent_buffers_set.add(attribute)
