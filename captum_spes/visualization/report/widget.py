"""The report as a widget of notebooks, which tells Python what is chosen and marked in it (extra ``widget``)."""

from __future__ import annotations

from importlib.resources import files

import anywidget
import traitlets


class ReportWidget(anywidget.AnyWidget):
    """A report as a notebook widget, whose attributes follow what the user selects.

    Attributes:
        page: the HTML page of the report.
        height: pixels of the frame.
        selected_word: the text of the chosen word; None for the text as a whole, and before anything is shown.
        selected_index: its number among the words; setting it chooses a word in the report.
        region: the marked region, ``{"start": s, "stop": s, "low": Hz, "high": Hz}``; None where none is marked.
    """

    _esm = (files("captum_spes.visualization.report") / "page" / "widget.js").read_text(encoding="utf-8")

    page = traitlets.Unicode().tag(sync=True)
    height = traitlets.Int(760).tag(sync=True)
    selected_word = traitlets.Unicode(None, allow_none=True).tag(sync=True)
    selected_index = traitlets.Int(None, allow_none=True).tag(sync=True)
    region = traitlets.Any(None).tag(sync=True)  # a Dict cannot begin with None
