"""The command line as a stranger uses it."""

import importlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from configparser import ConfigParser
from dataclasses import replace
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from test_evaluation import without_seconds, write_words
from test_explanation import make

from captum_spes import SpeechToTextExplanation, __version__
from captum_spes.__main__ import main
from captum_spes._files import markdown_table
from captum_spes.cli import COMMANDS
from captum_spes.cli.errors import DEBUG, TRACKER
from captum_spes.cli.evaluate import percentages
from captum_spes.cli.options import word_or_number
from captum_spes.metrics import rank_correlation
from captum_spes.speech_to_text.catalogue import METHODS, NamedMethod, describe_methods
from captum_spes.speech_to_text.profiles import accepted

SAMPLE = Path(__file__).parents[1] / "captum_spes" / "data" / "so_what_was_the_next_step.wav"
PICTURES = {"spectrogram", "segmentation", "sentence", "words", "tokens", "previous_tokens"}
FILES = {"explanation.safetensors", "report.html", *(f"{name}.png" for name in PICTURES)}


@pytest.fixture
def tiny_folder(tiny_whisper, tiny_processor, tmp_path):
    folder = tmp_path / "tiny-whisper"
    tiny_whisper.save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    return folder


@pytest.fixture
def recording(audio, tmp_path):
    path = tmp_path / "recording.wav"
    soundfile.write(path, audio, 16000)
    return path


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs the command line in an empty folder; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    interrupt = signal.getsignal(signal.SIGINT)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["captum-spes", *map(str, arguments)])
        monkeypatch.setattr("warnings.showwarning", None)
        with pytest.raises(SystemExit) as exit_info:
            main()
            raise SystemExit(0)
        return (exit_info.value.code or 0, *capsys.readouterr())

    yield run
    signal.signal(signal.SIGINT, interrupt)


# What all commands share


def test_help_and_version_import_nothing_heavy():
    code = "import sys; from captum_spes.__main__ import main\ntry: main()\nexcept SystemExit: pass\n"
    code += "print(sorted({'torch', 'captum', 'matplotlib', 'numpy', 'transformers'} & sys.modules.keys()))"
    for arguments in (["--help"], ["--version"], []):
        found = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert found.stdout.endswith("[]\n"), found.stderr
        assert (f"captum-spes {__version__}\n" if "--version" in arguments else "explain") in found.stdout


def test_the_help_of_a_command_is_that_of_its_function():
    for name, (module, function, line) in COMMANDS.items():
        document = getattr(importlib.import_module(f"captum_spes.cli.{module}"), function).__doc__
        assert document.splitlines()[0] == line, name


def broken(*arguments, **named):
    raise TypeError("inner bug")


def test_an_unexpected_error_leaves_its_traceback_in_a_file(run, recording, tiny_folder, monkeypatch):
    monkeypatch.setattr("captum_spes.cli.explain.load_model", broken)
    monkeypatch.delenv(DEBUG, raising=False)
    code, _, err = run("explain", recording)
    assert code == 1 and "Traceback" not in err and "(TypeError: inner bug)" in err and TRACKER in err
    log = Path(re.search(r"The traceback is in (\S+\.log)\.", err)[1])
    text = log.read_text()
    log.unlink()
    assert "in broken" in text and "TypeError: inner bug" in text and "recording.wav" in text and "torch 2" in text


@pytest.mark.parametrize("way", ["before", "behind", "environment"])
def test_debug_shows_the_traceback(run, recording, monkeypatch, way):
    monkeypatch.setattr("captum_spes.cli.explain.load_model", broken)
    monkeypatch.setenv(DEBUG, str(int(way == "environment")))
    before, behind = (["--debug"] if way == place else [] for place in ("before", "behind"))
    code, _, err = run(*before, "explain", recording, *behind)
    assert code == 1 and "in broken" in err and "The traceback is in" not in err and TRACKER in err
    code, _, err = run(*before, "listen", "missing.safetensors", *behind)
    assert code == 2 and "Traceback" in err and err.endswith("give the path of a saved explanation.\n")


def test_the_tracker_is_that_of_the_package():
    config = ConfigParser()
    config.read(Path(__file__).parents[1] / "setup.cfg")
    urls = dict(line.split(" = ") for line in config["metadata"]["project_urls"].strip().splitlines())
    assert urls["Issues"] == TRACKER


def test_warnings_go_through_one_logger(run, recording, tiny_folder, capsys):
    stereo = np.stack((soundfile.read(recording)[0],) * 2, axis=1) * [1, -1]
    soundfile.write(recording, stereo, 16000)
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger("captum_spes")
    logger.addHandler(handler)
    try:
        command = ["explain", recording, "--model", tiny_folder, "--target", "so", "--method", "energy"]
        code, _, err = run(*command)
        assert code == 0 and "Warning: the channels of" in err
        assert {(record.name, record.levelno) for record in records} == {("captum_spes", logging.WARNING)}
        logger.setLevel(logging.ERROR)
        code, _, err = run(*command)
        assert code == 0 and "Warning" not in err
    finally:
        logger.setLevel(logging.NOTSET)
        logger.removeHandler(handler)


def test_explain(run, tiny_folder, recording, tmp_path):
    code, out, err = run(
        "explain", recording, "--model", tiny_folder, "--target", "so what", "--n-samples", "12", "--seed", "3"
    )
    assert code == 0, err
    folder = tmp_path / "spes-output" / "recording"
    assert {path.name for path in folder.iterdir()} == FILES
    for path in folder.iterdir():
        assert str(path.relative_to(tmp_path)) in out
    explanation = SpeechToTextExplanation.load(folder / "explanation.safetensors")
    assert explanation.metadata["method"] == "GradientSPES"
    assert explanation.metadata["arguments"] == {"n_samples": 12, "perturbation_prob": 0.5, "pool_features": True}
    assert "Method:     gradient_spes (fast preset, n_samples 12, n_token_samples 512)" in out
    assert explanation.metadata["seed"] == 3
    assert "Transcript: so what" in out
    table = dict(zip(explanation.tokens, explanation.top_previous_tokens()))
    assert all(token.strip() in out and top.strip() in out for token, top in table.items())
    assert f"{float(explanation.reliability.mean()):.2f}" in out
    assert "previous tokens: 100%" in err and "spectrogram    : 100%" in err


def test_presets(run, tiny_folder, recording, tmp_path):
    code, _, err = run("explain", recording, "--model", tiny_folder, "--target", "so", "-o", "fast")
    assert code == 0, err
    fast = SpeechToTextExplanation.load(tmp_path / "fast" / "explanation.safetensors")
    assert fast.metadata["method"] == "GradientSPES" and fast.metadata["arguments"]["n_samples"] == 24
    assert fast.metadata["feature_mask"]["patches_per_second"] == "(400, 500, 600)"
    assert fast.metadata["token_arguments"]["n_samples"] == 512
    code, _, err = run(
        "explain", recording, "--model", tiny_folder, "--target", "so", "--preset", "paper", "--n-samples", "300",
        "-o", "paper",
    )  # fmt: skip
    assert code == 0, err
    paper = SpeechToTextExplanation.load(tmp_path / "paper" / "explanation.safetensors")
    assert paper.metadata["method"] == "SPES"
    assert paper.metadata["feature_mask"]["patches_per_second"] == "(400, 500, 600)"
    assert paper.metadata["token_arguments"]["n_samples"] == 2000
    assert paper.metadata["dtype"] == "float32" and paper.metadata["context_seconds"] == 1


@pytest.mark.parametrize("n_tokens, n_samples", [(3, 24), (10, 10), (200, 5)])
def test_fast_gradients_depend_on_the_number_of_tokens(tiny_model, n_tokens, n_samples):
    """So many backwards in all, within bounds."""
    assert METHODS["gradient_spes"].arguments_of(tiny_model, "fast", n_tokens)["n_samples"] == n_samples


@pytest.fixture
def multilingual_folder(tiny_whisper, tiny_processor, tmp_path):
    config = tiny_whisper.generation_config
    config.is_multilingual = True
    config.lang_to_id = {"<|en|>": 70, "<|de|>": 71}
    config.task_to_id = {"transcribe": 80, "translate": 81}
    tiny_whisper.save_pretrained(tmp_path / "multilingual")
    tiny_processor.save_pretrained(tmp_path / "multilingual")
    return tmp_path / "multilingual"


def test_languages_and_tasks(run, multilingual_folder, recording, tmp_path):
    common = [recording, "--model", multilingual_folder]
    given = [*common, "--target", "so what"]
    code, out, err = run("explain", *given, "--n-samples", "6", "--language", "de", "--task", "translate", "-o", "out")
    assert code == 0, err
    assert "Language:   de, translate" in out
    metadata = SpeechToTextExplanation.load(tmp_path / "out" / "explanation.safetensors").metadata
    assert metadata["task"] == "translate" and metadata["language"] == "de"
    assert metadata["previous_token_ids"][:4] == [1, 71, 81, 2]
    code, out, err = run("compare", *given, "--methods", "energy", "-o", "compared")
    assert code == 0, err
    assert "Language:   en (detected), transcribe" in out or "Language:   de (detected), transcribe" in out
    evaluate = [
        "evaluate",
        recording.parent,
        *common[1:],
        "--methods",
        "energy",
        "--metrics",
        "size",
        "-o",
        "out-2",
    ]
    code, out, err = run(*evaluate, "--language", "de")
    assert code == 0, err
    assert "Language:   de, transcribe" in out
    assert "language" in (tmp_path / "out-2" / "summary.md").read_text()
    code, _, err = run(*evaluate, "--language", "en")
    assert code == 2 and "language is de there and en now" in err


@pytest.mark.parametrize("option", [("--language", "de"), ("--task", "translate")])
def test_models_of_one_language_say_so(run, tiny_folder, recording, option):
    for command in (["explain", recording], ["compare", recording], ["evaluate", recording.parent]):
        code, _, err = run(*command, "--model", tiny_folder, *option)
        assert code == 2 and "Traceback" not in err
        assert "English-only model and can only transcribe: leave out language and task" in err


def test_another_method_and_a_contrast(run, tiny_folder, recording, tmp_path):
    common = ["explain", recording, "--model", tiny_folder, "--target", "so what"]
    code, out, err = run(*common, "--method", "saliency", "-o", "saliency")
    assert code == 0, err
    explanation = SpeechToTextExplanation.load(tmp_path / "saliency" / "explanation.safetensors")
    assert explanation.metadata["method"] == "Saliency" and "eliability" not in out
    written = {path.stem for path in (tmp_path / "saliency").iterdir()}
    assert written == PICTURES - {"segmentation"} | {"explanation", "report"}  # it has no patches
    code, out, err = run(*common, "--word", "what", "--foil", "was", "-o", "contrast")
    assert code == 0, err
    explanation = SpeechToTextExplanation.load(tmp_path / "contrast" / "explanation.safetensors")
    assert explanation.tokens == ["what (not was)"] and explanation.metadata["score"] == "ContrastiveProbability"


def test_compare(run, tiny_folder, recording, tmp_path):
    names = ["spes", "integrated_gradients", "integrated_gradients_abs", "deep_lift", "occlusion"]
    code, out, err = run(
        "compare", recording, "--model", tiny_folder, "--target", "so what", "--methods", ",".join(names), "-o", "out",
        "--num-beams", "2",
    )  # fmt: skip
    assert code == 0, err
    assert "Left out: DeepLift hooks" in err
    names.remove("deep_lift")
    folder = tmp_path / "out"
    files = {"comparison.json", "comparison.md", "words.png", "sentence.png", *(f"{n}.safetensors" for n in names)}
    assert {path.name for path in folder.iterdir()} == files
    assert all(str((folder / name).relative_to(tmp_path)) in out for name in files)
    results = json.loads((folder / "comparison.json").read_text())
    assert list(results["methods"]) == names
    signed, absolute = (SpeechToTextExplanation.load(folder / f"{name}.safetensors") for name in names[1:3])
    assert torch.equal(signed.spectrogram_attr.abs(), absolute.spectrogram_attr)
    assert absolute.metadata["method"] == "|Integrated Gradients|" and absolute.metadata["gen_args"] == {"num_beams": 2}
    entry = results["methods"]["integrated_gradients"]
    assert entry["passes"]["spectrogram"] == {"forward": 10, "backward": 20}
    correlation = torch.tensor(results["rank_correlation"])
    assert correlation.diag().eq(1).all() and torch.equal(correlation, correlation.T)
    assert correlation[1, 2] == pytest.approx(
        float(rank_correlation(signed.spectrogram_attr, absolute.spectrogram_attr).mean())
    )
    report = (folder / "comparison.md").read_text()
    assert all(f"| {name} |" in report for name in names) and f"{entry['infidelity']:.3g}" in report


def test_compare_is_for_one_process(run, recording, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = run("compare", recording)
    assert code == 2 and "start it without torchrun" in err


@pytest.mark.parametrize("method", ["saliency", "energy"])  # energy is finished before anybody could ask
def test_compare_is_stopped_in_its_first_method(run, tiny_folder, recording, monkeypatch, method):
    original = NamedMethod.explain

    def explain(*args, **arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return original(*args, **arguments)

    monkeypatch.setattr(NamedMethod, "explain", explain)
    given = ["--model", tiny_folder, "--target", "so", "--methods", f"{method},random"]
    code, out, err = run("compare", recording, *given)
    assert code == 130 and f"Stopped in {method}." in err and "Error" not in err and "[2/2]" not in out
    assert ("Wrote" in out) == (method == "energy")


def test_compare_goes_on_after_ctrl_c(run, tiny_folder, recording, tmp_path, monkeypatch):
    explained, stops = [], [METHODS["saliency"]]
    original = NamedMethod.explain

    def explain(self, *args, **arguments):
        if self in stops:
            stops.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
        explained.append(self.summary)
        return original(self, *args, **arguments)

    monkeypatch.setattr(NamedMethod, "explain", explain)
    given = ["compare", recording, "--model", tiny_folder, "--target", "so", "-o", "out"]
    given += ["--methods", "feature_ablation,saliency,random"]
    code, _, err = run(*given)
    assert code == 130 and "Stopped in saliency. What is finished is kept" in err
    folder = tmp_path / "out"
    assert list(json.loads((folder / "comparison.json").read_text())["methods"]) == ["feature_ablation"]
    first = (folder / "feature_ablation.safetensors").read_bytes()
    explained.clear()
    code, _, err = run(*given)
    assert code == 0, err
    assert explained == [METHODS[name].summary for name in ("saliency", "random")]
    results = json.loads((folder / "comparison.json").read_text())["methods"]
    assert list(results) == ["feature_ablation", "saliency", "random"] and results["feature_ablation"]["seconds"] > 0
    assert (folder / "feature_ablation.safetensors").read_bytes() == first
    assert run(*given, "--seed", "1")[0] == 0  # another comparison
    assert explained[2:] == [METHODS[name].summary for name in results]
    (folder / "saliency.safetensors").write_bytes(b"of something else")
    code, _, err = run(*given, "--seed", "1")
    assert code == 0 and "Left out: " in err and "saliency.safetensors" in err and len(explained) == 5


WORDS = ["I", "have", "3", "cats", "here"]


@pytest.mark.parametrize(
    ("text", "words", "found"),
    [
        ("3", ["so", "what", "was", "it"], 3),
        (":3", WORDS, 3),
        ("-1", WORDS, 4),
        ("2", ["in", "a", "2"], 2),  # both readings are one word
        ("1984", ["in", "1984"], "1984"),
        ("9", WORDS, "9"),
        ("²", ["so", "what", "was"], "²"),
        ("٣", WORDS, "٣"),
        ("cats", WORDS, "cats"),
    ],
)
def test_words_and_their_numbers(text, words, found):
    assert word_or_number(text, words, "--word") == found


@pytest.mark.parametrize(
    ("text", "words", "ways"),
    [
        ("3", WORDS, "--word :3 for the word 'cats', or --word :2 for the word '3'"),
        ("0", ["from", "3", "to", "0", "0"], "--word :0 for the word 'from', or --word :3 .*, or --word :4 .*"),
        ("2", ["the", "2nd", "of", "May"], "--word :2 for the word 'of', or --word :1 for the word '2nd'"),
        ("0", ["so", "$0", "it"], "--word :0 for the word 'so', or --word :1 for the word"),
    ],
)
def test_a_numeral_that_may_be_a_word_or_a_number(text, words, ways):
    with pytest.raises(ValueError, match="may be a word or its number: write " + ways.replace("$", r"\$")):
        word_or_number(text, words, "--word")


def test_a_numeral_of_the_text_is_no_number(run, tiny_folder, recording):
    common = ["explain", recording, "--model", tiny_folder, "--target", "I have 3 cats here", "--method", "energy"]
    code, _, err = run(*common, "--word", "3", "--foil", "4")
    assert code == 2 and "--word :3 for the word 'cats', or --word :2 for the word '3'" in err
    assert not Path("spes-output").exists()
    for word, row in ((":2", "3 (not 4)"), ("have 3", "have 3 (not 4)"), (":3", "cats (not 4)")):
        code, _, err = run(*common, "--word", word, "--foil", "4", "-o", "out")
        assert code == 0, err
        assert SpeechToTextExplanation.load("out/explanation.safetensors").tokens == [row]
    code, _, err = run(*common[:5], "in 1984 so", "--word", "1984", "--foil", "", "--method", "energy", "-o", "out")
    assert code == 0, err
    assert SpeechToTextExplanation.load("out/explanation.safetensors").tokens == ["1984 (not ∅)"]


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
        ([], "explanation.safetensors does not tell which recording it explains: give that as --audio"),
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


def test_the_list_of_methods_is_that_of_the_documentation(run):
    code, out, _ = run("compare", "--list")
    assert code == 0
    document = (Path(__file__).parents[1] / "docs" / "methods.md").read_text()
    assert "\n".join(markdown_table(describe_methods())) in document
    for name in METHODS:
        assert f" {name} " in out


def test_every_named_method_can_be_made(tiny_model):
    for name, method in METHODS.items():
        if name == "deep_lift":
            continue
        attribution = method.wrap(tiny_model)
        for preset in ("fast", "paper"):
            arguments = method.arguments_of(tiny_model, preset)
            known = set(signature(attribution.attribute).parameters) | accepted(attribution.attr_method).keys()
            assert arguments.keys() <= known, name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "--methods", "spes,magic"], "there is no method 'magic': give one of spes,"),
        (["compare", "--methods", ", "], "--methods is empty"),
        (["explain", "--method", "saliency", "--n-samples", "5"], "saliency takes no samples"),
        (["explain", "--word", "what"], "--word and --foil belong together"),
        (["explain", "--word", "when", "--foil", "was"], "the word 'when' is not in the text"),
        (["explain", "--method", "deep_lift"], "take IntegratedGradients"),
        (["compare", "--methods", "deep_lift"], "no method could be run"),
    ],
)
def test_wrong_methods_get_one_clear_sentence(run, tiny_folder, recording, arguments, words):
    code, _, err = run(*arguments, recording, "--model", tiny_folder, "--target", "so what")
    assert code == 2
    assert words in err and "Traceback" not in err


def test_ctrl_c_before_there_is_anything(tiny_folder, recording, tmp_path):
    code = "import sys, os, signal; sys.argv[1:] = ['explain', sys.argv[1], '--model', sys.argv[2]]\n"
    code += "from captum_spes.cli import explain, run\n"
    code += "explain.load_model = lambda *a, **k: os.kill(os.getpid(), signal.SIGINT)\nrun()"
    process = subprocess.run(
        [sys.executable, "-c", code, recording, tiny_folder],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.returncode == 130
    assert process.stderr == "Error: interrupted: what is not written yet is lost.\n"


def test_ctrl_c_saves_what_is_done(tiny_folder, recording, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "captum_spes", "explain", recording, "--model", tiny_folder, "--target", "so what",
         "--n-samples", "1000000", "-o", tmp_path / "out"],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    seen = b""
    deadline = time.monotonic() + 120
    while b"spectrogram" not in seen and time.monotonic() < deadline:
        seen += process.stderr.read1()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err.decode()
    assert "Stopping after this batch" in err.decode()
    assert "Partial: stopped after" in out.decode() and "Traceback" not in err.decode()
    explanation = SpeechToTextExplanation.load(tmp_path / "out" / "explanation.safetensors")
    assert explanation.metadata["partial"]
    assert 0 < explanation.metadata["done"]["spectrogram"] < 1_000_000
    assert (tmp_path / "out" / "tokens.png").stat().st_size > 1000


def silent(folder):
    soundfile.write(folder / "silent.wav", np.zeros(16000, np.float32), 16000)
    return folder / "silent.wav"


def text(folder):
    (folder / "notes.wav").write_text("no audio")
    return folder / "notes.wav"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (lambda d: [d / "none.wav"], "does not exist"),
        (lambda d: [d], "is a folder"),
        (lambda d: [silent(d)], "is silent"),
        (lambda d: [text(d)], "is no audio file"),
        (lambda d: [text(d).rename(d / "notes.raw")], "is no audio file"),
        (lambda d: [d / "recording.wav", "--target", "so \udcff"], "cannot encode the target"),
        (lambda d: [d / "recording.wav", "--device", "meta"], "the device 'meta' cannot be used here"),
        (lambda d: [d / "recording.wav", "--model", "no/such-model"], "the model 'no/such-model' cannot be loaded"),
        (lambda d: [d / "recording.wav", "--method", "magic"], "there is no method 'magic': give one of spes,"),
        (lambda d: [d / "recording.wav", "--device", "quantum"], "the device 'quantum' cannot be used here"),
        (lambda d: [d / "recording.wav", "--target", "  "], "the target text is empty"),
        (lambda d: [d / "recording.wav", "--context", "soon"], "Invalid value for '--context'"),
        (lambda d: [d / "recording.wav", "--target", "so", "--n-samples", "2"], "n_samples must be"),
        (lambda d: [d / "recording.wav", "-o", d / "recording.wav"], "cannot be written to"),
        (lambda d: [d / "recording.wav", "--seed", "x"], "Invalid value for '--seed'"),
        (lambda d: [d / "recording.wav", "--nonsense"], "No such option"),
    ],
)
def test_bad_input_gets_one_clear_sentence(run, tiny_folder, recording, tmp_path, arguments, words):
    given = arguments(tmp_path)
    if "--model" not in given:
        given += ["--model", tiny_folder]
    code, _, err = run("explain", *given)
    assert code == 2
    # a terminal's box around typer's messages aside
    assert words in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err


def test_without_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as exit_info:
        main()
    assert exit_info.value.code == 2
    assert "pip install 'captum-spes[speech]'" in capsys.readouterr().err


# evaluate


# for a process of its own
ALONE = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
RESULTS = ["results.json", "summary.md", "curves.csv", "curves.png"]
QUICK = ["--methods", "random", "--metrics", "size"]


@pytest.fixture
def speech(recording, audio, tmp_path):
    """A folder with the recording and two copies, softer and later, one file that is not there, and their texts."""
    folder = tmp_path / "speech"
    folder.mkdir()
    for name, copy in {"softer": 0.6 * np.roll(audio, 3000), "later": 0.4 * np.roll(audio, 6000)}.items():
        soundfile.write(folder / f"{name}.wav", copy, 16000)
    (folder / "metadata.csv").write_text(
        "file_name,transcription\n../recording.wav,was his power\nsofter.wav,so was power power\n"
        "missing.wav,the next step\nlater.wav,what was\n"
    )
    return folder


@pytest.fixture
def evaluate(run, tiny_folder, tiny_whisper, tiny_processor, speech):
    """Runs the command on the corpus, with a model whose texts have words."""
    write_words(tiny_whisper, tiny_processor)
    tiny_whisper.save_pretrained(tiny_folder)
    return lambda *arguments: run("evaluate", speech, "--allow-outside", "--model", tiny_folder, *arguments)


def files_of(folder):
    """What a run has written, by path: explanations as they are, and JSON without the seconds."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        # a process that is killed may leave the hidden folder of a file that it was writing
        if path.is_file() and not any(part.startswith(".") for part in name.split("/")):
            is_json = path.suffix == ".json"
            found[name] = without_seconds(json.loads(path.read_text())) if is_json else path.read_bytes()
    return {name: content for name, content in found.items() if name not in RESULTS[1:]}


def test_evaluate(evaluate, tmp_path):
    code, out, err = evaluate("--methods", "gradient_shap,spes,spes", "--n-samples", "9", "--step", "50", "--seed", "2")
    assert code == 0, err
    folder = tmp_path / "spes-output" / "speech-evaluation"
    assert {path.name for path in folder.iterdir()} == {*RESULTS, "settings.json", "explanations", "scores"}
    assert all(str((folder / name).relative_to(tmp_path)) in out for name in RESULTS)
    results = json.loads((folder / "results.json").read_text())
    # what knows nothing of the model is there without being asked for
    assert list(results["methods"]) == ["gradient_shap", "spes", "random", "energy"]
    assert results["compared_with"] == "spes" and results["n_utterances"] == 3
    settings = results["settings"]
    # SPES's are perturbations, and those of the other the points of its path
    assert [settings["methods"][name]["n_samples"] for name in ("spes", "gradient_shap")] == [9, 8]
    assert settings["percentages"] == [0, 50, 100] and settings["seed"] == 2 and settings["context"] == "auto"
    assert (settings["score"], settings["normalizer"], settings["reference"]) == ("WER", "english", "transcription")
    explanation = SpeechToTextExplanation.load(folder / "explanations" / "spes" / "softer.safetensors")
    assert explanation.metadata["arguments"]["n_samples"] == 9 and explanation.metadata["seed"] == 2
    assert f"Corpus:     3 utterances of {tmp_path / 'speech' / 'metadata.csv'}, 1 left out" in out
    assert "Methods:    gradient_shap, spes, random, energy" in out and "Resuming" not in out
    cells = [line.split() for line in out.splitlines()]
    for name, entry in results["methods"].items():
        [areas, costs, *_] = [line for line in cells if line[:1] == [name]]
        assert f"{entry['size']['auc']:.1f}" in areas and f"{entry['forwards']:,.0f}" in costs
    assert "Areas of 3 utterances [95 % interval]" in out and "Against spes" in out and "undecided (" in out
    [left_out] = [line for line in out.partition("Left out:\n")[2].splitlines() if line.startswith("  missing.wav")]
    assert left_out.endswith("does not exist or is no file: check where the audio is.")
    assert "explanations: 100%" in err and "noisy" not in err and "Traceback" not in err


def test_numbers_of_samples_and_of_draws(evaluate, tmp_path):
    methods = ["--methods", "spes,gradient_spes,gradient_spes_sentence", "--metrics", "size", "--n-utterances", "1"]
    code, _, err = evaluate(*methods, "--n-samples", "9", "--n-draws", "3", "-o", "out")
    assert code == 0, err
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())["methods"]
    assert [settings[name]["n_samples"] for name in methods[1].split(",")] == [9, 3, 3]


def test_evaluate_without_texts(evaluate, tmp_path):
    code, out, err = evaluate("--methods", "energy", "--metrics", "size", "--n-utterances", "2", "-o", "out")
    assert code == 0, err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["n_utterances"] == 2 and results["settings"]["metrics"] == ["size"]
    assert list(results["methods"]) == ["energy", "random"] and "reference" not in results["settings"]
    assert {"size", "token size"} <= set(results["methods"]["energy"]) and "size ↓" in out
    assert not {"deletion", "insertion", "SRG"} & set(results["methods"]["energy"]) and "deletion" not in out
    assert len(list((tmp_path / "out").glob("scores/*/*.json"))) == 4


def test_evaluate_by_bleu_against_the_models_own_text(evaluate, tmp_path):
    code, out, err = evaluate(
        "--methods", "energy", "--score", "bleu", "--reference", "model", "--step", "20", "--until", "50",
        "--num-beams", "2", "--context", "full", "--batch-size", "3", "-o", "out",
    )  # fmt: skip
    assert code == 0, err
    settings = json.loads((tmp_path / "out" / "results.json").read_text())["settings"]
    assert (settings["score"], settings["normalizer"], settings["reference"]) == ("BLEU", None, "model")
    assert settings["percentages"] == [0, 20, 40, 50] and settings["gen_args"] == {"num_beams": 2}
    assert settings["context"] == "full" and "deletion ↓" in out and "insertion ↑" in out


@pytest.mark.parametrize(
    ("step", "until", "steps"),
    [
        (5, 100, [5 * i for i in range(21)]),
        (30, 100, [0, 30, 60, 90, 100]),
        (100, 100, [0, 100]),
        (2.5, 10, [0, 2.5, 5, 7.5, 10]),
        (0.1, 0.5, [0, 0.1, 0.2, 0.3, 0.4, 0.5]),
        (0.3, 0.9, [0, 0.3, 0.6, 0.9]),
        (0.2, 0.6, [0, 0.2, 0.4, 0.6]),
    ],
)
def test_steps_of_evaluate(step, until, steps):
    assert percentages(step, until) == pytest.approx(steps)


def test_evaluate_goes_on(evaluate, tmp_path):
    assert evaluate("--methods", "random", "--step", "50", "-o", "whole")[0] == 0
    code, out, err = evaluate("--methods", "random", "--step", "50", "--n-utterances", "1", "-o", "out")
    assert code == 0 and "Resuming" not in out, err
    code, out, err = evaluate("--methods", "random", "--step", "50", "-o", "out")
    assert code == 0 and "Resuming:   2 of 6 explanations are there." in out, err
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    code, out, err = evaluate("--methods", "random", "--step", "50", "-o", "out", "--batch-size", "7")
    assert code == 0 and "Resuming:   6 of 6 explanations are there." in out and "explanations:" not in err
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    code, out, err = evaluate("--methods", "random,saliency", "--step", "50", "-o", "out")
    assert code == 0 and "Resuming:   6 of 9 explanations are there." in out and "explanations: 100%" in err


def test_evaluate_leaves_out_what_is_damaged(evaluate, tmp_path):
    assert evaluate(*QUICK, "-o", "out")[0] == 0
    path = tmp_path / "out" / "scores" / "random" / "softer.json"
    path.write_text("{")
    code, out, err = evaluate(*QUICK, "-o", "out")
    assert code == 0, err
    assert f"softer: {path.relative_to(tmp_path)} is damaged" in out


@pytest.mark.parametrize(
    ("before", "arguments", "words"),
    [
        ([], ["--methods", "spes,magic"], "there is no method 'magic': give one of spes,"),
        ([], ["--methods", ", ,"], "--methods is empty: name at least one."),
        ([], ["--methods", "deep_lift"], "take IntegratedGradients"),
        ([], ["--metrics", "size,magic"], "there is no metric 'magic': give some of deletion, insertion, size."),
        ([], ["--metrics", ""], "--metrics is empty: name at least one."),
        ([], ["--step", "0"], "--step and --until must be percentages"),
        ([], ["--step", "nan"], "--step and --until must be percentages"),
        ([], ["--until", "120"], "--step and --until must be percentages"),
        ([], ["--step", "30", "--until", "20"], "the step at most the other, not 30.0 and 20.0"),
        ([], ["--context", "soon"], "Invalid value for '--context'"),
        ([], ["--n-samples", "2", "--methods", "spes"], "there are no results, for no utterance is finished"),
        (
            [],
            ["--n-samples", "9", "--methods", "gradient_spes"],
            "--n-samples is for SPES, its variants and Bubble Noise",
        ),
        (
            [],
            ["--n-draws", "9", "--methods", "spes"],
            "--n-draws is for GradientSPES and its variants, and none of them",
        ),
        ([], ["-o", "recording.wav"], "the output folder recording.wav cannot be written to"),
        ([], ["-o", "."], "is not empty and holds no evaluation: give another folder"),
        (QUICK, ["--seed", "1"], "out holds an evaluation with other arguments: seed is 0 there and 1 now."),
        (QUICK, ["--step", "50"], "and [0, 50, 100] now. Give the same ones to go on with it, or another folder."),
        (["--n-samples", "9", *QUICK, "--methods", "spes"], ["--n-samples", "8"], "n_samples is 9 there and 8 now"),
    ],
)
def test_an_evaluation_that_cannot_be_gets_one_clear_sentence(evaluate, tmp_path, before, arguments, words):
    output = [] if "-o" in arguments else ["-o", "out"]
    if before:
        code, _, err = evaluate(*before, *output)
        assert code == 0, err
    code, out, err = evaluate(*arguments, *output)
    assert code == 2
    errors = [line for line in err.splitlines() if not line.startswith("Warning: ") and "Error" in line]
    assert len(errors) == 1 and errors[0].startswith("Error: ") and words in errors[0]
    assert "Traceback" not in err and "Areas" not in out
    assert not list(tmp_path.glob("**/results.json")) or before


def test_a_corpus_that_is_not_there_gets_one_clear_sentence(run, tmp_path):
    code, _, err = run("evaluate", "none.csv")
    assert code == 2
    assert err == "Error: none.csv does not exist: give a .csv or .jsonl manifest, or a folder of audio files.\n"
    (tmp_path / "empty").mkdir()
    code, _, err = run("evaluate", "empty")
    assert code == 2 and err.startswith("Error: empty holds neither audio files")
    assert not (tmp_path / "spes-output").exists()


# long enough to be met at work
LONG = ["--methods", "spes", "--n-samples", "3000", "--step", "50"]
N_EXPLANATIONS = 9  # of three utterances by SPES and the two floors


def start(folder, output):
    """The command in a process of its own."""
    with open(folder / "stdout", "w") as out, open(folder / "stderr", "w") as err:
        return subprocess.Popen(
            [sys.executable, "-m", "captum_spes", "evaluate", folder / "speech", "--allow-outside",
             "--model", folder / "tiny-whisper", *LONG, "-o", output],
            stdout=out, stderr=err, cwd=folder, env=ALONE,
        )  # fmt: skip


def send_when_finished(process, folder, number, n_explanations):
    """Sends a signal when so many explanations are finished, and waits for the end."""
    deadline = time.monotonic() + 300
    try:
        while len(list(folder.glob("scores/*/*.json"))) < n_explanations:
            assert process.poll() is None and time.monotonic() < deadline, (folder.parent / "stderr").read_text()
            time.sleep(0.01)
    except BaseException:
        process.kill()
        raise
    process.send_signal(number)
    return end_of(process)


def end_of(process):
    """Its exit code."""
    try:
        return process.wait(timeout=300)
    finally:
        process.kill()


def test_a_killed_evaluation_goes_on_as_if_it_had_not_been(evaluate, tmp_path):
    out = tmp_path / "out"
    code = send_when_finished(start(tmp_path, "out"), out, signal.SIGKILL, 1)
    n_finished = len(list(out.glob("scores/*/*.json")))
    assert code == -signal.SIGKILL and 0 < n_finished < N_EXPLANATIONS and not (out / "results.json").exists()
    assert end_of(start(tmp_path, "out")) == 0, (tmp_path / "stderr").read_text()
    said = f"Resuming:   {n_finished} of {N_EXPLANATIONS} explanations are there."
    assert said in (tmp_path / "stdout").read_text()
    code, _, err = evaluate(*LONG, "-o", "whole")
    assert code == 0, err
    whole = files_of(tmp_path / "whole")
    assert files_of(out) == whole
    kinds = [name.split("/")[0] for name in whole]
    assert kinds.count("explanations") == kinds.count("scores") == N_EXPLANATIONS and "results.json" in kinds


def test_ctrl_c_keeps_what_is_finished(evaluate, tmp_path):
    out = tmp_path / "out"
    code = send_when_finished(start(tmp_path, "out"), out, signal.SIGINT, 3)  # of the first utterance all
    stdout, stderr = ((tmp_path / name).read_text() for name in ("stdout", "stderr"))
    assert code == 130, stderr
    assert "Stopped. What is finished is kept; the same command goes on with the rest." in stderr
    assert "Traceback" not in stderr and "Error" not in stderr
    kept = files_of(out)
    n_finished = len([name for name in kept if name.startswith("scores/")])
    assert 3 <= n_finished < N_EXPLANATIONS
    # and there are results of it
    n_utterances = kept["results.json"]["n_utterances"]
    assert n_utterances == n_finished // 3 and f"{3 - n_utterances} unfinished: the run was stopped" in stdout
    assert all(f"out/{name}" in stdout and (out / name).is_file() for name in RESULTS)
    code, stdout, stderr = evaluate(*LONG, "-o", "out")
    assert code == 0 and f"Resuming:   {n_finished} of {N_EXPLANATIONS} explanations are there." in stdout, stderr
    after = files_of(out)
    assert after["results.json"]["n_utterances"] == 3
    assert {name: after[name] for name in kept if name != "results.json"} == {
        name: content for name, content in kept.items() if name != "results.json"
    }


def test_ctrl_c_before_anything_is_finished(evaluate, tmp_path, monkeypatch):
    def stop(*args):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    with monkeypatch.context() as patch:
        patch.setattr("captum_spes.evaluation.Evaluation._measure", stop)
        code, out, err = evaluate("--methods", "random", "-o", "out")
    assert code == 130 and "Stopped. What is finished is kept" in err and "Error" not in err and "Wrote" not in out
    assert evaluate("--methods", "random", "-o", "out")[0] == 0
