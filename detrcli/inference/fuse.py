"""Faster inference: the plain model with fused operators, which compute the same.

On a CPU they halve the time per image, most of which is spent in convolutions. Without this file, the engines `fast`
(the default) and `compiled` would compute the plain model; everything else would work, only slower.

- A convolution includes the batch norm, the addition and the activation that follow it; two parallel ones become one.
- A linear layer includes the activation that follows it.
- Attention computes no attention weights, and no mask where none is needed.

The data flow is traced by torch.fx, in the largest modules for which that is possible: a whole backbone of ours, a
block in the networks of transformers. Modules are replaced according to their type; no architecture is a special case.
Tests: tests/inference/test_engines.py compares every architecture and the golden values with the plain model.
"""

import copy
import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from detrcli.inference.fused_layers import (
    Activation,
    FusedAttention,
    FusedConvolution,
    FusedLinear,
    Kernel,
    can_fuse,
    can_pack,
)
from detrcli.model.attention import Dropout, MultiheadAttention
from detrcli.model.detection_transformer import DetectionTransformer


def fuse(model: DetectionTransformer, dtype: torch.dtype = torch.float32, *, pack: bool = True) -> DetectionTransformer:
    """Return an inference model that computes the same as the given one. Weights that do not change are shared.

    With bfloat16, convolutions, linear layers and attention compute in that type; additions, norms and boxes do not.
    Without `pack`, only torch's public operators are used, as torch.compile requires.
    """
    packed = pack and can_pack(next(model.parameters()).device, dtype)
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    fused = copy.deepcopy(model, shared).eval()
    _replace_modules(fused, dtype, packed=packed)
    return fused


def _replace_modules(module: nn.Module, dtype: torch.dtype, *, packed: bool) -> None:
    """Replace each submodule that has a faster version."""
    for name, child in module.named_children():
        new: nn.Module | None = fuse_traced(child, dtype, packed=packed)
        if new is not None:
            _replace_modules(new, dtype, packed=packed)
        elif type(child) is nn.Conv2d and can_fuse(child):
            new = FusedConvolution(Kernel.of(child), dtype=dtype, packed=packed)
        elif type(child) is nn.Linear:
            new = FusedLinear(child.weight, child.bias, dtype=dtype, packed=packed)
        elif isinstance(child, nn.MultiheadAttention) and _has_fused_version(child):
            new = FusedAttention(child, dtype=dtype, packed=packed)
        else:
            if type(child) in (nn.LayerNorm, nn.GroupNorm) and dtype != torch.float32:
                child.register_forward_pre_hook(lambda _, inputs: inputs[0].float())
            _replace_modules(child, dtype, packed=packed)
        if new is not None:
            setattr(module, name, new)


def _has_fused_version(attention: nn.MultiheadAttention) -> bool:
    known = type(attention) in (nn.MultiheadAttention, MultiheadAttention)
    return known and attention.batch_first and attention.in_proj_bias is not None and attention.bias_k is None


def fuse_traced(module: nn.Module, dtype: torch.dtype, *, packed: bool) -> fx.GraphModule | None:
    """Return a module of fused layers, rewritten from its traced graph; None if it cannot be traced or has no layers.

    Only modules with a single argument are traced, since a trace holds for one combination of optional arguments.
    """
    layers = [layer for layer in module.modules() if type(layer) in (nn.Conv2d, nn.Linear)]
    if not layers or layers[0] is module or len(inspect.signature(module.forward).parameters) != 1:
        return None
    try:
        graph = _Tracer().trace(module)
    except (fx.proxy.TraceError, AttributeError, TypeError, ValueError, RuntimeError):
        return None
    modules: dict[Any, Any] = dict(module.named_modules())  # the target of a node is the name of its module
    traced = fx.GraphModule(module, graph)
    for node in graph.nodes:
        if _calls(node, modules, nn.Identity, nn.Dropout, Dropout):
            node.replace_all_uses_with(node.args[0])
    graph.eliminate_dead_code()

    def replace(node: fx.Node, last: fx.Node, layer: nn.Module, addend: fx.Node | None = None) -> None:
        """Replace the chain from a layer's node to `last`."""
        name = str(node.target)  # kept where possible, since other modules may use the weight
        if sum(other.target == node.target for other in graph.nodes) > 1:
            name = f"{name}_{len(modules)}"
        modules[name] = layer
        traced.add_submodule(name, layer)
        with graph.inserting_before(last):
            new = graph.call_module(name, (*node.args, *([addend] if addend is not None else ())))
        last.replace_all_uses_with(new)

    for node in graph.nodes:
        following = _only_user(node)
        if _calls(node, modules, nn.Linear) and following is not None:
            activation = _activation(following, modules)
            if activation != "none":
                plain = modules[node.target]
                layer = FusedLinear(plain.weight, plain.bias, activation, dtype=dtype, packed=packed)
                replace(node, following, layer)
    for node, kernel in _kernels(graph, modules).items():
        last, addend, following = node, None, _only_user(node)
        if following is not None:
            others = [summand for summand in _summands(following) if summand is not node]
            if len(others) == 1 and others[0].op != "get_attr":  # a parameter may have another shape
                addend, last, following = others[0], following, _only_user(following)
        activation = "none" if following is None else _activation(following, modules)
        if addend is not None and activation != "relu":
            activation = "none"  # oneDNN adds only before a ReLU
        if activation != "none" and following is not None:
            last = following
        replace(node, last, FusedConvolution(kernel, activation, dtype=dtype, packed=packed), addend)
    graph.eliminate_dead_code()
    # An addend may be overwritten if it is a convolution's and only convolutions use it, none of them later.
    order = {node: position for position, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if _calls(node, modules, FusedConvolution) and len(node.args) == 2:
            addend = node.args[1]
            modules[node.target].in_place = _calls(addend, modules, FusedConvolution) and all(
                order[user] <= order[node] and _calls(user, modules, FusedConvolution) for user in addend.users
            )
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _kernels(graph: fx.Graph, modules: dict[Any, Any]) -> dict[fx.Node, Kernel]:
    """Return the convolutions of a graph, with norms folded in and parallel ones merged, both removed from it."""
    kernels = {}
    for node in list(graph.nodes):
        if _calls(node, modules, nn.Conv2d) and can_fuse(modules[node.target]):
            norm = _only_user(node)
            if norm is None or not _is_frozen_norm(norm, modules):
                kernels[node] = Kernel.of(modules[node.target])
            else:
                kernels[node] = Kernel.of(modules[node.target], modules[norm.target])
                norm.replace_all_uses_with(node)
                graph.erase_node(norm)
    for node in graph.nodes:
        pair = [summand for summand in _summands(node) if summand in kernels and len(summand.users) == 1]
        if len(pair) == 2 and pair[0].args == pair[1].args:
            first, second = pair
            if (both := kernels[first] + kernels[second]) is not None:
                kernels[first] = both
                del kernels[second]
                node.replace_all_uses_with(first)
    graph.eliminate_dead_code()
    return kernels


_ADDITIONS: Sequence[Callable[..., Any]] = (operator.add, operator.iadd, torch.add)
_FUNCTIONS: Mapping[Any, Activation] = {torch.relu: "relu", F.relu: "relu", F.silu: "silu", F.gelu: "gelu"}


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        leaf = isinstance(module, nn.Dropout) or _is_batch_norm(module)
        return leaf or super().is_leaf_module(module, name)


def _calls(node: fx.Node, modules: dict[Any, Any], *types: type[nn.Module]) -> bool:
    """Return whether a node calls a module of one of these types."""
    return node.op == "call_module" and type(modules[node.target]) in types


def _is_batch_norm(module: nn.Module) -> bool:
    return type(module).__name__.endswith("BatchNorm2d")  # libraries have their own frozen batch norms


def _is_frozen_norm(node: fx.Node, modules: dict[Any, Any]) -> bool:
    """Return whether a node is a batch norm with fixed statistics."""
    return (
        node.op == "call_module"
        and _is_batch_norm(modules[node.target])
        and modules[node.target].state_dict().keys() >= {"weight", "bias", "running_mean", "running_var"}
    )


def _activation(node: fx.Node, modules: dict[Any, Any]) -> Activation:
    """Return the activation that a node computes, "none" for other nodes."""
    if node.op == "call_module":
        module = modules[node.target]
        if type(module) is nn.GELU and module.approximate != "none":
            return "none"
        known: Mapping[Any, Activation] = {nn.ReLU: "relu", nn.SiLU: "silu", nn.GELU: "gelu"}
        return known.get(type(module), "none")
    if node.op == "call_method" and node.target == "relu":
        return "relu"
    return "none" if "approximate" in node.kwargs else _FUNCTIONS.get(node.target, "none")


def _summands(node: fx.Node) -> list[fx.Node]:
    """Return the two tensors that a node adds; empty for other nodes."""
    plain = node.target in _ADDITIONS and len(node.args) == 2 and not node.kwargs  # no alpha, no out
    return [arg for arg in node.args if isinstance(arg, fx.Node)] if plain else []


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None
