"""Relevance propagation and attention in all families."""

import pytest
import torch
from family_cases import AUDIO_LANGUAGE, CTC, FAMILIES

from captum_spes import SpeechToTextAttribution
from captum_spes.attr import AttnLRP, CrossAttention
from captum_spes.attr.attn_lrp import RelevanceRules


def addends(model, handles):
    """Leaf tensors for embeddings and Canary's table of positions, which are added to the signal like biases."""
    leaves = []

    def replace_output(module, args, output):
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Embedding) or name.endswith(("embed_positions", "pos_emb")):
            handles.append(module.register_forward_hook(replace_output))
    return leaves


@pytest.mark.parametrize("name", [*FAMILIES, *CTC])
def test_relevance_is_conserved(cases, audio, name):
    """A logit is the relevance of the spectrogram, the embeddings and the biases: every layer has its rule."""
    adapter = cases(name).adapter
    utterance = adapter.utterance(audio)
    tokens = adapter.tokens([5, 6, 7], utterance) if name in FAMILIES else adapter.generate(utterance)
    spectrogram = utterance.spectrogram.clone().requires_grad_()
    handles = []
    leaves = addends(adapter.model, handles)
    with RelevanceRules():
        chosen = adapter.logits(adapter.encode(spectrogram, utterance), tokens)[0, -1, 7]
    for handle in handles:
        handle.remove()
    biases = [parameter for key, parameter in adapter.model.named_parameters() if key.endswith("bias")]
    inputs = [spectrogram, *leaves, *biases]
    gradients = torch.autograd.grad(chosen, inputs, allow_unused=True)
    shares = [(x * g).sum() for x, g in zip(inputs, gradients) if g is not None]
    assert shares[0] != 0
    assert sum(shares).item() == pytest.approx(chosen.item(), abs=1e-4 * max(1, abs(chosen.item())))


def test_gated_products_have_no_rule(language_case):
    with pytest.raises(TypeError, match="AttnLRP has no rule for the gated layers"):
        SpeechToTextAttribution(AttnLRP(language_case.adapter))


@pytest.mark.parametrize("name", [*FAMILIES, *CTC, *AUDIO_LANGUAGE])
def test_attention_is_read_of_whisper_alone(cases, name):
    with pytest.raises(TypeError, match="CrossAttention reads the attention weights of Whisper models"):
        SpeechToTextAttribution(CrossAttention(cases(name).adapter))
