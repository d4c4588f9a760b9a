"""Sphinx configuration: ``sphinx-build -W docs build/docs``."""

import captum_spes

project = "captum-spes"
author = copyright = "the captum-spes developers"
version = release = captum_spes.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings say what is taken and returned
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]
