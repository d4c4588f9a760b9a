"""The words of a corpus by kind of error, counted by hand."""

from dataclasses import replace

import pytest
import torch
from test_errors import written

from captum_spes.evaluation.store import _are_facts
from captum_spes.evaluation.word_errors import find_word_errors, word_facts


def facts(text, probabilities, reliability):
    """Of a text; half of each probability is heard."""
    explanation = written(text)
    sure = explanation.confidence
    n = len(explanation.tokens)
    probabilities = [*probabilities, *[0.9] * (n - len(probabilities))]
    confidence = replace(sure, probabilities=probabilities, least=probabilities, unheard=[p / 2 for p in probabilities])
    found = replace(explanation, confidence=confidence, reliability=torch.full((n,), reliability))
    return word_facts(found)


CORPUS = [
    {
        "spes": {"words": facts("so what was it", [0.9, 0.2, 0.8, 0.7], 0.5)},
        "energy": {"words": {**facts("so what was it", [0.9, 0.2, 0.8, 0.7], 0.5), "reliability": None}},
    },
    {
        "spes": {"words": facts("the big cat", [0.6, 0.1, 0.5], 0.25)},
        "energy": {"words": facts("the big cat", [1], 1.0)},
    },
    {"spes": {"words": facts("you", [0.3], 0.1)}, "energy": {}},
]
SAID = ["So that was it then.", "the cat", None]


def test_words_by_kind():
    found = find_word_errors(CORPUS, SAID)
    assert found.n_utterances == 2  # the third has no transcription
    counts = {kind: words.count for kind, words in found.kinds.items()}
    assert counts == {"correct": 5, "substitution": 1, "insertion": 1, "deletion": 1}
    correct = found.kinds["correct"]
    assert sorted(correct.probability) == [0.5, 0.6, 0.7, 0.8, 0.9] and correct.median("probability") == 0.7
    assert found.kinds["substitution"].median("probability") == 0.2
    assert found.kinds["insertion"].median("heard") == pytest.approx(0.5)
    assert correct.median("reliability", "spes") == 0.5 and correct.median("reliability", "energy") == 1.0
    assert found.kinds["deletion"].median("probability") is None
    header, *rows = found.table()
    assert header == ("words", "number", "probability", "heard", "reliability, energy", "reliability, spes")
    assert rows[0] == ("correct", "5", "0.70", "0.50", "1.00", "0.50") and rows[3] == ("deletion", "1", "", "", "", "")
    assert found.to_dict()["substitution"] == {
        "count": 1, "probability": 0.2, "heard": 0.5, "reliability": {"spes": 0.5},
    }  # fmt: skip


def test_what_cannot_be_compared_is_left_out():
    assert find_word_errors(CORPUS, [None] * 3) is None
    assert find_word_errors([{"spes": {"words": {}}}], ["so"]) is None
    assert find_word_errors(CORPUS[:1], ["so " * 100]) is None  # no transcription of 3 s
    assert word_facts(written("so what").sentence()) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": None},
        {"tokens": []},
        {"tokens": [1]},
        {"seconds": "3"},
        {"probability": [0.5]},
        {"heard": ["a", 0, 0, 0, 0]},
        {"reliability": {}},
    ],
)
def test_files_are_checked(change):
    good = CORPUS[0]["spes"]["words"]
    assert _are_facts(good) and _are_facts({}) and not _are_facts({**good, **change}) and not _are_facts(None)


def test_words_of_several_characters():
    """An utterance is not left out because its words are not the characters of the transcription."""
    words = {**CORPUS[0]["spes"]["words"], "tokens": ["我们", "今天", "可以", "开始", "工作"], "language": "zh"}
    words = {**words, "probability": [0.9, 0.8, 0.7, 0.6, 0.1], "heard": None, "reliability": None}
    found = find_word_errors([{"spes": {"words": words}}], ["我们今天可以开始工人"])
    assert found.kinds["correct"].probability == [0.9, 0.8, 0.7, 0.6]
    assert found.kinds["substitution"].probability == [0.1]
