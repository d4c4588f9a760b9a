"""Explains one utterance of an evaluation by every method, measures the explanations, and writes both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from captum_spes._files import sha256
from captum_spes.audio import read_recording
from captum_spes.evaluation._timed import explain_timed
from captum_spes.evaluation.corpus import CorpusUtterance
from captum_spes.evaluation.procedure import Metric, Procedure
from captum_spes.evaluation.store import INPUTS, Store
from captum_spes.evaluation.word_errors import word_facts
from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.metrics import comprehensiveness, rewrite, size, sufficiency
from captum_spes.metrics.baselines import Baseline
from captum_spes.models import SpeechToTextModel, Tokens, Utterance, prepare

# called as callback(utterance, method, stage, done, total)
Callback = Callable[[CorpusUtterance, str, str, int, int], Any]


@dataclass(frozen=True)
class Runner:
    """Computes the missing results of one utterance. It holds no model, and can be sent to another process.

    Attributes:
        procedure: the settings of explanations and measurements.
        store: the files of the results.
    """

    procedure: Procedure
    store: Store

    def is_done(self, item: CorpusUtterance, method: str) -> bool:
        """Whether the explanation of an utterance by a method is finished and measured by all metrics.

        Raises:
            ValueError: its scores are damaged.
        """
        return self.store.scores(item.id, method).keys() >= set(self.procedure.measurements)

    def complete(self, model: SpeechToTextModel, item: CorpusUtterance, callback: Callback) -> str:
        """Explains an utterance by all methods and measures the explanations, unless this is done already.

        Returns:
            str: the reason, in a sentence, if this is impossible; otherwise an empty string.
        """
        methods = self.procedure.methods
        try:
            missing = [name for name in methods if not self.is_done(item, name)]
            for name in methods.keys() - set(missing):
                _check_audio(item, self.store.scores(item.id, name)["audio_sha256"])
            if missing:
                prepared = self._prepare(model, item)
                for name in missing:
                    self._complete(model, item, name, prepared, callback)
        except ValueError as error:
            return str(error)
        return ""

    def _prepare(self, model: SpeechToTextModel, item: CorpusUtterance) -> tuple[Utterance, Tokens]:
        how = self.procedure
        recording = read_recording(item.path)  # which refuses silence
        return prepare(model, recording, gen_args=how.gen_args, context=how.context, dtype=how.dtype)

    def _complete(
        self,
        model: SpeechToTextModel,
        item: CorpusUtterance,
        method: str,
        prepared: tuple[Utterance, Tokens],
        callback: Callback,
    ) -> None:
        def report(stage: str, done: int, total: int) -> None:  # returns nothing, so that the callback cannot stop SPES
            callback(item, method, stage, done, total)

        audio = prepared[0].source["audio_sha256"]
        path = self.store.explanation_path(item.id, method)
        seconds = None
        if path.is_file():
            explanation = SpeechToTextExplanation.load(path)
            _check_audio(item, explanation.metadata.get("audio_sha256", audio))
        else:
            explanation, seconds = self._explain(model, item, method, prepared, report)
            # The folder of the corpus is not stored, so that equal explanations are equal files.
            explanation.metadata.pop("audio_file", None)
            explanation.metadata["audio_sha256"] = audio
            self.store.write_settings()
            path.parent.mkdir(parents=True, exist_ok=True)
            explanation.save(path)
        scores = self.store.scores(item.id, method) or {
            "audio_sha256": audio,
            "text": explanation.text,
            "seconds": seconds,
            "reliability": None if explanation.reliability is None else float(explanation.reliability.mean()),
            "words": word_facts(explanation),
            **_passes(explanation),
        }
        missing = {name: pair for name, pair in self.procedure.measurements.items() if name not in scores}
        scores |= {name: self._measure(*pair, model, explanation) for name, pair in missing.items()}
        self.store.write_settings()
        self.store.write_scores(item.id, method, scores)
        report("finished", 1, 1)

    def _explain(
        self,
        model: SpeechToTextModel,
        item: CorpusUtterance,
        method: str,
        prepared: tuple[Utterance, Tokens],
        callback: Callable[[str, int, int], None],
    ) -> tuple[SpeechToTextExplanation, float | None]:
        how = self.procedure
        return explain_timed(
            how.methods[method],
            model,
            *prepared,
            how.preset,
            self.store.checkpoint(item.id, method),
            perturbations_per_eval=how.perturbations_per_eval,
            seed=how.seed,
            gen_args=how.gen_args,
            callback=callback,
        )

    def _measure(
        self, metric: Metric, baseline: Baseline, model: SpeechToTextModel, explanation: SpeechToTextExplanation
    ) -> Any:
        """The measurements by a metric: sizes, falls, or texts, which are scored later against any reference."""
        how = self.procedure
        if metric == "size":
            known = INPUTS if explanation.previous_tokens else INPUTS[:1]
            return {inputs: size(explanation, inputs=inputs).utterance_scores[0].tolist() for inputs in known}
        if metric in ("deletion", "insertion"):
            return rewrite(
                model,
                explanation,
                metric,
                percentages=how.percentages,
                baselines=baseline,
                # generation keeps no distributions, so that twice as many fit
                perturbations_per_eval=2 * how.perturbations_per_eval,
                seed=how.seed,
            )
        measure = comprehensiveness if metric == "comprehensiveness" else sufficiency
        curve = measure(
            model,
            explanation,
            baselines=baseline,
            perturbations_per_eval=how.perturbations_per_eval,
            seed=how.seed,
        )
        return curve.scores.tolist()


def _passes(explanation: SpeechToTextExplanation) -> dict[str, int]:
    """The numbers of inputs that passed through the model, and of gradients."""
    try:
        stages = list(explanation.metadata["passes"].values())
        return {f"{way}s": sum(int(stage[way]) for stage in stages) for way in ("forward", "backward")}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError("the metadata of its explanation have no passes: delete that file.") from error


def _check_audio(item: CorpusUtterance, digest: str) -> None:
    """Raises a ValueError if an explanation belongs to another audio file with this name."""
    if sha256(item.path) != digest:
        raise ValueError(f"{item.path} has changed since it was explained: evaluate it into another folder.")
