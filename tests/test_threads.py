"""Threads that share a model."""

import copy
import multiprocessing
import os
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
import torch
from captum.attr import IntegratedGradients, NoiseTunnel, Saliency, ShapleyValueSampling
from test_numerics import with_infinite_gradients

from captum_spes import SPES, GradientSPES, SpeechToTextAttribution
from captum_spes.attr import AttnLRP, CrossAttention
from captum_spes.metrics import comprehensiveness
from captum_spes.models import load_model
from captum_spes.models.threads import exclusive
from captum_spes.speech_to_text.numerics import _FiniteGradients
from captum_spes.speech_to_text.passes import _Differentiable

IDS = [60, 61, 62, 63]
# contexts, methods and their arguments: passes that change the model, and methods that draw from torch's own generator
JOBS = [
    ("frozen", SPES, {"n_samples": 30}),
    ("full", GradientSPES, {"n_samples": 6}),
    ("unperturbed", AttnLRP, {}),
    ("full", ShapleyValueSampling, {"n_samples": 2}),
    ("frozen", GradientSPES, {"n_samples": 6}),
    ("full", CrossAttention, {}),
    ("full", lambda model: NoiseTunnel(Saliency(model)), {"nt_samples": 4}),
    ("full", SPES, {"n_samples": 30}),
    ("unperturbed", IntegratedGradients, {"n_steps": 4}),
]


@pytest.fixture
def _switches_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.filterwarnings("ignore:the maps")
@pytest.mark.usefixtures("_switches_often")
def test_threads_explain_as_one_thread_does(tiny_whisper, tiny_processor, audio):
    """Two adapters share the model."""
    tiny_whisper.generation_config.alignment_heads = [[1, 0]]
    models = [load_model(tiny_whisper, tiny_processor) for _ in range(2)]

    def explain(thread):
        model, samples = models[thread], (audio, audio[:8000] / 2)[thread]
        found = []
        for context, method, arguments in (JOBS, JOBS[::-1])[thread]:
            attribution = SpeechToTextAttribution(method(model))
            explanation = attribution.attribute(samples, IDS, sampling_rate=16000, context=context, **arguments)
            falls = comprehensiveness(model, explanation, percentages=[10, 20]).falls[0]
            found.append((explanation.spectrogram_attr, explanation.token_attr, falls))
        return found

    alone = [explain(thread) for thread in range(2)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(explain, range(2)))
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny_whisper.modules())
    torch.testing.assert_close(explain(0), alone[0], rtol=0, atol=0)  # the model is as before


def test_a_pass_waits_for_another_thread(tiny_model, audio):
    utterance = tiny_model.utterance(audio)
    with ThreadPoolExecutor(1) as pool:
        with exclusive():
            tiny_model.encode(utterance.spectrogram, utterance)
            other = pool.submit(tiny_model.encode, utterance.spectrogram, utterance)
            assert not wait([other], timeout=0.3).done
            copies = copy.deepcopy(tiny_model), pickle.loads(pickle.dumps(tiny_model))
        expected = other.result(timeout=60).hidden
    for model in copies:
        assert torch.equal(model.encode(utterance.spectrogram, utterance).hidden, expected)


class OwnGradients(Saliency):
    """Calls autograd by itself, so that the gradients of all tokens are computed in its backward pass."""

    def attribute(self, inputs, **arguments):
        return torch.autograd.grad(self.forward_func(inputs).sum(), inputs)[0]


def in_own_thread(backward):
    return staticmethod(lambda *args: ThreadPoolExecutor(1).submit(backward, *args).result(timeout=60))


def test_a_backward_pass_may_run_in_a_thread_of_its_own(tiny_model, audio, monkeypatch):
    """As autograd does on a GPU."""
    expected = SpeechToTextAttribution(Saliency(tiny_model)).attribute(audio, IDS, sampling_rate=16000, abs=False)
    monkeypatch.setattr(_Differentiable, "backward", in_own_thread(_Differentiable.backward))
    found = SpeechToTextAttribution(OwnGradients(tiny_model)).attribute(audio, IDS, sampling_rate=16000)
    torch.testing.assert_close(found.spectrogram_attr, expected.spectrogram_attr)


@pytest.mark.filterwarnings("ignore:the maps are noisy", "ignore:.* overflows in bfloat16")
def test_gradients_that_overflow_may_be_computed_again_in_a_thread_of_their_own(tiny_model, audio, monkeypatch):
    def attribute(**arguments):
        attribution = SpeechToTextAttribution(GradientSPES(tiny_model))
        return attribution.attribute(audio, IDS, sampling_rate=16000, n_samples=8, **arguments).spectrogram_attr

    expected = attribute()
    with_infinite_gradients(monkeypatch, tiny_model)
    monkeypatch.setattr(_FiniteGradients, "backward", in_own_thread(_FiniteGradients.backward))
    found = attribute(dtype=torch.bfloat16)
    assert torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1] > 0.98


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # since Python 3.12
def test_a_forked_process_does_not_wait_for_a_thread_that_it_lacks():
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with exclusive():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait()
    worker = multiprocessing.get_context("fork").Process(target=_enter)
    worker.start()
    worker.join(30)
    leave.set()
    thread.join()
    assert worker.exitcode == 0


def _enter():
    with exclusive():
        pass
