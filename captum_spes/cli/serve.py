"""``captum-spes app``."""

from __future__ import annotations

import signal
import threading
import webbrowser
from typing import Annotated

import typer

from captum_spes._extras import require
from captum_spes.cli.options import Device, Language, Model, Task
from captum_spes.cli.output import say
from captum_spes.models import load_model


def app(
    model: Model = "whisper-tiny.en",
    language: Language = None,
    task: Task = "transcribe",
    device: Device = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. 0.0.0.0: other machines can open the page as well.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Default: the first free one from 7860 on.")
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
) -> None:
    """Explain recordings of your own in the browser: record or drop a file, click a word, ask why it is no other."""
    require("gradio", "app")
    from captum_spes.app import serve

    speech_model = load_model(model, device=device, language=language, task=task)
    ended = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: ended.set())
    with serve(speech_model, host, port) as url:
        say(f"Model:      {speech_model.name}\nPage:       {url} (Ctrl-C ends it)")
        if browser:
            webbrowser.open(url)
        ended.wait()
