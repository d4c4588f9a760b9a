"""Words light up where they are spoken: real recordings, the default command. Slow: pytest -m slow."""

import difflib
import json
import re
import sys

import pytest

from captum_spes import SpeechToTextExplanation
from captum_spes.__main__ import main

TOLERANCE = 0.05  # seconds


def letters(text):
    return re.sub(r"[^a-z']", "", text.lower())


def strongest_frames(explanation, alignment):
    """For each word that the alignment has too: text, time of the strongest frame, begin and end in seconds."""
    words = explanation.words()
    spoken = [word for word in alignment if not word["t"].startswith("<")]
    ours, theirs = [letters(word) for word in words.tokens], [letters(word["t"]) for word in spoken]
    for block in difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks():
        for offset in range(block.size):
            row, word = block.a + offset, spoken[block.b + offset]
            frame = int(words.spectrogram_attr[row].amax(1).argmax())
            yield words.tokens[row], frame / words.frames_per_second, word["b"], word["b"] + word["d"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["0870", "0880", "0890", "0920", "0930"])
def test_words_light_up_where_they_are_spoken(name, librivox, bundled_model, tmp_path, monkeypatch):
    recording = librivox / f"sense_and_sensibility_01_austen_64kb-{name}.wav"
    monkeypatch.setattr(sys, "argv", ["captum-spes", "explain", str(recording), "-o", str(tmp_path)])
    with pytest.raises(SystemExit) as exit_info:
        main()
        raise SystemExit(0)
    assert not exit_info.value.code
    alignment = json.loads(recording.with_suffix(".json").read_text())["w"]
    explanation = SpeechToTextExplanation.load(tmp_path / "explanation.safetensors")
    words = list(strongest_frames(explanation, alignment))
    assert len(words) >= 5
    missed = [word for word in words if not word[2] - TOLERANCE <= word[1] <= word[3] + TOLERANCE]
    assert len(missed) <= 0.1 * len(words), missed
