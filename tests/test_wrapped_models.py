"""Models that are wrapped, adapted, without weights or quantised; and attributions that are pickled."""

import copy
import json
import pickle
import warnings
from types import SimpleNamespace

import pytest
import torch
from captum.attr import FeatureAblation, IntegratedGradients, NoiseTunnel, Saliency

from captum_spes import SPES, BubbleNoise, GradientSPES, SpeechToTextAttribution
from captum_spes.models import load_model

pytestmark = pytest.mark.filterwarnings("ignore:the maps are noisy", "ignore::DeprecationWarning")


@pytest.mark.parametrize(
    "wrap",
    [
        torch.compile,
        torch.nn.DataParallel,
        lambda model: torch.compile(torch.nn.DataParallel(model)),
    ],
)
def test_wrappers_are_taken_off(tiny_whisper, tiny_processor, wrap):
    assert load_model(wrap(tiny_whisper), tiny_processor).model is tiny_whisper


def test_low_rank_adapters_are_run(tiny_whisper, tiny_processor, audio):
    peft = pytest.importorskip("peft")
    before = load_model(copy.deepcopy(tiny_whisper), tiny_processor)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(copy.deepcopy(tiny_whisper), config)
    found = load_model(adapted, tiny_processor)
    merged = load_model(copy.deepcopy(adapted).merge_and_unload(), tiny_processor)
    maps = [
        SpeechToTextAttribution(Saliency(model)).attribute(audio, "so what", sampling_rate=16000).spectrogram_attr
        for model in (before, found, merged)
    ]
    torch.testing.assert_close(maps[1], maps[2], rtol=1e-3, atol=1e-5 * float(maps[2].abs().max()))
    assert not torch.allclose(maps[0], maps[1], rtol=0.1)


def test_learned_prompts_are_refused(tiny_whisper, tiny_processor):
    model = SimpleNamespace(peft_config={"default": SimpleNamespace(is_prompt_learning=True)}, get_base_model=None)
    with pytest.raises(ValueError, match="a PEFT model with learned prompts cannot be explained"):
        load_model(model, tiny_processor)


def test_a_pipeline_is_refused(tiny_whisper, tiny_processor):
    pipeline = SimpleNamespace(model=tiny_whisper, feature_extractor=tiny_processor.feature_extractor)
    with pytest.raises(ValueError, match="a pipeline is not a model: give its parts"):
        load_model(pipeline, tiny_processor)


@pytest.mark.parametrize("config", ['{"base_model_name_or_path": "openai/whisper-tiny"}', "{", "[]"])
def test_a_folder_with_an_adapter_alone(tmp_path, config):
    (tmp_path / "adapter_config.json").write_text(config)
    base = "openai/whisper-tiny" if "openai" in config else "a model"
    with pytest.raises(ValueError, match=f"holds an adapter of {base} and no model: merge the adapter"):
        load_model(tmp_path)


@pytest.mark.parametrize("part", ["model", "model.encoder.layers.0"])
def test_a_model_without_values_is_refused(tiny_whisper, tiny_processor, part):
    tiny_whisper.get_submodule(part).to("meta")
    with pytest.raises(ValueError, match="is on the meta device and has no values"):
        load_model(tiny_whisper, tiny_processor)


@pytest.fixture
def quantized(tiny_whisper, tiny_processor):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(tiny_whisper, {torch.nn.Linear}, dtype=torch.qint8)
    return load_model(model, tiny_processor)


@pytest.mark.parametrize("method", [GradientSPES, IntegratedGradients, lambda model: NoiseTunnel(Saliency(model))])
def test_gradients_of_quantized_layers_are_refused(quantized, method):
    with pytest.raises(ValueError, match="needs gradients, and none flow through the quantised layers"):
        SpeechToTextAttribution(method(quantized))


def test_quantized_layers_can_be_perturbed(quantized, tiny_model, audio):
    """The maps are those of the model in float32, but for rounding.

    Eight bits round weights and activations by about 1 % of their standard deviation. In two dozen layers this adds up
    to about 7 % of the maps, or 20 % of their standard deviation, which leaves a correlation of 1 - 0.2² / 2 = 0.98.
    The bound allows for twice the rounding. Maps of another seed correlate at 0.5.
    """
    arguments = {"sampling_rate": 16000, "n_samples": 30, "n_token_samples": 20}
    rounded, exact = (
        SpeechToTextAttribution(SPES(model)).attribute(audio, "so what", **arguments)
        for model in (quantized, tiny_model)
    )
    for maps in zip(rounded.spectrogram_attr.flatten(1), exact.spectrogram_attr.flatten(1), strict=True):
        assert 0.9 < torch.corrcoef(torch.stack(maps))[0, 1] < 1


@pytest.mark.parametrize(
    "method",
    [SPES, GradientSPES, BubbleNoise, FeatureAblation, IntegratedGradients, lambda model: NoiseTunnel(Saliency(model))],
)
def test_attributions_can_be_pickled(tiny_model, audio, method):
    attribution = SpeechToTextAttribution(method(tiny_model))
    for given in (attribution, attribution.attr_method):
        restored = pickle.loads(pickle.dumps(given))
        assert type(restored) is type(given)
    assert restored.forward_func.model.config.to_dict() == tiny_model.model.config.to_dict()


def test_a_pickled_attribution_gives_the_same_maps(tiny_model, audio):
    attribution = SpeechToTextAttribution(SPES(tiny_model))
    arguments = {"sampling_rate": 16000, "n_samples": 30, "n_token_samples": 20}
    before = attribution.attribute(audio, "so what", **arguments)
    restored = pickle.loads(pickle.dumps(attribution))
    after = restored.attribute(audio, "so what", **arguments)
    assert torch.equal(before.spectrogram_attr, after.spectrogram_attr)
    assert json.dumps(before.metadata, default=str) == json.dumps(after.metadata, default=str)
    again = pickle.loads(pickle.dumps(after))
    assert torch.equal(again.spectrogram_attr, after.spectrogram_attr) and again.metadata == after.metadata
