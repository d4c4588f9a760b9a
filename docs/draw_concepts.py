"""The first picture of the page on concepts: ``python docs/draw_concepts.py``, a minute on 2 cores."""

from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure

import captum_spes
from captum_spes import SPES, SpeechToTextAttribution, SpeechToTextExplanation, slic_feature_mask
from captum_spes.models import load_model

SAMPLE = Path(captum_spes.__file__).parent / "data" / "so_what_was_the_next_step.wav"
IMAGES = Path(__file__).parent / "images"
N_SAMPLES = 2_000
PATCHES = (20, 40, 60)  # a second; large ones, to be seen


def draw_perturbation(explanation: SpeechToTextExplanation) -> Figure:
    """From the spectrogram to a map: its patches, one perturbation, and what the mean over many shows of a token."""
    mask = explanation.feature_mask[1]
    spectrogram = explanation.spectrogram
    hidden = (torch.rand(int(mask.max()) + 1, generator=torch.Generator().manual_seed(0)) < 0.5)[mask]
    baseline = spectrogram.mean(0, keepdim=True).expand_as(spectrogram)
    row = explanation.index("next")
    edges = (mask[1:, :-1] != mask[:-1, :-1]) | (mask[:-1, 1:] != mask[:-1, :-1])
    outlined = spectrogram[:-1, :-1].masked_fill(edges, float(spectrogram.max()))
    panels = {
        "1. the spectrogram": (spectrogram, "Greys"),
        "2. its patches": (outlined, "Greys"),
        "3. half of them hidden: what does the model\nnow expect in the place of “next”?": (
            torch.where(hidden, baseline, spectrogram),
            "Greys",
        ),
        f"4. the mean impact of hiding each patch\non “next”, over {N_SAMPLES:,} such perturbations": (
            explanation.spectrogram_attr[row],
            "Purples",
        ),
    }
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    for axis, (title, (values, colours)) in zip(axes.flat, panels.items()):
        axis.imshow(
            values.T, origin="lower", aspect="auto", cmap=colours, extent=(0, explanation.duration, 0, values.shape[1])
        )
        axis.set_title(title, fontsize=10)
    for axis in axes[1]:
        axis.set_xlabel("time (s)")
    for axis in axes[:, 0]:
        axis.set_ylabel("mel channel")
    return figure


def main() -> None:
    attribution = SpeechToTextAttribution(SPES(load_model("whisper-tiny.en", device="cpu")))
    patches = partial(slic_feature_mask, patches_per_second=PATCHES)
    explanation = attribution.attribute(str(SAMPLE), feature_mask=patches, n_samples=N_SAMPLES, seed=0)
    draw_perturbation(explanation).savefig(IMAGES / "perturbation.png", dpi=110)


if __name__ == "__main__":
    main()
