"""Errors against a reference: found where they are planted, explained by contrasts, and shown."""

import math
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from captum.attr import Saliency
from test_report import content

from captum_spes import SPES, SpeechToTextAttribution, SpeechToTextExplanation
from captum_spes.cli import reference
from captum_spes.confidence import Confidence
from captum_spes.errors import errors_text, explain_errors, find_errors
from captum_spes.errors.explaining import _where_it_is_decided
from captum_spes.errors.finding import check_reference
from captum_spes.explanation.errors import TextError
from captum_spes.models import prepare
from captum_spes.speech_to_text.catalogue import NamedMethod
from captum_spes.speech_to_text.foils import word_log_prob
from captum_spes.speech_to_text.hearing import token_times
from captum_spes.speech_to_text.targets import TextWords

pytestmark = pytest.mark.filterwarnings("ignore:the maps are noisy")


def written(text, seconds=3.0, **metadata):
    """An explanation of a text: a token a word, with times, probabilities 0.9 and half of it heard."""
    tokens = [*re.findall(r"\s*\d[\d.,/]*|\s*[\w'’-]+|\s*[^\w\s]", text), "<|endoftext|>"]
    n = len(tokens)
    edges = torch.linspace(0, seconds, n + 1).tolist()
    return SpeechToTextExplanation(
        text=text,
        tokens=tokens,
        previous_tokens=["<s>", *tokens[:-1]],
        spectrogram=torch.rand(int(10 * seconds), 4),
        spectrogram_attr=torch.rand(n, int(10 * seconds), 4),
        token_attr=torch.rand(n, n).tril(),
        n_previous=torch.arange(1, n + 1),
        frames_per_second=10,
        mel_frequencies=torch.tensor([200.0, 1000.0, 3000.0, 6000.0]),
        confidence=Confidence([0.9] * n, [0.9] * n, [0.5] * n, [[] for _ in tokens], [0.45] * n),
        metadata={"token_times": [list(pair) for pair in zip(edges, edges[1:])], **metadata},
    )


CASES = {
    "a missing word": ("So what was the step?", "so what was the next step", [("deletion", "", "next")]),
    "the first": ("what was it", "So, what was it?", [("deletion", "", "So")]),
    "the last": ("So what was the next.", "so what was the next step", [("deletion", "", "step")]),
    "a word for two": (
        "He was no old-sposed man.",
        "HE WAS NO ILL DISPOSED MAN",
        [("substitution", "old-sposed", "ILL DISPOSED")],
    ),
    "a word too many": ("The big cat.", "the cat", [("insertion", "big", "")]),
    "two words, each for one": (
        "the hat mat",
        "the cat sat",
        [("substitution", "hat", "cat"), ("substitution", "mat", "sat")],
    ),
    "a phrase with a comma inside": ("I know", "well, sir, I know", [("deletion", "", "well, sir")]),
    "a line break": ("So what", "So what was\n the", [("deletion", "", "was the")]),
    "hyphens": ("an ill-disposed man", "an ill disposed man", []),
    "numerals": ("I have 7 cats", "I have seven cats", []),
    "dollars": ("It costs $20 now", "it costs twenty dollars now", []),
    "dollars after the numeral": ("It costs 20 dollars", "it costs $20", []),
    "per cent": ("about 50% of them", "about fifty percent of them", []),
    "pounds": ("£5 each", "five pounds each", []),
    "a decimal point": ("it is 35 km", "it is 3.5 km", [("substitution", "35", "3.5")]),
    "a fraction": ("at 10 past", "at 1/0 past", [("substitution", "10", "1/0")]),
    "thousands": ("2,000 men", "2000 men", []),
    "apostrophes": ("well go home", "we'll go home", [("substitution", "well", "we'll")]),
    "in brackets": ("I met Ann (Smith) there", "I met Ann (Jones) there", [("substitution", "Smith", "Jones")]),
    "numerals that are not one number": ("room two five", "room twenty five", [("substitution", "two", "twenty")]),
    "contractions": ("we’ll go home", "we will go home", []),
    "curly apostrophes": ("aren’t it`s we", "aren't it's we", []),
    "accents and case": ("A CAFE there", "a café there", []),
    "all of it": ("you", "so what", [("substitution", "you", "so what")]),
}


@pytest.mark.parametrize("text, reference, expected", CASES.values(), ids=CASES)
def test_planted_errors(text, reference, expected):
    found = find_errors(written(text), reference)
    assert [(error.kind, error.written, error.expected) for error in found] == expected


def test_the_basic_normaliser_is_that_of_other_languages():
    """English has it that "7" and "seven" are the same; German has not."""
    assert len(find_errors(written("ich habe 7", language="de"), "ich habe seven")) == 1


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"language": "eng"},
        {"language": "English"},
        {"language": "de-en"},
        {"language": "de", "text_language": "en"},
    ],
)
def test_the_normaliser_for_english_is_that_of_all_english_texts(metadata):
    """Codes of three letters, names, pairs, and translations."""
    assert not find_errors(written("I have 7 cats", **metadata), "I have seven cats")


def test_what_is_known_of_an_error():
    explanation = written("So what was old step?", seconds=7.0)
    substitution, deletion = find_errors(explanation, "so what was next step here")
    assert substitution.words == (3, 4) and substitution.title == "old (not next)"
    assert (substitution.begin, substitution.end) == pytest.approx((3.0, 4.0))
    assert substitution.probability == pytest.approx(0.9) and substitution.heard == pytest.approx(0.5)
    assert substitution.verdict == "unsure" and substitution.explanation is None
    assert deletion.words == (5, 5) and deletion.title == "(no here)" and deletion.heard is None
    assert (deletion.begin, deletion.end) == pytest.approx((5.0, 5.0))


@pytest.mark.parametrize(
    "reference, words",
    [
        ("", "has no words: give what was said"),
        ("?!", "has no words"),
        ("so " * 40, "has 40 words, more than can be said in 3.0 s"),
        (
            "Was war denn nun der Schritt",
            "have no word in common: give what was said in this recording, in the language",
        ),
        ("так что", "have no word in common"),
    ],
)
def test_references_that_cannot_be(reference, words):
    text = "So what should the next one be?"
    with pytest.raises(ValueError, match=words):
        find_errors(written(text), reference)
    with pytest.raises(ValueError, match=words):
        check_reference(reference, written(text).tokens, 3.0)
    with pytest.raises(ValueError, match="explanation of tokens"):
        find_errors(written(text).sentence(), "so what")


@pytest.mark.parametrize(
    "language, tokens, reference, expected",
    [
        ("ja", ["ハ", "ス", "に", "の", "る"], "バスにのる", [("ハ", "バ")]),
        ("hi", ["राम", " की", " किताब"], "राम के किताब", [("की", "के")]),
        ("th", ["มี", "น", "า"], "มูนา", [("มี", "มู")]),
        ("fr", ["un", " élève"], "un eleve", []),
        ("ar", ["كَتَبَ", " هو"], "كتب هو", []),
    ],
)
def test_signs_that_change_a_word_are_no_accents(language, tokens, reference, expected):
    """Vowel signs, tones and voicing marks distinguish words; accents and the points of Arabic do not."""
    explanation = replace(written(" ".join("a" * len(tokens)), language=language), tokens=[*tokens, "<|endoftext|>"])
    found = find_errors(explanation, reference)
    assert [(error.written, error.expected) for error in found] == expected


@pytest.mark.parametrize(
    "reference, expected",
    [
        ("我们今天可以开始工作。", []),
        ("我们今天可以开始工人", [("工作", "工人")]),
        ("我们明天可以开始工作", [("今天", "明天")]),
        ("我们明后天可以开始工作", [("今天", "明后天")]),
        ("我们今大天可以开始工作", [("今天", "今大天")]),
        ("我们今天开始工作", [("可以", "")]),
        ("我们今天就可以开始工作", [("", "就")]),
    ],
)
def test_words_of_several_characters(reference, expected):
    """Whisper has tokens such as 今天, while each character of a reference in Chinese counts as a word."""
    explanation = replace(
        written("a a a a a", language="zh"), tokens=["我们", "今天", "可以", "开始", "工作", "<|endoftext|>"]
    )
    found = find_errors(explanation, reference)
    assert [(error.written, error.expected) for error in found] == expected
    assert all("".join(explanation.tokens[slice(*error.words)]) == error.written for error in found)


@pytest.mark.parametrize("text, reference", [("семь", "7"), ("はい", "拝"), ("you", "it")])
def test_short_texts_may_have_no_word_in_common(text, reference):
    assert [error.expected for error in find_errors(written(text), reference)] == [reference]


# Explained


def explained(model, audio, text, reference, with_end=False):
    attribution = SpeechToTextAttribution(SPES(model))
    utterance, tokens = attribution.prepare(audio, text, sampling_rate=16000)
    if with_end:
        tokens = replace(tokens, target=torch.cat((tokens.target, torch.tensor([0]))))
    explanation = attribution.attribute(utterance, tokens, n_samples=6)
    contrasts = []

    def explain(contrast):
        contrasts.append(contrast)
        return attribution.attribute(utterance, tokens, contrast=contrast, n_samples=6)

    errors = list(explain_errors(find_errors(explanation, reference), model, utterance, tokens, explain))
    return explanation, errors, contrasts, (utterance, tokens)


def test_a_substitution_is_contrasted_in_its_most_probable_form(tiny_model, audio):
    _, [error], [contrast], (utterance, tokens) = explained(
        tiny_model, audio, "so what to so what", "SO WHAT POWER SO WHAT"
    )
    assert contrast.word == (2, 2) and contrast.foil in ("POWER", "power", "Power")
    start = error.explanation.metadata["contrast"]["token_span"][0]

    def log_prob(form):  # by hand, token by token
        previous, total = tokens.previous[: len(tokens.prompt) + start], 0.0
        for token in tiny_model.tokens(form, utterance).target:
            given = replace(tokens, prompt=previous, target=token[None])
            with torch.no_grad():
                row = tiny_model.logits(tiny_model.encode(utterance.spectrogram, utterance), given)[0, 0]
            total += float(row.double().log_softmax(-1)[token])
            previous = torch.cat((previous, token[None]))
        return total

    forms = {form: log_prob(form) for form in ("POWER", "power", "Power")}
    assert contrast.foil == max(forms, key=forms.get)
    assert math.log(error.expected_probability) == pytest.approx(max(forms.values()), abs=1e-3)
    assert error.explanation.tokens == [f"to (not {contrast.foil})"]
    assert "had a probability of" in error.reason and "The sound that decides lies at" in error.reason


def test_a_map_that_is_the_same_everywhere_names_no_place():
    contrast = written("so")
    contrast = replace(contrast, spectrogram_attr=torch.zeros_like(contrast.spectrogram_attr))
    assert "does not show which sound decides" in _where_it_is_decided(contrast, "“so”", "“no”")


def test_a_deletion_is_contrasted_with_the_word_that_follows(tiny_model, audio):
    _, [error], [contrast], _ = explained(tiny_model, audio, "so what so", "so to what so")
    assert contrast.word == (1, 1) and error.explanation.tokens[0].startswith("what (not ")
    assert "went on without it" in error.reason


def test_a_deletion_at_the_end_is_contrasted_with_the_end(tiny_model, audio):
    _, [error], [contrast], _ = explained(tiny_model, audio, "so what", "so what his", with_end=True)
    assert contrast.word == (2, 2) and error.explanation.metadata["contrast"]["word"] == "<|endoftext|>"
    assert not error.explanation.metadata["contrast"]["word_boundaries"]
    _, [error], contrasts, _ = explained(tiny_model, audio, "so what", "so what his")
    assert not contrasts and "nothing was written after them" in error.reason


def test_an_insertion_needs_no_contrast(tiny_model, audio):
    _, [error], contrasts, _ = explained(tiny_model, audio, "so what to", "so what")
    assert error.kind == "insertion" and not contrasts and error.explanation is None
    assert "not known when it was spoken" in error.reason  # its model names no alignment heads
    heard = replace(error, verdict="heard")
    assert (
        "was heard"
        in next(iter(explain_errors([heard], tiny_model, *explained_inputs(tiny_model, audio), None))).reason
    )


def test_an_error_that_cannot_be_contrasted_says_why(tiny_model, audio):
    explanation, [error], _, inputs = explained(tiny_model, audio, "so what to", "so his to")

    def explain(contrast):
        raise ValueError("both words have the same tokens.")

    [found] = explain_errors(find_errors(explanation, "so his to"), tiny_model, *inputs, explain)
    assert found.reason == "It cannot be contrasted: both words have the same tokens." and found.explanation is None
    assert found.expected_probability == error.expected_probability


def explained_inputs(model, audio):
    return SpeechToTextAttribution(SPES(model)).prepare(audio, "so what to", sampling_rate=16000)


# Shown


def test_errors_text():
    errors = [
        TextError("substitution", "old", "ill", (1, 2), 0.5, 1.0, 0.4, 0.9, "heard", 0.001, reason="It sounds alike."),
        TextError("insertion", "you|", "", (3, 4)),
    ]
    text = errors_text("an old you|", "an ill", errors, ["errors/1.png", None])
    assert text.startswith("# 2 errors against the reference\n") and "- Said: an ill\n" in text
    assert "| 1 | substitution | old | ill | 0.50–1.00 | 0.40 | 0.001 | 0.90 heard |  |" in text
    assert "## 1. old (not ill)\n\nIt sounds alike.\n\n![The map of the contrast](errors/1.png)" in text
    assert errors_text("so", "so", []).startswith("# No errors against the reference")


def test_the_report_has_the_errors(tiny_model, audio, tmp_path):
    explanation, errors, _, _ = explained(tiny_model, audio, "so what to so", "so his to", with_end=True)
    assert [error.kind for error in errors] == ["substitution", "insertion"]
    path = tmp_path / "report.html"
    explanation.to_html(path, audio=audio, sampling_rate=16000, errors=errors, reference="so his to")
    data = content(path.read_text(encoding="utf-8"))
    view = data["views"][-1]
    assert view["name"] == "errors" and [row["title"] for row in view["rows"]] == [error.title for error in errors]
    n_tokens = len(explanation.tokens)
    assert (view["rows"][0]["first"], view["rows"][0]["stop"]) == (n_tokens, n_tokens + 1)
    assert view["rows"][1]["stop"] <= n_tokens and view["rows"][0]["note"] == errors[0].reason
    [method] = data["methods"]
    assert method["largestContrast"] == 1 and len(method["previous"]) == len(data["views"])
    page = path.read_text(encoding="utf-8")
    assert "What was said: so his to" in page and 'role="note"' not in page  # there is nothing else to know
    with pytest.raises(ValueError, match="errors belong to one explanation of tokens"):
        explanation.to_html(path, audio=False, errors=errors, others=[explanation])


def test_the_page(tiny_model, audio, capsys):
    page = (Path(__file__).resolve().parents[1] / "docs" / "errors.md").read_text(encoding="utf-8")
    block = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[0]
    names = {"attribution": SpeechToTextAttribution(Saliency(tiny_model)), "audio": audio}
    given = "prepare(audio, 'so what was the next step', sampling_rate=16000)"
    exec(block.replace('prepare("speech.wav")', given), names)
    assert "next (not last)" in capsys.readouterr().out


# The command line


@pytest.mark.slow
def test_command_line(run, tiny_folder, recording, tmp_path):
    common = ["explain", recording, "--model", tiny_folder, "--target", "so what to", "--n-samples", "6", "-o", "out"]
    code, out, err = run(*common, "--reference", "so his to")
    assert code == 0, err
    assert "1 error against the reference" in out and "[1/1] substitution: what (not his)" in out
    assert "what (not his)" in (tmp_path / "out/errors.md").read_text(encoding="utf-8")
    assert {path.name for path in (tmp_path / "out/errors").iterdir()} == {"1.safetensors", "1.png"}
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert content(page)["views"][-1]["name"] == "errors" and "previous_token_ids" not in page
    code, out, err = run(*common, "--reference", "So what to?")
    assert code == 0 and "No errors against the reference" in out, err
    assert not list((tmp_path / "out/errors").iterdir())
    code, out, err = run(*common)
    assert code == 0 and not (tmp_path / "out/errors.md").exists()


def test_errors_go_on_after_a_kill(run, tiny_folder, recording, tmp_path, monkeypatch):
    real, explained, last = NamedMethod.explain, [], [2]

    def explain(*arguments, contrast, checkpoint, **named):
        if len(explained) == last[0]:
            raise SystemExit(9)
        explained.append((contrast and contrast.foil, checkpoint.relative_to("out").parts[:2]))
        return real(*arguments, contrast=contrast, checkpoint=checkpoint, **named)

    def explained_by(*options, reference="so his too", kill_after=99, method="energy"):
        explained.clear()
        last[0] = kill_after
        given = ["--model", tiny_folder, "--target", "so what to", "--method", method, "-o", "out", *options]
        code, _, err = run("explain", recording, *given, "--reference", reference)
        assert code == (9 if kill_after < 99 else 0), err
        return [foil for foil, _ in explained]

    monkeypatch.setattr(NamedMethod, "explain", explain)
    monkeypatch.setattr("captum_spes.cli.explain.write_explanation", only_saved)  # the figures take long
    assert explained_by(kill_after=2) == [None, "his"]
    before = (tmp_path / "out/errors/1.safetensors").read_bytes()
    assert explained == [(None, ("checkpoint",)), ("his", ("checkpoint", "errors"))]
    assert explained_by() == ["too"]
    assert (tmp_path / "out/errors/1.safetensors").read_bytes() == before
    text = (tmp_path / "out/errors.md").read_text(encoding="utf-8")
    assert text.startswith("# 2 errors") and "errors/1.png" in text and "errors/2.png" in text
    assert explained_by() == []
    # another reference has other errors, and other settings explain all again
    assert explained_by(reference="so what too") == ["too"]
    assert {path.name for path in (tmp_path / "out/errors").iterdir()} == {"1.safetensors", "1.png"}
    for number, options in enumerate((["--seed", "1"], ["--context", "full"], ["--num-beams", "2"])):
        assert explained_by(*options, reference="so what too") == [None, "too"], number
    assert explained_by(reference="so what too", method="saliency") == [None, "too"]
    assert not (tmp_path / "out/checkpoint").exists()


def only_saved(explanation, folder, recording):
    explanation.save(folder / "explanation.safetensors")
    return []


def test_ctrl_c_keeps_the_errors_that_are_explained(run, tiny_folder, recording, tmp_path, monkeypatch):
    """The second error is interrupted: it is listed without an explanation, and the first has its contrast."""
    real = reference.explain_errors

    def interrupted(*arguments):
        yield next(real(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(reference, "explain_errors", interrupted)
    common = ["explain", recording, "--model", tiny_folder, "--target", "so what to", "--n-samples", "6", "-o", "out"]
    code, _, err = run(*common, "--reference", "so his too")
    assert code == 130 and "Stopped after 1 of 2 errors, which are saved." in err, err
    text = (tmp_path / "out/errors.md").read_text(encoding="utf-8")
    assert text.startswith("# 2 errors against the reference") and text.count(reference.NOT_EXPLAINED) == 1
    assert {path.name for path in (tmp_path / "out/errors").iterdir()} == {"1.safetensors", "1.png"}
    assert len(content((tmp_path / "out/report.html").read_text(encoding="utf-8"))["views"][-1]["rows"]) == 2


def test_ctrl_c_between_two_errors_keeps_the_first(run, tiny_folder, recording, tmp_path, monkeypatch):
    """The picture of the second error is interrupted."""
    real, written = reference.write_figure, []

    def interrupted(path, figure):
        written.append(path)
        if len(written) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        real(path, figure)

    monkeypatch.setattr(reference, "write_figure", interrupted)
    monkeypatch.setattr("captum_spes.cli.explain.write_explanation", lambda *_: [])  # the figures take long
    common = ["explain", recording, "--model", tiny_folder, "--target", "so what to", "--n-samples", "6", "-o", "out"]
    code, _, err = run(*common, "--reference", "so his too")
    assert code == 130 and "Stopped after 1 of 2 errors, which are saved." in err, err
    text = (tmp_path / "out/errors.md").read_text(encoding="utf-8")
    assert text.count(reference.NOT_EXPLAINED) == 1 and "errors/1.png" in text and "errors/2.png" not in text
    assert {path.name for path in (tmp_path / "out/errors").iterdir()} == {"1.safetensors", "1.png"}


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--reference", "..."], "has no words: give what was said"),
        (["--reference", "so " * 30], "more than can be said in 0.6 s"),
        (["--reference", "so", "--word", "so", "--foil", "to"], "--reference explains all errors, and --word one word"),
        (["--reference", "so", "--method", "gradient_spes_sentence"], "--reference explains words one by one"),
    ],
)
def test_bad_references_get_one_sentence_before_anything_is_explained(
    run, tiny_folder, recording, tmp_path, arguments, words
):
    code, _, err = run("explain", recording, "--model", tiny_folder, "--target", "so what", *arguments)
    assert code == 2 and words in err and "Traceback" not in err
    assert not (tmp_path / "spes-output").exists()


@pytest.mark.long
def test_ill_disposed_on_real_speech(bundled_model, librivox, tmp_path, run):
    path = next(librivox.glob("*0880.wav"))
    reference = path.with_suffix(".txt").read_text()
    code, _, err = run("explain", path, "--preset", "instant", "--reference", reference, "-o", "out")
    assert code == 0, err
    contrast = SpeechToTextExplanation.load(tmp_path / "out/errors/1.safetensors")
    assert contrast.tokens == ["old-sposed (not ill disposed)"]
    # "ill disposed" is spoken from 1.30 to 2.11 s by the forced aligner: the sound that decides lies there
    row = contrast.word_rows()[0]
    assert 1.1 < row.salient_begin < row.salient_end < 2.3


@pytest.mark.long
def test_the_sound_does_not_tell_homophones_apart(bundled_model, librivox):
    """Hiding a word's own sound takes the evidence against other words, of which there is none against a homophone."""
    path = next(librivox.glob("*0870.wav"))
    utterance, tokens = prepare(bundled_model, path, path.with_suffix(".txt").read_text().strip(), context="full")
    words = TextWords(bundled_model.token_texts(tokens.target))
    times = token_times(bundled_model, utterance, tokens)

    def evidence(word, foil):
        """By how much the sound of the word raises its log-odds against the foil."""
        start, stop = words.find(word)[1]
        hidden = utterance.spectrogram.clone()
        hidden[:, round(100 * times[start][0]) - 5 : round(100 * times[stop - 1][1]) + 5] = bundled_model.baseline(
            utterance
        )
        previous = torch.cat((tokens.prompt, tokens.target[:start]))
        odds = []
        for spectrogram in (utterance.spectrogram, hidden):
            with torch.no_grad():
                encoded = bundled_model.encode(spectrogram, utterance)
                own, other = (
                    word_log_prob(bundled_model, encoded, previous, bundled_model.tokens(text, utterance).target)
                    for text in (word, foil)
                )
            odds.append(own - other)
        return odds[0] - odds[1]

    for word, homophone, other in (("there", "their", "they"), ("do", "due", "go"), ("for", "four", "from")):
        assert evidence(word, homophone) < 0.6 * evidence(word, other), word
