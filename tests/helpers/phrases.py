"""Small open-vocabulary models, with random weights and a small tokenizer, in the folders that transformers writes."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import transformers
from families import LEVELS, resnet, root, saved
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForZeroShotObjectDetection

TEXT = "a red circle. Squares. a star"
PHRASES = ["a red circle", "Squares", "a star"]
WORDS = ["a", "red", "blue", "circle", "square", "squares", "triangle", "star", "cross", "cat", "remote", "control"]
SIDE = 64
SEEDS = {"grounding": 13, "owl": 25}  # with which most phrases, and a separator, are the best of some query
MAX_TOKENS = 24  # of a text with all phrases
NAMES = ["grounding", "owlv2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mm-grounding", "owlvit"))]


def are_taken_by(name: str) -> bool:
    return "grounding" in name or name.startswith("owl")


def bert(folder: Path) -> Any:
    """A tokenizer of few words, whose separators have the ids that the network expects."""
    vocabulary = [f"[unused{number}]" for number in range(1030)]
    named = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
    for number, word in {**named, **dict(enumerate(WORDS, 200))}.items():
        vocabulary[number] = word
    path = folder / "vocab.txt"
    path.write_text("\n".join(vocabulary) + "\n")
    return transformers.BertTokenizer(vocab=str(path))


def clip(folder: Path) -> Any:
    """A tokenizer of every byte and of some words; the end of a text has the highest id, as the network expects."""
    letters = sorted(ByteLevel.alphabet())
    merges, known = [], [*letters, *(f"{letter}</w>" for letter in letters)]
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            pair, parts = parts[:2], ["".join(parts[:2]), *parts[2:]]
            if parts[0] not in known:
                merges.append(" ".join(pair))
                known.append(parts[0])
    known = ["!", *(token for token in known if token != "!"), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(known)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    files = {"vocab": str(folder / "vocab.json"), "merges": str(folder / "merges.txt")}
    return transformers.CLIPTokenizer(**files, pad_token="!", model_max_length=16)


def _config(name: str, vocabulary: int) -> Any:
    text = {"vocab_size": vocabulary, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
    if name.startswith("owl"):
        kind = transformers.Owlv2Config if name == "owlv2" else transformers.OwlViTConfig
        ends = {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1}
        vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        vision |= {"image_size": SIDE, "patch_size": 16}
        return kind(text_config={**text, **ends, "num_hidden_layers": 1}, vision_config=vision, projection_dim=32)
    kind = transformers.GroundingDinoConfig if name == "grounding" else transformers.MMGroundingDinoConfig
    windows = transformers.SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2], window_size=4, out_indices=[2, 3, 4]
    )
    return kind(
        backbone_config=windows if name == "grounding" else resnet(*LEVELS),
        text_config=transformers.BertConfig(**text, num_hidden_layers=1), d_model=64, encoder_layers=2,
        decoder_layers=2, encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_attention_heads=2,
        decoder_attention_heads=2, num_queries=20, max_text_len=MAX_TOKENS,
    )  # fmt: skip


def _processor(name: str, tokenizer: Any) -> Any:
    if name.startswith("owl"):
        side = {"size": {"height": SIDE, "width": SIDE}}
        if name == "owlv2":
            return transformers.Owlv2Processor(transformers.Owlv2ImageProcessor(**side), tokenizer)
        return transformers.OwlViTProcessor(transformers.OwlViTImageProcessor(**side), tokenizer)
    edges = {"shortest_edge": 96, "longest_edge": 150}
    return transformers.GroundingDinoProcessor(transformers.GroundingDinoImageProcessor(size=edges), tokenizer)


@cache
def folder_of(name: str) -> Path:
    """A folder with model, processor and tokenizer."""
    place, owl = root() / f"phrases-{name}", name.startswith("owl")
    place.mkdir()
    tokenizer = (clip if owl else bert)(place)
    scales = {"logit": 0.1}  # so that scores are neither 0 nor 1
    if name == "grounding":
        scales["model.decoder.layer_norm.weight"] = 0.1
    config, kind = _config(name, len(tokenizer)), AutoModelForZeroShotObjectDetection
    return saved(place / name, kind, config, _processor(name, tokenizer), SEEDS["owl" if owl else "grounding"], scales)
