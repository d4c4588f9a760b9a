"""Sphinx extension: adds the help of all commands to the end of the page ``quick_start``."""

import re
from typing import Any

from sphinx.application import Sphinx


def options() -> str:
    """A section for each command, two levels below the title of the page."""
    import typer
    from typer.cli import get_docs_for_click
    from typer.main import get_command

    from captum_spes.cli import app

    command = get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command, info_name="captum-spes"), name="captum-spes")
    text = text[text.index("\n## ") :].replace("\n## ", "\n### ")
    # options that occur in sentences are made code, because two hyphens would become a dash
    return re.sub(r"(`[^`]*`)|(--[a-z][a-z-]*)", lambda match: match[1] or f"`{match[2]}`", text)


def add_options(app: Sphinx, docname: str, source: list[str]) -> None:
    if docname == "quick_start":
        source[0] += options()


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", add_options)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
