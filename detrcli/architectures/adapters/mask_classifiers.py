"""Mask classifiers of transformers, whose queries have a class and a mask, and no box."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from detrcli.architectures.adapters.architecture import TransformersFolder
from detrcli.architectures.adapters.attention import last_tensor
from detrcli.architectures.adapters.config import MaskConfig, TransformersConfig
from detrcli.architectures.adapters.families import MASK_FAMILIES, MaskFamily
from detrcli.architectures.adapters.network import TransformersNetwork, to_float32
from detrcli.architectures.architecture import DataFacts
from detrcli.architectures.foreign import TOTAL, OwnLoss
from detrcli.boxes import from_pixels, masks_to_boxes
from detrcli.config import LossConfig
from detrcli.losses.masks import mask_cost, pairwise_cross_entropy, pairwise_dice, pairwise_focal
from detrcli.losses.matching import HungarianMatcher
from detrcli.losses.scoring import Softmax
from detrcli.losses.terms import class_cost
from detrcli.model.inspectable import NoAttention, Stage
from detrcli.model.masks import QueryMasks
from detrcli.segmentation.encoder_masks import EncoderMasks
from detrcli.segmentation.mask_classification import MaskClassification
from detrcli.structures import Batch, Output, QueryGroup, Target

PROBABILITIES = "attn_mask_probs"  # EoMT's buffer: the probability of masked attention in each of the last layers


class PairsOfSoftmax(Softmax):
    """A softmax. Detections are the best pairs of query and class, as many as there are queries."""

    name = "pairs of softmax"

    def num_pairs(self, queries: int) -> int | None:
        return queries


class MaskNetwork(TransformersNetwork):
    """A mask classifier. The boxes are those around the masks.

    In training the output contains the loss. With targets outside of training, it contains all layers.
    """

    family: MaskFamily
    has_masks = True
    masks_by_corner = True
    exports_one_size = True  # the windows of Swin are padded by a number that depends on the size of the image
    task = "AutoModelForUniversalSegmentation"

    def __init__(self, config: TransformersConfig) -> None:
        super().__init__(config)
        self.loss = self.network.get_loss_dict
        self.network.get_loss_dict = self._record
        self.loss_parts: Mapping[str, Tensor] = {}

    def forward(self, batch: Batch, targets: Sequence[Target] | None = None) -> Output:
        labels: dict[str, list[Tensor]] = {}
        if self.training and targets is not None:
            labels = {
                "class_labels": [target.labels for target in targets],
                "mask_labels": [_padded(target.masks, batch) for target in targets],
            }
        layers = self.family.auxiliary and targets is not None and not self.training
        output = self.network(
            pixel_values=batch.images, **labels, **({"output_auxiliary_logits": True} if layers else {})
        )
        auxiliary = (output.auxiliary_logits or ()) if layers else ()
        classes = [*(layer["class_queries_logits"] for layer in auxiliary), output.class_queries_logits]
        masks = [*(layer["masks_queries_logits"] for layer in auxiliary), output.masks_queries_logits]
        named = {} if output.loss is None else {TOTAL: output.loss, **self.loss_parts}
        self.loss_parts = {}
        masks = [logits.detach() for logits in masks]  # (B, Q, h, w) of each layer
        boxes = [from_pixels(masks_to_boxes(logits > 0).float(), *logits.shape[-2:]) for logits in masks]
        height, width = batch.images.shape[-2:]
        of_queries = QueryMasks(
            (height, width), lambda images, queries: masks[-1][images, queries], by_corner=self.masks_by_corner
        )
        group = QueryGroup("decoder", torch.stack(classes), torch.stack(boxes), masks=of_queries, mask_logits=masks)
        return Output(group, named=named)

    def prepare_tracing(self) -> None:
        self.network.set_attn_implementation("eager")  # ONNX's decomposition changes the strides of the other
        if PROBABILITIES in dict(self.network.named_buffers()):
            values = getattr(self.network, PROBABILITIES).tolist()
            delattr(self.network, PROBABILITIES)
            setattr(self.network, PROBABILITIES, values)

    def _record(self, *inputs: Any, **named: Any) -> dict[str, Tensor]:
        """Compute the loss in float32 and record its parts."""
        with torch.autocast(next(self.parameters()).device.type, enabled=False):
            parts: dict[str, Tensor] = self.loss(*to_float32(inputs), **to_float32(named))
        self.loss_parts = parts
        return parts


def _padded(masks: Tensor | None, batch: Batch) -> Tensor:
    """Return the masks of a target at the size of the batch, as numbers."""
    assert masks is not None
    height, width = batch.images.shape[-2:]
    return F.pad(masks, (0, width - masks.shape[2], 0, height - masks.shape[1])).float()


class MaskClassifierInspectable(NoAttention):
    """Access to the stages of a mask classifier."""

    def stages(self) -> Sequence[Stage]:
        network = self.model.network
        return [
            Stage("backbone", self.model.backbone, pick=last_tensor),
            Stage("class head", network.class_predictor, 2, pick=last_tensor),
        ]


class MaskClassifierArchitecture(TransformersFolder[MaskConfig]):
    """Models whose queries have masks and no boxes."""

    name = "transformers-masks"
    config = MaskConfig
    model_types = tuple(MASK_FAMILIES)
    network = MaskNetwork
    recipe_uses_data = True

    def scoring(self, config: MaskConfig) -> Softmax:
        return PairsOfSoftmax() if config.family.postprocessing == "pairs" else Softmax()

    def segmentation(self, config: MaskConfig) -> MaskClassification:
        if config.family.postprocessing == "encoder":
            return EncoderMasks()
        return MaskClassification(side=config.family.side_of_masks)

    def make_loss(self, config: MaskConfig, loss: LossConfig) -> OwnLoss:
        """Return the network's loss. Our matcher compares masks at all cells, Mask2Former's at random points."""
        weights, family, scoring = config.library_config(), config.family, self.scoring(config)
        measure = pairwise_focal if family.mask_term == "focal" else pairwise_cross_entropy
        terms = [
            class_cost(scoring, "probability", float(getattr(weights, family.class_weight, 1.0))),
            mask_cost("mask", float(weights.mask_weight), measure),
            mask_cost("dice", float(weights.dice_weight), pairwise_dice),
        ]
        return OwnLoss(scoring, HungarianMatcher(terms))

    def recipe(self, config: MaskConfig, facts: DataFacts) -> Mapping[str, Any]:
        return {"augmentation": "published", **config.family.recipe}

    def inspect(self, model: Any) -> MaskClassifierInspectable:
        return MaskClassifierInspectable(model)


ARCHITECTURE = MaskClassifierArchitecture()
