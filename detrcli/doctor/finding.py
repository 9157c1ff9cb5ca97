"""Something that is probably wrong."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Finding:
    """What it is, what shows it, and what to do. The larger its weight, the earlier it is told."""

    finding: str
    evidence: str
    remedy: str
    weight: float

    def document(self) -> dict[str, str]:
        """In plain values."""
        entry = asdict(self)
        del entry["weight"]
        return entry

    def __str__(self) -> str:
        return f"{self.finding} {self.evidence} {self.remedy}"


# What makes all else meaningless stands first: data that is not what it says, then settings that cannot work,
# then annotations, then what is merely too little.
BROKEN, IMPOSSIBLE, SETTINGS, ANNOTATIONS, LITTLE, REMARK = 100.0, 80.0, 60.0, 40.0, 20.0, 5.0


def likeliest_first(found: list[Finding]) -> list[Finding]:
    """By falling weight."""
    return sorted(found, key=lambda one: -one.weight)
