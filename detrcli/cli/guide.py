"""`detr guide`: the documentation, in the terminal."""

import re
import sys
from typing import Annotated

import typer

from detrcli.cli.options import Debug
from detrcli.errors import UsageError

WIDEST = 100  # columns; longer lines are hard to read


def guide(
    topic: Annotated[
        str | None, typer.Argument(metavar="[TOPIC]", help="A topic; without one the topics are listed.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Read the documentation by topic."""
    from detrcli.guide import TOPICS, first_sentence, page

    if topic is None:
        from detrcli.cli.console import print_table

        print_table(("topic", "what it says"), [(name, first_sentence(page(name))) for name in TOPICS])
        return
    if topic not in TOPICS:
        near = _nearest(topic)
        hint = f" Did you mean {near}?" if near else ""
        raise UsageError(f"There is no topic {topic!r}.{hint}\nThe topics are {', '.join(TOPICS)}.")

    from detrcli.cli.console import is_terminal

    text = page(topic)
    if is_terminal(sys.stdout):
        _render(text)
    else:
        sys.stdout.write(text)


def _nearest(word: str) -> str | None:
    """The topic that begins so, or that of the command that was named, else the one that is spelled most like it."""
    import difflib

    from detrcli.guide import TOPICS, page

    if word and (beginning := [name for name in TOPICS if name.startswith(word)]):
        return beginning[0]
    mentions = {name: len(re.findall(rf"detr {re.escape(word)}\b", page(name))) for name in TOPICS}
    most = max(TOPICS, key=lambda name: mentions[name])
    if mentions[most]:
        return most
    return next(iter(difflib.get_close_matches(word, TOPICS, n=1, cutoff=0.5)), None)


def _render(text: str) -> None:
    """Show Markdown on a terminal."""
    from rich.console import Console
    from rich.markdown import Markdown, TableElement
    from rich.table import Table
    from rich.theme import Theme

    class Folded(TableElement):
        """A table whose long words go on in the next line, where rich would cut them off."""

        def __rich_console__(self, console, options):  # type: ignore[no-untyped-def]  # as rich has it, whose types are imported late
            for table in super().__rich_console__(console, options):
                if isinstance(table, Table):
                    for column in table.columns:
                        column.overflow = "fold"
                yield table

    class Page(Markdown):
        """Markdown with such tables."""

        elements = {**Markdown.elements, "table_open": Folded}  # noqa: RUF012  # rich's own, which it only reads

    # Code without a background: one that fits a dark terminal is wrong on a light one.
    console = Console(highlight=False, theme=Theme({"markdown.code": "bold cyan"}))
    page = Page(for_terminal(text), code_theme="ansi_dark", hyperlinks=False)
    console.print(page, width=min(console.width, WIDEST))


def for_terminal(text: str) -> str:
    """The page with links that can be followed in a terminal: to pages as commands, to pictures as paths."""
    text = re.sub(r"!\[([^]]*)\]\((?:\.\./)*([^)]+)\)", r"*Picture: \1 (`\2` in the repository).*", text)
    return re.sub(r"\[[^]]+\]\(([a-z]+)\.md(?:#[^)]*)?\)", r"`detr guide \1`", text)
