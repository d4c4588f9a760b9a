"""A corpus from a manifest or a folder: utterances that are read, left out or refused, and their ids."""

import json
import os
import re
import unicodedata
import warnings
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from captum_spes.audio import AUDIO_SUFFIXES
from captum_spes.evaluation.corpus import CorpusUtterance, _make_ids, load_corpus

BOM = b"\xef\xbb\xbf"


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def folder(tmp_path):
    """A folder with the audio files a.wav, b.wav and sub/c.flac."""
    touch(tmp_path, "a.wav", "b.wav", "sub/c.flac")
    return tmp_path


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def said(corpus):
    return {utterance.id: utterance.transcription for utterance in corpus.utterances}


# Manifests


@pytest.mark.parametrize("encode", [str.encode, lambda text: BOM + text.replace("\n", "\r\n").encode()])
def test_csv(folder, encode):
    text = 'file_name,speaker,transcription\nb.wav,Zoë,"So, ""what""\n  now?"\n\na.wav,,\nsub/c.flac,"1,5",次は\n'
    path = write(folder, "metadata.csv", encode(text))
    corpus = load_corpus(str(path))
    assert corpus.source == path and corpus.problems == {}
    assert corpus.utterances == [
        CorpusUtterance("b", folder / "b.wav", 'So, "what" now?', {"speaker": "Zoë"}),
        CorpusUtterance("a", folder / "a.wav", None, {"speaker": ""}),
        CorpusUtterance("sub+c", folder / "sub/c.flac", "次は", {"speaker": "1,5"}),
    ]
    assert load_corpus(folder) == corpus


@pytest.mark.parametrize("encode", [str.encode, lambda text: BOM + text.replace("\n", "\r\n").encode()])
def test_jsonl(folder, encode):
    rows = [
        {"file_name": "b.wav", "transcription": " what\u2028now? ", "age": 30, "tags": ["ä", None], "note": None},
        {"file_name": "a.wav", "transcription": None, "note": "x"},
        {"file_name": str(folder / "sub" / "c.flac"), "good": True},
    ]
    text = "\n \n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    corpus = load_corpus(write(folder, "list.JSONL", encode(text)))
    assert [u.transcription for u in corpus.utterances] == ["what now?", None, None]
    assert [u.path for u in corpus.utterances] == [folder / "b.wav", folder / "a.wav", folder / "sub" / "c.flac"]
    assert [u.fields for u in corpus.utterances] == [
        {"age": "30", "tags": '["ä", null]', "note": ""},
        {"note": "x"},
        {"good": "true"},
    ]


def test_path_may_be_relative(folder, monkeypatch):
    write(folder, "list.csv", "file_name\na.wav\n")
    monkeypatch.chdir(folder)
    assert load_corpus("list.csv").utterances[0].path == Path("a.wav")
    (folder / "list.csv").unlink()
    assert list(said(load_corpus("."))) == ["a", "b", "sub+c"]


def test_missing_audio_is_a_problem(folder):
    path = write(folder, "list.csv", "file_name\nnone.wav\na.wav\nsub\n")
    corpus = load_corpus(path)
    assert list(said(corpus)) == ["a"]
    assert list(corpus.problems) == ["none.wav", "sub"]
    assert corpus.problems["none.wav"].startswith(f"{folder / 'none.wav'} does not exist")


@pytest.mark.parametrize("name", ["x" * 5000 + ".wav", "\0.wav", "\ud800.wav", "https://host/a.wav"])
def test_names_that_no_file_can_have(folder, name):
    rows = [{"file_name": name}, {"file_name": "a.wav"}]
    corpus = load_corpus(write(folder, "list.jsonl", "\n".join(map(json.dumps, rows))))
    assert list(said(corpus)) == ["a"] and list(corpus.problems) == [name]


def test_ids_do_not_depend_on_missing_audio(folder):
    path = write(folder, "list.csv", "file_name\na.wav\na.flac\n")
    before = load_corpus(path).utterances[0]
    touch(folder, "a.flac")
    assert load_corpus(path).utterances[0] == before


@pytest.mark.parametrize("column", ["text", "Sentence"])
def test_transcriptions_in_another_column(folder, column):
    for name, content in [
        ("list.csv", f"file_name,{column}\na.wav,hello\n"),
        ("list.jsonl", json.dumps({"file_name": "a.wav", column: "hello"})),
    ]:
        with pytest.warns(UserWarning, match=f"no column transcription, only file_name, {column}") as caught:
            corpus = load_corpus(write(folder, name, content))
        assert caught[0].filename == __file__
        assert said(corpus) == {"a": None} and corpus.utterances[0].fields == {column: "hello"}


def test_text_beside_a_transcription(folder):
    assert said(load_corpus(write(folder, "list.csv", "file_name,text,transcription\na.wav,x,y\n"))) == {"a": "y"}


BAD_MANIFESTS = [
    ("l.csv", "", "lists no utterance: give a manifest with file_name"),
    ("l.csv", BOM, "lists no utterance"),
    ("l.csv", "file_name,transcription\n\n", "lists no utterance"),
    ("l.jsonl", " \n\n", "lists no utterance"),
    ("l.csv", b"file_name\na.wav\n\xe9.wav\n", "line 3 is not UTF-8"),
    ("l.csv", BOM + b"file_name\n\xe9.wav\n", "line 2 is not UTF-8"),
    ("l.jsonl", b'{"file_name": "a.wav"}\n\xff', "line 2 is not UTF-8"),
    ("l.csv", "file_name\na.wav\n".encode("utf-16"), "line 1 is not UTF-8"),
    ("l.csv", "file_name\na.wav\n".encode("utf-16-le"), "line 1 holds NUL bytes"),
    ("l.csv", "file_name\na.wav\nb\0.wav\n", "line 3 holds NUL bytes"),
    ("l.csv", "name,transcription\na.wav,x\n", "line 1 has no file_name, the path of the audio"),
    ("l.csv", "\npath,transcription\na.wav,x\n", "line 2 has no file_name, the path of the audio relative to the"),
    ("l.csv", "x,Audio\na.wav,x\n", "only x, Audio: rename the column with the paths"),
    ("l.csv", "file_name;transcription\na.wav;x\n", "line 1: the columns are not separated by commas"),
    ("l.csv", "file_name\ttranscription\na.wav\tx\n", "line 1: the columns are not separated by commas"),
    ("l.csv", "file_name,x,x\na.wav,1,2\n", "line 1: the header has the column 'x' twice"),
    ("l.csv", "file_name,transcription\na.wav,so, what\n", "line 2 has 3 cells, and the header 2: put text"),
    ("l.csv", 'file_name,transcription\na.wav,"so\nwhat"\nb.wav\n', "line 4 has 1 cell, and the header 2"),
    ("l.csv", 'file_name,transcription\na.wav,"so"what\n', "line 2 is not a row of a CSV file (',' expected"),
    (
        "l.csv",
        'file_name,transcription\n\na.wav,"so\nb.wav,what\n',
        "line 3 is not a row of a CSV file (unexpected",
    ),
    ("l.csv", "file_name,transcription\na.wav," + "x" * 200_000, "line 2 is not a row of a CSV file (field larger"),
    ("l.csv", 'file_name,transcription\na.wav,"x\ny"\na.wav,z\n', "line 4: a.wav is on line 2 already"),
    ("l.csv", "file_name,transcription\n,x\n", "line 2: file_name must be the path of an audio file, not ''"),
    ("l.csv", "file_name,transcription\n  ,x\n", "line 2: file_name must be the path of an audio file, not ''"),
    ("l.csv", "file_name,transcription\nnan,x\n", "line 2: file_name must be the path of an audio file, not ''"),
    ("l.csv", "file_name\na.wav\n./a.wav\n", "line 3: a.wav is on line 2 already: list every file once"),
    ("l.csv", "file_name\na.wav\nsub/../a.wav\n", "line 3: a.wav is on line 2 already"),
    ("l.csv", "file_name\na.wav\n a.wav \n", "line 3: a.wav is on line 2 already"),
    ("l.csv", "file_name\nsub/c.flac\nsub\\c.flac\n", "line 3: sub/c.flac is on line 2 already"),
    ("l.csv", "file_name\nnone.wav\n.//none.wav\n", "line 3: none.wav is on line 2 already"),
    ("l.csv", "file_name\nx.wav\ny.wav\n", "no usable utterance, 2 left out; the first: "),
    ("l.jsonl", '{"file_name": "a.wav"}\n{"file_name"\n', "line 2 is not valid JSON (Expecting ':' delimiter)"),
    ("l.jsonl", '{"file_name": "a.wav"} {}', "line 1 is not valid JSON (Extra data)"),
    ("l.jsonl", '{"file_name": "a\0.wav"}', "line 1 holds NUL bytes"),
    ("l.jsonl", '{"file_name": "a.wav", "file_name": "b.wav"}', "(the key 'file_name' occurs twice)"),
    ("l.jsonl", '{"file_name": "a.wav", "x": {"y": 1, "y": 1}}', "(the key 'y' occurs twice)"),
    ("l.jsonl", "[" * 100_000, "line 1 is not valid JSON (maximum recursion depth"),
    ("l.jsonl", '\n["a.wav"]', "line 2 is not a JSON object: write {…}"),
    ("l.jsonl", "null", "line 1 is not a JSON object"),
    ("l.jsonl", '{"file_name": "a.wav"}\n{"transcription": "x"}', "line 2 has no file_name, the path"),
    ("l.jsonl", '{"audio_filepath": "a.wav"}', "line 1 has no file_name, the path"),
    ("l.jsonl", '{"file_name": null}', "line 1: file_name must be the path of an audio file, not 'null'"),
    ("l.jsonl", '{"file_name": ["a.wav"]}', "line 1: file_name must be the path of an audio file, not '[\"a.wav\"]'"),
    ("l.jsonl", '{"file_name": "a.wav", "transcription": 7}', "line 1: transcription must be text or null, not 7"),
    ("l.jsonl", '{"file_name": "a.wav"}\n\n{"file_name": "a.wav"}', "line 3: a.wav is on line 1 already"),
    ("l.jsonl", '{"file_name": "x.wav"}', "no usable utterance, 1 left out; the first: "),
    ("l.tsv", "file_name\na.wav\n", "is neither a folder nor a manifest: give a folder, or a .csv or .jsonl file"),
    ("l.wav", "", "is neither a folder nor a manifest"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_MANIFESTS, ids=range(len(BAD_MANIFESTS)))
def test_bad_manifests(name, content, message, folder):
    path = write(folder, name, content)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load_corpus(path)
    said = str(caught.value)
    assert said.startswith(str(path)) and said.endswith(".") and "\n" not in said


def test_no_such_path(tmp_path):
    for name in ("none.csv", "none", "no\0ne"):
        with pytest.raises(
            ValueError,
            match="does not exist(, as no file can have such a name)?: give a .csv or .jsonl manifest, or a folder",
        ):
            load_corpus(tmp_path / name)


def test_unreadable_manifest(folder, monkeypatch):
    path = write(folder, "list.csv", "file_name\na.wav\n")

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ValueError, match="cannot be read .Permission denied.: check its permissions"):
        load_corpus(path)


# One file under several names


def link(folder, name, target, hard=False):
    try:
        os.link(folder / target, folder / name) if hard else (folder / name).symlink_to(folder / target)
    except OSError:
        pytest.skip("no links here")


@pytest.mark.parametrize("hard", [True, False])
def test_a_link_in_a_manifest_is_the_file_that_it_leads_to(folder, hard):
    link(folder, "0.wav", "a.wav", hard)
    with pytest.raises(ValueError, match=r"line 3: a.wav is on line 2 already, as 0.wav: list every file once"):
        load_corpus(write(folder, "l.csv", "file_name\n0.wav\na.wav\n"))


@pytest.mark.parametrize("hard", [True, False])
def test_a_link_in_a_folder_is_left_out(folder, hard):
    link(folder, "0.wav", "a.wav", hard)
    corpus = load_corpus(folder)
    kept, left_out = ("0.wav", "a.wav") if hard else ("a.wav", "0.wav")
    assert [u.path.name for u in corpus.utterances] == [kept, "b.wav", "c.flac"]
    assert corpus.problems == {
        left_out: f"{folder / left_out} is the same file as {kept}, which is in the corpus already."
    }


def test_a_manifest_that_once_went_wrong(cases):
    with pytest.raises(ValueError, match="line 3: a.flac is on line 2 already"):
        load_corpus(cases / "dup_manifest")


def test_a_folder_through_a_link(folder):
    link(folder, "other", "sub")
    with pytest.raises(ValueError, match=r"line 3: other/c.flac is on line 2 already, as sub/c.flac"):
        load_corpus(write(folder, "l.csv", "file_name\nsub/c.flac\nother/c.flac\n"))


@pytest.mark.parametrize(("there", "named"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_whose_accents_are_composed_in_another_way(folder, there, named):
    names = [unicodedata.normalize(form, "é.wav") for form in (there, named)]
    touch(folder, names[0])
    (utterance,) = load_corpus(write(folder, "l.csv", f"file_name\n{names[1]}\n")).utterances
    assert os.path.samefile(utterance.path, folder / names[0])
    with pytest.raises(ValueError, match="line 3: .* is on line 2 already"):
        load_corpus(write(folder, "l.csv", "file_name\n" + "\n".join(names)))


def test_names_as_windows_and_spreadsheets_write_them(folder):
    for name, content in [
        ("l.csv", " file_name , transcription\n sub\\c.flac , so \na.wav,nan\n./b.wav, NaN\n"),
        ("l.jsonl", '{"file_name": "sub\\\\c.flac ", "transcription": "so"}\n'
         '{"file_name": "a.wav", "transcription": NaN}\n{"file_name": "./b.wav", "transcription": "nan"}'),
    ]:  # fmt: skip
        corpus = load_corpus(write(folder, name, content))
        assert corpus.problems == {} and said(corpus) == {"sub+c": "so", "a": None, "b": None}
        assert [u.path for u in corpus.utterances] == [folder / "sub/c.flac", folder / "a.wav", folder / "b.wav"]


def test_a_word_that_begins_like_a_missing_value_is_a_word(folder):
    assert said(load_corpus(write(folder, "l.csv", "file_name,transcription\na.wav,Nan bread\n"))) == {"a": "Nan bread"}


@pytest.mark.parametrize("suffix", AUDIO_SUFFIXES)
def test_a_folder_has_every_format_that_is_read(tmp_path, suffix):
    touch(tmp_path, f"a{suffix.upper()}")
    assert list(said(load_corpus(tmp_path))) == ["a"]


# Folders


def test_folder(tmp_path):
    touch(tmp_path, "b/2.OGG", "b/1.mp3", "a.opus", "b.m4a", "c.Flac", "read.me", ".hidden.wav", ".git/x.wav", "a.txt")
    write(tmp_path, "b/1.txt", BOM + b" so\r\n\r\nwhat \xc3\xa9\n")
    write(tmp_path, "b.txt", "hello")
    corpus = load_corpus(tmp_path)
    assert corpus.source == tmp_path and corpus.problems == {}
    assert [(u.path.relative_to(tmp_path).as_posix(), u.transcription) for u in corpus.utterances] == [
        ("a.opus", None),
        ("b.m4a", "hello"),
        ("b/1.mp3", "so what é"),
        ("b/2.OGG", None),
        ("c.Flac", None),
    ]
    assert [u.id for u in corpus.utterances] == ["a", "b", "b+1", "b+2", "c"]
    assert all(u.fields == {} for u in corpus.utterances)


def test_text_that_is_no_text_is_a_problem(folder):
    write(folder, "a.txt", b"caf\xe9")
    write(folder, "sub/c.txt", "so".encode("utf-16-le"))
    corpus = load_corpus(folder)
    assert list(said(corpus)) == ["b"]
    assert corpus.problems["a.wav"].startswith(f"{folder / 'a.txt'}, line 1 is not UTF-8")
    assert corpus.problems["sub/c.flac"].startswith(f"{folder / 'sub' / 'c.txt'}, line 1 holds NUL bytes")
    write(folder, "b.txt", b"\xff")
    with pytest.raises(ValueError, match=r"no usable utterance, 3 left out; the first: .*a\.txt, line 1"):
        load_corpus(folder)


def test_unreadable_subfolder_is_a_problem(folder, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    corpus = load_corpus(folder)
    assert list(said(corpus)) == ["a", "b"]
    assert "is a folder that cannot be read" in corpus.problems["sub"]


def test_broken_link_is_a_problem(folder):
    try:
        (folder / "z.wav").symlink_to(folder / "nothing.wav")
    except OSError:
        pytest.skip("no symbolic links here")
    assert list(load_corpus(folder).problems) == ["z.wav"]


def test_manifest_in_a_subfolder_is_told(folder):
    write(folder, "sub/metadata.csv", "file_name\nc.flac\n")
    with pytest.warns(UserWarning, match=r"metadata\.csv is not read") as caught:
        assert len(load_corpus(folder).utterances) == 3
    assert caught[0].filename == __file__


def test_two_manifests(folder):
    write(folder, "metadata.csv", "file_name\na.wav\n")
    write(folder, "metadata.jsonl", '{"file_name": "b.wav"}')
    with pytest.raises(ValueError, match=r"holds both metadata\.csv and metadata\.jsonl: give the path"):
        load_corpus(folder)
    assert list(said(load_corpus(folder / "metadata.jsonl"))) == ["b"]


def test_folder_without_audio(tmp_path):
    touch(tmp_path, "a.txt", "sub/read.me", ".a.wav")
    with pytest.raises(ValueError, match=r"holds neither audio files \(\.wav .*\) nor metadata\.csv"):
        load_corpus(tmp_path)


# Ids


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("speech.wav", "speech"),
        ("LJ001-0001.WAV", "LJ001-0001"),
        ("my talk.v2.mp3", "my talk.v2"),
        ("84/121/84-121-0001.flac", "84+121+84-121-0001"),
        ("sound.aiff", "sound"),
        ("sound.xyz", "sound.xyz"),
        ("no_suffix", "no_suffix"),
        ("a+b.wav", "a_b~"),
        ("a~b.wav", "a_b~"),
        ("/data/a.wav", "data_a~"),
        ("../a.wav", "a~"),
        ("a//b.wav", "a_b~"),
        ("C:\\data\\a.wav", "C_data_a~"),
        ("-rf.wav", "rf~"),
        ("a .wav", "a_~"),
        ("a?<b>|*.wav", "a_b_~"),
        (".wav", "wav~"),
        ("🎤.wav", "utterance~"),
        ("Zoë.wav", "Zoë~"),
        ("हिन्दी.wav", "हिन्दी~"),
        ("CON.wav", "CON"),
        ("x" * 80 + ".wav", "x" * 80),
        ("x" * 81 + ".wav", "x" * 80 + "~"),
        ("é" * 300 + ".wav", "é" * 40 + "~"),
        ("xé" * 300 + ".wav", "xé" * 26 + "x~"),
    ],
)
def test_ids(name, expected):
    (found,) = _make_ids([name])
    start, tilde, digest = found.partition("~")
    assert start + tilde == expected
    assert re.fullmatch("[0-9a-f]{10}" if tilde else "", digest)
    assert _make_ids(["other.wav", name, "another/one.wav"])[1] == found


def test_id_stays_the_same_between_versions():
    assert _make_ids(["a b+c.wav"]) == ["a_b_c~869ff62c7e"]


@pytest.mark.parametrize(
    "names",
    [
        ["A.wav", "a.wav"],
        ["A/b.wav", "a/B.wav"],
        ["a.wav", "a.flac", "a"],
        ["a/b.wav", "a_b.wav", "a+b.wav", "a\\b.wav", "./a/b.wav"],
        ["é.wav", "e\u0301.wav"],
        ["x" * 200 + "1.wav", "x" * 200 + "2.wav"],
    ],
)
def test_names_that_could_collide(names):
    check_ids(names)


def test_case_alone_gets_the_hash():
    ids = _make_ids(["A.wav", "a.wav", "b.wav"])
    assert ids[0].startswith("A~") and ids[1].startswith("a~") and ids[2] == "b"


def check_ids(names):
    ids = _make_ids(names)
    for form in ("NFC", "NFKD"):  # as file systems may compare names
        assert len({unicodedata.normalize(form, found).casefold() for found in ids}) == len(names)
    for found in ids:
        assert found == found.strip(" .") and not found.startswith("-")
        assert not re.search(r'[\x00-\x1f\x7f<>:"/\\|?*]', found)
        assert 0 < len(found.encode()) <= 100
    assert _make_ids(names[::-1]) == ids[::-1]


pieces = st.sampled_from(
    ["a", "A", "b", "_", "+", "~", "/", "\\", ".", "..", " ", "-", "con", "NUL", "é", "e\u0301", "ſ"]
)
file_names = st.one_of(st.text(min_size=1), st.lists(pieces, min_size=1, max_size=6).map("".join))
suffixes = st.sampled_from([*AUDIO_SUFFIXES, ".WAV", ""])


@given(st.lists(st.builds(str.__add__, file_names, suffixes), unique=True))
@example(["\ud800.wav", "\udc80.wav"])
def test_ids_are_safe_unique_and_deterministic(names):
    check_ids(names)
