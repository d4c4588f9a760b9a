"""captum-spes evaluate."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
from test_evaluation import without_seconds, write_words

from captum_spes import SpeechToTextExplanation
from captum_spes.cli.evaluate import _name, _own_path, percentages
from captum_spes.cli.folders import OWNER

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
    """The files of a run by path: explanations unchanged, and JSON without the seconds."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        # a process that is killed may leave the hidden folder of a file that it was writing
        if path.is_file() and not any(part.startswith(".") for part in name.split("/")):
            is_json = path.suffix == ".json"
            found[name] = without_seconds(json.loads(path.read_text())) if is_json else path.read_bytes()
    return {name: content for name, content in found.items() if name not in RESULTS[1:]}


def test_manifests_of_one_folder_have_their_own_results(tmp_path):
    for name in ("metadata.csv", "train.csv", "test.csv"):
        (tmp_path / name).write_text("")
    assert _name(tmp_path) == _name(tmp_path / "metadata.csv") == tmp_path.name
    assert _own_path(tmp_path) == _own_path(tmp_path / "metadata.csv") == tmp_path
    assert _name(tmp_path / "train.csv") == f"{tmp_path.name}-train" != _name(tmp_path / "test.csv")


def test_evaluate(evaluate, tmp_path):
    code, out, err = evaluate("--methods", "gradient_shap,spes,spes", "--n-samples", "9", "--step", "50", "--seed", "2")
    assert code == 0, err
    folder = tmp_path / "spes-output" / "speech-evaluation"
    assert {path.name for path in folder.iterdir()} == {*(*RESULTS, "settings.json", "explanations", "scores", OWNER)}
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
    assert left_out.endswith("does not exist: check the path of the audio.")
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
    assert not {"deletion", "insertion", "SRG"} & set(results["methods"]["energy"]) and "deletion ↑" not in out
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


def test_a_corpus_without_transcriptions_has_no_such_reference(evaluate, speech, tmp_path, monkeypatch):
    (speech / "metadata.csv").write_text("file_name\nsofter.wav\nlater.wav\n")
    given = ["--methods", "energy", "--reference", "transcription"]
    code, _, err = evaluate(*given, "--metrics", "size", "-o", "sizes")  # which needs no texts
    assert code == 0, err
    monkeypatch.delattr("captum_spes.cli.evaluate.load_model")
    code, _, err = evaluate(*given, "-o", "out")
    assert code == 2 and f"no utterance of {speech} has a transcription: leave out --reference" in err
    assert not (tmp_path / "out").exists()


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


@pytest.mark.slow
def test_evaluate_goes_on(evaluate, tmp_path):
    assert evaluate("--methods", "random", "--step", "50", "-o", "whole")[0] == 0
    code, out, err = evaluate("--methods", "random", "--step", "50", "--n-utterances", "1", "-o", "out")
    assert code == 0 and "Resuming" not in out, err
    code, out, err = evaluate("--methods", "random", "--step", "50", "-o", "out")
    assert code == 0 and "Resuming:   2 of 6 explanations are finished." in out, err
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    code, out, err = evaluate("--methods", "random", "--step", "50", "-o", "out", "--batch-size", "7")
    assert code == 0 and "Resuming:   6 of 6 explanations are finished." in out and "explanations:" not in err
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    code, out, err = evaluate("--methods", "random,saliency", "--step", "50", "-o", "out")
    assert code == 0 and "Resuming:   6 of 9 explanations are finished." in out and "explanations: 100%" in err


def test_another_corpus_has_results_of_its_own(run, evaluate, speech, tmp_path, tiny_folder):
    given = ["--methods", "energy", "--metrics", "size"]
    code, out, err = evaluate(*given)
    assert code == 0 and "spes-output/speech-evaluation/results.json" in out, err
    (tmp_path / "other").mkdir()
    shutil.copytree(speech, tmp_path / "other" / "speech")
    command = ["evaluate", tmp_path / "other" / "speech", "--allow-outside", "--model", tiny_folder, *given]
    code, out, err = run(*command)
    assert code == 0 and "spes-output/speech-evaluation-2/results.json" in out, err
    code, _, err = run(*command, "-o", "spes-output/speech-evaluation")
    assert code == 2 and f"holds the evaluation of another corpus ({speech})" in err
    # a corpus that has grown is the same corpus
    soundfile.write(speech / "new.wav", soundfile.read(speech / "later.wav")[0][::-1], 16000)
    with (speech / "metadata.csv").open("a") as manifest:
        manifest.write("new.wav,so what\n")
    code, out, err = evaluate(*given)
    assert code == 0 and "6 of 8 explanations" in out and "speech-evaluation/results.json" in out, err


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
        ([], ["--methods", ", ,"], "--methods is empty: give at least one name."),
        ([], ["--methods", "deep_lift"], "use IntegratedGradients"),
        ([], ["--metrics", "size,magic"], "there is no metric 'magic': give some of deletion, insertion, c"),
        ([], ["--metrics", ""], "--metrics is empty: give at least one name."),
        ([], ["--step", "0"], "--step and --until must be percentages"),
        ([], ["--step", "nan"], "--step and --until must be percentages"),
        ([], ["--until", "120"], "--step and --until must be percentages"),
        ([], ["--step", "30", "--until", "20"], "with the step at most --until, not 30.0, 20.0"),
        ([], ["--n-samples", "2", "--methods", "spes"], "--n-samples must be at least 3 for this method, one perturb"),
        ([], ["--n-draws", "2", "--methods", "gradient_spes"], "--n-draws must be at least 3 for this method"),
        ([], ["--workers", "2", "--device", "cuda:1"], "the device of workers must be cpu or cuda, not 'cuda:1'"),
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
        ([], ["-o", "."], "is not empty and does not hold an evaluation: give another folder"),
        (QUICK, ["--seed", "1"], "out holds an evaluation with other arguments: seed was 0 and is 1 now."),
        (
            QUICK,
            ["--step", "50"],
            "and is [0, 50, 100] now. Give the same arguments to continue it, or another",
        ),
        (["--n-samples", "9", *QUICK, "--methods", "spes"], ["--n-samples", "8"], "n_samples was 9 and is 8 now"),
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
    assert not (tmp_path / "out").exists() or before  # a correction is not refused


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
    """Runs the command in a separate process."""
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
    """The exit code of the command."""
    try:
        return process.wait(timeout=300)
    finally:
        process.kill()


@pytest.mark.long
def test_a_killed_evaluation_goes_on_as_if_it_had_not_been(evaluate, tmp_path):
    out = tmp_path / "out"
    code = send_when_finished(start(tmp_path, "out"), out, signal.SIGKILL, 1)
    n_finished = len(list(out.glob("scores/*/*.json")))
    assert code == -signal.SIGKILL and 0 < n_finished < N_EXPLANATIONS and not (out / "results.json").exists()
    assert end_of(start(tmp_path, "out")) == 0, (tmp_path / "stderr").read_text()
    said = f"Resuming:   {n_finished} of {N_EXPLANATIONS} explanations are finished."
    assert said in (tmp_path / "stdout").read_text()
    code, _, err = evaluate(*LONG, "-o", "whole")
    assert code == 0, err
    whole = files_of(tmp_path / "whole")
    assert files_of(out) == whole
    kinds = [name.split("/")[0] for name in whole]
    assert kinds.count("explanations") == kinds.count("scores") == N_EXPLANATIONS and "results.json" in kinds


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished(evaluate, tmp_path):
    out = tmp_path / "out"
    code = send_when_finished(start(tmp_path, "out"), out, signal.SIGINT, 3)  # of the first utterance all
    stdout, stderr = ((tmp_path / name).read_text() for name in ("stdout", "stderr"))
    assert code == 130, stderr
    assert "Stopped. Finished results are kept; the same command continues with the rest." in stderr
    assert "Traceback" not in stderr and "Error" not in stderr
    kept = files_of(out)
    n_finished = len([name for name in kept if name.startswith("scores/")])
    assert 3 <= n_finished < N_EXPLANATIONS
    # and there are results of it
    n_utterances = kept["results.json"]["n_utterances"]
    assert n_utterances == n_finished // 3 and f"{3 - n_utterances} unfinished: the run was stopped" in stdout
    assert all(f"out/{name}" in stdout and (out / name).is_file() for name in RESULTS)
    code, stdout, stderr = evaluate(*LONG, "-o", "out")
    assert code == 0 and f"Resuming:   {n_finished} of {N_EXPLANATIONS} explanations are finished." in stdout, stderr
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
        patch.setattr("captum_spes.evaluation.runner.Runner._measure", stop)
        code, out, err = evaluate("--methods", "random", "-o", "out")
    assert code == 130 and "Stopped. Finished results are kept" in err and "Error" not in err and "Wrote" not in out
    assert evaluate("--methods", "random", "-o", "out")[0] == 0
