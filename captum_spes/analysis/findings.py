"""Reports the findings of the analyses as Markdown, JSON and figures."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from captum_spes._files import write_atomically, write_figure, write_json
from captum_spes._text import markdown_line, markdown_table
from captum_spes.analysis.sections import SECTIONS, Finding
from captum_spes.metrics.bootstrap import MIN_PAIRS

MAX_NAME = 200  # bytes of a file's name; file systems allow 255


@dataclass
class Report:
    """The findings of the analyses, and the reasons for missing ones.

    Attributes:
        folder: folder of the explanations.
        findings: the findings by section and method.
        problems: for each analysis or file that failed, by its name, the reason in one sentence.
        n_explanations: the number of explanations of each method.
        settings: the arguments of the analyses.

    Example::

        >>> from pathlib import Path
        >>> from captum_spes.analysis import analyze
        >>> Path("spes").mkdir()
        >>> for number, each in enumerate(explanations):
        ...     each.save(f"spes/u{number}.safetensors")
        >>> report = analyze("spes", min_count=4)
        >>> report.n_explanations
        {'SPES': 4}
        >>> sorted(report.to_dict())
        ['analyses', 'n_explanations', 'problems', 'settings']
        >>> report.markdown().splitlines()[0]
        '# Plausibility of 4 explanations'
        >>> paths = report.save("plausibility")
        >>> "previous tokens" in report.findings, "time" in report.findings
        (True, True)
    """

    folder: Path
    findings: dict[str, dict[str, Finding]]
    problems: dict[str, str]
    n_explanations: dict[str, int]
    settings: dict[str, Any]

    def save(self, output: str | os.PathLike[str]) -> list[Path]:
        """Writes analysis.md, analysis.json and the figures into a folder."""
        output = Path(output)
        output.mkdir(parents=True, exist_ok=True)
        paths = [output / "analysis.md", output / "analysis.json"]
        write_atomically(paths[0], self.markdown())
        write_json(paths[1], self.to_dict())
        files = self._file_names()
        for found in self.findings.values():
            for finding in found.values():
                for name, plot in finding.figures.items():
                    path = output / files[name]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_figure(path, plot(), dpi=120)
                    paths.append(path)
        return paths

    def _file_names(self) -> dict[str, str]:
        """A unique file name for each figure, because names such as "take 1" and "take_1" would share one."""
        names = {name for found in self.findings.values() for finding in found.values() for name in finding.figures}
        files: dict[str, str] = {}
        for name in sorted(names):
            file = _file_name(name)
            files[name] = _file_name(f"{name}-{_digest(name)}") if file in files.values() else file
        return files

    def to_dict(self) -> dict[str, Any]:
        """All numbers as plain values for JSON, with null for NaN."""
        content = {
            "settings": self.settings,
            "n_explanations": self.n_explanations,
            "analyses": {
                name: {method: finding.data for method, finding in found.items()}
                for name, found in self.findings.items()
            },
            "problems": self.problems,
        }
        return _without_nan(content)

    def markdown(self) -> str:
        """The findings in short, the tables, links to the figures, and the reasons for missing analyses."""
        total = sum(self.n_explanations.values())
        lines = [f"# Plausibility of {total} explanations", "", *self._answers(), ""]
        lines += [f"- {markdown_line(method)}: {n} explanations" for method, n in self.n_explanations.items()]
        files = self._file_names()
        for name, section in SECTIONS.items():
            if found := self.findings.get(name):
                rows = [(method, *row) for method, finding in found.items() for row in finding.rows]
                lines += ["", f"## {section.title}", "", section.note, ""]
                lines += markdown_table([("method", *section.columns), *rows])
                figures = [figure for finding in found.values() for figure in finding.figures]
                # figures of single utterances are not linked, because there are many
                pictures = [f"![{markdown_line(figure)}](<{files[figure]}>)" for figure in figures if "/" not in figure]
                single = [f"[{markdown_line(figure)}](<{files[figure]}>)" for figure in figures if "/" in figure]
                lines += ["", *pictures] if pictures else []
                lines += ["", f"Utterances: {', '.join(single)}"] if single else []
        unmatched = self._unmatched()
        if unmatched:
            lines += ["", "## Words without a time", "", markdown_line(", ".join(unmatched))]
        if self.problems:
            lines += ["", "## Not computed", ""]
            lines += [f"- {markdown_line(f'{name}: {reason}')}" for name, reason in self.problems.items()]
        lines += ["", "## Settings", ""]
        lines += [f"- {key}: `{json.dumps(value, ensure_ascii=False)}`" for key, value in self.settings.items()]
        return "\n".join(lines) + "\n"

    def _answers(self) -> list[str]:
        """The findings in short: the questions of the sections, with the answer of each method."""
        methods = list(self.n_explanations)
        rows = [("question", *methods)]
        for name, section in SECTIONS.items():
            found = self.findings.get(name, {})
            if section.question and found:
                answers = (found[method].answer if method in found else "" for method in methods)
                rows.append((section.question, *answers))
        lines = markdown_table(rows) if len(rows) > 1 else ["No question could be answered: see below why."]
        if max(self.n_explanations.values()) < MIN_PAIRS:
            lines = [f"Fewer than {MIN_PAIRS} utterances decide nothing, and have no p-values.", "", *lines]
        return lines

    def _unmatched(self) -> list[str]:
        """The unmatched words of all methods together, since methods explain the same texts."""
        found = self.findings.get("time", {}).values()
        words = {(word["utterance"], word["word"]): word["reason"] for f in found for word in f.data["unmatched"]}
        return [f"{word} ({utterance}: {reason})" for (utterance, word), reason in words.items()]


def _file_name(figure: str) -> str:
    """A safe file name, because a method may have any name, such as |IntegratedGradients| or even ../../x."""
    parts = (re.sub(r"[^\w()+~.-]+", "_", part).lstrip(".") or "_" for part in figure.split("/"))
    return "/".join(part if len(part.encode()) <= MAX_NAME else part[:50] + _digest(part) for part in parts) + ".png"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
