"""Verdicts on words that were heard or guessed, with known truth, and on speech."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from captum_spes import SPES, SpeechToTextAttribution
from captum_spes.confidence import Confidence, token_confidence
from captum_spes.models.protocol import Tokens, Utterance
from captum_spes.speech_to_text.hearing import token_times, unheard_probabilities
from captum_spes.words import word_spans

TEXTS = ["", " so", " to", " day", "."]


class Planted:
    """Writes "so today." *so* is written where frames 0 to 9 sound, *today* whatever sounds."""

    name, frames_per_second = "planted", 10.0

    def token_texts(self, ids):
        return [TEXTS[token] for token in ids.tolist()]

    def encode(self, spectrogram, utterance):
        return spectrogram

    def logits(self, encoded, tokens):
        likely = torch.tensor([0.9, 0.9, 0.9, 0.9]).expand(len(encoded), -1).clone()
        likely[:, 0] = torch.where(encoded[:, 2:8].mean((1, 2)) > 0.5, 0.9, 0.1)
        rest = ((1 - likely) / 4)[..., None].expand(-1, -1, 5)
        return rest.scatter(2, tokens.target.expand(len(encoded), -1)[..., None], likely[..., None]).log()


def test_planted_words():
    model = Planted()
    utterance = Utterance(torch.ones(1, 20, 3), torch.zeros(1, 0, 3))
    tokens = Tokens(torch.tensor([0]), torch.tensor([1, 2, 3, 4]))
    times = [[0.0, 0.9], [0.9, 1.2], [1.2, 1.5], [1.5, 1.5]]
    left = unheard_probabilities(model, utterance, tokens, times, torch.zeros(1, 1, 3))
    assert left == pytest.approx([0.1, 0.9, 0.9, 0.9], abs=1e-6)
    found = token_confidence(model.logits(utterance.spectrogram, tokens)[0], tokens.target, model.token_texts)
    words = Confidence(found.probabilities, found.least, found.entropy, found.alternatives, left)
    assert words.heard == pytest.approx([1 - 0.1 / 0.9, 0, 0, 0], abs=1e-6)
    assert words.verdicts == ["heard", "guessed", "guessed", "guessed"]
    # without a baseline of its own the sound is still there
    assert unheard_probabilities(model, utterance, tokens, times, 1.0) == pytest.approx([0.9] * 4, abs=1e-6)


@pytest.mark.parametrize(
    "left, heard, verdict",
    [(0.1, 0.8, "heard"), (0.15, 0.7, "unsure"), (0.25, 0.5, "unsure"), (0.3, 0.4, "guessed"), (0.9, 0, "guessed")],
)
def test_the_rule(left, heard, verdict):
    confidence = Confidence([0.5], [0.5], [1.0], [[]], [left])
    assert confidence.heard == pytest.approx([heard]) and confidence.verdicts == [verdict]


def test_what_overflows_is_not_known():
    model = Planted()
    model.logits = lambda encoded, tokens: torch.full((len(encoded), 4, 5), torch.nan)
    utterance = Utterance(torch.ones(1, 20, 3), torch.zeros(1, 0, 3))
    tokens = Tokens(torch.tensor([0]), torch.tensor([1, 2, 3, 4]))
    assert unheard_probabilities(model, utterance, tokens, [[0.0, 1.0]] * 4, 0.0) is None


def test_models_that_do_not_tell_times(tiny_model):
    assert token_times(SimpleNamespace(), None, None) is None
    assert token_times(tiny_model, None, None) is None  # its config names no alignment heads


@pytest.mark.filterwarnings("ignore:the maps are noisy")
def test_explanations_tell_it(tiny_model, audio):
    tiny_model.model.generation_config.alignment_heads = [[0, 0], [1, 1]]
    explanation = SpeechToTextAttribution(SPES(tiny_model)).attribute(
        audio, "so what", sampling_rate=16000, n_samples=90
    )
    times = explanation.metadata["token_times"]
    assert len(times) == len(explanation.tokens) and times[-1][1] <= explanation.duration + 0.01
    assert all(0 <= share <= 1 for share in explanation.confidence.heard)
    assert explanation.word_rows()[0].verdict in ("heard", "guessed", "unsure")


@pytest.mark.long
def test_a_word_cut_out_of_real_speech(bundled_model, sample):
    from captum_spes.audio import load_audio

    samples = load_audio(sample, bundled_model.sample_rate)
    silent = samples.copy()
    start, stop = 12640, 14400  # "the", 0.79 to 0.90 s by the forced aligner
    silent[start:stop] = np.random.default_rng(0).normal(0, 1e-3, stop - start)

    def heard(recording, text="So what was the next step?"):
        utterance = bundled_model.utterance(recording)
        tokens = bundled_model.tokens(text, utterance)
        with torch.no_grad():
            logits = bundled_model.logits(bundled_model.encode(utterance.spectrogram, utterance), tokens)[0]
        times = token_times(bundled_model, utterance, tokens)
        left = unheard_probabilities(bundled_model, utterance, tokens, times, bundled_model.baseline(utterance))
        found = token_confidence(logits, tokens.target, bundled_model.token_texts)
        texts = bundled_model.token_texts(tokens.target)
        words = Confidence(found.probabilities, found.least, found.entropy, found.alternatives, left)
        return words.grouped(word_spans(texts), texts).verdicts

    noise = np.random.default_rng(0).normal(0, 1e-3, 32000).astype(np.float32)
    assert set(heard(noise, "Thank you.")[:2]) == {"guessed"}  # it is written of any noise, whatever is hidden
    spoken, cut = heard(samples), heard(silent)
    # So what was the next step: "the … step" is enough for half of "next"
    assert spoken[:3] + spoken[5:6] == ["heard"] * 4 and spoken[4] != "heard"
    assert cut[:3] == ["heard"] * 3 and cut[3] != "heard" and cut[5] == "heard"


@pytest.mark.filterwarnings("ignore:the maps are noisy")
@pytest.mark.parametrize("heads", [[[7, 0]], [[0, 9]], [[1, 0], [-1, 0]]])
def test_heads_of_another_model_give_no_times(tiny_model, audio, heads):
    """A distilled model may name the heads of its teacher."""
    tiny_model.model.generation_config.alignment_heads = heads
    explanation = SpeechToTextAttribution(SPES(tiny_model)).attribute(
        audio, "so what", sampling_rate=16000, n_samples=6, n_token_samples=4
    )
    assert tiny_model.alignment_heads is None and explanation.confidence.unheard is None


def test_several_end_tokens(tiny_model, audio):
    utterance = tiny_model.utterance(audio)
    tokens = tiny_model.tokens("so what", utterance)
    tiny_model.model.generation_config.alignment_heads = [[1, 0]]
    one = token_times(tiny_model, utterance, tokens)
    tiny_model.model.generation_config.eos_token_id = [0, 2]
    assert one is not None and token_times(tiny_model, utterance, tokens) == one
