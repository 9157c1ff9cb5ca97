"""A detector, and what one asks of it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detrcli.checkpoints.load import load_checkpoint
from detrcli.checkpoints.phrases import phrases_of
from detrcli.errors import UsageError
from detrcli.inference.detector import Detector as _Detector
from detrcli.inference.detector import ImageSource
from detrcli.inference.engines import Engine, EngineName
from detrcli.inference.export import CPU, Runtime, read_exported, runtime_of
from detrcli.reporter import SILENT, Reporter
from detrcli.structures import Detections
from detrcli.system.devices import find_device

Text = str | Sequence[str] | None  # what a model that takes phrases shall look for

if TYPE_CHECKING:
    from detrcli.inspection.explained import GroupMatching
    from detrcli.render.attention_report import AttentionReport


class Detector(_Detector):
    """A model on a device, with all it takes to go from a picture to detections, and to look inside."""

    def attention(self, image: ImageSource, **chosen: Any) -> "AttentionReport":
        """Where queries look in a picture, as `detrcli.look` gives it."""
        from detrcli.render.attention_report import look

        return look(self, image, **chosen)

    def match(self, image: ImageSource, boxes: Any, labels: Any) -> "GroupMatching":
        """How the objects of a picture are matched: boxes x0, y0, x1, y1 in pixels, labels as names or indices."""
        import torch

        from detrcli.boxes import from_pixels
        from detrcli.errors import DataError
        from detrcli.inspection.explained import explain_group
        from detrcli.inspection.look import record_picture
        from detrcli.structures import Target
        from detrcli.system.text import normalize_name

        record = record_picture(self, image)
        known = {normalize_name(str(name)): i for i, name in enumerate(self.classes.names)}
        indices = []
        for label in labels:
            index = known.get(normalize_name(label)) if isinstance(label, str) else int(label)
            if index is None or not 0 <= index < len(self.classes):
                raise DataError(f"{label}: the weights have no such class.")
            indices.append(index)
        corners = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        height, width = record.size
        target = Target(torch.tensor(indices, dtype=torch.long), from_pixels(corners, height, width, record.placement))
        target = target.to(self.device)
        return explain_group(record.forward.output.decoder, target, self.checkpoint.make_loss())


def load(
    weights: str | Path = "detr-r50",
    device: str = "auto",
    *,
    precision: str | None = None,
    model: str | None = None,
    sha256: str | None = None,
    size: int | None = None,
    max_size: int | None = None,
    text: Text = None,
    class_names: Sequence[str] = (),
    engine: EngineName | None = None,
    progress: Reporter = SILENT,
    note: Callable[[str], None] = lambda text: None,
) -> Detector:
    """A detector from anything that `--weights` takes: a name, a file, a folder, `hf:OWNER/NAME`, a URL.

    Models that look for phrases look for those of `text`: "a cat. a remote control.", or a list; where there is none,
    for `class_names`. `engine` says how the network is computed: plain, fast, compiled, openvino or onnx. It is
    fast where that helps.
    """
    find_device(device)  # before anything is fetched
    phrases = None if text is None else phrases_of(text)
    if phrases is None and (runtime := runtime_of(str(weights))):
        return _exported(Path(weights), runtime, device, precision, engine, size, max_size)
    loaded = load_checkpoint(
        str(weights), model=model, sha256=sha256, reporter=progress, phrases=phrases, class_names=class_names
    )
    return Detector.of(loaded.resized(size, max_size), device, precision or "fp32", engine, note)


def _exported(
    path: Path,
    runtime: Runtime,
    device: str,
    precision: str | None,
    engine: EngineName | None,
    size: int | None,
    max_size: int | None,
) -> Detector:
    if engine not in (None, runtime.name):
        raise UsageError(f"{path}: --engine {engine} cannot run it; it is {runtime.name}.")
    if device not in ("auto", "cpu"):
        raise UsageError(f"{path}: {runtime.name} computes on the CPU: give --device cpu.")
    weights, written_in = read_exported(path, runtime)
    chosen = written_in if precision is None else precision
    if chosen != written_in and not {chosen, written_in} <= set(runtime.computes):
        raise UsageError(f"{path}: it was written in {written_in}; export it again for {chosen}.")
    computed: Engine = runtime.code().engine(path, chosen)
    return Detector(weights.resized(size, max_size), CPU, chosen, engine=computed)


def as_detector(
    weights: "str | Path | _Detector", device: str = "auto", text: Text = None, class_names: Sequence[str] = ()
) -> _Detector:
    """A detector that is one already, or one with these weights."""
    if not isinstance(weights, _Detector):
        return load(weights, device, text=text, class_names=class_names)
    if text is not None:
        raise UsageError("A detector looks for what it was made for: give the text when it is loaded.")
    return weights


def predict(
    images: ImageSource | list[ImageSource],
    weights: "str | Path | _Detector" = "detr-r50",
    *,
    threshold: float = 0.7,
    batch_size: int = 1,
    text: Text = None,
    device: str = "auto",
) -> Detections | list[Detections]:
    """Detections with score >= threshold: of one picture, or of a list, in its order."""
    return as_detector(weights, device, text).predict(images, threshold, batch_size)
