"""The findings of `detr doctor`."""

from dataclasses import dataclass

# Base weights of findings: broken data, which makes everything else meaningless; data or settings that cannot work;
# settings that work badly; annotation errors; too little data or training; remarks.
BROKEN, IMPOSSIBLE, SETTINGS, ANNOTATIONS, SCARCE, REMARK = 100.0, 80.0, 60.0, 40.0, 20.0, 5.0


@dataclass(frozen=True)
class Finding:
    """A probable fault. Its texts may mention arguments (`detrcli.messages`)."""

    finding: str
    evidence: str
    remedy: str
    weight: float  # findings are sorted by it, in descending order

    def document(self) -> dict[str, str]:
        return {"finding": self.finding, "evidence": self.evidence, "remedy": self.remedy}

    def __str__(self) -> str:
        return f"{self.finding} {self.evidence} {self.remedy}"
