"""A small Deformable DETR for CPUs and for comparisons: two stages, box refinement, a single level."""

from collections.abc import Mapping

from detrcli.architectures.common import deformable_layers
from detrcli.architectures.dino_tiny import QuickArchitecture, QuickConfig
from detrcli.model.deformable_detr import DeformableDETR, ProposedQueries


class DeformableTinyArchitecture(QuickArchitecture[QuickConfig]):
    name = "deformable-tiny"
    config = QuickConfig
    presets: Mapping[str, QuickConfig] = {"deformable-tiny": QuickConfig()}

    def build(self, config: QuickConfig) -> DeformableDETR:
        return DeformableDETR(
            **self.parts(config),
            queries=ProposedQueries(config.queries, config.dim, rows=1, cells=config.anchor),
            layers=deformable_layers(config),
            refine=True,
        )


ARCHITECTURE = DeformableTinyArchitecture()
