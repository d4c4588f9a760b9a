"""Files, pictures, warnings, and patches by the number of samples."""

import warnings
from functools import partial

import pytest
import torch
from captum.attr import FeatureAblation, Lime, Occlusion
from toys import COUNTED, IDS, lime, wrapped

from captum_spes import (
    SPES,
    GradientSPES,
    SpeechToTextAttribution,
    SpeechToTextExplanation,
    TokenProbability,
    slic_feature_mask,
)
from captum_spes.speech_to_text.profiles import default_patches
from captum_spes.speech_to_text.targets import Contrast


@pytest.mark.parametrize("contrast", [None, Contrast("was", "so")])
@pytest.mark.parametrize("name", ["IntegratedGradients", "BubbleNoise", "Lime", "NoiseTunnel", "Occlusion"])
def test_files_and_pictures(tiny_model, sentence, tmp_path, name, contrast):
    method, arguments = COUNTED[name]
    explanation = wrapped(method, tiny_model).attribute(*sentence, contrast=contrast, **arguments)
    explanation.save(tmp_path / "e.safetensors")
    loaded = SpeechToTextExplanation.load(tmp_path / "e.safetensors")
    assert loaded.metadata == explanation.metadata and loaded.tokens == explanation.tokens
    assert (loaded.feature_mask is None) == (explanation.feature_mask is None) == (name != "Lime")
    assert (loaded.metadata["contrast"] is None) == (contrast is None)
    for field in ("spectrogram_attr", "token_attr", "n_previous", "spectrogram"):
        assert torch.equal(getattr(loaded, field), getattr(explanation, field))
    if name == "IntegratedGradients":
        assert loaded.spectrogram_attr.min() < 0 < loaded.spectrogram_attr.max()
    figure = loaded.plot_tokens()
    titles = [axes.get_title() for axes in figure.axes]
    assert sum(bool(title) for title in titles) >= len(loaded.tokens)
    figure.canvas.draw()


def test_maps_that_say_nothing_are_warned_of(tiny_model, audio):
    with pytest.warns(UserWarning, match="maps of Lime are the same everywhere.*smaller penalty"):
        wrapped(Lime, tiny_model, TokenProbability).attribute(audio, IDS, sampling_rate=16000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explanation = wrapped(lime, tiny_model).attribute(audio, IDS, sampling_rate=16000)
    assert explanation.spectrogram_attr.std() > 0


@pytest.mark.parametrize(
    ("n_samples", "seconds", "patches"),
    [
        (20_000, 7.5, (400, 500, 600)),  # the paper's
        (3_750, 7.5, (400, 500, 600)),  # as many as there are patches
        (1_000, 4.0, (200, 250, 300)),
        (144, 4.0, (32, 40, 48)),
        (1, 0.5, (32, 40, 48)),
    ],
)
def test_patches_are_as_many_as_the_samples_can_tell_apart(n_samples, seconds, patches):
    assert default_patches(SPES(None), {"n_samples": n_samples}, seconds) == patches


def test_only_spes_has_patches_by_its_samples():
    assert default_patches(SPES(None), {}, 3.0) == (400, 500, 600)
    assert default_patches(GradientSPES(None), {"n_samples": 6}, 3.0) == (400, 500, 600)
    assert default_patches(FeatureAblation(None), {}, 3.0) == (60,)
    assert default_patches(Occlusion(None), {}, 3.0) is None


def test_few_samples_have_large_patches(tiny_model, audio):
    few, given = (
        SpeechToTextAttribution(SPES(tiny_model)).attribute(
            audio, IDS, sampling_rate=16000, n_samples=48, n_token_samples=4, feature_mask=mask
        )
        for mask in (None, partial(slic_feature_mask, patches_per_second=500))
    )
    assert few.metadata["feature_mask"]["patches_per_second"] == "(64, 80, 96)"  # of 0.6 s
    assert given.metadata["feature_mask"]["patches_per_second"] == "500"
