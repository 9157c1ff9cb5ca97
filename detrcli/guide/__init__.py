"""The documentation in Markdown, a page for each topic; `detr guide TOPIC` shows a page."""

import re
from importlib import resources

# In reading order. Each topic is a file TOPIC.md in this folder.
TOPICS = (
    "data", "training", "models", "families", "weights", "predict", "evaluation", "report", "doctor", "speed", "deploy",
    "attention", "matching", "explain", "python", "safety", "notes", "architecture",
)  # fmt: skip


def page(topic: str) -> str:
    return resources.files(__name__).joinpath(f"{topic}.md").read_text(encoding="utf-8")


def first_sentence(text: str) -> str:
    """Return the first sentence below the heading of a page, without line breaks."""
    _, paragraph, *_ = text.split("\n\n")
    sentence = re.match(r".+?\.(?= |$)", " ".join(paragraph.split()))
    return sentence[0] if sentence else paragraph
