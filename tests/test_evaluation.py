"""An evaluation of a tiny corpus: files, resumed runs, utterances that are left out, and refused settings."""

import hashlib
import json
import os
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from captum.attr import FeatureAblation

from captum_spes import SpeechToTextExplanation, grid_feature_mask
from captum_spes.evaluation import Evaluation
from captum_spes.evaluation.corpus import load_corpus
from captum_spes.evaluation.runner import Runner
from captum_spes.forward_func import TokenProbability
from captum_spes.metrics import comprehensiveness, deletion, insertion, size, sufficiency
from captum_spes.models import load_model
from captum_spes.speech_to_text.catalogue import METHODS, NamedMethod

pytestmark = [
    pytest.mark.filterwarnings("ignore:the maps"),  # of twenty samples are noisy
    pytest.mark.filterwarnings("error:.* is left out"),
]

NAMES = ["a", "b", "c"]
CHOSEN = {name: METHODS[name] for name in ("spes", "saliency", "energy")}
CHOSEN["spes"] = CHOSEN["spes"].with_samples(20)
PERCENTAGES = (0, 50, 100)
TRANSCRIPTIONS = {"a": "was his power", "b": "so was power power", "c": "what was"}


def write_words(whisper, processor):
    """Makes a random Whisper write five words, because its own texts are bytes without words or an end."""
    texts = [processor.tokenizer.decode([i]) for i in range(len(processor.tokenizer))]
    is_word = [i > 2 and text.startswith(" ") and text[1:].isalpha() and text.isascii() for i, text in enumerate(texts)]
    is_word[texts.index(" next")] = False  # which it would write most of the time
    whisper.generation_config.suppress_tokens = [i for i, keep in enumerate(is_word) if i and not keep]
    decoder = whisper.model.decoder
    with torch.no_grad():
        # later positions lie more and more in the direction of the token that ends the text
        direction = torch.tensor([0.25, -0.25]).repeat(8)
        decoder.embed_tokens.weight[0] = 3 * direction
        decoder.embed_positions.weight += 4 * (torch.arange(24) - 4).clamp(min=0)[:, None] * direction


def write_manifest(folder, transcriptions):
    rows = [f"{name}.wav,{text}\n" for name, text in transcriptions.items()]
    (folder / "metadata.csv").write_text("file_name,transcription\n" + "".join(rows))


@pytest.fixture
def model(tiny_whisper, tiny_processor):
    write_words(tiny_whisper, tiny_processor)
    return load_model(tiny_whisper, tiny_processor)


@pytest.fixture
def speech(tmp_path, audio):
    """A folder with three recordings, later and softer from one to the next, and what is said in them."""
    folder = tmp_path / "speech"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        soundfile.write(folder / f"{name}.wav", np.roll(audio, 3000 * number) * (1 - number / 3), 16000)
    write_manifest(folder, TRANSCRIPTIONS)
    return folder


@pytest.fixture
def evaluate(model, speech, tmp_path):
    """Makes an evaluation in a folder of that name."""

    def evaluate(name="out", methods=CHOSEN, **kwargs):
        corpus = kwargs.pop("corpus", None) or load_corpus(speech)
        return Evaluation(model, corpus, methods, tmp_path / name, **{"percentages": PERCENTAGES, **kwargs})

    return evaluate


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("kept") / "whole"


@pytest.fixture
def whole(evaluate, kept, tmp_path):
    """An evaluation that was run without a stop: once, for all tests have the same model and audio."""
    if not kept.exists():
        evaluate("whole").run()
        (tmp_path / "whole").rename(kept)
    shutil.copytree(kept, tmp_path / "whole")
    return evaluate("whole")


@pytest.fixture
def calls(model, monkeypatch):
    """The names of the model's methods that are called."""
    called = []

    def watch(name):
        original = getattr(model, name)
        monkeypatch.setattr(model, name, lambda *args, **kwargs: (called.append(name), original(*args, **kwargs))[1])

    for name in ("utterance", "encode", "logits", "generate_batch"):
        watch(name)
    return called


def without_seconds(content):
    if isinstance(content, dict):
        return {key: without_seconds(value) for key, value in content.items() if key != "seconds"}
    return content


def contents(evaluation, kind):
    """What is in the files under ``explanations`` or ``scores``, by their paths; the seconds aside."""
    folder = evaluation.folder / kind
    paths = [path for path in folder.rglob("*") if path.is_file()]
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    return (
        found if kind == "explanations" else {name: without_seconds(json.loads(data)) for name, data in found.items()}
    )


def scores_path(evaluation, method, name):
    return evaluation.folder / "scores" / method / f"{name}.json"


def check_same(evaluation, expected):
    for kind in ("explanations", "scores"):
        assert contents(evaluation, kind) == contents(expected, kind)
    settings = [json.loads((each.folder / "settings.json").read_text()) for each in (evaluation, expected)]
    assert settings[0] == settings[1]
    assert without_seconds(evaluation.results().to_dict()) == without_seconds(expected.results().to_dict())


def stop_at(number, stage=None, progress=None):
    """A callback that is interrupted when it is called for the n-th time, with this stage or any."""
    progress = [] if progress is None else progress

    def callback(item, method, current, done, total):
        if stage in (None, current):
            progress.append((item.id, method, current))
        if len(progress) == number:
            raise KeyboardInterrupt

    return callback


# Files and numbers


def test_files(whole):
    files = {path.relative_to(whole.folder).as_posix() for path in whole.folder.rglob("*") if path.is_file()}
    assert files == {
        "settings.json",
        *(f"explanations/{method}/{name}.safetensors" for method in CHOSEN for name in NAMES),
        *(f"scores/{method}/{name}.json" for method in CHOSEN for name in NAMES),
    }
    settings = json.loads((whole.folder / "settings.json").read_text())
    assert list(settings["methods"]) == list(CHOSEN) and settings["methods"]["spes"]["n_samples"] == 20
    assert settings["percentages"] == [0, 50, 100] and settings["seed"] == 0 and settings["dtype"] is None
    for item in whole.corpus.utterances:
        explanation = SpeechToTextExplanation.load(whole.explanation_path(item, "spes"))
        scores = json.loads(scores_path(whole, "spes", item.id).read_text())
        assert scores["audio_sha256"] == hashlib.sha256(item.path.read_bytes()).hexdigest()
        assert scores["text"] == explanation.text != ""
        assert scores["reliability"] == pytest.approx(float(explanation.reliability.mean()))
        assert scores["forwards"] == sum(stage["forward"] for stage in explanation.metadata["passes"].values()) > 20
        assert scores["seconds"] > 0


@pytest.mark.parametrize(("score", "reference"), [("wer", "transcription"), ("bleu", "model")])
def test_results_are_those_of_the_metrics(evaluate, model, score, reference):
    evaluation = evaluate(seed=3, percentages=(0, 2.5, 20, 100))
    evaluation.run()
    found = evaluation.results(score, reference)
    assert found.utterances == NAMES and found.problems == {} and list(found.methods) == list(CHOSEN)
    assert found.settings["reference"] == reference and found.settings["score"] == score.upper()
    references = list(TRANSCRIPTIONS.values()) if reference == "transcription" else None
    for name, result in found.methods.items():
        explanations = [
            SpeechToTextExplanation.load(evaluation.explanation_path(item, name))
            for item in evaluation.corpus.utterances
        ]
        for metric in (deletion, insertion):
            curve = metric(model, explanations, references, percentages=(0, 2.5, 20, 100), score=score, seed=3)
            mine = result.curves[metric.__name__]
            assert mine.texts == curve.texts and mine.references == curve.references
            assert found.areas(metric.__name__)[name] == pytest.approx(curve.auc, abs=1e-4)
        for metric, inputs in (("size", "spectrogram"), ("token size", "tokens")):
            curve = size(explanations, inputs=inputs)
            assert torch.equal(result.curves[metric].utterance_scores, curve.utterance_scores)
            assert found.areas(metric)[name] == pytest.approx(curve.auc, abs=1e-4)
    # or it would prove nothing
    assert len({text for texts in found.methods["spes"].curves["deletion"].texts for text in texts}) > 2


def test_token_metrics_and_baselines_are_those_of_the_metrics(evaluate, model):
    """They may be added to an evaluation that is there, and are measured on the explanations as they are."""
    evaluate(metrics=["deletion"]).run()
    metrics = ["deletion", "insertion", "comprehensiveness", "sufficiency", "size"]
    evaluation = evaluate(metrics=metrics, deletion_baselines=["mean", "noise"])
    assert evaluation.progress()[0] == 0
    evaluation.run()
    found = evaluation.results()
    assert found.settings["deletion_baselines"] == ["mean", "noise"]
    measured = ["deletion", "insertion", "comprehensiveness", "sufficiency"]
    assert {*found.metrics} == {
        *("SRG", "SRG (noise)", "size", "token size"), *measured, *(f"{name} (noise)" for name in measured)
    }  # fmt: skip
    explanations = [
        SpeechToTextExplanation.load(evaluation.explanation_path(item, "spes")) for item in evaluation.corpus.utterances
    ]
    references = list(TRANSCRIPTIONS.values())
    for baseline, suffix in (("mean", ""), ("noise", " (noise)")):
        for metric in (comprehensiveness, sufficiency):
            curve = metric(model, explanations, baselines=baseline)
            mine = found.methods["spes"].curves[metric.__name__ + suffix]
            torch.testing.assert_close(mine.utterance_scores, curve.utterance_scores)
        curve = deletion(model, explanations, references, percentages=PERCENTAGES, baselines=baseline)
        assert found.methods["spes"].curves["deletion" + suffix].texts == curve.texts


@pytest.mark.filterwarnings("ignore:with frozen padding the text")  # of a random model
@pytest.mark.slow
def test_explanations_are_those_of_the_methods(evaluate, model):
    given = {"perturbations_per_eval": 5, "seed": 3, "gen_args": {"num_beams": 2}}
    evaluation = evaluate(context="frozen", **given)
    progress = []
    evaluation.run(lambda item, method, *stage: progress.append((item.id, method, *stage)))
    batches = [(done, total) for *names, done, total in progress if names == ["a", "spes", "spectrogram"]]
    assert batches == [(5, 20), (10, 20), (15, 20), (20, 20)]
    for item in evaluation.corpus.utterances:
        for name, method in CHOSEN.items():
            prepared = method.wrap(model).prepare(item.path, context="frozen", gen_args={"num_beams": 2})
            expected = method.explain(model, *prepared, "fast", **given)
            found = SpeechToTextExplanation.load(evaluation.explanation_path(item, name))
            assert torch.equal(found.spectrogram_attr, expected.spectrogram_attr)
            assert torch.equal(found.token_attr, expected.token_attr)
            digest = hashlib.sha256(item.path.read_bytes()).hexdigest()
            assert expected.metadata.pop("audio_file") == str(item.path)
            assert found.metadata == {**json.loads(json.dumps(expected.metadata)), "audio_sha256": digest}
            assert found.metadata["context"]["used"] == "frozen"


def test_the_batch_size_changes_nothing_but_rounding(evaluate, whole):
    other = evaluate(perturbations_per_eval=3)
    other.run()
    for item in other.corpus.utterances:
        for method in CHOSEN:
            mine, theirs = (
                SpeechToTextExplanation.load(each.explanation_path(item, method)) for each in (other, whole)
            )
            torch.testing.assert_close(mine.spectrogram_attr, theirs.spectrogram_attr, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(mine.token_attr, theirs.token_attr, rtol=1e-3, atol=1e-4)
            scores = [contents(each, "scores")[f"{method}/{item.id}.json"] for each in (other, whole)]
            assert all(scores[0][metric] == scores[1][metric] for metric in ("text", "deletion", "insertion"))
            for inputs in ("spectrogram", "tokens"):
                # a bin in a hundred may lie on the other side of a threshold
                assert scores[0]["size"][inputs] == pytest.approx(scores[1]["size"][inputs], abs=1)


# Stopped and continued


@pytest.mark.parametrize("number", [6, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 16))])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(evaluate, whole, number):
    progress, rest = [], []
    with pytest.raises(KeyboardInterrupt):
        evaluate().run(stop_at(number, progress=progress))
    evaluation = evaluate()
    evaluation.run(lambda item, method, *_: rest.append((item.id, method)))
    check_same(evaluation, whole)
    done = {(name, method) for name, method, stage in progress if stage == "finished"}
    assert not done & set(rest) and len(done) + len(set(rest)) == 9


@pytest.mark.slow
def test_a_method_that_is_killed_goes_on_within_an_utterance(evaluate, whole, monkeypatch):
    monkeypatch.setattr("captum_spes.attr._checkpoint.SECONDS", 0)
    monkeypatch.setattr("captum_spes.attr._checkpoint.PATIENCE", 0)
    with pytest.raises(KeyboardInterrupt):
        evaluate(perturbations_per_eval=4).run(stop_at(4, stage="spectrogram"))
    evaluation = evaluate(perturbations_per_eval=4)
    path = evaluation.folder / "checkpoints" / "spes" / "a"
    assert [file.name for file in path.iterdir()] == ["spectrogram.safetensors"]
    done = []
    evaluation.run(lambda item, method, stage, n, total: done.append(n) if stage == "spectrogram" else None)
    assert done[0] > 8 and not path.exists()
    scores = json.loads(scores_path(evaluation, "spes", "a").read_text())
    expected = json.loads(scores_path(whole, "spes", "a").read_text())
    assert scores["forwards"] == expected["forwards"]  # of both runs, and how long the first took nobody knows
    assert scores["seconds"] is None and expected["seconds"] > 0
    found, expected = (
        SpeechToTextExplanation.load(each.explanation_path(each.corpus.utterances[0], "spes"))
        for each in (evaluation, whole)
    )
    torch.testing.assert_close(found.spectrogram_attr, expected.spectrogram_attr)


def test_a_run_that_is_stopped_again_and_again(evaluate, whole):
    for number in range(9):
        evaluation = evaluate()
        with pytest.raises(KeyboardInterrupt):
            evaluation.run(stop_at(1, "finished"))
        assert len(contents(evaluation, "scores")) == number + 1
    seconds = {path: json.loads(path.read_text())["seconds"] for path in (evaluation.folder / "scores").rglob("*.json")}
    evaluation.run(stop_at(1))  # there is nothing to stop
    check_same(evaluation, whole)
    assert len(seconds) == 9 and all(json.loads(path.read_text())["seconds"] == took for path, took in seconds.items())


@pytest.mark.parametrize(
    ("number", "is_written"),
    [(3, False), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1, True), (2, False), (12, True)))],
)
def test_a_run_that_is_stopped_while_it_writes_a_file(evaluate, whole, monkeypatch, number, is_written):
    """The files are the settings, with the first result, then explanation and scores of each: 19."""
    with monkeypatch.context() as patch:
        written = []

        def stop(source, target):
            written.append(target)
            if len(written) != number or is_written:
                original(source, target)
            if len(written) == number:
                raise KeyboardInterrupt

        original = os.replace
        patch.setattr("os.replace", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate().run()
    evaluation = evaluate()
    evaluation.run()
    check_same(evaluation, whole)


@pytest.mark.parametrize("number", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 10))])
def test_a_run_that_is_stopped_while_the_model_writes(evaluate, whole, model, monkeypatch, number):
    """Of each utterance it writes what is explained, then the texts of deletion and of insertion by each method."""
    with monkeypatch.context() as patch:
        original, called = model.generate_batch, []

        def stop(*args, **kwargs):
            called.append(args)
            if len(called) == number:
                raise KeyboardInterrupt
            return original(*args, **kwargs)

        patch.setattr(model, "generate_batch", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate().run()
    evaluation = evaluate()
    # explained is not measured: what was explained is not explained again, and how long that took is not known
    explained = contents(evaluation, "explanations").keys()
    measured = contents(evaluation, "scores").keys()
    progress = []
    evaluation.run(lambda item, method, stage, *_: progress.append((f"{method}/{item.id}", stage)))
    check_same(evaluation, whole)
    left = {name.removesuffix(".safetensors") for name in explained} - {name.removesuffix(".json") for name in measured}
    assert left and all(stage == "finished" for name, stage in progress if name in left)
    for name in left:
        assert json.loads((evaluation.folder / "scores" / f"{name}.json").read_text())["seconds"] is None


def test_a_second_run_computes_nothing(evaluate, whole, calls):
    evaluate("whole").run(lambda *args: pytest.fail("there was nothing to do"))
    whole.run(lambda *args: pytest.fail("there was nothing to do"))
    assert calls == []
    evaluate("whole").results()
    assert calls == []
    evaluate("new", corpus=replace(whole.corpus, utterances=whole.corpus.utterances[:1])).run()
    assert {"utterance", "encode", "generate_batch"} <= set(calls)  # as it is seen when there is something to do


def test_a_method_that_is_added_is_all_that_is_computed(evaluate, whole):
    evaluate(methods={name: CHOSEN[name] for name in ("spes", "energy")}).run()
    before = contents(evaluate(), "explanations")
    progress = []
    evaluation = evaluate()
    evaluation.run(lambda item, method, *_: progress.append(method))
    assert set(progress) == {"saliency"} and contents(evaluation, "explanations").items() >= before.items()
    check_same(evaluation, whole)
    # fewer methods, and in another order, are no other evaluation
    fewer = evaluate(methods={name: CHOSEN[name] for name in ("energy", "spes")})
    fewer.run(lambda *args: pytest.fail("there was nothing to do"))
    assert list(fewer.results().methods) == ["energy", "spes"]
    assert set(json.loads((fewer.folder / "settings.json").read_text())["methods"]) == set(CHOSEN)


def test_a_metric_that_is_added_is_all_that_is_computed(evaluate, whole, calls):
    evaluate(metrics=["size"]).run()
    assert calls.count("generate_batch") == 3  # what is explained, of each utterance
    assert evaluate(metrics=["size"]).results().metrics == ["size", "token size"]
    assert evaluate(metrics=["size"]).results().settings["metrics"] == ["size"]
    explanations, sizes = (contents(evaluate(), kind) for kind in ("explanations", "scores"))
    calls.clear()
    evaluate(metrics=["size", "insertion"]).run()
    assert calls.count("generate_batch") == 3 + 9
    calls.clear()
    evaluation = evaluate()
    seconds = json.loads(scores_path(evaluation, "spes", "a").read_text())["seconds"]
    progress = []
    evaluation.run(lambda *args: progress.append(args[2]))
    assert progress == ["finished"] * 9 and calls.count("generate_batch") == 3 + 9
    assert contents(evaluation, "explanations") == explanations
    assert json.loads(scores_path(evaluation, "spes", "a").read_text())["seconds"] == seconds > 0
    assert all(contents(evaluation, "scores")[name].items() >= scores.items() for name, scores in sizes.items())
    check_same(evaluation, whole)


def test_an_utterance_that_is_added_is_all_that_is_computed(evaluate, whole, speech):
    write_manifest(speech, {name: TRANSCRIPTIONS[name] for name in ("a", "c")})
    evaluate().run()
    write_manifest(speech, TRANSCRIPTIONS)
    progress = []
    evaluation = evaluate()
    evaluation.run(lambda item, *_: progress.append(item.id))
    assert set(progress) == {"b"}
    check_same(evaluation, whole)


def test_results_of_what_is_finished(evaluate):
    evaluation = evaluate()
    with pytest.raises(ValueError, match="because every utterance is unfinished or left out; 3 unfinished: the"):
        evaluation.results()
    with pytest.raises(KeyboardInterrupt):
        evaluation.run(stop_at(5, "finished"))  # all methods of a, and two of b
    found = evaluation.results()
    assert found.utterances == ["a"] and list(found.problems) == ["2 unfinished"]
    evaluation.run()
    assert evaluation.results().utterances == NAMES and evaluation.results().problems == {}


def test_results_of_some_utterances(evaluate, whole, speech):
    write_manifest(speech, {name: TRANSCRIPTIONS[name] for name in ("a", "c")})
    expected = without_seconds(evaluate("whole").results().to_dict())
    assert without_seconds(whole.results(only={"c", "a"}).to_dict()) == expected
    assert whole.results(only="a").utterances == ["a"]
    with pytest.raises(ValueError, match="only names no utterance of the corpus"):
        whole.results(only={"another"})
    with pytest.raises(ValueError, match="only names no utterance of the corpus"):
        whole.results(only="ab")  # one name, not a set of letters


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"reference": "text"}, "reference must be one of transcription, model, not 'text'"),
        ({"score": "cer"}, "there is no score 'cer'"),
    ],
)
def test_results_that_cannot_be(evaluate, arguments, words):
    with pytest.raises(ValueError, match=words):
        evaluate().results(**arguments)


def test_what_the_callback_gets(evaluate):
    progress = []
    evaluate().run(lambda *args: progress.append(args))
    assert [(item.id, method) for item, method, stage, *_ in progress if stage == "finished"] == [
        (name, method) for name in NAMES for method in CHOSEN
    ]
    mine = [args[2:] for args in progress if args[0].id == "b" and args[1] == "spes"]
    assert mine[-3:] == [("spectrogram", 16, 20), ("spectrogram", 20, 20), ("finished", 1, 1)]
    assert {stage for stage, *_ in mine[:-3]} == {"previous tokens"}


def test_what_the_callback_returns_changes_nothing(evaluate, whole):
    """As tqdm's update does: True where it has drawn its bar."""
    evaluation = evaluate()
    evaluation.run(lambda *args: True)
    check_same(evaluation, whole)


# Other settings


@pytest.fixture
def begun(evaluate):
    """An evaluation that has written its settings, as with its first result."""
    evaluation = evaluate()
    evaluation._store.write_settings()
    return evaluation


def test_nothing_is_written_before_the_first_result(evaluate, speech, tmp_path):
    """So that a run that fails at once does not refuse its correction."""
    evaluate(seed=1)
    assert not (tmp_path / "out").exists()
    for name in NAMES:
        (speech / f"{name}.wav").write_text("no audio")
    with pytest.warns(UserWarning, match="is left out"):
        evaluate(seed=1).run()
    assert not (tmp_path / "out").exists()
    evaluate(seed=2)


def with_spes(**changes):
    return {**CHOSEN, "spes": replace(CHOSEN["spes"], **changes)}


def test_weights_are_recognised_in_other_precisions(evaluate, model):
    before = evaluate().settings["weights"]
    model.model.bfloat16()
    assert evaluate().settings["weights"] == before


def test_other_weights_of_a_model_of_the_same_name_are_refused(begun, evaluate, model):
    with torch.no_grad():
        next(model.model.parameters()).mul_(1.1)
    with pytest.raises(ValueError, match=r"weights was \w+ and is \w+ now\. Give"):
        evaluate()


@pytest.mark.parametrize(
    ("arguments", "differences"),
    [
        ({"seed": 1}, ["seed was 0 and is 1 now"]),
        ({"percentages": (0, 100)}, ["percentages was [0, 50, 100] and is [0, 100] now"]),
        ({"percentages": (0, 50, 99.5)}, ["percentages was [0, 50, 100] and is [0, 50, 99.5] now"]),
        ({"context": "full"}, ["context was auto and is full now"]),
        ({"dtype": torch.bfloat16}, ["dtype was None and is bfloat16 now"]),
        ({"gen_args": {"num_beams": 2}}, ["gen_args.num_beams was None and is 2 now"]),
        ({"methods": {"spes": METHODS["spes"].with_samples(30)}}, ["methods.spes.n_samples was 20 and is 30 now"]),
        ({"methods": with_spes(absolute=True)}, ["methods.spes.absolute was False and is True now"]),
        (
            {"methods": with_spes(score=TokenProbability)},
            ["methods.spes.score was KLDivergence and is TokenProbability now"],
        ),
        (
            {"methods": {"energy": METHODS["random"]}},
            ["methods.energy.method was Energy and is Random now"],
        ),
        ({"preset": "paper"}, ["preset was fast and is paper now", "methods.spes.n_token_samples was 512"]),
        (
            {"seed": 2, "context": "full", "percentages": (0, 10)},
            ["seed was 0 and is 2 now", "context was auto", "percentages was [0, 50, 100] and is [0, 10]"],
        ),
    ],
)
def test_other_settings_are_refused(begun, evaluate, tmp_path, arguments, differences):
    before = (tmp_path / "out" / "settings.json").read_bytes()
    with pytest.raises(ValueError, match="holds an evaluation with other arguments: ") as error:
        evaluate(**arguments)
    assert all(difference in str(error.value) for difference in differences)
    assert (str(error.value).count(" now")) >= len(differences)
    if "preset" not in arguments:
        assert str(error.value).count(" now") == len(differences)  # nothing else is blamed
    assert str(error.value).endswith("Give the same arguments to continue it, or another folder.")
    assert (tmp_path / "out" / "settings.json").read_bytes() == before


class Squares:
    """A maker of patches that is an object."""

    def __init__(self, width):
        self.width = width

    def __call__(self, spectrogram):
        return grid_feature_mask(spectrogram, patch_size=(self.width, 4))


def squares(width):
    return lambda spectrogram: Squares(width)(spectrogram)


def bound(width):
    return Squares(width).__call__


@pytest.mark.parametrize("patches", [Squares, squares, bound])
def test_patches_of_functions_that_differ_are_refused(evaluate, patches):
    """Also if they have the same name; the same ones of another object continue the run."""

    def run(width):
        masked = NamedMethod(FeatureAblation, "in squares", feature_mask=patches(width))
        evaluate(methods={"squares": masked}, metrics=["size"]).run()

    run(20)
    run(20)
    with pytest.raises(ValueError, match="holds an evaluation with other arguments: methods.squares.feature_mask"):
        run(5)


@pytest.mark.parametrize("told, words", [("language", "language was None and is de now"), ("task", "task was ")])
def test_another_language_or_task_is_refused(begun, evaluate, model, monkeypatch, told, words):
    monkeypatch.setattr(model, told, {"language": "de", "task": "translate"}[told])
    with pytest.raises(ValueError, match=words):
        evaluate()


def test_another_model_is_refused(begun, evaluate, model, monkeypatch):
    monkeypatch.setattr(model, "name", "whisper-huge")
    with pytest.raises(ValueError, match="model was WhisperForConditionalGeneration and is whisper-huge now"):
        evaluate()


@pytest.mark.parametrize(
    "arguments",
    [
        {"perturbations_per_eval": 4},
        {"metrics": ["insertion"]},
        {"methods": {"random": METHODS["random"], "energy": METHODS["energy"]}},
        {"percentages": iter([0.0, 50.0, 100.0])},
        {"gen_args": {}},
    ],
)
def test_settings_that_are_free(begun, evaluate, arguments):
    evaluate(**arguments)._store.write_settings()
    settings = json.loads((evaluate().folder / "settings.json").read_text())
    assert list(settings["methods"]) == list({**CHOSEN, **arguments.get("methods", {})})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"methods": {}}, "there is nothing to evaluate: give at least one method and one"),
        ({"metrics": []}, "there is nothing to evaluate: give at least one method and one"),
        ({"metrics": ["size", "magic"]}, "there is no metric 'magic': give some of deletion, insertion, c"),
        ({"methods": {**CHOSEN, "deep_lift": METHODS["deep_lift"]}}, "DeepLift hooks .* use IntegratedGradients"),
        ({"percentages": (50,)}, "percentages must be ascending numbers from 0 to 100, two or more"),
        ({"percentages": (0, 101)}, "percentages must be ascending numbers from 0 to 100, two or more"),
    ],
)
def test_what_cannot_be_is_refused_before_there_is_a_folder(evaluate, tmp_path, arguments, words):
    with pytest.raises(ValueError, match=words):
        evaluate(**arguments)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files_is_refused(evaluate, tmp_path):
    (tmp_path / "out").mkdir()
    evaluate()._store.write_settings()  # an empty one is good
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["settings.json"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("dear diary")
    with pytest.raises(ValueError, match="mine is not empty and does not hold an evaluation: give another folder"):
        evaluate("mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "name", [".settings.json.x1y2z3/settings.json", ".write-test", "checkpoints/spes/a/spectrogram.safetensors"]
)
def test_a_folder_of_a_run_that_was_killed_before_its_first_result(evaluate, tmp_path, name):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.touch()
    begun = evaluate()
    begun._store.write_settings()
    assert list(json.loads((begun.folder / "settings.json").read_text())["methods"]) == list(CHOSEN)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"seed": 0', b"\xff\xfe", b"[" * 100_000])
def test_settings_that_are_damaged(begun, evaluate, tmp_path, content):
    (tmp_path / "out" / "settings.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"out.settings\.json is damaged"):
        evaluate()


# What is left out


@pytest.fixture
def expected(evaluate, whole, kept):
    """The results of a and c alone."""
    items = [item for item in whole.corpus.utterances if item.id != "b"]
    return without_seconds(evaluate(kept, corpus=replace(whole.corpus, utterances=items)).results().to_dict())


def check_left_out(evaluation, words, expected):
    """Runs it: b is left out with these words, and the others have the results that they have alone."""
    with pytest.warns(UserWarning, match="^b is left out: ") as caught:
        evaluation.run()
    messages = [str(warning.message) for warning in caught if "is left out" in str(warning.message)]
    assert len(messages) == 1 and all(word in messages[0] for word in words)
    found = evaluation.results()
    assert found.problems == {"b": messages[0].removeprefix("b is left out: ")} == evaluation.problems
    assert found.utterances == ["a", "c"]
    assert without_seconds({**found.to_dict(), "problems": {}}) == expected


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'"text"', b"\xff", b"[" * 100_000, b'{"text": "so"}', None])
def test_damaged_scores(evaluate, whole, expected, content):
    path = scores_path(whole, "saliency", "b")
    path.write_bytes(path.read_bytes()[:-20] if content is None else content)
    assert whole.results().utterances == ["a", "c"] and str(path) in whole.results().problems["b"]
    evaluation = evaluate("whole")
    check_left_out(evaluation, [str(path), "is damaged", "delete it"], expected)
    path.unlink()
    progress = []
    evaluation.run(lambda *args: progress.append(args[2]))
    assert progress == ["finished"]  # the explanation is still there
    assert evaluation.results().utterances == NAMES


@pytest.mark.parametrize("length", [0, 5, 100, 0.5, -1])
def test_a_truncated_explanation(evaluate, whole, expected, length):
    """It is read again where it is not measured yet."""
    [item] = [item for item in whole.corpus.utterances if item.id == "b"]
    path = whole.explanation_path(item, "energy")
    data = path.read_bytes()
    path.write_bytes(data[: int(length * len(data)) if isinstance(length, float) else length])
    assert evaluate("whole").results().utterances == NAMES  # the scores are whole
    scores_path(whole, "energy", "b").unlink()
    evaluation = evaluate("whole")
    check_left_out(evaluation, [str(path), "is damaged"], expected)
    path.unlink()
    evaluation.run()
    assert evaluation.results().problems == {} and path.read_bytes() == data


def test_an_explanation_that_was_deleted_is_made_again(evaluate, whole):
    expected = contents(whole, "explanations")
    shutil.rmtree(whole.folder / "explanations" / "spes")
    shutil.rmtree(whole.folder / "scores" / "spes")
    evaluation = evaluate("whole")
    evaluation.run()
    assert contents(evaluation, "explanations") == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"so what", "is not a readable audio file"),
        (b"", "is empty"),
        (np.zeros(9600, np.float32), "is silent"),
        (np.ones(500, np.float32), "lasts only"),
        (np.sin(np.arange(40_000)).astype(np.float32), "longer than the 1 s window"),
    ],
)
def test_broken_audio(evaluate, speech, expected, content, words):
    if isinstance(content, bytes):
        (speech / "b.wav").write_bytes(content)
    else:
        soundfile.write(speech / "b.wav", content, 16000)
    evaluation = evaluate()
    check_left_out(evaluation, [words], expected)
    assert not any("b." in name for kind in ("explanations", "scores") for name in contents(evaluation, kind))


def test_audio_that_is_not_there_is_a_problem_of_the_corpus(evaluate, speech, expected):
    (speech / "b.wav").unlink()
    evaluation = evaluate("whole")
    evaluation.run()
    found = evaluation.results()
    assert list(found.problems) == ["b.wav"] and "does not exist" in found.problems["b.wav"]
    assert without_seconds({**found.to_dict(), "problems": {}}) == expected


def test_a_corpus_that_is_all_broken(evaluate, speech):
    for name in NAMES:
        (speech / f"{name}.wav").write_text("no audio")
    evaluation = evaluate()
    with pytest.warns(UserWarning, match="is left out"):
        evaluation.run()
    with pytest.raises(ValueError, match=r"there are no results, .*; a: .*a\.wav is not a readable audio file"):
        evaluation.results()


def test_audio_that_has_changed(evaluate, whole, speech, audio):
    before = (speech / "b.wav").read_bytes()
    soundfile.write(speech / "b.wav", audio[::-1], 16000)
    explanations = contents(whole, "explanations")
    evaluation = evaluate("whole")
    with pytest.warns(UserWarning, match=r"b is left out: .*b\.wav has changed since it was explained"):
        evaluation.run()
    found = evaluation.results()
    assert found.utterances == ["a", "c"] and "into another folder" in found.problems["b"]
    more = evaluate("whole", methods={**CHOSEN, "random": METHODS["random"]})  # neither is it explained by others
    with pytest.warns(UserWarning, match=r"b is left out: .*b\.wav has changed since it was explained"):
        more.run()
    assert not scores_path(more, "random", "b").exists() and scores_path(more, "random", "c").exists()
    assert contents(evaluation, "explanations").items() >= explanations.items()
    (speech / "b.wav").write_bytes(before)
    evaluation.run()
    assert evaluation.results().utterances == NAMES and evaluation.results().problems == {}


def test_audio_that_has_changed_before_its_explanation_was_measured(evaluate, speech, audio, model, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Runner, "_measure", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate().run()
    soundfile.write(speech / "a.wav", audio[::-1], 16000)
    evaluation = evaluate()
    assert len(contents(evaluation, "explanations")) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluation.run()
    # left out, or explained anew
    if "a" in evaluation.results().utterances:
        fresh = evaluate("fresh")
        fresh.run()
        assert contents(evaluation, "explanations") == contents(fresh, "explanations")


def test_audio_that_vanishes_while_the_corpus_is_run(whole, speech):
    (speech / "b.wav").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole.run()
    assert whole.results().utterances == ["a", "c"]


def test_a_missing_file_whose_name_is_another_utterances_id(evaluate, speech):
    (speech / "sub").mkdir()
    (speech / "a.wav").rename(speech / "sub" / "c.wav")
    (speech / "metadata.csv").write_text("file_name,transcription\nsub+c,so\nsub/c.wav,so what\nb.wav,power\n")
    corpus = load_corpus(speech)
    assert [item.id for item in corpus.utterances] == ["sub+c", "b"] and list(corpus.problems) == ["sub+c"]
    evaluation = evaluate()
    evaluation.run()
    assert evaluation.results().utterances == ["sub+c", "b"]


# References


def test_without_a_transcription_there_is_nothing_to_score_against(evaluate, speech):
    write_manifest(speech, {"a": "so what", "b": "", "c": "?!"})
    evaluation = evaluate()
    evaluation.run()
    found = evaluation.results()
    assert found.utterances == ["a"] and found.settings["reference"] == "transcription"
    assert list(found.problems) == ["b", "c"]
    assert "the reference '' has no words" in found.problems["b"]
    assert "the reference '?!' has no words" in found.problems["c"]
    # "?!" is something to BLEU
    assert evaluation.results("bleu").utterances == ["a", "c"]
    sizes = evaluate(metrics=("size",)).results()
    assert sizes.utterances == NAMES and sizes.problems == {} and "reference" not in sizes.settings
    own = evaluation.results(reference="model")
    assert own.utterances == NAMES and own.problems == {} and own.settings["reference"] == "model"
    assert own.areas("size") == sizes.areas("size")
    assert own.methods["spes"].curves["deletion"].references == [
        json.loads(scores_path(evaluation, "spes", name).read_text())["text"] for name in NAMES
    ]


def test_without_any_transcription_the_model_is_its_own_reference(evaluate, speech):
    (speech / "metadata.csv").unlink()
    evaluation = evaluate()
    evaluation.run()
    found = evaluation.results()
    assert found.utterances == NAMES and found.settings["reference"] == "model"
    assert found.to_dict() == evaluation.results(reference="model").to_dict()
    with pytest.raises(ValueError, match="every utterance is unfinished or left out; a: .* has no words"):
        evaluation.results(reference="transcription")
