"""The files of an evaluation: settings, explanations, and scores, which are checked when they are read."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from captum_spes._files import write_json
from captum_spes.attr.fingerprint import differences
from captum_spes.evaluation._curves import split_baseline
from captum_spes.evaluation.word_errors import FACTS
from captum_spes.metrics.compactness import THRESHOLDS
from captum_spes.metrics.erasure import RATIONALE_PERCENTAGES
from captum_spes.words import word_spans

SETTINGS = "settings.json"
CHECKPOINTS = "checkpoints"
INPUTS: tuple[Literal["spectrogram", "tokens"], ...] = ("spectrogram", "tokens")
ADVICE = "delete it, and its explanation is measured again"
# entries of a scores file that are not metrics
OF_EXPLANATION = {"audio_sha256", "text", "seconds", "reliability", "forwards", "backwards"}


class Store:
    """Reads and writes the files of one evaluation. ::

        folder/settings.json
        folder/explanations/<method>/<utterance>.safetensors
        folder/scores/<method>/<utterance>.json
        folder/checkpoints/<method>/<utterance>/

    Nothing is written before the first result, so that a run that fails at once leaves no folder that would refuse the
    corrected run. Files are written atomically, so that several processes can share a folder.

    Args:
        folder: the folder of the evaluation, which need not exist.
        settings: the settings of the results, including ``"percentages"`` and ``"methods"``.

    Raises:
        ValueError: the folder holds other files, or results with other settings, which the message names.
    """

    def __init__(self, folder: str | Path, settings: dict[str, Any]) -> None:
        self.folder = Path(folder)
        self.settings = settings
        self._settings_are_written = False
        self._check_settings()

    # Settings

    def _check_settings(self) -> dict[str, Any]:
        """The settings in the folder after a comparison with those of this run; empty for a new folder."""
        before = read_settings(self.folder)
        if found := list(differences(before, self.settings, growing={"methods"})) if before else []:
            raise ValueError(
                f"{self.folder} holds an evaluation with other arguments: {'; '.join(found)}. Give the same "
                "arguments to continue it, or another folder."
            )
        return before

    def write_settings(self) -> None:
        """Writes the settings, together with the methods of earlier runs."""
        if self._settings_are_written:
            return
        before = self._check_settings()
        methods = {**before.get("methods", {}), **self.settings["methods"]}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / SETTINGS, {**self.settings, "methods": methods})
        self._settings_are_written = True

    # Paths

    def explanation_path(self, utterance: str, method: str) -> Path:
        return self.folder / "explanations" / method / f"{utterance}.safetensors"

    def scores_path(self, utterance: str, method: str) -> Path:
        return self.folder / "scores" / method / f"{utterance}.json"

    def checkpoint(self, utterance: str, method: str) -> Path:
        """The folder of the checkpoints of a method for an utterance, which exists while it is explained."""
        return self.folder / CHECKPOINTS / method / utterance

    def remove_checkpoints(self) -> None:
        """Removes empty folders of checkpoints, which are those of finished explanations."""
        folder = self.folder / CHECKPOINTS
        for empty in (*(folder / name for name in self.settings["methods"]), folder):
            with suppress(OSError):
                empty.rmdir()

    # Scores

    def scores(self, utterance: str, method: str) -> dict[str, Any]:
        """The measurements of an explanation; empty if there are none.

        Raises:
            ValueError: the file is damaged, or holds impossible values.
        """
        path = self.scores_path(utterance, method)
        if not path.is_file():
            return {}
        scores = read_json(path)
        if missing := OF_EXPLANATION - scores.keys():
            raise ValueError(f"{path} is damaged (no {', '.join(sorted(missing))}): {ADVICE}.")
        n_steps = len(self.settings["percentages"])
        if wrong := sorted(name for name, value in scores.items() if not _is_score(name, value, n_steps)):
            raise ValueError(f"{path} is damaged (impossible {', '.join(wrong)}): {ADVICE}.")
        return scores

    def write_scores(self, utterance: str, method: str, scores: dict[str, Any]) -> None:
        path = self.scores_path(utterance, method)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, scores, indent=None)


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of the evaluation in a folder; empty if the folder is new or empty.

    Raises:
        ValueError: the folder is a file, holds other files, or its settings are damaged.
    """
    path = folder / SETTINGS
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"the output folder {folder} cannot be written to: it is a file.")
    # A process that was killed before its first result may leave hidden files and checkpoints. The folder is read
    # before the settings, because another process may be about to write them.
    is_empty = not folder.is_dir() or all(
        part.name.startswith(".") or part.name == CHECKPOINTS for part in folder.iterdir()
    )
    if path.is_file():
        settings = read_json(path, "give another folder")
        if not isinstance(settings.get("methods"), dict):
            raise ValueError(f"{path} is damaged (no methods): give another folder.")
        return settings
    if not is_empty:
        raise ValueError(f"{folder} is not empty and does not hold an evaluation: give another folder.")
    return {}


def read_json(path: Path, advice: str = ADVICE) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: the file cannot be read, or does not hold an object; the message ends with the advice.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): {advice}.") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): check its permissions.") from error
    return content


def _is_score(name: str, value: Any, n_steps: int) -> bool:
    """Whether a value is possible for an entry of a scores file."""
    if name in ("audio_sha256", "text"):
        return isinstance(value, str)
    if name in ("forwards", "backwards"):
        return isinstance(value, int) and 0 <= value < 2**63
    if name in ("seconds", "reliability"):
        return value is None or _is_number(value)
    if name == "words":
        return _are_facts(value)
    metric = split_baseline(name)[0]
    if metric in ("comprehensiveness", "sufficiency"):
        return isinstance(value, list) and len(value) == len(RATIONALE_PERCENTAGES) and all(map(_is_number, value))
    if metric in ("deletion", "insertion"):
        return isinstance(value, list) and len(value) == n_steps and all(isinstance(text, str) for text in value)
    if name == "size":
        if not isinstance(value, dict) or not {INPUTS[0]} <= value.keys() <= set(INPUTS):
            return False
        rows = list(value.values())
        return all(isinstance(row, list) and len(row) == len(THRESHOLDS) for row in rows) and all(
            _is_number(number) for row in rows for number in row
        )
    return True


def _are_facts(value: Any) -> bool:
    """Whether a value is what :func:`~captum_spes.evaluation.word_errors.word_facts` gives."""
    if value == {}:
        return True
    if not isinstance(value, dict) or not _is_number(value.get("seconds")):
        return False
    tokens = value.get("tokens")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) for token in tokens):
        return False
    n_words = len(word_spans(tokens))
    lists = [value.get(fact) for fact in FACTS if value.get(fact) is not None]
    return all(isinstance(one, list) and len(one) == n_words and all(map(_is_number, one)) for one in lists)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
