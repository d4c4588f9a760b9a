"""The picture of the modules, drawn from their imports each time the pages are built.

A room is a module or a package directly in ``captum_spes``. Each stands below all that import it, and a line is left
out where others lead the same way. A circle of imports has no such picture, and ends the build.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import captum_spes

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(captum_spes.__file__).parent
LEFT_OUT = {"data"}  # beside what begins with an underscore: helpers that anyone may use
Graph = dict[str, set[str]]

WIDTH, BOX, ROW, MARGIN = 720, (142, 34), 74, 12  # pixels


def imports() -> Graph:
    """For each room the rooms that it imports."""
    graph: Graph = {}
    for path in sorted(ROOT.rglob("*.py")):
        own = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if own.startswith("_") or own in LEFT_OUT:
            continue
        rooms = graph.setdefault(own, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            rooms |= {module.split(".")[1] for module in modules if module.startswith("captum_spes.")}
    return {own: rooms & graph.keys() - {own} for own, rooms in graph.items()}


def reachable(graph: Graph, room: str, above: tuple[str, ...] = ()) -> set[str]:
    if room in above:
        raise ValueError(f"imports run in a circle: {' → '.join((*above, room))}")
    return graph[room].union(*(reachable(graph, other, (*above, room)) for other in graph[room]))


def reduced(graph: Graph) -> Graph:
    """The same without imports that follow from others."""
    below = {room: reachable(graph, room) for room in graph}
    return {
        room: {other for other in rooms if not any(other in below[r] for r in rooms)} for room, rooms in graph.items()
    }


def rows(graph: Graph) -> list[list[str]]:
    """The rooms by rows, each below those that import it, and near them."""
    importers = {room: [other for other in graph if room in graph[other]] for room in graph}

    def depth(room: str) -> int:
        return 1 + max(map(depth, importers[room]), default=-1)

    by_depth = defaultdict(list)
    for room in graph:
        by_depth[depth(room)].append(room)
    place: dict[str, float] = {}
    found = []
    for level in sorted(by_depth):
        row = sorted(by_depth[level], key=lambda room: _mean([place[other] for other in importers[room]]))
        place |= {room: (i + 0.5) / len(row) for i, room in enumerate(row)}
        found.append(row)
    return found


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.5


def draw(graph: Graph) -> str:
    """An SVG in the colours of the page."""
    width, height = BOX
    corners = {}
    levels = rows(graph)
    for level, row in enumerate(levels):
        for i, room in enumerate(row):
            centre = WIDTH * (i + 0.5) / len(row)
            corners[room] = (centre - width / 2, MARGIN + level * ROW)
    lines, boxes = [], []
    for room, others in sorted(reduced(graph).items()):
        x, y = corners[room][0] + width / 2, corners[room][1] + height
        for other in sorted(others):
            to_x, to_y = corners[other][0] + width / 2, corners[other][1]
            bend = (to_y - y) / 2
            lines.append(
                f'<path d="M{x:.0f} {y} C{x:.0f} {y + bend:.0f} {to_x:.0f} {to_y - bend:.0f} {to_x:.0f} {to_y}"/>'
            )
    for room, (x, y) in corners.items():
        boxes.append(
            f'<rect x="{x:.0f}" y="{y}" width="{width}" height="{height}" rx="6"/>'
            f'<text x="{x + width / 2:.0f}" y="{y + height / 2 + 5:.0f}">{room}</text>'
        )
    total = 2 * MARGIN + (len(levels) - 1) * ROW + height
    return (
        f'<svg class="architecture" viewBox="0 0 {WIDTH} {total}" role="img" aria-label="modules and imports">'
        f"<g class='lines'>{''.join(lines)}</g><g class='rooms'>{''.join(boxes)}</g></svg>"
    )


def setup(app: Sphinx) -> dict[str, Any]:
    from docutils import nodes  # which a test of the picture does without
    from docutils.parsers.rst import Directive

    class Architecture(Directive):
        def run(self) -> list[nodes.Node]:
            return [nodes.raw("", draw(imports()), format="html")]

    app.add_directive("architecture", Architecture)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
