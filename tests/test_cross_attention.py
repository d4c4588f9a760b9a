"""CrossAttention: the weights of the model itself, spread over frames and channels."""

import pickle

import pytest
import torch

from captum_spes import SPES, Contrast, SpeechToTextAttribution
from captum_spes.attr import AttnLRP, CrossAttention, Energy

IDS = [60, 61, 62]
LAYERS = HEADS = 2


def weights(*positions, seed=0):
    """Of 2 layers, 3 heads and 4 tokens."""
    return torch.rand(2, 3, 4, *positions, generator=torch.Generator().manual_seed(seed)).softmax(-1)


def test_the_mean_of_the_heads_is_spread_evenly():
    given = weights(5)
    found = CrossAttention(lambda x: given).attribute(torch.zeros(1, 10, 8))
    assert found.shape == (4, 10, 8)
    for position in range(5):
        expected = given[:, :, :, position].mean((0, 1)) / (2 * 8)
        assert torch.allclose(found[:, 2 * position : 2 * position + 2], expected[:, None, None])
    assert torch.allclose(found.sum((1, 2)), torch.ones(4))


def test_an_odd_number_of_frames_loses_nothing():
    given = weights(3)
    found = CrossAttention(lambda x: given).attribute(torch.zeros(1, 5, 2))
    assert torch.allclose(found.sum((1, 2)), torch.ones(4))
    assert torch.allclose(found[:, 4].sum(1), given.mean((0, 1))[:, 2])


@pytest.mark.parametrize(("n_frames", "n_positions"), [(5, 4), (9, 7), (7, 7), (11, 3)])
def test_no_position_is_without_frames(n_frames, n_positions):
    weights = torch.rand(1, 1, 2, n_positions)
    found = CrossAttention(lambda x: weights).attribute(torch.zeros(1, n_frames, 1))
    torch.testing.assert_close(found.sum((1, 2)), weights[0, 0].sum(-1))


def test_previous_tokens_are_as_many_as_the_weights():
    given = weights(6)
    assert torch.equal(CrossAttention(lambda x: given).attribute(torch.ones(1, 6)), given.flatten(0, 1).mean(0))


def test_heads_are_chosen():
    given = weights(6)
    found = CrossAttention(lambda x: given).attribute(torch.ones(1, 6), heads=[(1, 2), (0, 0)])
    assert torch.allclose(found, (given[1, 2] + given[0, 0]) / 2)


@pytest.mark.parametrize("heads", [[], [(2, 0)], [(0, 3)], [(-1, 0)]])
def test_heads_that_there_are_not(heads):
    with pytest.raises(ValueError, match=r"do not fit the 2 layers of 3 heads: give pairs \(layer, head\)"):
        CrossAttention(lambda x: weights(6)).attribute(torch.ones(1, 6), heads=heads)


def test_results_keep_no_graph():
    weights = torch.ones(1, 1, 2, 3, requires_grad=True)
    assert not CrossAttention(lambda inputs: weights / 3).attribute(torch.zeros(1, 6)).requires_grad
    assert not Energy(torch.sum).attribute(torch.ones(1, 4, requires_grad=True)).requires_grad


def test_refusals():
    with pytest.raises(ValueError, match="2 examples"):
        CrossAttention(lambda x: weights(6)).attribute(torch.ones(2, 6))
    with pytest.raises(ValueError, match="weights for 6 positions, but the input has only 5 frames"):
        CrossAttention(lambda x: weights(6)).attribute(torch.ones(1, 5))


# Whisper


def output_attentions(whisper, utterance, tokens):
    """What the model itself returns, by its plain forward."""
    implementation = whisper.config._attn_implementation
    whisper.set_attn_implementation("eager")
    frames = torch.cat((utterance.spectrogram, utterance.padding), 1).transpose(1, 2)
    with torch.no_grad():
        outputs = whisper(input_features=frames, decoder_input_ids=tokens.previous[None], output_attentions=True)
    whisper.set_attn_implementation(implementation)
    n_prompt = len(tokens.prompt)
    return (
        torch.cat([layer[0, :, n_prompt - 1 :] for layer in attentions])
        for attentions in (outputs.cross_attentions, outputs.decoder_attentions)
    )


@pytest.mark.parametrize("n_samples", [9600, 9500])
def test_attention_is_that_of_the_model(tiny_whisper, tiny_model, audio, n_samples):
    attribution = SpeechToTextAttribution(CrossAttention(tiny_model))
    utterance, tokens = attribution.prepare(audio[:n_samples], IDS, sampling_rate=16000)
    cross, own = output_attentions(tiny_whisper, utterance, tokens)
    assert torch.allclose(cross.sum(-1), torch.ones(LAYERS * HEADS, 3), atol=1e-5)
    explanation = attribution.attribute(utterance, tokens)
    n_frames = utterance.spectrogram.shape[1]
    by_position = torch.nn.functional.pad(explanation.spectrogram_attr.sum(2), (0, n_frames % 2)).unflatten(1, (-1, 2))
    assert torch.allclose(by_position.sum(2), cross.mean(0)[:, : by_position.shape[1]], atol=1e-6)
    assert torch.allclose(explanation.token_attr, own.mean(0), atol=1e-6)
    assert torch.allclose(explanation.token_attr.sum(1), torch.ones(3), atol=1e-5)
    assert not explanation.token_attr.triu(len(tokens.prompt)).any()


def test_what_a_result_says(tiny_model, audio):
    explanation = SpeechToTextAttribution(CrossAttention(tiny_model)).attribute(audio, IDS, sampling_rate=16000)
    assert explanation.metadata["method"] == "Cross Attention"
    assert explanation.metadata["score"] == "none"
    assert "time only" in explanation.metadata["resolution"]
    assert sum(stage["forward"] for stage in explanation.metadata["passes"].values()) == 1
    assert sum(stage["backward"] for stage in explanation.metadata["passes"].values()) == 0
    other = SpeechToTextAttribution(SPES(tiny_model)).attribute(audio, IDS, sampling_rate=16000, n_samples=90)
    assert "resolution" not in other.metadata


def test_alignment_heads(tiny_whisper, tiny_model, audio):
    attribution = SpeechToTextAttribution(CrossAttention(tiny_model))
    with pytest.raises(ValueError, match="names no alignment_heads: use all heads"):
        attribution.attribute(audio, IDS, sampling_rate=16000, heads="alignment")
    tiny_whisper.generation_config.alignment_heads = [[1, 0]]
    found = attribution.attribute(audio, IDS, sampling_rate=16000, heads="alignment")
    expected = attribution.attribute(audio, IDS, sampling_rate=16000, heads=[(1, 0)])
    assert torch.equal(found.spectrogram_attr, expected.spectrogram_attr)
    assert found.metadata["arguments"] == {"heads": "alignment"}
    everything = attribution.attribute(audio, IDS, sampling_rate=16000)
    assert torch.equal(found.token_attr, everything.token_attr)
    assert not torch.allclose(found.spectrogram_attr, everything.spectrogram_attr)


def test_the_attention_implementation_is_restored_when_a_forward_raises(tiny_whisper, tiny_model, audio):
    before = tiny_whisper.config._attn_implementation

    def broken(module, args):
        raise RuntimeError("broken")

    attribution = SpeechToTextAttribution(CrossAttention(tiny_model))
    prepared = attribution.prepare(audio, IDS, sampling_rate=16000)
    handle = tiny_whisper.model.decoder.layers[1].fc1.register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="broken"):
        attribution.attribute(*prepared)
    handle.remove()
    assert tiny_whisper.config._attn_implementation == before
    assert tiny_whisper.model.decoder.config._attn_implementation == before
    assert not n_hooks(tiny_whisper)
    attribution.attribute(*prepared)


def n_hooks(module):
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


@pytest.mark.parametrize("method", [CrossAttention, SPES, AttnLRP])
def test_an_explained_model_has_no_hooks_and_can_be_pickled(tiny_whisper, tiny_model, audio, method):
    tiny_whisper.generation_config.alignment_heads = [[1, 0]]  # words get times from the attention
    attribution = SpeechToTextAttribution(method(tiny_model))
    arguments = {"n_samples": 30} if method is SPES else {}
    explanation = attribution.attribute(audio, IDS, sampling_rate=16000, **arguments)
    assert explanation.metadata["token_times"]
    assert not n_hooks(tiny_whisper)
    again = pickle.loads(pickle.dumps(attribution))
    found = again.attribute(audio, IDS, sampling_rate=16000, **arguments)
    assert torch.equal(found.spectrogram_attr, explanation.spectrogram_attr)


@pytest.mark.parametrize("arguments", [{"sentence": True}, {"contrast": Contrast(0, "no")}])
def test_attention_belongs_to_tokens(tiny_model, audio, arguments):
    with pytest.raises(ValueError, match="leave out contrast and sentence"):
        SpeechToTextAttribution(CrossAttention(tiny_model)).attribute(audio, IDS, sampling_rate=16000, **arguments)
