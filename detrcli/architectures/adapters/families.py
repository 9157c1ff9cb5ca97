"""What sets one family of transformers' detectors apart from the others: an entry in a table.

Modules are named by patterns of their dotted names, where `*` stands for a layer's number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal


@dataclass(frozen=True)
class Attentions:
    """Where a family's attention modules are, one of each for every layer."""

    kind: Literal["dense", "sampled"]  # of the decoder's cross-attention
    cross: str = "model.decoder.layers.*.encoder_attn"
    among_queries: str = "model.decoder.layers.*.self_attn"
    encoder: str = ""  # of cells; none where there is no encoder, or no attention in it
    encoder_kind: Literal["dense", "sampled"] = "dense"
    projection: str = ""  # which gives the map that dense attention looks at, of cells or of the encoder
    # Where there is no decoder, queries are tokens of the encoder: some behind its cells, or the cells themselves.
    queries: Literal["of the decoder", "behind the cells", "the cells"] = "of the decoder"


@dataclass(frozen=True)
class DefaultModel:
    """What was measured of a model with random weights."""

    parameters: int
    gflop: float  # of one picture, and of two short phrases; a multiplication and an addition counted as two
    height: int  # of that picture
    width: int


@dataclass(frozen=True)
class PublishedAP:
    """What a paper says that a model of the family reaches on COCO val2017; it was not measured here."""

    model: str
    ap: float
    paper: str  # its number on arXiv


@dataclass(frozen=True, kw_only=True)
class Family:
    """A `model_type`."""

    title: str
    processor: str  # the class of its image processor, where a folder does not say
    side: str = ""  # in its config, that of such a processor's input, where only one size will do
    resizing: Literal["antialiased", "rescaled first", "padded first"] = "antialiased"
    divisor: int = 1  # which both sides of its input are cut to a multiple of
    backbone: str = "model.backbone"
    masked: bool = True  # whether it is told what of a batch is padding
    # The model that transformers' default config gives, where that is complete.
    default: DefaultModel | None = None
    published: PublishedAP | None = None


@dataclass(frozen=True, kw_only=True)
class ClosedSet(Family):
    """One whose classes are rows of its head."""

    attentions: Attentions
    scoring: Literal["softmax", "sigmoid"]
    class_head: str  # the last one
    box_head: str
    encoder: str = ""  # what stands between backbone and decoder, if anything does
    proposals: str = ""  # what makes every token ready to propose a box, where queries begin so
    decoder: str = "model.decoder.layers.*"
    detections: int | None = 100  # pairs of query and class that are selected; None: as many as queries
    queries: str = "num_queries"  # in its config
    layers: Literal["first", "second"] = "first"  # which axis of what its loss sees counts the decoder layers
    # The norm before its heads, where what the layers answer is computed beside the network: with `auxiliary_loss`
    # these decoders would go on from normalised hidden states, which is another network than the paper's.
    norm: str = ""
    auxiliary: bool = True  # whether its loss takes the earlier layers' answers too
    costs: tuple[str, str, str] = ("class_cost", "bbox_cost", "giou_cost")  # of class, L1 and GIoU, in its config
    denoises: bool = False  # in training
    recipe: Mapping[str, Any] = field(default_factory=dict)  # where the user says nothing


@dataclass(frozen=True, kw_only=True)
class OpenVocabulary(Family):
    """One whose classes are phrases that a user gives; its folder holds a tokenizer too."""

    attentions: Attentions
    # How phrases are read: as one text, of which queries answer to each token, or as a text each.
    text: Literal["together", "apart"]
    tokenizer: str  # its class
    vocabulary: Sequence[str]  # the files of it, where there is no tokenizer.json


@dataclass(frozen=True, kw_only=True)
class MaskFamily(Family):
    """One whose queries have a class and a mask, and no box."""

    queries: str  # where its config says how many
    side_of_masks: int | None = None  # of the square that its processor enlarges masks to; None: it does not


_RT = ClosedSet(
    title="RT-DETR",
    scoring="sigmoid",
    processor="RTDetrImageProcessor",
    attentions=Attentions(
        "sampled", encoder="model.encoder.aifi.*.layers.*.self_attn", projection="model.encoder.aifi.*"
    ),
    class_head="model.decoder.class_embed.*",
    box_head="model.decoder.bbox_embed.*",
    encoder="model.encoder",
    proposals="model.enc_bbox_head",
    detections=None,
    masked=False,
    layers="second",
    costs=("matcher_class_cost", "matcher_bbox_cost", "matcher_giou_cost"),
    denoises=True,
    recipe={
        "lr": 1e-4,
        "lr_backbone": 1e-5,
        "weight_decay": 1e-4,
        "weight_decay_on": "matrices",
        "grad_clip": 0.1,
        "ema": 0.9999,
    },
    default=DefaultModel(42_731_082, 136.7, 640, 640),
    published=PublishedAP("R50", 53.1, "2304.08069"),
)
_LW = ClosedSet(
    title="LW-DETR",
    scoring="sigmoid",
    processor="DeformableDetrImageProcessor",
    side="backbone_config.image_size",  # which its windows divide, and hardly others
    attentions=Attentions("sampled", cross="model.decoder.layers.*.cross_attn"),
    class_head="class_embed",
    box_head="bbox_embed",
    proposals="model.enc_out_bbox_embed.0",
    recipe={"lr": 1e-4, "lr_backbone": 1.5e-4, "weight_decay": 1e-4, "grad_clip": 0.1, "ema": 0.993},
    published=PublishedAP("medium", 52.5, "2406.03459"),
)
_DETR = {"lr": 1e-4, "lr_backbone": 1e-5, "weight_decay": 1e-4, "grad_clip": 0.1}
_DENSE = Attentions("dense", encoder="model.encoder.layers.*.self_attn", projection="model.input_projection")

FAMILIES: Mapping[str, ClosedSet] = {
    "deformable_detr": ClosedSet(
        title="Deformable DETR",
        scoring="sigmoid",
        processor="DeformableDetrImageProcessor",
        attentions=Attentions("sampled", encoder="model.encoder.layers.*.self_attn", encoder_kind="sampled"),
        class_head="class_embed.*",
        box_head="bbox_embed.*",
        encoder="model.encoder",
        proposals="model.enc_output_norm",
        default=DefaultModel(40_046_792, 327.3, 800, 1066),
        recipe={**_DETR, "lr": 2e-4, "lr_backbone": 2e-5},
        published=PublishedAP("R50", 43.8, "2010.04159"),
    ),
    "conditional_detr": ClosedSet(
        title="Conditional DETR",
        norm="model.decoder.layernorm",
        scoring="sigmoid",
        processor="ConditionalDetrImageProcessor",
        attentions=_DENSE,
        class_head="class_labels_classifier",
        box_head="bbox_predictor",
        encoder="model.encoder",
        recipe=_DETR,
        default=DefaultModel(43_395_528, 165.0, 800, 1066),
        published=PublishedAP("R50", 40.9, "2108.06152"),
    ),
    "dab-detr": ClosedSet(
        title="DAB-DETR",
        scoring="sigmoid",
        processor="ConditionalDetrImageProcessor",
        attentions=Attentions(
            "dense",
            cross="model.decoder.layers.*.cross_attn.cross_attn",
            among_queries="model.decoder.layers.*.self_attn.self_attn",
            encoder="model.encoder.layers.*.self_attn",
            projection="model.input_projection",
        ),
        class_head="class_embed",
        box_head="bbox_predictor",
        encoder="model.encoder",
        recipe=_DETR,
        default=DefaultModel(43_648_644, 173.1, 800, 1066),
        published=PublishedAP("R50", 42.2, "2201.12329"),
    ),
    "table-transformer": ClosedSet(
        title="Table Transformer",
        norm="model.decoder.layernorm",
        scoring="softmax",
        processor="DetrImageProcessor",
        attentions=_DENSE,
        class_head="class_labels_classifier",
        box_head="bbox_predictor",
        encoder="model.encoder",
        recipe={**_DETR, "lr": 5e-5},
        default=DefaultModel(41_502_407, 162.3, 800, 1066),
    ),
    "rt_detr": _RT,
    "rt_detr_v2": replace(_RT, title="RT-DETRv2", published=PublishedAP("R50", 53.4, "2407.17140")),
    "d_fine": replace(
        _RT,
        title="D-FINE",
        default=DefaultModel(31_083_862, 94.6, 640, 640),
        published=PublishedAP("L", 54.0, "2410.13842"),
    ),
    "deimv2": replace(
        _RT,
        title="DEIMv2",
        backbone="model.conv_encoder",
        default=DefaultModel(29_767_510, 91.6, 640, 640),
        published=None,
    ),
    "lw_detr": _LW,
    "rf_detr": replace(
        _LW,
        title="RF-DETR",
        processor="RfDetrImageProcessor",
        resizing="rescaled first",
        detections=None,
        published=None,
    ),
    "yolos": ClosedSet(
        title="YOLOS",
        scoring="softmax",
        processor="YolosImageProcessor",
        attentions=Attentions(
            "dense",
            cross="vit.encoder.layer.*.attention.attention",
            among_queries="vit.encoder.layer.*.attention.attention",
            encoder="vit.encoder.layer.*.attention.attention",
            projection="vit.embeddings.patch_embeddings",
            queries="behind the cells",
        ),
        class_head="class_labels_classifier",
        box_head="bbox_predictor",
        backbone="vit.embeddings",
        decoder="vit.encoder.layer.*",
        queries="num_detection_tokens",
        masked=False,
        norm="vit.layernorm",
        auxiliary=False,
        divisor=16,
        recipe={"lr": 2.5e-5, "lr_backbone": 2.5e-5, "weight_decay": 1e-4, "grad_clip": 0.1},
        default=DefaultModel(104_947_975, 313.2, 512, 864),
        published=PublishedAP("base", 42.0, "2106.00666"),
    ),
}

_GROUNDING = OpenVocabulary(
    title="Grounding DINO",
    processor="GroundingDinoImageProcessor",
    attentions=Attentions(
        "sampled", encoder="model.encoder.layers.*.deformable_layer.self_attn", encoder_kind="sampled"
    ),
    text="together",
    tokenizer="BertTokenizer",
    vocabulary=("vocab.txt",),
    default=DefaultModel(172_250_626, 656.0, 800, 1066),
    published=PublishedAP("T, zero-shot", 48.4, "2303.05499"),
)


def _owl(name: str, **more: Any) -> OpenVocabulary:
    """One of the two, by the name of its main part: queries are the patches of its vision encoder."""
    layers = f"{name}.vision_model.encoder.layers.*.self_attn"
    return OpenVocabulary(
        side="vision_config.image_size",
        attentions=Attentions(
            "dense",
            cross=layers,
            among_queries="",
            encoder=layers,
            projection=f"{name}.vision_model.embeddings.patch_embedding",
            queries="the cells",
        ),
        backbone=f"{name}.vision_model",
        masked=False,
        text="apart",
        tokenizer="CLIPTokenizer",
        vocabulary=("vocab.json", "merges.txt"),
        **more,
    )


OPEN_VOCABULARY: Mapping[str, OpenVocabulary] = {
    "grounding-dino": _GROUNDING,
    "mm-grounding-dino": replace(
        _GROUNDING, title="MM Grounding DINO", default=DefaultModel(172_250_628, 656.0, 800, 1066), published=None
    ),
    "owlv2": _owl(
        "owlv2",
        title="OWLv2",
        processor="Owlv2ImageProcessor",
        resizing="padded first",
        default=DefaultModel(153_971_464, 407.7, 768, 768),
    ),
    "owlvit": _owl(
        "owlvit", title="OWL-ViT", processor="OwlViTImageProcessor", default=DefaultModel(153_231_879, 103.3, 768, 768)
    ),
}

_MASKS = MaskFamily(
    title="MaskFormer",
    processor="MaskFormerImageProcessor",
    queries="decoder_config.num_queries",
    default=DefaultModel(101_793_403, 771.8, 800, 1088),
    backbone="model.pixel_level_module.encoder",
    masked=False,
)

MASK_FAMILIES: Mapping[str, MaskFamily] = {
    "mask2former": replace(
        _MASKS,
        title="Mask2Former",
        processor="Mask2FormerImageProcessor",
        queries="num_queries",
        side_of_masks=384,
        default=DefaultModel(68_721_037, 591.3, 800, 1088),
        published=PublishedAP("R50, of masks", 43.7, "2112.01527"),
    ),
    "maskformer": _MASKS,
}
