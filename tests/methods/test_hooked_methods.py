"""DeepLift, guided backpropagation and deconvolution, which hook modules."""

import warnings

import pytest
import torch
from captum.attr import LRP, Deconvolution, DeepLift, GuidedBackprop, GuidedGradCam, LimeBase, NoiseTunnel
from torch import nn
from toys import ReluToy, Toy, over, spectrogram, wrapped

from captum_spes import KLDivergence, SpeechToTextAttribution, TokenLogit, TokenLogProbability


def relu_parts(model, features):
    """Of the one layer: what comes to it for an input and for its baseline, and its weights, (3, 6) and (6, 320)."""
    with torch.no_grad():
        all_embeddings = model.embedding.sum(0)
        before = model.reads(features.flatten(1)) + all_embeddings
        baseline = model.reads.bias + all_embeddings
    return before[0], baseline, model.writes.weight.detach(), model.reads.weight.detach()


@pytest.mark.parametrize("per_eval", [1, 8, 64])
def test_deep_lift(per_eval):
    """By the rescale rule of a single layer, and complete."""
    model = ReluToy()
    explanation = wrapped(DeepLift, model).attribute(spectrogram(), perturbations_per_eval=per_eval)
    before, baseline, writes, reads = relu_parts(model, spectrogram())
    slope = (before.relu() - baseline.relu()) / (before - baseline)
    assert (slope != (before > 0)).sum() > 0  # it is not the gradient
    expected = 0.75 * torch.einsum("kh,h,hi->ki", writes, slope, reads) * spectrogram().flatten()
    torch.testing.assert_close(explanation.spectrogram_attr.flatten(1), expected, atol=1e-5, rtol=1e-3)
    total = 0.75 * (writes @ (before.relu() - baseline.relu()))
    torch.testing.assert_close(explanation.spectrogram_attr.sum((1, 2)), total, atol=1e-4, rtol=1e-3)
    # the previous tokens of each row, those that come later are no features of it
    with torch.no_grad():
        encoded = model.reads(spectrogram().flatten(1))
        slope = ((before.relu() - encoded.relu()) / (before - encoded))[0]
        expected = 0.75 * torch.einsum("kh,h,jh->kj", writes, slope, model.embedding)
    torch.testing.assert_close(
        explanation.token_attr, torch.where(explanation.is_previous, expected, 0), atol=1e-5, rtol=1e-3
    )


@pytest.mark.parametrize(("method", "open_gates_only"), [(GuidedBackprop, True), (Deconvolution, False)])
def test_changed_gradients_of_relu(method, open_gates_only):
    model = ReluToy()
    explanation = wrapped(method, model).attribute(spectrogram())
    before, _, writes, reads = relu_parts(model, spectrogram())
    logits = before.relu() @ writes.T + model.writes.bias.detach()
    probability = logits.exp() / (logits.exp() + 3)  # of the token, beside three logits of 0
    upstream = ((1 - probability)[:, None] * writes).relu()
    if open_gates_only:
        upstream = upstream * (before > 0)
    torch.testing.assert_close(explanation.spectrogram_attr.flatten(1), upstream @ reads, atol=1e-5, rtol=1e-3)
    assert explanation.metadata["passes"]["spectrogram"] == {"forward": 3, "backward": 3}


class Chosen(nn.Module):
    """One token's score of a model, by hand."""

    def __init__(self, model, score, row):
        super().__init__()
        self.model, self.row = model, row
        utterance = model.from_features(spectrogram())
        tokens = model.generate(utterance)
        self.score = score(lambda x: model.logits(model.encode(x, utterance), tokens), tokens.target)

    def forward(self, x):
        return self.score(x)[:, self.row]


@pytest.mark.parametrize(
    ("method", "score"), [(DeepLift, TokenLogit), (GuidedBackprop, TokenLogit), (Deconvolution, TokenLogProbability)]
)
def test_noise_over_methods_that_hook(method, score):
    """The same noise for all tokens, as by hand."""
    model = ReluToy()
    explanation = wrapped(over(method), model, score).attribute(spectrogram(), nt_samples=4, stdevs=0.5, seed=3)
    plain = wrapped(method, model, score).attribute(spectrogram())
    assert torch.equal(explanation.token_attr, plain.token_attr)
    assert not torch.equal(explanation.spectrogram_attr, plain.spectrogram_attr)
    baselines = {"baselines": torch.zeros(1, 40, 8)} if method is DeepLift else {}
    for row in range(3):
        torch.manual_seed(3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = NoiseTunnel(method(Chosen(model, score, row))).attribute(
                spectrogram(), nt_samples=4, stdevs=0.5, **baselines
            )
        torch.testing.assert_close(explanation.spectrogram_attr[row], expected[0], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("method", [DeepLift, GuidedBackprop, over(DeepLift), over(Deconvolution)])
def test_hooks_are_counted_and_leave_nothing_behind(method):
    model = ReluToy()
    rows, seen = [], []
    logits = model.logits
    model.logits = lambda encoded, tokens, gate=None: (
        rows.append(len(encoded) if gate is None else len(gate)) or logits(encoded, tokens, gate)
    )
    made = method(model)
    inner = getattr(made, "attribution_method", made)
    before = {name: list(value) if isinstance(value, list) else value for name, value in vars(inner).items()}
    state = torch.get_rng_state()
    explanation = SpeechToTextAttribution(made).attribute(
        spectrogram(), callback=lambda *stage: seen.append(stage), perturbations_per_eval=4
    )
    passes = explanation.metadata["passes"]
    assert sum(rows) == sum(stage["forward"] for stage in passes.values()) + 1
    for stage in ("previous tokens", "spectrogram"):
        done = [done for name, done, _ in seen if name == stage]
        assert done[-1] == passes[stage]["forward"] and len(done) >= 3
        assert {total for name, _, total in seen if name == stage} == {done[-1]}
    assert vars(inner) == before and torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())


@pytest.mark.parametrize("method", [DeepLift, over(DeepLift)])
@pytest.mark.parametrize("activation", [nn.functional.gelu, nn.GELU(), lambda x: x * x.sigmoid()])
def test_deep_lift_is_refused_where_it_is_not_complete(method, activation):
    attribution = wrapped(method, ReluToy(activation))
    with pytest.raises(
        ValueError, match=r"DeepLift's attributions differ from .* by \d+%: .* Take IntegratedGradients or"
    ):
        attribution.attribute(spectrogram())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GuidedBackprop(ReluToy(nn.GELU())), "GuidedBackprop .* nn.ReLU modules .* none: use Saliency"),
        (lambda: Deconvolution(ReluToy(nn.GELU())), "Deconvolution .* nn.ReLU modules .* none: use Saliency"),
        (lambda: over(GuidedBackprop)(ReluToy(nn.GELU())), "GuidedBackprop .* nn.ReLU modules .* none: use Saliency"),
        (lambda: LRP(ReluToy()), "LRP cannot .* use IntegratedGradients or InputXGradient"),
        (lambda: GuidedGradCam(ReluToy(), ReluToy().reads), "GuidedGradCam .* use Saliency"),
        (lambda: LimeBase(Toy(), None, None, None, False, None, lambda x: x), "LimeBase .* use Lime or KernelShap"),
        (lambda: over(DeepLift)(Toy()), "DeepLift hooks the model's non-linearities"),
    ],
)
def test_methods_that_find_nothing_to_hook_or_to_explain(make, words):
    with pytest.raises(TypeError, match=words):
        SpeechToTextAttribution(make())


def test_changed_gradients_of_a_score_without_any_are_refused():
    with pytest.raises(ValueError, match="gradient of KLDivergence is 0"):
        wrapped(GuidedBackprop, ReluToy(), KLDivergence)
