"""Writes the text of errors.md: a table of the errors, and the reason of each."""

from __future__ import annotations

from collections.abc import Sequence

from captum_spes._text import markdown_line, markdown_table
from captum_spes.explanation.errors import TextError

HEADER = ("", "kind", "written", "said", "time (s)", "probability", "of what was said", "heard", "reliability")


def errors_text(text: str, reference: str, errors: Sequence[TextError], pictures: Sequence[str | None] = ()) -> str:
    """The text of errors.md.

    Args:
        text: the text that the model wrote.
        reference: the words that were said.
        errors: the errors, explained by :func:`explain_errors`.
        pictures: for each error the path of its picture, or None if it has no picture.

    Example::

        >>> from captum_spes.errors import errors_text, find_errors
        >>> print(errors_text(explanation.text, "So, yes.", find_errors(explanation, "So, yes.")).splitlines()[0])
        # 1 error against the reference
    """
    n = len(errors)
    lines = [
        f"# {n or 'No'} error{'' if n == 1 else 's'} against the reference",
        "",
        f"- Written: {markdown_line(text)}",
        f"- Said: {markdown_line(reference)}",
        "",
    ]
    if not errors:
        return "\n".join(lines)
    lines += [*markdown_table([HEADER, *(error_row(number, error) for number, error in enumerate(errors, 1))]), ""]
    for number, error in enumerate(errors, 1):
        lines += [f"## {number}. {markdown_line(error.title)}", "", markdown_line(error.reason), ""]
        if number <= len(pictures) and pictures[number - 1]:
            lines += [f"![The map of the contrast]({pictures[number - 1]})", ""]
    lines += [
        "## How to read it",
        "",
        "- Words are aligned by jiwer, and compared without case and punctuation, after Whisper's text normaliser.",
        "- A substitution is explained by the contrast of what was written with what was said, both scored on the same "
        "perturbed inputs. Where the map is positive, the sound speaks for what was written; where it is negative, for "
        "what was said.",
        "- A deletion is explained by the contrast of the word that follows with what is missing; its probability is "
        "that of the word that follows.",
        "- Heard: the share of a word's probability that is lost when its own sound is hidden. An insertion that was "
        "guessed comes from the words before or from other sounds.",
        "- Reliability: the correlation of the contrast's maps of two halves of the samples.",
        "",
    ]
    return "\n".join(lines)


def error_row(number: int, error: TextError) -> tuple[str, ...]:
    """The cells of an error in the table of errors.md.

    Example::

        >>> from captum_spes.errors.text import error_row
        >>> from captum_spes.explanation.errors import TextError
        >>> error_row(1, TextError("insertion", "you", "", (0, 1), begin=0.2, end=0.5, probability=0.4))[:6]
        ('1', 'insertion', 'you', '', '0.20–0.50', '0.40')
    """
    known = error.explanation.reliability if error.explanation is not None else None
    return (
        str(number),
        error.kind,
        error.written,
        error.expected,
        "" if error.begin is None or error.end is None else f"{error.begin:.2f}–{error.end:.2f}",
        _share(error.probability),
        _share(error.expected_probability),
        "" if error.heard is None else f"{error.heard:.2f} {error.verdict or ''}".strip(),
        "" if known is None else f"{float(known.mean()):.2f}",
    )


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if value >= 0.005 or value == 0 else f"{value:.1g}"
