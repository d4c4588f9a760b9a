"""Models that write all tokens at once."""

import contextlib
import functools
import itertools
import sys

import pytest
import soundfile
import torch
from captum.attr import FeatureAblation, IntegratedGradients, Saliency
from family_cases import LENGTHS, parakeet

from captum_spes import (
    SPES,
    Contrast,
    CTCLogLikelihood,
    GradientSPES,
    SpeechToTextAttribution,
    SpeechToTextExplanation,
    grid_feature_mask,
)
from captum_spes.__main__ import main
from captum_spes.confidence import token_confidence
from captum_spes.evaluation import Evaluation
from captum_spes.evaluation.corpus import load_corpus
from captum_spes.metrics import deletion, infidelity, sensitivity_max, size
from captum_spes.metrics._restore import restore
from captum_spes.models import load_model
from captum_spes.models.ctc import best_path, collapse
from captum_spes.speech_to_text.catalogue import METHODS
from captum_spes.speech_to_text.hearing import unheard_probabilities


@pytest.mark.parametrize("n_samples", LENGTHS)
def test_frames_are_those_of_the_plain_forward(ctc_case, audio, n_samples):
    """The generated text is the best path."""
    model, inputs = ctc_case.adapter, ctc_case.inputs(audio[:n_samples])
    utterance = model.utterance(audio[:n_samples])
    with torch.no_grad():
        ours = model.encode(utterance.spectrogram, utterance)
        plain = ctc_case.plain(**inputs).logits[:, : ours.shape[1]]
    n_valid = (
        ctc_case.plain._get_output_attention_mask(inputs.attention_mask).sum()
        if ctc_case.family.make is parakeet
        else inputs.attention_mask.sum()
    )
    assert ours.shape[1] == n_valid
    torch.testing.assert_close(ours.log_softmax(-1), plain.log_softmax(-1), atol=1e-5, rtol=0)
    tokens = model.generate(utterance)
    expected = [token for token, _ in itertools.groupby(plain[0].argmax(-1).tolist()) if token != model.blank]
    assert tokens.generated and tokens.target.tolist() == expected and not len(tokens.previous)
    log_probs = ours[0].log_softmax(-1)
    assert torch.equal(tokens.path, best_path(log_probs, tokens.target, model.blank))
    assert model.logits(ours, tokens).shape == (1, int((tokens.path >= 0).sum()), ours.shape[2])


def test_best_path_is_the_best_of_all():
    """Among all paths of five frames that collapse to two tokens, equal or not."""
    torch.manual_seed(0)
    for ids in ([1, 2], [1, 1], [2]):
        log_probs = torch.randn(5, 3).log_softmax(-1)
        paths = [p for p in itertools.product(range(3), repeat=5) if collapse(torch.tensor(p), 0)[0].tolist() == ids]
        best = max(paths, key=lambda path: sum(log_probs[frame, token] for frame, token in enumerate(path)))
        found = best_path(log_probs, torch.tensor(ids), 0)
        assert torch.equal(found, collapse(torch.tensor(best), 0)[1])
        likelihood = CTCLogLikelihood(lambda frames: frames, torch.tensor(ids), 0)(log_probs[None])
        each = torch.stack([log_probs[torch.arange(5), torch.tensor(path)].sum() for path in paths])
        torch.testing.assert_close(likelihood, each.logsumexp(0)[None])
    with pytest.raises(ValueError, match="3 tokens, too many for 4 frames"):
        best_path(torch.randn(4, 3).log_softmax(-1), torch.tensor([1, 1, 1]), 0)


def test_a_text_that_does_not_fit_into_the_frames_is_refused():
    """Equal neighbours need a blank between them: three frames hold [1, 1], and two do not."""
    score = CTCLogLikelihood(lambda frames: frames, torch.tensor([1, 1]), 0)
    assert score(torch.zeros(1, 3, 4)).isfinite().all()
    with pytest.raises(ValueError, match="the text needs 3 frames, and the model has 2"):
        score(torch.zeros(1, 2, 4))


@pytest.mark.parametrize(("ids", "blank"), [([4], 0), ([-1], 0), ([0], 0), ([1], 4), ([1], -1)])
def test_ids_outside_the_vocabulary_and_blanks_in_the_text_are_refused(ids, blank):
    with pytest.raises(ValueError, match="do not fit a vocabulary of 4: expected ids below it"):
        CTCLogLikelihood(lambda frames: frames, torch.tensor(ids), blank)(torch.zeros(1, 5, 4))


def explain_ctc(case, audio, score=None, **arguments):
    mask = functools.partial(grid_feature_mask, patch_size=(20, 40))
    return SpeechToTextAttribution(SPES(case.adapter), score=score).attribute(
        audio, sampling_rate=16000, n_samples=8, feature_mask=mask, **arguments
    )


@pytest.mark.filterwarnings("ignore:the maps of Feature Ablation are the same everywhere")
def test_a_token_is_the_mean_of_its_frames(ctc_case, audio):
    """One patch hidden: the impact on a token is the mean divergence over the frames of the best path."""
    model = ctc_case.adapter
    utterance, tokens = model.utterance(audio), model.tokens("so", model.utterance(audio))
    explanation = SpeechToTextAttribution(FeatureAblation(model)).attribute(
        utterance, tokens, feature_mask=torch.zeros(1, *utterance.spectrogram.shape[1:]).long()
    )
    with torch.no_grad():
        heard, hidden = (
            model.encode(s, utterance)[0].log_softmax(-1)
            for s in (utterance.spectrogram, torch.zeros_like(utterance.spectrogram))
        )
    divergence = (heard.exp() * (heard - hidden)).sum(-1)
    assert len(explanation.tokens) == len(tokens.target)
    for token, found in enumerate(explanation.spectrogram_attr):
        torch.testing.assert_close(found[0, 0], divergence[tokens.path == token].mean(), atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:the maps are noisy")
def test_there_are_no_previous_tokens(ctc_case, audio, tmp_path):
    explanation = explain_ctc(ctc_case, audio[:9500], target="so what")
    n_tokens = len(explanation.tokens)
    assert explanation.previous_tokens == [] and explanation.token_attr.shape == (n_tokens, 0)
    assert "no previous tokens" in repr(explanation) and "previous tokens" not in explanation.metadata["done"]
    assert explanation.metadata["token_arguments"] == {}
    explanation.save(tmp_path / "e.safetensors")
    loaded = SpeechToTextExplanation.load(tmp_path / "e.safetensors")
    assert loaded.token_attr.shape == (n_tokens, 0) and torch.equal(
        loaded.spectrogram_attr, explanation.spectrogram_attr
    )
    maps = explanation.normalize().spectrogram_attr
    assert (maps.amin((1, 2)) == 0).all() and torch.allclose(maps.amax((1, 2)), torch.ones(n_tokens))
    for words in (explanation.words(), explanation.words(group_previous=True)):
        assert words.tokens == ["so", "what"] and words.token_attr.shape == (2, 0)
    assert explanation.sentence().token_attr.shape == (1, 0)
    explanation.plot_tokens()
    for refused in (explanation.top_previous_tokens, explanation.plot_previous_tokens):
        with pytest.raises(ValueError, match="there are no previous tokens: the model writes all tokens at once"):
            refused()
    with pytest.raises(ValueError, match="no previous tokens to measure"):
        size(explanation, inputs="tokens")
    utterance, tokens = restore(ctc_case.adapter, explanation)
    assert torch.equal(tokens.path, ctc_case.adapter.tokens("so what", utterance).path)
    curve = deletion(ctc_case.adapter, explanation, percentages=(0, 100))
    assert len(curve.texts[0]) == 2 and infidelity(ctc_case.adapter, explanation, n_perturb_samples=4).shape == (
        n_tokens,
    )


def test_sensitivity_of_the_whole_text(ctc_case, audio):
    attribution = SpeechToTextAttribution(Saliency(ctc_case.adapter), CTCLogLikelihood)
    prepared = attribution.prepare(audio, "so what", sampling_rate=16000)
    assert sensitivity_max(attribution, *prepared, n_perturb_samples=2).shape == (1,)


@pytest.mark.filterwarnings("ignore:the maps are noisy")
def test_the_command_line_says_that_there_are_none(ctc_case, audio, tmp_path, monkeypatch, capsys):
    soundfile.write(tmp_path / "speech.wav", audio, 16000)
    arguments = [
        "explain",
        tmp_path / "speech.wav",
        "--model",
        ctc_case.adapter.name,
        "--target",
        "so",
        "-o",
        tmp_path / "out",
    ]
    monkeypatch.setattr(sys, "argv", ["captum-spes", *map(str, arguments), "--n-samples", "6"])
    with contextlib.suppress(SystemExit):
        main()
    assert "there are no attributions of previous tokens" in capsys.readouterr().out
    written = {path.stem for path in (tmp_path / "out").iterdir()}
    assert {"tokens", "words", "sentence", "explanation"} < written and "previous_tokens" not in written


@pytest.mark.filterwarnings("ignore:the maps are noisy")
def test_sizes_of_ctc_are_of_the_spectrogram_alone(ctc_case, audio, tmp_path):
    (tmp_path / "speech").mkdir()
    soundfile.write(tmp_path / "speech" / "one.wav", audio, 16000)
    (tmp_path / "speech" / "one.txt").write_text("so what")
    methods = {name: METHODS[name] for name in ("random", "energy")}
    evaluation = Evaluation(
        ctc_case.adapter, load_corpus(tmp_path / "speech"), methods, tmp_path / "out", metrics=("size",)
    )
    evaluation.run()
    assert evaluation.results().metrics == ["size"]


@pytest.mark.filterwarnings("ignore:the maps are noisy")
def test_other_methods_and_scores_of_ctc(ctc_case, audio):
    gradients = SpeechToTextAttribution(IntegratedGradients(ctc_case.adapter)).attribute(
        audio, "so", sampling_rate=16000, n_steps=2
    )
    assert gradients.spectrogram_attr.abs().sum() > 0
    text = explain_ctc(ctc_case, audio, CTCLogLikelihood, target="so what")
    assert text.tokens == ["so what"] and text.grouped and text.spectrogram_attr.abs().max() > 0
    assert text.metadata["score"] == "CTCLogLikelihood" and text.token_attr.shape == (1, 0)
    values = explain_ctc(ctc_case, audio, target="so", token_values=True)
    assert values.token_attr.shape[1] == 0


def test_what_ctc_refuses(ctc_case, cases, audio):
    utterance = ctc_case.adapter.utterance(audio)
    with pytest.raises(ValueError, match="no previous tokens to perturb"):
        explain_ctc(ctc_case, audio, target="so", joint=True)
    with pytest.raises(ValueError, match="writes all words at once"):
        explain_ctc(ctc_case, audio, target="so", contrast=Contrast("so", "to"))
    with pytest.raises(ValueError, match="only transcribe its own language"):
        load_model(ctc_case.plain, ctc_case.processor, language="de")
    with pytest.raises(ValueError, match="holds the blank"):
        ctc_case.adapter.tokens([10, ctc_case.adapter.blank], utterance)
    with pytest.raises(ValueError, match="gen_args cannot hold num_beams"):
        ctc_case.adapter.generate(utterance, num_beams=5)
    with pytest.raises(ValueError, match="too many for .* frames"):
        ctc_case.adapter.tokens([10] * 40, utterance)
    with pytest.raises(ValueError, match="is not a CTC model, for which CTCLogLikelihood is"):
        explain_ctc(cases("speech2text"), audio, CTCLogLikelihood, target="so")


@pytest.mark.filterwarnings("ignore:the maps are noisy")
def test_a_text_of_ctc_as_a_whole(ctc_case, audio, tmp_path):
    """Its score is the sum of the tokens', so that its map is the sum of theirs; and gradients need one backward."""
    tokens, text = (explain_ctc(ctc_case, audio, target="so what", sentence=flag) for flag in (False, True))
    assert text.tokens == ["so what"] and text.grouped and text.token_attr.shape == (1, 0)
    torch.testing.assert_close(text.spectrogram_attr[0], tokens.spectrogram_attr.sum(0), rtol=1e-4, atol=1e-6)
    text.save(tmp_path / "text.safetensors")
    loaded = SpeechToTextExplanation.load(tmp_path / "text.safetensors")
    assert torch.equal(loaded.spectrogram_attr, text.spectrogram_attr)
    assert len(deletion(ctc_case.adapter, text, percentages=(0, 100)).texts[0]) == 2
    drawn = SpeechToTextAttribution(GradientSPES(ctc_case.adapter)).attribute(
        audio, "so what", sampling_rate=16000, n_samples=4, sentence=True
    )
    assert drawn.metadata["passes"]["spectrogram"]["backward"] == 4 and drawn.spectrogram_attr.abs().max() > 0


def test_words_are_heard_by_the_frames_of_their_tokens(ctc_case, audio):
    """Beyond the audio nothing is hidden, so that every probability stays."""
    model = ctc_case.adapter
    utterance = model.utterance(audio)
    tokens = model.generate(utterance)
    texts = model.token_texts(tokens.target)
    times = [[9.0, 9.1]] * len(texts)
    with torch.no_grad():
        original = model.logits(model.encode(utterance.spectrogram, utterance), tokens)[0]
    frames = tokens.path[tokens.path >= 0]
    expected = token_confidence(original, tokens.target, model.token_texts, frames).probabilities
    found = unheard_probabilities(model, utterance, tokens, times, 0.0)
    assert found == pytest.approx(expected, abs=1e-5)
    hidden = unheard_probabilities(model, utterance, tokens, [[0.0, 9.0]] * len(texts), 0.0)
    assert hidden != pytest.approx(expected, abs=1e-4)
