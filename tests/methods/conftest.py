"""What the tests of methods share."""

import warnings

import pytest
import torch
from toys import IDS, TEXT

from captum_spes import grid_feature_mask


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the maps are noisy")
        yield


@pytest.fixture
def parts(tiny_model, audio):
    """An utterance, its tokens, the encoder's states, the original prediction, and a mask of large patches."""
    utterance = tiny_model.utterance(audio)
    tokens = tiny_model.tokens(IDS, utterance)
    with torch.no_grad():
        encoded = tiny_model.encode(utterance.spectrogram, utterance)
        reference = tiny_model.logits(encoded, tokens)
    return utterance, tokens, encoded, reference, grid_feature_mask(utterance.spectrogram, (15, 8))


@pytest.fixture
def sentence(tiny_model, audio):
    return tiny_model.utterance(audio), tiny_model.tokens(TEXT, tiny_model.utterance(audio))
