"""The committed tutorials were run from the first cell to the last, without errors, warnings or local paths."""

import json
import re
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "tutorials").glob("*.ipynb"))
MAX_BYTES = 700_000


def cells(path, kind):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


def test_there_are_six_in_order():
    assert [path.name[:2] for path in NOTEBOOKS] == ["1_", "2_", "3_", "4_", "5_", "6_"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_those_of_one_run(path):
    code = cells(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert any("image/jpeg" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_trace_of_a_machine(path):
    texts = re.sub(r'"image/jpeg": "[^"]*"|base64,[^\\"]*', "", path.read_text(encoding="utf-8"))
    assert not re.search(r"/(home|Users|tmp|root|work|usr|var)/|site-packages|[A-Z]:\\\\", texts)
    assert json.loads(path.read_text(encoding="utf-8"))["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_small(path):
    assert path.stat().st_size <= MAX_BYTES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_lead_somewhere(path):
    links = [link for cell in cells(path, "markdown") for link in re.findall(r"\]\(([^)#]+)", source(cell))]
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert links and not missing


def test_the_model_of_ones_own_is_that_of_the_page():
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    letters = next(source(cell) for cell in cells(NOTEBOOKS[4], "code") if "class LetterModel" in source(cell))
    assert letters in page


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_cell_installs_extras_that_exist(path):
    """Nothing else runs this cell: the package is installed here, while Colab and Binder start without it."""
    first = source(cells(path, "code")[0])
    [extras] = re.findall(r"%pip install -q 'captum-spes\[([\w,]+)\] @ git\+https://\S+'", first)
    settings = ConfigParser()
    settings.read(ROOT / "setup.cfg")
    assert set(extras.split(",")) <= set(settings["options.extras_require"])
