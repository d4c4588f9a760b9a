"""Every family of models by the same checks: a tiny random model, saved to a folder and loaded by its path."""

import contextlib
import functools
import importlib.util
import itertools
import json
import sys
import tempfile
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from captum.attr import FeatureAblation, IntegratedGradients

from captum_spes import (
    SPES,
    Contrast,
    CTCLogLikelihood,
    GradientSPES,
    SpeechToTextAttribution,
    SpeechToTextExplanation,
    grid_feature_mask,
)
from captum_spes.__main__ import main
from captum_spes.evaluation import Evaluation
from captum_spes.evaluation.corpus import load_corpus
from captum_spes.metrics import deletion, infidelity, size
from captum_spes.metrics._restore import restore
from captum_spes.models import SpeechToTextModel, load_model
from captum_spes.models.ctc import best_path, collapse
from captum_spes.speech_to_text.catalogue import METHODS

transformers = pytest.importorskip("transformers")

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
LANGUAGES = ["__deu__", "__eng__"]


def tokenizer(special=SPECIAL):
    """Pieces of a few letters that mark the beginnings of words, as SentencePiece's do, but need no such package."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    pieces = Tokenizer(models.BPE(unk_token="<unk>"))
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    pieces.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=special, show_progress=False)
    pieces.train_from_iterator(["so what was the next step in his power to do"], trainer)
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=pieces, **names)


SIZES = {
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
}


def speech2text():
    config = transformers.Speech2TextConfig(
        vocab_size=60,
        encoder_layers=2,
        d_model=16,
        conv_channels=16,
        max_source_positions=300,
        max_target_positions=24,
        init_std=0.4,
        **SIZES,
    )
    model = transformers.Speech2TextForConditionalGeneration(config)
    return model, transformers.Speech2TextProcessor(transformers.Speech2TextFeatureExtractor(), tokenizer())


def seamless():
    config = transformers.SeamlessM4Tv2Config(
        vocab_size=60,
        hidden_size=16,
        encoder_layers=1,
        speech_encoder_layers=2,
        speech_encoder_attention_heads=2,
        speech_encoder_intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.4,
        scale_embedding=False,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=2,
        **SIZES,
    )
    model = transformers.SeamlessM4Tv2ForSpeechToText(config)
    ids = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    codes = {"deu": 4, "eng": 5}
    model.generation_config = transformers.GenerationConfig(
        decoder_start_token_id=2, text_decoder_lang_to_code_id=codes, **ids
    )
    processor = transformers.SeamlessM4TProcessor(
        transformers.SeamlessM4TFeatureExtractor(), tokenizer([*SPECIAL, *LANGUAGES])
    )
    return model, processor


PARAKEET = {
    "model_type": "parakeet_encoder",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "subsampling_conv_channels": 8,
    "num_mel_bins": 80,
    "initializer_range": 0.4,
}


# what Canary's own template asks for, in the order of its prompt
TEMPLATE = (
    "{% for message in messages %}{% for item in message['content'] %}{% if item['type'] == 'text' %}"
    "<|start|><|{{ item['source_language'] }}|><|{{ item['target_language'] }}|>"
    "{% if item['punctuation'] %}<|pnc|>{% endif %}{% endif %}{% endfor %}{% endfor %}"
)
PROMPTS = ["<|start|>", "<|en|>", "<|de|>", "<|pnc|>"]


def parakeet_features():
    """Of Parakeet and of Canary."""
    try:
        return transformers.ParakeetFeatureExtractor()
    except ImportError:
        pytest.skip("needs the extra nemo with this version of transformers")


def canary():
    config = transformers.CanaryConfig(
        vocab_size=60,
        encoder_config=PARAKEET,
        decoder_config={
            "vocab_size": 60,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 64,
            "initializer_range": 0.4,
        },
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=4,
        initializer_range=0.4,
    )
    processor = transformers.CanaryProcessor(
        parakeet_features(), tokenizer([*SPECIAL, *PROMPTS]), chat_template=TEMPLATE
    )
    return transformers.CanaryForConditionalGeneration(config), processor


def wav2vec2_bert():
    config = transformers.Wav2Vec2BertConfig(
        vocab_size=31,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.4,
        pad_token_id=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        vocab = Path(folder) / "vocab.json"
        vocab.write_text(
            json.dumps(
                {
                    token: index
                    for index, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz"])
                }
            )
        )
        letters = transformers.Wav2Vec2CTCTokenizer(vocab, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    processor = transformers.Wav2Vec2BertProcessor(transformers.SeamlessM4TFeatureExtractor(), letters)
    return transformers.Wav2Vec2BertForCTC(config), processor


def parakeet():
    encoder = {**PARAKEET, "subsampling_factor": 2}
    config = transformers.ParakeetCTCConfig(vocab_size=60, encoder_config=encoder, pad_token_id=1)
    pieces = transformers.ParakeetTokenizer(
        tokenizer_object=tokenizer().backend_tokenizer, pad_token="<pad>", unk_token="<unk>"
    )
    return transformers.ParakeetForCTC(config), transformers.ParakeetProcessor(parakeet_features(), pieces)


TEXT = {
    "vocab_size": 60,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 200,
    "initializer_range": 0.4,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
AUDIO = {
    "num_mel_bins": 80,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "d_model": 16,
    "max_source_positions": 50,
    "initializer_range": 0.4,
}


def qwen2_audio():
    config = transformers.Qwen2AudioConfig(
        audio_config={"model_type": "qwen2_audio_encoder", **AUDIO},
        text_config={"model_type": "qwen2", **TEXT},
        audio_token_index=4,
    )
    pieces = tokenizer([*SPECIAL, "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"])
    template = (
        "{% for message in messages %}{% for item in message['content'] %}{% if item['type'] == 'audio' %}"
        "<|audio_bos|><|AUDIO|><|audio_eos|>{% else %}{{ item['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )
    features = transformers.WhisperFeatureExtractor(feature_size=80, chunk_length=1)
    processor = transformers.Qwen2AudioProcessor(features, pieces, chat_template=template)
    return transformers.Qwen2AudioForConditionalGeneration(config), processor


def voxtral():
    """Without a processor, whose tokenizer needs mistral-common: the sound without an instruction."""
    config = transformers.VoxtralConfig(
        audio_config={"model_type": "voxtral_encoder", **AUDIO, "intermediate_size": 32},
        text_config={"model_type": "llama", **TEXT, "head_dim": 8},
        audio_token_id=4,
    )
    features = transformers.WhisperFeatureExtractor(feature_size=80, chunk_length=1)
    return transformers.VoxtralForConditionalGeneration(config), features


@dataclass
class Family:
    """How a family is made and called, without the adapter.

    Attributes:
        make: a tiny random model and its processor.
        load: arguments of load_model.
        generate: arguments of the model's own generate.
        prompt: what its decoder starts with.
        n_frames: of 9600 samples.
        special: a token that is a mark.
    """

    make: Callable[[], tuple[Any, Any]]
    load: dict[str, Any] = field(default_factory=dict)
    generate: dict[str, Any] = field(default_factory=dict)
    prompt: list[int] = field(default_factory=list)
    n_frames: int = 58
    special: int = 2


FAMILIES = {
    "speech2text": Family(speech2text, prompt=[2]),
    "seamless": Family(seamless, {"language": "deu"}, {"tgt_lang": "deu"}, [2, 4]),
    "canary": Family(
        canary, {"language": "en-de"}, {"decoder_input_ids": torch.tensor([[4, 5, 6, 7]])}, [4, 5, 6, 7], 60
    ),
}
# those that write all tokens at once
CTC = {"wav2vec2_bert": Family(wav2vec2_bert, special=0), "parakeet": Family(parakeet, n_frames=60, special=1)}
# decoders that read the sound as they read text
AUDIO_LANGUAGE = {"qwen2_audio": Family(qwen2_audio, n_frames=60), "voxtral": Family(voxtral, n_frames=60)}
ALL = {**FAMILIES, **CTC, **AUDIO_LANGUAGE}
# samples of an even and of an odd number of frames
LENGTHS = (9600, 9500)


@dataclass
class Case:
    family: Family
    plain: Any  # the model in memory
    processor: Any
    adapter: Any  # of the same, loaded from its folder

    @property
    def feature_extractor(self):
        return getattr(self.processor, "feature_extractor", self.processor)

    def inputs(self, audio):
        return self.feature_extractor(audio, sampling_rate=16000, return_tensors="pt")


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Each family's case, made once."""
    made = {}

    def case(name):
        if name not in made:
            torch.manual_seed(0)
            family = ALL[name]
            plain, processor = family.make()
            folder = tmp_path_factory.mktemp(name)
            plain.eval().save_pretrained(folder)
            processor.save_pretrained(folder)
            if family.make is voxtral:  # whose processor needs mistral-common
                adapter = load_model(type(plain).from_pretrained(folder), processor)
            else:
                adapter = load_model(folder, device="cpu", **family.load)
            made[name] = Case(family, plain, processor, adapter)
        return made[name]

    return case


@pytest.fixture(params=FAMILIES)
def case(request, cases):
    return cases(request.param)


@pytest.fixture(params=ALL)
def any_case(request, cases):
    return cases(request.param)


@pytest.fixture(params={**FAMILIES, **AUDIO_LANGUAGE})
def autoregressive(request, cases):
    return cases(request.param).adapter


@pytest.fixture(params=AUDIO_LANGUAGE)
def language_case(request, cases):
    return cases(request.param)


@pytest.fixture(params=CTC)
def ctc_case(request, cases):
    return cases(request.param)


@pytest.fixture
def model(case):
    return case.adapter


def test_protocol(any_case, audio):
    model, utterance = any_case.adapter, any_case.adapter.utterance(audio)
    assert isinstance(model, SpeechToTextModel)
    assert utterance.spectrogram.shape == (1, any_case.family.n_frames, 80)
    assert len(model.mel_frequencies) == 80
    assert model.frames_per_second == 100 and (np.diff(model.mel_frequencies) > 0).all()
    means = utterance.spectrogram.mean(1)
    assert model.normalized == model.baseline_name.startswith("0")
    if model.normalized:
        torch.testing.assert_close(means, torch.zeros(1, 80), atol=1e-3, rtol=0)
        means = torch.zeros(1, 80)
    assert torch.equal(model.baseline(utterance)[0], means)


@pytest.mark.parametrize("n_samples", LENGTHS)
def test_logits_are_those_of_the_plain_forward(case, audio, n_samples):
    utterance = case.adapter.utterance(audio[:n_samples])
    tokens = case.adapter.tokens([10, 11, 12, 13, 14], utterance)
    assert tokens.prompt.tolist() == case.family.prompt
    with torch.no_grad():
        ours = case.adapter.logits(case.adapter.encode(utterance.spectrogram, utterance), tokens)
        plain = case.plain(**case.inputs(audio[:n_samples]), decoder_input_ids=tokens.previous[None]).logits
    assert ours.shape == (1, 5, 60)
    plain = plain[:, len(tokens.prompt) - 1 :]
    torch.testing.assert_close(ours.log_softmax(-1), plain.log_softmax(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("n_samples", LENGTHS)
def test_logits_are_those_of_generate(case, audio, n_samples):
    utterance = case.adapter.utterance(audio[:n_samples])
    generated = case.adapter.generate(utterance, max_new_tokens=8)
    output = case.plain.generate(
        **case.inputs(audio[:n_samples]),
        **case.family.generate,
        max_new_tokens=8,
        return_dict_in_generate=True,
        output_scores=True,
    )
    assert generated.generated and output.sequences[0].tolist() == [*case.family.prompt, *generated.target.tolist()]
    with torch.no_grad():
        ours = case.adapter.logits(case.adapter.encode(utterance.spectrogram, utterance), generated)
    plain = torch.stack(output.scores, dim=1)
    torch.testing.assert_close(ours.log_softmax(-1), plain.log_softmax(-1), atol=1e-5, rtol=0)


def test_texts_of_a_batch_are_those_of_single_ones(autoregressive, audio):
    model = autoregressive
    utterance = model.utterance(audio[:9500])
    spectrograms = utterance.spectrogram * torch.tensor([0.2, 0.6, 1.0, -1.5])[:, None, None]
    prompt = model.tokens([10], utterance).prompt
    together = model.generate_batch(spectrograms, utterance, prompt, max_new_tokens=8)
    for one, target in zip(spectrograms, together, strict=True):
        assert torch.equal(model.generate(replace(utterance, spectrogram=one[None]), max_new_tokens=8).target, target)
    assert len({tuple(target.tolist()) for target in together}) > 1


def test_gate(autoregressive, audio):
    model, utterance = autoregressive, autoregressive.utterance(audio)
    tokens = model.tokens([10, 11, 12, 13, 14], utterance)
    n_previous = len(tokens.previous)
    encoded = model.encode(utterance.spectrogram, utterance)
    gates = torch.cat((1 - torch.eye(n_previous), torch.ones(1, n_previous)))
    with torch.no_grad():
        plain = model.logits(encoded, tokens)
        gated = model.logits(encoded, tokens, gates)
    torch.testing.assert_close(gated[-1:], plain, atol=1e-5, rtol=0)  # a gate of ones changes nothing
    for column in range(n_previous):
        # step k reads the previous tokens up to and with prompt + k - 1
        changed = (gated[column] - plain[0]).abs().amax(-1) > 1e-4
        first = max(column - len(tokens.prompt) + 1, 0)
        assert not changed[:first].any() and changed[first:].all(), column


@pytest.mark.parametrize(("n_spectrograms", "n_gates"), [(1, 3), (3, 1), (3, 3)])
def test_batches_of_either(autoregressive, audio, n_spectrograms, n_gates):
    torch.manual_seed(0)
    model, utterance = autoregressive, autoregressive.utterance(audio[:9500])
    tokens = model.tokens([10, 11, 12, 13, 14], utterance)
    spectrograms = utterance.spectrogram + torch.rand(n_spectrograms, *utterance.spectrogram.shape[1:])
    gates = torch.rand(n_gates, len(tokens.previous), *([model.embedding_dim] if n_gates == 3 else []))
    with torch.no_grad():
        together = model.logits(model.encode(spectrograms, utterance), tokens, gates)
        alone = [
            model.logits(
                model.encode(spectrograms[row % n_spectrograms][None], utterance), tokens, gates[row % n_gates][None]
            )
            for row in range(3)
        ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_gradients_flow_to_both(autoregressive, audio):
    model, utterance = autoregressive, autoregressive.utterance(audio)
    tokens = model.tokens([10, 11, 12, 13, 14], utterance)
    spectrogram = utterance.spectrogram.clone().requires_grad_()
    gate = torch.ones(2, len(tokens.previous), requires_grad=True)
    scores = model.logits(model.encode(spectrogram, utterance), tokens, gate).log_softmax(-1)[..., 10]
    scores.sum().backward()
    assert spectrogram.grad.abs().sum() > 0 and (gate.grad.abs().sum(0) > 0).all()


@pytest.mark.parametrize("n_samples", LENGTHS)
def test_features_survive_the_round_trip(any_case, audio, n_samples):
    model = any_case.adapter
    utterance = model.utterance(audio[:n_samples])
    again = model.from_features(utterance.spectrogram)
    assert torch.equal(again.spectrogram, utterance.spectrogram)
    with pytest.raises(ValueError, match="one spectrogram of shape"):
        model.from_features(torch.rand(1, 50, 79))


@pytest.mark.filterwarnings("ignore:the maps are noisy")
def test_an_utterance_is_explained(case, model, audio):
    explanation = SpeechToTextAttribution(SPES(model)).attribute(
        audio[:9500],
        "so what",
        sampling_rate=16000,
        n_samples=8,
        n_token_samples=8,
        feature_mask=lambda spectrogram: grid_feature_mask(spectrogram, (20, 40)),
    )
    assert explanation.text == "so what" and "".join(explanation.tokens) == " so what"
    n_frames = explanation.spectrogram.shape[0]
    assert 0 < case.family.n_frames - n_frames < 3
    assert explanation.spectrogram_attr.shape == (len(explanation.tokens), n_frames, 80)
    assert explanation.token_attr.shape == (len(explanation.tokens), len(explanation.previous_tokens))
    assert not explanation.token_attr[~explanation.is_previous].any()
    assert (explanation.token_attr[explanation.is_previous] > 0).all() and explanation.spectrogram_attr.max() > 0
    assert explanation.metadata["baseline"] == model.baseline_name
    assert explanation.words().tokens == ["so", "what"]
    utterance, tokens = SpeechToTextAttribution(SPES(model)).prepare(audio[:9500], "so what", sampling_rate=16000)
    again, same = restore(model, explanation)
    with torch.no_grad():
        ours, theirs = (
            model.logits(model.encode(u.spectrogram, u), t) for u, t in ((utterance, tokens), (again, same))
        )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_model_is_left_as_found(any_case, audio):
    torch.manual_seed(0)
    plain, processor = any_case.family.make()
    plain.train()
    modes = [module.training for module in plain.modules()]
    state = torch.get_rng_state()
    model = load_model(plain, processor, **any_case.family.load)
    utterance = model.utterance(audio)
    tokens = model.generate(utterance, max_new_tokens=4)
    encoded = model.encode(utterance.spectrogram, utterance)
    first, second = (model.logits(encoded, tokens, torch.ones(2, len(tokens.previous))) for _ in range(2))
    assert torch.equal(first, second)  # no dropout
    if len(tokens.previous):
        with pytest.raises((ValueError, RuntimeError)):
            model.logits(encoded, tokens, torch.ones(3, len(tokens.previous), 5))
    assert [module.training for module in plain.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in plain.modules())


def test_a_feature_extractor_alone(any_case, audio):
    if any_case.family.make is canary:
        with pytest.raises(ValueError, match="needs its whole processor, whose chat template makes the prompt"):
            load_model(any_case.plain, any_case.processor.feature_extractor)
        return
    model = load_model(any_case.plain, any_case.feature_extractor, **any_case.family.load)
    tokens = model.tokens([10, 11], model.utterance(audio))
    assert model.token_texts(tokens.target) == [" 10", " 11"] and not any(model.is_special(tokens.target))
    assert model.is_special(torch.tensor([any_case.family.special])) == [True]
    with pytest.raises(ValueError, match="given a feature extractor and no tokenizer: give the target's token ids"):
        model.tokens("so", model.utterance(audio))


def test_texts(any_case):
    model = any_case.adapter
    if model.tokenizer is None:
        return
    ids = model._target_ids("so what was")
    texts = model.token_texts(torch.tensor([any_case.family.special, *ids]))
    assert texts[0] == any_case.processor.tokenizer.convert_ids_to_tokens(any_case.family.special)
    assert "".join(texts[1:]).strip() == "so what was" and not any(model.is_special(torch.tensor(ids)))
    with pytest.raises(ValueError, match="cannot encode the target 'Ψ'"):
        model._target_ids("Ψ")


# Models that write all tokens at once


@pytest.mark.parametrize("n_samples", LENGTHS)
def test_frames_are_those_of_the_plain_forward(ctc_case, audio, n_samples):
    """And what is written is the best path through them."""
    model, inputs = ctc_case.adapter, ctc_case.inputs(audio[:n_samples])
    utterance = model.utterance(audio[:n_samples])
    with torch.no_grad():
        ours = model.encode(utterance.spectrogram, utterance)
        plain = ctc_case.plain(**inputs).logits[:, : ours.shape[1]]
    n_valid = (
        ctc_case.plain._get_output_attention_mask(inputs.attention_mask).sum()
        if ctc_case.family.make is parakeet
        else inputs.attention_mask.sum()
    )
    assert ours.shape[1] == n_valid
    torch.testing.assert_close(ours.log_softmax(-1), plain.log_softmax(-1), atol=1e-5, rtol=0)
    tokens = model.generate(utterance)
    expected = [token for token, _ in itertools.groupby(plain[0].argmax(-1).tolist()) if token != model.blank]
    assert tokens.generated and tokens.target.tolist() == expected and not len(tokens.previous)
    log_probs = ours[0].log_softmax(-1)
    assert torch.equal(tokens.path, best_path(log_probs, tokens.target, model.blank))
    assert model.logits(ours, tokens).shape == (1, int((tokens.path >= 0).sum()), ours.shape[2])


def test_best_path_is_the_best_of_all():
    """Among all paths of five frames that collapse to two tokens, equal or not."""
    torch.manual_seed(0)
    for ids in ([1, 2], [1, 1], [2]):
        log_probs = torch.randn(5, 3).log_softmax(-1)
        paths = [p for p in itertools.product(range(3), repeat=5) if collapse(torch.tensor(p), 0)[0].tolist() == ids]
        best = max(paths, key=lambda path: sum(log_probs[frame, token] for frame, token in enumerate(path)))
        found = best_path(log_probs, torch.tensor(ids), 0)
        assert torch.equal(found, collapse(torch.tensor(best), 0)[1])
        likelihood = CTCLogLikelihood(lambda frames: frames, torch.tensor(ids), 0)(log_probs[None])
        each = torch.stack([log_probs[torch.arange(5), torch.tensor(path)].sum() for path in paths])
        torch.testing.assert_close(likelihood, each.logsumexp(0)[None])
    with pytest.raises(ValueError, match="3 tokens, too many for 4 frames"):
        best_path(torch.randn(4, 3).log_softmax(-1), torch.tensor([1, 1, 1]), 0)


def explain_ctc(case, audio, score=None, **arguments):
    mask = functools.partial(grid_feature_mask, patch_size=(20, 40))
    return SpeechToTextAttribution(SPES(case.adapter), score=score).attribute(
        audio, sampling_rate=16000, n_samples=8, feature_mask=mask, **arguments
    )


@pytest.mark.filterwarnings("ignore:the maps of Feature Ablation are the same everywhere")
def test_a_token_is_the_mean_of_its_frames(ctc_case, audio):
    """One patch hidden: the impact on a token is the mean divergence over the frames of the best path."""
    model = ctc_case.adapter
    utterance, tokens = model.utterance(audio), model.tokens("so", model.utterance(audio))
    explanation = SpeechToTextAttribution(FeatureAblation(model)).attribute(
        utterance, tokens, feature_mask=torch.zeros(1, *utterance.spectrogram.shape[1:]).long()
    )
    with torch.no_grad():
        heard, hidden = (
            model.encode(s, utterance)[0].log_softmax(-1)
            for s in (utterance.spectrogram, torch.zeros_like(utterance.spectrogram))
        )
    divergence = (heard.exp() * (heard - hidden)).sum(-1)
    assert len(explanation.tokens) == len(tokens.target)
    for token, found in enumerate(explanation.spectrogram_attr):
        torch.testing.assert_close(found[0, 0], divergence[tokens.path == token].mean(), atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:the maps are noisy")
def test_there_are_no_previous_tokens(ctc_case, audio, tmp_path):
    explanation = explain_ctc(ctc_case, audio[:9500], target="so what")
    n_tokens = len(explanation.tokens)
    assert explanation.previous_tokens == [] and explanation.token_attr.shape == (n_tokens, 0)
    assert "no previous tokens" in repr(explanation) and "previous tokens" not in explanation.metadata["done"]
    assert explanation.metadata["token_arguments"] == {}
    explanation.save(tmp_path / "e.safetensors")
    loaded = SpeechToTextExplanation.load(tmp_path / "e.safetensors")
    assert loaded.token_attr.shape == (n_tokens, 0) and torch.equal(
        loaded.spectrogram_attr, explanation.spectrogram_attr
    )
    maps = explanation.normalize().spectrogram_attr
    assert (maps.amin((1, 2)) == 0).all() and torch.allclose(maps.amax((1, 2)), torch.ones(n_tokens))
    for words in (explanation.words(), explanation.words(group_previous=True)):
        assert words.tokens == ["so", "what"] and words.token_attr.shape == (2, 0)
    assert explanation.sentence().token_attr.shape == (1, 0)
    explanation.plot_tokens()
    for refused in (explanation.top_previous_tokens, explanation.plot_previous_tokens):
        with pytest.raises(ValueError, match="there are no previous tokens: the model writes all tokens at once"):
            refused()
    with pytest.raises(ValueError, match="no size of their map"):
        size(explanation, inputs="tokens")
    utterance, tokens = restore(ctc_case.adapter, explanation)
    assert torch.equal(tokens.path, ctc_case.adapter.tokens("so what", utterance).path)
    curve = deletion(ctc_case.adapter, explanation, percentages=(0, 100))
    assert len(curve.texts[0]) == 2 and infidelity(ctc_case.adapter, explanation, n_perturb_samples=4).shape == (
        n_tokens,
    )


@pytest.mark.filterwarnings("ignore:the maps are noisy")
def test_the_command_line_says_that_there_are_none(ctc_case, audio, tmp_path, monkeypatch, capsys):
    soundfile.write(tmp_path / "speech.wav", audio, 16000)
    arguments = [
        "explain",
        tmp_path / "speech.wav",
        "--model",
        ctc_case.adapter.name,
        "--target",
        "so",
        "-o",
        tmp_path / "out",
    ]
    monkeypatch.setattr(sys, "argv", ["captum-spes", *map(str, arguments), "--n-samples", "6"])
    with contextlib.suppress(SystemExit):
        main()
    assert "There are no previous tokens to explain them" in capsys.readouterr().out
    written = {path.stem for path in (tmp_path / "out").iterdir()}
    assert {"tokens", "words", "sentence", "explanation"} < written and "previous_tokens" not in written


@pytest.mark.filterwarnings("ignore:the maps are noisy")
def test_sizes_of_ctc_are_of_the_spectrogram_alone(ctc_case, audio, tmp_path):
    (tmp_path / "speech").mkdir()
    soundfile.write(tmp_path / "speech" / "one.wav", audio, 16000)
    (tmp_path / "speech" / "one.txt").write_text("so what")
    methods = {name: METHODS[name] for name in ("random", "energy")}
    evaluation = Evaluation(
        ctc_case.adapter, load_corpus(tmp_path / "speech"), methods, tmp_path / "out", metrics=("size",)
    )
    evaluation.run()
    assert evaluation.results().metrics == ["size"]


@pytest.mark.filterwarnings("ignore:the maps are noisy")
def test_other_methods_and_scores_of_ctc(ctc_case, audio):
    gradients = SpeechToTextAttribution(IntegratedGradients(ctc_case.adapter)).attribute(
        audio, "so", sampling_rate=16000, n_steps=2
    )
    assert gradients.spectrogram_attr.abs().sum() > 0
    text = explain_ctc(ctc_case, audio, CTCLogLikelihood, target="so what")
    assert text.tokens == ["so what"] and text.grouped and text.spectrogram_attr.abs().max() > 0
    assert text.metadata["score"] == "CTCLogLikelihood" and text.token_attr.shape == (1, 0)
    values = explain_ctc(ctc_case, audio, target="so", token_values=True)
    assert values.token_attr.shape[1] == 0


def test_what_ctc_refuses(ctc_case, cases, audio):
    utterance = ctc_case.adapter.utterance(audio)
    with pytest.raises(ValueError, match="no previous tokens to perturb"):
        explain_ctc(ctc_case, audio, target="so", joint=True)
    with pytest.raises(ValueError, match="writes all words at once"):
        explain_ctc(ctc_case, audio, target="so", contrast=Contrast("so", "to"))
    with pytest.raises(ValueError, match="only transcribe its own language"):
        load_model(ctc_case.plain, ctc_case.processor, language="de")
    with pytest.raises(ValueError, match="holds the blank"):
        ctc_case.adapter.tokens([10, ctc_case.adapter.blank], utterance)
    with pytest.raises(ValueError, match="gen_args cannot hold num_beams"):
        ctc_case.adapter.generate(utterance, num_beams=5)
    with pytest.raises(ValueError, match="too many for .* frames"):
        ctc_case.adapter.tokens([10] * 40, utterance)
    with pytest.raises(ValueError, match="CTCLogLikelihood is a score of CTC models"):
        explain_ctc(cases("speech2text"), audio, CTCLogLikelihood, target="so")


# Audio language models


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


# What the families do not share


@pytest.fixture
def voxtral_processor(tmp_path):
    """Voxtral's own processor, with Mistral's marks and a token for each byte."""
    base = pytest.importorskip("mistral_common.tokens.tokenizers.base", reason="needs the extra voxtral")
    from transformers.tokenization_mistral_common import MistralCommonBackend

    marks = ["<unk>", "<s>", "</s>"]
    marks += [mark.value for mark in base.SpecialTokens if mark.value not in marks]
    content = {
        "config": {
            "pattern": r"\s?\S+|\s+",
            "num_vocab_tokens": 256,
            "default_vocab_size": 256 + len(marks),
            "default_num_special_tokens": len(marks),
            "version": "v7",
        },
        "vocab": [{"rank": i, "token_bytes": b64encode(bytes([i])).decode(), "token_str": None} for i in range(256)],
        "special_tokens": [{"rank": rank, "token_str": mark, "is_control": True} for rank, mark in enumerate(marks)],
        "audio": {
            "sampling_rate": 16000,
            "frame_rate": 12.5,
            "audio_encoding_config": {"num_mel_bins": 80, "window_size": 400, "hop_length": 160},
        },
    }
    (tmp_path / "tekken.json").write_text(json.dumps(content))
    features = transformers.WhisperFeatureExtractor(feature_size=80, chunk_length=1)
    return transformers.VoxtralProcessor(features, MistralCommonBackend(tokenizer_path=tmp_path / "tekken.json"))


@pytest.mark.filterwarnings("ignore:the maps are noisy")
@pytest.mark.parametrize("language, request_text", [(None, ""), ("de", "lang:de")])
def test_voxtrals_request(voxtral_processor, audio, language, request_text):
    """The instruction is the one that its tokenizer makes for a transcript, and its tokens are read and written."""
    torch.manual_seed(0)
    config = transformers.VoxtralConfig(
        audio_config={"model_type": "voxtral_encoder", **AUDIO, "intermediate_size": 32},
        text_config={"model_type": "llama", **TEXT, "head_dim": 8, "vocab_size": 300},
        audio_token_id=22,
    )
    model = load_model(
        transformers.VoxtralForConditionalGeneration(config).eval(), voxtral_processor, language=language
    )
    asked = "".join(model.token_texts(torch.tensor([*model._before, 22, *model._after])))
    assert asked == f"<s>[INST][BEGIN_AUDIO][AUDIO][/INST]{request_text}[TRANSCRIBE]"
    explanation = SpeechToTextAttribution(SPES(model)).attribute(
        audio, "so what", sampling_rate=16000, n_samples=8, n_token_samples=4
    )
    assert explanation.text == "so what" and explanation.words().tokens == ["so", "what"]
    with pytest.raises(ValueError, match="asked for transcripts alone"):
        load_model(model.model, voxtral_processor, task="translate")


def test_speech2text_languages(audio):
    torch.manual_seed(0)
    plain, processor = speech2text()
    with pytest.raises(ValueError, match="knows no language 'de': it writes one only"):
        load_model(plain, processor, language="de")
    processor.tokenizer.lang_code_to_id = {"de": 20, "fr": 21}
    with pytest.raises(ValueError, match="writes several languages: give language, one of de, fr"):
        load_model(plain, processor)
    with pytest.raises(ValueError, match="knows no language 'xx': give one of de, fr"):
        load_model(plain, processor, language="xx")
    model = load_model(plain, processor, language="fr")
    generated = model.generate(model.utterance(audio), max_new_tokens=6)
    features = processor.feature_extractor(audio, sampling_rate=16000, return_tensors="pt")
    output = plain.eval().generate(**features, forced_bos_token_id=21, max_new_tokens=7)
    assert output[0].tolist() == [2, 21, *generated.target.tolist()]
    plain.generation_config.forced_bos_token_id = 20
    assert load_model(plain, processor).tokens([10], model.utterance(audio)).prompt.tolist() == [2, 20]


def test_seamless_languages(cases):
    case = cases("seamless")
    with pytest.raises(ValueError, match="writes many languages: give language, one of deu, eng"):
        load_model(case.plain, case.processor)
    with pytest.raises(ValueError, match="knows no language 'de': give language, one of deu, eng"):
        load_model(case.plain, case.processor, language="de")


def test_seamless_hears_pairs_of_frames(cases, audio):
    """The last of 57 frames is no part of the utterance, but of a pair that the model is told not to hear."""
    model = cases("seamless").adapter
    utterance = model.utterance(audio[:9500])
    assert utterance.spectrogram.shape[1] == 56 and utterance.padding.shape[1] == 2
    features = torch.cat((utterance.spectrogram, utterance.padding[:, :1]), 1)
    again = model.from_features(features)
    tokens = model.tokens([10, 11], utterance)
    with torch.no_grad():
        ours, theirs = (model.logits(model.encode(u.spectrogram, u), tokens) for u in (utterance, again))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="1 frames are too short"):
        model.from_features(features[:, :1])


def test_a_missing_tokenizer_package_is_named(cases, tmp_path):
    if importlib.util.find_spec("sentencepiece"):
        pytest.skip("sentencepiece is installed")
    case = cases("speech2text")
    case.plain.save_pretrained(tmp_path)
    case.processor.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Speech2TextTokenizer"}))
    with pytest.raises(ImportError, match=r"pip install 'captum-spes\[speech2text\]'.*SentencePiece"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["canary", "parakeet"])
def test_a_missing_feature_package_is_named(cases, tmp_path, monkeypatch, name):
    """As Transformers before 5.23 misses it."""
    case = cases(name)
    case.plain.save_pretrained(tmp_path)
    case.processor.save_pretrained(tmp_path)

    def missing(*args, **kwargs):
        raise ImportError("\nParakeetFeatureExtractor requires the librosa library but it was not found\n")

    monkeypatch.setattr(transformers.ParakeetFeatureExtractor, "__init__", missing)
    with pytest.raises(ImportError, match=r"pip install 'captum-spes\[nemo\]'.*librosa"):
        load_model(tmp_path)


@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value)")
def test_speech2text_refuses_what_it_cannot_normalise(cases):
    with pytest.raises(ValueError, match="mel channel of the audio is constant"):
        cases("speech2text").adapter.utterance(np.full(9600, 0.1, np.float32))


@pytest.mark.parametrize(
    ("language", "task", "prompt"),
    [(None, "transcribe", "en en"), ("de", "translate", "de en"), ("en-de", "transcribe", "en de")],
)
def test_canary_languages(cases, audio, language, task, prompt):
    case = cases("canary")
    model = load_model(case.plain, case.processor, language=language, task=task)
    texts = model.token_texts(model.tokens([10], model.utterance(audio)).prompt)
    assert texts == ["<|start|>", *(f"<|{code}|>" for code in prompt.split()), "<|pnc|>"]
    with pytest.raises(ValueError, match="cannot write 'xx' of 'en'"):
        load_model(case.plain, case.processor, language="en-xx")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (transformers.MoonshineConfig, "MoonshineConfig hear the waveform, not a spectrogram, and are not supported"),
        (transformers.BertConfig, "BertConfig are not supported: the supported families are Whisper, Speech2Text,"),
    ],
)
def test_unsupported_classes(config, words, tmp_path):
    config(architectures=[config.__name__]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=words + ".* implement captum_spes.models.SpeechToTextModel"):
        load_model(tmp_path)


def test_another_class_of_a_family(cases):
    case = cases("speech2text")
    with pytest.raises(
        ValueError, match="Speech2Text give a Speech2TextForConditionalGeneration, not a Speech2TextMod"
    ):
        load_model(case.plain.model, case.processor)
    with pytest.raises(ValueError, match="or its feature extractor alone, not str"):
        load_model(case.plain, "a processor")


@pytest.mark.filterwarnings("ignore:the maps are noisy")
def test_a_text_of_ctc_as_a_whole(ctc_case, audio, tmp_path):
    """Its score is the sum of the tokens', so that its map is the sum of theirs; and gradients need one backward."""
    tokens, text = (explain_ctc(ctc_case, audio, target="so what", sentence=flag) for flag in (False, True))
    assert text.tokens == ["so what"] and text.grouped and text.token_attr.shape == (1, 0)
    torch.testing.assert_close(text.spectrogram_attr[0], tokens.spectrogram_attr.sum(0), rtol=1e-4, atol=1e-6)
    text.save(tmp_path / "text.safetensors")
    loaded = SpeechToTextExplanation.load(tmp_path / "text.safetensors")
    assert torch.equal(loaded.spectrogram_attr, text.spectrogram_attr)
    assert len(deletion(ctc_case.adapter, text, percentages=(0, 100)).texts[0]) == 2
    drawn = SpeechToTextAttribution(GradientSPES(ctc_case.adapter)).attribute(
        audio, "so what", sampling_rate=16000, n_samples=4, sentence=True
    )
    assert drawn.metadata["passes"]["spectrogram"]["backward"] == 4 and drawn.spectrogram_attr.abs().max() > 0
