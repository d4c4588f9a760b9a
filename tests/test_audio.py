"""Reading of audio: rates, channels, types, and refused inputs."""

import hashlib
import io
import os
import signal
import sys
import threading
import warnings
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from captum_spes.audio import load_audio, read_audio, reading, source_of


def tone(rate, seconds=0.5, frequency=440):
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", ["wav", "flac", "array", "tensor"])
def test_rates_and_channels(rate, channels, kind, tmp_path):
    samples = tone(rate)
    if channels == 2:
        samples = np.stack((samples, np.zeros_like(samples)), axis=1)
    if kind in ("wav", "flac"):
        path = tmp_path / f"tone.{kind}"
        soundfile.write(path, samples, rate)
        audio = load_audio(path, 16000)
    else:
        given = samples.T if channels == 2 else samples
        audio = load_audio(torch.from_numpy(np.ascontiguousarray(given)) if kind == "tensor" else given, 16000, rate)
    assert audio.dtype == np.float32 and audio.shape == (8000,)
    expected = tone(16000) / channels
    assert np.abs(audio - expected)[100:-100].max() < 0.01


def test_integers_are_scaled():
    samples = (tone(16000) * 32767).astype(np.int16)
    assert np.abs(load_audio(samples, 16000, 16000) - tone(16000)).max() < 1e-4
    unsigned = (tone(16000) * 127 + 128).astype(np.uint8)
    assert np.abs(load_audio(unsigned, 16000, 16000) - tone(16000)).max() < 0.02
    gradients = torch.from_numpy(tone(16000)).requires_grad_()
    assert np.array_equal(load_audio(gradients, 16000, 16000), tone(16000))


def write(path, samples):
    soundfile.write(path, samples, 16000)
    return path


def link(path, target):
    path.symlink_to(target)
    return path


def written(path, data):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "nothing.wav", "does not exist"),
        (lambda folder: "https://example.org/speech.wav", "is a URL, which is not read: download the file"),
        (lambda folder: folder, "is a folder"),
        (lambda folder: (folder / "empty.wav").write_bytes(b"") or folder / "empty.wav", "is empty"),
        (
            lambda folder: (folder / "text.wav").write_text("words") and folder / "text.wav",
            "is not a readable audio file",
        ),
        (lambda folder: write(folder / "none.wav", np.zeros(0, np.float32)), "holds no samples"),
        (lambda folder: write(folder / "silent.wav", np.zeros(16000, np.float32)), "is silent"),
        (lambda folder: write(folder / "short.wav", tone(16000, 0.09)), "lasts only 0.090 s"),
        (lambda folder: link(folder / "link.wav", folder / "gone.wav"), "link.wav is a link to a file that does not"),
        (lambda folder: link(folder / "loop.wav", folder / "loop.wav"), "loop.wav cannot be reached"),
        (lambda folder: Path("/dev/null"), "/dev/null is a device or a socket"),
        (lambda folder: folder / ("x" * 300), "cannot be reached .File name too long"),
        (lambda folder: "a\0.wav", "does not exist, as no file can have such a name"),
        (lambda folder: write(folder / "low.wav", np.full(16000, 0.25, np.float32)), "is silent .all of its samples"),
        (lambda folder: write(folder / "soft.wav", 1e-5 * tone(16000)), "is too soft: its largest sample is"),
        (lambda folder: written(folder / "a.m4a", b"\0\0\0\x20ftypM4A "), "a.m4a is MPEG-4 audio or video"),
        (lambda folder: written(folder / "a.wav", b"\x1aE\xdf\xa3\x01\0\0\0"), "a.wav is Matroska or WebM"),
    ],
)
def test_bad_files(make, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        load_audio(make(tmp_path), 16000)


@pytest.mark.parametrize(
    ("samples", "rate", "words"),
    [
        (np.array([0.1, np.nan] * 8000), 16000, "NaN or infinite"),
        (np.array([0.1, np.inf] * 8000), 16000, "NaN or infinite"),
        (tone(16000), None, "needs its sampling_rate"),
        (tone(16000), 0, "needs its sampling_rate"),
        (tone(16000)[None, None], 16000, "one or two dimensions"),
        (tone(16000).astype(complex), 16000, "must be floating-point or integer"),
        (["a", "b"], 16000, "must be floating-point or integer"),
        ([], 16000, "holds no samples"),
    ],
)
def test_bad_arrays(samples, rate, words):
    with pytest.raises(ValueError, match=words):
        load_audio(samples, 16000, rate)


# What is said of audio is true of it


def stereo(left, right, path, **arguments):
    soundfile.write(path, np.stack((left, right), axis=1), 16000, **arguments)
    return path


@pytest.mark.parametrize("kind", ["wav", "flac", "array"])
def test_channels_that_cancel_each_other_are_not_silent(kind, tmp_path):
    speech = tone(16000)
    given = np.stack((speech, -speech)) if kind == "array" else stereo(speech, -speech, tmp_path / f"a.{kind}")
    with pytest.warns(UserWarning, match="channels of .* cancel each other.*only channel 1 is used"):
        audio = load_audio(given, 16000, 16000 if kind == "array" else None)
    assert np.abs(audio - speech).max() < 1e-3


def test_channels_whose_mean_is_soft_are_averaged():
    """Its level is 5 % of a channel's."""
    channels = np.stack((tone(16000), -0.9 * tone(16000)))
    assert np.array_equal(load_audio(channels, 16000, 16000), channels.mean(0))


def test_the_loudest_of_channels_that_cancel_is_taken():
    speech = tone(16000)
    with pytest.warns(UserWarning, match="only channel 3 is used"):
        audio = load_audio(np.stack((-0.4 * speech, -0.6 * speech, speech, 0 * speech)), 16000, 16000)
    assert np.array_equal(audio, speech)


def unfinished(path, samples, sizes):
    """A WAV file whose header has no sizes, as written to a pipe."""
    soundfile.write(path, samples, 16000, subtype="PCM_16")
    whole = bytearray(path.read_bytes())
    data = whole.index(b"data")
    for position, size in zip((4, data + 4), sizes):
        whole[position : position + 4] = size.to_bytes(4, "little")
    path.write_bytes(whole)
    return path


@pytest.mark.parametrize("sizes", [(0, 0), (36, 0), (2**32 - 1, 2**32 - 1), (2**32 - 1, 0), (0, 2**31)])
@pytest.mark.parametrize("begin", [0, 8000])
def test_a_header_that_was_left_unfinished(tmp_path, sizes, begin):
    speech = np.concatenate((np.zeros(begin, np.float32), tone(16000)))
    path = unfinished(tmp_path / "a.wav", speech, sizes)
    assert np.abs(load_audio(path, 16000) - speech).max() < 1e-4


def test_a_finished_wav_without_samples_holds_none(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(0, np.float32), 16000)
    notes = b"LIST" + (12).to_bytes(4, "little") + b"INFOISFT" + (0).to_bytes(4, "little")
    path.write_bytes(path.read_bytes() + notes)
    with pytest.raises(ValueError, match="holds no samples"):
        load_audio(path, 16000)


@pytest.mark.parametrize(("kind", "before", "zeros"), [("AU", b".snd", slice(8, 12)), ("RF64", b"ds64", slice(8, 32))])
def test_a_header_that_denies_its_samples_is_told(tmp_path, kind, before, zeros):
    path = tmp_path / "a.audio"
    soundfile.write(path, tone(16000), 16000, format=kind, subtype="PCM_16")
    whole = bytearray(path.read_bytes())
    begin = whole.index(before)
    whole[begin + zeros.start : begin + zeros.stop] = bytes(zeros.stop - zeros.start)
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="the header of .*a.audio says that it holds no samples, but it has 16,"):
        load_audio(path, 16000)


@pytest.mark.parametrize("name", ["antiphase.flac", "stream_size0.wav"])
def test_files_that_once_went_wrong(cases, name):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        samples, _ = read_audio(cases / name)
    assert len(samples) >= 16000 and samples.std() > 0.01
    assert [str(w.message).endswith("only channel 1 is used.") for w in caught] == [True] * (name[0] == "a")


def test_a_pipe_is_read(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    soundfile.write(tmp_path / "a.wav", tone(16000), 16000, subtype="FLOAT")
    writer = threading.Thread(target=lambda: path.write_bytes((tmp_path / "a.wav").read_bytes()), daemon=True)
    writer.start()
    assert np.array_equal(load_audio(path, 16000), tone(16000))
    writer.join()
    assert source_of(path) == {}  # and does not wait for somebody to write


def test_bytes_that_are_too_many(tmp_path, monkeypatch):
    data = write(tmp_path / "a.wav", tone(16000)).read_bytes()
    monkeypatch.setattr(reading, "MAX_BYTES", len(data) - 1)
    with pytest.raises(ValueError, match="the audio has more than .* bytes: cut it into shorter recordings"):
        load_audio(data, 16000)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.wav", tone(16000))
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    with pytest.raises(ValueError, match="a.wav cannot be read, because the permission is missing"):
        load_audio(path, 16000)


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ((tone(16000) * 32767).astype(np.int64), "audio samples of int64 have no full scale"),
        ((tone(16000) * 32767).astype(np.int32), "is too soft: its largest sample is 8e-06 of full scale"),
        ((tone(16000) * 32767).astype(np.float32), "divide integers by their full scale, such as 32768"),
        (np.zeros((2, 0), np.float32), "holds no samples"),
        (np.zeros((0, 2), np.float32), "holds no samples"),
    ],
)
def test_arrays_of_which_the_truth_is_said(samples, words):
    with pytest.raises(ValueError, match=words):
        load_audio(samples, 16000, 16000)


def test_unsigned_integers_have_their_silence_in_the_middle():
    samples = (tone(16000) * 32767 + 32768).astype(np.uint16)
    assert np.abs(load_audio(samples, 16000, 16000) - tone(16000)).max() < 1e-4


# Where people have their audio


class Decoder:
    """A decoder with the interface of torchcodec."""

    def get_all_samples(self):
        return SimpleNamespace(data=torch.from_numpy(np.stack((tone(8000), tone(8000)))), sample_rate=8000)


def file_of(folder, **arguments):
    path = folder / "a.wav"
    soundfile.write(path, tone(8000), 8000, subtype="FLOAT", **arguments)
    return path


@pytest.mark.parametrize(
    "give",
    [
        lambda path: path.read_bytes(),
        lambda path: bytearray(path.read_bytes()),
        lambda path: io.BytesIO(path.read_bytes()),
        lambda path: open(path, "rb"),  # noqa: SIM115
        lambda path: (tone(8000), 8000),
        lambda path: (8000, tone(8000)),
        lambda path: (torch.from_numpy(tone(8000))[None], 8000),
        lambda path: soundfile.read(path),
        lambda path: {"array": tone(8000), "sampling_rate": 8000, "path": None},
        lambda path: {"raw": tone(8000).tolist(), "sampling_rate": np.int64(8000)},
        lambda path: {"bytes": path.read_bytes(), "path": "a.wav"},
        lambda path: {"bytes": None, "path": str(path)},
        lambda path: Decoder(),
        lambda path: Decoder().get_all_samples(),
    ],
)
def test_audio_that_tells_its_rate(give, tmp_path):
    samples, rate = read_audio(give(file_of(tmp_path)))
    assert rate == 8000 and type(rate) is int and np.allclose(samples, tone(8000), atol=1e-6)


@pytest.mark.parametrize(
    "rate", [8000, 8000.0, np.int16(8000), np.array(8000), torch.tensor(8000), torch.tensor([8000]), Fraction(8000)]
)
def test_rates_that_are_a_number(rate):
    assert read_audio(torch.from_numpy(tone(8000)), rate)[1] == 8000


@pytest.mark.parametrize("rate", [None, 0, -1, True, "8000", float("nan"), float("inf"), [8000, 8000], 10**400])
def test_rates_that_are_none(rate):
    with pytest.raises(ValueError, match="needs its sampling_rate, a positive number"):
        read_audio(tone(8000), rate)


def test_a_rate_that_contradicts_a_file_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(16000), 16000)
    assert read_audio(tmp_path / "a.wav", 16000)[1] == 16000
    for audio in (tmp_path / "a.wav", (tmp_path / "a.wav").read_bytes()):
        with pytest.raises(ValueError, match="has a sampling rate of 16000, not 8000: leave out sampling_rate"):
            read_audio(audio, 8000)


def test_rates_that_contradict_each_other():
    with pytest.raises(ValueError, match="has a sampling rate of 8000, not 16000"):
        read_audio((tone(8000), 8000), 16000)
    assert read_audio((tone(8000), 8000), 8000)[1] == 8000


def test_a_pair_of_channels_is_no_pair_with_a_rate():
    assert len(read_audio((tone(8000), tone(8000)), 8000)[0]) == 4000
    assert len(read_audio(tuple(tone(8000)), 8000)[0]) == 4000


def test_a_file_object_stands_where_it_stood(tmp_path):
    data = file_of(tmp_path).read_bytes()
    stream = io.BytesIO(b"before" + data)
    stream.seek(6)
    for _ in range(2):
        assert read_audio(stream)[1] == 8000 and stream.tell() == 6
    assert source_of(stream) == source_of(data) == {"audio_sha256": hashlib.sha256(data).hexdigest()}


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        (b"", "the audio is empty"),
        (b"words", "the audio is not a readable audio file"),
        (io.StringIO("words"), "is a file object in text mode: open it in binary mode"),
        ({"sampling_rate": 8000}, "a dict of audio needs 'array' and 'sampling_rate'"),
        ({"array": [0.1] * 2000}, "needs its sampling_rate"),
    ],
)
def test_what_is_no_audio(audio, words):
    with pytest.raises(ValueError, match=words):
        read_audio(audio)


@pytest.mark.parametrize("suffix", ["m4a", "mp4", "webm"])
def test_formats_that_libsndfile_does_not_read(suffix, tmp_path, monkeypatch):
    av = pytest.importorskip("av")
    codec, rate = ("aac", 16000) if suffix != "webm" else ("libopus", 48000)
    path = tmp_path / f"a.{suffix}"
    with av.open(path, "w") as file:
        stream = file.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(rate, 1.0)[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        for one in (frame, None):
            file.mux(stream.encode(one))
    samples, found = read_audio(path)
    assert found == rate
    middle = samples[rate // 4 : rate // 2]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert abs(spectrum.argmax() * rate / len(middle) - 440) < 8 and 0.4 < np.abs(middle).max() < 0.6
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"a\.\w+ is .*captum-spes\[av\].*ffmpeg -i"):
        read_audio(path)


@pytest.mark.parametrize("kind", ["AIFF", "AU", "CAF", "NIST", "OGG", "FLAC", "MP3", "W64", "RF64"])
def test_formats_of_libsndfile(kind):
    data = io.BytesIO()
    soundfile.write(data, tone(16000), 16000, format=kind)
    assert abs(len(load_audio(data.getvalue(), 16000)) - 8000) < 2000  # MP3 adds silence


@pytest.mark.skipif(os.name == "nt", reason="there is no os.kill for SIGINT")
def test_an_interrupt_while_a_file_is_read_is_not_lost():
    """libsndfile reads by callbacks, whose exceptions are ignored: the file would seem to be broken."""

    class Interrupting(io.BytesIO):
        def readinto(self, buffer):
            os.kill(os.getpid(), signal.SIGINT)
            return super().readinto(buffer)

    file = io.BytesIO()
    soundfile.write(file, tone(16000), 16000, format="WAV")
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            reading._read_stream(Interrupting(file.getvalue()), "speech.wav")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, previous)
