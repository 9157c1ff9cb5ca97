"""What all networks of transformers have in common, seen from here."""

import re
import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn

from detrcli.architectures.adapters.families import Family
from detrcli.architectures.foreign import ForeignNetwork

STEM = ("embedder", "conv1", "bn1", "layer1")  # what sees the picture first, by the names that backbones have


class TransformersNetwork(ForeignNetwork):
    """A network that one of its classes for a task builds."""

    def __init__(self, task: Any, numbers: Any, family: Family) -> None:
        super().__init__()
        self.family = family
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on widths, for whoever designs a model
            self.network = task.from_config(numbers)

    def modules_of(self, pattern: str) -> list[nn.Module]:
        """Those of a dotted name, in which `*` stands for a number, in their order; none where there is no name."""
        wanted = re.compile(re.escape(pattern).replace(r"\*", r"\d+"))
        return [module for name, module in self.network.named_modules() if name and wanted.fullmatch(name)]

    def their_backbone(self) -> nn.Module:
        return self.modules_of(self.family.backbone)[0]

    def stem(self) -> Sequence[nn.Module]:
        """The outermost modules of these names: in the blocks behind them names come again."""
        named = [
            (name.count("."), module)
            for name, module in self.backbone.named_modules()
            if name.rpartition(".")[2] in STEM
        ]
        outermost = min((depth for depth, _ in named), default=0)
        return [module for depth, module in named if depth == outermost]

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Tensors that the network has under several names are one again."""
        result = super().load_state_dict(*args, **kwargs)
        self.network.tie_weights()
        return result
