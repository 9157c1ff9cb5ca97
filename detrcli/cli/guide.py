"""`detr guide`: the documentation, in the terminal."""

import difflib
import re
import sys
from collections.abc import Mapping
from typing import Annotated

import typer

from detrcli.cli.console import is_terminal
from detrcli.errors import UsageError


def guide(
    topic: Annotated[str | None, typer.Argument(metavar="[TOPIC]", help="A topic. [list the topics]")] = None,
) -> None:
    """Read the documentation by topic."""
    from detrcli.guide import TOPICS, first_sentence, page  # slow to import, as rich is

    pages = {name: page(name) for name in TOPICS}
    if topic is None:
        from detrcli.cli.terminal import print_table

        rows = [(name, first_sentence(text)) for name, text in pages.items()]
        print_table(("topic", "content"), rows, terminal=is_terminal(sys.stdout))
    elif topic not in pages:
        nearest = _nearest(topic, pages)
        hint = f" Did you mean {nearest}?" if nearest else ""
        raise UsageError(f"There is no topic {topic!r}.{hint}\nThe topics are {', '.join(pages)}.")
    elif is_terminal(sys.stdout):
        from detrcli.cli.terminal import print_markdown

        print_markdown(_for_terminal(pages[topic]))
    else:
        sys.stdout.write(pages[topic])


def _nearest(word: str, pages: Mapping[str, str]) -> str | None:
    """Return the topic that begins with a word, or mentions the command most often, or is spelled most like it."""
    if word and (matches := [name for name in pages if name.startswith(word)]):
        return matches[0]
    mentions = {name: len(re.findall(rf"detr {re.escape(word)}\b", text)) for name, text in pages.items()}
    most = max(mentions, key=lambda name: mentions[name])
    if mentions[most]:
        return most
    return next(iter(difflib.get_close_matches(word, pages, n=1, cutoff=0.5)), None)


def _for_terminal(text: str) -> str:
    """Replace links to pages by commands, and images by paths."""
    text = re.sub(r"!\[([^]]*)\]\((?:\.\./)*([^)]+)\)", r"*Image: \1 (`\2` in the repository).*", text)
    return re.sub(r"\[[^]]+\]\(([a-z]+)\.md(?:#[^)]*)?\)", r"`detr guide \1`", text)
