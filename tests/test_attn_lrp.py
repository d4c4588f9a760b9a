"""Relevance propagation: each rule, conservation in each layer, and that models are not changed."""

from dataclasses import replace

import pytest
import torch
from captum.attr import InputXGradient, NoiseTunnel
from torch import nn
from torch.nn import functional as F

from captum_spes import (
    ContrastiveProbability,
    KLDivergence,
    SpeechToTextAttribution,
    TokenLogit,
    TokenLogProbability,
    TokenProbability,
)
from captum_spes.attr import AttnLRP
from captum_spes.attr.attn_lrp import RelevanceRules
from captum_spes.audio import load_audio
from captum_spes.models.context import describe_context, fit_utterance

IDS = [60, 61, 62]


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def share(outputs, inputs):
    """The relevance of the inputs for the sum of the outputs."""
    gradients = torch.autograd.grad(outputs.sum(), inputs, retain_graph=True, allow_unused=True)
    return sum(float((x * g).sum().detach()) for x, g in zip(inputs, gradients) if g is not None)


# The rules


@pytest.mark.parametrize("function", [F.gelu, F.silu, lambda x: F.gelu(x, approximate="tanh"), F.relu])
def test_activations_pass_on_all_relevance(function):
    x = torch.cat((rows(1, 50), torch.tensor([[0.0, 1e-9, -20.0, 30.0]])), 1).requires_grad_()
    plain = function(x)
    with RelevanceRules():
        y = function(x)
    assert torch.equal(y, plain)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(gradient * x, y, atol=1e-6)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("function", [F.gelu, F.silu])
def test_the_ratio_at_zero_is_its_limit(function):
    x = torch.zeros(1, requires_grad=True)
    with RelevanceRules():
        (gradient,) = torch.autograd.grad(function(x).sum(), x)
    assert gradient.item() == pytest.approx(0.5, abs=1e-4)


def test_layer_norm_divides_by_a_constant():
    x, weight, bias = rows(2, 3, 8).requires_grad_(), rows(8, seed=1), rows(8, seed=2)
    with RelevanceRules():
        y = F.layer_norm(x, (8,), weight, bias)
    assert torch.equal(y, F.layer_norm(x, (8,), weight, bias))
    (gradient,) = torch.autograd.grad(y[0, 0, 3], x)
    deviation = (x[0, 0].var(unbiased=False) + 1e-5).sqrt()
    expected = (torch.eye(8)[3] - 1 / 8) * weight[3] / deviation
    assert torch.allclose(gradient[0, 0], expected, atol=1e-6)
    assert not gradient[1].any()


@pytest.mark.parametrize("norm", [F.rms_norm, torch.rms_norm])
@pytest.mark.parametrize("eps", [None, 0.1])
def test_rms_norm_divides_by_a_constant(eps, norm):
    x, weight = rows(2, 8).requires_grad_(), rows(8, seed=1)
    with RelevanceRules():
        y = norm(x, (8,), weight, eps)
    assert torch.equal(y, F.rms_norm(x, (8,), weight, eps))
    assert share(y[0, 3], [x]) == pytest.approx(y[0, 3].item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rms_norm_of_small_values_in_half_precision(dtype):
    """The default of eps is that of the type in which torch computes, float32."""
    x = (0.01 * rows(2, 8)).to(dtype).requires_grad_()
    with RelevanceRules():
        y = F.rms_norm(x, (8,))
    # a rounded value and a rounded relevance for each of eight bins
    assert share(y[0, 3].float(), [x]) == pytest.approx(y[0, 3].item(), rel=16 * torch.finfo(dtype).eps)


def test_gates_of_glu_are_constants():
    x = rows(2, 8).requires_grad_()
    with RelevanceRules():
        y = F.glu(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(y, F.glu(x)) and torch.allclose(gradient[:, :4], x[:, 4:].sigmoid())
    assert not gradient[:, 4:].any()


@pytest.mark.parametrize("masked", [False, True])
def test_attention_weights_are_constants(masked):
    query, key, value = (rows(1, 2, 5, 4, seed=seed).requires_grad_() for seed in range(3))
    bias = rows(5, 5, seed=3).requires_grad_() if masked else None
    with RelevanceRules():
        fast = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        scores = query @ key.transpose(2, 3) / 2
        slow = F.softmax(scores if bias is None else scores + bias, -1) @ value
    assert torch.allclose(fast, slow, atol=1e-6)
    for outputs in (fast, slow):
        inputs = [query, key, value] if bias is None else [query, key, value, bias]
        *others, gradient = torch.autograd.grad(outputs[0, 0, 1, 2], inputs[:3], allow_unused=True)
        assert others == [None, None]
        weights = (scores if bias is None else scores + bias).softmax(-1)[0, 0, 1]
        assert torch.allclose(gradient[0, 0, :, 2], weights, atol=1e-6)
    if bias is not None:
        assert torch.autograd.grad(fast.sum(), bias, allow_unused=True) == (None,)


def test_a_linear_network_is_the_gradient_times_the_input():
    network, x = nn.Linear(6, 3), rows(2, 6)
    assert torch.allclose(AttnLRP(network).attribute(x, target=1), InputXGradient(network).attribute(x, target=1))


def test_baselines_have_no_relevance():
    network, x = nn.Sequential(nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 1)), rows(1, 6)
    assert not AttnLRP(network).attribute(x, baselines=x).any()
    whole = AttnLRP(network).attribute(x)
    half = AttnLRP(network).attribute(x, baselines=x / 2)
    assert torch.allclose(half, whole / 2)
    first, second = AttnLRP(lambda a, b: network(a + b)).attribute((x, x), baselines=(x, 0.0))
    assert not first.any() and second.any()
    assert not x.requires_grad
    assert torch.equal(AttnLRP(network).attribute(x, baselines=None), whole)
    assert torch.allclose(AttnLRP(network).attribute(x, baselines=[x / 2]), half)
    with pytest.raises(ValueError, match="baselines has 1 values for 2 inputs"):
        AttnLRP(network).attribute((x, x), baselines=(x,))


# Whisper


def logits(model, audio, spectrogram=None):
    utterance = model.utterance(audio)
    tokens = model.tokens(IDS, utterance)
    inputs = utterance.spectrogram.clone().requires_grad_() if spectrogram is None else spectrogram
    return inputs, model.logits(model.encode(inputs, utterance), tokens)


CUTS = ["encoder.conv2", "encoder.layers.0", "encoder.layers.1", "encoder.layer_norm"]


def addends(whisper, cut, handles):
    """Leaves in place of a module's output and of all embeddings: what is added to the signal beside the biases."""
    leaves = []

    def replace(module, args, output):
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    parts = [module for module in whisper.modules() if isinstance(module, nn.Embedding)]
    for module in [*parts, *([whisper.model.get_submodule(cut)] if cut else [])]:
        handles.append(module.register_forward_hook(replace))
    return leaves


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("cut", [None, *CUTS])
def test_relevance_is_conserved_layer_by_layer(tiny_whisper, tiny_model, audio, cut, attention):
    """A logit is the relevance of a layer's output, of the embeddings, and of the biases behind it."""
    torch.manual_seed(1)
    for name, parameter in tiny_whisper.named_parameters():
        if name.endswith("bias"):  # which are 0 in a new model
            nn.init.normal_(parameter, std=0.1)
    tiny_whisper.set_attn_implementation(attention)
    handles = []
    leaves = addends(tiny_whisper, cut, handles)
    with RelevanceRules():
        spectrogram, found = logits(tiny_model, audio)
    for handle in handles:
        handle.remove()
    chosen = found[0, -1, IDS[-1]]
    # behind the cut the padding is a part of the signal; in front of it, it is an addend like the biases
    biases = [parameter for name, parameter in tiny_whisper.named_parameters() if name.endswith("bias")]
    relevance = share(chosen, [*leaves, *biases, *([spectrogram] if cut is None else [])])
    if cut is None:
        utterance = tiny_model.utterance(audio)
        padding = utterance.padding.clone().requires_grad_()
        with RelevanceRules():
            again = tiny_model.logits(
                tiny_model.encode(spectrogram, type(utterance)(spectrogram, padding)), tiny_model.tokens(IDS, utterance)
            )
        relevance += share(again[0, -1, IDS[-1]], [padding])
    assert relevance == pytest.approx(chosen.item(), abs=1e-4 * max(1, abs(chosen.item())))


def test_scores_are_those_of_the_model(tiny_model, audio):
    _, plain = logits(tiny_model, audio)
    with RelevanceRules():
        _, ruled = logits(tiny_model, audio)
    assert torch.allclose(plain, ruled, atol=1e-5)


def test_the_rules_change_the_gradient_and_end(tiny_whisper, tiny_model, audio):
    def forward(spectrogram):
        return logits(tiny_model, audio, spectrogram)[1][:, 0].log_softmax(-1)

    spectrogram = tiny_model.utterance(audio).spectrogram
    plain = InputXGradient(forward).attribute(spectrogram, target=IDS[0])
    functions = F.layer_norm, F.gelu, F.softmax, F.scaled_dot_product_attention
    relevance = AttnLRP(forward).attribute(spectrogram, target=IDS[0])
    assert not torch.allclose(plain, relevance, rtol=0.1)

    class Broken(RuntimeError):
        pass

    def broken(module, args):
        raise Broken

    handle = tiny_whisper.model.decoder.layers[0].register_forward_pre_hook(broken)
    with pytest.raises(Broken):
        AttnLRP(forward).attribute(spectrogram, target=IDS[0])
    handle.remove()
    assert functions == (F.layer_norm, F.gelu, F.softmax, F.scaled_dot_product_attention)
    assert not tiny_whisper.config._attn_implementation.startswith("captum")
    assert torch.equal(InputXGradient(forward).attribute(spectrogram, target=IDS[0]), plain)


@pytest.mark.parametrize("score", [TokenLogProbability, TokenProbability, TokenLogit, KLDivergence])
def test_scores_keep_their_gradient(score):
    """Softmaxes outside of attention do not get the rule of attention."""
    reference = rows(1, 1, 5, seed=1) if score is KLDivergence else torch.tensor([2])
    x = rows(1, 1, 5)
    plain = InputXGradient(score(lambda x: x, reference)).attribute(x)
    assert torch.allclose(AttnLRP(score(lambda x: x, reference)).attribute(x), plain)


def test_contrasts_keep_their_gradient():
    score = ContrastiveProbability(lambda x: x, [1], [3])
    x = rows(1, 5)
    assert torch.allclose(AttnLRP(score).attribute(x), InputXGradient(score).attribute(x))


def test_padding_that_is_frozen_at_the_utterance_itself(tiny_model, audio):
    """The scores are those of the full window, and the relevance nearly so."""
    full = tiny_model.utterance(audio[:2400])
    tokens = tiny_model.tokens(IDS, full)
    frozen = fit_utterance(tiny_model, full, tokens, "unperturbed")

    def forward(utterance):
        return lambda x: tiny_model.logits(tiny_model.encode(x, utterance), tokens)[:, 0]

    assert frozen.context["used"] == "frozen" and "unprobed" in describe_context(tiny_model, frozen)
    exact, quick = (forward(utterance)(full.spectrogram) for utterance in (full, frozen))
    assert torch.allclose(exact, quick, atol=1e-4)
    found = SpeechToTextAttribution(AttnLRP(tiny_model)).attribute(
        audio[:2400], tokens, sampling_rate=16000, context="unperturbed"
    )
    assert found.metadata["context"]["used"] == "frozen" and found.spectrogram_attr.abs().max() > 0
    whole = tiny_model.utterance(audio)  # which fills the window
    assert fit_utterance(tiny_model, whole, tokens, "unperturbed").frozen is None


def test_bfloat16_autocast_is_close(tiny_model, audio):
    utterance = tiny_model.utterance(audio)
    tokens = tiny_model.tokens(IDS, utterance)

    def forward(dtype):
        encode = replace(utterance, dtype=dtype)
        return lambda x: tiny_model.logits(tiny_model.encode(x, encode), tokens)[:, 0].float()

    maps = [
        AttnLRP(forward(dtype)).attribute(utterance.spectrogram, target=IDS[0]).flatten()
        for dtype in (torch.float32, torch.bfloat16)
    ]
    assert torch.corrcoef(torch.stack(maps))[0, 1] > 0.95


@pytest.mark.long
def test_real_speech_is_explained_within_its_words(bundled_model, sample):
    """The sample says "So what was the next step?" within its 2 s."""
    from captum_spes import SpeechToTextAttribution

    explanation = SpeechToTextAttribution(AttnLRP(bundled_model)).attribute(
        load_audio(sample, 16000), sampling_rate=16000
    )
    peaks = explanation.spectrogram_attr.amax(2).argmax(1) / 100
    step = explanation.tokens.index(" step")
    assert explanation.text == "So what was the next step?"
    assert peaks[explanation.tokens.index(" So")] < peaks[step] and 1.2 < peaks[step] < 2


def test_the_divergence_is_refused(tiny_model):
    """Its gradient is 0 at the unperturbed input, where AttnLRP takes it."""
    with pytest.raises(ValueError, match="gradient of KLDivergence is 0"):
        SpeechToTextAttribution(AttnLRP(tiny_model), KLDivergence)


def test_noise_tunnel_and_inputs_after_an_error():
    linear, x = torch.nn.Linear(4, 2), torch.rand(1, 4)
    assert NoiseTunnel(AttnLRP(linear)).attribute(x, target=1, nt_samples=3).shape == x.shape
    with pytest.raises(TypeError, match="AttnLRP takes no n_steps"):
        AttnLRP(linear).attribute(x, target=1, n_steps=3)

    def broken(x):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        AttnLRP(broken).attribute(x)
    assert not x.requires_grad


@pytest.mark.parametrize("need_weights", [False, True])
def test_attention_of_torch_is_that_by_hand(need_weights):
    attention, x = nn.MultiheadAttention(8, 2, batch_first=True).eval(), torch.randn(1, 5, 8)

    def by_hand(x):
        projected = (x @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, -1)
        query, key, value = (part.view(1, 5, 2, 4).transpose(1, 2) for part in projected)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(1, 5, 8)
        return attention.out_proj(mixed)[:, 0, 0]

    found = AttnLRP(lambda x: attention(x, x, x, need_weights=need_weights)[0][:, 0, 0]).attribute(x)
    torch.testing.assert_close(found, AttnLRP(by_hand).attribute(x), atol=1e-5, rtol=1e-4)


def test_activations_by_name():
    x = torch.rand(2, 4)
    by_name, by_position = (AttnLRP(f) for f in (lambda x: F.gelu(input=x).sum(1), lambda x: F.gelu(x).sum(1)))
    assert torch.equal(by_name.attribute(x), by_position.attribute(x))


@pytest.mark.parametrize("by_name", [True, False])
def test_a_bias_of_attention_is_a_constant(by_name):
    x = rows(1, 4, 6).requires_grad_()
    weights = rows(6, 4)

    def attend(x):
        bias = x @ weights
        given = {"attn_mask": bias} if by_name else {}
        return F.scaled_dot_product_attention(x, x, x, *([] if by_name else [bias]), **given)

    with RelevanceRules():
        y = attend(x)
    assert share(y, [x]) == pytest.approx(float(y.sum()), abs=1e-5)


def test_float64_stays_float64():
    """Numbers with a large offset lose nothing in layer norm."""
    x = 1e9 + rows(1, 6).double()
    net = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 1, bias=False)).double()
    relevance = AttnLRP(lambda x: net(x)[:, 0]).attribute(x, baselines=x.mean(1, keepdim=True))
    assert float(relevance.sum()) == pytest.approx(float(net(x)), rel=1e-4)


def test_other_names_of_rules():
    """torch.layer_norm and torch.special.softmax have the rules of torch.nn.functional, and SiLU may work in place."""
    x = rows(2, 6).requires_grad_()
    found = []
    for norm, softmax in ((F.layer_norm, F.softmax), (torch.layer_norm, torch.special.softmax)):
        with RelevanceRules():
            y = norm(x, (6,)) * softmax(x, -1)
        found.append(torch.autograd.grad(y.sum(), x)[0])
    assert torch.equal(*found)
    by_keyword = AttnLRP(lambda x: torch.layer_norm(input=x, normalized_shape=(6,)).square().sum(1))
    by_position = AttnLRP(lambda x: F.layer_norm(x, (6,)).square().sum(1))
    assert torch.equal(by_keyword.attribute(x), by_position.attribute(x))
    with RelevanceRules():
        h = x * 2
        F.silu(h, inplace=True)
    assert torch.equal(h, F.silu(x * 2))
    assert share(h, [x]) == pytest.approx(float(h.sum()), abs=1e-5)


def test_scores_without_relevance_and_integers_are_refused():
    softmax = nn.Sequential(nn.Linear(4, 3), nn.Softmax(-1))
    with pytest.raises(ValueError, match="no relevance flows from the scores to the inputs: return logits"):
        AttnLRP(softmax).attribute(torch.ones(1, 4), target=1)
    with pytest.raises(TypeError, match="must be floating point, not torch.int64"):
        AttnLRP(softmax).attribute(torch.ones(1, 4).long(), target=1)
