"""A 2D network as a graph of modules and functions, with the shape of each value.

Shape letters: B images, C channels, H height, W width.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from muybridge.errors import InflationError
from muybridge.models.inflate.modules import check_module, find_entry

ROOT = "network"  # where the traced network stands, so that its own optional arguments keep their defaults

# What code of others raises when it meets a placeholder (its assertions, too) or a tensor of an unfit shape.
FAILURES = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError)


@dataclass(frozen=True)
class Traced:
    """A network as a graph.

    Attributes:
        root: holds the network as its child `ROOT`.
        graph: what it computes in eval mode, in order.
        values: of each node, as a tensor without memory, or as it is where it is none.
        ends: of each module that is not a leaf: the nodes of its outputs, one a call.
    """

    root: nn.Module
    graph: fx.Graph
    values: dict[fx.Node, Any]
    ends: dict[str, list[fx.Node]] = field(default_factory=dict)

    @property
    def network(self) -> nn.Module:
        """The 2D network."""
        return self.root.get_submodule(ROOT)


def trace(network: nn.Module, image: tuple[int, int, int]) -> Traced:
    """Follows a placeholder, and then a tensor without memory, through a network in eval mode.

    Args:
        network: takes one image tensor; further arguments have defaults.
        image: (C, H, W) that it takes.

    Raises:
        InflationError: it branches on its input, or it does not run on such images.
    """
    root, tracer = _Root(network), _Tracer()
    modes = {module: module.training for module in network.modules()}
    try:
        root.eval()
        graph = tracer.trace(root)
        _drop_assertions(graph)
        _register_constants(root, graph)
        values = run_on_meta(root, graph, (2, *image), _name)
    finally:
        for module, training in modes.items():
            module.training = training
    return Traced(root, graph, values, tracer.ends)


def run_on_meta(
    root: nn.Module, graph: fx.Graph, shape: tuple[int, ...], name: Callable[[fx.Node], str]
) -> dict[fx.Node, Any]:
    """Values of all nodes, none of which is given memory.

    Args:
        root: holds the modules of the graph.
        graph: takes one tensor.
        shape: of the input.
        name: says in an error what a node does.

    Raises:
        InflationError: a node fails; says which.
    """
    recorder = _Recorder(root, graph, name)
    tensors = {**dict(recorder.named_parameters()), **dict(recorder.named_buffers())}
    on_meta = {key: tensor.detach().to("meta") for key, tensor in tensors.items()}
    dtype = next((tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()), None)
    with torch.no_grad():
        functional_call(recorder, on_meta, torch.empty(shape, device="meta", dtype=dtype))
    return recorder.values


def short_name(path: str) -> str:
    """A module's name in the network itself."""
    return path.removeprefix(f"{ROOT}.")


def scope(node: fx.Node) -> str:
    """The name of the module in whose code a node stands; "" is the network's own."""
    stack = list(node.meta.get("nn_module_stack", {}))
    path = re.sub(r"@\d+", "", stack[-1]) if stack else ROOT  # "@1" is the second call of the same module
    return short_name(path) if path != ROOT else ""


class _Root(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Any:
        return self.network(image)


class _Tracer(fx.Tracer):
    """Leaves are the modules of the table, and torch's own; all others are looked into."""

    proxy_buffer_attributes = True  # what is computed from a buffer is no constant

    def __init__(self) -> None:
        super().__init__()
        self.ends: dict[str, list[fx.Node]] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return find_entry(m) is not None or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        path = self.path_of_module(m)
        check_module(m, short_name(path))
        try:
            result = super().call_module(m, forward, args, kwargs)
        except FAILURES as error:
            reason = str(error).partition("\n")[0]
            raise InflationError(
                f"torch.fx cannot follow '{short_name(path)}' ({type(m).__name__}): {reason}. A network to "
                "inflate takes one tensor of images, and its code does not branch on their values or size"
            ) from error
        if isinstance(result, fx.Proxy) and path != ROOT and not self.is_leaf_module(m, path):
            self.ends.setdefault(short_name(path), []).append(result.node)
        return result


class _Recorder(nn.Module):
    """Runs a graph node by node and keeps what each of them gives."""

    def __init__(self, root: nn.Module, graph: fx.Graph, name: Callable[[fx.Node], str]) -> None:
        super().__init__()
        self.root = root
        self.graph = graph
        self.values: dict[fx.Node, Any] = {}
        self._name = name

    def forward(self, x: Tensor) -> None:
        interpreter = fx.Interpreter(self.root, garbage_collect_values=False, graph=self.graph)
        interpreter.args_iter = iter((x,))
        for node in self.graph.nodes:
            interpreter.env[node] = self._run(interpreter, node)
            self.values[node] = interpreter.env[node]

    def _run(self, interpreter: fx.Interpreter, node: fx.Node) -> Any:
        try:
            return interpreter.run_node(node)
        except FAILURES as error:
            reason = str(error).partition("\n")[0]
            shapes = [
                list(one.shape) for key in node.all_input_nodes if isinstance(one := self.values[key], Tensor)
            ]
            raise InflationError(f"{self._name(node)} does not run on {shapes}: {reason}") from error


def _name(node: fx.Node) -> str:
    target = (
        short_name(node.target) if isinstance(node.target, str) else getattr(node.target, "__name__", "?")
    )
    inside = scope(node)
    return f"'{target}' of the 2D network" + (f", in '{inside}'," if inside and inside != target else "")


def _register_constants(root: nn.Module, graph: fx.Graph) -> None:
    """Tensors that code makes as it runs, attributes of the root for torch.fx, become buffers."""
    for name in {str(node.target) for node in graph.nodes if node.op == "get_attr"} & set(vars(root)):
        value = getattr(root, name)
        delattr(root, name)
        root.register_buffer(name, value, persistent=False)


def _drop_assertions(graph: fx.Graph) -> None:
    """Takes out `torch._assert` and what is computed for it alone: the meta run has checked the shapes."""
    for node in reversed(graph.nodes):
        idle = node.op in ("call_function", "call_method") and not node.users
        if node.target is torch._assert or (idle and node.meta.get("for_assert")):
            for source in node.all_input_nodes:
                source.meta["for_assert"] = True
            graph.erase_node(node)
