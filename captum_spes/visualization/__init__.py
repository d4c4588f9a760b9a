"""Figures of spectrograms, attributions and curves. The functions draw arrays and do not depend on models."""

from captum_spes.maps import percentile_ranks
from captum_spes.visualization.attributions import (
    plot_attributions,
    plot_segmentation,
    plot_spectrogram,
    plot_token_attributions,
)
from captum_spes.visualization.curves import CurvePanel, plot_curves
from captum_spes.visualization.method_grid import plot_comparison
from captum_spes.visualization.players import plot_interactions
from captum_spes.visualization.token_statistics import (
    plot_distributions,
    plot_shares,
    plot_token_bars,
    plot_word_times,
)
from captum_spes.visualization.transcript import TranscriptLine, plot_transcript

__all__ = [
    "CurvePanel",
    "TranscriptLine",
    "percentile_ranks",
    "plot_attributions",
    "plot_comparison",
    "plot_curves",
    "plot_distributions",
    "plot_interactions",
    "plot_segmentation",
    "plot_shares",
    "plot_spectrogram",
    "plot_token_attributions",
    "plot_token_bars",
    "plot_transcript",
    "plot_word_times",
]
