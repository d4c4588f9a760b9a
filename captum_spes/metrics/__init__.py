"""How far explanations can be trusted: whether they are faithful, stable, and about the model at all."""

from captum_spes.metrics._additive import additive_attributions
from captum_spes.metrics._ranks import rank_correlation
from captum_spes.metrics.contrast import FlipRate, flip_rate
from captum_spes.metrics.faithfulness import infidelity
from captum_spes.metrics.robustness import ParameterRandomization, parameter_randomization, sensitivity_max

__all__ = [
    "FlipRate",
    "ParameterRandomization",
    "additive_attributions",
    "flip_rate",
    "infidelity",
    "parameter_randomization",
    "rank_correlation",
    "sensitivity_max",
]
