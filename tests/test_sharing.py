"""Jobs shared out among ranks: each done once, whoever dies; and an evaluation whose ranks are killed at random."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from contextlib import suppress
from datetime import timedelta
from functools import partial

import numpy as np
import pytest
import soundfile
import torch
from test_cli_evaluate import ALONE, files_of
from test_evaluation import check_same, write_manifest, write_words
from torch.distributed import DistError, HashStore, TCPStore

from captum_spes.evaluation import Evaluation, distributed
from captum_spes.evaluation.corpus import load_corpus
from captum_spes.evaluation.distributed import Sharing, connect, device_of_rank
from captum_spes.models import load_model
from captum_spes.speech_to_text.catalogue import METHODS

JOBS = [f"job {number}" for number in range(40)]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(distributed, "POLL_SECONDS", 0.01)


def run_ranks(n_ranks, work):
    """Calls ``work(sharing)`` in a thread for each rank; what they return."""
    store = HashStore()
    found = [None] * n_ranks

    def run(rank):
        found[rank] = work(Sharing(store, rank, n_ranks))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(n_ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return found


@pytest.mark.parametrize("n_ranks", [1, 2, 5])
def test_each_job_is_done_once_and_all_ranks_know_of_all(n_ranks):
    done = []

    def work(sharing):
        return sharing.map(lambda job: done.append((sharing.rank, job)) or f"ünd {job}", JOBS)

    found = run_ranks(n_ranks, work)
    assert found == [{job: f"ünd {job}" for job in JOBS}] * n_ranks
    assert sorted(job for _, job in done) == sorted(JOBS)


def test_jobs_go_to_the_rank_that_is_free():
    done = []

    def work(sharing):
        def function(job):
            if job == "long":
                while len(done) < 4:
                    time.sleep(0.001)
            done.append((sharing.rank, job))
            return ""

        return sharing.map(function, ["long", *"abcd"])

    run_ranks(2, work)
    [busy] = [rank for rank, job in done if job == "long"]
    assert [(rank, job) for rank, job in done] == [*((1 - busy, job) for job in "abcd"), (busy, "long")]


def test_ranks_may_have_the_jobs_in_any_order():
    done = []
    run_ranks(3, lambda sharing: sharing.map(lambda job: done.append(job) or "", random.sample(JOBS, len(JOBS))))
    assert sorted(done) == sorted(JOBS)


def test_a_second_map_is_another():
    sharing = Sharing(HashStore(), 0, 1)
    assert sharing.map(str.upper, "ab") == {"a": "A", "b": "B"}
    assert sharing.map(str.title, "ab") == {"a": "A", "b": "B"}
    assert sharing.map(lambda job: "else", "ab") == {"a": "else", "b": "else"}


def die(job):
    raise KeyboardInterrupt


def test_what_a_rank_that_died_had_is_done_by_another():
    store = HashStore()
    dead, survivor = Sharing(store, 0, 2), Sharing(store, 1, 2)
    with pytest.raises(KeyboardInterrupt):
        dead.map(lambda job: "by the dead" if job == "a" else die(job), "abc")
    waited = []

    def restart():  # what the rank had is not taken before it is known to be dead
        waited.append(True)
        assert len(waited) < 3
        if len(waited) == 2:
            Sharing(store, 0, 2)

    survivor.on_wait = restart
    assert survivor.map(lambda job: "by the survivor", "abc") == {
        "a": "by the dead",
        "b": "by the survivor",
        "c": "by the survivor",
    }
    assert len(waited) == 2


def test_what_a_rank_that_died_had_is_done_by_its_next_start():
    store = HashStore()
    with pytest.raises(KeyboardInterrupt):
        Sharing(store, 0, 1).map(die, "a")
    assert Sharing(store, 0, 1).map(str.upper, "a") == {"a": "A"}


def test_what_ranks_had_that_are_no_more_is_done_by_others():
    store = HashStore()
    with pytest.raises(KeyboardInterrupt):
        Sharing(store, 3, 4).map(die, "a")
    assert Sharing(store, 0, 3).map(str.upper, "a") == {"a": "A"}


def test_counting():
    assert run_ranks(3, lambda sharing: [sharing.count() for _ in range(5)][-1] >= 5) == [True] * 3
    store = HashStore()
    assert (Sharing(store, 0, 2).count(2), Sharing(store, 1, 2).count(0)) == (2, 2)


def test_ranks_whose_launcher_is_gone_get_an_error():
    server = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    client = TCPStore("localhost", server.port, is_master=False, timeout=timedelta(seconds=5))
    sharing = Sharing(client, 0, 1)
    del server
    with pytest.raises(DistError):
        sharing.map(str.upper, "ab")


def test_a_process_that_torchrun_did_not_start_is_alone(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert connect() is None and device_of_rank() is None and device_of_rank("cuda") == "cuda"


def test_torchruns_only_process_is_alone(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert connect() is None


@pytest.mark.parametrize(
    "n_gpus, asked, got",
    [
        (4, None, "cuda:3"),
        (4, "cuda", "cuda:3"),
        (2, None, "cuda:1"),  # two ranks a GPU
        (1, None, "cuda:0"),
        (4, "cuda:2", "cuda:2"),
        (4, "cpu", "cpu"),
        (0, None, None),
        (0, "cuda", "cuda"),  # which is refused when the model is loaded
    ],
)
def test_each_rank_has_a_device(monkeypatch, n_gpus, asked, got):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: n_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    assert device_of_rank(asked) == got


# An evaluation by ranks

pytestmark = pytest.mark.filterwarnings("ignore:the maps")  # of few samples are noisy

CHOSEN = {"spes": METHODS["spes"].with_samples(150), "energy": METHODS["energy"]}
N_UTTERANCES = 6


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder that the tests share, for explanations tell where the model was."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture
def corpus(place, audio):
    """Six utterances, the later the longer, one of them silent."""
    folder = place / "speech"
    if not folder.exists():
        folder.mkdir()
        for number in range(N_UTTERANCES):
            samples = np.roll(audio, 3000 * number)[: 7000 + 500 * number]
            soundfile.write(folder / f"u{number}.wav", samples * (number != 2), 16000)
        write_manifest(folder, {f"u{number}": "what was his power" for number in range(N_UTTERANCES)})
    return load_corpus(folder)


@pytest.fixture
def saved_model(tiny_whisper, tiny_processor, place):
    folder = place / "model"
    if not folder.exists():
        write_words(tiny_whisper, tiny_processor)
        tiny_whisper.save_pretrained(folder)
        tiny_processor.save_pretrained(folder)
    return folder


def make_evaluation(model, corpus, folder):
    return Evaluation(load_model(model, device="cpu"), corpus, CHOSEN, folder, percentages=(0, 50, 100))


@pytest.fixture
def alone(saved_model, corpus, place):
    """What one process makes of the corpus."""
    evaluation = make_evaluation(saved_model, corpus, place / "alone")
    with pytest.warns(UserWarning, match="u2 is left out"):
        evaluation.run()
    return evaluation


def be_rank(rank, n_ranks, port, model, speech, folder):
    """A rank of an evaluation, in a process of its own; it tells what it has finished, and what was left out."""
    warnings.simplefilter("ignore")
    sharing = Sharing(TCPStore("localhost", port, is_master=False, timeout=timedelta(seconds=60)), rank, n_ranks)
    evaluation = make_evaluation(model, load_corpus(speech), folder)
    finished = []

    def callback(item, method, stage, done, total):
        time.sleep(0.01)
        if stage == "finished":
            finished.append((item.id, method))

    evaluation.run(callback, sharing)
    told = {"finished": finished, "problems": evaluation.problems}
    (folder.parent / f"rank{rank}.json").write_text(json.dumps(told))


@pytest.fixture
def start(saved_model, corpus, tmp_path):
    """Starts one of two ranks that write into a folder ``ranks``."""
    server = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("forkserver")  # which imports all that is heavy once
    context.set_forkserver_preload(["captum_spes.evaluation", "transformers.models.whisper.modeling_whisper"])
    processes = []

    def start(rank):
        args = (rank, 2, server.port, saved_model, corpus.source.parent, tmp_path / "ranks")
        processes.append(context.Process(target=be_rank, args=args))
        processes[-1].start()
        return processes[-1]

    yield start
    for process in processes:
        process.kill()


def end_of(processes):
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0]


def test_an_evaluation_by_ranks_is_that_of_one_process(start, saved_model, corpus, tmp_path, alone):
    end_of([start(rank) for rank in range(2)])
    told = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    for found in told:
        assert found["problems"] == alone.problems and list(alone.problems) == ["u2"]
        # long ones first, each by all methods
        names = [name for name, _ in found["finished"]]
        assert names and names == sorted(names, reverse=True)
    each_once = [[item.id, name] for item in corpus.utterances if item.id != "u2" for name in CHOSEN]
    assert sorted(told[0]["finished"] + told[1]["finished"]) == sorted(each_once)
    evaluation = make_evaluation(saved_model, corpus, tmp_path / "ranks")
    evaluation.problems = told[0]["problems"]
    check_same(evaluation, alone)


def test_ranks_that_are_killed_at_random_lose_nothing(start, saved_model, corpus, tmp_path, alone):
    chance = random.Random(0)
    processes = [start(rank) for rank in range(2)]
    n_kills = 0
    while n_kills < 20:
        time.sleep(chance.uniform(0, 0.5))
        rank = chance.randrange(2)
        n_kills += processes[rank].is_alive()
        processes[rank].kill()
        processes[rank].join()
        processes[rank] = start(rank)
    end_of(processes)
    assert json.loads((tmp_path / "rank0.json").read_text())["problems"] == alone.problems
    evaluation = make_evaluation(saved_model, corpus, tmp_path / "ranks")
    with pytest.warns(UserWarning, match="u2 is left out"):
        evaluation.run(lambda *_: pytest.fail("there is nothing left to do"))
    check_same(evaluation, alone)


# The command under torchrun

SETTINGS = ["--methods", "spes", "--n-samples", "600", "--step", "50"]


@pytest.fixture
def launch(saved_model, corpus, tmp_path):
    """Starts the command on a folder of speech; by torchrun, which is given arguments, or without."""
    processes = []

    def launch(*torchrun, speech=corpus.source.parent, folder="ranks"):
        command = ["captum_spes", "evaluate", speech, "--model", saved_model, *SETTINGS, "-o", tmp_path / folder]
        if torchrun:
            two_ranks = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
            command = [*two_ranks, *torchrun, "-m", *command]
        with open(tmp_path / "told.txt", "a") as told:
            processes.append(
                subprocess.Popen([sys.executable, "-m", *command], stdout=told, stderr=told, cwd=tmp_path, env=ALONE)
            )
        return processes[-1]

    yield launch
    for process in processes:
        for rank in ranks_of(process):
            os.kill(rank, signal.SIGKILL)
        process.kill()
        process.wait()


def ranks_of(launcher):
    """Processes that it has started, and that it might replace."""
    if launcher.poll() is not None:
        return []
    return [int(pid) for pid in subprocess.run(["pgrep", "-P", str(launcher.pid)], capture_output=True).stdout.split()]


def kill_a_rank(launcher, chance):
    """Whether there was one, for torchrun may just be starting them."""
    ranks = ranks_of(launcher)
    for rank in chance.sample(ranks, min(1, len(ranks))):
        with suppress(ProcessLookupError):
            os.kill(rank, signal.SIGKILL)
            return True
    return False


def n_explained(folder):
    return len(list(folder.glob("scores/spes/*.json")))


def chaos(launch, folder, n_utterances, n_kills, n_restarts, chance):
    """Kills ranks, every other one at work and the others at any time, and now and then torchrun; then lets it end."""
    launcher = launch("--max-restarts", str(n_restarts))
    killed = 0
    deadline = time.monotonic() + 120 * (1 + n_kills)
    while killed < n_kills:
        assert time.monotonic() < deadline
        before = n_explained(folder)
        end = time.monotonic() + chance.uniform(0, 10)
        latest = n_utterances * (killed + 1) // (2 * n_kills + 2)  # so that a fast machine leaves something to the next
        while launcher.poll() is None and n_explained(folder) < latest:
            if n_explained(folder) > before if killed % 2 else time.monotonic() > end:
                break
            time.sleep(0.01)
        if launcher.poll() is not None:
            assert launcher.returncode != 0, "there was too little to do"
            launcher = launch("--max-restarts", str(n_restarts))
        if killed % 7 == 6:  # its ranks end when they miss it
            launcher.kill()
            launcher.wait()
            killed += 1
        else:
            killed += kill_a_rank(launcher, chance)
    if launcher.wait(timeout=600):  # it had no restart left
        assert launch("--max-restarts", "0").wait(timeout=600) == 0


needs_pgrep = pytest.mark.skipif(shutil.which("pgrep") is None, reason="pgrep is needed to find torchrun's ranks")


@needs_pgrep
@pytest.mark.parametrize(
    "n_utterances, n_kills, n_restarts", [(6, 2, 2), pytest.param(24, 20, 3, marks=pytest.mark.slow)]
)
def test_torchruns_ranks_that_are_killed_lose_nothing(launch, corpus, tmp_path, n_utterances, n_kills, n_restarts):
    speech = tmp_path / "speech"
    speech.mkdir()
    for number in range(n_utterances):
        shutil.copy(corpus.utterances[number % N_UTTERANCES].path, speech / f"u{number}.wav")
    write_manifest(speech, {f"u{number}": "what was his power" for number in range(n_utterances)})
    alone = launch(speech=speech, folder="alone")
    launch_ranks = partial(launch, speech=speech)
    chaos(launch_ranks, tmp_path / "ranks", n_utterances, n_kills, n_restarts, random.Random(0))
    assert alone.wait(timeout=600) == 0
    assert files_of(tmp_path / "ranks") == files_of(tmp_path / "alone")
    told = (tmp_path / "told.txt").read_text()
    assert "Ranks:      2, which share the utterances" in told
    assert "this should not have happened" not in told


@needs_pgrep
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_finished_is_kept_when_torchrun_is_stopped(launch, tmp_path, number):
    launcher = launch("--max-restarts", "0")
    deadline = time.monotonic() + 300
    while not n_explained(tmp_path / "ranks"):
        assert launcher.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    ranks = ranks_of(launcher)
    launcher.send_signal(number)
    assert launcher.wait(timeout=300) != 0 and len(ranks) == 2
    for rank in ranks:
        with pytest.raises(ProcessLookupError):
            os.kill(rank, 0)
    told = (tmp_path / "told.txt").read_text()
    assert told.count("Stopped. What is finished is kept") == (number == signal.SIGINT)
    explained = files_of(tmp_path / "ranks")
    n_scores = len([name for name in explained if name.startswith("scores/")])
    assert 0 < n_scores < 3 * (N_UTTERANCES - 1)
    assert launch(folder="ranks").wait(timeout=300) == 0
    assert (
        f"Resuming:   {n_scores} of {3 * N_UTTERANCES} explanations are there." in (tmp_path / "told.txt").read_text()
    )
    after = files_of(tmp_path / "ranks")
    assert {name: after[name] for name in explained if name != "results.json"} == {
        name: content for name, content in explained.items() if name != "results.json"
    }
