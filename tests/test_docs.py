"""The documentation: public names have examples, command lines parse, Python compiles."""

import importlib
import inspect
import re
import shlex
from pathlib import Path

import pytest
from test_package import ROOMS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
API = (ROOT / "docs" / "api.md").read_text()
MODULES = [
    f"captum_spes{name}"
    for name in (
        "",
        ".alignment",
        ".analysis",
        ".attr",
        ".audio",
        ".errors",
        ".evaluation",
        ".explanation",
        ".metrics",
        ".models",
        ".speech_to_text",
        ".speech_to_text.catalogue",
        ".visualization",
        ".visualization.report",
    )
]
# in modules without a list of public names
HELPERS = {"captum_spes.audio.AudioLike", "captum_spes.speech_to_text.catalogue.draws_by_tokens"}
# what Captum's own classes define, of which ours are made, and the constructor that only the library itself calls
WITHOUT_EXAMPLE = {"attribute_future", "get_name", "multiplies_by_inputs", "from_prediction"}


def find(path):
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def public_names(module):
    """Those that a module lists, or the classes and functions that it defines."""
    known = vars(module)
    listed = known.get("__all__") or [
        name
        for name, item in known.items()
        if not name.startswith("_")
        and (inspect.isclass(item) or inspect.isfunction(item))
        and item.__module__ == module.__name__
    ]
    return {f"{module.__name__}.{name}" for name in listed} - HELPERS


def documented():
    """What the page on the API has, by path: the names of its lists, each of which gets a page of its own."""
    return set(re.findall(r"^(?:   ~|\.\. autodata:: )(captum_spes\.\S+)$", API, re.MULTILINE))


DOCUMENTED = sorted(documented())


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_the_api(module):
    known = {id(find(path)) for path in DOCUMENTED}
    missing = [path for path in public_names(importlib.import_module(module)) if id(find(path)) not in known]
    # constants belong to the functions that take them
    missing = [path for path in missing if callable(find(path))]
    assert not missing, f"docs/api.md lacks {missing}"


def examples(item):
    return re.findall(r"(?:>>>|\.\.\.) (.*)", inspect.getdoc(item) or "")


def members(item):
    """The public methods and properties that a class defines itself."""
    for name, member in vars(item).items():
        if not name.startswith("_"):
            if isinstance(member, (classmethod, staticmethod)):
                yield name, member.__func__
            elif isinstance(member, property):
                yield name, member.fget
            elif inspect.isfunction(member):
                yield name, member


@pytest.mark.parametrize("path", [path for path in DOCUMENTED if callable(find(path))])
def test_every_public_name_has_an_example(path):
    """A method has one of its own, or stands in that of its class or of another method."""
    item = find(path)
    assert examples(item), f"{path} has no example"
    if inspect.isclass(item):
        code = "\n".join(line for each in (item, *dict(members(item)).values()) for line in examples(each))
        for name, member in members(item):
            assert member.__doc__, f"{path}.{name} has no docstring"
            shown = examples(member) or re.search(rf"\.{name}\b", code) or name in WITHOUT_EXAMPLE
            assert shown, f"{path}.{name} is in no example"


def links(page):
    """The page and the heading that each link of a page to another page leads to."""
    for path, anchor in re.findall(r"\]\(([^:)#\s]*\.md)?#([^)]+)\)", page.read_text()):
        yield (page.parent / path if path else page), anchor


def anchors(page):
    """The headings of a page as GitHub and the site name them."""
    headings = re.findall(r"^#{1,3} (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_headings(page):
    for path, anchor in links(page):
        assert path.exists() and anchor in anchors(path), f"{page.name}: {path.name}#{anchor}"


def command_lines():
    for page in PAGES:
        text = page.read_text()
        blocks = re.findall(r"```(?:sh|console)\n(.*?)```", text, flags=re.DOTALL)
        code = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
        code += re.findall(r"`(captum-spes [^`]+)`", text)
        for line in code:
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if words[:1] == ["captum-spes"]:
                    yield pytest.param(words[1:], id=f"{page.stem}: {' '.join(words)}")


@pytest.mark.parametrize("words", list(command_lines()))
def test_command_lines_parse(words):
    pytest.importorskip("typer")
    from typer.main import get_command

    from captum_spes.cli import app
    from captum_spes.speech_to_text.catalogue import METHODS

    if words[0] == "…":
        return
    command = get_command(app)
    assert words[0] in command.commands
    if len(words) == 1 or "--help" in words:  # a command's name
        return
    context = command.commands[words[0]].make_context(words[0], words[1:])
    given = context.params
    names = (given.get("methods") or given.get("method") or "").split(",")
    assert set(filter(None, names)) <= METHODS.keys()


def python_blocks():
    for page in PAGES:
        for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)):
            yield pytest.param(block, id=f"{page.stem} {number}")


@pytest.mark.parametrize("block", list(python_blocks()))
def test_python_compiles(block):
    """tests/test_readme.py runs what can be run."""
    compile(block, "page", "exec")


def test_the_table_of_rooms_is_complete():
    table = (ROOT / "docs" / "how_it_works.md").read_text()
    rooms = [room for room in set().union(*ROOMS) if not room.startswith("_")]
    assert not [room for room in rooms if f"`{room}/`" not in table and f"`{room}.py`" not in table]


def test_the_functions_of_the_walk_exist():
    """From a WAV file to report.html; the functions that it names are there, and public."""
    page = (ROOT / "docs" / "how_it_works.md").read_text()
    walk = page.partition("### From a WAV file to report.html")[2].partition("\nImports run")[0]
    paths = re.findall(r"`(captum_spes\.[\w.]+)`", walk)
    assert len(paths) >= 10
    for path in paths:
        assert callable(find(path)) and "._" not in path, path


def test_the_picture_of_the_rooms(monkeypatch):
    """Every room is in it, above all that it imports, and every import is in a line or follows from lines."""
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    import architecture

    graph = architecture.imports()
    rows = architecture.rows(graph)
    row_of = {room: number for number, row in enumerate(rows) for room in row}
    assert row_of.keys() == graph.keys() and rows[0] == ["cli"] and "maps" in rows[-1]
    lines = architecture.reduced(graph)
    for room, others in graph.items():
        assert all(row_of[room] < row_of[other] for other in others)
        assert others <= architecture.reachable(lines, room)
    assert all(f">{room}</text>" in architecture.draw(graph) for room in graph)
    with pytest.raises(ValueError, match="circle: a → b → a"):
        architecture.reachable({"a": {"b"}, "b": {"a"}}, "a")
