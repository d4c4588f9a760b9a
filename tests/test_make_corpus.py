"""The corpus of the benchmarks: its files, times and manifest are correct."""

import csv
import importlib
import json
import re
import shutil

import numpy as np
import pytest

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("transformers")

SMALL = ["--n-sentences", "3", "--no-filter"]
COLUMNS = ["file_name", "transcription", "voice", "gender", "condition", "duration", "n_sentences"]
COLUMNS += ["alignment", "source"]

needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


@pytest.fixture(scope="module")
def script(benchmarks):
    return importlib.import_module("make_corpus")


def rows(folder, name="metadata.csv"):
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def corpus(script, tmp_path_factory):
    if shutil.which("flite") is None:
        pytest.skip("flite is not installed")
    folder = tmp_path_factory.mktemp("corpus") / "new"
    script.main([str(folder), *SMALL, "--no-real", "--joined", "2", "--snr", "10", "0"])
    return folder


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def words_of(text):
    return re.findall(r"[a-z']+", text.lower())


def test_manifest(corpus):
    found = rows(corpus)
    assert list(found[0]) == COLUMNS
    assert [row["voice"] for row in found[:3]] == ["rms", "awb", "slt"]
    assert [row["gender"] for row in found[:3]] == ["male", "male", "female"]
    assert [row["condition"] for row in found] == [""] * 5 + ["noise 10 dB"] * 5 + ["noise 0 dB"] * 5
    assert found[2]["source"] == "Harvard sentence 3"
    assert len({row["file_name"] for row in found}) == len(found)
    assert len(list((corpus / "audio").iterdir())) == 3 * len(found)


def test_audio_is_as_the_manifest_says(corpus):
    for row in rows(corpus):
        info = soundfile.info(corpus / row["file_name"])
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        assert info.duration == pytest.approx(float(row["duration"]), abs=0.001)


def test_alignments_cover_the_audio_with_the_words_of_the_transcript(corpus):
    for row in rows(corpus):
        path = corpus / row["alignment"]
        words, phones = (json.loads(path.with_suffix(suffix).read_text()) for suffix in (".json", ".phone.json"))
        for whole in (words, phones):
            assert words_of(whole["t"]) == words_of(row["transcription"])
            assert [word["t"] for word in whole["w"] if word["t"] != "<sil>"] == words_of(row["transcription"])
        assert words["w"] == [{key: word[key] for key in "bdpt"} for word in phones["w"]]
        for word in [phones, *phones["w"]]:
            end = word["b"]
            for part in word["w"]:
                assert part["b"] == pytest.approx(end, abs=0.0015)
                assert part["d"] > 0
                end = part["b"] + part["d"]
            assert end == pytest.approx(word["b"] + word["d"], abs=0.0015)
        assert phones["w"][-1]["b"] + phones["w"][-1]["d"] <= float(row["duration"]) + 0.001


def test_silence_is_silent_and_words_are_not(corpus):
    for row in rows(corpus)[:5]:  # without noise
        samples, rate = soundfile.read(corpus / row["file_name"])
        levels = {True: [], False: []}
        for word in json.loads((corpus / row["alignment"]).read_text())["w"]:
            span = samples[int(word["b"] * rate) : int((word["b"] + word["d"]) * rate)]
            levels[word["t"] == "<sil>"].append(10 * np.log10(np.square(span).mean() + 1e-12))
        assert max(levels[True]) < min(levels[False]) - 5, row["file_name"]


def test_joined_lengths(corpus, script):
    joined = [row for row in rows(corpus) if int(row["n_sentences"]) > 1 and not row["condition"]]
    durations = [float(row["duration"]) for row in joined]
    assert len(joined) == 2
    assert min(durations) >= 5 and max(durations) <= 28
    assert durations == sorted(durations) and durations[-1] > 20
    assert all(row["transcription"].count(".") == int(row["n_sentences"]) for row in joined)
    for recording in script.joined(script.by_turns(["slt"]), 3):
        assert 5 <= recording.seconds <= 28
        assert recording.text.count(".") == recording.n_sentences >= 2


@needs_flite
@pytest.mark.long
def test_recordings_beyond_the_window(script, tmp_path):
    arguments = ["--n-sentences", "1", "--no-filter", "--no-real", "--joined", "2", "--joined-seconds", "30", "45"]
    script.main([str(tmp_path / "long"), *arguments])
    for row in rows(tmp_path / "long")[1:]:
        assert 30 <= float(row["duration"]) <= 45
        words = json.loads((tmp_path / "long" / row["alignment"]).read_text())["w"]
        assert [word["t"] for word in words if word["t"] != "<sil>"] == words_of(row["transcription"])
    for seconds in (["1", "20"], ["20", "10"], ["30", "33"]):
        with pytest.raises(SystemExit):
            script.main([str(tmp_path / "other"), "--joined-seconds", *seconds])
    assert not (tmp_path / "other").exists()


def test_long_recordings_are_heard_in_parts(script, tiny_model, audio, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "load_model", lambda name: tiny_model)  # which hears 1 s at once
    monkeypatch.setattr(script, "WINDOW", 1)
    soundfile.write(tmp_path / "long.wav", np.tile(audio, 3), script.RATE)
    lengths = []
    monkeypatch.setattr(
        tiny_model, "generate", lambda utterance, **_: lengths.append(utterance) or tiny_model.tokens(" so", utterance)
    )
    assert script.transcriber("tiny")(tmp_path / "long.wav") == " ".join(["so"] * len(lengths))
    assert sum(utterance.spectrogram.shape[1] for utterance in lengths) == pytest.approx(180, abs=3)


def test_noise_has_the_ratio_asked_for(corpus):
    clean = rows(corpus)[:5]
    for row in clean:
        samples, rate = soundfile.read(corpus / row["file_name"])
        spoken = np.zeros(len(samples), bool)
        for word in json.loads((corpus / row["alignment"]).read_text())["w"]:
            if word["t"] != "<sil>":
                spoken[int(word["b"] * rate) : int((word["b"] + word["d"]) * rate)] = True
        for snr in ("10", "0"):
            noisy, _ = soundfile.read(corpus / row["file_name"].replace(".wav", f"-noise-{snr}-db.wav"))
            if np.abs(noisy).max() > 0.99:
                continue  # turned down, so that the difference is not the noise
            noise = noisy - samples
            measured = 10 * np.log10(np.square(samples[spoken]).mean() / np.square(noise).mean())
            assert measured == pytest.approx(float(snr), abs=0.7), row["file_name"]


def test_noise_that_would_clip_is_turned_down(script):
    rng = np.random.default_rng(0)
    samples = script.pcm(np.clip(rng.normal(0, 0.25, 16_000), -1, 1))
    recording = script.Recording("loud", "loud", "slt", "female", "", samples, {})
    noisy = script.with_noise(recording, 0, seed=0).samples
    assert 32_000 < np.abs(noisy.astype(int)).max() <= 32_767
    gain = samples.astype(float) @ noisy / (samples.astype(float) @ samples)
    noise = noisy - gain * samples
    ratio = np.square(gain * samples).mean() / np.square(noise).mean()
    assert 10 * np.log10(ratio) == pytest.approx(0, abs=0.3)


def recordings_of_noise(script, n=3):
    """Recordings of white noise of one second, with a word that has one phone."""
    rng = np.random.default_rng(0)
    phone = {"b": 0.2, "d": 0.4, "p": 1.0, "t": "S"}
    words = {".phone.json": [{**phone, "t": "so", "w": [phone]}]}
    return [
        script.Recording(f"r{number}", "so", "human", "", "", script.pcm(rng.normal(0, 0.1, 16_000)), words)
        for number in range(n)
    ]


def test_babble_is_made_of_the_other_recordings(script):
    first, *others = recordings = recordings_of_noise(script)
    babble = script.with_babble(first, recordings, 10, seed=0)
    assert (babble.name, babble.condition) == ("r0-babble-10-db", "babble 10 dB")
    noise = (babble.samples.astype(float) - first.samples) / 32768
    assert 10 * np.log10(np.square(first.samples / 32768).mean() / np.square(noise).mean()) == pytest.approx(
        10, abs=0.1
    )
    of_others = sum(other.samples / other.samples.std() for other in others)
    assert np.corrcoef(noise, of_others)[0, 1] > 0.999
    assert abs(np.corrcoef(noise, first.samples)[0, 1]) < 0.05
    with pytest.raises(SystemExit, match="needs other recordings"):
        script.with_babble(first, [first], 10, seed=0)


@pytest.mark.parametrize("speed", [0.8, 1.25])
def test_speed_changes_the_duration_and_the_times(script, speed):
    [recording] = recordings_of_noise(script, 1)
    faster = script.at_speed(recording, speed)
    assert faster.condition == f"speed {speed:g}" and faster.seconds == pytest.approx(1 / speed)
    [word] = faster.alignments[".phone.json"]
    assert (word["b"], word["d"]) == (word["w"][0]["b"], word["w"][0]["d"]) == (0.2 / speed, 0.4 / speed)
    assert recording.alignments[".phone.json"][0]["b"] == 0.2


def test_recordings_alone_in_conditions(script, tmp_path):
    for corpus in ("one", "two"):
        (tmp_path / "corpora" / corpus).mkdir(parents=True)
        for recording in recordings_of_noise(script, 2):
            path = tmp_path / "corpora" / corpus / f"{corpus}-{recording.name}.wav"
            soundfile.write(path, recording.samples, 16_000)
            path.with_suffix(".txt").write_text("so")
    options = ["--n-sentences", "0", "--joined", "0", "--no-filter", "--real", str(tmp_path / "corpora")]
    script.main([str(tmp_path / "new"), *options, "--snr", "5", "--babble", "10", "--speed", "1.25"])
    found = rows(tmp_path / "new")
    assert [row["condition"] for row in found[::4]] == ["", "noise 5 dB", "babble 10 dB", "speed 1.25"]
    assert [row["source"] for row in found[:4]] == ["one one-r0", "one one-r1", "two two-r0", "two two-r1"]
    with pytest.raises(SystemExit):
        script.main([str(tmp_path / "other"), *options, "--speed", "3"])


def test_the_same_command_makes_the_same_files(corpus, script, tmp_path):
    script.speak.cache_clear()
    script.main([str(tmp_path / "again"), *SMALL, "--no-real", "--joined", "2", "--snr", "10", "0"])
    assert contents(tmp_path / "again") == contents(corpus)


@needs_flite
@needs_espeak
def test_other_voices_and_every_voice(script, tmp_path):
    voices = ["slt", "kal16", "espeak:en-gb-scotland", "espeak:en-us+f3"]
    arguments = ["--n-sentences", "1", "--no-filter", "--no-real", "--every-voice", "--joined", "0"]
    script.main([str(tmp_path / "new"), *arguments, "--voices", *voices])
    found = rows(tmp_path / "new")
    assert [row["voice"] for row in found] == voices
    assert [row["gender"] for row in found] == ["female", "male", "male", "female"]
    assert [bool(row["alignment"]) for row in found] == [True, False, False, False]
    assert len(list((tmp_path / "new" / "audio").glob("*.json"))) == 2
    with pytest.raises(SystemExit, match="has no voice espeak:en-nowhere"):
        script.check_voices(["espeak:en-nowhere"])


@needs_flite
def test_real_speech_comes_with_its_files(script, tmp_path):
    folder, output = tmp_path / "readings", tmp_path / "new"
    folder.mkdir()
    rng = np.random.default_rng(0)
    samples = rng.integers(-32768, 32768, 16_000).astype(np.int16)
    soundfile.write(folder / "one.wav", samples, 16_000)
    (folder / "one.txt").write_text("so what\n")
    word = {"b": 0.1, "d": 0.4, "p": 0.9, "t": "so"}
    (folder / "one.json").write_text(json.dumps({"b": 0, "d": 1, "p": 1, "t": "so what", "w": [word]}))
    soundfile.write(folder / "two.wav", samples, 16_000)
    (folder / "two.txt").write_text("so what")
    script.main([str(output), *SMALL, "--joined", "0", "--real", str(folder)])
    one, two = rows(output)[3:]
    assert (one["source"], one["transcription"], one["voice"]) == ("readings one", "so what", "human")
    assert np.array_equal(soundfile.read(output / one["file_name"], dtype="int16")[0], samples)
    assert json.loads((output / one["alignment"]).read_text())["w"] == [word]
    assert two["alignment"] == ""


def test_real_speech_is_joined_in_its_order(script, tmp_path):
    folder, output = tmp_path / "readings", tmp_path / "new"
    folder.mkdir()
    sounds = np.random.default_rng(0).integers(-32768, 32768, (3, 4 * 16_000)).astype(np.int16)
    for name, sound in zip(("one", "two", "three"), sounds):
        soundfile.write(folder / f"{name}.wav", sound, 16_000)
    names = "one.wav,one\ntwo.wav,two\nthree.wav,three\n"
    (folder / "metadata.csv").write_text("file_name,transcription\n" + names)
    options = ["--join-real", "--joined", "2", "--joined-seconds", "5", "15", "--no-filter"]
    script.main([str(output), *options, "--real", str(folder)])
    found = rows(output)
    assert [row["transcription"] for row in found] == ["one two", "three one two"]
    assert [float(row["duration"]) for row in found] == [8.2, 12.4]
    samples = soundfile.read(output / found[0]["file_name"], dtype="int16")[0]
    assert np.array_equal(samples, np.concatenate((sounds[0], np.zeros(3_200), sounds[1])))
    with pytest.raises(SystemExit):
        script.main([str(tmp_path / "other"), "--join-real"])


@needs_flite
def test_what_the_model_misses_is_left_out(script, tmp_path, monkeypatch, capsys):
    heard = {"rms-harvard-01": "The birch canoe slid on the smooth planks", "awb-harvard-02": "Glue the cheat!"}
    monkeypatch.setattr(script, "transcriber", lambda name: lambda path: heard[path.stem])
    output = tmp_path / "new"
    script.main([str(output), "--n-sentences", "2", "--joined", "0", "--no-real"])
    assert [row["voice"] for row in rows(output)] == ["rms"]
    [missed] = rows(output, "left_out.csv")
    assert missed == {
        "file_name": "audio/awb-harvard-02.wav",
        "transcription": "Glue the sheet to the dark blue background.",
        "model_text": "Glue the cheat!",
        "wer": "75.0",
    }
    assert "Glue the cheat!" in capsys.readouterr().out
    assert not list((output / "audio").glob("awb*"))


def test_flite_that_is_missing(script, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="apt install flite"):
        script.main([str(tmp_path / "new"), *SMALL])
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_not_empty_stays_as_it_is(script, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match="give a new one"):
        script.main([str(tmp_path), *SMALL])
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@needs_flite
@pytest.mark.long
def test_minimal_pair(script, tmp_path):
    script.main([str(tmp_path / "new"), "--minimal-pair", "--no-filter", "--voices", "rms", "slt"])
    found = rows(tmp_path / "new")
    assert len(found) == 2 * 2 * len(script.CARRIERS)
    for row in found:
        [word] = {"so", "no"} & set(words_of(row["transcription"]))
        assert row["file_name"].endswith(f"-{word}.wav") and row["source"].startswith("carrier sentence")
        aligned = json.loads((tmp_path / "new" / row["alignment"]).with_suffix(".phone.json").read_text())["w"]
        [phones] = [[phone["t"] for phone in item["w"]] for item in aligned if item["t"] == word]
        assert phones == [word[0].upper(), "OW"]
