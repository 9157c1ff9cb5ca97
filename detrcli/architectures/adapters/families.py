"""The families of transformers' detectors, and what sets each apart from the others.

Modules are named by patterns of their dotted names, where `*` stands for a layer's number.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal


@dataclass(frozen=True)
class Attentions:
    """The attention modules of a family, one per layer."""

    kind: Literal["dense", "sampled"]  # of the decoder's cross-attention
    cross: str = "model.decoder.layers.*.encoder_attn"
    among_queries: str = "model.decoder.layers.*.self_attn"
    encoder: str = ""  # self-attention of feature cells; empty if there is none
    encoder_kind: Literal["dense", "sampled"] = "dense"
    projection: str = ""  # module whose output is the feature map that dense attention covers
    # Without a decoder, queries are tokens of the encoder: additional tokens after the cells, or the cells themselves.
    queries: Literal["decoder", "after cells", "cells"] = "decoder"


@dataclass(frozen=True)
class DefaultModel:
    """Measurements of the model with transformers' default config and random weights."""

    parameters: int
    gflop: float  # for one image (and two short phrases), a multiply-add counted as two operations
    height: int  # of the image
    width: int


@dataclass(frozen=True)
class PublishedAP:
    """AP on COCO val2017 that a paper reports. It was not measured here."""

    model: str
    ap: float
    paper: str  # on arXiv


@dataclass(frozen=True, kw_only=True)
class Family:
    """A `model_type` of transformers."""

    title: str
    processor: str  # class of the image processor, if a folder does not name one
    side: str = ""  # where the config has the side of the input, for models with a fixed input size
    # Both sides of the input must be multiples of this number, computed from the content of config.json.
    side_multiple: Callable[[Mapping[str, Any]], int] = lambda facts: 1
    fixed_side: bool = False  # whether both sides must equal this number
    backbone: str = "model.backbone"
    masked: bool = True  # whether the network takes a padding mask
    queries: str = "num_queries"  # where the config has their number; empty if each patch of the image is a query
    default: DefaultModel | None = None  # if transformers' default config is complete
    published: PublishedAP | None = None

    def queries_key(self, config: Any) -> str:
        """Return the name under which a config of transformers has the number of queries."""
        proposals = "two_stage_num_proposals"
        return proposals if getattr(config, "two_stage", False) and hasattr(config, proposals) else self.queries


@dataclass(frozen=True, kw_only=True)
class ClosedSet(Family):
    """A family with a fixed set of classes, each a row of its class head's weight."""

    attentions: Attentions
    scoring: Literal["softmax", "sigmoid"]
    # The strides of the feature maps from whose cells queries are selected; empty if queries are learned.
    strides: Callable[[Mapping[str, Any]], Sequence[float]] = lambda facts: ()
    class_head: str = "class_labels_classifier"  # of the last layer
    box_head: str = "bbox_predictor"
    encoder: str = "model.encoder"  # between backbone and decoder; empty if there is none
    proposals: str = ""  # the module before the proposals' heads, if queries start as proposals
    decoder: str = "model.decoder.layers.*"
    detections: int | None = 100  # selected pairs of query and class; None: as many as queries
    layers: Literal["first", "second"] = "first"  # axis of the decoder layers in the loss function's arguments
    # Norm before the heads, for families whose earlier layers' predictions we compute from recorded hidden states: with
    # `auxiliary_loss` transformers passes normalized hidden states on to the next layer, unlike the paper.
    norm: str = ""
    auxiliary: bool = True  # whether the loss includes the earlier layers' predictions
    clips: bool = False  # whether boxes are clipped to the image, as by the package that published the family
    costs: tuple[str, str, str] = ("class_cost", "bbox_cost", "giou_cost")  # names of their weights in the config
    denoises: bool = False  # whether training adds denoising queries
    recipe: Mapping[str, Any] = field(default_factory=dict)  # default training settings


@dataclass(frozen=True, kw_only=True)
class OpenVocabulary(Family):
    """A family whose classes are phrases that the user gives. Its folders contain a tokenizer."""

    attentions: Attentions
    text: Literal["together", "apart"]  # all phrases in one text, whose tokens queries score; or a text per phrase
    tokenizer: str  # its class in transformers
    vocabulary: Sequence[str]  # its files, if there is no tokenizer.json


@dataclass(frozen=True, kw_only=True)
class MaskFamily(Family):
    """A family whose queries have a class and a mask, and no box."""

    side_of_masks: int | None = None  # of the square to which the processor resizes masks, if it does
    # The matching cost: where the config has the weight of the class term (if empty, 1), and the term of masks.
    class_weight: str = "class_weight"
    mask_term: Literal["cross-entropy", "focal"] = "cross-entropy"
    auxiliary: bool = True  # whether the network can return the predictions of all layers
    # Detections and maps: pairs of query and class, or, for EoMT, the best class of each query.
    postprocessing: Literal["pairs", "encoder"] = "pairs"
    recipe: Mapping[str, Any] = field(default_factory=dict)  # default training settings


_RECIPE = {"lr": 1e-4, "lr_backbone": 1e-5, "weight_decay": 1e-4, "grad_clip": 0.1}
_ENCODER = "model.encoder.layers.*.self_attn"
_AIFI = "model.encoder.aifi.*"  # RT-DETR's encoder layer, on the coarsest level
_YOLOS = "vit.encoder.layer.*.attention.attention"


# fmt: off
_CONDITIONAL = ClosedSet(
    title="Conditional DETR", scoring="sigmoid", processor="ConditionalDetrImageProcessor",
    attentions=Attentions("dense", encoder=_ENCODER, projection="model.input_projection"),
    norm="model.decoder.layernorm", recipe=_RECIPE,
    default=DefaultModel(43_395_528, 165.0, 800, 1066), published=PublishedAP("R50", 40.9, "2108.06152"),
)
_RT = ClosedSet(
    title="RT-DETR", scoring="sigmoid", processor="RTDetrImageProcessor",
    attentions=Attentions("sampled", encoder=f"{_AIFI}.layers.*.self_attn", projection=_AIFI),
    class_head="model.decoder.class_embed.*", box_head="model.decoder.bbox_embed.*",
    proposals="model.enc_bbox_head", detections=None, masked=False, layers="second", denoises=True,
    costs=("matcher_class_cost", "matcher_bbox_cost", "matcher_giou_cost"),
    recipe={**_RECIPE, "weight_decay_on": "matrices", "ema": 0.9999},
    side_multiple=lambda facts: max(facts["feat_strides"]),  # levels are upsampled and joined
    strides=lambda facts: facts["feat_strides"],
    default=DefaultModel(42_731_082, 136.7, 640, 640), published=PublishedAP("R50", 53.1, "2304.08069"),
)
_LW = ClosedSet(
    title="LW-DETR", scoring="sigmoid", processor="DeformableDetrImageProcessor",
    side="backbone_config.image_size",
    side_multiple=lambda facts: facts["backbone_config"]["patch_size"] * facts["backbone_config"]["num_windows_side"],
    strides=lambda facts: [facts["backbone_config"]["patch_size"] / n for n in facts["projector_scale_factors"]],
    attentions=Attentions("sampled", cross="model.decoder.layers.*.cross_attn"),
    class_head="class_embed", box_head="bbox_embed", encoder="", proposals="model.enc_out_bbox_embed.0",
    recipe={**_RECIPE, "lr_backbone": 1.5e-4, "ema": 0.993},
    published=PublishedAP("medium", 52.5, "2406.03459"),
)
FAMILIES: Mapping[str, ClosedSet] = {
    "deformable_detr": ClosedSet(
        title="Deformable DETR", scoring="sigmoid", processor="DeformableDetrImageProcessor",
        attentions=Attentions("sampled", encoder=_ENCODER, encoder_kind="sampled"),
        class_head="class_embed.*", box_head="bbox_embed.*", proposals="model.enc_output_norm",
        recipe={**_RECIPE, "lr": 2e-4, "lr_backbone": 2e-5},
        default=DefaultModel(40_046_792, 327.3, 800, 1066), published=PublishedAP("R50", 43.8, "2010.04159"),
    ),
    "conditional_detr": _CONDITIONAL,
    "dab-detr": replace(
        _CONDITIONAL, title="DAB-DETR", norm="", class_head="class_embed",
        attentions=replace(
            _CONDITIONAL.attentions, cross="model.decoder.layers.*.cross_attn.cross_attn",
            among_queries="model.decoder.layers.*.self_attn.self_attn",
        ),
        default=DefaultModel(43_648_644, 173.1, 800, 1066), published=PublishedAP("R50", 42.2, "2201.12329"),
    ),
    "table-transformer": replace(
        _CONDITIONAL, title="Table Transformer", scoring="softmax", processor="DetrImageProcessor",
        recipe={**_RECIPE, "lr": 5e-5}, default=DefaultModel(41_502_407, 162.3, 800, 1066), published=None,
    ),
    "rt_detr": _RT,
    "rt_detr_v2": replace(_RT, title="RT-DETRv2", published=PublishedAP("R50", 53.4, "2407.17140")),
    "d_fine": replace(
        _RT, title="D-FINE",
        default=DefaultModel(31_083_862, 94.6, 640, 640), published=PublishedAP("L", 54.0, "2410.13842"),
    ),
    "deimv2": replace(
        _RT, title="DEIMv2", backbone="model.conv_encoder",
        default=DefaultModel(29_767_510, 91.6, 640, 640), published=None,
    ),
    "lw_detr": _LW,
    "rf_detr": replace(
        _LW, title="RF-DETR", processor="RfDetrImageProcessor", detections=None, clips=True, published=None,
        side_multiple=lambda facts: facts["backbone_config"]["patch_size"] * facts["backbone_config"]["num_windows"],
        strides=lambda facts: [facts["backbone_config"]["patch_size"]],
    ),
    "yolos": ClosedSet(
        title="YOLOS", scoring="softmax", processor="YolosImageProcessor",
        attentions=Attentions(
            "dense", cross=_YOLOS, among_queries=_YOLOS, encoder=_YOLOS, queries="after cells",
            projection="vit.embeddings.patch_embeddings",
        ),
        backbone="vit.embeddings", encoder="", decoder="vit.encoder.layer.*", queries="num_detection_tokens",
        masked=False, norm="vit.layernorm", auxiliary=False,
        recipe={**_RECIPE, "lr": 2.5e-5, "lr_backbone": 2.5e-5},
        default=DefaultModel(104_947_975, 313.2, 512, 864), published=PublishedAP("base", 42.0, "2106.00666"),
    ),
}
# Detectors with masks, which have the `model_type` of the detector and another class in config.json.
INSTANCE_FAMILIES: Mapping[str, ClosedSet] = {
    "rf_detr": replace(FAMILIES["rf_detr"], title="RF-DETR with masks"),
}

_GROUNDING = OpenVocabulary(
    title="Grounding DINO", processor="GroundingDinoImageProcessor",
    attentions=Attentions(
        "sampled", encoder="model.encoder.layers.*.deformable_layer.self_attn", encoder_kind="sampled"
    ),
    text="together", tokenizer="BertTokenizer", vocabulary=("vocab.txt",),
    default=DefaultModel(172_250_626, 656.0, 800, 1066), published=PublishedAP("T, zero-shot", 48.4, "2303.05499"),
)


def _owl(name: str, title: str, processor: str, default: DefaultModel) -> OpenVocabulary:
    """Return a family whose queries are the patches of its vision encoder; `name` is that of its main module."""
    layers = f"{name}.vision_model.encoder.layers.*.self_attn"
    return OpenVocabulary(
        title=title, processor=processor, side="vision_config.image_size", backbone=f"{name}.vision_model",
        side_multiple=lambda facts: facts["vision_config"]["patch_size"],  # pixels beyond the last patch are ignored
        attentions=Attentions(
            "dense", cross=layers, among_queries="", encoder=layers, queries="cells",
            projection=f"{name}.vision_model.embeddings.patch_embedding",
        ),
        queries="", masked=False, text="apart", tokenizer="CLIPTokenizer", vocabulary=("vocab.json", "merges.txt"),
        default=default,
    )


OPEN_VOCABULARY: Mapping[str, OpenVocabulary] = {
    "grounding-dino": _GROUNDING,
    "mm-grounding-dino": replace(
        _GROUNDING, title="MM Grounding DINO", default=DefaultModel(172_250_628, 656.0, 800, 1066), published=None
    ),
    "owlv2": _owl("owlv2", "OWLv2", "Owlv2ImageProcessor", DefaultModel(153_971_464, 407.7, 768, 768)),
    "owlvit": _owl("owlvit", "OWL-ViT", "OwlViTImageProcessor", DefaultModel(153_231_879, 103.3, 768, 768)),
}

_MASKFORMER = MaskFamily(
    title="MaskFormer", processor="MaskFormerImageProcessor", queries="decoder_config.num_queries",
    backbone="model.pixel_level_module.encoder", masked=False, class_weight="", mask_term="focal",
    recipe={**_RECIPE, "grad_clip": 0.01}, default=DefaultModel(101_793_403, 771.8, 800, 1088),
)
_EOMT = MaskFamily(
    title="EoMT", processor="EomtImageProcessor", side="image_size", side_multiple=lambda facts: facts["image_size"],
    fixed_side=True, backbone="embeddings", masked=False, auxiliary=False, postprocessing="encoder",
    recipe={**_RECIPE, "lr_backbone": 1e-4, "weight_decay": 0.05, "weight_decay_on": "matrices", "grad_clip": 0.01},
    default=DefaultModel(316_561_411, 1389.3, 640, 640),
)
MASK_FAMILIES: Mapping[str, MaskFamily] = {
    "mask2former": replace(
        _MASKFORMER, title="Mask2Former", processor="Mask2FormerImageProcessor", queries="num_queries",
        side_of_masks=384, class_weight="class_weight", mask_term="cross-entropy",
        recipe={**_RECIPE, "weight_decay": 0.05, "weight_decay_on": "matrices", "grad_clip": 0.01},
        default=DefaultModel(68_721_037, 591.3, 800, 1088),
        published=PublishedAP("R50, of masks", 43.7, "2112.01527"),
    ),
    "maskformer": _MASKFORMER,
    "eomt": _EOMT,
    "eomt_dinov3": replace(_EOMT, title="EoMT-DINOv3", default=DefaultModel(314_898_435, 1389.3, 640, 640)),
}
# fmt: on
