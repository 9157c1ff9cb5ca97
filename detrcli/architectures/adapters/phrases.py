"""Phrases in the tokens of a model's own tokenizer, whose files lie in its folder."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detrcli.architectures.adapters.families import OpenVocabulary
from detrcli.architectures.adapters.library import LOCAL, loaded, the_library
from detrcli.errors import UsageError, WeightsError
from detrcli.system.text import escape_controls

TOKENIZER = "tokenizer.json"  # all of it in one file; older folders have those of its vocabulary alone

Tokens = tuple[int, ...]


def tokenizer_of(folder: Path, family: OpenVocabulary, source: str) -> Any:
    """The tokenizer of a folder; a WeightsError where it has none."""
    whole = (folder / TOKENIZER).is_file() or all((folder / name).is_file() for name in family.vocabulary)
    if not whole:
        raise WeightsError(
            f"{source}: there is no tokenizer in it to read phrases with, neither {TOKENIZER} nor "
            f"{' and '.join(family.vocabulary)}."
        )
    kind = getattr(the_library(), family.tokenizer)  # whatever the folder names
    return loaded(source, lambda: kind.from_pretrained(folder, **LOCAL))


def together(
    phrases: Sequence[str], tokenizer: Any, numbers: Any, source: str
) -> tuple[tuple[Tokens, ...], tuple[tuple[int, int], ...]]:
    """All phrases as one text, each with a full stop behind it, and where the tokens of each begin and end."""
    read = [" ".join(phrase.lower().replace(".", " ").split()) for phrase in phrases]
    found = tokenizer(". ".join(read) + ".", return_offsets_mapping=True)
    tokens, most = tuple(found["input_ids"]), int(numbers.max_text_len)
    if len(tokens) > most:
        raise UsageError(
            f"{source}: {len(phrases)} phrases are {len(tokens)} tokens, those between them counted; it reads {most} "
            "at most. Give fewer, as --text."
        )
    spans, start = [], 0  # in characters
    for phrase, written in zip(read, phrases, strict=True):
        end = start + len(phrase)
        own = [i for i, (a, b) in enumerate(found["offset_mapping"]) if start <= a < b <= end]
        if not own:
            raise _nothing_in(written, source)
        spans.append((own[0], own[-1] + 1))
        start = end + len(". ")
    return (_known(tokens, numbers, source),), tuple(spans)


def apart(
    phrases: Sequence[str], tokenizer: Any, numbers: Any, source: str
) -> tuple[tuple[Tokens, ...], tuple[tuple[int, int], ...]]:
    """Each phrase as a text."""
    texts, most = [], int(numbers.text_config.max_position_embeddings)
    for phrase in phrases:
        if len(tokenizer(phrase, add_special_tokens=False)["input_ids"]) == 0:
            raise _nothing_in(phrase, source)
        tokens = tuple(tokenizer(phrase)["input_ids"])
        if len(tokens) > most:
            raise UsageError(
                f'{source}: "{escape_controls(phrase)}" is {len(tokens)} tokens, with one at each end; it reads {most} '
                "of a phrase at most."
            )
        texts.append(_known(tokens, numbers, source))
    return tuple(texts), ()


Reader = Callable[[Sequence[str], Any, Any, str], tuple[tuple[Tokens, ...], tuple[tuple[int, int], ...]]]
READERS: Mapping[str, Reader] = {"together": together, "apart": apart}


def _known(tokens: Tokens, numbers: Any, source: str) -> Tokens:
    """The tokens, where the network has such."""
    known = int(numbers.text_config.vocab_size)
    if max(tokens) >= known:
        raise WeightsError(
            f"{source}: its network knows {known} tokens, and its tokenizer gives number {max(tokens)}: they do not "
            "belong together."
        )
    return tokens


def _nothing_in(phrase: str, source: str) -> UsageError:
    return UsageError(f'{source}: there is nothing to look for in the phrase "{escape_controls(phrase)}".')
