"""Makes the reports of the gallery, docs/gallery/*.html, and a picture of each.

    python docs/make_gallery.py               # all of them, some minutes on 2 cores
    python docs/make_gallery.py noise         # some of them

It needs flite and espeak-ng, the extras demo, multilingual and dev, and a Chromium. docs/gallery.md says what there is
to see.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from playwright.sync_api import sync_playwright

import captum_spes
from captum_spes import Contrast, SpeechToTextExplanation
from captum_spes.audio import Recording, read_recording
from captum_spes.evaluation.model_comparison import ModelComparison, Side
from captum_spes.explanation.page import html
from captum_spes.models import SpeechToTextModel, load_model, prepare
from captum_spes.speech_to_text.catalogue import find_method

FOLDER = Path(__file__).parent / "gallery"
SAMPLE = Path(captum_spes.__file__).parent / "data" / "so_what_was_the_next_step.wav"
MAX_BYTES = 500_000
WIDTH, HEIGHT = 900, 720  # of a picture, in pixels
METHOD = find_method("gradient_spes")
LONG_SECONDS = 6  # of a part of the long recording
LONG_TEXT = """
The north wind and the sun were disputing which was the stronger, when a traveller came along wrapped in a warm cloak.
They agreed that the one who first succeeded in making the traveller take his cloak off should be considered stronger
than the other. Then the north wind blew as hard as he could, but the more he blew, the more closely did the traveller
fold his cloak around him, and at last the north wind gave up the attempt. Then the sun shined out warmly, and
immediately the traveller took off his cloak.
"""


def explain(
    recording: Recording, contrast: Contrast | None = None, model: SpeechToTextModel | None = None
) -> SpeechToTextExplanation:
    """An explanation with the method and the budget of ``captum-spes explain``."""
    model = model or load_model("whisper-tiny.en", device="cpu")
    utterance, tokens = prepare(model, recording)
    return METHOD.explain(model, utterance, tokens, "fast", contrast=contrast)


def spoken(text: str, voice: str = "slt") -> Recording:
    """A text, in a voice of flite, or of espeak-ng for ``de``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        flite = ["flite", "-voice", voice, "-t", text, "-o", path]
        espeak = ["espeak-ng", "-v", voice, "-s", "140", "-w", path, text]
        subprocess.run(espeak if voice == "de" else flite, check=True)
        samples, rate = soundfile.read(path, dtype="float32")
    return Recording(samples, rate)


def noisy(recording: Recording, decibels: float) -> Recording:
    """A recording in white noise, at a ratio of signal to noise."""
    noise = np.random.default_rng(0).normal(size=len(recording.samples))
    power = np.mean(recording.samples.astype(np.float64) ** 2) / 10 ** (decibels / 10)
    samples = recording.samples + np.sqrt(power) * noise
    return Recording((samples / max(1, np.abs(samples).max())).astype(np.float32), recording.sampling_rate)


def save(name: str, page: str, word: str | None = None, height: int = HEIGHT) -> None:
    """Writes a report that is small enough for the repository, and a picture of it, of a word if one is named."""
    path = FOLDER / f"{name}.html"
    path.write_text(page, encoding="utf-8")
    size = path.stat().st_size
    print(f"{path.name}: {size / 1000:.0f} KB", flush=True)
    if size > MAX_BYTES:
        path.unlink()
        raise SystemExit(f"the gallery takes reports of at most {MAX_BYTES:,} bytes: shorten the recording.")
    picture(path, word, height)


def picture(path: Path, word: str | None, height: int) -> None:
    """The beginning of a report as a browser shows it, after a click on the word."""
    system = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=system, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": height})
        page.goto(path.resolve().as_uri())
        page.wait_for_selector("html[data-ready]", timeout=600_000)
        words = page.get_by_role("radio", name="words", exact=True)
        if words.is_visible():
            words.click()
        if word is not None:
            page.get_by_role("radio", name=word, exact=True).click()
        page.screenshot(path=path.with_suffix(".jpg"), type="jpeg", quality=80, animations="disabled")
        browser.close()


def sentence() -> None:
    recording = read_recording(SAMPLE)
    save("sentence", html(explain(recording), recording))


def so_against_no() -> None:
    recording = read_recording(SAMPLE)
    save("so_against_no", html(explain(recording, Contrast("So", foil="No")), recording))


def homophone() -> None:
    recording = spoken("We can see the sea.")
    save("homophone", html(explain(recording, Contrast("sea", foil="see")), recording))


def noise() -> None:
    recording = noisy(read_recording(SAMPLE), 5)
    save("noise", html(explain(recording), recording))


def silence() -> None:
    faint = np.random.default_rng(0).normal(0, 1e-3, 2 * 16000).astype(np.float32)
    recording = Recording(faint, 16000)
    save("silence", html(explain(recording), recording))


def german() -> None:
    recording = spoken("Ich habe gestern ein neues Buch gekauft.", "de")
    model = load_model("whisper-base", device="cpu", language="de", task="translate")
    save("german", html(explain(recording, model=model), recording), "yesterday")


def two_models() -> None:
    recording = noisy(read_recording(SAMPLE), 5)
    names = ["whisper-tiny.en", "whisper-base"]
    sides = []
    for name in names:
        model = load_model(name, device="cpu")
        utterance, tokens = prepare(model, recording)
        ask = partial(METHOD.explain, model, utterance, tokens, "fast")
        sides.append(Side(model, utterance, tokens, ask(), lambda contrast, ask=ask: ask(contrast=contrast)))
    comparison = ModelComparison(names, sides)
    comparison.explain_differences()
    save("two_models", comparison.html(recording), height=960)


def long_recording() -> None:
    speech = spoken(LONG_TEXT)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "talk.wav"  # a file, so that the report of a part finds its sound
        soundfile.write(path, speech.samples, speech.sampling_rate)
        recording = read_recording(path)
        model = load_model("whisper-tiny.en", device="cpu")
        arguments = METHOD.arguments_of(model, "fast", n_tokens=30)
        talk = METHOD.wrap(model).attribute_long(
            recording, Path(folder) / "parts", max_seconds=LONG_SECONDS, **arguments
        )
        save("long_recording", html(talk[0], recording))
        talk.plot().savefig(FOLDER / "long_recording.jpg", dpi=110, pil_kwargs={"quality": 85})


REPORTS = (sentence, so_against_no, homophone, noise, silence, german, two_models, long_recording)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [make.__name__ for make in REPORTS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(names)}; default: all")
    args = parser.parse_args()
    if unknown := set(args.names) - set(names):
        parser.error(f"there is no {', '.join(sorted(unknown))}: give some of {', '.join(names)}.")
    FOLDER.mkdir(exist_ok=True)
    for make in REPORTS:
        if not args.names or make.__name__ in args.names:
            make()


if __name__ == "__main__":
    main()
