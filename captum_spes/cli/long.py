"""``captum-spes explain`` for recordings that are longer than the model's window."""

from __future__ import annotations

import math
import signal
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import typer

from captum_spes.audio import Recording, load_audio
from captum_spes.cli.folders import make_folder
from captum_spes.cli.inputs import generation, prepare, window_of
from captum_spes.cli.options import DTYPES, Preset, WindowName
from captum_spes.cli.output import progress, say, write_explanation
from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.explanation.long import LongExplanation, explain_parts
from captum_spes.models.preparation import NoWordsError
from captum_spes.models.protocol import SpeechToTextModel
from captum_spes.speech_to_text.catalogue import NamedMethod
from captum_spes.speech_to_text.provenance import describe_arguments, describe_model

# of an overview
MAX_SECONDS = 300.0


@dataclass(frozen=True)
class LongRun:
    """What is asked of every part."""

    model: SpeechToTextModel
    method: str
    named: NamedMethod
    preset: Preset
    context: WindowName | None
    num_beams: int
    batch_size: int | None
    seed: int

    def explain(self, recording: Recording, folder: Path, longest: float) -> None:
        """Explains a recording in parts of at most ``longest`` seconds, and draws it as a whole."""
        say(f"Method:     {self.method} ({self.preset.value} preset)")
        say(f"Length:     {recording.seconds:.1f} s, in parts of at most {longest:g} s")
        interrupted = False
        try:
            rate = self.model.sample_rate
            explain = partial(self._explain_part, recording)
            samples = load_audio(recording, rate)
            explain_parts(samples, rate, folder, explain, longest, self._settings(), recording.source)
        except KeyboardInterrupt:
            interrupted = True
            say("\nStopped. Finished parts are kept; the same command goes on with the rest.", error=True)
        long = LongExplanation.load(folder)
        paths = self._draw(long) if len(long) else []
        if paths:
            say(f"\nTranscript: {long.text}")
        say("\nWrote " + "\n      ".join(map(str, [folder / "parts.json", *paths, f"{folder}/part-*/"])))
        if interrupted:
            raise typer.Exit(128 + signal.SIGINT)

    def _explain_part(
        self, recording: Recording, long: LongExplanation, number: int, samples: np.ndarray, source: dict[str, Any]
    ) -> SpeechToTextExplanation | None:
        part = long.parts[number]
        say(f"\nPart {number + 1} of {len(long.parts)}: {part.start:.1f} to {part.stop:.1f} s")
        try:
            heard = Recording(samples, self.model.sample_rate, source)
            inputs = prepare(heard, self.model, self.preset, self.context, None, self.num_beams)
        except NoWordsError:
            say("The model hears no words there.")
            return None
        with progress(can_stop=False) as callback:
            explanation = self.named.explain(
                self.model,
                inputs.utterance,
                inputs.tokens,
                self.preset.value,
                perturbations_per_eval=self.batch_size,
                seed=self.seed,
                gen_args=inputs.gen_args,
                callback=callback,
            )
        write_explanation(explanation, make_folder(long.path(number).parent), recording)
        return explanation

    def _settings(self) -> dict[str, object]:
        return {
            "method": self.method,
            "preset": self.preset.value,
            "arguments": describe_arguments(self.named.arguments_of(self.model, self.preset.value)),
            "seed": self.seed,
            **describe_model(
                self.model, generation(self.num_beams), window_of(self.context, self.preset), DTYPES[self.preset]
            ),
        }

    def _draw(self, long: LongExplanation) -> list[Path]:
        """The overview, in as many figures as can be looked at."""
        n_figures = math.ceil(long.duration / MAX_SECONDS)
        paths = []
        for number in range(n_figures):
            start = number * MAX_SECONDS
            path = long.folder / ("overview.png" if n_figures == 1 else f"overview-{number + 1:02}.png")
            if any(word for word in long.words if start <= word.time < start + MAX_SECONDS):
                long.plot(start, min(start + MAX_SECONDS, long.duration)).savefig(path, dpi=120)
                paths.append(path)
        return paths
