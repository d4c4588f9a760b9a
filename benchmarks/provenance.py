"""The command and the machine of a benchmark, for the footer of its tables, and the file of its tables."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGES = ("torch", "captum", "transformers", "captum-spes")


def command() -> str:
    """The running command, as typed in the root of the repository."""
    script = Path(sys.argv[0])
    return " ".join(["python", f"{script.parent.name}/{script.name}", *sys.argv[1:]])


def machine() -> str:
    """Processor, cores and versions."""
    accelerator = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    return (
        f"{platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} cores{accelerator}; "
        f"Python {platform.python_version()}, {versions}"
    )


def publish(lines: Sequence[str], output: Path | None) -> None:
    """Prints the lines of a result, and writes them to a Markdown file if there is an output."""
    print("\n".join(lines))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
