"""A tiny random model of each family."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

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
