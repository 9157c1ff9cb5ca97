"""Conversion of phrases to the tokens of a model's own tokenizer, whose files are in its folder."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detrcli.architectures.adapters.families import OpenVocabulary
from detrcli.architectures.adapters.library import LOCAL, import_transformers, loading
from detrcli.errors import UsageError, WeightsError
from detrcli.messages import argument
from detrcli.system.text import escape_controls

TOKENIZER = "tokenizer.json"  # the whole tokenizer; older folders have only the files of its vocabulary

Tokens = tuple[int, ...]
Reading = tuple[tuple[Tokens, ...], tuple[tuple[int, int], ...]]  # texts, and spans of phrases in the first


def load_tokenizer(folder: Path, family: OpenVocabulary, source: str) -> Any:
    """Load the tokenizer of a folder. Raises WeightsError if the folder has none."""
    if not (folder / TOKENIZER).is_file() and not all((folder / name).is_file() for name in family.vocabulary):
        raise WeightsError(
            f"{source}: the tokenizer for phrases is missing, {TOKENIZER} or {' and '.join(family.vocabulary)}."
        )
    tokenizer = getattr(import_transformers(), family.tokenizer)  # regardless of the class that the folder names
    with loading(source):
        return tokenizer.from_pretrained(folder, **LOCAL)


def read_together(phrases: Sequence[str], tokenizer: Any, config: Any, source: str) -> Reading:
    """Return all phrases as one text, each followed by a full stop, and the span of each phrase's tokens."""
    cleaned = [" ".join(phrase.lower().replace(".", " ").split()) for phrase in phrases]
    encoding = tokenizer(". ".join(cleaned) + ".", return_offsets_mapping=True)
    tokens, maximum = tuple(encoding["input_ids"]), int(config.max_text_len)
    if len(tokens) > maximum:
        raise UsageError(
            f"{source}: {len(phrases)} phrases are {len(tokens)} tokens, with those between them; the model reads at "
            f"most {maximum}. Give fewer phrases as {argument('text')}."
        )
    spans, start = [], 0  # in characters
    for text, phrase in zip(cleaned, phrases, strict=True):
        end = start + len(text)
        inside = [i for i, (a, b) in enumerate(encoding["offset_mapping"]) if start <= a < b <= end]
        if not inside:
            raise _no_tokens(phrase, source)
        spans.append((inside[0], inside[-1] + 1))
        start = end + len(". ")
    return (_checked(tokens, config, source),), tuple(spans)


def read_apart(phrases: Sequence[str], tokenizer: Any, config: Any, source: str) -> Reading:
    """Return each phrase as a text."""
    texts, maximum = [], int(config.text_config.max_position_embeddings)
    for phrase in phrases:
        if len(tokenizer(phrase, add_special_tokens=False)["input_ids"]) == 0:
            raise _no_tokens(phrase, source)
        tokens = tuple(tokenizer(phrase)["input_ids"])
        if len(tokens) > maximum:
            raise UsageError(
                f'{source}: "{escape_controls(phrase)}" is {len(tokens)} tokens, including the first and the last; the '
                f"model reads at most {maximum} of a phrase."
            )
        texts.append(_checked(tokens, config, source))
    return tuple(texts), ()


READERS: Mapping[str, Callable[[Sequence[str], Any, Any, str], Reading]] = {
    "together": read_together,
    "apart": read_apart,
}


def _checked(tokens: Tokens, config: Any, source: str) -> Tokens:
    known = int(config.text_config.vocab_size)
    if max(tokens) >= known:
        raise WeightsError(
            f"{source}: network and tokenizer do not belong together: the tokenizer gives token {max(tokens)}, and the "
            f"network has {known}."
        )
    return tokens


def _no_tokens(phrase: str, source: str) -> UsageError:
    return UsageError(f'{source}: the phrase "{escape_controls(phrase)}" contains no words.')
