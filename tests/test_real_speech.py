"""The maps of words in real recordings have their maxima where the words are spoken. For pytest -m long."""

import sys

import pytest

from captum_spes import SpeechToTextExplanation
from captum_spes.__main__ import main
from captum_spes.alignment import Alignment
from captum_spes.metrics import time_localization


@pytest.mark.long
@pytest.mark.parametrize("name", ["0870", "0880", "0890", "0920", "0930"])
def test_words_light_up_where_they_are_spoken(name, librivox, bundled_model, tmp_path, monkeypatch):
    recording = librivox / f"sense_and_sensibility_01_austen_64kb-{name}.wav"
    monkeypatch.setattr(sys, "argv", ["captum-spes", "explain", str(recording), "-o", str(tmp_path)])
    with pytest.raises(SystemExit) as exit_info:
        main()
        raise SystemExit(0)
    assert not exit_info.value.code
    explanation = SpeechToTextExplanation.load(tmp_path / "explanation.safetensors")
    alignment = Alignment.load(recording.with_suffix(".json"))
    found = time_localization(explanation, alignment)
    assert len(found.words) >= 5
    missed = [word for word in found.words if word.hit < 1]
    assert len(missed) <= 0.1 * len(found.words), missed
    assert found.test.p_value < 0.01 and found.test_against_other_words.p_value < 0.01
    assert time_localization(explanation, alignment, maps="shuffled").test.p_value > 0.01
