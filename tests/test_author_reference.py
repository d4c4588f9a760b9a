"""Comparison with numbers of the authors' implementation, and with the formulas computed by hand."""

import numpy as np
import pytest
import torch

from captum_spes import SPES, KLDivergence, SpeechToTextExplanation, TokenProbability
from captum_spes.attr import features
from captum_spes.maps import z_scores

ATOL = 1e-4


@pytest.fixture(params=["a", "b"])
def reference(request, author_reference):
    with np.load(author_reference / f"author_implementation_{request.param}.npz") as arrays:
        return {name: arrays[name] for name in arrays}


def tensor(array):
    return torch.from_numpy(array)


def attribute(reference, score, keep_masks, monkeypatch):
    """Runs SPES on the authors' masks and predictions: the sampler and the model are replaced, all else is ours."""
    hidden = tensor(1 - keep_masks).bool().flatten(1)

    def draw(self, granularity, first, last):
        return hidden[first:last, None]

    monkeypatch.setattr(features.MaskSampler, "draw", draw)
    inputs = torch.ones(1, *keep_masks.shape[1:])
    probs = torch.cat((tensor(reference["orig_probs"])[None], tensor(reference["perturbed_probs"]))).log()
    patterns = torch.cat((inputs.flatten(1), 1 - hidden.float()))

    def log_probs(x):
        # which perturbation it is, by its pattern
        return probs[torch.stack([(patterns == row).all(1).nonzero()[0, 0] for row in x.flatten(1)])]

    forward = score.from_prediction(log_probs, probs[:1], tensor(reference["target"]))
    return SPES(forward).attribute(inputs, n_samples=len(hidden), perturbations_per_eval=16, centered=False)


@pytest.mark.parametrize(
    ("score", "name"), [(KLDivergence, "kl"), (TokenProbability, "probability_difference")], ids=["kl", "difference"]
)
def test_equation_3(reference, score, name, monkeypatch):
    spectrogram_attr = attribute(reference, score, reference["spectrogram_keep_mask"], monkeypatch)
    torch.testing.assert_close(spectrogram_attr, tensor(reference[f"{name}_spectrogram"]), atol=ATOL, rtol=0)
    token_keep = reference["token_keep_mask"]
    if len(np.unique(token_keep, axis=0)) == len(token_keep):  # else a pattern does not tell its perturbation
        token_attr = attribute(reference, score, token_keep, monkeypatch)
        torch.testing.assert_close(token_attr.tril(), tensor(reference[f"{name}_tokens"]), atol=ATOL, rtol=0)


@pytest.mark.parametrize(
    ("score", "name"), [(KLDivergence, "kl"), (TokenProbability, "probability_difference")], ids=["kl", "difference"]
)
def test_equation_3_of_tokens(reference, score, name, monkeypatch):
    """The perturbations one by one, so that equal patterns keep their own predictions."""
    hidden = tensor(1 - reference["token_keep_mask"]).bool()
    probs = torch.cat((tensor(reference["orig_probs"])[None], tensor(reference["perturbed_probs"]))).log()
    monkeypatch.setattr(features.MaskSampler, "draw", lambda self, granularity, first, last: hidden[first:last, None])
    predictions = iter(probs[:, None])
    forward = score.from_prediction(lambda x: next(predictions), probs[:1], tensor(reference["target"]))
    # two equal granularities: a single one of so few features would be enumerated
    mask = torch.arange(hidden.shape[1]).expand(2, 1, -1)
    monkeypatch.setattr(
        "captum_spes.attr._perturbations.sample_groups", lambda start, stop, n_granularities: [(0, start, stop)]
    )
    inputs = torch.ones(1, hidden.shape[1])
    token_attr = SPES(forward).attribute(inputs, feature_mask=mask, n_samples=len(hidden), centered=False)
    torch.testing.assert_close(token_attr.tril(), tensor(reference[f"{name}_tokens"]), atol=ATOL, rtol=0)


def explanation_of(reference):
    tokens = [*(token.replace("▁", " ") for token in reference["decoder_input_tokens"][1:]), "</s>"]
    kl = tensor(reference["kl_spectrogram"])
    return SpeechToTextExplanation(
        text="So what was the next step?",
        tokens=tokens,
        previous_tokens=["</s>", *tokens[:-1]],
        spectrogram=torch.zeros(kl.shape[1:]),
        spectrogram_attr=kl,
        token_attr=tensor(reference["kl_tokens"]),
        n_previous=torch.arange(len(tokens)) + 1,
        frames_per_second=100,
        mel_frequencies=torch.arange(kl.shape[2]).float(),
    )


def test_normalisation(reference):
    explanation = explanation_of(reference)
    normalized = explanation.normalize()
    for ours, name in ((normalized.spectrogram_attr, "spectrogram"), (normalized.token_attr, "tokens")):
        torch.testing.assert_close(ours, tensor(reference[f"normalized_{name}"]), atol=ATOL, rtol=0)
    spectrogram, tokens = z_scores(explanation.spectrogram_attr, explanation.token_attr, explanation.is_previous)
    # The authors' deviations lose digits in float32 (Σx² - (Σx)²/n): up to 4e-4 of the scale of a row, which the
    # min-max that follows takes away.
    for ours, name in ((spectrogram, "spectrogram"), (tokens, "tokens")):
        theirs = tensor(reference[f"zscore_{name}"])
        torch.testing.assert_close(ours, theirs, atol=ATOL, rtol=6e-4)


def test_sentence(reference):
    sentence = explanation_of(reference).sentence()
    assert sentence.tokens == ["So what was the next step?"]
    for ours, name in ((sentence.spectrogram_attr, "spectrogram"), (sentence.token_attr, "tokens")):
        torch.testing.assert_close(ours[0], tensor(reference[f"sentence_{name}"]), atol=ATOL, rtol=0)


def test_words(reference):
    words = explanation_of(reference).words()
    assert words.tokens == [*reference["words"], "</s>"]
    for ours, name in ((words.spectrogram_attr, "spectrogram"), (words.token_attr, "tokens")):
        torch.testing.assert_close(ours[:-1], tensor(reference[f"word_{name}"]), atol=ATOL, rtol=0)


def test_equation_3_by_hand(monkeypatch):
    """Three perturbations of two features: hidden are {0}, {0, 1} and {}, with impacts 1, 4 and 2."""
    hidden = torch.tensor([[1, 0], [1, 1], [0, 0]]).bool()
    monkeypatch.setattr(features.MaskSampler, "draw", lambda self, granularity, first, last: hidden[first:last, None])
    impacts = iter(torch.tensor([[0.0], [-1.0], [-4.0], [-2.0]]))
    attribution = SPES(lambda x: next(impacts)).attribute(torch.ones(1, 2), n_samples=3, centered=False)
    torch.testing.assert_close(attribution, torch.tensor([[2.5, 4.0]]))


def test_normalisation_by_hand():
    explanation = SpeechToTextExplanation(
        text="a b",
        tokens=[" a", " b"],
        previous_tokens=["<s>", " a"],
        spectrogram=torch.zeros(1, 3),
        spectrogram_attr=torch.tensor([[[1.0, 2.0, 3.0]], [[5.0, 5.0, 5.0]]]),
        token_attr=torch.tensor([[7.0, 0.0], [1.0, 3.0]]),
        n_previous=torch.tensor([1, 2]),
        frames_per_second=100,
        mel_frequencies=torch.arange(3.0),
    )
    normalized = explanation.normalize()
    # first row: z = -1, 0, 1 and a single token, 0; second: a map without deviation, 0, and z = -1/√2, 1/√2
    torch.testing.assert_close(normalized.spectrogram_attr[:, 0], torch.tensor([[0.0, 0.5, 1.0], [0.5, 0.5, 0.5]]))
    torch.testing.assert_close(normalized.token_attr, torch.tensor([[0.5, 0.0], [0.0, 1.0]]))
    torch.testing.assert_close(normalized.sentence().token_attr, torch.tensor([[0.25, 0.5]]))
