"""Figures of a sentence transcribed and translated by one model: which sounds does a foreign word come from?

    python benchmarks/translation.py speech.wav --output docs/images

One picture a language, one panel a word, by SPES on large patches: some minutes on 2 cores for an utterance of 3 s. The
language of multilingual Whisper is forced, which makes it translate.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from captum_spes import SPES, SpeechToTextAttribution, slic_feature_mask
from captum_spes.models import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", type=Path)
    parser.add_argument("--languages", nargs="+", default=["en", "de", "es"])
    parser.add_argument("--model", default="whisper-base")
    parser.add_argument("--context", type=float, default=8.0, help="seconds of the model's window")
    parser.add_argument("--n-samples", type=int, default=300)
    parser.add_argument("--output", type=Path, default=Path("build/translation"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for language in args.languages:
        explanation = SpeechToTextAttribution(SPES(load_model(args.model, language=language))).attribute(
            args.audio,
            n_samples=args.n_samples,
            n_token_samples=max(args.n_samples // 2, 50),
            feature_mask=partial(slic_feature_mask, patches_per_second=(20, 40, 60)),
            context=args.context,
            show_progress=True,
        )
        path = args.output / f"translation-{language}.png"
        explanation.words().plot_tokens().savefig(path, dpi=100)
        explanation.save(args.output / f"translation-{language}.safetensors")
        print(f"{explanation.metadata['task']}, {language}: {explanation.text} ({path})")


if __name__ == "__main__":
    main()
