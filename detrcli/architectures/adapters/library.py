"""Access to transformers: its import, its errors, and the base class of its networks."""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import nn

from detrcli.architectures.foreign import ForeignNetwork
from detrcli.errors import WeightsError

NEEDED = "Models of transformers need it to be installed: pip install 'detrcli[transformers]'"
# For all that reads a folder: no download, and no code from the folder.
LOCAL: Mapping[str, bool] = {"local_files_only": True, "trust_remote_code": False}
MAX_ERROR = 300  # characters of an error of transformers; some list everything that it knows
STEM = ("embedder", "conv1", "bn1", "layer1")  # names of the first layers in its backbones


def import_transformers() -> Any:
    """Import transformers without its progress bars and notes. Raises WeightsError if it is not installed."""
    try:
        import transformers
    except ImportError:
        raise WeightsError(NEEDED) from None
    library: Any = transformers
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    return library


@contextmanager
def loading(source: str) -> Iterator[None]:
    """Turn any error of transformers into a WeightsError of one line."""
    try:
        yield
    except Exception as error:  # it raises all kinds of errors for damaged folders
        lines = str(error).strip().splitlines()
        reason = lines[0][:MAX_ERROR] if lines else repr(error)
        raise WeightsError(f"{source}: transformers does not load it: {reason}") from None


class TransformersNetwork(ForeignNetwork):
    """A network of transformers, built from a TransformersConfig."""

    task: ClassVar[str]  # the class of transformers that builds it

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.family: Any = config.family
        # On the CPU, since constructors compute with their tensors; without advice for designers of models.
        with torch.device("cpu"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.network = getattr(import_transformers(), self.task).from_config(config.library_config())

    def modules_of(self, pattern: str) -> list[nn.Module]:
        """Return the modules of a dotted name, in which `*` stands for a number, in order."""
        wanted = re.compile(re.escape(pattern).replace(r"\*", r"\d+"))
        return [module for name, module in self.network.named_modules() if name and wanted.fullmatch(name)]

    @property
    def backbone(self) -> nn.Module:  # type: ignore[override]
        return self.modules_of(self.family.backbone)[0]

    def stem(self) -> Sequence[nn.Module]:
        """Return the outermost modules of the stem's names, which recur in the blocks behind it."""
        named = [
            (name.count("."), module)
            for name, module in self.backbone.named_modules()
            if name.rpartition(".")[2] in STEM
        ]
        outermost = min((depth for depth, _ in named), default=0)
        return [module for depth, module in named if depth == outermost]

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load tensors, and tie those that the network has under several names again."""
        result = super().load_state_dict(*args, **kwargs)
        self.network.tie_weights()
        return result
