"""Errors that users can act on, each kind with its exit code.

A message states the problem, the file or item, and the remedy, in one to three lines. It mentions arguments by
`argument()`. Any other exception is a bug.
"""

import errno
from typing import ClassVar

from detrcli.messages import Wording, in_python, word


class DetrError(Exception):
    """An error that the user can act on."""

    exit_code: ClassVar[int] = 1
    alone = False  # whether, of several processes, this one alone has met it

    def text(self, wording: Wording = in_python) -> str:
        """Return the message with the arguments that it mentions in the given wording."""
        return word(super().__str__(), wording)

    def __str__(self) -> str:
        return self.text()


class UsageError(DetrError):
    """Options, config keys and their values."""

    exit_code = 2


class DataError(DetrError):
    """Data sets and pictures."""

    exit_code = 3


class WeightsError(DetrError):
    """Weights, checkpoints and downloads."""

    exit_code = 4


class DivergedError(DetrError):
    """Numbers that are no longer finite."""

    exit_code = 5


class MachineError(DetrError):
    """The disk, permissions, devices, memory, and libraries that do not fit each other."""

    exit_code = 6


_WAYS_OUT = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Make room there, or give another place."),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Give another place, or the right to use this one."),
    errno.ENOTDIR: "A part of that path is a file: give another place.",
    errno.EMFILE: "Too many files are open: raise `ulimit -n`, or use fewer --set workers=N.",
}


def loader_was_killed(error: BaseException) -> bool:
    """Whether a process that loads pictures ended from outside; an exception inside one is no such thing.

    torch says "DataLoader worker (pid 7) is killed by signal" or "(pid(s) 7, 8) exited unexpectedly" of the
    one, and "Caught KeyError in DataLoader worker process 0." of the other.
    """
    return str(error).startswith("DataLoader worker (pid")


def to_user_error(error: BaseException) -> DetrError | None:
    """What a foreign exception means to the user; None if it is not one that users cause."""
    if isinstance(error, DetrError):
        return error
    if "operator torchvision::nms does not exist" in str(error):
        from importlib import metadata  # slow to import, and on the way of every help screen

        torch, torchvision = metadata.version("torch"), metadata.version("torchvision")
        return MachineError(
            f"torch {torch} and torchvision {torchvision} are builds that do not fit each other.\n"
            "Install the two together from one index: pip install --force-reinstall torch torchvision"
        )
    # By name: this does not import torch.
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return MachineError("Out of memory: use a smaller --size or --batch-size, or --device cpu.")
    if "can't allocate memory" in str(error):  # torch's words for it on a CPU
        return MachineError("Out of memory: use a smaller --size or --batch-size.")
    if "Expected more than 1 value per channel when training" in str(error):
        return UsageError(
            "norm = batch has a single value of each channel to normalise, so small are batch and pictures.\n"
            "Give a larger --batch-size or --size, or --set norm=group."
        )
    if loader_was_killed(error):
        return MachineError(
            "A process that loads pictures was killed; memory, or shared memory, may have run out.\n"
            "Use fewer of them (--set workers=N; 0 loads in the main process), or a smaller --batch-size."
        )
    if "gloo/transport" in str(error) or type(error).__name__ == "DistBackendError":
        return MachineError("Another process of this command has ended, or is out of reach; it said why.")
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename is not None else ""
        if error.errno == errno.ENAMETOOLONG:
            return UsageError(f"{error.strerror}{where}\nGive a shorter name.")
        way = _WAYS_OUT.get(error.errno or 0)
        return MachineError(f"{error.strerror}{where}" + (f"\n{way}" if way else ""))
    return None


NOT_FINITE = (
    "The model's predictions are not finite numbers.\n"
    "Its weights do not fit their config or are broken; in fp16 numbers also overflow: try bf16 or fp32."
)
NOTHING_INSIDE = (
    "{}: an exported model computes, and shows nothing of how.\n"
    "`detr predict` and `detr eval` take it; for all else give the weights that it was made from."
)
