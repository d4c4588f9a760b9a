"""The description of the package on PyPI: README.md, with links and images that lead into the repository."""

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
REPOSITORY = "captum-spes/captum-spes"


def description() -> str:
    """The README, whose relative links are those of the release's tag."""
    version = re.search(r'__version__ = "(.+)"', (ROOT / "captum_spes" / "__init__.py").read_text("utf-8"))[1]
    images = f"https://raw.githubusercontent.com/{REPOSITORY}/v{version}/"
    pages = f"https://github.com/{REPOSITORY}/blob/v{version}/"
    text = (ROOT / "README.md").read_text("utf-8")
    text = re.sub(r"(!\[[^\]]*\]\()(?!\w+:|#)", rf"\1{images}", text)
    return re.sub(r"(?<!!)(\[[^\]]*\]\()(?!\w+:|#)", rf"\1{pages}", text)


setup(long_description=description())
