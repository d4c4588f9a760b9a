"""Alignments, manifests and audio: any content of a file is read or raises a ValueError."""

import json
import struct
import warnings

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from mutations import altered, damaged, examples, json_values

from captum_spes.alignment import Alignment, Segment
from captum_spes.audio import load_audio
from captum_spes.evaluation.corpus import load_corpus

ALIGNMENT = Alignment(
    [Segment("so", 0.2, 0.45), Segment("what", 0.5, 0.8)],
    [Segment("S", 0.2, 0.31), Segment("OW", 0.31, 0.45), Segment("W", 0.5, 0.8)],
    "by hand",
)


def read(function, path, *args):
    """The content of a file, or None after a ValueError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return function(path, *args)
        except ValueError as error:
            assert path.name in str(error)


# Alignments


@pytest.fixture(scope="module")
def textgrid(tmp_path_factory):
    pytest.importorskip("praatio")
    path = tmp_path_factory.mktemp("alignment") / "a.TextGrid"
    ALIGNMENT.save(path)
    return path.read_bytes()


@examples(60)
@given(data=st.data())
def test_textgrids(data, textgrid, tmp_path):
    path = tmp_path / "a.TextGrid"
    path.write_bytes(data.draw(damaged(textgrid)))
    read(Alignment.load, path)


@examples(80)
@given(data=st.data())
def test_json_alignments(data, tmp_path):
    path = tmp_path / "a.json"
    ALIGNMENT.save(path)
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(damaged(path.read_bytes())))
    else:
        path.write_text(json.dumps(data.draw(altered(json.loads(path.read_text())))))
    found = read(Alignment.load, path)
    for segment in found.words + found.phones if found else []:
        assert isinstance(segment.text, str) and 0 <= segment.begin < segment.end


# Manifests


@examples(80)
@given(data=st.data())
def test_manifests(data, tmp_path):
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).touch()
    kind = data.draw(st.sampled_from(["csv", "jsonl"]))
    rows = {
        "csv": b'\xef\xbb\xbffile_name,transcription,x\r\na.wav,"So, ""what"" now?",\r\nb.wav,,1\r\n',
        "jsonl": b'{"file_name": "a.wav", "transcription": "So"}\n{"file_name": "b.wav", "x": [1]}\n',
    }
    path = tmp_path / f"list.{kind}"
    path.write_bytes(data.draw(damaged(rows[kind])))
    read(load_corpus, path)


@examples(60)
@given(names=st.lists(st.text(min_size=1) | st.sampled_from(["a.wav", "../a.wav", "/a.wav", "~/a"]), min_size=1),
       extra=json_values)  # fmt: skip
def test_names_in_manifests(names, extra, tmp_path):
    (tmp_path / "speech").mkdir(exist_ok=True)
    for folder in (tmp_path, tmp_path / "speech"):
        (folder / "a.wav").touch()
    path = tmp_path / "speech" / "list.jsonl"
    path.write_text("\n".join(json.dumps({"file_name": name, "x": extra}) for name in names))
    corpus = read(load_corpus, path)
    for utterance in corpus.utterances if corpus else []:
        assert utterance.path.resolve().parent == (tmp_path / "speech").resolve()
        assert (tmp_path / f"{utterance.id}.json").resolve().parent == tmp_path.resolve()


# Audio


def check(path):
    samples = read(load_audio, path, 16_000)
    assert samples is None or (samples.dtype == np.float32 and samples.ndim == 1 and np.isfinite(samples).all())


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audio")
    noise = np.random.default_rng(0).normal(0, 0.1, (4000, 2)).astype(np.float32)
    found = {}
    for suffix in ("wav", "flac", "ogg", "mp3"):
        soundfile.write(folder / f"a.{suffix}", noise, 16_000)
        found[suffix] = (folder / f"a.{suffix}").read_bytes()
    return found


@examples(100)
@given(data=st.data())
def test_damaged_recordings(data, recordings, tmp_path):
    suffix = data.draw(st.sampled_from(sorted(recordings)))
    head = data.draw(st.sampled_from([60, 4096]))  # headers hold what is most easily believed
    whole = recordings[suffix]
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(data.draw(damaged(whole[:head])) + (whole[head:] if data.draw(st.booleans()) else b""))
    check(path)


@examples(100)
@given(
    tag=st.sampled_from([1, 3, 6, 7, 0xFFFE, 0]),
    channels=st.sampled_from([0, 1, 2, 1000, 65535]),
    rate=st.sampled_from([0, 1, 999, 8000, 16000, 768_000, 2**31, 2**32 - 1]),
    bits=st.sampled_from([0, 4, 8, 16, 24, 32, 64, 65535]),
    sizes=st.lists(st.sampled_from([0, 16, 1000, 2**31 - 1, 2**32 - 1]), min_size=2, max_size=2),
    samples=st.binary(max_size=4) | st.sampled_from([struct.pack("<f", x) for x in (np.nan, np.inf, 3e38)]),
)
def test_headers_of_wav(tag, channels, rate, bits, sizes, samples, tmp_path):
    align = channels * bits // 8 & 0xFFFF
    data = samples * 5000
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * align & 0xFFFFFFFF, align, bits)
    path = tmp_path / "a.wav"
    path.write_bytes(
        b"RIFF" + struct.pack("<I", sizes[0]) + b"WAVEfmt " + struct.pack("<I", 16) + form
        + b"data" + struct.pack("<I", sizes[1]) + data
    )  # fmt: skip
    check(path)


@examples(40)
@given(
    samples=st.lists(st.floats(width=32) | st.integers() | st.none() | st.lists(st.floats(), max_size=3), max_size=4),
    repeat=st.sampled_from([1, 2000]),
    rate=st.none() | st.integers() | st.floats() | st.sampled_from([8000, "16000", True]),
)
def test_arrays(samples, repeat, rate):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = load_audio(samples * repeat, 16_000, rate)
        except ValueError:
            return
    assert np.isfinite(found).all()
