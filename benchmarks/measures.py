"""The measures of maps that studies share: faithfulness, the pointing game, processor time, and correlation."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from captum_spes import SpeechToTextExplanation
from captum_spes.alignment import Alignment, force_align
from captum_spes.metrics import comprehensiveness, deletion, insertion, sufficiency, time_localization

# percentages of the bins: of the sentence's map, and of the maps of tokens
STEPS = (0, 5, 10, 20, 50, 100)
TOKEN_STEPS = (5, 20, 50)
# by column: whether a good map has a high value
MEASURES = {
    "deletion": True,
    "insertion": False,
    "comprehensiveness": True,
    "sufficiency": False,
    "pointing game": True,
    "seconds": False,
}
Explain = Callable[..., object]


def alignment_of(path: Path, text: str) -> Alignment:
    known = path.with_suffix(".json")
    return Alignment.load(known) if known.is_file() else force_align(path, text)


def measure(explain: Explain, model, utterance, tokens, alignment: Alignment) -> dict[str, float]:
    start = time.process_time()
    explanation = explain(model, utterance, tokens)
    seconds = time.process_time() - start
    return {
        "deletion": deletion(model, explanation, percentages=STEPS).auc,
        "insertion": insertion(model, explanation, percentages=STEPS).auc,
        "comprehensiveness": comprehensiveness(model, explanation, percentages=TOKEN_STEPS).aopc,
        "sufficiency": sufficiency(model, explanation, percentages=TOKEN_STEPS).aopc,
        "pointing game": 100 * time_localization(explanation, alignment).mean("hit"),
        "seconds": seconds,
    }


def correlations(first: SpeechToTextExplanation, second: SpeechToTextExplanation) -> list[float]:
    """Pearson's correlation of the maps of each token."""
    pairs = zip(first.spectrogram_attr.flatten(1).numpy(), second.spectrogram_attr.flatten(1).numpy())
    return [float(np.corrcoef(*pair)[0, 1]) for pair in pairs]
