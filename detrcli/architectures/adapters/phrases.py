"""Conversion of phrases to the tokens of a model's own tokenizer, whose files are in its folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detrcli.architectures.adapters.families import OpenVocabulary
from detrcli.architectures.adapters.library import LOCAL, import_transformers, loading
from detrcli.errors import UsageError, WeightsError
from detrcli.messages import argument
from detrcli.system.text import escape_controls

TOKENIZER = "tokenizer.json"  # the whole tokenizer; older folders have only the files of its vocabulary

Tokens = tuple[int, ...]  # token ids
Spans = tuple[tuple[int, int], ...]  # the first token of each phrase, and the token after its last


def tokens_of(
    phrases: Sequence[str], folder: Path, family: OpenVocabulary, source: str
) -> tuple[tuple[Tokens, ...], Spans]:
    """Return the tokens of the texts that the model reads, and the spans of the phrases if they share a text."""
    if not (folder / TOKENIZER).is_file() and not all((folder / name).is_file() for name in family.vocabulary):
        raise WeightsError(
            f"{source}: the tokenizer for phrases is missing, {TOKENIZER} or {' and '.join(family.vocabulary)}."
        )
    transformers = import_transformers()
    with loading(source):
        # The family's class, whatever class the folder names.
        tokenizer = getattr(transformers, family.tokenizer).from_pretrained(folder, **LOCAL)
        config = transformers.AutoConfig.from_pretrained(folder, **LOCAL)
    if family.text == "together":
        text, spans = _tokenize_together(phrases, tokenizer, int(config.max_text_len), source)
        texts: tuple[Tokens, ...] = (text,)
    else:
        maximum, spans = int(config.text_config.max_position_embeddings), ()
        texts = tuple(_tokenize(phrase, tokenizer, maximum, source) for phrase in phrases)
    highest, vocabulary = max(map(max, texts)), int(config.text_config.vocab_size)
    if highest >= vocabulary:
        raise WeightsError(
            f"{source}: network and tokenizer do not belong together: the tokenizer gives token {highest}, and the "
            f"network has {vocabulary}."
        )
    return texts, spans


def _tokenize_together(phrases: Sequence[str], tokenizer: Any, maximum: int, source: str) -> tuple[Tokens, Spans]:
    """Return the tokens of all phrases, each followed by a period, and the span of each phrase's tokens."""
    cleaned = [" ".join(phrase.lower().replace(".", " ").split()) for phrase in phrases]
    encoding = tokenizer(". ".join(cleaned) + ".", return_offsets_mapping=True)
    tokens = tuple(encoding["input_ids"])
    if len(tokens) > maximum:
        raise UsageError(
            f"{source}: {len(phrases)} phrases are {len(tokens)} tokens, separators included; the model reads at "
            f"most {maximum}. Give fewer phrases as {argument('text')}."
        )
    spans, start = [], 0  # in characters
    for text, phrase in zip(cleaned, phrases, strict=True):
        end = start + len(text)
        inside = [i for i, (a, b) in enumerate(encoding["offset_mapping"]) if start <= a < b <= end]
        if not inside:
            raise _no_words_error(phrase, source)
        spans.append((inside[0], inside[-1] + 1))
        start = end + len(". ")
    return tokens, tuple(spans)


def _tokenize(phrase: str, tokenizer: Any, maximum: int, source: str) -> Tokens:
    if len(tokenizer(phrase, add_special_tokens=False)["input_ids"]) == 0:
        raise _no_words_error(phrase, source)
    tokens = tuple(tokenizer(phrase)["input_ids"])
    if len(tokens) > maximum:
        raise UsageError(
            f'{source}: "{escape_controls(phrase)}" is {len(tokens)} tokens, including the first and the last; the '
            f"model reads at most {maximum} of a phrase."
        )
    return tokens


def _no_words_error(phrase: str, source: str) -> UsageError:
    return UsageError(f'{source}: the phrase "{escape_controls(phrase)}" contains no words.')
