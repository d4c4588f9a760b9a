"""Executes the tutorials, each in a fresh kernel, and keeps their outputs.

    python tutorials/execute.py            # all of them; give paths for some
    python tutorials/execute.py --check    # writes nothing: are the outputs in the files those of the code?

An error, or anything on stderr, ends it. --check compares what the cells print and which pictures they draw, but for
numbers, which another machine rounds otherwise. Of cells with the tag "varies", such as those that print what a model
writes in the dark, the words may differ, too.
"""

from __future__ import annotations

import argparse
import base64
import io
import re
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).resolve().parent
TIMEOUT = 1800  # seconds of a cell
MAX_WIDTH = 960  # pixels of a picture
NUMBER = re.compile(r" *[-−]?\d+(\.\d+)?")


def execute(path: Path) -> nbformat.NotebookNode:
    """The notebook with the outputs of a fresh kernel, and with nothing that belongs to this machine."""
    notebook = nbformat.read(path, as_version=4)
    settings = {"timeout": TIMEOUT, "kernel_name": "python3", "record_timing": False, "coalesce_streams": True}
    client = NotebookClient(notebook, **settings)
    with tempfile.TemporaryDirectory() as folder:  # for the files that a tutorial writes
        client.execute(cwd=folder)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if output.get("name") == "stderr":
            raise SystemExit(f"{path.name} writes to stderr:\n{output.text}")
        if "image/png" in output.get("data", {}):
            output.data["image/jpeg"] = jpeg(output.data.pop("image/png"))
    return notebook


def jpeg(png: str) -> str:
    """A picture in base64 at the width of a page: a PNG of a spectrogram takes three times the room."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    image.thumbnail((MAX_WIDTH, image.height), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80, optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def shown(notebook: nbformat.NotebookNode) -> list[list[str]]:
    """For each cell of code what it prints and draws, as far as it is the same on every machine."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [[_shown(output, "varies" in cell.metadata.get("tags", [])) for output in cell.outputs] for cell in cells]


def _shown(output: nbformat.NotebookNode, varies: bool) -> str:
    if output.output_type == "stream":
        kind, text = "text", output.text
    else:
        kind, text = ", ".join(sorted(output.data)), output.data.get("text/markdown", output.data["text/plain"])
    return kind if varies else f"{kind}: {NUMBER.sub(' #', text)}"


def check(path: Path) -> None:
    """Raises SystemExit where the notebook's outputs are not those of its code."""
    new, old = shown(execute(path)), shown(nbformat.read(path, as_version=4))
    for number, (now, then) in enumerate(zip(new, old), 1):
        if now != then:
            raise SystemExit(f"{path.name}, code cell {number} shows {now}, and in the file {then}: execute it again.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all")
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    args = parser.parse_args()
    for path in args.notebooks or sorted(FOLDER.glob("*.ipynb")):
        start = time.perf_counter()
        if args.check:
            check(path)
        else:
            nbformat.write(execute(path), path)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
