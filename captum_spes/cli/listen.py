"""``captum-spes listen``."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from captum_spes import SpeechToTextExplanation
from captum_spes._extras import require
from captum_spes._files import write_atomically
from captum_spes.audio import read_recording
from captum_spes.cli.folders import make_folder
from captum_spes.cli.options import word_or_number
from captum_spes.cli.output import say_written
from captum_spes.words import is_word

SHARE = 0.1  # default share that is kept, and removed
MAX_LENGTH = 40  # largest number of characters of a word in a file name


def listen(
    file: Annotated[Path, typer.Argument(help="Explanation (explanation.safetensors), as explain writes it.")],
    audio: Annotated[
        Path | None,
        typer.Option(help="The recording that was explained. Default: the original file, if it still exists."),
    ] = None,
    word: Annotated[
        list[str] | None, typer.Option(help="A word, or its number from 0 (3 or :3); may be given again.")
    ] = None,
    token: Annotated[
        list[str] | None, typer.Option(help="A token, or its number from 0 (3 or :3); may be given again.")
    ] = None,
    sentence: Annotated[bool, typer.Option("--sentence", help="The text as a whole.")] = False,
    keep: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of the spectrogram's bins that is heard alone.")
    ] = None,
    remove: Annotated[float | None, typer.Option(min=0, max=1, help="Share that is left out of the recording.")] = None,
    background: Annotated[Literal["silence", "noise"], typer.Option(help="Sound in place of hidden bins.")] = "silence",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the results. Default: listen, in the explanation's folder."),
    ] = None,
) -> None:
    """Hear an explanation: the recording with only its most salient regions, and without them, as WAV files.

    By default this is done for every word and for the text as a whole, with a tenth of the spectrogram kept or removed.
    """
    explanation = SpeechToTextExplanation.load(file)
    chosen = _chosen(explanation, word or [], token or [], sentence)
    shares: dict[str, Any] = {"keep": keep, "remove": remove}
    if keep is None and remove is None:
        shares = {"keep": SHARE, "remove": SHARE}
    if audio is None:
        if "audio_file" not in explanation.metadata:
            raise ValueError(f"{file} does not name its recording: give the recording as --audio.")
        audio = Path(explanation.metadata["audio_file"])
    recording = read_recording(audio, allow_silence=True)
    suffix = "" if background == "silence" else f"-{background}"
    sounds = {
        f"{name}-{way}-{100 * share:g}{suffix}.wav": source.to_audio(
            recording, row, background=background, **{way: share}
        )
        for name, (source, row) in chosen.items()
        for way, share in shares.items()
        if share is not None
    }
    folder = make_folder(output or file.parent / "listen")
    for name, samples in sounds.items():
        sound = io.BytesIO()
        require("soundfile").write(sound, samples, recording.sampling_rate, format="WAV")
        write_atomically(folder / name, sound.getvalue())
    say_written(folder / name for name in sounds)


def _chosen(
    explanation: SpeechToTextExplanation, words: list[str], tokens: list[str], sentence: bool
) -> dict[str, tuple[SpeechToTextExplanation, int]]:
    """The rows to play, by the name of their files: rows of an explanation of tokens, words or the sentence."""
    by_word = explanation if explanation.grouped else explanation.words()
    rows: list[tuple[str, SpeechToTextExplanation, int | str]] = [
        (kind, source, word_or_number(text, source.tokens, f"--{kind}"))
        for kind, source, texts in (("token", explanation, tokens), ("word", by_word, words))
        for text in texts
    ]
    chosen = {}
    if not (rows or sentence):
        is_whole = explanation.tokens == [explanation.text]
        if not is_whole:
            rows = [("word", by_word, row) for row, text in enumerate(by_word.tokens) if is_word(text)]
        sentence = is_whole or len(explanation.tokens) > 1  # a contrast has only its own row
    for kind, source, wanted in rows:
        row = source.index(wanted)
        chosen[f"{kind}-{row:02}-{_slug(source.tokens[row])}"] = source, row
    if sentence:
        chosen["sentence"] = (explanation.sentence() if len(explanation.tokens) > 1 else explanation), 0
    return chosen


def _slug(text: str) -> str:
    return re.sub(r"[^\w'’]+", "-", text).strip("-")[:MAX_LENGTH] or "mark"
