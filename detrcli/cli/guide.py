"""`detr guide`: the documentation, in the terminal."""

import re
import sys
from typing import Annotated

import typer

from detrcli.cli.console import is_terminal, print_table
from detrcli.errors import UsageError

MAX_WIDTH = 100  # columns


def guide(
    topic: Annotated[str | None, typer.Argument(metavar="[TOPIC]", help="A topic. [list the topics]")] = None,
) -> None:
    """Read the documentation by topic."""
    from detrcli.guide import TOPICS, first_sentence, page  # slow to import

    if topic is None:
        print_table(("topic", "content"), [(name, first_sentence(page(name))) for name in TOPICS])
    elif topic not in TOPICS:
        nearest = _nearest(topic)
        hint = f" Did you mean {nearest}?" if nearest else ""
        raise UsageError(f"There is no topic {topic!r}.{hint}\nThe topics are {', '.join(TOPICS)}.")
    elif is_terminal(sys.stdout):
        _render(page(topic))
    else:
        sys.stdout.write(page(topic))


def _nearest(word: str) -> str | None:
    """Return the topic that begins with a word, or mentions the command most often, or is spelled most like it."""
    from detrcli.guide import TOPICS, page

    if word and (matches := [name for name in TOPICS if name.startswith(word)]):
        return matches[0]
    mentions = {name: len(re.findall(rf"detr {re.escape(word)}\b", page(name))) for name in TOPICS}
    most = max(TOPICS, key=lambda name: mentions[name])
    if mentions[most]:
        return most
    import difflib

    return next(iter(difflib.get_close_matches(word, TOPICS, n=1, cutoff=0.5)), None)


def _render(text: str) -> None:
    """Show Markdown on a terminal."""
    from rich.console import Console
    from rich.markdown import Markdown, TableElement
    from rich.table import Table
    from rich.theme import Theme

    class Folded(TableElement):
        """A table that folds long words, which rich would cut off."""

        def __rich_console__(self, console, options):  # type: ignore[no-untyped-def]  # rich is imported late
            for table in super().__rich_console__(console, options):
                if isinstance(table, Table):
                    for column in table.columns:
                        column.overflow = "fold"
                yield table

    class Page(Markdown):
        elements = {**Markdown.elements, "table_open": Folded}  # noqa: RUF012  # rich only reads it

    # Code has no background, because one for dark terminals is wrong on light ones.
    console = Console(highlight=False, theme=Theme({"markdown.code": "bold cyan"}))
    markdown = Page(for_terminal(text), code_theme="ansi_dark", hyperlinks=False)
    console.print(markdown, width=min(console.width, MAX_WIDTH))


def for_terminal(text: str) -> str:
    """Replace links to pages by commands, and images by paths."""
    text = re.sub(r"!\[([^]]*)\]\((?:\.\./)*([^)]+)\)", r"*Image: \1 (`\2` in the repository).*", text)
    return re.sub(r"\[[^]]+\]\(([a-z]+)\.md(?:#[^)]*)?\)", r"`detr guide \1`", text)
