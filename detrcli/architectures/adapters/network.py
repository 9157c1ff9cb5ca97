"""Networks of transformers as networks of ours."""

import copy
import re
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from detrcli.architectures.adapters.config import ClosedSetConfig, OpenVocabularyConfig, TransformersConfig
from detrcli.architectures.adapters.families import ClosedSet, OpenVocabulary
from detrcli.architectures.adapters.library import import_transformers
from detrcli.architectures.adapters.originals.rt_detr import HEAD_ACTIVATION
from detrcli.architectures.foreign import TOTAL, ForeignNetwork
from detrcli.errors import UsageError
from detrcli.messages import argument
from detrcli.structures import Batch, Match, Output, QueryGroup, Target

STEM = ("embedder", "conv1", "bn1", "layer1")  # names of the first layers in the backbones of transformers


class TransformersNetwork(ForeignNetwork):
    task: ClassVar[str]  # the class of transformers that builds it

    def __init__(self, config: TransformersConfig) -> None:
        super().__init__()
        self.family: Any = config.family
        # On the CPU, since constructors compute with their tensors; without advice for designers of models.
        with torch.device("cpu"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.network = getattr(import_transformers(), self.task).from_config(config.library_config())

    @property
    def detector(self) -> nn.Module:
        """The network without its mask head, if it has one."""
        return self.network

    def modules_of(self, pattern: str) -> list[nn.Module]:
        """Return the modules of a dotted name in the detector, in which `*` stands for a number, in order."""
        wanted = re.compile(re.escape(pattern).replace(r"\*", r"\d+"))
        return [module for name, module in self.detector.named_modules() if name and wanted.fullmatch(name)]

    @property
    def backbone(self) -> nn.Module:  # type: ignore[override]  # the library's module
        return self.modules_of(self.family.backbone)[0]

    def stem(self) -> Sequence[nn.Module]:
        """Return the outermost modules of the stem's names, which recur in the blocks behind it."""
        modules = [(name, module) for name, module in self.backbone.named_modules() if name.split(".")[-1] in STEM]
        outermost = min((name.count(".") for name, _ in modules), default=0)
        return [module for name, module in modules if name.count(".") == outermost]

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Return the images, and the mask of the pixels that are not padding if the network takes it."""
        inputs = {"pixel_values": batch.images}
        if self.family.masked and batch.padding is not None:
            inputs["pixel_mask"] = (~batch.padding).long()
        return inputs

    def compute(self, **inputs: Any) -> Any:
        """Return the output of the network. Raises UsageError for an image with fewer tokens than queries."""
        try:
            return self.network(**inputs)
        except RuntimeError as error:  # of torch.topk
            if "index k out of range" not in str(error):
                raise
            height, width = inputs["pixel_values"].shape[2:]
            raise UsageError(
                f"An input of {width} x {height} pixels has fewer feature cells than the model has queries.\n"
                f"Use a larger {argument('size')}."
            ) from None

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load tensors, and tie those that the network has under several names again."""
        result = super().load_state_dict(*args, **kwargs)
        self.network.tie_weights()
        return result


class SiluMLP(nn.Module):
    """The DFineMLPPredictionHead of transformers with SiLU instead of ReLU."""

    def __init__(self, layers: Any) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.silu(layer(x))
        output: Tensor = self.layers[-1](x)
        return output


def _use_silu(network: nn.Module) -> None:
    """Use SiLU in the small heads of D-FINE, as DEIM does. Modules that occur several times stay the same module."""
    replaced: dict[nn.Module, nn.Module] = {}
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child).__name__ == "DFineMLPPredictionHead":
                setattr(module, name, replaced.setdefault(child, SiluMLP(child.layers)))
            elif type(module).__name__ == "DFineMLP" and isinstance(child, nn.ReLU):
                setattr(module, name, nn.SiLU())


class AdaptedNetwork(TransformersNetwork):
    """A closed-set detector with its own loss.

    In training, and with targets, the output also contains the query groups that the loss supervises beside the
    decoder's. In training it contains the loss.
    """

    family: ClosedSet
    task = "AutoModelForObjectDetection"

    def __init__(self, config: ClosedSetConfig) -> None:
        super().__init__(config)
        if getattr(self.network.config, HEAD_ACTIVATION, None) == "silu":
            _use_silu(self.network)
        self.queries = config.queries
        self.loss = self.network.loss_function
        self.network.loss_function = self._record  # it gets the predictions of every layer, in all families
        self.computes_loss = False
        self.layers: tuple[Tensor, Tensor] | None = None  # logits (L, B, Q, R) and boxes (L, B, Q, 4) of all queries
        self.proposals: Sequence[Tensor | None] = ()  # logits (B, Q, R) and boxes (B, Q, 4)
        self.hidden: list[Tensor] = []  # (B, Q, C) of each decoder layer, if the family's norm comes after them
        self.centers: list[Tensor] = []  # (Q, B, 2), to which the boxes of Conditional DETR are relative

    def forward(self, batch: Batch, targets: Sequence[Target] | None = None) -> Output:
        if torch.compiler.is_exporting():
            return self.last_layer(batch)
        labels = [self.labels(target, batch) for target in targets or ()]
        self.computes_loss = self.training and targets is not None
        with self._as_in_training(denoising=bool(labels)), self._recording_hidden_states():
            output = self.compute(**self.inputs(batch), labels=labels)
        assert self.layers is not None
        logits, boxes = self.layers
        proposals = [part[None, :, : self.queries] for part in self.proposals if part is not None]
        self.layers, self.proposals = None, ()
        others = [QueryGroup("proposals", proposals[0], proposals[1])] if proposals else []
        denoising, first = getattr(output, "denoising_meta_values", None), 0
        if denoising is not None:
            first = denoising["dn_num_split"][0]
            if targets is not None:
                match = _denoising_match(denoising["dn_positive_idx"], targets, logits)
                others.append(QueryGroup("denoising", logits[:, :, :first], boxes[:, :, :first], match=match))
        named = {} if output.loss is None else {TOTAL: output.loss, **output.loss_dict}
        matching = slice(first, first + self.queries)  # other groups of the same queries may follow
        return Output(QueryGroup("decoder", logits[:, :, matching], boxes[:, :, matching]), tuple(others), named)

    def last_layer(self, batch: Batch) -> Output:
        """Return the predictions of the last layer only."""
        output = self.network(**self.inputs(batch))
        return Output(QueryGroup("decoder", output.logits[None], output.pred_boxes[None]))

    def labels(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        """Return a target in the format of transformers' loss functions."""
        return {"class_labels": target.labels, "boxes": target.boxes}

    def _record(
        self,
        logits: Tensor,
        labels: Any,
        device: torch.device,
        boxes: Tensor,
        config: Any,
        outputs_class: Tensor | None = None,
        outputs_coord: Tensor | None = None,
        *proposals: Tensor | None,
        **more: Any,
    ) -> tuple[Any, Any, Any]:
        """Record the predictions of every layer and the proposals, then compute the loss if it is needed."""
        all_logits, all_boxes = outputs_class, outputs_coord
        if all_logits is None and self.hidden:
            all_logits, all_boxes = self._predict_layers()
            if self.family.auxiliary:
                outputs_class, outputs_coord = all_logits, all_boxes
                config = copy.copy(config)
                config.auxiliary_loss = True
        if all_logits is None or all_boxes is None:
            self.layers = logits[None], boxes[None]
        else:
            if self.family.layers == "second":
                all_logits, all_boxes = all_logits.transpose(0, 1), all_boxes.transpose(0, 1)
            # Some have a prediction before the first layer; some stop at a layer before the last.
            layers: Any = self.detector.get_submodule(self.family.decoder.removesuffix(".*"))  # faster than a search
            before = max(0, len(all_logits) - len(layers))
            end = before + 1 + int(getattr(self.network, "eval_idx", len(all_logits) - before - 1))
            self.layers = all_logits[before:end], all_boxes[before:end]
        self.proposals = proposals or (more.get("enc_topk_logits"), more.get("enc_topk_bboxes"))
        if not self.computes_loss:
            return None, None, None
        inputs = (logits, labels, device, boxes, config, outputs_class, outputs_coord, *proposals)
        with torch.autocast(device.type, enabled=False):  # in float32, as our losses
            result: tuple[Any, Any, Any] = self.loss(*to_float32(inputs), **to_float32(more))
        return result

    def _predict_layers(self) -> tuple[Tensor, Tensor]:
        """Apply the heads to every layer's hidden states, normalized as in the paper."""
        network: Any = self.network
        (norm,) = self.modules_of(self.family.norm)
        # Queries that are tokens of the encoder are its last tokens.
        states = norm(torch.stack(self.hidden))[:, :, -self.queries :]  # (L, B, Q, C)
        boxes = network.bbox_predictor(states)
        for points in self.centers:
            x, y = points.transpose(0, 1).clamp(1e-5, 1 - 1e-5).logit().unbind(-1)  # each (B, Q)
            boxes = boxes + torch.stack([x, y, torch.zeros_like(x), torch.zeros_like(x)], -1)
        return network.class_labels_classifier(states), boxes.sigmoid()

    @contextmanager
    def _recording_hidden_states(self) -> Iterator[None]:
        def record_hidden(_module: nn.Module, _args: Any, output: Any) -> None:
            self.hidden.append(output if isinstance(output, Tensor) else output[0])

        def record_centers(_module: nn.Module, _args: Any, output: Any) -> None:
            self.centers.extend([output.reference_points] if hasattr(output, "reference_points") else [])

        with ExitStack() as hooks:
            hooks.callback(self.hidden.clear)
            hooks.callback(self.centers.clear)
            if self.family.norm:
                for module in self.modules_of(self.family.decoder):
                    hooks.enter_context(module.register_forward_hook(record_hidden))
                for module in self.modules_of("model.decoder"):
                    hooks.enter_context(module.register_forward_hook(record_centers))
            yield

    @contextmanager
    def _as_in_training(self, *, denoising: bool) -> Iterator[None]:
        """Set the mode of the modules that return all layers, and denoising queries, in training only.

        Nothing else in these modules depends on their own mode: dropout and norms are modules below them.
        """
        modules = []
        if self.family.denoises and not self.training:
            modules = [self.network.model.decoder, *([self.network.model] if denoising else [])]
        for module in modules:
            module.training = True
        try:
            yield
        finally:
            for module in modules:
                module.training = False


def to_float32(values: Any) -> Any:
    """Convert all floating-point tensors in nested containers."""
    if isinstance(values, Tensor):
        return values.float() if values.is_floating_point() else values
    if isinstance(values, dict):
        return {key: to_float32(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(to_float32(value) for value in values)
    return values


def _denoising_match(positive: Sequence[Tensor], targets: Sequence[Target], logits: Tensor) -> Match:
    """Return the match of denoising queries in all layers of the logits; `positive` are the queries of each image."""
    ends = torch.tensor([len(target) for target in targets]).cumsum(0).tolist()
    pairs = [
        (image, query, end - len(target) + number % len(target))
        for image, (target, end) in enumerate(zip(targets, ends, strict=True))
        for number, query in enumerate(positive[image].tolist())
    ]
    indices = torch.tensor(pairs, device=logits.device).view(-1, 3).T  # (3, P)
    layers = torch.arange(len(logits), device=logits.device).repeat_interleave(len(pairs))
    return Match(layers, *indices.repeat(1, len(logits)))


class OpenVocabularyNetwork(TransformersNetwork):
    """A detector with the phrases that it detects in every image."""

    family: OpenVocabulary
    texts: Tensor  # (P, T), tokens
    text_mask: Tensor  # (P, T), 0 for the padding of shorter texts
    task = "AutoModelForZeroShotObjectDetection"

    def __init__(self, config: OpenVocabularyConfig) -> None:
        super().__init__(config)
        rows = [torch.tensor(row) for row in config.texts]
        mask = [torch.ones_like(row) for row in rows]
        self.register_buffer("texts", pad_sequence(rows, batch_first=True), persistent=False)
        self.register_buffer("text_mask", pad_sequence(mask, batch_first=True), persistent=False)

    def forward(self, batch: Batch, targets: Sequence[Target] | None = None) -> Output:
        B = len(batch.images)
        texts = {"input_ids": self.texts.repeat(B, 1), "attention_mask": self.text_mask.repeat(B, 1)}  # (B * P, T)
        logits, boxes = self.predict(self.inputs(batch) | texts)
        return Output(QueryGroup("decoder", logits, boxes))

    @abstractmethod
    def predict(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return logits (L, B, Q, K) and boxes (L, B, Q, 4) for the inputs of the network."""


class TokenNetwork(OpenVocabularyNetwork):
    """All phrases are one text, and queries score its tokens. A phrase has the score of its best token."""

    def __init__(self, config: OpenVocabularyConfig) -> None:
        super().__init__(config)
        self.spans = config.spans
        self.outputs: list[Tensor] = []
        self.network.loss_function = self._record

    def _record(self, *_last: Any, outputs_class: Tensor, outputs_coord: Tensor, **_more: Any) -> tuple[None, ...]:
        """Replace the loss function, which gets the predictions of every layer."""
        self.outputs = [outputs_class, outputs_coord]
        return None, None, None

    def predict(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        if torch.compiler.is_exporting():  # the last layer, without loops over the images
            output = self.network(**inputs)
            tokens, boxes = output.logits[None], output.pred_boxes[None]
        else:
            self.compute(**inputs, labels=[])  # labels, without objects, so that the network calls its loss function
            tokens, boxes = self.outputs  # (L, B, Q, T), (L, B, Q, 4)
            self.outputs = []
        return torch.stack([tokens[..., first:end].amax(-1) for first, end in self.spans], -1), boxes


class PatchNetwork(OpenVocabularyNetwork):
    """Every phrase is a text, and queries are the patches of the image."""

    def predict(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        side = self.network.config.vision_config.image_size
        resized = tuple(inputs["pixel_values"].shape[2:]) != (side, side)
        output = self.network(**inputs, interpolate_pos_encoding=resized)
        return output.logits[None], output.pred_boxes[None]
