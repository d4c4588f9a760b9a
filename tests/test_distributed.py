"""One attribution by several ranks, compared with that of one process."""

import atexit
import gc
import os
import socket
from contextlib import nullcontext, redirect_stdout
from functools import partial
from types import SimpleNamespace

import pytest
import soundfile
import torch
import torch.distributed as dist
from captum.attr import Saliency
from torch.multiprocessing import start_processes

from captum_spes import (
    SPES,
    BubbleNoise,
    GradientSPES,
    SpeechToTextAttribution,
    SpeechToTextExplanation,
    grid_feature_mask,
)
from captum_spes.attr import _checkpoint
from captum_spes.attr.features import FeatureLayout, MaskSampler, sample_groups
from captum_spes.attr.ranks import Ranks
from captum_spes.cli.ranks import device_of_rank, has_ranks

WEIGHTS = torch.linspace(-1, 2, 5 * 60, dtype=torch.float64).view(5, 60)
X = torch.rand(2, 10, 6, generator=torch.Generator().manual_seed(0)).double()
MASK = torch.stack([grid_feature_mask(X[:1], size) for size in ((3, 2), (2, 3))])


def scores(x):
    return (x.flatten(1) @ WEIGHTS.T).sin()


ATTRIBUTES = {
    "spes": partial(SPES(scores).attribute, X, feature_mask=MASK, n_samples=101, perturbations_per_eval=4),
    "fewer samples than ranks": partial(SPES(scores).attribute, X, feature_mask=MASK, n_samples=2),
    "all combinations": partial(SPES(scores).attribute, X, feature_mask=grid_feature_mask(X[:1], (5, 6)), n_samples=9),
    "joint": partial(SPES(lambda x, y: scores(x) * y.sum(1, keepdim=True)).attribute, (X, X[:, 0]), n_samples=33),
    "bubble noise": partial(BubbleNoise(scores).attribute, X, n_samples=41, perturbations_per_eval=3),
    "gradients": partial(GradientSPES(scores).attribute, X, feature_mask=MASK, n_samples=37, perturbations_per_eval=4),
    "reliable": partial(
        SPES(scores).attribute, X, feature_mask=MASK, n_samples=901, perturbations_per_eval=4, min_reliability=0.1
    ),
    "reliable noise": partial(
        BubbleNoise(scores).attribute, X, n_samples=200, perturbations_per_eval=3, min_reliability=0.1
    ),
    "reliable gradients": partial(
        GradientSPES(lambda x: x.square().flatten(1) @ WEIGHTS.T).attribute,
        X,
        feature_mask=MASK,
        n_samples=97,
        min_reliability=0.5,
    ),
    "never reliable": partial(GradientSPES(scores).attribute, X, feature_mask=MASK, n_samples=29, min_reliability=0.99),
    "fewer gradients": partial(GradientSPES(scores).attribute, X, n_samples=1),
}


def explain(model, audio, method, **arguments):
    mask = partial(grid_feature_mask, patch_size=(10, 4))
    return SpeechToTextAttribution(method(model)).attribute(
        audio,
        sampling_rate=16000,
        feature_mask=mask if method is not BubbleNoise else None,
        n_samples=30,
        n_token_samples=40,
        perturbations_per_eval=4,
        gen_args={"max_new_tokens": 4},
        **arguments,
    )


def in_a_rank(rank, size, folder):
    """What the ranks do; the results are looked at in the test's own process."""
    atexit.register(gc.collect)  # errors' frames hold the group, whose threads would abort Python at its end
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=size)
    group = dist.group.WORLD
    results = {name: attribute(return_reliability=True, process_group=group) for name, attribute in ATTRIBUTES.items()}
    seen = []

    def stop(done, total):
        seen.append((done, total))
        return rank == size - 1 and done >= 30

    results["stopped"] = ATTRIBUTES["spes"](centered=False, callback=stop, process_group=group)
    results["seen"] = seen

    def fails(x):
        if rank == size - 1 and len(x) == 2 * 4:
            raise ArithmeticError("only here")
        return scores(x)

    errors = []
    for attribute in (
        partial(SPES(fails).attribute, X, n_samples=50, perturbations_per_eval=4),
        partial(SPES(scores).attribute, X + rank, n_samples=50),
        partial(ATTRIBUTES["gradients"], callback=lambda *done: 1 / rank),
    ):
        with pytest.raises(Exception) as error:
            attribute(process_group=group)
        errors.append(f"{error.type.__name__}: {error.value}")
    results["errors"] = errors
    _checkpoint.SECONDS = _checkpoint.PATIENCE = 0
    results["resumed from"] = []
    for stop in (True, False):  # stopped, and goes on
        results["resumed"] = ATTRIBUTES["spes"](
            return_reliability=True,
            process_group=group,
            checkpoint=folder / "run.safetensors",
            callback=lambda done, total: results["resumed from"].append(done) or (stop and done > 40),  # noqa: B023
        )
        if stop:
            results["files"] = sorted(path.name for path in folder.glob("*.safetensors"))
            if rank == 0:
                (folder / "kept").write_bytes((folder / "run.safetensors").read_bytes())
            dist.barrier()
    dist.destroy_process_group()
    torch.save(results, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    start_processes(in_a_rank, (3, folder), nprocs=3)
    found = [torch.load(folder / f"{rank}.pt") for rank in range(3)]
    found[0]["folder"] = folder
    return found


@pytest.mark.parametrize("name", ATTRIBUTES)
@pytest.mark.slow
def test_ranks_find_what_one_process_finds(ranks, name):
    alone = ATTRIBUTES[name](return_reliability=True)
    for results in ranks:
        torch.testing.assert_close(results[name], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_a_stop_on_one_rank_ends_all_with_what_is_done(ranks):
    size, seen = len(ranks), ranks[0]["seen"]
    assert all(results["seen"] == seen for results in ranks)
    assert 30 <= seen[-1][0] < 30 + 4 * size
    # Eq. 3 by hand, of the beginning of each share
    shares = [Ranks.share(SimpleNamespace(rank=rank, size=size), 101)[: 4 * len(seen)] for rank in range(size)]
    assert sum(map(len, shares)) == seen[-1][0]
    layout = FeatureLayout.create((X,), MASK, 0.5)
    sampler = MaskSampler(layout, seed=0)
    impacts, counts = 0, 0
    for share in shares:
        for granularity, first, last in sample_groups(share.start, share.stop, 2):
            hidden = layout.hide(torch.zeros_like(X), 1.0, 0, granularity, sampler.draw(granularity, first, last))
            for one in hidden:
                impacts += (scores(X) - scores(X * (1 - one)))[..., None, None] * one[:, None]
                counts += one[:, None]
    expected = (impacts / counts).flatten(0, 1)
    for results in ranks:
        torch.testing.assert_close(results["stopped"], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_an_error_on_one_rank_ends_all(ranks):
    size = len(ranks)
    for rank, results in enumerate(ranks):
        own, different, callback = results["errors"]
        if rank == size - 1:
            assert own == "ArithmeticError: only here"
        else:
            assert own.startswith(f"RuntimeError: rank {size - 1} of {size} failed")
        assert different.startswith(f"ValueError: the {size} ranks of process_group were given different arguments")
        assert ("ZeroDivisionError" if rank == 0 else "rank 0 of") in callback


@pytest.mark.slow
def test_ranks_go_on_from_their_checkpoints(ranks):
    size, folder = len(ranks), ranks[0]["folder"]
    for results in ranks:
        assert results["files"] == [*(f"run-rank{rank}.safetensors" for rank in range(1, size)), "run.safetensors"]
        done = results["resumed from"]
        stop = next(n for n in done if n > 40)
        assert done[done.index(stop) + 1] > stop - 4 * size and done[-1] == 101  # not from the beginning
        torch.testing.assert_close(results["resumed"], results["spes"], rtol=0, atol=0)
    assert not list(folder.glob("*.safetensors"))
    (folder / "kept").rename(folder / "kept.safetensors")
    with pytest.raises(ValueError, match=f"ranks was {size} and is 1 now"):
        ATTRIBUTES["spes"](checkpoint=folder / "kept.safetensors")
    (folder / "kept.safetensors").unlink()


METHODS = [SPES, BubbleNoise, GradientSPES]


def speech_in_a_rank(rank, size, folder):
    from captum_spes.models import load_model

    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=size)
    model = load_model(folder / "model", device="cpu")
    if rank:  # what this one would write is not asked
        model.generate = lambda utterance, **gen_args: model.tokens([3, 4], utterance)
    found = {}
    for method in METHODS:
        explanation = explain(model, torch.load(folder / "audio.pt"), method, process_group=dist.group.WORLD)
        found[method.get_name()] = (explanation.spectrogram_attr, explanation.token_attr, explanation.metadata)
    dist.destroy_process_group()
    torch.save(found, folder / f"{rank}.pt")
    command_in_a_rank(rank, size, folder)


def command_in_a_rank(rank, size, folder):
    """The command line, in the environment that torchrun makes."""
    from captum_spes.cli import app

    port = (folder / "port").read_text()
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "TORCHELASTIC_RUN_ID": "test"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    with open(folder / f"shared{rank}.out", "w") as out, redirect_stdout(out):
        app([*command(folder), "-o", str(folder / "shared")], standalone_mode=False)


def command(folder):
    arguments = ["explain", folder / "audio.wav", "--model", folder / "model", "--target", "so what"]
    return [*map(str, arguments), "--method", "spes", "--n-samples", "21", "--device", "cpu"]


@pytest.mark.filterwarnings("ignore:the maps are noisy")
@pytest.mark.slow
def test_ranks_explain_what_the_first_hears(tiny_whisper, tiny_processor, tiny_model, audio, tmp_path):
    tiny_whisper.save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    torch.save(torch.from_numpy(audio), tmp_path / "audio.pt")
    soundfile.write(tmp_path / "audio.wav", audio, 16000)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (tmp_path / "port").write_text(str(free.getsockname()[1]))
    start_processes(speech_in_a_rank, (2, tmp_path), nprocs=2)
    for method in METHODS:
        alone = explain(tiny_model, torch.from_numpy(audio), method)
        for rank in range(2):
            spectrogram_attr, token_attr, metadata = torch.load(tmp_path / f"{rank}.pt")[method.get_name()]
            torch.testing.assert_close(spectrogram_attr, alone.spectrogram_attr)
            torch.testing.assert_close(token_attr, alone.token_attr)
            for key in ("token_ids", "passes", "done", "partial"):
                assert metadata[key] == alone.metadata[key]
    check_command(tmp_path)


def check_command(folder):
    """Only the first rank has printed and written files, the same as one process."""
    from captum_spes.cli import app

    app([*command(folder), "-o", str(folder / "alone")], standalone_mode=False)
    alone, shared = (
        SpeechToTextExplanation.load(folder / name / "explanation.safetensors") for name in ("alone", "shared")
    )
    torch.testing.assert_close(shared.spectrogram_attr, alone.spectrogram_attr)
    torch.testing.assert_close(shared.token_attr, alone.token_attr)
    assert {path.name for path in (folder / "shared").iterdir()} == {path.name for path in (folder / "alone").iterdir()}
    out = (folder / "shared0.out").read_text()
    assert "shared by 2 ranks" in out and "Wrote" in out
    assert not (folder / "shared1.out").read_text()


def test_the_command_refuses_what_cannot_be_shared(tiny_whisper, tiny_processor, audio, tmp_path, monkeypatch):
    from captum_spes.cli import app, explain
    from captum_spes.cli.folders import OWNER

    tiny_whisper.save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    soundfile.write(tmp_path / "audio.wav", audio, 16000)
    monkeypatch.setattr(explain, "torchrun_ranks", lambda: nullcontext(object()))
    with pytest.raises(ValueError, match="gradient_shap cannot share its passes among ranks"):
        app([*command(tmp_path), "--method", "gradient_shap", "-o", str(tmp_path / "out")], standalone_mode=False)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {OWNER}  # which run() removes, for it has no results


def test_methods_of_captum_share_nothing(tiny_model, audio):
    with pytest.raises(TypeError, match="Saliency takes no process_group"):
        SpeechToTextAttribution(Saliency(tiny_model)).attribute(audio, sampling_rate=16000, process_group=object())


@pytest.mark.parametrize(
    ("world_size", "launched", "expected"), [("2", True, True), ("1", True, False), ("2", False, False)]
)
def test_what_torchrun_has_started(monkeypatch, world_size, launched, expected):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if launched:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", world_size)
    assert has_ranks() == expected


@pytest.mark.parametrize(
    ("n_gpus", "asked", "expected"),
    [
        (4, None, "cuda:3"),
        (4, "cuda", "cuda:3"),
        (2, None, "cuda:1"),  # two ranks a GPU
        (4, "cuda:2", "cuda:2"),
        (4, "cpu", "cpu"),
        (0, None, None),
        (0, "cuda", "cuda"),  # which is refused when the model is loaded
    ],
)
def test_each_rank_has_a_device(monkeypatch, n_gpus, asked, expected):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: n_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    assert device_of_rank(asked) == expected
