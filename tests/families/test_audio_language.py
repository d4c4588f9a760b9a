"""Audio language models."""

import functools
from dataclasses import replace

import pytest
import torch
from family_cases import LENGTHS, qwen2_audio

from captum_spes import SPES, SpeechToTextAttribution, grid_feature_mask
from captum_spes.metrics import comprehensiveness
from captum_spes.metrics._restore import restore
from captum_spes.models import load_model


@pytest.mark.parametrize("n_samples", LENGTHS)
def test_language_models_read_what_the_plain_forward_reads(language_case, audio, n_samples):
    """The instruction with the sound in it, and after it the text; and generate writes on from there."""
    model, plain = language_case.adapter, language_case.plain
    utterance = model.utterance(audio[:n_samples])
    tokens = model.tokens([10, 11, 12, 13, 14], utterance)
    if language_case.family.make is qwen2_audio:
        text = "<|audio_bos|><|AUDIO|><|audio_eos|>Transcribe the speech."
        inputs = language_case.processor(text=text, audio=audio[:n_samples], sampling_rate=16000, return_tensors="pt")
    else:
        inputs = language_case.inputs(audio[:n_samples])
        inputs["input_ids"] = torch.full((1, 25), 4)
        inputs["attention_mask"] = torch.ones(1, 25, dtype=torch.long)
    n_prefix = inputs.input_ids.shape[1]
    arguments = {**inputs, "input_ids": torch.cat((inputs.input_ids, tokens.previous[None]), 1)}
    arguments["attention_mask"] = torch.ones_like(arguments["input_ids"])
    with torch.no_grad():
        encoded = model.encode(utterance.spectrogram, utterance)
        ours = model.logits(encoded, tokens)
        theirs = plain(**arguments).logits[:, n_prefix - 1 :]
    assert encoded.embeddings.shape[1] == n_prefix and not len(tokens.prompt) and ours.shape == (1, 5, 60)
    torch.testing.assert_close(ours.log_softmax(-1), theirs.log_softmax(-1), atol=1e-5, rtol=0)
    generated = model.generate(utterance, max_new_tokens=8)
    output = plain.generate(**inputs, max_new_tokens=8, return_dict_in_generate=True, output_scores=True)
    assert output.sequences[0, n_prefix:].tolist() == generated.target.tolist()
    with torch.no_grad():
        ours = model.logits(encoded, generated)
    scores = torch.stack(output.scores, dim=1)
    torch.testing.assert_close(ours.log_softmax(-1), scores.log_softmax(-1), atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:the maps are noisy")
def test_language_models_are_explained(language_case, audio, tmp_path):
    """The first token has no previous ones, and a text of one token none at all."""
    model = language_case.adapter
    mask = functools.partial(grid_feature_mask, patch_size=(20, 40))
    explanation = SpeechToTextAttribution(SPES(model)).attribute(
        audio, [10, 11, 12, 13], sampling_rate=16000, n_samples=8, feature_mask=mask, context="auto"
    )
    assert explanation.token_attr.shape == (4, 3) and explanation.n_previous.tolist() == [0, 1, 2, 3]
    assert (explanation.token_attr[explanation.is_previous] > 0).all()
    assert not explanation.token_attr[~explanation.is_previous].any() and explanation.spectrogram_attr.max() > 0
    normalized = explanation.normalize()
    assert normalized.spectrogram_attr.isfinite().all() and normalized.token_attr.isfinite().all()
    assert explanation.top_previous_tokens()[:2] == ["", explanation.tokens[0]]
    explanation.plot_previous_tokens()
    assert explanation.words().n_previous[0] == 0
    utterance, tokens = SpeechToTextAttribution(SPES(model)).prepare(audio, [10, 11, 12, 13], sampling_rate=16000)
    again, same = restore(model, explanation)
    assert again.n_frames == utterance.n_frames and torch.equal(same.target, tokens.target) and not len(same.prompt)
    assert comprehensiveness(model, explanation).scores.isfinite().all()
    single = SpeechToTextAttribution(SPES(model)).attribute(
        audio, [10], sampling_rate=16000, n_samples=8, feature_mask=mask
    )
    assert single.token_attr.shape == (1, 0)


def test_language_models_with_frozen_padding(language_case, audio):
    """Qwen2-Audio attends to no padding, and leaving it out is exact; Voxtral's was recorded from the same input."""
    model = language_case.adapter
    utterance = model.utterance(audio[:4800])
    tokens = model.tokens([10, 11, 12], utterance)
    frozen = replace(utterance, frozen=model.freeze_padding(utterance, utterance.spectrogram))
    assert frozen.frozen.n_positions == 32
    with torch.no_grad():
        encoded = model.encode(utterance.spectrogram, utterance)
        found = model.encode(utterance.spectrogram, frozen)
        torch.testing.assert_close(found.embeddings, encoded.embeddings, atol=1e-5, rtol=0)
        merged = replace(frozen, frozen=frozen.frozen.merge(4))
        assert model.logits(model.encode(utterance.spectrogram, merged), tokens).isfinite().all()
    written = model.generate(utterance, max_new_tokens=5)
    with torch.no_grad():
        [again] = model.write(model.encode(utterance.spectrogram, frozen), written.prompt, max_new_tokens=5)
    assert torch.equal(again, written.target)


def test_instructions(cases, audio):
    case = cases("qwen2_audio")

    def instruction(**arguments):
        model = load_model(case.plain, case.processor, **arguments)
        return "".join(model.token_texts(torch.tensor([*model._before, 4, *model._after]))), model

    # a tiny tokenizer knows few letters
    assert instruction()[0].startswith("<|audio_bos|><|AUDIO|><|audio_eos|>") and " the spee" in instruction()[0]
    text, model = instruction(task="translate", language="de")
    assert " into de" in text and model.task_of(None, None) == "translate"
