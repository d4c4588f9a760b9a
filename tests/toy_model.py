"""The parts of the protocol that the toy models share."""

import numpy as np
import torch

from captum_spes.models import Tokens, Utterance


class ToyModel:
    """A model that always writes " a b c"; subclasses say how it scores the tokens, or what else it writes."""

    name, sample_rate, frames_per_second, embedding_dim = "toy", 16000, 100.0, 4
    n_channels, n_padding, silence = 8, 0, 0.0
    vocabulary, n_special = ("<s>", " a", " b", " c"), 1  # the first tokens are special

    @property
    def mel_frequencies(self):
        return np.linspace(100, 7000, self.n_channels)

    @property
    def baseline_name(self):
        return f"{self.silence:g}"

    def utterance(self, audio):
        return self.from_features(torch.ones(1, 40, self.n_channels))

    def from_features(self, features):
        return Utterance(features, torch.zeros(1, self.n_padding, self.n_channels))

    def baseline(self, utterance):
        return torch.full((1, 1, self.n_channels), self.silence)

    def generate(self, utterance, **gen_args):
        return Tokens(torch.tensor([0]), torch.tensor([1, 2, 3]), generated=True)

    def generate_batch(self, spectrograms, utterance, prompt, **gen_args):
        return [torch.tensor([1, 2, 3]) for _ in spectrograms]

    def tokens(self, target, utterance):
        return Tokens(torch.tensor([0]), torch.as_tensor(target))

    def token_texts(self, ids):
        return [self.vocabulary[i] for i in ids.tolist()]

    def is_special(self, ids):
        return [i < self.n_special for i in ids.tolist()]

    def encode(self, spectrogram, utterance):
        return spectrogram
