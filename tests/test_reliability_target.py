"""Explanations that end at a reliability, and maps that are pooled over the finest reliable patches."""

from functools import partial

import pytest
import torch

from captum_spes import SPES, GradientSPES, SpeechToTextAttribution, slic_feature_mask
from captum_spes.speech_to_text.profiles import coarser_masks


@pytest.fixture
def explain(tiny_model, audio):
    def explain(method=GradientSPES, **arguments):
        attribution = SpeechToTextAttribution(method(tiny_model))
        return attribution.attribute(audio, [60, 61, 62], sampling_rate=16000, n_token_samples=8, **arguments)

    return explain


@pytest.mark.filterwarnings("ignore:the maps are noisy")
def test_a_run_ends_at_the_reliability(explain):
    """What is done until then is what a run of so many samples does."""
    whole = explain(SPES, n_samples=600)
    target = float(whole.reliability.mean()) / 2
    ended = explain(SPES, n_samples=600, min_reliability=target)
    n_done = ended.metadata["done"]["spectrogram"]
    assert n_done < 600 and not ended.metadata["partial"] and float(ended.reliability.mean()) >= target
    assert torch.equal(ended.feature_mask, whole.feature_mask)
    again = explain(SPES, n_samples=n_done, feature_mask=ended.feature_mask[:, None])
    assert torch.equal(again.spectrogram_attr, ended.spectrogram_attr)


@pytest.mark.filterwarnings("ignore:the maps are noisy")
def test_patches_are_as_fine_as_is_reliable(explain):
    fine = explain(n_samples=9)
    coarse = explain(n_samples=9, min_reliability=0.999)
    fixed = explain(n_samples=9, min_reliability=0.999, adapt_patches=False)
    assert coarse.metadata["done"]["spectrogram"] == 9
    assert torch.equal(fixed.spectrogram_attr, fine.spectrogram_attr)
    assert max(coarse.metadata["patches_per_second"]) < min(fine.metadata["patches_per_second"])
    assert coarse.feature_mask.shape == fine.feature_mask.shape
    assert float(coarse.reliability.mean()) >= float(fine.reliability.mean())


def test_coarser_masks():
    times, channels = torch.arange(200)[:, None], torch.arange(80)
    spectrogram = (torch.sin(times / 7) * torch.cos(channels / 5))[None]
    source = partial(slic_feature_mask, patches_per_second=(400, 500, 600))
    masks = coarser_masks(source, spectrogram, source(spectrogram))
    counts = [len(mask[0].unique()) / 2 for mask in masks]
    assert len(masks) == 5 and counts == sorted(counts, reverse=True) and 20 < counts[-1] < 60
    assert all(mask.shape == masks[0].shape for mask in masks)
    assert coarser_masks(None, spectrogram, masks[0]) == []
    few = partial(slic_feature_mask, patches_per_second=40)
    assert len(coarser_masks(few, spectrogram, few(spectrogram))) == 1


def test_methods_without_halves_refuse_the_target(tiny_model, audio):
    from captum.attr import IntegratedGradients

    attribution = SpeechToTextAttribution(IntegratedGradients(tiny_model))
    with pytest.raises(TypeError, match="takes no min_reliability"):
        attribution.attribute(audio, [60], sampling_rate=16000, min_reliability=0.5)
    with pytest.raises(ValueError, match="min_reliability must lie strictly between 0 and 1"):
        SpeechToTextAttribution(SPES(tiny_model)).attribute(audio, [60], sampling_rate=16000, min_reliability=1.5)
