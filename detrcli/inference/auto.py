"""The engine `auto`: OpenVINO where it saves more time than its start takes, else the fast engine.

The decision depends on the network, the input size, the number of images and whether the export is in the cache, but
not on measured times: the same command computes the same results again.
"""

import importlib.util
import threading

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.errors import UsageError
from detrcli.inference.engines import Engine, FastEngine
from detrcli.inference.export import RUNTIMES, cached_export, export_path
from detrcli.messages import argument
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.reporter import SILENT, Reporter
from detrcli.structures import Batch, Prediction

OPENVINO = RUNTIMES["openvino"]
# Measured on two cores of an AMD EPYC (guide/speed.md).
GFLOPS_PER_THREAD = 80.0  # of the fast engine, per second
SAVED = 0.1  # share of the fast engine's time that OpenVINO saves at least
EXPORT_SECONDS = 20.0  # of tracing, converting, verifying and compiling a network
START_SECONDS = 1.5  # of reading and compiling a network that is in the cache
MIN_IMAGES = 50  # for which it is considered: to count operations takes as long as an image


def has_openvino() -> bool:
    return importlib.util.find_spec("openvino") is not None


def pays(gflop: float, images: int, threads: int, *, cached: bool) -> bool:
    """Return whether OpenVINO saves more time than its start takes, for a number of images of `gflop` each."""
    seconds = images * gflop / (GFLOPS_PER_THREAD * threads)
    return SAVED * seconds > (START_SECONDS if cached else EXPORT_SECONDS)


class AutoEngine:
    """The fast engine, replaced by OpenVINO before the first image, or after enough images.

    `images` is the number of images to come, where it is known. The plain model is freed with the decision.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: DetectionTransformer,
        precision: str,
        images: int | None,
        reporter: Reporter = SILENT,
    ) -> None:
        self._engine: Engine = FastEngine(model, torch.device("cpu"), precision)
        self._undecided: tuple[Checkpoint, DetectionTransformer] | None = checkpoint, model
        self._images, self._seen, self._gflop = images, 0, 0.0
        self._precision, self._reporter = precision, reporter
        self._lock = threading.Lock()

    def __call__(self, batch: Batch) -> Prediction:
        with self._lock:
            self._seen += len(batch.images)
            count = self._seen if self._images is None else self._images
            if self._undecided is not None and count >= MIN_IMAGES:
                self._decide(*self._undecided, batch, count)
            if self._images is not None:
                self._undecided = None
        return self._engine(batch)

    def _decide(self, checkpoint: Checkpoint, model: DetectionTransformer, batch: Batch, count: int) -> None:
        self._gflop = self._gflop or gflop_of(model, Batch(batch.images[:1], None))
        cached = export_path(checkpoint, OPENVINO, self._precision).exists()
        if not pays(self._gflop, count, torch.get_num_threads(), cached=cached):
            return
        self._undecided = None
        try:
            path = cached_export(checkpoint, OPENVINO, self._precision, self._reporter)
            self._engine = OPENVINO.open(path, self._precision)
        except UsageError:  # it cannot be exported
            return
        except Exception as error:  # of torch, OpenVINO, or the file system: the fast engine works without them
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._reporter.note(f"OpenVINO is not used, but {argument('engine', 'fast')}: {reason}")
            return
        self._reporter.note(
            f"computing with OpenVINO, which is faster for this many images ({argument('engine', 'fast')} prevents it)"
        )


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped in torch
    """Counts the operations of torch's operators."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # torch's interface
        result = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func.overloadpacket)) is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def gflop_of(model: DetectionTransformer, batch: Batch) -> float:
    """Return the operations of a network for a batch in units of 10^9; a multiply-add counts as two."""
    # Not in inference mode, in which operators are not decomposed into those that are counted.
    with torch.no_grad(), _Counter() as counter:  # type: ignore[no-untyped-call]  # untyped in torch
        model(batch)
    return counter.total / 1e9
