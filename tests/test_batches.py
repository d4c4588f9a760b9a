"""Batches: methods that run out of memory, and the choice of the batch size."""

import pytest
import torch

from captum_spes import SPES, BubbleNoise, GradientSPES
from captum_spes.attr.batches import fastest_batch_size

METHODS = [SPES, BubbleNoise, GradientSPES]
TOO_LARGE = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    MemoryError(),
]


def scores(x):
    return x.sin().flatten(1).cumsum(1)[:, ::7]


@pytest.mark.filterwarnings("ignore:.*continues with [12]")
@pytest.mark.parametrize("error", TOO_LARGE, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_that_does_not_fit_is_halved(method, error):
    spectrogram = torch.rand(1, 6, 4, generator=torch.Generator().manual_seed(0)).double()
    sizes, seen = [], []

    def limited(x):
        sizes.append(len(x))
        if len(x) > 3:
            raise error
        return scores(x)

    with pytest.warns(UserWarning, match="ran out of memory with 8 perturbations in a batch and continues with 4"):
        found = method(limited).attribute(
            spectrogram, n_samples=20, perturbations_per_eval=8, callback=lambda *done: seen.append(done)
        )
    assert max(sizes) == 8 and sizes.count(8) == 1 and sizes[-1] in (1, 2)
    assert seen[-1] == (20, 20)
    torch.testing.assert_close(found, method(scores).attribute(spectrogram, n_samples=20))


@pytest.mark.parametrize("method", METHODS)
def test_one_perturbation_that_does_not_fit_is_an_error(method):
    calls = []

    def never(x):
        calls.append(len(x))
        if len(calls) > 1:  # not the unperturbed input
            raise torch.OutOfMemoryError("CUDA out of memory")
        return scores(x)

    with pytest.raises(torch.OutOfMemoryError):
        method(never).attribute(torch.rand(1, 6, 4), n_samples=4)


@pytest.mark.parametrize("method", METHODS)
def test_other_errors_are_no_question_of_size(method):
    sizes = []

    def broken(x):
        sizes.append(len(x))
        if len(x) > 1:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        return scores(x)

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        method(broken).attribute(torch.rand(1, 6, 4), n_samples=9, perturbations_per_eval=8)
    assert sizes.count(8) == 1


@pytest.mark.parametrize(
    "seconds, best",
    [
        (lambda n: 0.1 * n, 1),  # a processor that is busy with one
        (lambda n: 0.5 + 0.1 * n, 64),  # a device that is idle for most of the time: as many as are tried
        (lambda n: max(1.0, 0.25 * n), 4),  # one that is busy with four
    ],
)
def test_the_batch_grows_while_that_is_faster(monkeypatch, seconds, best):
    clock = [0.0]
    monkeypatch.setattr("captum_spes.attr.batches.time.perf_counter", lambda: clock[0])

    def evaluate(n):
        clock[0] += seconds(n)

    assert fastest_batch_size(evaluate) == best


def test_the_batch_grows_until_memory_is_out(monkeypatch):
    def evaluate(n):
        if n > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        clock[0] += 1

    clock = [0.0]
    monkeypatch.setattr("captum_spes.attr.batches.time.perf_counter", lambda: clock[0])
    assert fastest_batch_size(evaluate) == 8
