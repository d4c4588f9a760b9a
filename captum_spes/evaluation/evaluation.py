"""Explanations of a corpus by several methods, and how faithful and compact they are: a run that can be stopped."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from captum_spes._files import differences, sha256, write_atomically
from captum_spes.audio import duration
from captum_spes.evaluation.corpus import Corpus, CorpusUtterance
from captum_spes.evaluation.distributed import Sharing
from captum_spes.evaluation.results import MethodResult, Results
from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.maps import descending, top_bins
from captum_spes.metrics import DeletionCurve, SizeCurve, size
from captum_spes.metrics._checks import check_positive
from captum_spes.metrics._curve import format_steps
from captum_spes.metrics._rewriting import Rewriter
from captum_spes.metrics.compactness import THRESHOLDS
from captum_spes.metrics.deletion import PERCENTAGES
from captum_spes.metrics.text import TextScore, find_score
from captum_spes.models import SpeechToTextModel, Tokens, Utterance, prepare
from captum_spes.models.context import Context, Dtype
from captum_spes.speech_to_text.catalogue import NamedMethod, Preset
from captum_spes.speech_to_text.profiles import title
from captum_spes.speech_to_text.provenance import describe_arguments, describe_model

Metric = Literal["deletion", "insertion", "size"]
METRICS: tuple[Metric, ...] = get_args(Metric)
Reference = Literal["transcription", "model"]
INPUTS: tuple[Literal["spectrogram", "tokens"], ...] = ("spectrogram", "tokens")
SETTINGS = "settings.json"
ADVICE = "delete it, and what it says is measured again"
# for which files of other machines may be unseen: network file systems remember up to a minute what is not there
PATIENCE_SECONDS = 120
# what the scores of an explanation have beside the metrics
OF_EXPLANATION = {"audio_sha256", "text", "seconds", "reliability", "forwards", "backwards"}

# of (utterance, method, stage, done, total)
Callback = Callable[[CorpusUtterance, str, str, int, int], Any]


class Evaluation:
    """Explains a corpus by several methods, and measures their deletion, insertion and size.

    Every explanation is written into the folder as soon as it is finished, and so is what the model writes by it: a
    run that was stopped, at whatever point, goes on where it was, and ends with the same results to the last bit. ::

        folder/settings.json                                how everything was done
        folder/explanations/<method>/<utterance>.safetensors
        folder/scores/<method>/<utterance>.json             texts of deletion and insertion, sizes, time
        folder/checkpoints/<method>/<utterance>/            what takes longer than a minute, while it is done

    Further methods, utterances and metrics may be added in a later run into the same folder; anything else that
    differs is refused. The batch size and the device are free.

    Args:
        model: the model.
        corpus: from :func:`~captum_spes.evaluation.corpus.load_corpus`.
        methods: by name: some of :data:`~captum_spes.speech_to_text.catalogue.METHODS`, or others.
        folder: a new one, or that of the same evaluation.
        metrics: which of ``"deletion"``, ``"insertion"`` and ``"size"``.
        preset: ``"fast"`` for the quick budgets, ``"paper"`` for the full ones, ``"instant"`` for methods that do not
            sample.
        seed: of all that is random.
        context: how the model's window is run, as in :meth:`.SpeechToTextAttribution.attribute`.
        dtype: precision of the model.
        gen_args: arguments of the model's generation.
        percentages: steps of deletion and insertion; see :func:`~captum_spes.metrics.deletion`.
        perturbations_per_eval: perturbations in a batch.

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
        >>> evaluation.writes, evaluation.is_done(corpus.utterances[0], "energy")
        (False, True)
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
        metrics: Sequence[Metric] = METRICS,
        preset: Preset = "fast",
        seed: int = 0,
        context: Context = "auto",
        dtype: Dtype | None = None,
        gen_args: dict[str, Any] | None = None,
        percentages: Iterable[float] = PERCENTAGES,
        perturbations_per_eval: int = 16,
    ) -> None:
        if not methods or not metrics:
            raise ValueError("there is nothing to evaluate: give a method and a metric, or several.")
        if unknown := [metric for metric in metrics if metric not in METRICS]:
            raise ValueError(f"there is no metric {unknown[0]!r}: give some of {', '.join(METRICS)}.")
        if preset not in get_args(Preset):
            raise ValueError(f"preset must be one of {', '.join(get_args(Preset))}, not {preset!r}.")
        check_positive(perturbations_per_eval=perturbations_per_eval)
        if not isinstance(seed, (int, Integral)) or seed < 0:
            raise ValueError(f"seed must be an integer of at least 0, not {seed}.")
        for method in methods.values():
            method.wrap(model)
        self.model = model
        self.corpus = corpus
        self.methods = dict(methods)
        self.folder = Path(folder)
        self.metrics = tuple(metrics)
        self.preset: Preset = preset
        self.seed = int(seed)
        self.context = context
        self.dtype = dtype
        self.gen_args = gen_args or {}
        self.percentages = format_steps("percentages", percentages, 0, 100)
        self.perturbations_per_eval = perturbations_per_eval
        # what was left out, by the utterance's id
        self.problems: dict[str, str] = {}
        # what the results depend on, but for the batch size and the device, which round otherwise at most
        self.settings = self._settings()
        self._write_settings()

    # The run

    def run(self, callback: Callback | None = None, sharing: Sharing | None = None) -> None:
        """Does what is missing, utterance by utterance.

        Args:
            callback: called as ``callback(utterance, method, stage, done, total)`` after every batch of perturbations,
                and with the stage ``"finished"`` when a method's explanation of an utterance is measured and written.
            sharing: the ranks that run the same evaluation into the same folder, as
                :func:`~.distributed.connect` finds them: each utterance is done by one of them, long ones
                first, and all return when all utterances are done. Default: this process does all.

        Raises:
            torch.distributed.DistError: the launcher of the ranks is gone.

        Warns:
            UserWarning: an utterance is left out, for its file is broken, say, or the model hears no words in it.
        """
        self.problems = {}
        items = {item.id: item for item in self.corpus.utterances}

        def complete(name: str) -> str:
            return self._complete(items[name], callback or _ignore)

        if sharing is None:
            for name in items:
                complete(name)
            self._remove_checkpoints()
            return
        longest_first = sorted(items, key=lambda name: duration(items[name].path), reverse=True)
        problems = sharing.map(complete, longest_first)
        self.problems = {name: problems[name] for name in items if problems[name]}
        self._await_files([item for name, item in items.items() if name not in self.problems])
        if sharing.rank == 0:  # nobody makes folders any more
            self._remove_checkpoints()

    def is_done(self, item: CorpusUtterance, method: str) -> bool:
        """Whether an utterance is explained by a method, and measured.

        Raises:
            ValueError: a file in the folder is damaged.
        """
        return self._scores(item, method).keys() >= set(self.metrics)

    def progress(self) -> tuple[int, int]:
        """How many explanations are done, and of how many; those with damaged files are not."""
        pairs = [(item, name) for item in self.corpus.utterances for name in self.methods]
        n_done = 0
        for item, name in pairs:
            with suppress(ValueError):
                n_done += self.is_done(item, name)
        return n_done, len(pairs)

    def _complete(self, item: CorpusUtterance, callback: Callback) -> str:
        """Does what is missing of an utterance; returns why it cannot be done, or nothing."""
        try:
            names = [name for name in self.methods if not self.is_done(item, name)]
            for name in self.methods.keys() - set(names):
                _check_audio(item, self._scores(item, name)["audio_sha256"])
            if names:
                prepared = self._prepare(item)
                for name in names:
                    self._evaluate(item, name, prepared, callback)
        except ValueError as error:
            self.problems[item.id] = str(error)
            warnings.warn(f"{item.id} is left out: {error}", stacklevel=4)
        return self.problems.get(item.id, "")

    def _remove_checkpoints(self) -> None:
        """Removes the folders of checkpoints that are empty, as those of finished explanations are."""
        folder = self.folder / "checkpoints"
        for empty in (*(folder / name for name in self.methods), folder):
            with suppress(OSError):
                empty.rmdir()

    def _await_files(self, items: Iterable[CorpusUtterance]) -> None:
        """Waits until what other machines have written is seen here: a network file system may take its time."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        for item in items:
            while not all(self.is_done(item, name) for name in self.methods) and time.monotonic() < deadline:
                time.sleep(1)

    def _prepare(self, item: CorpusUtterance) -> tuple[Utterance, Tokens]:
        return prepare(self.model, item.path, gen_args=self.gen_args, context=self.context, dtype=self.dtype)

    def _evaluate(
        self, item: CorpusUtterance, name: str, prepared: tuple[Utterance, Tokens], callback: Callback
    ) -> None:
        path = self.explanation_path(item, name)
        seconds = None
        audio = prepared[0].source["audio_sha256"]

        def report(stage: str, done: int, total: int) -> None:  # what the caller returns does not stop SPES
            callback(item, name, stage, done, total)

        if path.is_file():
            explanation = SpeechToTextExplanation.load(path)
            _check_audio(item, explanation.metadata.get("audio_sha256", audio))
        else:
            start = time.perf_counter()
            checkpoint = self.folder / "checkpoints" / name / item.id
            resumed = any(checkpoint.glob("*.safetensors"))
            explanation = self.methods[name].explain(
                self.model,
                *prepared,
                self.preset,
                perturbations_per_eval=self.perturbations_per_eval,
                seed=self.seed,
                gen_args=self.gen_args,
                callback=report,
                checkpoint=checkpoint,
            )
            seconds = None if resumed else time.perf_counter() - start  # how long it took before, nobody knows
            # where the corpus lay is no part of a result: equal explanations are equal files
            explanation.metadata.pop("audio_file", None)
            explanation.metadata["audio_sha256"] = audio
            path.parent.mkdir(parents=True, exist_ok=True)
            explanation.save(path)
        scores = self._scores(item, name) or {
            "audio_sha256": audio,
            "text": explanation.text,
            "seconds": seconds,
            "reliability": None if explanation.reliability is None else float(explanation.reliability.mean()),
            **_passes(explanation),
        }
        scores |= {metric: self._measure(metric, explanation) for metric in self.metrics if metric not in scores}
        path = self._scores_path(item, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(scores, ensure_ascii=False) + "\n")
        report("finished", 1, 1)

    def _measure(self, metric: Metric, explanation: SpeechToTextExplanation) -> Any:
        """The sizes, or the texts: what those are scored against, and how, is settled in the end."""
        if metric == "size":
            known = INPUTS if explanation.previous_tokens else INPUTS[:1]
            return {inputs: size(explanation, inputs=inputs).utterance_scores[0].tolist() for inputs in known}
        top = top_bins(descending(explanation.sentence().spectrogram_attr[0], self.seed), self.percentages)
        # writing keeps no distributions: twice as many fit
        batch_size = 2 * self.perturbations_per_eval
        return list(Rewriter(self.model, explanation).texts(top if metric == "deletion" else ~top, batch_size))

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
        problems = dict(self.problems)
        found: dict[str, dict[str, dict[str, Any]]] = {}  # by utterance and method
        references = []
        n_unfinished = 0
        for item in self.corpus.utterances:
            if item.id in self.problems or (only is not None and item.id not in only):
                continue
            try:
                if not all(self.is_done(item, name) for name in self.methods):
                    n_unfinished += 1
                    continue
                scores = {name: self._scores(item, name) for name in self.methods}
                text = item.transcription if reference == "transcription" else next(iter(scores.values()))["text"]
                if self.writes:
                    how.counts("", text or "")  # refuses what cannot be scored against
            except ValueError as error:
                problems[item.id] = str(error)
                continue
            found[item.id] = scores
            references.append(text or "")
        if n_unfinished:
            problems[f"{n_unfinished} unfinished"] = "the run was stopped before them; the same run goes on with them."
        problems = {**self.corpus.problems, **problems}
        if not found:
            name, reason = next(iter(problems.items()))
            raise ValueError(f"there are no results, for no utterance is finished; {name}: {reason}")
        methods = {
            name: self._method_result([scores[name] for scores in found.values()], references, how)
            for name in self.methods
        }
        settings = {**self.settings, "metrics": list(self.metrics)}
        if self.writes:
            settings |= {"score": how.name, "normalizer": getattr(how, "normalizer", None), "reference": reference}
        return Results(list(found), methods, problems, settings)

    @property
    def writes(self) -> bool:
        """Whether the model has to write texts for the metrics."""
        return set(self.metrics) != {"size"}

    def _method_result(self, found: list[dict[str, Any]], references: list[str], how: TextScore) -> MethodResult:
        def curve(metric: Metric) -> DeletionCurve | None:
            if metric not in self.metrics:
                return None
            return DeletionCurve(self.percentages, [scores[metric] for scores in found], references, how)

        def sizes(inputs: str) -> SizeCurve:
            return SizeCurve(THRESHOLDS, torch.tensor([scores["size"][inputs] for scores in found]))

        return MethodResult(
            curve("deletion"),
            curve("insertion"),
            # of models that write all tokens at once, that of the previous tokens does not exist
            {inputs: sizes(inputs) for inputs in INPUTS if all(inputs in scores["size"] for scores in found)}
            if "size" in self.metrics
            else {},
            seconds=[scores["seconds"] for scores in found],
            forwards=[scores["forwards"] for scores in found],
            backwards=[scores["backwards"] for scores in found],
            reliability=[scores["reliability"] for scores in found],
        )

    # Files

    def explanation_path(self, item: CorpusUtterance, method: str) -> Path:
        """Where the explanation of an utterance by a method is."""
        return self.folder / "explanations" / method / f"{item.id}.safetensors"

    def _scores_path(self, item: CorpusUtterance, method: str) -> Path:
        return self.folder / "scores" / method / f"{item.id}.json"

    def _scores(self, item: CorpusUtterance, method: str) -> dict[str, Any]:
        """What is written of an explanation; empty where nothing is."""
        path = self._scores_path(item, method)
        if not path.is_file():
            return {}
        scores = _read_json(path)
        if missing := OF_EXPLANATION - scores.keys():
            raise ValueError(f"{path} is damaged (no {', '.join(sorted(missing))}): {ADVICE}.")
        if wrong := sorted(name for name, value in scores.items() if not self._is_score(name, value)):
            raise ValueError(f"{path} is damaged ({', '.join(wrong)} cannot be): {ADVICE}.")
        return scores

    def _is_score(self, name: str, value: Any) -> bool:
        """Whether a file may say so of an explanation."""
        if name in ("audio_sha256", "text"):
            return isinstance(value, str)
        if name in ("forwards", "backwards"):
            return isinstance(value, int) and 0 <= value < 2**63
        if name in ("seconds", "reliability"):
            return value is None or _is_number(value)
        if name in ("deletion", "insertion"):
            texts = isinstance(value, list) and all(isinstance(text, str) for text in value)
            return texts and len(value) == len(self.percentages)
        if name == "size":
            if not isinstance(value, dict) or not {INPUTS[0]} <= value.keys() <= set(INPUTS):
                return False
            rows = list(value.values())
            return all(isinstance(row, list) and len(row) == len(THRESHOLDS) for row in rows) and all(
                _is_number(number) for row in rows for number in row
            )
        return True

    def _settings(self) -> dict[str, Any]:
        return {
            **describe_model(self.model, self.gen_args, self.context, self.dtype),
            "preset": self.preset,
            "seed": self.seed,
            "percentages": [int(step) if step == int(step) else step for step in self.percentages],
            "methods": {
                name: {
                    "method": title(method.wrap(self.model).attr_method),
                    "score": None if method.score is None else method.score.__name__,
                    "absolute": method.absolute,
                    **describe_arguments(method.arguments_of(self.model, self.preset)),
                }
                for name, method in self.methods.items()
            },
        }

    def _write_settings(self) -> None:
        """Keeps the settings, together with those of methods that were run before.

        Raises:
            ValueError: the folder holds something else, or something that was done otherwise.
        """
        path = self.folder / SETTINGS
        # hidden files are what a process leaves behind that was killed as it wrote;
        # looked at first, as another rank may be about to write the settings: they are there before all else
        is_empty = not self.folder.is_dir() or all(part.name.startswith(".") for part in self.folder.iterdir())
        if path.is_file():
            before = _read_json(path, "give another folder")
            if not isinstance(before.get("methods"), dict):
                raise ValueError(f"{path} is damaged (no methods): give another folder.")
            if found := list(differences(before, self.settings)):
                raise ValueError(
                    f"{self.folder} holds an evaluation with other arguments: {'; '.join(found)}. Give the same "
                    "ones to go on with it, or another folder."
                )
            methods = {**before["methods"], **self.settings["methods"]}
        elif not is_empty:
            raise ValueError(f"{self.folder} is not empty and holds no evaluation: give another folder.")
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            methods = self.settings["methods"]
        write_atomically(path, json.dumps({**self.settings, "methods": methods}, indent=1, ensure_ascii=False) + "\n")


def _ignore(*progress: Any) -> None:
    """A callback that does nothing."""


def _read_json(path: Path, advice: str = ADVICE) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): {advice}.") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): check its permissions.") from error
    return content


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _passes(explanation: SpeechToTextExplanation) -> dict[str, int]:
    """Inputs that passed through the model, and gradients."""
    try:
        stages = list(explanation.metadata["passes"].values())
        return {f"{way}s": sum(int(stage[way]) for stage in stages) for way in ("forward", "backward")}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError("the metadata of its explanation does not tell its passes: delete that file.") from error


def _check_audio(item: CorpusUtterance, digest: str) -> None:
    """Raises a ValueError where an explanation is of another audio file of this name."""
    if sha256(item.path) != digest:
        raise ValueError(f"{item.path} has changed since it was explained: evaluate it into another folder.")
