"""The settings with which every utterance of an evaluation is explained and measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from captum_spes.attr.batches import check_positive
from captum_spes.attr.features import check_seed
from captum_spes.evaluation._curves import with_baseline
from captum_spes.metrics.baselines import BASELINES, Baseline, check_baseline
from captum_spes.metrics.curve import format_steps
from captum_spes.metrics.deletion import PERCENTAGES
from captum_spes.models.context import Context, Dtype
from captum_spes.models.protocol import SpeechToTextModel
from captum_spes.speech_to_text.catalogue import NamedMethod, Preset
from captum_spes.speech_to_text.profiles import asks_model, defaults_of, title
from captum_spes.speech_to_text.provenance import describe_arguments, describe_method, describe_model, versions

Metric = Literal["deletion", "insertion", "comprehensiveness", "sufficiency", "size"]
METRICS: tuple[Metric, ...] = get_args(Metric)
DEFAULT_METRICS: tuple[Metric, ...] = ("deletion", "insertion", "size")


@dataclass(frozen=True)
class Procedure:
    """The settings of an evaluation; see :class:`.Evaluation` for the arguments.

    All arguments that can be checked without a model are checked here, before a model is loaded or a file is written.

    Raises:
        ValueError: there is no method or metric, a metric, preset or baseline is unknown, the seed is not an integer of
            at least 0, percentages do not ascend from 0 to 100, or a batch has no perturbations.

    Example::

        >>> from captum_spes.evaluation.procedure import Procedure
        >>> from captum_spes.speech_to_text.catalogue import METHODS
        >>> Procedure({"spes": METHODS["spes"]}, metrics=["size"]).percentages[:3]
        (0.0, 5.0, 10.0)
    """

    methods: Mapping[str, NamedMethod]
    metrics: Sequence[Metric] = DEFAULT_METRICS
    preset: Preset = "fast"
    seed: int = 0
    context: Context = "auto"
    dtype: Dtype | None = None
    gen_args: dict[str, Any] | None = field(default_factory=dict)
    percentages: Iterable[float] = PERCENTAGES
    perturbations_per_eval: int = 16
    deletion_baselines: Sequence[Baseline] = ("mean",)

    def __post_init__(self) -> None:
        if not self.methods or not self.metrics:
            raise ValueError("there is nothing to evaluate: give at least one method and one metric.")
        if unknown := [metric for metric in self.metrics if metric not in METRICS]:
            raise ValueError(f"there is no metric {unknown[0]!r}: give some of {', '.join(METRICS)}.")
        if not self.deletion_baselines:
            raise ValueError(f"deletion_baselines is empty: give some of {', '.join(BASELINES)}.")
        for baseline in self.deletion_baselines:
            check_baseline(baseline)
        if self.preset not in get_args(Preset):
            raise ValueError(f"preset must be one of {', '.join(get_args(Preset))}, not {self.preset!r}.")
        if self.context not in get_args(Context):
            raise ValueError(f"context must be one of {', '.join(get_args(Context))}, not {self.context!r}.")
        check_positive(perturbations_per_eval=self.perturbations_per_eval)
        checked = {
            "methods": dict(self.methods),
            "metrics": tuple(self.metrics),
            "deletion_baselines": tuple(dict.fromkeys(self.deletion_baselines)),
            "seed": check_seed(self.seed),
            "gen_args": dict(self.gen_args or {}),
            "percentages": format_steps("percentages", self.percentages, 0, 100),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def writes(self) -> bool:
        """Whether the model has to write texts for the metrics."""
        return bool({"deletion", "insertion"} & set(self.metrics))

    @property
    def measurements(self) -> dict[str, tuple[Metric, Baseline]]:
        """The metric and the baseline of every measurement, by the name under which it is stored."""
        pairs = [
            (metric, baseline)
            for metric in self.metrics
            for baseline in (self.deletion_baselines if metric != "size" else ("mean",))
        ]
        return {with_baseline(*pair): pair for pair in pairs}

    def settings(self, model: SpeechToTextModel) -> dict[str, Any]:
        """The settings as values for JSON, without batch size and device, which change only the rounding.

        Raises:
            ValueError: a method cannot explain the model.
        """
        return {
            **describe_model(model, self.gen_args, self.context, self.dtype),
            "version": versions().get("captum-spes"),  # defaults may change with it
            "preset": self.preset,
            "seed": self.seed,
            "percentages": [int(step) if step == int(step) else step for step in self.percentages],
            "methods": {name: self._settings_of(method, model) for name, method in self.methods.items()},
        }

    def _settings_of(self, method: NamedMethod, model: SpeechToTextModel) -> dict[str, Any]:
        attr_method = method.wrap(model).attr_method
        score = method.score or defaults_of(attr_method).score
        return {
            "method": title(attr_method),
            **({"method_settings": made} if (made := describe_method(attr_method)) else {}),
            "score": score.__name__ if asks_model(attr_method) else "none",
            "absolute": method.absolute,
            **describe_arguments(method.arguments_of(model, self.preset)),
        }
