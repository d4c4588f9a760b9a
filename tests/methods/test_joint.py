"""Joint perturbation of spectrogram and previous tokens, and of single values of embeddings."""

import numpy as np
import pytest
import torch
from toys import GRID, Toy, pooled, spectrogram, wrapped

from captum_spes import SPES, KLDivergence, TokenLogit


def test_jointly_it_is_spes_on_both(tiny_model, parts):
    utterance, tokens, _, reference, mask = parts
    explanation = wrapped(SPES, tiny_model).attribute(
        utterance, tokens, feature_mask=mask, n_samples=60, joint=True, seed=2, token_perturbation_prob=0.3
    )
    score = KLDivergence(lambda x, gate: tiny_model.logits(tiny_model.encode(x, utterance), tokens, gate), reference)
    (attr, token_attr), (reliability, _) = SPES(score).attribute(
        (utterance.spectrogram, torch.ones(1, 4)),
        (tiny_model.baseline(utterance), 0),
        feature_mask=(mask, torch.tensor([[100, 101, 102, 103]])),
        n_samples=60,
        perturbation_prob=(0.5, 0.3),
        centered=False,
        seed=2,
        return_reliability=True,
    )
    torch.testing.assert_close(explanation.spectrogram_attr, attr, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(explanation.reliability, reliability.float(), atol=1e-4, rtol=1e-3)
    token_attr = torch.where(explanation.is_previous, token_attr, 0)
    torch.testing.assert_close(explanation.token_attr, token_attr, atol=1e-5, rtol=1e-3)
    metadata = explanation.metadata
    assert metadata["joint"] and metadata["passes"] == {"both": {"forward": 61, "backward": 0}}
    assert metadata["done"] == {"both": 60} and metadata["token_arguments"] == {"perturbation_prob": 0.3}
    separate = wrapped(SPES, tiny_model).attribute(utterance, tokens, feature_mask=mask, n_samples=60, seed=2)
    assert not separate.metadata["joint"]
    assert not torch.allclose(separate.spectrogram_attr, explanation.spectrogram_attr, rtol=1e-2)


def test_jointly_the_few_previous_tokens_blur_the_spectrogram():
    """Appendix A.2.2, Table 4: at the same number of samples, what is left of the known answer."""
    toy = Toy()
    toy.gate_weights = 4 * Toy.gate_weights
    expected = toy.patch_scores(spectrogram())
    correlation, reliability = {}, {}
    for joint in (False, True):
        runs = [
            wrapped(SPES, toy, TokenLogit).attribute(
                spectrogram(), feature_mask=GRID, n_samples=150, seed=seed, joint=joint, perturbations_per_eval=150
            )
            for seed in range(6)
        ]
        maps = torch.stack([pooled(run.spectrogram_attr) for run in runs])
        pairs = [np.corrcoef(m[row], expected[row])[0, 1] for m in maps for row in range(3)]
        correlation[joint] = np.mean(pairs)
        reliability[joint] = float(torch.stack([run.reliability for run in runs]).mean())
    assert correlation[False] > 0.9 > correlation[True] + 0.1
    assert reliability[False] > reliability[True] + 0.2
    # as few passes as the spectrogram alone, in which the previous tokens are hidden as often as a patch
    assert runs[0].metadata["passes"] == {"both": {"forward": 151, "backward": 0}}
    assert [run.token_attr.argmax(1).tolist()[1] for run in runs] == [Toy.looks_at[1]] * 6


@pytest.mark.parametrize("joint", [False, True])
def test_values_of_embeddings_are_a_gate_of_values(tiny_model, parts, joint):
    utterance, tokens, encoded, reference, mask = parts
    explanation = wrapped(SPES, tiny_model).attribute(
        *(utterance, tokens), feature_mask=mask, n_samples=50, n_token_samples=40, token_perturbation_prob=0.1,
        token_values=True, joint=joint, seed=4,
    )  # fmt: skip
    gate = torch.ones(1, 4, 16)
    if joint:
        score = KLDivergence(lambda x, g: tiny_model.logits(tiny_model.encode(x, utterance), tokens, g), reference)
        _, expected = SPES(score).attribute(
            (utterance.spectrogram, gate),
            (tiny_model.baseline(utterance), 0),
            feature_mask=(mask, 1000 + torch.arange(64).view(1, 4, 16)),
            n_samples=50,
            perturbation_prob=(0.5, 0.1),
            centered=False,
            seed=4,
        )
    else:
        score = KLDivergence(lambda gate: tiny_model.logits(encoded, tokens, gate), reference)
        expected = SPES(score).attribute(gate, centered=False, n_samples=40, perturbation_prob=0.1, seed=4)
    expected = torch.where(explanation.is_previous, expected.mean(2), 0)
    assert expected.shape == (3, 4) and explanation.metadata["token_values"]
    torch.testing.assert_close(explanation.token_attr, expected, atol=1e-5, rtol=1e-3)
