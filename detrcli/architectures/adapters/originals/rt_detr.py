"""Checkpoints of RT-DETR and RT-DETRv2 (github.com/lyuwenyu/RT-DETR), and of D-FINE and DEIM, which build on them."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from detrcli.architectures.adapters.originals.conversion import Converted, Repository, Rules, count, rename, shape
from detrcli.errors import WeightsError

DEIMV2 = (
    "{}: a DEIMv2 of its own repository. transformers computes another function: ReLU instead of SiLU in the heads, a "
    "projection before them, and a query position per decoder layer.\n"
    "DEIMv2 models in the format of transformers load: deimv2-n, or hf:OWNER/NAME."
)
SIZE = {"height": 640, "width": 640}
LEVELS, HEADS = 3, 8
ENCODER_LAYER, DECODER_LAYER = "encoder.encoder.0.layers.0.", "decoder.decoder.layers.0."

SHARED: Rules = (
    (r"^encoder\.encoder\.(\d+)\.layers\.(\d+)\.norm1\.", r"model.encoder.aifi.\1.layers.\2.self_attn_layer_norm."),
    (r"^encoder\.encoder\.(\d+)\.layers\.(\d+)\.norm2\.", r"model.encoder.aifi.\1.layers.\2.final_layer_norm."),
    (r"^encoder\.encoder\.(\d+)\.layers\.", r"model.encoder.aifi.\1.layers."),
    (r"^(encoder|decoder)\.input_proj\.(\d+)\.(?:0|conv)\.", r"model.\1_input_proj.\2.0."),
    (r"^(encoder|decoder)\.input_proj\.(\d+)\.(?:1|norm)\.", r"model.\1_input_proj.\2.1."),
    (r"^encoder\.", "model.encoder."),
    (r"^decoder\.decoder\.layers\.(\d+)\.norm1\.", r"model.decoder.layers.\1.self_attn_layer_norm."),
    (r"^decoder\.decoder\.layers\.(\d+)\.norm2\.", r"model.decoder.layers.\1.encoder_attn_layer_norm."),
    (r"^decoder\.decoder\.layers\.(\d+)\.norm3\.", r"model.decoder.layers.\1.final_layer_norm."),
    (r"^decoder\.decoder\.layers\.(\d+)\.cross_attn\.", r"model.decoder.layers.\1.encoder_attn."),
    (r"^decoder\.decoder\.", "model.decoder."),
    (r"^decoder\.dec_score_head\.", "model.decoder.class_embed."),
    (r"^decoder\.dec_bbox_head\.", "model.decoder.bbox_embed."),
    (r"^decoder\.(query_pos_head|pre_bbox_head)\.", r"model.decoder.\1."),
    (r"^decoder\.enc_output\.(?:0|proj)\.", "model.enc_output.0."),
    (r"^decoder\.enc_output\.(?:1|norm)\.", "model.enc_output.1."),
    (r"^decoder\.(enc_score_head|enc_bbox_head|denoising_class_embed)\.", r"model.\1."),
    (r"\.out_proj\.", ".o_proj."),
)
RESNET: Rules = (
    *SHARED,
    (r"\.num_points_scale$", ".n_points_scale"),
    (r"\.linear1\.", ".mlp.fc1."),
    (r"\.linear2\.", ".mlp.fc2."),
    (r"^backbone\.conv1\.conv1_1\.", "model.backbone.model.embedder.embedder.0."),
    (r"^backbone\.conv1\.conv1_2\.", "model.backbone.model.embedder.embedder.1."),
    (r"^backbone\.conv1\.conv1_3\.", "model.backbone.model.embedder.embedder.2."),
    (r"^backbone\.res_layers\.(\d+)\.blocks\.", r"model.backbone.model.encoder.stages.\1.layers."),
    (r"\.branch2a\.", ".layer.0."),
    (r"\.branch2b\.", ".layer.1."),
    (r"\.branch2c\.", ".layer.2."),
    (r"\.short\.conv\.(conv|norm)\.", r".shortcut.1.\1."),
    (r"\.short\.", ".shortcut."),
    (r"^(model\.backbone\..*)\.conv\.", r"\1.convolution."),
    (r"^(model\.backbone\..*)\.norm\.", r"\1.normalization."),
)
HGNET: Rules = (
    (r"^(encoder\.(?:fpn|pan)_blocks\.\d+)\.cv1\.", r"\1.conv1."),
    (r"^(encoder\.(?:fpn|pan)_blocks\.\d+)\.cv2\.0\.", r"\1.csp_rep1."),
    (r"^(encoder\.(?:fpn|pan)_blocks\.\d+)\.cv2\.1\.", r"\1.conv2."),
    (r"^(encoder\.(?:fpn|pan)_blocks\.\d+)\.cv3\.0\.", r"\1.csp_rep2."),
    (r"^(encoder\.(?:fpn|pan)_blocks\.\d+)\.cv3\.1\.", r"\1.conv3."),
    (r"^(encoder\.(?:fpn|pan)_blocks\.\d+)\.cv4\.", r"\1.conv4."),
    (r"^(encoder\.downsample_convs\.\d+)\.0\.cv([12])\.", r"\1.conv\2."),
    *SHARED,
    (r"\.linear1\.", ".mlp.layers.0."),
    (r"\.linear2\.", ".mlp.layers.1."),
    (r"^backbone\.stem\.", "model.backbone.model.embedder."),
    (r"^backbone\.stages\.", "model.backbone.model.encoder.stages."),
    (r"^(model\.backbone\..*)\.conv\.", r"\1.convolution."),
    (r"^(model\.backbone\..*)\.bn\.", r"\1.normalization."),
)


def _common_facts(tensors: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Return the parts of the config that shapes determine in the same way for all of them."""
    levels = count(tensors, r"encoder\.input_proj\.(\d+)\.")
    projections = [
        next((name for name in tensors if re.match(rf"encoder\.input_proj\.{level}\.(0|conv)\.weight", name)), "")
        for level in range(levels)
    ]
    encoder = shape(tensors, ENCODER_LAYER + "linear2.weight", source)[0]
    return {
        "encoder_in_channels": [shape(tensors, name, source)[1] for name in projections],
        "encoder_hidden_dim": encoder,
        "encoder_ffn_dim": shape(tensors, ENCODER_LAYER + "linear1.weight", source)[0],
        "d_model": shape(tensors, DECODER_LAYER + "linear2.weight", source)[0],
        "decoder_ffn_dim": shape(tensors, DECODER_LAYER + "linear1.weight", source)[0],
        "decoder_in_channels": [encoder] * levels,
        "decoder_layers": count(tensors, r"decoder\.decoder\.layers\.(\d+)\."),
        "num_labels": shape(tensors, "decoder.dec_score_head.0.weight", source)[0],
    }


class RtDetr(Repository):
    """RT-DETR."""

    mark = "backbone.res_layers."
    states = ("ema.module", "model")
    model_type, network = "rt_detr", "RTDetrForObjectDetection"

    def recognizes(self, names: Collection[str]) -> bool:
        return super().recognizes(names) and not any(RtDetrV2.mark in name for name in names)

    def convert(self, tensors: Mapping[str, Tensor], content: Mapping[str, Any], file: str, source: str) -> Converted:
        """Convert a checkpoint. Shapes determine the config; only the file's name tells of discrete sampling."""
        facts = _common_facts(tensors, source)
        basic = not any(".branch2c." in name for name in tensors)
        depths = [count(tensors, rf"backbone\.res_layers\.{stage}\.blocks\.(\d+)\.") for stage in range(4)]
        hidden = shape(tensors, "encoder.fpn_blocks.0.conv1.conv.weight", source)[0]
        offsets = shape(tensors, DECODER_LAYER + "cross_attn.sampling_offsets.weight", source)[0]
        facts |= {
            "hidden_expansion": hidden / facts["encoder_hidden_dim"],
            "decoder_n_points": offsets // (HEADS * LEVELS * 2),
            "backbone_config": {
                "model_type": "rt_detr_resnet",
                "depths": depths,
                "layer_type": "basic" if basic else "bottleneck",
                "hidden_sizes": [64, 128, 256, 512] if basic else [256, 512, 1024, 2048],
                "out_features": ["stage2", "stage3", "stage4"],
            },
        }
        if (depths, facts["hidden_expansion"], facts["decoder_layers"]) == ([3, 4, 6, 3], 0.5, 6):
            # The model "r50vd_m" was trained with six decoder layers, and is evaluated after the third.
            facts["decoder_layers"] = 3
            later = r"decoder\.(decoder\.layers|dec_score_head|dec_bbox_head)\.[3-5]\."
            tensors = {name: tensor for name, tensor in tensors.items() if not re.match(later, name)}
        return self._converted(facts, tensors, file)

    def _converted(self, facts: dict[str, Any], tensors: Mapping[str, Tensor], file: str) -> Converted:
        return Converted(self.model_type, self.network, facts, rename(tensors, RESNET), {"size": SIZE})


class RtDetrV2(RtDetr):
    """RT-DETRv2."""

    mark = "cross_attn.num_points_scale"
    model_type, network = "rt_detr_v2", "RTDetrV2ForObjectDetection"

    def recognizes(self, names: Collection[str]) -> bool:
        return any(self.mark in name for name in names) and any(RtDetr.mark in name for name in names)

    def _converted(self, facts: dict[str, Any], tensors: Mapping[str, Tensor], file: str) -> Converted:
        if "dsp" in file:
            facts["decoder_method"] = "discrete"
        return super()._converted(facts, tensors, file)


# Key of a config that transformers ignores: DEIM's small heads use SiLU, where D-FINE's code has ReLU.
HEAD_ACTIVATION = "head_activation"
# HGNetv2: channels of the stem; input, middle and output channels of the stages; their blocks; layers in a block.
HGNETS: Mapping[tuple[int, int], tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int], int]] = {
    (16, 16): ([16, 64, 256, 512], [16, 32, 64, 128], [64, 256, 512, 1024], [1, 1, 2, 1], 3),  # B0
    (24, 32): ([32, 96, 384, 768], [32, 64, 128, 256], [96, 384, 768, 1536], [1, 1, 3, 1], 4),  # B2
    (32, 48): ([48, 128, 512, 1024], [48, 96, 192, 384], [128, 512, 1024, 2048], [1, 1, 3, 1], 6),  # B4
    (32, 64): ([64, 128, 512, 1024], [64, 128, 256, 512], [128, 512, 1024, 2048], [1, 2, 5, 2], 6),  # B5
}


class DFine(Repository):
    """D-FINE, and DEIM, whose tensors have the same names and shapes."""

    mark = "decoder.decoder.lqe_layers."
    states = ("ema.module", "model")

    def convert(self, tensors: Mapping[str, Tensor], content: Mapping[str, Any], file: str, source: str) -> Converted:
        """Convert a checkpoint. DEIM differs from D-FINE in its activations, which the file's name alone tells."""
        if any(".swish_ffn." in name for name in tensors):
            raise WeightsError(DEIMV2.format(source))
        stem = shape(tensors, "backbone.stem.stem1.conv.weight", source)[0]
        stem_end = shape(tensors, "backbone.stem.stem4.conv.weight", source)[0]
        if (stem, stem_end) not in HGNETS:
            raise WeightsError(f"{source}: a D-FINE with a backbone of {stem} channels is not supported.")
        inputs, middle, outputs, blocks, layers = HGNETS[stem, stem_end]
        facts = _common_facts(tensors, source)
        levels = len(facts["encoder_in_channels"])
        hidden = shape(tensors, "encoder.fpn_blocks.0.cv2.1.conv.weight", source)[0]
        bottlenecks = count(tensors, r"encoder\.fpn_blocks\.0\.cv2\.0\.bottlenecks\.(\d+)\.")
        facts |= {
            "hidden_expansion": 2 * hidden / facts["encoder_hidden_dim"],
            "depth_mult": bottlenecks / 3,
            "num_feature_levels": levels,
            "feat_strides": [8, 16, 32][-levels:],
            "encode_proj_layers": [levels - 1],
            "decoder_n_points": [3, 6, 3] if levels == 3 else [6, 6],
            "backbone_config": {
                "model_type": "hgnet_v2",
                "stem_channels": [3, stem, stem_end],
                "stage_in_channels": inputs,
                "stage_mid_channels": middle,
                "stage_out_channels": outputs,
                "hidden_sizes": outputs,
                "stage_num_blocks": blocks,
                "stage_numb_of_layers": [layers] * 4,
                "use_learnable_affine_block": any(".lab." in name for name in tensors),
                "out_indices": [2, 3, 4][-levels:],
            },
        }
        if "deim" in file.lower():
            facts |= {"decoder_activation_function": "silu", HEAD_ACTIVATION: "silu"}
        unused = ("decoder.up", "decoder.reg_scale")
        kept = {name: tensor for name, tensor in tensors.items() if name not in unused}
        return Converted("d_fine", "DFineForObjectDetection", facts, rename(kept, HGNET), {"size": SIZE})
