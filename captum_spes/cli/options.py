"""Options that commands share, and functions that parse options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer

from captum_spes.models.context import Context as WindowContext
from captum_spes.models.context import Dtype
from captum_spes.models.protocol import Task as ModelTask
from captum_spes.speech_to_text.catalogue import Preset

# default method of each preset: the one with the best maps for the time, by benchmarks/estimators.py
METHOD: dict[Preset, str] = {"instant": "attn_lrp", "fast": "gradient_spes", "paper": "spes"}
# the precision in which the model runs
DTYPES: dict[Preset, Dtype | None] = {"instant": None, "fast": "auto", "paper": torch.float32}

# options that commands share
Audio = Annotated[
    Path | None,
    typer.Argument(
        help="Audio file (WAV, FLAC, OGG, MP3, …), or - for standard input. Without it: the bundled sample."
    ),
]
Model = Annotated[str, typer.Option(help="Bundled whisper-tiny.en, a Hugging Face id, or a local folder.")]
Language = Annotated[
    str | None,
    typer.Option(
        help="Language of a multilingual model's text, as a code of its family (de, deu). Default: Whisper detects it. "
        "If another language is spoken, Whisper translates."
    ),
]
Task = Annotated[
    ModelTask, typer.Option(help="translate: from --language into English, by multilingual Whisper and Canary.")
]
Budget = Annotated[
    Preset,
    typer.Option(
        help="instant: for methods without samples, such as attn_lrp; fast: small budgets, for 2 cores; paper: the "
        "paper's hyper-parameters."
    ),
]
Context = Annotated[
    WindowContext | None,
    typer.Option(
        help="How the window is run. auto: with frozen padding if the scores stay the same, otherwise in full. "
        "unperturbed: with padding frozen without this check, for methods that do not perturb, such as attn_lrp."
    ),
]
Target = Annotated[str | None, typer.Option(help="Text to explain. Default: the text that the model writes.")]
Prompt = Annotated[
    str | None,
    typer.Option(help="Text that Whisper's decoder reads before it writes, such as names; it is explained as well."),
]
NumBeams = Annotated[int, typer.Option(min=1, help="Number of beams of the model's generation.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, … Default: a GPU if there is one.")]
BatchSize = Annotated[
    int | None,
    typer.Option(min=1, help="Perturbations in a batch. Default: 16; on a GPU a number that a probe finds fast."),
]
AllowOutside = Annotated[
    bool,
    typer.Option("--allow-outside", help="Allow audio outside the manifest's folder, such as absolute paths."),
]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of all random numbers.")]


def split_names(text: str, option: str) -> list[str]:
    """The names in a text with commas, each once."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise ValueError(f"{option} is empty: give at least one name.")
    return names


def word_or_number(text: str, words: Sequence[str], option: str) -> str | int:
    """Parses an option that gives a word, or its number as ``3`` or ``:3``.

    Args:
        text: the value of the option.
        words: the words that can be chosen.
        option: the name of the option, for messages.

    Returns:
        The text, or the number.

    Raises:
        ValueError: the text is ambiguous, because there is a word with this number and one with this numeral.
    """
    match = re.fullmatch(r":?(-?[0-9]+)", text.strip())
    if match is None or not -len(words) <= int(match[1]) < len(words):
        return text
    numeral = re.compile(rf"(?<![0-9]){re.escape(text.strip())}(?![0-9])")
    row = int(match[1]) % len(words)
    others = [number for number, word in enumerate(words) if numeral.search(word) and number != row]
    if others:
        ways = [f"{option} :{number} for the word {words[number].strip()!r}" for number in (row, *others)]
        raise ValueError(f"{option} {text} may be a word or its number: write " + ", or ".join(ways) + ".")
    return row
