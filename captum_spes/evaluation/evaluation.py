"""Explains a corpus by several methods and measures the explanations, in a run that can be resumed."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from captum_spes._log import warn
from captum_spes.audio import duration
from captum_spes.evaluation._curves import Curve
from captum_spes.evaluation.cluster import Workers, complete
from captum_spes.evaluation.corpus import Corpus, CorpusUtterance
from captum_spes.evaluation.procedure import DEFAULT_METRICS, Metric, Procedure
from captum_spes.evaluation.results import MethodResult, Results
from captum_spes.evaluation.runner import Callback, Runner
from captum_spes.evaluation.store import INPUTS, Store
from captum_spes.evaluation.word_errors import find_word_errors
from captum_spes.metrics import DeletionCurve, ErasureCurve, SizeCurve
from captum_spes.metrics.baselines import Baseline
from captum_spes.metrics.compactness import THRESHOLDS
from captum_spes.metrics.deletion import PERCENTAGES
from captum_spes.metrics.erasure import RATIONALE_PERCENTAGES
from captum_spes.metrics.text import TextScore, find_score
from captum_spes.models.context import Context, Dtype
from captum_spes.models.protocol import SpeechToTextModel
from captum_spes.speech_to_text.catalogue import NamedMethod, Preset

Reference = Literal["transcription", "model"]
# Network file systems may report for up to a minute that a new file does not exist.
PATIENCE_SECONDS = 120


class Evaluation:
    """Explains a corpus by several methods, and measures their deletion, insertion and size.

    Every explanation and its measurements are written into the folder as soon as they are finished. A run that was
    stopped at any point can be continued, and ends with the same results to the last bit. ::

        folder/settings.json                                the settings of all explanations
        folder/explanations/<method>/<utterance>.safetensors
        folder/scores/<method>/<utterance>.json             texts of deletion and insertion, sizes, time
        folder/checkpoints/<method>/<utterance>/            explanations that take longer than a minute, until finished

    The folder is made with the first result. A later run into the same folder may add methods, utterances and metrics;
    other settings that differ are refused, except for the batch size and the device.

    Args:
        model: the model.
        corpus: from :func:`~captum_spes.evaluation.corpus.load_corpus`.
        methods: the methods by name, some of :data:`~captum_spes.speech_to_text.catalogue.METHODS`, or others.
        folder: a new folder, or that of the same evaluation.
        metrics: some of ``"deletion"``, ``"insertion"``, ``"comprehensiveness"``, ``"sufficiency"`` and ``"size"``.
        preset: ``"fast"`` for the fast budgets, ``"paper"`` for the full ones, ``"instant"`` for methods that draw no
            samples.
        seed: the seed of all random numbers.
        context: how the model's window is run, as in :meth:`.SpeechToTextAttribution.attribute`.
        dtype: precision of the model.
        gen_args: arguments of the model's generation.
        percentages: steps of deletion and insertion; see :func:`~captum_spes.metrics.deletion`.
        perturbations_per_eval: perturbations in a batch.
        deletion_baselines: the values of hidden bins in all metrics except size, some of ``"mean"``, ``"noise"``,
            ``"interpolation"`` and ``"silence"``; see :func:`~captum_spes.metrics.deletion`.

    Raises:
        ValueError: there is no method or metric, or one does not exist or cannot explain the model; or the folder holds
            other files, or an evaluation with other settings, whose difference the message names.

    Example::

        >>> from captum_spes.evaluation.corpus import load_corpus
        >>> from captum_spes.evaluation import Evaluation
        >>> from captum_spes.models import load_model
        >>> from captum_spes.speech_to_text.catalogue import METHODS
        >>> methods = {name: METHODS[name] for name in ("integrated_gradients", "random", "energy")}
        >>> model, corpus = load_model("whisper-tiny.en"), load_corpus("speech")
        >>> evaluation = Evaluation(model, corpus, methods, "spes-output/speech", metrics=["size"])
        >>> evaluation.run()
        >>> evaluation.progress()
        (6, 6)
        >>> evaluation.results().metrics
        ['size', 'token size']
        >>> evaluation.is_done(corpus.utterances[0], "energy")
        True
        >>> evaluation.explanation_path(corpus.utterances[0], "energy").name
        'one.safetensors'
    """

    def __init__(
        self,
        model: SpeechToTextModel,
        corpus: Corpus,
        methods: Mapping[str, NamedMethod],
        folder: str | Path,
        *,
        metrics: Sequence[Metric] = DEFAULT_METRICS,
        preset: Preset = "fast",
        seed: int = 0,
        context: Context = "auto",
        dtype: Dtype | None = None,
        gen_args: dict[str, Any] | None = None,
        percentages: Iterable[float] = PERCENTAGES,
        perturbations_per_eval: int = 16,
        deletion_baselines: Sequence[Baseline] = ("mean",),
    ) -> None:
        procedure = Procedure(
            methods,
            metrics,
            preset,
            seed,
            context,
            dtype,
            gen_args,
            percentages,
            perturbations_per_eval,
            deletion_baselines,
        )
        self.model = model
        self.corpus = corpus
        self.procedure = procedure
        self.methods = dict(procedure.methods)
        self.folder = Path(folder)
        #: the settings of the results, without batch size and device, which change only the rounding
        self.settings = procedure.settings(model)
        #: the reasons for which utterances were left out of the last run, by their id
        self.problems: dict[str, str] = {}
        self._store = Store(self.folder, self.settings)
        self._runner = Runner(procedure, self._store)

    # The run

    def run(self, callback: Callback | None = None, workers: Workers | None = None) -> None:
        """Computes all missing explanations and measurements, utterance by utterance.

        Args:
            callback: called as ``callback(utterance, method, stage, done, total)`` after every batch of perturbations,
                and with the stage ``"finished"`` when a method's explanation of an utterance is measured and written.
                With workers it is only called for finished explanations.
            workers: workers of Ray, which complete the utterances instead of this process, long ones first. The results
                are the same, to the last bit if the workers have as many threads as this process. All of them must
                reach the audio files and the folder by the same paths.

        Raises:
            Exception: an error that does not belong to a single utterance, such as a full disk. Finished results are
                kept.

        Warns:
            UserWarning: an utterance is left out, for instance because its file is damaged or has no words.
        """
        self.problems = {}
        report = callback or _ignore
        if workers is None:
            for item in self.corpus.utterances:
                self._note(item, self._runner.complete(self.model, item, report))
        else:
            self._run_on(workers, report)
        self._store.remove_checkpoints()

    def _run_on(self, workers: Workers, callback: Callback) -> None:
        missing = {item.id: self._missing(item) for item in self.corpus.utterances}
        longest_first = sorted(self.corpus.utterances, key=lambda item: duration(item.path), reverse=True)
        for item in longest_first:
            if not missing[item.id]:  # only compares the audio with that of the explanations, without the model
                self._note(item, self._runner.complete(self.model, item, callback))
        todo = [item for item in longest_first if missing[item.id]]
        with closing(complete(workers, self._runner, todo)) as completed:
            for item, problem in completed:
                self._note(item, problem)
                self._await_files(item)
                for name in missing[item.id] if not problem else ():
                    callback(item, name, "finished", 1, 1)
        self.problems = {item.id: self.problems[item.id] for item in self.corpus.utterances if item.id in self.problems}

    def _note(self, item: CorpusUtterance, problem: str) -> None:
        if problem:
            self.problems[item.id] = problem
            warn(f"{item.id} is left out: {problem}", stacklevel=4)

    def _missing(self, item: CorpusUtterance) -> list[str]:
        """The methods whose results for an utterance are missing or damaged."""
        missing = []
        for name in self.methods:
            try:
                is_done = self.is_done(item, name)
            except ValueError:
                is_done = False
            if not is_done:
                missing.append(name)
        return missing

    def _await_files(self, item: CorpusUtterance) -> None:
        """Waits until the files of another machine are visible here, which may take time on a network file system."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while item.id not in self.problems and self._missing(item) and time.monotonic() < deadline:
            time.sleep(1)

    def is_done(self, item: CorpusUtterance, method: str) -> bool:
        """Whether the explanation of an utterance by a method is finished and measured.

        Raises:
            ValueError: a file in the folder is damaged.
        """
        return self._runner.is_done(item, method)

    def progress(self) -> tuple[int, int]:
        """The number of finished explanations, without those with damaged files, and the number of all."""
        total = len(self.corpus.utterances) * len(self.methods)
        return total - sum(len(self._missing(item)) for item in self.corpus.utterances), total

    def explanation_path(self, item: CorpusUtterance, method: str) -> Path:
        """The file of the explanation of an utterance by a method."""
        return self._store.explanation_path(item.id, method)

    # Results

    def results(
        self,
        score: str | TextScore = "wer",
        reference: Reference | None = None,
        only: Collection[str] | None = None,
    ) -> Results:
        """The results for the utterances that are finished for all methods.

        Args:
            score: ``"wer"``, ``"bleu"``, or a score with its own settings.
            reference: score against the ``"transcription"``, or against the text that the ``"model"`` writes when
                nothing is hidden. Default: the transcription, if the corpus has any. Utterances without one are
                then left out of the results.
            only: ids of the utterances to include, such as those of one speaker. Default: all.

        Returns:
            Results: areas, intervals, tests, curves; ``results().save(folder)`` writes them.

        Raises:
            ValueError: no utterance is finished, ``only`` names none of them, or there is no such score or reference.
        """
        if reference not in (None, *get_args(Reference)):
            raise ValueError(f"reference must be one of {', '.join(get_args(Reference))}, not {reference!r}.")
        text_score = find_score(score)
        if reference is None:
            reference = "transcription" if any(item.transcription for item in self.corpus.utterances) else "model"
        writes = self.procedure.writes
        found, references, problems = self._finished(text_score if writes else None, reference, only)
        if not found:
            if not problems:
                raise ValueError("there are no results: only names no utterance of the corpus.")
            name, reason = next(iter(problems.items()))
            raise ValueError(
                f"there are no results, because every utterance is unfinished or left out; {name}: {reason}"
            )
        methods = {
            name: self._method_result([scores[name] for scores in found.values()], references, text_score)
            for name in self.methods
        }
        settings = {
            **self.settings,
            "metrics": list(self.procedure.metrics),
            "deletion_baselines": list(self.procedure.deletion_baselines),
        }
        if writes:
            normalizer = getattr(text_score, "normalizer", None)
            settings |= {"score": text_score.name, "normalizer": normalizer, "reference": reference}
        transcriptions = {item.id: item.transcription for item in self.corpus.utterances}
        errors = find_word_errors(
            list(found.values()), [transcriptions[name] for name in found], getattr(text_score, "normalize", None)
        )
        return Results(list(found), methods, problems, settings, errors=errors)

    def _finished(
        self, text_score: TextScore | None, reference: Reference, only: Collection[str] | None
    ) -> tuple[dict[str, dict[str, dict[str, Any]]], list[str], dict[str, str]]:
        """Scores of the finished utterances by utterance and method, their references, and the reasons of the others.

        Args:
            text_score: the score of texts, which may refuse a reference; None if there are no texts.
        """
        only = {only} if isinstance(only, str) else only
        problems = {**self.corpus.problems, **self.problems}
        found: dict[str, dict[str, dict[str, Any]]] = {}
        references = []
        n_unfinished = 0
        for item in self.corpus.utterances:
            if item.id in self.problems or (only is not None and item.id not in only):
                continue
            try:
                if not all(self.is_done(item, name) for name in self.methods):
                    n_unfinished += 1
                    continue
                scores = {name: self._store.scores(item.id, name) for name in self.methods}
                text = item.transcription if reference == "transcription" else next(iter(scores.values()))["text"]
                if text_score is not None:
                    text_score.counts("", text or "")  # raises an error if the reference cannot be scored against
            except ValueError as error:
                problems[item.id] = str(error)
                continue
            found[item.id] = scores
            references.append(text or "")
        if n_unfinished:
            problems[f"{n_unfinished} unfinished"] = "the run was stopped before them; the same run continues."
        return found, references, problems

    def _method_result(self, found: list[dict[str, Any]], references: list[str], text_score: TextScore) -> MethodResult:
        curves: dict[str, Curve] = {}
        for name, (metric, _) in self.procedure.measurements.items():
            values = [scores[name] for scores in found]
            if metric in ("deletion", "insertion"):
                curves[name] = DeletionCurve(tuple(self.procedure.percentages), values, references, text_score)
            elif metric == "size":
                # a model that writes all tokens at once has no previous tokens, and therefore no token size
                for inputs, title in zip(INPUTS, ("size", "token size")):
                    if all(inputs in sizes for sizes in values):
                        curves[title] = SizeCurve(THRESHOLDS, torch.tensor([sizes[inputs] for sizes in values]))
            else:
                curves[name] = ErasureCurve(RATIONALE_PERCENTAGES, [torch.tensor([falls]) for falls in values])
        return MethodResult(
            curves,
            seconds=[scores["seconds"] for scores in found],
            forwards=[scores["forwards"] for scores in found],
            backwards=[scores["backwards"] for scores in found],
            reliability=[scores["reliability"] for scores in found],
        )


def _ignore(*progress: Any) -> None:
    """A callback that does nothing."""
