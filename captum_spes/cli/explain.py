"""``captum-spes explain``."""

from __future__ import annotations

import math
import signal
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captum_spes import Contrast
from captum_spes.alignment import Transcript
from captum_spes.attr.fingerprint import fingerprint
from captum_spes.audio import Recording
from captum_spes.cli.folders import make_folder, results_folder
from captum_spes.cli.inputs import Inputs, audio_line, fit, generation, read, stem, transcribe, window_of
from captum_spes.cli.options import (
    DTYPES,
    METHOD,
    Audio,
    BatchSize,
    Budget,
    Context,
    Device,
    Language,
    Model,
    NumBeams,
    Prompt,
    Seed,
    Target,
    Task,
    word_or_number,
)
from captum_spes.cli.output import draw_overview, print_columns, progress, say, say_written, write_explanation
from captum_spes.cli.ranks import device_of_rank, torchrun_ranks
from captum_spes.cli.reference import SETTINGS, explain_reference, finished, remove_errors
from captum_spes.errors.finding import check_reference
from captum_spes.explanation import LongExplanation, SpeechToTextExplanation, WordRow
from captum_spes.models import SpeechToTextModel, load_model
from captum_spes.models.context import Context as WindowContext
from captum_spes.models.protocol import text_language
from captum_spes.speech_to_text.catalogue import NamedMethod, Preset, find_method
from captum_spes.speech_to_text.parts import longest_seconds
from captum_spes.speech_to_text.profiles import ALL_TOKENS
from captum_spes.speech_to_text.provenance import describe_run
from captum_spes.speech_to_text.targets import TextWords, WordPrediction
from captum_spes.words import is_word

AUTO = "auto"  # the foil that the model's own distribution names

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


# options of this command alone
Method = Annotated[
    str | None,
    typer.Option(
        help="Attribution method; `compare --list` has them all. Default: attn_lrp with the instant preset, "
        "gradient_spes with the fast one, spes with the paper's."
    ),
]
Samples = Annotated[int | None, typer.Option(min=1, help="Perturbations of the spectrogram, in place of the preset's.")]
Reliability = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        max=0.99,
        help="Stop as soon as two halves of the samples correlate so far; --n-samples is then the most.",
    ),
]
Word = Annotated[
    str | None,
    typer.Option(help="Explain this word or phrase against --foil. A word's number from 0 is written 3 or :3."),
]
Foil = Annotated[
    str | None,
    typer.Option(
        help="What might have been written in place of --word: a word, a phrase, '' for no word, or auto for the "
        "most probable other word. The word auto itself is written ' auto', with a space."
    ),
]
OtherText = Annotated[
    Path | None,
    typer.Option(
        help="Text of another system to explain: JSON of Whisper or faster-whisper, WebVTT, SubRip, or plain text."
    ),
]
Reference = Annotated[
    str | None,
    typer.Option(help="What was said: each word that differs is explained, in errors.md and in the report."),
]
PreviousText = Annotated[
    bool,
    typer.Option(
        "--previous-text",
        help="Let the decoder read what it wrote of the part before, as Whisper does of long recordings.",
    ),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder for the results. Default: spes-output/<audio's name>.")
]


def explain(
    audio: Audio = None,
    model: Model = "whisper-tiny.en",
    language: Language = None,
    task: Task = "transcribe",
    method: Method = None,
    preset: Budget = "fast",
    n_samples: Samples = None,
    reliability: Reliability = None,
    context: Context = None,
    target: Target = None,
    word: Word = None,
    foil: Foil = None,
    transcript: OtherText = None,
    reference: Reference = None,
    prompt: Prompt = None,
    previous_text: PreviousText = False,
    num_beams: NumBeams = 1,
    device: Device = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    output: Output = None,
) -> None:
    """Explain one utterance: the parts of the sound and the previous words on which each word depends."""
    _check_options(word, foil, reference, transcript, target)
    given = None if transcript is None else Transcript.load(transcript)
    method = method or METHOD[preset]
    named = _named(method, n_samples, reliability)
    with torchrun_ranks() as group:
        say(audio_line(audio))
        recording = read(audio)
        folder = results_folder(output, stem(audio), recording.source.get("audio_sha256"))
        speech_model = load_model(model, device=device_of_rank(device), language=language, task=task)
        request = _Request(
            speech_model, method, named, preset, context, num_beams, batch_size, seed, given, prompt, previous_text
        )
        request.check(reference, group)
        longest = longest_seconds(speech_model, math.inf)
        if not 1 <= longest < recording.seconds:  # windows of less than 1 s raise an error later
            return request.explain(recording, folder, target, word, foil, reference, group)
        if target is not None or word is not None or reference is not None or group is not None:
            raise ValueError(
                f"the audio is longer than the {longest:g} s that are explained at once: leave out --target, "
                "--reference, --word and --foil, and take one process, or cut out the part that they belong to."
            )
        request.explain_long(recording, folder, longest)


def _check_options(
    word: str | None, foil: str | None, reference: str | None, transcript: Path | None, target: str | None
) -> None:
    """Raises a ValueError for options that exclude or need each other."""
    if (word is None) != (foil is None):
        raise ValueError("--word and --foil belong together: give both, or none.")
    if reference is not None and word is not None:
        raise ValueError("--reference explains all errors, and --word one word: leave out one of them.")
    if transcript is not None and target is not None:
        raise ValueError("--transcript and --target both give the text: leave out one of them.")


def _named(method: str, n_samples: int | None, reliability: float | None) -> NamedMethod:
    """The method of that name, with another number of samples or a reliability where they are given."""
    named = find_method(method)
    if n_samples is not None:
        if not named.takes_samples:
            raise ValueError(f"{method} takes no samples: leave out --n-samples.")
        named = named.with_samples(n_samples, "--n-samples")
    if reliability is not None:
        if not named.samples_perturbations and not named.samples_gradients:
            raise ValueError(f"{method} has no halves of samples to compare: leave out --reliability.")
        named = named.with_reliability(reliability)
    return named


@dataclass(frozen=True)
class _Request:
    """The settings with which an utterance, or every part of a long recording, is explained."""

    model: SpeechToTextModel
    method: str
    named: NamedMethod
    preset: Preset
    context: WindowContext | None
    num_beams: int
    batch_size: int | None
    seed: int
    transcript: Transcript | None
    prompt: str | None
    previous_text: bool

    def check(self, reference: str | None, group: ProcessGroup | None) -> None:
        """Raises a ValueError if the method cannot explain the model, with this preset, reference or ranks."""
        can_stop = self._can_stop()
        self.named.arguments_of(self.model, self.preset)
        if group is not None and not can_stop:
            raise ValueError(
                f"{self.method} cannot share its passes among ranks: take spes or gradient_spes, or one process."
            )
        if reference is not None and (group is not None or self.named.arguments.get("sentence")):
            raise ValueError(
                "--reference explains words one by one, in one process: take another method, or leave out torchrun."
            )

    def _can_stop(self) -> bool:
        """Whether the method shares its samples among ranks, and has a partial result if it is stopped."""
        return isinstance(self.named.wrap(self.model).attr_method, ALL_TOKENS)

    def _has_begun(self, checkpoint: Path) -> bool:
        """Whether a folder holds a checkpoint of the method."""
        stages = ("both",) if self.named.arguments.get("joint") else ("previous-tokens", "spectrogram")
        return self._can_stop() and any((checkpoint / f"{stage}.safetensors").is_file() for stage in stages)

    def explain(
        self,
        recording: Recording,
        folder: Path,
        target: str | None,
        word: str | None,
        foil: str | None,
        reference: str | None,
        group: ProcessGroup | None,
    ) -> None:
        """Explains one utterance and writes the explanation and its figures."""
        if self.transcript is not None:
            target = self.transcript.text
        inputs = transcribe(recording, self.model, target, self.num_beams, self.prompt)
        if reference is not None:  # raises an error before anything is explained
            written = self.model.token_texts(inputs.tokens.target)
            check_reference(reference, written, recording.seconds, language=text_language(self.model, inputs.tokens))
        contrast = None if word is None or foil is None else _contrast(inputs, word, foil)
        inputs = fit(inputs, self.preset, window_of(self.context, self.preset, self.named))
        n_rows = len(inputs.tokens.target) if contrast is None else 1
        given = self.named.arguments_of(self.model, self.preset, n_rows)
        numbers = "".join(f", {name} {value}" for name, value in given.items() if isinstance(value, int))
        ranks = "" if group is None else f", shared by {group.size()} ranks"
        say(f"Method:     {self.method} ({self.preset} preset{numbers}{ranks})")
        explanation = self._explained(inputs, contrast, folder, group, may_be_finished=reference is not None)
        if group is None or group.rank() == 0:
            _report(explanation, write_explanation(explanation, folder, recording))
            if reference is not None and not explanation.metadata["partial"]:
                explain = partial(inputs.explain, self.named, self.preset, self.batch_size, self.seed)
                settings_of = partial(self._settings, inputs)
                explain_reference(explanation, reference, inputs, explain, settings_of, folder, recording)
        if explanation.metadata["partial"]:
            raise typer.Exit(128 + signal.SIGINT)

    def _explained(
        self,
        inputs: Inputs,
        contrast: Contrast | None,
        folder: Path,
        group: ProcessGroup | None,
        may_be_finished: bool,
    ) -> SpeechToTextExplanation:
        """The explanation of the text or a contrast, if an earlier run with the same settings has not finished it."""
        checkpoint = folder / "checkpoint"
        is_first = group is None or group.rank() == 0
        settings = self._settings(inputs, contrast)
        if may_be_finished and (found := finished(folder / "explanation.safetensors", settings)) is not None:
            say("Resuming:   the text is explained, and so may be some of its errors")
            return found
        if self._has_begun(checkpoint):
            say(f"Resuming:   from {checkpoint}")
        explanation = inputs.explain(
            self.named,
            self.preset,
            self.batch_size,
            self.seed,
            contrast,
            can_stop=self._can_stop(),
            show=is_first,
            word_times=(self.transcript and self.transcript.words) or None,
            process_group=group,
            checkpoint=checkpoint,
        )
        explanation.metadata[SETTINGS] = settings
        if is_first:
            remove_errors(folder)
        return explanation

    def _settings(self, inputs: Inputs, contrast: Contrast | None) -> dict[str, Any]:
        """What the explanation of a text or contrast depends on, by which a later run recognises it."""
        n_rows = len(inputs.tokens.target) if contrast is None else 1
        arguments = self.named.arguments_of(self.model, self.preset, n_rows)
        prepared = inputs.model, inputs.utterance, inputs.tokens
        return {
            "method": self.method,
            "contrast": fingerprint(contrast),
            "words": fingerprint(self.transcript and self.transcript.words),
            **describe_run(*prepared, self.preset, self.seed, arguments, inputs.gen_args),
        }

    def explain_long(self, recording: Recording, folder: Path, longest: float) -> None:
        """Explains a recording in parts of at most ``longest`` seconds and draws an overview of all parts."""
        say(f"Model:      {self.model.name}")
        say(f"Method:     {self.method} ({self.preset} preset)")
        say(f"Length:     {recording.seconds:.1f} s, in parts of at most {longest:g} s")

        def on_text(long: LongExplanation, number: int, text: str) -> None:
            part = long.parts[number]
            say(f"\nPart {number + 1} of {len(long.parts)}: {part.start:.1f} to {part.stop:.1f} s")
            say(f"Transcript: {text}" if text else "The model hears no words there.")

        def on_explained(long: LongExplanation, number: int, explanation: SpeechToTextExplanation) -> None:
            write_explanation(explanation, make_folder(long.path(number).parent), recording)

        interrupted = False
        try:
            with progress(can_stop=False) as callback:
                self.named.explain_long(
                    self.model,
                    recording,
                    folder,
                    self.preset,
                    transcript=self.transcript,
                    prompt=self.prompt,
                    previous_text=self.previous_text,
                    gen_args=generation(self.num_beams),
                    context=window_of(self.context, self.preset, self.named),
                    dtype=DTYPES[self.preset],
                    on_text=on_text,
                    on_explained=on_explained,
                    perturbations_per_eval=self.batch_size,
                    seed=self.seed,
                    callback=callback,
                )
        except KeyboardInterrupt:
            interrupted = True
            say("\nStopped. The finished parts are saved. Run the same command again to continue.", error=True)
        long = LongExplanation.load(folder)
        paths = draw_overview(long) if len(long) else []
        if paths:
            say(f"\nTranscript: {long.text}")
        say_written([folder / "parts.json", *paths, f"{folder}/part-*/"])
        if interrupted:
            raise typer.Exit(128 + signal.SIGINT)


def _contrast(inputs: Inputs, word: str, foil: str) -> Contrast:
    """The contrast of a word. It is checked before anything is written."""
    words = TextWords(inputs.model.token_texts(inputs.tokens.target)).words
    contrast = Contrast(word_or_number(word, words, "--word"), None if foil == AUTO else foil)
    found = WordPrediction(inputs.model, inputs.tokens, contrast, inputs.utterance).contrast or {}
    if contrast.foil is None:
        say(f"Foil:       {found['foil']} (the most probable other word in the place of {found['word']})")
    return replace(contrast, foil=found["foil"])


def _cells(row: WordRow) -> tuple[str, ...]:
    """The cells of a word in the table."""
    doubt = " doubtful" if row.doubtful and is_word(row.text) else ""
    text, share = row.alternatives[0] if row.alternatives else ("", 0.0)
    return (
        row.text,
        "" if row.probability is None else f"{row.probability:.2f}{doubt}",
        "" if row.verdict is None else f"{row.heard:.2f} {row.verdict}",
        f"{text.strip()} {share:.2f}" if share >= 0.005 else "",
        (row.top_previous_token or "").strip(),
        "" if row.reliability is None else f"{row.reliability:.2f}",
    )


def _report(explanation: SpeechToTextExplanation, paths: list[Path]) -> None:
    if explanation.metadata["partial"]:
        done = explanation.metadata["done"]
        say("\nPartial: stopped after " + " and ".join(f"{n} samples of the {stage}" for stage, n in done.items()))
        say("Run the same command again to continue.")
    # only methods that sample have a reliability
    known = explanation.reliability
    has_previous = bool(explanation.previous_tokens)
    rows = explanation.word_rows()
    header = ("word", "probability", "heard", "instead", "most important previous token", "reliability")
    table = [header, *(_cells(row) for row in rows)]
    filled = [column for column in range(len(header)) if any(cells[column] for cells in table[1:])]
    say()
    print_columns([[cells[column] for column in filled] for cells in table])
    if any(row.doubtful and is_word(row.text) for row in rows):
        say("\nDoubtful words have a probability below one half.")
    if not has_previous:
        say("\nThe model writes all tokens at once, so there are no attributions of previous tokens.")
    if known is not None:
        say(f"\nReliability (correlation of two halves of the samples, mean of the tokens): {known.mean():.2f}")
    say_written(paths)
