"""The app, started by its command, in a real browser: a file is dropped, a word clicked, and another one asked for."""

import copy
import os
import socket
import subprocess
import sys
import time
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
from test_evaluation import write_words

from captum_spes import Contrast
from captum_spes.audio import Recording

pytest.importorskip("gradio", reason="gradio is not installed (extra: app)")

from captum_spes.app.page import _Page
from captum_spes.app.session import INSTANT, Session, max_seconds, methods_of

SLOW = 180_000  # milliseconds that a busy machine may take for any one step


@pytest.fixture
def model(tiny_model, tiny_processor):
    write_words(tiny_model.model, tiny_processor)
    return tiny_model


@pytest.fixture
def session(model, audio):
    return Session(model, Recording(audio, 16000))


def test_words_are_numbered_as_contrasts_number_them(session):
    words = session.words
    assert len(words) > 2 and " ".join(words) == session.text
    foil = "next" if words[1] != "next" else "was"
    explanation = session.explain(INSTANT, Contrast(1, foil))
    assert explanation.tokens == [f"{words[1]} (not {foil})"]


def test_methods_run_once(session):
    calls = []
    first = session.explain("occlusion", callback=lambda *progress: calls.append(progress))
    assert calls and calls[-1][1] == calls[-1][2]
    n_calls = len(calls)
    assert session.explain("occlusion", callback=lambda *progress: calls.append(progress)) is first
    assert len(calls) == n_calls
    assert session.explain(INSTANT).metadata["method"] == "AttnLRP"


def test_a_run_can_be_stopped(session):
    class StoppedError(Exception):
        pass

    def stop(stage, done, total):
        raise StoppedError

    for method in ("spes", "gradient_spes", "integrated_gradients"):
        with pytest.raises(StoppedError):
            session.explain(method, callback=stop)
    assert session.explain("gradient_spes").tokens  # the model is as it was


def test_long_recordings_are_refused(model):
    assert max_seconds(model) == 1
    with pytest.raises(ValueError, match="lasts 2 s, and this page explains at most 1 s"):
        Session(model, Recording(np.random.default_rng(0).normal(0, 0.1, 32000).astype(np.float32), 16000))


def test_methods_that_cannot_explain_a_model_are_not_offered(model, monkeypatch):
    names = methods_of(model)
    assert {"spes", "gradient_spes", INSTANT, "energy"} <= set(names)
    assert "deep_lift" not in names  # for models of modules alone


def test_an_upload_that_is_gone_is_told(model, tmp_path):
    page, request = _Page(model), SimpleNamespace(session_hash="visitor")
    *_, last = page._explain(str(tmp_path / "gone.wav"), INSTANT, None, request)
    assert last[page.status] == "This cannot be explained: the recording is no longer there: record or drop it again."


# The program with 3 s more for each text and 0.1 s more for each batch of perturbations, so that a run of the tiny
# model can be stopped at both.
SLOW_MODEL = """
import time
from captum_spes.__main__ import main
from captum_spes.app import session
from captum_spes.attr._perturbations import Evaluator

evaluate, prepare = Evaluator.__call__, session.prepare
Evaluator.__call__ = lambda *arguments: (time.sleep(0.1), evaluate(*arguments))[1]
session.prepare = lambda *arguments, **options: (time.sleep(3), prepare(*arguments, **options))[1]
main()
"""


@pytest.fixture(scope="module")
def app(_tiny_whisper, tiny_processor, tmp_path_factory):
    """The address of an app with a tiny model, and the folder for its files."""
    folder, temporary = tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("temporary")
    whisper = copy.deepcopy(_tiny_whisper)
    write_words(whisper, tiny_processor)
    whisper.save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["app", "--model", str(folder), "--no-browser", "--port", str(port)]
    command = [sys.executable, "-c", SLOW_MODEL, *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "TMPDIR": str(temporary)}
    )
    url = f"http://127.0.0.1:{port}/"
    for _ in range(600):
        try:
            urllib.request.urlopen(url, timeout=10).close()
            break
        except OSError:
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.1)
    yield url, temporary
    process.send_signal(2)
    assert process.wait(20) == 0, process.stdout.read()
    assert not files_in(temporary), "the app leaves files behind"


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_from_a_file_to_a_contrast(app, browser, recording, tmp_path):
    url, temporary = app
    page = browser.new_page()
    page.set_default_timeout(SLOW)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    page.get_by_role("button", name="Explain", exact=True).click()
    status = page.get_by_label("Status")
    status_is(page, "This cannot be explained: Record something")

    page.locator("input[type=file]").set_input_files(recording)
    page.locator("audio, [data-testid*=waveform]").first.wait_for(state="attached")
    page.get_by_role("button", name="Explain", exact=True).click()
    frame = page.frame_locator("iframe[title=Report]")
    status_is(page, "By gradient_spes.")
    text = status.input_value().splitlines()[0]
    frame.locator("#rows [role=radio]").last.wait_for()
    assert frame.locator("h1").inner_text() == text
    assert not files_in(temporary), "the recording is still on the disk"

    # a click on a word: its map, its sound, and what the form asks about
    frame.get_by_role("radio", name="words", exact=True).click()
    frame.locator("#rows [role=radio]").nth(1).click()
    word = text.split()[1]
    page.wait_for_function(
        "word => [...document.querySelectorAll('input')].some((i) => i.value === `2. ${word}`)", arg=word
    )
    frame.get_by_role("button", name="Hear only the most salient").click()
    frame.get_by_text("Playing only the most salient 10 %").wait_for()

    foil = "was" if word != "was" else "next"
    page.get_by_label("and not").fill(foil)
    page.get_by_role("button", name="Why not?").click()
    frame.get_by_role("radio", name=f"{word} (not {foil})").wait_for()
    elsewhere = [address for address in asked if not address.startswith((url, "blob:", "data:", "about:"))]
    assert not elsewhere
    page.close()


@pytest.mark.slow
def test_stop_and_switch_the_method(app, browser, recording):
    url, _ = app
    page = browser.new_page()
    page.set_default_timeout(SLOW)
    page.goto(url)
    page.locator("input[type=file]").set_input_files(recording)
    page.locator("audio, [data-testid*=waveform]").first.wait_for(state="attached")
    page.get_by_label("Method").click()
    page.get_by_role("option", name="spes: ", exact=False).first.click()
    page.get_by_role("button", name="Explain", exact=True).click()
    page.get_by_role("button", name="Stop").click()  # while the model listens: the recording is not lost
    status_is(page, "Stopped.")
    page.get_by_role("button", name="Explain", exact=True).click()
    status_is(page, "spes follows.")
    page.get_by_role("button", name="Stop").click()  # while the perturbations run
    status_is(page, "Stopped.")
    page.get_by_label("Method").click()
    page.get_by_role("option", name="attn_lrp: ", exact=False).first.click()
    page.get_by_role("button", name="Explain", exact=True).click()
    status_is(page, "By attn_lrp.")
    page.close()


def status_is(page, text):
    has_value(page, "textarea", text)


def has_value(page, kind, text):
    """Waits until an element of a kind holds a text."""
    found = "([kind, text]) => [...document.querySelectorAll(kind)].some((element) => element.value.includes(text))"
    page.wait_for_function(found, arg=[kind, text])
