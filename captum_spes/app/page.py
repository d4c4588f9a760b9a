"""The page of the app, made with Gradio: it takes a recording and shows the report."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr

from captum_spes.app.session import INSTANT, SAMPLED, Session, max_seconds, methods_of
from captum_spes.audio import Recording, read_recording, sample_recording
from captum_spes.models import SpeechToTextModel
from captum_spes.speech_to_text.catalogue import METHODS
from captum_spes.speech_to_text.quality import quality_warnings
from captum_spes.speech_to_text.targets import Contrast

MAX_BYTES = 20_000_000  # of an uploaded file
MAX_WAITING = 20  # visitors whose requests wait for the model
SECONDS_KEPT = 3600  # after so long without a request, a visitor's recording is deleted

# fonts of the visitor's system, because the theme would load its own from a server
FONTS = ["system-ui", "sans-serif"]
FRAME = '<iframe hidden sandbox="allow-scripts" title="Report" style="width: 100%; height: 900px; border: 0"></iframe>'
CSS = """
footer { display: none !important; }
.method input { text-overflow: ellipsis; padding-right: 2em; }
"""
NOTHING_TO_EXPLAIN = "Record something, drop a file, or try the sample."
PROGRESS = gr.Progress()


class Stopped(Exception):
    """The visitor has pressed Stop, or has closed the page."""


@contextmanager
def serve(model: SpeechToTextModel, host: str = "127.0.0.1", port: int | None = None) -> Iterator[str]:
    """Serves the app while the context is open.

    Nothing of a visitor is stored: a recording is deleted from the disk as soon as the model has written its text, and
    forgotten when the page is closed, or after an hour.

    Args:
        model: the model that writes and is explained. One visitor's request runs at a time, and others wait.
        host: the address to listen on. ``"0.0.0.0"`` serves other machines as well.
        port: the port to listen on. Default: the first free port from 7860 on.

    Yields:
        str: the address of the page.

    Example::

        >>> from captum_spes.app import serve
        >>> from captum_spes.models import load_model
        >>> with serve(load_model("whisper-tiny.en")) as url:  # doctest: +SKIP
        ...     input(f"The app is at {url}. Press Enter to end it.")
    """
    with tempfile.TemporaryDirectory(prefix="captum-spes-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # where uploads lie until they are read
        page = _Page(model).blocks
        _, url, _ = page.queue(max_size=MAX_WAITING, api_open=False).launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            max_file_size=MAX_BYTES,
            footer_links=[],
            theme=gr.themes.Default(primary_hue="purple", font=FONTS, font_mono=["monospace"]),
            css=CSS,
        )
        try:
            yield url
        finally:
            page.close(verbose=False)


class _Page:
    """The page and its handlers. A visitor's :class:`Session` lies in the page's state."""

    def __init__(self, model: SpeechToTextModel) -> None:
        self.model = model
        self.methods = methods_of(model)
        self._lock = threading.Lock()  # a run that was stopped may still be in its last batch
        self._stops: dict[str | None, threading.Event] = {}
        self._make_components()
        self._connect()

    def _make_components(self) -> None:
        with gr.Blocks(title="captum-spes", analytics_enabled=False, delete_cache=(600, 600)) as self.blocks:
            gr.Markdown(
                f"# Why did the model write this word?\nRecord up to {max_seconds(self.model):g} seconds of speech, or "
                f"drop a file. **{self.model.name}** writes what it hears, and the report shows for each word which "
                "parts of the sound it depends on. Recordings are not stored."
            )
            self.session = gr.State(None, time_to_live=SECONDS_KEPT)
            with gr.Row():
                self.audio = gr.Audio(
                    sources=["upload", "microphone"], type="filepath", label="Recording", editable=False, buttons=[]
                )
                with gr.Column():
                    self.method = gr.Dropdown(
                        [(f"{name}: {METHODS[name].summary}", name) for name in self.methods],
                        value=SAMPLED if SAMPLED in self.methods else self.methods[0],
                        label="Method",
                        elem_classes="method",
                        info=f"{INSTANT} draws the first picture." if INSTANT in self.methods else None,
                    )
                    with gr.Row():
                        self.explain = gr.Button("Explain", variant="primary", min_width=100)
                        self.sample = gr.Button("Try the sample", min_width=100)
                        self.stop = gr.Button("Stop", interactive=False, min_width=100)
            self.status = gr.Textbox(label="Status", lines=2, interactive=False, value=NOTHING_TO_EXPLAIN)
            with gr.Row(visible=False) as self.contrast:
                self.word = gr.Dropdown([], label="Why did it write", info="Choose it here or in the report.")
                self.foil = gr.Textbox(label="and not", info="Leave it empty to ask why there is a word at all.")
                self.ask = gr.Button("Why not?")
            script = (files("captum_spes.app") / "frame.js").read_text(encoding="utf-8")
            self.report = gr.HTML(html_template=FRAME, js_on_load=script, apply_default_css=False)

    def _connect(self) -> None:
        shared: dict[str, Any] = {
            "outputs": [self.audio, self.session, self.status, self.report, self.contrast, self.word, self.stop],
            "show_progress_on": [self.status],
            "concurrency_limit": 1,
            "concurrency_id": "model",
            "trigger_mode": "always_last",  # a click just before the end of a run is not lost
            "api_visibility": "private",
        }
        free: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        with self.blocks:
            self.explain.click(self._explain, [self.audio, self.method, self.session], **shared)
            self.sample.click(self._explain_sample, [self.method], **shared)
            self.ask.click(self._ask, [self.word, self.foil, self.method, self.session], **shared)
            self.stop.click(self._stop, None, self.stop, **free)
            self.report.select(self._choose, self.session, self.word, **free)
            self.blocks.unload(self._leave)

    # Event handlers

    def _explain(
        self,
        path: str | None,
        method: str,
        session: Session | None,
        request: gr.Request,
        progress: gr.Progress = PROGRESS,
    ) -> Iterator[dict[Any, Any]]:
        """Explains a new recording or, without one, the current recording by another method."""
        upload = Path(path) if path else None
        take = partial(_read, upload) if upload else None
        yield from self._run(session, take, method, None, request, progress, upload)

    def _explain_sample(
        self, method: str, request: gr.Request, progress: gr.Progress = PROGRESS
    ) -> Iterator[dict[Any, Any]]:
        yield from self._run(None, sample_recording, method, None, request, progress)

    def _ask(
        self,
        word: int | None,
        foil: str,
        method: str,
        session: Session | None,
        request: gr.Request,
        progress: gr.Progress = PROGRESS,
    ) -> Iterator[dict[Any, Any]]:
        """Explains one word against another."""
        yield from self._run(session, None, method, Contrast(word or 0, foil.strip()), request, progress)

    def _stop(self, request: gr.Request) -> gr.Button:
        self._leave(request)
        return gr.Button(interactive=False)

    def _leave(self, request: gr.Request) -> None:
        """Ends the runs of a visitor."""
        if (stop := self._stops.pop(request.session_hash, None)) is not None:
            stop.set()

    def _choose(self, session: Session | None, event: gr.EventData) -> Any:
        """The number of the word that was chosen in the report."""
        return event.index if session is not None and event.index < len(session.words) else gr.skip()

    def _run(
        self,
        session: Session | None,
        take: Callable[[], Recording] | None,
        method: str,
        contrast: Contrast | None,
        request: gr.Request,
        progress: gr.Progress,
        upload: Path | None = None,
    ) -> Iterator[dict[Any, Any]]:
        """Yields new values of components: first the text, then a first picture, then the picture of the method."""
        stop = self._stops[request.session_hash] = threading.Event()
        ended = {self.audio: None, self.stop: gr.Button(interactive=False)}

        def callback(stage: str, done: int, total: int) -> None:
            if stop.is_set():
                raise Stopped
            progress((done, total), desc=f"{method}: {stage}", unit="passes")

        yield {self.status: "The model listens.", self.stop: gr.Button(interactive=True)}
        try:
            if take is not None:
                with self._lock:
                    session = Session(self.model, take())
                if stop.is_set():
                    raise Stopped
                yield {self.session: session, self.audio: None, self.report: None, **self._words(session)}
            _delete(upload)  # not earlier: the page still offers the recording if the run is stopped before
            if session is None:
                raise ValueError(NOTHING_TO_EXPLAIN)
            if method != INSTANT and INSTANT in self.methods:
                with self._lock:
                    first = session.report(INSTANT, contrast)
                yield {self.report: {"page": first}, self.status: f"{session.text}\nBy {INSTANT}. {method} follows."}
            with self._lock:
                notes = quality_warnings(session.explain(method, contrast, callback))
                page = session.report(method, contrast)
        except Stopped:
            yield {self.status: "Stopped.", self.stop: gr.Button(interactive=False)}
            return
        except (ValueError, ImportError) as error:
            _delete(upload)
            yield {self.status: f"This cannot be explained: {error}", **ended}
            return
        status = [f"{session.text}\nBy {method}.", *(f"Note: {note}" for note in notes)]
        yield {self.report: {"page": page}, self.status: " ".join(status), **ended}

    def _words(self, session: Session) -> dict[Any, Any]:
        """The words of the text, as the choices of the form."""
        choices = [(f"{number}. {word}", number - 1) for number, word in enumerate(session.words, 1)]
        return {self.contrast: gr.Row(visible=True), self.word: gr.Dropdown(choices, value=0)}


def _read(upload: Path) -> Recording:
    try:
        data = upload.read_bytes()
    except OSError as error:  # such as an upload that was deleted after ten minutes
        raise ValueError("the recording is no longer there: record or drop it again.") from error
    return read_recording(data)


def _delete(upload: Path | None) -> None:
    if upload is not None:
        upload.unlink(missing_ok=True)
