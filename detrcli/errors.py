"""Errors that users can act on, each kind with its exit code; any other exception is a bug.

A message states the problem, the file or item, and the remedy, in up to three lines, with arguments as `argument()`.
"""

import errno
from typing import ClassVar

from detrcli.messages import Wording, argument, in_python, word


class DetrError(Exception):
    """An error that the user can act on."""

    exit_code: ClassVar[int] = 1
    alone = False  # whether only one of several processes raised it

    @property
    def message(self) -> str:
        """The message with its arguments still marked, to be part of another message."""
        return super().__str__()

    def text(self, wording: Wording = in_python) -> str:
        """Return the message with its marked arguments in the given wording."""
        return word(self.message, wording)

    def __str__(self) -> str:
        return self.text()


class UsageError(DetrError):
    """Options, config keys and their values."""

    exit_code = 2


class DataError(DetrError):
    """Datasets and images."""

    exit_code = 3


class WeightsError(DetrError):
    """Weights, checkpoints and downloads."""

    exit_code = 4


class DivergedError(DetrError):
    """Numbers that are no longer finite."""

    exit_code = 5


class MachineError(DetrError):
    """The disk, permissions, devices, memory, and incompatible libraries."""

    exit_code = 6


_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free some space there, or choose another path."),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Choose another path, or change its permissions."),
    errno.ENOTDIR: "A part of the path is a file. Choose another path.",
    errno.EMFILE: f"Too many open files: raise `ulimit -n`, or use fewer {argument('workers')}.",
}


def loader_was_killed(error: BaseException) -> bool:
    """Return whether a DataLoader worker was killed, as opposed to an exception inside it."""
    # torch's messages end in "(pid 7) is killed by signal" or "(pid(s) 7, 8) exited unexpectedly". For an exception the
    # message is "Caught KeyError in DataLoader worker process 0."
    return str(error).startswith("DataLoader worker (pid")


def to_user_error(error: BaseException) -> DetrError | None:
    """Convert an exception of another library to an error for users; None if users cannot cause it."""
    if isinstance(error, DetrError):
        return error
    text = str(error)
    if "operator torchvision::nms does not exist" in text:
        from importlib import metadata  # slow to import, and help does not need it

        torch, torchvision = metadata.version("torch"), metadata.version("torchvision")
        return MachineError(
            f"torch {torch} and torchvision {torchvision} are incompatible builds.\n"
            "Install both from the same index: pip install --force-reinstall torch torchvision"
        )
    # torch.OutOfMemoryError by name, because this module does not import torch; and torch's message on a CPU.
    on_gpu = type(error).__name__ == "OutOfMemoryError"
    if on_gpu or isinstance(error, MemoryError) or "can't allocate memory" in text:
        other = f", or {argument('device', 'cpu')}" if on_gpu else ""
        return MachineError(f"Out of memory. Use a smaller {argument('size')} or {argument('batch_size')}{other}.")
    if "Expected more than 1 value per channel when training" in text:
        return UsageError(
            f"Batch and images are so small that {argument('norm', 'batch')} has only one value per channel.\n"
            f"Use a larger {argument('batch_size')} or {argument('size')}, or {argument('norm', 'group')}."
        )
    if loader_was_killed(error):
        return MachineError(
            "A process that loads images was killed; memory or shared memory may have run out.\n"
            f"Use fewer {argument('workers')} (0 loads in the main process), or a smaller {argument('batch_size')}."
        )
    if "gloo/transport" in text or type(error).__name__ == "DistBackendError":
        return MachineError("Another process of this command has ended or cannot be reached. See its message.")
    if isinstance(error, OSError) and error.strerror:
        problem = error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
        if error.errno == errno.ENAMETOOLONG:
            return UsageError(f"{problem}\nUse a shorter name.")
        return MachineError(f"{problem}\n{_REMEDIES.get(error.errno or 0, '')}".rstrip())
    return None


# Messages of several modules.
NOT_FINITE = (
    "The model's predictions are not finite.\n"
    "The weights do not fit their config or are broken. In fp16, numbers may also overflow; use bf16 or fp32."
)
EXPORT_ONLY_PREDICTS = (
    "{}: an exported model can only predict.\n"
    "Use it with `detr predict` and `detr eval`. Other commands need the weights from which it was exported."
)
