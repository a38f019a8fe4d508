"""A network cut into stages: consecutive parts of its forward pass, with one tensor from each to the next."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import Parameter, signature
from itertools import pairwise
from typing import Any

from torch import fx, nn

from core.common.errors import UserError
from core.models.hooks import Recomputed
from core.optimizers.layerwise import is_traversed


def cut(network: nn.Module, stages: int) -> list[fx.GraphModule]:
    """Cut a network into stages of about the same number of parameters, which share its modules and their names.

    The forward pass is traced (Reed et al. 2022, torch.fx) down to blocks: what a list of modules holds, as for
    layer-wise learning rates. Cuts are between blocks where a single tensor is passed on. Raises UserError if the
    forward pass cannot be traced or has fewer blocks than stages.
    """
    graph = _traced(network)
    nodes = _operations(graph)
    blocks = _blocks(network, graph, nodes)
    if len(blocks) < stages:
        count = f"{len(blocks)} block{'s' * (len(blocks) != 1)}"
        wanted = f"{stages} processes are {stages} stages, and {_name(network)} has {count}"
        raise UserError([f"parallel pipeline: {wanted}; start fewer processes"])
    parts = _grouped([_weight(network, block) for block in blocks], stages)
    found = [_stage(network, graph, [node for block in blocks[first:end] for node in block]) for first, end in parts]
    names = [name for stage in found for name in stage.state_dict()]
    own = [parameter for stage in found for parameter in stage.parameters()]
    if sorted(names) != sorted(network.state_dict()) or len(own) != len(set(own)):
        raise UserError(
            [f"parallel pipeline: {_name(network)} cannot be cut: blocks share a weight, or a weight is not used"]
        )
    return found


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """A block, or a module that does more than its operations: with hooks, or gradient checkpointing."""
        return not is_traversed(m) or _has_hooks(m) or isinstance(m, Recomputed)


def _traced(network: nn.Module) -> fx.Graph:
    if _has_hooks(network):
        raise UserError([f"parallel pipeline: {_name(network)} cannot be cut: hooks change its input or output"])
    training, graphs = network.training, []
    optional = (each for each in signature(network.forward).parameters.values() if each.default is not Parameter.empty)
    defaults = {each.name: each.default for each in optional}
    try:
        for mode in (True, False):
            network.train(mode)
            graphs.append(_Tracer().trace(network, defaults))
    except Exception as error:  # of any kind: it runs the code of the network with placeholders
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError([f"parallel pipeline: {_name(network)} cannot be cut: {reason}"]) from None
    finally:
        network.train(training)
    if str(graphs[0]) != str(graphs[1]):
        reason = "its forward pass is not the same in training and in evaluation"
        raise UserError([f"parallel pipeline: {_name(network)} cannot be cut: {reason}"])
    return graphs[0]


def _operations(graph: fx.Graph) -> list[fx.Node]:
    """The operations on the images, in order; without those on optional arguments, which have their defaults."""
    _, *others = (node for node in graph.nodes if node.op == "placeholder")
    aside: set[fx.Node] = set(others)
    found = []
    for node in graph.nodes:
        if node.op in ("placeholder", "output", "get_attr"):
            continue
        if node.all_input_nodes and aside.issuperset(node.all_input_nodes):
            aside.add(node)
        else:
            found.append(node)
    return found


def _blocks(network: nn.Module, graph: fx.Graph, nodes: Sequence[fx.Node]) -> list[list[fx.Node]]:
    """The operations between one possible cut and the next; those without weights belong to the block before."""
    place = {node: number for number, node in enumerate(nodes)}
    last = {node: max((place.get(user, len(nodes)) for user in node.users), default=-1) for node in graph.nodes}
    inputs = [node for node in graph.nodes if node.op == "placeholder"][:1]
    blocks: list[list[fx.Node]] = [[]]
    for number, node in enumerate(nodes):
        blocks[-1].append(node)
        passed = [each for each in (*inputs, *nodes[: number + 1]) if last[each] > number]
        if passed == [node]:
            blocks.append([])
    joined: list[list[fx.Node]] = []
    for block in filter(None, blocks):
        if joined and not (_weight(network, block) and _weight(network, joined[-1])):
            joined[-1] += block
        else:
            joined.append(block)
    return joined


def _weight(network: nn.Module, nodes: Sequence[fx.Node]) -> int:
    """Number of parameters of these operations."""
    modules = {node.target: network.get_submodule(str(node.target)) for node in nodes if node.op == "call_module"}
    own = sum(p.numel() for module in modules.values() for p in module.parameters())
    used = {each for node in nodes for each in node.all_input_nodes if each.op == "get_attr"}
    return own + sum(getattr(_attribute(network, str(each.target)), "numel", int)() for each in used)


def _attribute(network: nn.Module, name: str) -> Any:
    module, _, own = name.rpartition(".")
    return getattr(network.get_submodule(module), own)


def _grouped(weights: Sequence[int], groups: int) -> list[tuple[int, int]]:
    """Divide a sequence into consecutive groups whose largest sum is as small as possible: (first, end) of each."""
    best: list[list[tuple[int, list[int]]]] = [[(sum(weights[:end]), [0, end]) for end in range(len(weights) + 1)]]
    for count in range(2, groups + 1):
        row: list[tuple[int, list[int]]] = []
        for end in range(len(weights) + 1):
            options = [
                (max(best[-1][first][0], sum(weights[first:end])), [*best[-1][first][1], end])
                for first in range(count - 1, end)
            ]
            row.append(min(options, default=(sum(weights) + 1, [])))
        best.append(row)
    bounds = best[-1][len(weights)][1]
    return list(pairwise(bounds))


def _stage(network: nn.Module, graph: fx.Graph, nodes: Sequence[fx.Node]) -> fx.GraphModule:
    """These operations as a module from the tensor that they are passed to the one that they pass on."""
    within, made = set(nodes), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        for each in node.all_input_nodes:
            if each not in copies and each not in within:
                copies[each] = made.node_copy(each) if each.op == "get_attr" else made.placeholder("x")
        copies[node] = made.node_copy(node, lambda each: copies[each])
    output = next(node for node in graph.nodes if node.op == "output").args[0]
    made.output(copies[output] if output in within else copies[nodes[-1]])
    return fx.GraphModule(network, made)


def _has_hooks(module: nn.Module) -> bool:
    return any(hooks for name, hooks in vars(module).items() if name.startswith("_forward_"))


def _name(network: nn.Module) -> str:
    return type(network).__name__
