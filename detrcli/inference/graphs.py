"""Equivalent graphs for converters that lack an operator."""

from typing import Any

import torch

ATEN = torch.ops.aten
_REPLACEMENTS = {ATEN.__and__.Tensor: ATEN.logical_and.default, ATEN.__or__.Tensor: ATEN.logical_or.default}


def simplify(program: Any) -> Any:
    """Remove aliases and splits into a single part from an ExportedProgram, and replace & and | of booleans."""
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target is ATEN.alias.default:
            node.replace_all_uses_with(node.args[0])
        elif node.target is ATEN.split_with_sizes.default and len(node.args[1]) == 1:
            for part in list(node.users):
                part.replace_all_uses_with(node.args[0])
        elif node.target in _REPLACEMENTS and node.meta["val"].dtype == torch.bool:
            node.target = _REPLACEMENTS[node.target]
    graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program
