"""Metrics of explanations: faithfulness, compactness, robustness, plausibility, and sanity."""

from captum_spes.maps import rank_correlation
from captum_spes.metrics._additive import additive_attributions
from captum_spes.metrics.compactness import SizeCurve, size
from captum_spes.metrics.contrast import FlipRate, flip_rate
from captum_spes.metrics.deletion import DeletionCurve, deletion, insertion, rewrite, symmetric_relevance_gain
from captum_spes.metrics.erasure import ErasureCurve, comprehensiveness, sufficiency
from captum_spes.metrics.faithfulness import infidelity
from captum_spes.metrics.meta import LadderOrder, degrade, ladder_order, planted_auc
from captum_spes.metrics.plausibility.boundaries import BoundaryScore, PhoneBoundaries, phone_boundaries
from captum_spes.metrics.plausibility.context_share import ContextShare, context_share
from captum_spes.metrics.plausibility.frequency import FrequencyProfile, frequency_profile, plot_frequency_profiles
from captum_spes.metrics.plausibility.kurtosis import TokenKurtosis, token_kurtosis
from captum_spes.metrics.plausibility.order import Monotonicity, monotonicity
from captum_spes.metrics.plausibility.previous_tokens import ExplainedToken, PreviousTokens, previous_token_saliency
from captum_spes.metrics.plausibility.statistics import MeanComparison
from captum_spes.metrics.plausibility.time import TimeLocalization, WordTime, plot_time, time_localization
from captum_spes.metrics.plausibility.words import UnmatchedWord
from captum_spes.metrics.robustness import ParameterRandomization, parameter_randomization, sensitivity_max
from captum_spes.metrics.text import Bleu, WordErrorRate, bleu, wer

__all__ = [
    "Bleu",
    "BoundaryScore",
    "ContextShare",
    "DeletionCurve",
    "ErasureCurve",
    "ExplainedToken",
    "FlipRate",
    "FrequencyProfile",
    "LadderOrder",
    "MeanComparison",
    "Monotonicity",
    "ParameterRandomization",
    "PhoneBoundaries",
    "PreviousTokens",
    "SizeCurve",
    "TimeLocalization",
    "TokenKurtosis",
    "UnmatchedWord",
    "WordErrorRate",
    "WordTime",
    "additive_attributions",
    "bleu",
    "comprehensiveness",
    "context_share",
    "degrade",
    "deletion",
    "flip_rate",
    "frequency_profile",
    "infidelity",
    "insertion",
    "ladder_order",
    "monotonicity",
    "parameter_randomization",
    "phone_boundaries",
    "planted_auc",
    "plot_frequency_profiles",
    "plot_time",
    "previous_token_saliency",
    "rank_correlation",
    "rewrite",
    "sensitivity_max",
    "size",
    "sufficiency",
    "symmetric_relevance_gain",
    "time_localization",
    "token_kurtosis",
    "wer",
]
