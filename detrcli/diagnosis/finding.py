"""The findings of the rules."""

from dataclasses import dataclass

# Weights of the kinds of findings: data of the wrong kind, which makes all else meaningless; settings that cannot
# work; settings that work badly; errors of annotation; too little of something; remarks.
BROKEN, IMPOSSIBLE, SETTINGS, ANNOTATIONS, LITTLE, REMARK = 100.0, 80.0, 60.0, 40.0, 20.0, 5.0


@dataclass(frozen=True)
class Finding:
    """A probable fault. Its texts may mention arguments (`detrcli.messages`)."""

    finding: str
    evidence: str
    remedy: str
    weight: float  # the higher, the more likely

    def document(self) -> dict[str, str]:
        return {"finding": self.finding, "evidence": self.evidence, "remedy": self.remedy}

    def __str__(self) -> str:
        return f"{self.finding} {self.evidence} {self.remedy}"
