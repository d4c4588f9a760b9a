"""The warnings of the library: Python warnings at first, and what a program makes of the logger ``captum_spes``."""

import ast
import logging
import subprocess
import sys
from pathlib import Path

import pytest

import captum_spes
from captum_spes._log import LOGGER, warn, without_warnings

ROOT = Path(captum_spes.__file__).parent


def caller():
    """Warns of a line that calls it, in words that a format would stumble over."""
    warn("the maps are noisy: 50 %s", stacklevel=2)


def test_warnings_are_pythons_and_point_at_the_caller():
    with pytest.warns(UserWarning, match="^the maps are noisy: 50 %s$") as caught:
        caller()
    line = next(n for n, text in enumerate(Path(__file__).read_text().splitlines(), 1) if text == "        caller()")
    assert [(one.filename, one.lineno) for one in caught] == [(__file__, line)]


def test_a_level_silences(recwarn, capsys):
    LOGGER.setLevel(logging.ERROR)
    try:
        caller()
    finally:
        LOGGER.setLevel(logging.NOTSET)
    assert not recwarn.list and capsys.readouterr() == ("", "")


def test_a_handler_redirects(recwarn, capsys, monkeypatch):
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    monkeypatch.setattr(LOGGER, "handlers", [*LOGGER.handlers, handler])
    caller()
    assert [record.getMessage() for record in records] == ["the maps are noisy: 50 %s"]
    assert records[0].pathname == __file__ and records[0].levelname == "WARNING" and records[0].name == "captum_spes"
    assert not recwarn.list and capsys.readouterr() == ("", "")


def test_the_handlers_of_the_root(recwarn, monkeypatch, caplog):
    monkeypatch.setattr(LOGGER, "handlers", [logging.NullHandler()])
    caller()
    assert caplog.messages == ["the maps are noisy: 50 %s"] and not recwarn.list


def test_some_are_dropped(recwarn):
    with without_warnings("the maps are noisy"):
        caller()
        warn("another")
    with without_warnings():
        warn("all")
    warn("the last")
    assert [str(one.message) for one in recwarn.list] == ["another", "the last"]


def test_a_program_that_redirects():
    code = (
        "import logging, sys\n"
        "logging.getLogger('captum_spes').addHandler(logging.StreamHandler(sys.stdout))\n"
        "from captum_spes.visualization._text import clean_labels\n"
        "clean_labels(['\\U0010abcd'])\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("no font has") and not found.stderr


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.stem)
def test_no_module_warns_by_itself(path):
    if path.name == "_log.py":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "warn":
            assert getattr(node.func.value, "id", None) != "warnings", "use captum_spes._log.warn"
