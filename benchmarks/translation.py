"""Draws maps of a sentence that one model transcribes and translates, which show the sounds behind foreign words.

    python benchmarks/translation.py speech.wav --output docs/images
    python benchmarks/translation.py --into-english --output benchmarks/results

There is one picture for each language with a panel for each word, by SPES on large patches, which takes some minutes on
2 cores for an utterance of 3 s. The language of multilingual Whisper is forced, which makes it translate English
speech. With --into-english, Spanish and French sentences are spoken by SVOX Pico (Debian's libttspico-utils, of its
section non-free; the model does not understand espeak-ng), transcribed, and translated into English. The first sentence
of each language is explained.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from functools import partial
from pathlib import Path

from provenance import command, machine

from captum_spes import SPES, SpeechToTextAttribution, SpeechToTextExplanation, slic_feature_mask
from captum_spes._text import markdown_table
from captum_spes.models import load_model

FOREIGN = {
    "es": ("Mi hermano trabaja en un hospital grande.", "Buenos días. Me llamo Carlos y vivo en Madrid."),
    "fr": ("Mon frère travaille dans un grand hôpital.", "Bonjour. Je m'appelle Marie et j'habite à Paris."),
}
VOICES = {"es": "es-ES", "fr": "fr-FR"}


def explain(attribution: SpeechToTextAttribution, audio: Path, args: argparse.Namespace) -> SpeechToTextExplanation:
    return attribution.attribute(
        audio,
        n_samples=args.n_samples,
        n_token_samples=max(args.n_samples // 2, 50),
        feature_mask=partial(slic_feature_mask, patches_per_second=(20, 40, 60)),
        context=args.context,
        show_progress=True,
    )


def into_english(args: argparse.Namespace) -> None:
    """A table of the transcripts, and a picture of the first sentence of each language."""
    rows = [("spoken (Pico)", "transcribed", "translated")]
    for language, sentences in FOREIGN.items():
        attributions = [
            SpeechToTextAttribution(SPES(load_model(args.model, language=language, task=task)))
            for task in ("transcribe", "translate")
        ]
        for number, sentence in enumerate(sentences):
            audio = args.output / f"{language}-{number}.wav"
            subprocess.run(["pico2wave", "-l", VOICES[language], "-w", audio, sentence], check=True)
            texts = []
            for attribution in attributions:
                _, tokens = attribution.prepare(audio, context=args.context, gen_args={"max_new_tokens": 60})
                texts.append(attribution.text(tokens))
            rows.append((sentence, *texts))
            print(*rows[-1], sep=" | ", flush=True)
            if number == 0:
                explanation = explain(attributions[1], audio, args)
                explanation.words().plot_tokens().savefig(args.output / f"translation-{language}-en.png", dpi=100)
            audio.unlink()
    footer = f"`{command()}`: {args.model}, {args.n_samples} samples, window: {args.context}; {machine()}."
    (args.output / "translation.md").write_text("\n".join([*markdown_table(rows), "", footer]) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", type=Path, nargs="?")
    parser.add_argument("--into-english", action="store_true", help="of Spanish and French speech by Pico")
    parser.add_argument("--languages", nargs="+", default=["en", "de", "es"])
    parser.add_argument("--model", default="whisper-base")
    parser.add_argument("--context", choices=["auto", "frozen", "full"], default="auto", help="how the window is run")
    parser.add_argument("--n-samples", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=Path("build/translation"))
    args = parser.parse_args()
    if (args.audio is None) != args.into_english:
        parser.error("give an audio file, or --into-english")
    args.output.mkdir(parents=True, exist_ok=True)
    if args.into_english and shutil.which("pico2wave") is None:
        raise SystemExit("--into-english speaks with pico2wave, which is not there: apt install libttspico-utils.")
    if args.into_english:
        return into_english(args)
    for language in args.languages:
        attribution = SpeechToTextAttribution(SPES(load_model(args.model, language=language)))
        explanation = explain(attribution, args.audio, args)
        path = args.output / f"translation-{language}.png"
        explanation.words().plot_tokens().savefig(path, dpi=100)
        explanation.save(args.output / f"translation-{language}.safetensors")
        print(f"{explanation.metadata['task']}, {language}: {explanation.text} ({path})")


if __name__ == "__main__":
    main()
