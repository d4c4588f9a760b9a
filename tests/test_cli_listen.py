"""captum-spes listen."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_explanation import make

SAMPLE = Path(__file__).parents[1] / "captum_spes" / "data" / "so_what_was_the_next_step.wav"


@pytest.fixture
def explained(tmp_path):
    """An explanation of "so what?" in 0.3 s, and its recording at 22.05 kHz."""
    explanation = make()
    folder = tmp_path / "speech"
    folder.mkdir()
    explanation.save(folder / "explanation.safetensors")
    noise = np.random.default_rng(0).normal(0, 0.1, 6615).astype(np.float32)
    soundfile.write(folder / "speech.wav", noise, 22050)
    return explanation, folder


def test_listen(run, explained):
    explanation, folder = explained
    file, audio = folder / "explanation.safetensors", folder / "speech.wav"
    code, out, err = run("listen", file, "--audio", audio)
    assert code == 0, err
    sources = {"word-00-so": (explanation.words(), 0), "word-01-what": (explanation.words(), 1)}
    sources["sentence"] = (explanation.sentence(), 0)
    expected = {
        f"{name}-{way}-10.wav": source.to_audio(audio, row, **{way: 0.1})
        for name, (source, row) in sources.items()
        for way in ("keep", "remove")
    }
    assert {path.name for path in (folder / "listen").iterdir()} == set(expected)  # no "?"
    for name, samples in expected.items():
        heard, rate = soundfile.read(folder / "listen" / name, dtype="float32")
        assert rate == 22050 and np.abs(heard - samples).max() < 1e-4
        assert f"{folder / 'listen' / name}\n" in out


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--word", "what", "--keep", "0.05"], ["word-01-what-keep-5"]),
        (["--word", "2", "--word", "-3", "--remove", "0.125"], ["word-00-so-remove-12.5", "word-02-mark-remove-12.5"]),
        (["--token", "wh", "--sentence", "--keep", "0.2"], ["sentence-keep-20", "token-01-wh-keep-20"]),
        (["--sentence", "--keep", "0", "--remove", "1"], ["sentence-keep-0", "sentence-remove-100"]),
        (["--word", "so", "--keep", "0.1", "--background", "noise"], ["word-00-so-keep-10-noise"]),
    ],
)
def test_what_is_listened_to(run, explained, options, names):
    _, folder = explained
    code, _, err = run(
        "listen", folder / "explanation.safetensors", "--audio", folder / "speech.wav", *options, "-o", "out"
    )
    assert code == 0, err
    assert sorted(path.stem for path in Path("out").iterdir()) == names


def test_the_recording_that_is_listened_to_is_known(run, explained):
    explanation, folder = explained
    file = folder / "known.safetensors"
    replace(explanation, metadata={"audio_file": str(folder / "speech.wav")}).save(file)
    code, _, err = run("listen", file, "--word", "so", "--keep", "0.1", "-o", "out")
    assert code == 0, err
    assert soundfile.info("out/word-00-so-keep-10.wav").frames == 6615
    (folder / "speech.wav").unlink()
    code, _, err = run("listen", file)
    assert code == 2 and "speech.wav does not exist" in err


def test_listening_to_what_is_grouped_already(run, explained):
    explanation, folder = explained
    for name, grouped in (("words", explanation.words()), ("sentence", explanation.sentence())):
        grouped.save(folder / f"{name}.safetensors")
        command = ["listen", folder / f"{name}.safetensors", "--audio", folder / "speech.wav", "--keep", "0.1"]
        code, _, err = run(*command, "-o", name)
        assert code == 0, err
    assert {path.name for path in Path("words").iterdir()} == {
        f"{name}-keep-10.wav" for name in ("word-00-so", "word-01-what", "sentence")
    }
    assert [path.name for path in Path("sentence").iterdir()] == ["sentence-keep-10.wav"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "explanation.safetensors does not name its recording: give the recording as --audio"),
        (["--audio", SAMPLE], "so_what_was_the_next_step.wav lasts 2.02 s and the explained utterance 0.30 s"),
        (["--audio", "missing.wav"], "missing.wav does not exist"),
        (["--word", "why"], "none is 'why'"),
        (["--word", "7"], "none is '7'"),
        (["--word", ":7"], "none is ':7'"),
    ],
)
def test_what_cannot_be_listened_to(run, explained, options, message):
    _, folder = explained
    if options and options[0] != "--audio":
        options = [*options, "--audio", folder / "speech.wav"]
    code, _, err = run("listen", folder / "explanation.safetensors", *options)
    assert code == 2 and message in err
    assert not (folder / "listen").exists()
