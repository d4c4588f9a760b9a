"""Details of single families."""

import importlib.util
import json
from base64 import b64encode

import numpy as np
import pytest
import torch
from family_cases import AUDIO, TEXT, speech2text, transformers

from captum_spes import SPES, SpeechToTextAttribution
from captum_spes.models import load_model
from captum_spes.models.protocol import text_language


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
    with pytest.raises(ValueError, match="can only transcribe"):
        load_model(model.model, voxtral_processor, task="translate")


def test_speech2text_languages(audio):
    torch.manual_seed(0)
    plain, processor = speech2text()
    with pytest.raises(ValueError, match="knows no language 'de': it writes only one"):
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
    """The last of 57 frames does not belong to the utterance, but to a pair that is masked."""
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
    assert text_language(model, model.tokens([10], model.utterance(audio))) == prompt[-2:]
    with pytest.raises(ValueError, match="cannot write 'xx' from 'en'"):
        load_model(case.plain, case.processor, language="en-xx")
    with pytest.raises(ValueError, match="cannot translate 'en' into itself: give the language of the speech"):
        load_model(case.plain, case.processor, task="translate")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            transformers.MoonshineConfig,
            "MoonshineConfig take the waveform and not a spectrogram as input, and are not supported",
        ),
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
