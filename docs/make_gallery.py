"""Makes the reports of the gallery, docs/gallery/*.html, and a picture of each.

    python docs/make_gallery.py               # all of them, some minutes on 2 cores
    python docs/make_gallery.py noise         # some of them

It needs flite, the extras demo and dev, and a Chromium. docs/gallery.md says what there is to see.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from playwright.sync_api import sync_playwright

import captum_spes
from captum_spes import Contrast, SpeechToTextExplanation
from captum_spes.audio import Recording, read_recording
from captum_spes.models import load_model, prepare
from captum_spes.speech_to_text.catalogue import find_method

FOLDER = Path(__file__).parent / "gallery"
SAMPLE = Path(captum_spes.__file__).parent / "data" / "so_what_was_the_next_step.wav"
MAX_BYTES = 500_000
PICTURE = {"width": 900, "height": 720}  # pixels


def explain(recording: Recording, contrast: Contrast | None = None) -> SpeechToTextExplanation:
    """An explanation with the method and the budget of ``captum-spes explain``."""
    model = load_model("whisper-tiny.en", device="cpu")
    utterance, tokens = prepare(model, recording)
    return find_method("gradient_spes").explain(model, utterance, tokens, "fast", contrast=contrast)


def spoken(text: str, voice: str = "slt") -> Recording:
    """A text, in a voice of flite."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        subprocess.run(["flite", "-voice", voice, "-t", text, "-o", path], check=True)
        samples, rate = soundfile.read(path, dtype="float32")
    return Recording(samples, rate)


def noisy(recording: Recording, decibels: float) -> Recording:
    """A recording in white noise, at a ratio of signal to noise."""
    noise = np.random.default_rng(0).normal(size=len(recording.samples))
    power = np.mean(recording.samples.astype(np.float64) ** 2) / 10 ** (decibels / 10)
    samples = recording.samples + np.sqrt(power) * noise
    return Recording((samples / max(1, np.abs(samples).max())).astype(np.float32), recording.sampling_rate)


def save(name: str, explanation: SpeechToTextExplanation, recording: Recording) -> None:
    """Writes a report that is small enough for the repository, and a picture of it."""
    path = FOLDER / f"{name}.html"
    explanation.to_html(path, audio=recording)
    size = path.stat().st_size
    print(f"{path.name}: {size / 1000:.0f} KB, {explanation.text!r}", flush=True)
    if size > MAX_BYTES:
        path.unlink()
        raise SystemExit(f"the gallery takes reports of at most {MAX_BYTES:,} bytes: shorten the recording.")
    picture(path)


def picture(path: Path) -> None:
    """The beginning of a report as a browser shows it."""
    system = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=system, args=["--no-sandbox"])
        page = browser.new_page(viewport=PICTURE)
        page.goto(path.resolve().as_uri())
        page.wait_for_selector("html[data-ready]", timeout=600_000)
        words = page.get_by_role("radio", name="words", exact=True)
        if words.is_visible():
            words.click()
        page.screenshot(path=path.with_suffix(".jpg"), type="jpeg", quality=80)
        browser.close()


def sentence() -> None:
    recording = read_recording(SAMPLE)
    save("sentence", explain(recording), recording)


def so_against_no() -> None:
    recording = read_recording(SAMPLE)
    save("so_against_no", explain(recording, Contrast("So", foil="No")), recording)


def homophone() -> None:
    recording = spoken("We can see the sea.")
    save("homophone", explain(recording, Contrast("sea", foil="see")), recording)


def noise() -> None:
    recording = noisy(read_recording(SAMPLE), 5)
    save("noise", explain(recording), recording)


def silence() -> None:
    faint = np.random.default_rng(0).normal(0, 1e-3, 2 * 16000).astype(np.float32)
    recording = Recording(faint, 16000)
    save("silence", explain(recording), recording)


REPORTS = (sentence, so_against_no, homophone, noise, silence)


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
