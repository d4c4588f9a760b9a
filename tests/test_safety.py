"""Files that are not trusted: they run no code, need little memory, write nothing and do not control the terminal."""

import configparser
import json
import os
import re
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_explanation import make

import captum_spes
from captum_spes import SpeechToTextExplanation
from captum_spes._files import write_atomically, write_figure
from captum_spes._text import markdown_table, printable
from captum_spes.analysis import analyze
from captum_spes.cli.output import print_table, say
from captum_spes.evaluation.corpus import load_corpus
from captum_spes.metrics._rewriting import Rewriter
from captum_spes.models import load_model
from captum_spes.models.bundled import BUNDLES, load_bundled
from captum_spes.speech_to_text.catalogue import METHODS

ESCAPE = "so \x1b[2J\x1b]0;title\x07 what\x9b31m \u202ekcab"

# Memory: in a process that may take so many bytes more than it has, but not the gigabytes that the files ask for

LIMITED = """
import io, resource, sys
from pathlib import Path
from captum_spes import SpeechToTextExplanation
from captum_spes.alignment import Alignment
from captum_spes.audio import load_audio
from captum_spes.models.bundled import read_ctranslate2
import safetensors.torch, soundfile, soxr
folder = Path(sys.argv[1])
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 2**30, resource.RLIM_INFINITY))
readers = {".safetensors": SpeechToTextExplanation.load, ".json": Alignment.load,
           ".flac": lambda path: load_audio(path, 16000), ".wav": lambda path: load_audio(path, 16000),
           ".bin": lambda path: read_ctranslate2(io.BytesIO(path.read_bytes()))}
for path in sorted(folder.iterdir()):
    try:
        readers[path.suffix](path)
        print(path.name, "read")
    except ValueError as error:
        print(path.name, "refused", str(error)[:300])
"""


def patches(n_rows, n_frames):
    """A file whose maps are one number in each row, over so many frames."""
    from safetensors.torch import save

    tensors = {
        "spectrogram": torch.zeros(n_frames, 1, dtype=torch.float16),
        "feature_mask": torch.zeros(1, n_frames, 1, dtype=torch.int8),
        "patch_scores": torch.zeros(n_rows, 1, dtype=torch.float16),
        "token_attr": torch.zeros(n_rows, 0),
        "n_previous": torch.zeros(n_rows, dtype=torch.int8),
        "mel_frequencies": torch.ones(1),
    }
    said = {"version": 1, "text": "", "tokens": [""] * n_rows, "previous_tokens": [], "frames_per_second": 100}
    said |= {"normalized": False, "grouped": False, "metadata": {}}
    return save(tensors, {"captum-spes explanation": json.dumps(said)})


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits of memory are tested on Linux")
@pytest.mark.slow
def test_hostile_sizes_take_no_memory(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "maps.safetensors").write_bytes(patches(20_000, 20_000))  # 1.6 GB in float32
    deep = json.dumps({"captum-spes explanation": "[" * 50_000_000})
    header = json.dumps({"__metadata__": json.loads(deep)}).encode()
    (folder / "deep.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    (folder / "header.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    (folder / "words.json").write_text('{"w": [{"t": "so", "b": 0, "d": 1e308}]}')
    # 2^36 - 1 samples of 8 channels, by its own account
    stream = struct.pack(">Q", 16000 << 44 | 7 << 41 | 15 << 36 | 2**36 - 1)
    info = struct.pack(">HH", 4096, 4096) + bytes(6) + stream + bytes(16)
    (folder / "long.flac").write_bytes(b"fLaC" + b"\x80" + len(info).to_bytes(3, "big") + info)
    form = struct.pack("<HHIIHH", 1, 1, 16000, 32000, 2, 16)
    wav = b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0" + form + b"data\xff\xff\xff\xff" + bytes(1000)
    (folder / "long.wav").write_bytes(wav)
    name = b"\x02\0a\0"
    (folder / "model.bin").write_bytes(b"\x06\0\0\0" + name + b"\x01\0\0\0" + b"\xff" * 4 + name + b"\x01" + b"\xff" * 4
                                       + b"\0" + b"\xff" * 4 + bytes(100))  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, folder], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert lines.keys() == {path.name for path in folder.iterdir()}
    assert all(line.startswith("refused") for line in lines.values()), lines
    assert "its maps would have 400,000,000 values" in lines["maps.safetensors"]


def test_what_half_precision_cannot_hold_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="spectrogram_attr holds values too large for half precision"):
        replace(make(), spectrogram_attr=make().spectrogram_attr * 1e6).save(tmp_path / "e.safetensors", half=True)
    assert not list(tmp_path.iterdir())


# Code


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.fixture
def folder(tiny_whisper, tiny_processor, tmp_path, monkeypatch):
    """A model, in a folder of which its own code would make another."""
    monkeypatch.chdir(tmp_path)
    tiny_whisper.save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin"])
def test_pickled_weights_are_not_read(folder, name):
    assert load_model(folder, device="cpu").name == str(folder)
    (folder / "model.safetensors").unlink()
    torch.save({"model.encoder.conv1.weight": Evil()}, folder / name)
    if name == "adapter_model.bin":  # which transformers reads where the settings say so
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": name}))
    with pytest.raises(ValueError, match="weights are read only from safetensors files, because pickled ones can run"):
        load_model(folder, device="cpu")
    assert not Path("ran").exists()


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "processor_config.json"])
def test_code_of_a_model_is_not_run(folder, file, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *args: "y")
    (folder / "evil.py").write_text("import os\nos.mkdir('ran')\nclass C: pass\n")
    path = folder / file
    said = json.loads(path.read_text()) if path.exists() else {"processor_class": "C"}
    said["auto_map"] = {"AutoConfig": "evil.C", "AutoProcessor": "evil.C", "AutoFeatureExtractor": "evil.C"}
    path.write_text(json.dumps({**said, **({"model_type": "evil"} if file == "config.json" else {})}))
    try:
        load_model(folder, device="cpu")
    except ValueError as error:
        assert "its own code, which is not run" in str(error)
    assert not Path("ran").exists()


def test_generation_runs_no_code_that_a_file_names(tiny_model, audio):
    prepared = METHODS["energy"].wrap(tiny_model).prepare(audio, "so", sampling_rate=16000)
    explanation = METHODS["energy"].explain(tiny_model, *prepared, "fast")
    explanation.metadata["gen_args"] = {"custom_generate": "evil/code", "trust_remote_code": True}
    with pytest.raises(ValueError, match="custom_generate and trust_remote_code among its gen_args, which could run"):
        Rewriter(tiny_model, explanation)


def test_bundled_files_are_checked_before_they_are_read(tmp_path):
    bundle = BUNDLES["whisper-tiny.en"]
    files = bundle.find()
    if files is None:
        pytest.skip("the bundled model is not installed (extra: demo)")
    names = ("model.bin", "tokenizer.json", "config.json")
    for name in names:
        (tmp_path / name).symlink_to(files[0].with_name(name))
    for name in names:
        (tmp_path / name).unlink()
        (tmp_path / name).write_bytes(b"\x06\0\0\0" + b"\xff" * 40)
        with pytest.raises(ValueError, match=rf"{name} is damaged or of another version"):
            load_bundled(bundle, [tmp_path / "model.bin"])
        (tmp_path / name).unlink()
        (tmp_path / name).symlink_to(files[0].with_name(name))


def test_bundled_wheels_are_pinned():
    path = Path(captum_spes.__file__).parents[1] / "setup.cfg"
    if not path.is_file():
        pytest.skip("setup.cfg is not beside an installed package")
    config = configparser.ConfigParser()
    config.read(path)
    for bundle in BUNDLES.values():
        extra = config["options.extras_require"][bundle.extra].split()
        for package, _, _ in bundle.parts:
            assert any(re.fullmatch(rf"{package.replace('_', '-')}==[\d.]+", line) for line in extra)


# Paths


def test_manifests_stay_in_their_folder(tmp_path):
    speech = tmp_path / "speech"
    (speech / "sub").mkdir(parents=True)
    for path in (tmp_path / "secret.wav", speech / "a.wav", speech / "sub" / "b.wav"):
        path.touch()
    (speech / "link.wav").symlink_to(tmp_path / "secret.wav")
    (speech / "out").symlink_to(tmp_path)
    manifest = speech / "metadata.jsonl"
    for name in ("a.wav", "sub/../a.wav", str(speech / "sub" / "b.wav")):
        manifest.write_text(json.dumps({"file_name": name}))
        assert len(load_corpus(speech).utterances) == 1
    for name in ("../secret.wav", str(tmp_path / "secret.wav"), "link.wav", "out/secret.wav", "sub/../../secret.wav"):
        manifest.write_text(json.dumps({"file_name": "a.wav"}) + "\n" + json.dumps({"file_name": name}))
        with pytest.raises(ValueError, match=r"line 2: .* is outside the manifest's folder: .* \(--allow-outside\)"):
            load_corpus(speech)
        assert len(load_corpus(speech, allow_outside=True).utterances) == 2


@pytest.mark.parametrize("method", ["../../outside", "/outside", "..", "a/../../b", "x" * 300])
def test_figures_stay_in_their_folder(method, tmp_path):
    (tmp_path / "in").mkdir()
    explanation = make()
    explanation.metadata["method"] = method
    explanation.save(tmp_path / "in" / "a.safetensors")
    paths = analyze(tmp_path / "in", min_count=1).save(tmp_path / "deep" / "er" / "out")
    assert len(paths) > 2
    assert all(path.resolve().is_relative_to(tmp_path / "deep" / "er" / "out") for path in paths)


def test_long_names_are_written(tmp_path):
    write_atomically(tmp_path / ("x" * 251 + ".txt"), "é\udcff")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["é\\udcff"]


@pytest.mark.parametrize("before", [{}, {"words.png": b"old"}])
def test_a_figure_that_cannot_be_drawn_leaves_the_old_file(before, tmp_path):
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)
    figure = make().plot_words()
    figure.axes[-1].draw = lambda renderer: 1 / 0
    with pytest.raises(ZeroDivisionError):
        write_figure(tmp_path / "words.png", figure)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_links_stay_and_pipes_are_written_into(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_atomically(tmp_path / "link", "through")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "through"
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ValueError, match="loop cannot be written: it is a link to itself"):
        write_atomically(tmp_path / "loop", "round")
    os.mkfifo(tmp_path / "pipe")
    end = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(tmp_path / "pipe", "in")
    assert os.read(end, 100) == b"in"
    os.close(end)


# Terminals and tables


def test_terminals_show_and_do_not_obey(capsys):
    shown = "so \\x1b[2J\\x1b]0;title\\x07 what\\x9b31m \\u202ekcab"
    assert printable(ESCAPE) == shown
    assert printable("so\n\twhat é 語 हिन्दी\u200d ✓ \udcff") == "so\n\twhat é 語 हिन्दी\u200d ✓ \\udcff"
    say(ESCAPE)
    say(ESCAPE, error=True)
    print_table([("word", "x"), (ESCAPE, "[red]1[/red]")], "Words")
    out, err = capsys.readouterr()
    assert err == shown + "\n"
    assert shown in out and "[red]1[/red]" in out and not set("\x1b\x07\x9b\u202e") & set(out)


def test_commands_print_in_no_other_way():
    for path in (Path(captum_spes.__file__).parent / "cli").glob("*.py"):
        assert len(re.findall(r"(?<![.\w])print\(", path.read_text())) == (path.name == "output.py"), path.name


@pytest.mark.slow
def test_errors_are_shown_and_not_obeyed(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "captum_spes", "explain", tmp_path / "a\x1b[2J\nb.wav", "--model", tmp_path],
        capture_output=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.returncode == 2 and b"Error: " in done.stderr
    assert b"\x1b" not in done.stdout + done.stderr and b"Traceback" not in done.stderr


def test_tables_hold_whatever_is_in_a_cell():
    cells = ("a|b", "so\nwhat", "<script>", "[x](javascript:y)", "back\\slash|", ESCAPE)
    lines = markdown_table([("a",) * 6, cells])
    assert len(lines) == 3 and all("\n" not in line for line in lines)
    row = lines[2].replace("\\\\", "")
    assert len(re.findall(r"(?<!\\)\|", row)) == 7
    assert "\\<script>" in row and "](" not in row and "\x1b" not in row


def test_loaded_explanations_name_their_fault(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "e.safetensors"
    make().save(path)
    import safetensors

    with safetensors.safe_open(path, "pt") as file:
        [(key, said)] = file.metadata().items()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    said = json.loads(said)
    for change, words in [
        ({"tokens": ["so", 1, "at", "?"]}, "tokens must be a list of texts"),
        ({"frames_per_second": float("inf")}, "frames_per_second must be a positive number"),
        ({"frames_per_second": True}, "frames_per_second must be a positive number"),
        ({"metadata": []}, "metadata must be a dict"),
        ({"normalized": 1}, "normalized must be True or False"),
        ({"text": None}, "text must be a text"),
        ({"version": 1e999}, "not a JSON object with a version"),
        ({"more": 1}, "unknown entries: more"),
        ({"tokens": said["tokens"][:3]}, "must be of shape"),
    ]:
        save_file(tensors, path, {key: json.dumps({**said, **change})})
        with pytest.raises(ValueError, match=f"is damaged: .*{words}"):
            SpeechToTextExplanation.load(path)
    for name, tensor, words in [
        ("spectrogram_attr", tensors["spectrogram_attr"] * torch.nan, "holds NaN or infinite values"),
        ("n_previous", tensors["n_previous"] + 9, "n_previous must be from 0 to 5"),
        ("n_previous", tensors["n_previous"].float(), "n_previous must hold integers"),
        ("mel_frequencies", tensors["mel_frequencies"].flip(0), "must be ascending frequencies"),
        ("spectrogram", tensors["spectrogram"].int(), "must hold floating-point numbers"),
    ]:
        save_file({**tensors, name: tensor.contiguous()}, path, {key: json.dumps(said)})
        with pytest.raises(ValueError, match=f"is damaged: .*{words}"):
            SpeechToTextExplanation.load(path)
