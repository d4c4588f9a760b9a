"""Sphinx configuration: ``sphinx-build -W docs build/docs``."""

import shutil
import sys
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

import captum_spes

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "captum-spes"
author = copyright = "the captum-spes developers"
version = release = captum_spes.__version__
extensions = [
    "architecture",
    "command_line",
    "external",
    "mathml",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
html_theme = "furo"
html_title = f"captum-spes {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
toc_object_entries_show_parents = "hide"
html_math_renderer = "mathml"
nitpicky = True  # every reference in a docstring or page leads somewhere
# types of the fields of dataclasses, which no page is about, and an error of torch that its pages leave out
nitpick_ignore_regex = [
    ("py:class", r"(captum|collections|numpy|pathlib|captum_spes)\..*|ErrorKind|ReportWidget|Verdict"),
    ("py:exc", r"torch\..*"),
]
templates_path = ["_templates"]
napoleon_use_ivar = True  # attributes as a list in the class, without types of their own
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100  # a longer one has a line for each argument
python_use_unqualified_type_names = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]

# Overloads are for type checkers: a page shows each argument once.
for module in ("spes", "gradient_spes", "bubble_noise"):
    analyzer = ModuleAnalyzer.for_module(f"captum_spes.attr.{module}")
    analyzer.analyze()
    analyzer.overloads.clear()

# A page a class or function is written from the lists of api.md, and one that is no longer there is removed.
shutil.rmtree(Path(__file__).parent / "api", ignore_errors=True)

# The tutorials lie at the root, where a user looks for them. Their copies here have links that start from here.
nb_execution_mode = "off"
pages = Path(__file__).parent / "tutorials"
shutil.rmtree(pages, ignore_errors=True)
pages.mkdir()
for notebook in (pages.parents[1] / "tutorials").glob("*.ipynb"):
    (pages / notebook.name).write_text(notebook.read_text("utf-8").replace("](../docs/", "](../"), "utf-8")


def copy_gallery(app: Sphinx, error: Exception | None) -> None:
    """The reports of the gallery, which are pages of their own."""
    if error is None and app.builder.format == "html":
        shutil.copytree(Path(__file__).parent / "gallery", Path(app.outdir) / "gallery", dirs_exist_ok=True)


def setup(app: Sphinx) -> None:
    app.connect("build-finished", copy_gallery)
