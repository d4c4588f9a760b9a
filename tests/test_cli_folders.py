"""Output of the command line: folders of a recording, columns, and numbers of samples."""

import hashlib
import io
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from test_explanation import make

from captum_spes import SpeechToTextExplanation
from captum_spes.cli import folders, inputs
from captum_spes.cli.output import print_columns
from captum_spes.speech_to_text.catalogue import METHODS, NamedMethod


def broken(*arguments, **named):
    raise TypeError("inner bug")


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.samples_perturbations])
def test_the_least_number_of_samples(tiny_model, audio, name):
    utterance = tiny_model.utterance(audio)
    tokens = tiny_model.tokens("so", utterance)
    method = METHODS[name]
    assert method.min_samples == (1 if name in ("spes_single_granularity", "feature_wise", "bubble_noise") else 3)
    with pytest.raises(ValueError, match=f"--n must be at least {method.min_samples} for this method"):
        method.with_samples(method.min_samples - 1, "--n")
    method.with_samples(method.min_samples).explain(tiny_model, utterance, tokens, "fast", n_token_samples=4)


# Folders


def other_recording(recording, folder):
    """A recording with the same name in another folder."""
    samples, rate = soundfile.read(recording)
    (folder / "other").mkdir()
    soundfile.write(folder / "other" / recording.name, samples[::-1], rate)
    return folder / "other" / recording.name


@pytest.mark.parametrize("command", ["explain", "compare"])
@pytest.mark.slow
def test_another_recording_gets_another_folder(run, tiny_folder, recording, tmp_path, command):
    method = {"explain": "--method", "compare": "--methods"}[command]
    given = ["--model", tiny_folder, "--target", "so", method, "energy"]
    other = other_recording(recording, tmp_path)
    name = {"explain": "recording", "compare": "recording-compare"}[command]
    file = {"explain": "explanation", "compare": "energy"}[command]
    for audio, folder in ((recording, name), (other, f"{name}-2"), (recording, name), (other, f"{name}-2")):
        code, out, err = run(command, audio, *given)
        assert code == 0 and f"spes-output/{folder}/{file}.safetensors" in out, err
        found = SpeechToTextExplanation.load(Path("spes-output") / folder / f"{file}.safetensors")
        assert found.metadata["audio_file"] == str(audio)
    code, _, err = run(command, other, *given, "-o", Path("spes-output") / name)
    assert code == 2 and f"spes-output/{name} holds the results of another recording ({recording})" in err
    assert sorted(path.name for path in Path("spes-output").iterdir()) == [name, f"{name}-2"]


def test_an_unfinished_run_keeps_its_folder(recording, tmp_path, monkeypatch):
    """The checkpoint of a killed run is not that of another recording of the same name."""
    monkeypatch.chdir(tmp_path)
    with folders.no_empty_folders():
        folder = folders.results_folder(None, "speech", "first")
        assert (folder / folders.OWNER).is_file()
    assert not list(tmp_path.glob("spes-output"))  # a run that fails leaves nothing
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with folders.no_empty_folders():
        folder = folders.results_folder(None, "speech", "first")
        (folder / "checkpoint").mkdir()
        (folder / "checkpoint" / "spectrogram.safetensors").touch()
        folders.results_folder(Path("mine"), "speech", "first")
    with folders.no_empty_folders():
        assert folders.results_folder(None, "speech", "second") == Path("spes-output/speech-2")
        assert folders.results_folder(None, "speech", "first") == Path("spes-output/speech")
        assert folders.results_folder(Path("mine"), "speech", "second") == Path("mine")
        with pytest.raises(ValueError, match="speech belongs to a run of another recording that is not finished"):
            folders.results_folder(Path("spes-output/speech"), "speech", "second")
    assert sorted(path.name for path in Path("mine").iterdir()) == ["notes.txt"]


def test_recordings_that_are_explained_at_once_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [f"recording {number // 2}" for number in range(16)]  # two processes of each, such as ranks
    start = threading.Barrier(len(names))

    def take(name):
        start.wait()
        return folders.results_folder(None, "speech", name)

    with folders.no_empty_folders():
        with ThreadPoolExecutor(len(names)) as pool:
            taken = dict(zip(enumerate(names), pool.map(take, names)))
        assert all((taken[index, name] == taken[index ^ 1, name]) for index, name in taken)
        assert len({*taken.values()}) == len({*names}) == len([*Path("spes-output").iterdir()])
    assert not Path("spes-output").exists()


def test_an_evaluation_has_the_folder_of_its_corpus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def take(corpus, output=None):
        return folders.evaluation_folder(output, "speech-evaluation", Path(corpus))

    with folders.no_empty_folders():
        for corpus in ("a/speech", "b/speech"):
            (take(corpus) / "settings.json").write_text('{"methods": {}}')
    with folders.no_empty_folders():
        assert take("b/../a/speech").name == "speech-evaluation"
        assert take("b/speech").name == "speech-evaluation-2"
        with pytest.raises(ValueError, match="the evaluation of another corpus .*/b/speech.: give another"):
            take("a/speech", Path("spes-output/speech-evaluation-2"))
        assert take("c/speech").name == "speech-evaluation-3"
        assert take("c/speech", Path("out")) == Path("out")
    assert sorted(path.name for path in Path("spes-output").iterdir()) == ["speech-evaluation", "speech-evaluation-2"]
    assert not Path("out").exists()  # nothing was written into it


def test_folders_of_evaluations_and_recordings_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with folders.no_empty_folders():
        evaluation = folders.evaluation_folder(Path("evaluation"), "", Path("corpus"))
        (evaluation / "settings.json").write_text('{"methods": {}}')
        with pytest.raises(ValueError, match="evaluation holds the evaluation of a corpus .*/corpus.: give another"):
            folders.results_folder(evaluation, "speech", "first")
        recording = folders.results_folder(Path("recording"), "speech", "first")
        with pytest.raises(ValueError, match="recording belongs to a run of a recording: give another"):
            folders.evaluation_folder(recording, "", Path("corpus"))


def test_a_run_that_was_killed_at_once_keeps_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    (Path("out") / folders.OWNER).write_text("first\n")
    with folders.no_empty_folders():
        assert folders.results_folder(Path("out"), "speech", "first") == Path("out")
        for other in ("second", None):
            with pytest.raises(ValueError, match="out belongs to a run of another recording that is not finished"):
                folders.results_folder(Path("out"), "speech", other)
        assert folders.results_folder(Path("new"), "speech", None) == Path("new")
        make().save("out/explanation.safetensors")
    assert not (Path("out") / folders.OWNER).exists() and not Path("new").exists()


@pytest.mark.parametrize("name", ["...wav", "..wav", ".."])
def test_a_name_of_dots_is_no_name_of_a_folder(name):
    assert inputs.stem(Path("x", name)) not in (".", "..") and inputs.stem(Path("x", "..a.wav")) == "..a"


def test_audio_from_standard_input(run, tiny_folder, recording, monkeypatch):
    given = ["--model", tiny_folder, "--target", "so what", "--method", "energy"]
    data = recording.read_bytes()
    for number in range(2):
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))
        code, out, err = run("explain", "-", *given)
        assert code == 0 and "Audio:      standard input" in out, err
        assert "spes-output/stdin/explanation.safetensors" in out, number
    metadata = SpeechToTextExplanation.load("spes-output/stdin/explanation.safetensors").metadata
    assert metadata["audio_sha256"] == hashlib.sha256(data).hexdigest() and "audio_file" not in metadata
    code, _, err = run("listen", "spes-output/stdin/explanation.safetensors", "--audio", recording, "--sentence")
    assert code == 0, err
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"")))
    code, _, err = run("explain", "-", *given, "-o", "other")
    assert code == 2 and "the audio is empty" in err and not Path("other").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_known_by_its_bytes(recording, tmp_path):
    path, data = tmp_path / "pipe", recording.read_bytes()
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(data,))
    writer.start()
    found = inputs.read(path)
    writer.join()
    assert found.source == {"audio_sha256": hashlib.sha256(data).hexdigest()}
    assert np.array_equal(found.samples, inputs.read(recording).samples)


@pytest.mark.parametrize(
    "wrong", [["none.wav"], ["recording.wav", "-o", "recording.wav"], ["recording.wav", "-o", "x"]]
)
def test_the_recording_and_the_folder_are_checked_before_the_model(run, recording, monkeypatch, wrong):
    other = SpeechToTextExplanation.save
    Path("x").mkdir()
    other(make(), "x/explanation.safetensors")  # of samples without a file
    for command in ("explain", "compare"):
        monkeypatch.setattr(f"captum_spes.cli.{command}.load_model", broken)
        code, _, err = run(command, *wrong)
        assert code == 2 and ("does not exist" in err or "cannot be written" in err or "of another recording" in err)


def test_figures_of_an_earlier_run_are_removed(run, tiny_folder, recording):
    given = ["explain", recording, "--model", tiny_folder, "--target", "so what"]
    (folder := Path("spes-output/recording")).mkdir(parents=True)
    (folder / "mine.png").touch()
    for arguments in (
        ["--method", "spes", "--n-samples", "6"],
        ["--word", "what", "--foil", "so", "--method", "energy"],
    ):
        code, out, err = run(*given, *arguments)
        assert code == 0, err
        written = set(re.findall(r"spes-output/recording/([\w.]+)", out))
        kept = {path.name for path in folder.iterdir()} - {"checkpoint"}
        assert kept == written | {"mine.png"}
    assert "words.png" not in kept and "segmentation.png" not in kept


@pytest.mark.parametrize("command", [["explain", "recording.wav"], ["evaluate", "."]])
def test_a_url_is_no_folder(run, recording, command):
    code, _, err = run(*command, "-o", "s3://bucket/results")
    assert code == 2 and "is a URL: give a path" in err
    assert not Path("s3:").exists()


def test_a_failed_command_leaves_no_folder(run, tiny_folder, recording, monkeypatch):
    monkeypatch.setattr(NamedMethod, "explain", broken)
    code, _, _ = run("explain", recording, "--model", tiny_folder, "--target", "so", "-o", "a/b/c")
    assert code == 1 and not Path("a").exists()
    Path("a").mkdir()
    run("explain", recording, "--model", tiny_folder, "--target", "so", "-o", "a/b/c")
    assert Path("a").is_dir() and not Path("a/b").exists()


def test_columns_are_padded_by_what_a_terminal_shows(capsys):
    print_columns([("token", "x"), ("次は", "x"), ("e\u0301", "x"), ("😀", "x"), ("\x1b", "x")])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["token  x", "次は   x", "e\u0301      x", "😀     x", "\\x1b   x"]


@pytest.mark.parametrize("write", ["save", "to_html"])
def test_a_folder_that_is_not_there_is_named(tmp_path, write):
    with pytest.raises(ValueError, match=r"a\.x cannot be written: the folder .*none does not exist; make it first"):
        getattr(make(), write)(tmp_path / "none" / "a.x")
    assert not list(tmp_path.iterdir())
