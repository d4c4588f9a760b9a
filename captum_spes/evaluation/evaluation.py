"""Explanations of a corpus by several methods, and how faithful and compact they are: a run that can be stopped."""

from __future__ import annotations

import time
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from captum_spes.audio import duration
from captum_spes.evaluation._curves import Curve
from captum_spes.evaluation.cluster import Workers, complete
from captum_spes.evaluation.corpus import Corpus, CorpusUtterance
from captum_spes.evaluation.procedure import DEFAULT_METRICS, Metric, Procedure
from captum_spes.evaluation.results import MethodResult, Results
from captum_spes.evaluation.runner import Callback, Runner
from captum_spes.evaluation.store import INPUTS, Store
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
# Network file systems remember for up to a minute that a file was not there.
PATIENCE_SECONDS = 120


class Evaluation:
    """Explains a corpus by several methods, and measures their deletion, insertion and size.

    Every explanation is written into the folder as soon as it is finished, and so is what the model writes by it: a
    run that was stopped, at whatever point, goes on where it was, and ends with the same results to the last bit. ::

        folder/settings.json                                how everything was done
        folder/explanations/<method>/<utterance>.safetensors
        folder/scores/<method>/<utterance>.json             texts of deletion and insertion, sizes, time
        folder/checkpoints/<method>/<utterance>/            what takes longer than a minute, while it is done

    The folder is made with the first result. Further methods, utterances and metrics may be added in a later run into
    the same folder; anything else that differs is refused. The batch size and the device are free.

    Args:
        model: the model.
        corpus: from :func:`~captum_spes.evaluation.corpus.load_corpus`.
        methods: by name: some of :data:`~captum_spes.speech_to_text.catalogue.METHODS`, or others.
        folder: a new one, or that of the same evaluation.
        metrics: which of ``"deletion"``, ``"insertion"``, ``"comprehensiveness"``, ``"sufficiency"`` and ``"size"``.
        preset: ``"fast"`` for the quick budgets, ``"paper"`` for the full ones, ``"instant"`` for methods that do not
            sample.
        seed: the seed of all that is random.
        context: how the model's window is run, as in :meth:`.SpeechToTextAttribution.attribute`.
        dtype: precision of the model.
        gen_args: arguments of the model's generation.
        percentages: steps of deletion and insertion; see :func:`~captum_spes.metrics.deletion`.
        perturbations_per_eval: perturbations in a batch.
        deletion_baselines: what hidden bins become in all metrics but size, some of ``"mean"``, ``"noise"``,
            ``"interpolation"`` and ``"silence"``; see :func:`~captum_spes.metrics.deletion`.

    Raises:
        ValueError: no method or metric, or those that do not exist or cannot explain the model; a folder with
            something else in it, or with the evaluation of something else, whose difference the message names.

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
        #: what the results depend on, but for the batch size and the device, which change rounding at most
        self.settings = procedure.settings(model)
        #: why an utterance was left out of the last run, by its id
        self.problems: dict[str, str] = {}
        self._store = Store(self.folder, self.settings)
        self._runner = Runner(procedure, self._store)

    # The run

    def run(self, callback: Callback | None = None, workers: Workers | None = None) -> None:
        """Does what is missing, utterance by utterance.

        Args:
            callback: called as ``callback(utterance, method, stage, done, total)`` after every batch of perturbations,
                and with the stage ``"finished"`` when a method's explanation of an utterance is measured and written.
                Workers tell no more than what is finished.
            workers: of Ray, which complete the utterances in this process's place, long ones first. The results are
                the same, to the last bit where the workers have as many threads as this process. All must see the
                audio files and the folder by the same paths.

        Raises:
            Exception: what is wrong with no single utterance, such as a full disk. What is finished is kept.

        Warns:
            UserWarning: an utterance is left out, for its file is broken, say, or the model hears no words in it.
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
            if not missing[item.id]:  # the audio is compared with what was explained; the model is not needed
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
            warnings.warn(f"{item.id} is left out: {problem}", stacklevel=4)

    def _missing(self, item: CorpusUtterance) -> list[str]:
        """The methods by which an utterance is not done, or whose files are damaged."""
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
        """Waits until what another machine has written is seen here: a network file system may take its time."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while item.id not in self.problems and self._missing(item) and time.monotonic() < deadline:
            time.sleep(1)

    def is_done(self, item: CorpusUtterance, method: str) -> bool:
        """Whether an utterance is explained by a method, and measured.

        Raises:
            ValueError: a file in the folder is damaged.
        """
        return self._runner.is_done(item, method)

    def progress(self) -> tuple[int, int]:
        """How many explanations are done, and of how many; those with damaged files are not."""
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
        """What was found on the utterances that are finished for all methods.

        Args:
            score: ``"wer"``, ``"bleu"``, or a score with its own settings.
            reference: score against the ``"transcription"``, or against what the ``"model"`` itself writes when
                nothing is hidden. Default: the transcription, where the corpus has any. Utterances without one are
                then left out of deletion and insertion, and with them of the results.
            only: ids of the utterances to look at, such as those of one speaker. Default: all.

        Returns:
            Results: areas, intervals, tests, curves; ``results().save(folder)`` writes them.

        Raises:
            ValueError: no utterance is finished, or another score or reference.
        """
        if reference not in (None, *get_args(Reference)):
            raise ValueError(f"reference must be one of {', '.join(get_args(Reference))}, not {reference!r}.")
        how = find_score(score)
        if reference is None:
            reference = "transcription" if any(item.transcription for item in self.corpus.utterances) else "model"
        writes = self.procedure.writes
        found, references, problems = self._finished(how if writes else None, reference, only)
        if not found:
            name, reason = next(iter(problems.items()))
            raise ValueError(f"there are no results, for no utterance is finished; {name}: {reason}")
        methods = {
            name: self._method_result([scores[name] for scores in found.values()], references, how)
            for name in self.methods
        }
        settings = {
            **self.settings,
            "metrics": list(self.procedure.metrics),
            "deletion_baselines": list(self.procedure.deletion_baselines),
        }
        if writes:
            settings |= {"score": how.name, "normalizer": getattr(how, "normalizer", None), "reference": reference}
        return Results(list(found), methods, problems, settings)

    def _finished(
        self, how: TextScore | None, reference: Reference, only: Collection[str] | None
    ) -> tuple[dict[str, dict[str, dict[str, Any]]], list[str], dict[str, str]]:
        """Scores of the finished utterances by utterance and method, their references, and the reasons of the others.

        Args:
            how: the score of texts, which may refuse a reference; None where there are no texts.
        """
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
                if how is not None:
                    how.counts("", text or "")  # raises where nothing can be scored against the reference
            except ValueError as error:
                problems[item.id] = str(error)
                continue
            found[item.id] = scores
            references.append(text or "")
        if n_unfinished:
            problems[f"{n_unfinished} unfinished"] = "the run was stopped before them; the same run goes on with them."
        return found, references, problems

    def _method_result(self, found: list[dict[str, Any]], references: list[str], how: TextScore) -> MethodResult:
        curves: dict[str, Curve] = {}
        for name, (metric, _) in self.procedure.measurements.items():
            values = [scores[name] for scores in found]
            if metric in ("deletion", "insertion"):
                curves[name] = DeletionCurve(tuple(self.procedure.percentages), values, references, how)
            elif metric == "size":
                # a model that writes all tokens at once has no previous tokens, and no size of their maps
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
