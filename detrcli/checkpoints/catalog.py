"""Published models of transformers' families, by short names.

It imports no torch. AP, latency and sizes are those that the authors publish; nothing of this was measured here.
"""

from dataclasses import dataclass

RF_DETR_FILES = "https://storage.googleapis.com/rfdetr/"
HUB = "hf:"


@dataclass(frozen=True)
class NamedModel:
    """A published model: where its weights are, and what its authors say of it."""

    name: str
    title: str  # of the family
    source: str  # hf:OWNER/NAME, or the address of a file
    license: str
    size: str  # of the input
    ap: float | None = None  # box AP on COCO val2017, or mask AP for models with masks
    megabytes: float | None = None
    latency: str = ""  # of an image, with the device
    md5: str | None = None  # of a file
    phrases: bool = False  # whether it detects phrases

    @property
    def repository(self) -> str | None:
        """The repository on the hub, if it is there."""
        return self.source.removeprefix(HUB) if self.source.startswith(HUB) else None


APACHE, MIT = "Apache-2.0", "MIT"
SHORT_SIDE, EXACT = "800 x 1333 at most", "640 x 640"
T4 = "ms (T4, TensorRT FP16)"

# fmt: off
_RF_DETR = [
    # name, file, MD5, side, AP, milliseconds
    ("nano", "nano_coco/checkpoint_best_regular.pth", "fb6504cce7fbdc783f7a46991f07639f", 384, 48.4, 2.3),
    ("small", "small_coco/checkpoint_best_regular.pth", "fb37061c1af7bace359c91b723a8d5c1", 512, 53.0, 3.5),
    ("medium", "medium_coco/checkpoint_best_regular.pth", "7223f764a87b863f02eb8d52bf0ce2ee", 576, 54.7, 4.4),
    ("base", "rf-detr-base-coco.pth", "b4d3ce46099eaed50626ede388caf979", 560, 53.3, None),
    ("large", "rf-detr-large-2026.pth", "5cb72153541cbcb9aa6efa26222acc75", 704, 56.5, 6.8),
]
_RT_DETR = [
    # name, repository, AP, MB, milliseconds
    ("rt-detr-r18", "rtdetr_r18vd", 46.4, 80.9, 4.6),
    ("rt-detr-r34", "rtdetr_r34vd", 48.9, 126, 6.2),
    ("rt-detr-r50", "rtdetr_r50vd", 53.1, 172, 9.3),
    ("rt-detr-r101", "rtdetr_r101vd", 54.3, 307, 13.5),
    ("rt-detr-r18-o365", "rtdetr_r18vd_coco_o365", 49.0, 80.9, 4.6),
    ("rt-detr-r50-o365", "rtdetr_r50vd_coco_o365", 55.2, 172, 9.3),
    ("rt-detr-r101-o365", "rtdetr_r101vd_coco_o365", 56.2, 307, 13.5),
    ("rt-detr-v2-r18", "rtdetr_v2_r18vd", 47.9, None, 4.6),
    ("rt-detr-v2-r34", "rtdetr_v2_r34vd", 49.9, 126, 6.2),
    ("rt-detr-v2-r50", "rtdetr_v2_r50vd", 53.4, 172, 9.3),
    ("rt-detr-v2-r101", "rtdetr_v2_r101vd", 54.3, None, 13.5),
]
_D_FINE = [
    ("d-fine-n", "dfine-nano-coco", 42.8, 15.3, 2.12),
    ("d-fine-s", "dfine-small-coco", 48.5, 41.5, 3.49),
    ("d-fine-m", "dfine-medium-coco", 52.3, None, 5.62),
    ("d-fine-l", "dfine-large-coco", 54.0, 126, 8.07),
    ("d-fine-x", "dfine-xlarge-coco", 55.8, 252, 12.89),
    ("d-fine-s-o365", "dfine-small-obj2coco", 50.7, 41.5, 3.49),
    ("d-fine-m-o365", "dfine-medium-obj2coco", 55.1, 78.7, 5.62),
    ("d-fine-x-o365", "dfine-xlarge-obj2coco", 59.3, 252, 12.89),
]
_DEFORMABLE = [
    # name, repository, AP, MB
    ("deformable-detr", "deformable-detr", 44.5, 161),
    ("deformable-detr-refine", "deformable-detr-with-box-refine", 46.2, 164),
    ("deformable-detr-two-stage", "deformable-detr-with-box-refine-two-stage", 46.9, 165),
    ("deformable-detr-single-scale", "deformable-detr-single-scale", 39.4, None),
    ("deformable-detr-single-scale-dc5", "deformable-detr-single-scale-dc5", 41.5, 137),
]
_LW_DETR = [("tiny", 42.6), ("small", 48.0), ("medium", 52.5), ("large", 56.1), ("xlarge", 58.3)]

CATALOG = {
    model.name: model
    for model in (
        *(
            NamedModel(
                f"rf-detr-{name}", "RF-DETR", RF_DETR_FILES + file, APACHE, f"{side} x {side}", ap,
                latency=f"{time} {T4}" if time else "", md5=md5,
            )
            for name, file, md5, side, ap, time in _RF_DETR
        ),
        *(
            NamedModel(
                name, "RT-DETRv2" if "v2" in name else "RT-DETR", f"{HUB}PekingU/{repository}", APACHE, EXACT, ap,
                megabytes, f"{time} {T4}",
            )
            for name, repository, ap, megabytes, time in _RT_DETR
        ),
        *(
            NamedModel(
                name, "D-FINE", f"{HUB}ustc-community/{repository}", APACHE, EXACT, ap, megabytes, f"{time} {T4}"
            )
            for name, repository, ap, megabytes, time in _D_FINE
        ),
        *(
            NamedModel(f"lw-detr-{name}", "LW-DETR", f"{HUB}AnnaZhang/lwdetr_{name}_60e_coco", APACHE, EXACT, ap)
            for name, ap in _LW_DETR
        ),
        NamedModel(
            "deimv2-n", "DEIMv2", f"{HUB}harshaljanjani/DEIMv2_HGNetv2_N_COCO_Transformers", APACHE, EXACT, 43.0
        ),
        *(
            NamedModel(name, "Deformable DETR", f"{HUB}SenseTime/{repository}", APACHE, SHORT_SIDE, ap, megabytes)
            for name, repository, ap, megabytes in _DEFORMABLE
        ),
        NamedModel(
            "conditional-detr-r50", "Conditional DETR", f"{HUB}microsoft/conditional-detr-resnet-50", APACHE,
            SHORT_SIDE, 41.0, 174,
        ),
        NamedModel("dab-detr-r50", "DAB-DETR", f"{HUB}IDEA-Research/dab-detr-resnet-50", APACHE, SHORT_SIDE, 42.2, 175),
        NamedModel("yolos-tiny", "YOLOS", f"{HUB}hustvl/yolos-tiny", APACHE, "512 x 1333 at most", 28.7, 26),
        NamedModel("yolos-small", "YOLOS", f"{HUB}hustvl/yolos-small", APACHE, SHORT_SIDE, 36.1, 123),
        NamedModel(
            "table-transformer", "Table Transformer", f"{HUB}microsoft/table-transformer-detection", MIT,
            SHORT_SIDE, None, 115,
        ),
        NamedModel(
            "table-transformer-structure", "Table Transformer",
            f"{HUB}microsoft/table-transformer-structure-recognition", MIT, SHORT_SIDE, None, 115,
        ),
        NamedModel(
            "grounding-dino-tiny", "Grounding DINO", f"{HUB}IDEA-Research/grounding-dino-tiny", APACHE, SHORT_SIDE,
            48.4, 689, phrases=True,
        ),
        NamedModel(
            "grounding-dino-base", "Grounding DINO", f"{HUB}IDEA-Research/grounding-dino-base", APACHE, SHORT_SIDE,
            56.7, 933, phrases=True,
        ),
        NamedModel(
            "owlv2-base", "OWLv2", f"{HUB}google/owlv2-base-patch16-ensemble", APACHE, "960 x 960", None, 620,
            phrases=True,
        ),
    )
}
# fmt: on
