"""The documentation by topic, in Markdown: read on the web, or with `detr guide TOPIC`."""

import re
from importlib import resources

# In the order in which they are best read; each is a file TOPIC.md beside this one.
TOPICS = (
    "data",
    "training",
    "models",
    "families",
    "weights",
    "predict",
    "evaluation",
    "report",
    "doctor",
    "speed",
    "attention",
    "matching",
    "explain",
    "python",
    "safety",
    "notes",
    "architecture",
)


def page(topic: str) -> str:
    """The Markdown of a topic."""
    return resources.files(__name__).joinpath(f"{topic}.md").read_text(encoding="utf-8")


def first_sentence(text: str) -> str:
    """The first sentence below a page's heading, on one line."""
    _, paragraph, *_ = text.split("\n\n")
    found = re.match(r".+?\.(?= |$)", " ".join(paragraph.split()))
    return found[0] if found else paragraph
