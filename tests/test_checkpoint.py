"""Runs that are killed and continue from their checkpoint."""

import errno
import math
import multiprocessing
import os
import random
import time
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from captum_spes import SPES, BubbleNoise, Contrast, GradientSPES, SpeechToTextAttribution, grid_feature_mask
from captum_spes.attr import _checkpoint

METHODS = [SPES, BubbleNoise, GradientSPES]
WEIGHTS = torch.linspace(-1, 2, 5 * 60).view(5, 60)
X = torch.rand(1, 10, 6, generator=torch.Generator().manual_seed(0))
MASK = torch.stack([grid_feature_mask(X, size) for size in ((3, 2), (2, 3))])


def scores(x):
    return (x.flatten(1) @ WEIGHTS.T).sin()


def arguments_of(method):
    mask = {} if method is BubbleNoise else {"feature_mask": MASK}
    return {"n_samples": 201, "perturbations_per_eval": 4, "return_reliability": True, **mask}


@pytest.fixture
def every_batch(monkeypatch):
    monkeypatch.setattr(_checkpoint, "SECONDS", 0)
    monkeypatch.setattr(_checkpoint, "PATIENCE", 0)


def stopped(method, path, after=50, forward=scores, **arguments):
    """Leaves a checkpoint behind."""
    method(forward).attribute(
        X, **{**arguments_of(method), **arguments}, checkpoint=path, callback=lambda done, total: done >= after
    )
    assert path.is_file()


# Killed


def in_a_process(method, path, result, pipe, told_at, last):
    """Reports when it reaches one sample, and waits at another one to be killed."""
    _checkpoint.SECONDS = _checkpoint.PATIENCE = 0
    seen = []

    def callback(done, total):
        seen.append(done)
        if done >= told_at and not pipe.closed:
            pipe.send("there")
            pipe.close()
        time.sleep(0.002 if done < last else 600)

    found = method(scores).attribute(X, **arguments_of(method), checkpoint=path, callback=callback)
    torch.save((found, seen[0]), result)


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_is_killed_goes_on_to_the_same_bits(method, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["captum_spes"])
    chance = random.Random(0)

    def start(path, result, told_at=0, last=math.inf):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=in_a_process, args=(method, path, result, sender, told_at, last))
        process.start()
        receiver.recv()
        return process

    start(None, tmp_path / "whole.pt").join()
    path, result = tmp_path / "run.safetensors", tmp_path / "killed.pt"
    for told_at in (20, 60, 100, 140):  # of 201
        process = start(path, result, told_at, last=told_at + 40)
        time.sleep(chance.uniform(0, 0.02))
        process.kill()
        process.join()
    start(path, result).join()
    whole, _ = torch.load(tmp_path / "whole.pt")
    found, first = torch.load(result)
    assert first > 8  # not anew
    torch.testing.assert_close(found, whole, rtol=0, atol=0)
    # no file is left, nor what was half written
    assert {file.name for file in tmp_path.iterdir()} == {"whole.pt", "killed.pt"}


# Stopped


@pytest.mark.usefixtures("every_batch")
@pytest.mark.parametrize("method", METHODS)
def test_a_stop_leaves_the_file_and_the_end_removes_it(method, tmp_path):
    path = tmp_path / "run.safetensors"
    stopped(method, path)
    seen = []
    found = method(scores).attribute(
        X, **arguments_of(method), checkpoint=path, callback=lambda done, total: seen.append(done)
    )
    assert 50 < seen[0] <= 58 and seen[-1] == 201
    assert not list(tmp_path.iterdir())
    torch.testing.assert_close(found, method(scores).attribute(X, **arguments_of(method)), rtol=0, atol=0)


def test_integers_of_numpy_are_numbers(tmp_path):
    path = tmp_path / "run.safetensors"
    stopped(SPES, path, n_samples=np.int64(201), perturbations_per_eval=np.int64(4))
    found = SPES(scores).attribute(X, **arguments_of(SPES), checkpoint=path)
    assert torch.equal(found[0], SPES(scores).attribute(X, **arguments_of(SPES))[0])


def test_short_runs_write_nothing(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(_checkpoint, "write_atomically", lambda *args: written.append(args))
    SPES(scores).attribute(X, n_samples=100, checkpoint=tmp_path / "run.safetensors")
    assert not written and not list(tmp_path.iterdir())


@pytest.mark.usefixtures("every_batch")
@pytest.mark.filterwarnings("ignore:.*ran out of memory")
@pytest.mark.parametrize("method", METHODS)
def test_batches_that_had_to_be_smaller_stay_smaller(method, tmp_path):
    path, sizes = tmp_path / "run.safetensors", []

    def limited(x):
        sizes.append(len(x))
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return scores(x)

    stopped(method, path, forward=limited)
    sizes.clear()
    found = method(limited).attribute(X, **arguments_of(method), checkpoint=path)
    assert max(sizes) == 2
    torch.testing.assert_close(found, method(limited).attribute(X, **arguments_of(method)), rtol=0, atol=0)


# Of another run


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"seed": 1}, "seed was 0 and is 1 now"),
        ({"n_samples": 202}, "n_samples was 201 and is 202 now"),
        ({"perturbation_prob": 0.4}, "perturbation_prob was 0.5 and is 0.4 now"),
        ({"baselines": 1.0}, r"baselines was \[0\] and is \[1.0\] now"),
        ({"inputs": X + 1}, r"inputs was \['float32 \(1, 10, 6\) \w+'\] and is"),
        ({"feature_mask": MASK[:1]}, "feature_mask was"),
        ({"target": 1}, "target was None and is 1 now"),
        ({"additional_forward_args": 2}, r"additional_forward_args was None and is \[2\] now"),
    ],
)
def test_other_arguments_are_refused_with_the_difference(changed, message, tmp_path):
    path = tmp_path / "run.safetensors"
    stopped(SPES, path)
    before = path.read_bytes()
    arguments = {"inputs": X, **arguments_of(SPES), **changed}
    with pytest.raises(ValueError, match=f"run.safetensors is the checkpoint of another run: {message}"):
        SPES(lambda x, *args: scores(x)).attribute(**arguments, checkpoint=path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("method", METHODS)
def test_another_model_is_refused(method, tmp_path):
    path = tmp_path / "run.safetensors"
    stopped(method, path)
    for other in (lambda x: scores(x) * 1.01, lambda x: scores(x)[:, :4]):
        with pytest.raises(ValueError, match=r"another run: the model.* scored .* and .* now"):
            method(other).attribute(X, **arguments_of(method), checkpoint=path)
    # that rounds otherwise
    method(lambda x: scores(x) * (1 + 1e-6)).attribute(X, **arguments_of(method), checkpoint=path)


def test_another_method_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    stopped(SPES, path)
    with pytest.raises(ValueError, match="method was SPES and is GradientSPES now"):
        GradientSPES(scores).attribute(X, **arguments_of(GradientSPES), checkpoint=path)


def damaged(path, how):
    content = path.read_bytes()
    path.unlink()
    if how == "foreign":
        save_file({"weights": torch.ones(3)}, path)
    else:
        path.write_bytes({"empty": b"", "truncated": content[: len(content) // 2], "text": b"no tensors" * 99}[how])


@pytest.mark.parametrize("how", ["empty", "truncated", "text", "foreign"])
def test_files_that_are_no_checkpoints_are_refused(how, tmp_path):
    path = tmp_path / "run.safetensors"
    stopped(SPES, path)
    damaged(path, how)
    with pytest.raises(ValueError, match=r"run.safetensors is not a checkpoint, or it is damaged \(.*\): delete it"):
        SPES(scores).attribute(X, **arguments_of(SPES), checkpoint=path)
    assert path.exists()


def test_a_folder_that_is_not_there_is_an_error_before_the_run(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        SPES(scores).attribute(X, n_samples=10, checkpoint=tmp_path / "nowhere" / "run.safetensors")


# Disks


@pytest.mark.usefixtures("every_batch")
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_run_outlives_its_disk(error, tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    stopped(SPES, path)
    before = path.read_bytes()

    def full(*args):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(_checkpoint, "write_atomically", full)
    with pytest.warns(UserWarning, match=f"could not be written .*{os.strerror(error)}.*: the run continues") as caught:
        stopped_again = SPES(scores).attribute(
            X, **arguments_of(SPES), checkpoint=path, callback=lambda done, total: done >= 100
        )
    assert len(caught) == 1
    assert path.read_bytes() == before and stopped_again[0].isfinite().all()


def with_small_files(path, pipe):
    import resource

    _checkpoint.SECONDS = _checkpoint.PATIENCE = 0
    before = path.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, len(before) // 2))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        SPES(scores).attribute(X, **arguments_of(SPES), checkpoint=path, callback=lambda done, total: done >= 100)
    left = [file.name for file in path.parent.iterdir()]
    pipe.send(([str(one.message) for one in caught], path.read_bytes() == before, left))


@pytest.mark.skipif(os.name == "nt", reason="there is no limit of a file's size")
@pytest.mark.slow
def test_a_file_that_does_not_fit_leaves_the_one_before(tmp_path):
    path = tmp_path / "run.safetensors"
    stopped(SPES, path)
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=with_small_files, args=(path, sender))
    process.start()
    messages, same, left = receiver.recv()
    process.join()
    assert len(messages) == 1 and "could not be written" in messages[0]
    assert same and left == ["run.safetensors"]


# Speech


@pytest.mark.usefixtures("every_batch")
@pytest.mark.filterwarnings("ignore:the maps are noisy")
@pytest.mark.parametrize("method", METHODS)
def test_an_explanation_goes_on(method, tiny_model, audio, tmp_path):
    folder = tmp_path / "results" / "checkpoint"
    explain = partial(
        SpeechToTextAttribution(method(tiny_model)).attribute,
        audio,
        sampling_rate=16000,
        n_samples=40,
        n_token_samples=30,
        perturbations_per_eval=4,
        gen_args={"max_new_tokens": 4},
    )
    whole = explain()
    partly = explain(checkpoint=folder, callback=lambda stage, done, total: stage == "spectrogram" and done >= 20)
    assert partly.metadata["partial"] and [file.name for file in folder.iterdir()] == ["spectrogram.safetensors"]
    stages = []
    found = explain(checkpoint=folder, callback=lambda stage, done, total: stages.append((stage, done)))
    assert min(done for stage, done in stages if stage == "spectrogram") > 20
    assert torch.equal(found.spectrogram_attr, whole.spectrogram_attr)
    assert torch.equal(found.token_attr, whole.token_attr)
    assert found.metadata["passes"] == whole.metadata["passes"] and not found.metadata["partial"]
    assert not folder.exists()


@pytest.mark.filterwarnings("ignore:the maps are noisy")
@pytest.mark.parametrize("other", [{"target": "so wall"}, {"contrast": Contrast("what", "wall")}])
def test_the_checkpoint_of_another_text_or_contrast_is_refused(tiny_model, audio, tmp_path, other):
    given = {"target": "so what", "contrast": None, "sampling_rate": 16000, "n_samples": 9, "checkpoint": tmp_path}
    attribution = SpeechToTextAttribution(SPES(tiny_model))
    attribution.attribute(audio, **given, perturbations_per_eval=3, callback=lambda *progress: True)
    with pytest.raises(ValueError, match="of another run: .* for speech also the same text and contrast"):
        attribution.attribute(audio, **{**given, **other})


def test_a_run_outlives_a_folder_that_cannot_be_made(tiny_model, audio, tmp_path):
    (tmp_path / "file").touch()
    attribution = SpeechToTextAttribution(SPES(tiny_model))
    given = {"sampling_rate": 16000, "n_samples": 9, "n_token_samples": 4}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = attribution.attribute(audio, "so what", checkpoint=tmp_path / "file" / "run", **given)
    messages = [str(warning.message) for warning in caught if "checkpoint" in str(warning.message)]
    assert len(messages) == 1 and "run of the checkpoint could not be made (" in messages[0]
    assert torch.equal(found.spectrogram_attr, attribution.attribute(audio, "so what", **given).spectrogram_attr)


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="is a folder: give the path of a file"):
        SPES(lambda x: x.sum(1)).attribute(torch.rand(1, 4), checkpoint=tmp_path)
