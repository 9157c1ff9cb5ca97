"""Exported models with their postprocessing: from images and their sizes to detections, for C++ and browsers."""

from torch import Tensor, nn

from detrcli.boxes import cxcywh_to_xyxy
from detrcli.losses.scoring import Scoring


class WithPostprocessing(nn.Module):
    """A network followed by the selection of detections, D of each image, by descending score.

    The inputs are images (B, 3, H, W), and the sizes of the original images (B, 2), height and width. The outputs are
    boxes (B, D, 4), xyxy in pixels of the original images, scores (B, D) and labels (B, D), indices of classes.
    """

    def __init__(self, network: nn.Module, scoring: Scoring, *, clip: bool) -> None:
        """`network` returns logits (B, Q, R) and boxes (B, Q, 4); `clip` limits boxes to the image."""
        super().__init__()
        self.network, self.scoring, self.clip = network, scoring, clip

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, boxes = self.network(images)
        selection = self.scoring.select(logits)
        scores, order = selection.scores.topk(selection.scores.shape[1])  # (B, D)
        queries, labels = selection.queries.gather(1, order), selection.labels.gather(1, order)
        chosen = boxes.gather(1, queries[..., None].expand(-1, -1, 4))  # (B, D, 4)
        corners = cxcywh_to_xyxy(chosen)
        if self.clip:
            corners = corners.clamp(0, 1)
        return corners * sizes.flip(-1).repeat(1, 2)[:, None], scores, labels.int()
