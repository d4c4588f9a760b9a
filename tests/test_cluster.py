"""Workers of Ray: their results equal those of one process, even if workers are killed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_cli_evaluate import ALONE, files_of
from test_evaluation import check_same, write_manifest, write_words

from captum_spes.evaluation import Evaluation, Workers
from captum_spes.evaluation.cluster import _start, share
from captum_spes.evaluation.corpus import load_corpus
from captum_spes.models import load_model
from captum_spes.speech_to_text.catalogue import METHODS

pytestmark = [
    pytest.mark.filterwarnings("ignore:the maps"),  # of few samples are noisy
    pytest.mark.filterwarnings("ignore:u2 is left out"),
]

CHOSEN = {"spes": METHODS["spes"].with_samples(150), "energy": METHODS["energy"]}
SILENT = "u2"


# How a cluster is shared


@pytest.mark.parametrize(
    ("nodes", "n_workers", "device", "expected"),
    [
        # a GPU each, or a part of one
        ([{"CPU": 8, "GPU": 2}, {"CPU": 8, "GPU": 2}], None, None, (4, {"num_cpus": 1, "num_gpus": 1})),
        ([{"CPU": 8, "GPU": 2}], 1, "cuda", (1, {"num_cpus": 1, "num_gpus": 1})),
        ([{"CPU": 8, "GPU": 2}], 3, None, (3, {"num_cpus": 1, "num_gpus": 0.5})),
        # as many CPUs as all workers can have, for each has its own on one node
        ([{"CPU": 8}], 1, None, (1, {"num_cpus": 8})),
        ([{"CPU": 8}], 3, None, (3, {"num_cpus": 2})),
        ([{"CPU": 8}, {"CPU": 8}], 3, None, (3, {"num_cpus": 4})),
        ([{"CPU": 2}, {}], 2, None, (2, {"num_cpus": 1})),
        ([{"CPU": 8, "GPU": 2}], 4, "cpu", (4, {"num_cpus": 2})),
    ],
)
def test_what_a_worker_takes(nodes, n_workers, device, expected):
    assert share(nodes, n_workers, device) == expected


@pytest.mark.parametrize(
    ("n_workers", "device", "words"),
    [
        (None, None, "the cluster has no GPU and 2 CPUs: give the number of workers"),
        (3, None, "the cluster has 2 CPUs: give at most this number of workers, not 3"),
        (1, "cuda", "the cluster has no GPU"),
    ],
)
def test_what_a_cluster_does_not_have(n_workers, device, words):
    with pytest.raises(ValueError, match=words):
        share([{"CPU": 2.0}], n_workers, device)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n_workers": 0}, "n_workers must be at least 1, not 0"),
        ({"device": "cuda:1"}, "must be cpu or cuda, not 'cuda:1'"),
    ],
)
def test_workers_that_cannot_be(arguments, words):
    pytest.importorskip("ray")
    with pytest.raises(ValueError, match=words):
        Workers(load_model, **arguments)


# An evaluation by two workers


@pytest.fixture(scope="module")
def ray():
    """Ray, started once for all tests."""
    ray = pytest.importorskip("ray")
    _start(ray, Workers(load_model, n_workers=2))
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder that all tests share, because explanations store the path of the model."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture
def make_speech(place, audio):
    """Makes a corpus of so many utterances, the later the longer, one of them silent."""

    def make(number):
        folder = place / f"speech{number}"
        if not folder.exists():
            folder.mkdir()
            for i in range(number):
                samples = np.roll(audio, 3000 * i)[: 7000 + 2600 * i // number]
                soundfile.write(folder / f"u{i}.wav", samples * (f"u{i}" != SILENT), 16000)
            write_manifest(folder, {f"u{i}": "what was his power" for i in range(number)})
        return folder

    return make


@pytest.fixture
def saved_model(tiny_whisper, tiny_processor, place):
    folder = place / "model"
    if not folder.exists():
        write_words(tiny_whisper, tiny_processor)
        tiny_whisper.save_pretrained(folder)
        tiny_processor.save_pretrained(folder)
    return folder


@pytest.fixture
def evaluate(saved_model, place, tmp_path):
    """Runs an evaluation into a folder; without workers, once for all tests."""

    def evaluate(speech, workers=None, folder=None, callback=None):
        folder = folder or (tmp_path / "out" if workers else place / f"alone-{speech.name}")
        model = load_model(saved_model, device="cpu")
        evaluation = Evaluation(model, load_corpus(speech), CHOSEN, folder, percentages=(0, 50, 100))
        evaluation.run(callback, workers)
        return evaluation

    return evaluate


@pytest.fixture
def two_workers(saved_model):
    return Workers(partial(load_model, str(saved_model)), n_workers=2)


def children_of(pid):
    return [int(child) for child in subprocess.run(["pgrep", "-P", str(pid)], capture_output=True).stdout.split()]


def workers_of(pid):
    """The processes of the workers that belong to a program."""
    below = [grandchild for child in children_of(pid) for grandchild in children_of(child)]
    return [pid for pid in below if title_of(pid).startswith("ray::_Worker")]


def title_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


class Killer:
    """A callback that kills a worker at random whenever an utterance is finished, so many times."""

    def __init__(self, n_kills):
        self.n_kills = n_kills
        self.killed = set()
        self.finished = []
        self.chance = random.Random(0)

    def __call__(self, item, method, stage, done, total):
        assert stage == "finished"
        is_first = item.id not in [name for name, _ in self.finished]
        self.finished.append((item.id, method))
        workers = sorted(set(workers_of(os.getpid())) - self.killed) if is_first else []
        if workers and len(self.killed) < self.n_kills:
            self.killed.add(pid := self.chance.choice(workers))
            os.kill(pid, signal.SIGKILL)


needs_pgrep = pytest.mark.skipif(shutil.which("pgrep") is None, reason="pgrep is needed to find the workers")


@needs_pgrep
@pytest.mark.parametrize(
    ("n_utterances", "n_kills"),
    [pytest.param(6, 1, marks=pytest.mark.slow), pytest.param(30, 20, marks=pytest.mark.long)],
)
def test_workers_that_are_killed_lose_nothing(ray, evaluate, two_workers, make_speech, n_utterances, n_kills):
    speech = make_speech(n_utterances)
    killer = Killer(n_kills)
    evaluation = evaluate(speech, two_workers, callback=killer)
    assert len(killer.killed) == n_kills
    alone = evaluate(speech)
    assert evaluation.problems == alone.problems and SILENT in alone.problems
    explained = [item.id for item in evaluation.corpus.utterances if item.id not in alone.problems]
    assert len(explained) >= n_utterances - 2  # the random model hears no words in one of the thirty
    assert sorted(killer.finished) == sorted((name, method) for name in explained for method in CHOSEN)
    check_same(evaluation, alone)
    # nothing is left to do, and what is left out is left out again
    evaluate(speech, two_workers, callback=lambda *_: pytest.fail("there was nothing left to do"))


@pytest.mark.slow
def test_an_error_that_is_none_of_an_utterance_ends_the_run(ray, evaluate, make_speech, tmp_path):
    missing = Workers(partial(load_model, str(tmp_path / "none")), n_workers=2)
    with pytest.raises((ValueError, OSError), match="none"):
        evaluate(make_speech(6), missing)
    assert not (tmp_path / "out").exists()


# The command


@pytest.fixture
def launch(saved_model, make_speech, tmp_path):
    """Starts the command on a folder of speech, with options."""
    processes = []

    def launch(*options, speech, folder):
        command = [
            sys.executable,
            "-m",
            "captum_spes",
            "evaluate",
            speech,
            "--model",
            saved_model,
            "-o",
            tmp_path / folder,
        ]
        settings = ["--methods", "spes", "--n-samples", "600", "--step", "50"]
        with open(tmp_path / "told.txt", "a") as told:
            processes.append(
                subprocess.Popen([*command, *settings, *options], stdout=told, stderr=told, cwd=tmp_path, env=ALONE)
            )
        return processes[-1]

    yield launch
    for process in processes:
        process.kill()
        process.wait()


def wait_for(condition, process, told):
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, told.read_text()
        time.sleep(0.05)


@pytest.mark.long
@needs_pgrep
def test_the_command_goes_on_whatever_is_killed(launch, make_speech, tmp_path):
    """A worker, the command itself, Ctrl-C, and the head of the cluster."""
    pytest.importorskip("ray")
    speech, told, out = make_speech(12), tmp_path / "told.txt", tmp_path / "out"

    def n_finished():
        return len(list(out.glob("scores/spes/*.json")))

    def is_at_work(process, before):
        return n_finished() > before and workers_of(process.pid)

    for kill in ("worker", "command", "Ctrl-C", "head"):
        before = n_finished()
        assert before < 10, "there was too little to do"
        process = launch("--workers", "2", speech=speech, folder="out")
        wait_for(partial(is_at_work, process, before), process, told)
        if kill == "worker":
            os.kill(workers_of(process.pid)[0], signal.SIGKILL)
            wait_for(partial(is_at_work, process, before + 1), process, told)
            process.send_signal(signal.SIGINT)
        elif kill == "head":
            [head] = [pid for pid in children_of(process.pid) if "gcs_server" in title_of(pid)]
            os.kill(head, signal.SIGKILL)
        else:
            process.send_signal(signal.SIGKILL if kill == "command" else signal.SIGINT)
        code = process.wait(timeout=300)
        assert n_finished() > before
        # Ray's workers do without a head for a minute, in which they may finish the rest
        assert code == 130 if kill in ("worker", "Ctrl-C") else code != 0 or n_finished() == 11
    assert launch("--workers", "2", speech=speech, folder="out").wait(timeout=600) == 0, told.read_text()
    assert launch(speech=speech, folder="alone").wait(timeout=600) == 0, told.read_text()
    assert files_of(out) == files_of(tmp_path / "alone")
    results = json.loads((out / "results.json").read_text())
    assert results["n_utterances"] == 11 and list(results["problems"]) == [SILENT]
