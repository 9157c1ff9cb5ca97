"""A resizing rule of another package: the image in the center of a black canvas."""

from dataclasses import dataclass

from detrcli.resize import Placement, TargetSize


@dataclass(frozen=True)
class Letterbox(TargetSize):
    kind = "letterbox"

    def place(self, height: int, width: int) -> Placement:
        factor = min(self.height / height, self.width / width)
        inside = max(1, round(factor * height)), max(1, round(factor * width))
        return Placement(
            self.height, self.width, (self.height - inside[0]) // 2, (self.width - inside[1]) // 2, *inside
        )
