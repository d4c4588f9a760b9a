"""Bad inputs to the whole public interface, by name, with the messages that they must cause.

Every message is one clear sentence: what was wrong, what was expected, what to do.
"""

import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from captum.attr import IntegratedGradients, Saliency
from test_explanation import make

from captum_spes import (
    SPES,
    BubbleNoise,
    Contrast,
    ContrastiveProbability,
    GradientSPES,
    KLDivergence,
    SpeechToTextAttribution,
    SpeechToTextExplanation,
    TokenProbability,
    grid_feature_mask,
    slic_feature_mask,
)
from captum_spes.__main__ import main
from captum_spes.alignment import Alignment, Segment
from captum_spes.analysis import analyze
from captum_spes.audio import load_audio
from captum_spes.evaluation import Evaluation
from captum_spes.evaluation.comparison import Comparison
from captum_spes.evaluation.corpus import load_corpus
from captum_spes.metrics import (
    WordErrorRate,
    bleu,
    context_share,
    deletion,
    flip_rate,
    frequency_profile,
    infidelity,
    insertion,
    monotonicity,
    sensitivity_max,
    size,
    time_localization,
    token_kurtosis,
    wer,
)
from captum_spes.models import load_model
from captum_spes.speech_to_text.catalogue import METHODS, find_method

X = torch.rand(1, 6, 4)
MASK = grid_feature_mask(X, (2, 2))
NAN = torch.full((1, 6, 4), torch.nan)


def score(x):
    return x.sum((1, 2))


def spes(**arguments):
    return SPES(score).attribute(arguments.pop("inputs", X), **arguments)


def gradient(**arguments):
    return GradientSPES(score).attribute(arguments.pop("inputs", X), **arguments)


def bubbles(**arguments):
    return BubbleNoise(score).attribute(arguments.pop("inputs", X), **arguments)


def explain(e, method=SPES, **arguments):
    given = {"inputs": e.audio, "target": "so", "sampling_rate": 16000, "n_samples": 4, **arguments}
    return SpeechToTextAttribution(method(e.model)).attribute(**given)


def change(**values):
    return replace(make(), **values)


def evaluation(e, **arguments):
    given = {"corpus": load_corpus(e.folder), "methods": {"random": METHODS["random"]}, "folder": e.folder / "out"}
    return Evaluation(e.model, **{**given, **arguments})


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def sound(e, samples, rate=16000):
    soundfile.write(e.folder / "x.wav", samples, rate, subtype="FLOAT")
    return e.folder / "x.wav"


LOG_PROBS = torch.randn(1, 3, 5).log_softmax(-1)
SEGMENTS = [Segment("so", 0.5, 0.6), Segment("what", 0.1, 0.2)]

# name, what is given, what the message must say
BAD = [
    # SPES
    ("SPES: n_samples of 0", lambda e: spes(n_samples=0), "n_samples must be an integer of at least 1"),
    ("SPES: n_samples of 2.5", lambda e: spes(n_samples=2.5), "n_samples must be an integer of at least 1"),
    ("SPES: n_samples as text", lambda e: spes(n_samples="many"), "n_samples must be an integer of at least 1"),
    ("SPES: no batch", lambda e: spes(perturbations_per_eval=0), "perturbations_per_eval must be an integer of at"),
    ("SPES: probability 1", lambda e: spes(perturbation_prob=1), "perturbation_prob must lie strictly between 0 and 1"),
    ("SPES: probability NaN", lambda e: spes(perturbation_prob=float("nan")), "perturbation_prob must lie strictly"),
    ("SPES: probability as text", lambda e: spes(perturbation_prob="half"), "perturbation_prob must lie strictly"),
    ("SPES: two probabilities", lambda e: spes(perturbation_prob=(0.5, 0.4)), "has 2 values for 1 inputs"),
    ("SPES: seed below 0", lambda e: spes(seed=-1), "seed must be an integer of at least 0"),
    ("SPES: seed as text", lambda e: spes(seed="x"), "seed must be an integer of at least 0"),
    ("SPES: mask of another size", lambda e: spes(feature_mask=MASK[:, :3]), "does not fit the input of shape"),
    ("SPES: mask of floats", lambda e: spes(feature_mask=MASK.float()), "must hold integer feature ids"),
    ("SPES: mask as array", lambda e: spes(feature_mask=MASK.numpy()), "must be an integer tensor, not ndarray"),
    ("SPES: two masks", lambda e: spes(feature_mask=(MASK, MASK)), "feature_mask has 2 masks for 1 inputs"),
    ("SPES: no examples", lambda e: spes(inputs=X[:0]), "holds no examples: dimension 0 is the batch"),
    ("SPES: array as input", lambda e: spes(inputs=X.numpy()), "must be"),
    ("SPES: baseline of another size", lambda e: spes(baselines=X[:, :3]), "does not broadcast to the input"),
    ("SPES: two baselines", lambda e: spes(baselines=(0, 1)), "for 1 inputs: give one for each"),
    ("SPES: input with NaN", lambda e: spes(inputs=NAN), "the scores of the unperturbed inputs are not finite"),
    ("SPES: scores that are text", lambda e: SPES(lambda x: "good").attribute(X), "must return a tensor of scores"),
    (
        "SPES: one score for all",
        lambda e: SPES(lambda x: x.sum()).attribute(X, perturbations_per_eval=4),
        "it must return a row of scores for each example",
    ),
    (
        "SPES: fewer samples than granularities",
        lambda e: spes(feature_mask=torch.stack((MASK, MASK)), n_samples=1),
        "n_samples must be an integer of at least 2, one perturbation for each granularity",
    ),
    # GradientSPES and BubbleNoise
    ("GradientSPES: integers", lambda e: gradient(inputs=X.long()), "must be floating point"),
    (
        "GradientSPES: no gradient",
        lambda e: GradientSPES(lambda x: x.detach().sum((1, 2))).attribute(X),
        "do not depend on the inputs in a differentiable way",
    ),
    ("GradientSPES: n_samples of 0", lambda e: gradient(n_samples=0), "n_samples must be an integer of at least 1"),
    ("BubbleNoise: two inputs", lambda e: bubbles(inputs=(X, X)), "perturbs one spectrogram, not a tuple of 2"),
    ("BubbleNoise: two dimensions", lambda e: bubbles(inputs=X[0]), "of shape (batch, frames, channels)"),
    ("BubbleNoise: integers", lambda e: bubbles(inputs=X.long()), "must be floating point"),
    ("BubbleNoise: NaN", lambda e: bubbles(inputs=NAN), "not finite"),
    ("BubbleNoise: no bubbles", lambda e: bubbles(bubbles_per_second=0), "must be a positive number"),
    ("BubbleNoise: n_samples of 0", lambda e: bubbles(n_samples=0), "must be an integer of at least 1"),
    # feature masks
    ("grid: two dimensions", lambda e: grid_feature_mask(X[0], (2, 2)), "must be of shape (batch, frames, mel"),
    ("grid: size 0", lambda e: grid_feature_mask(X, (0, 2)), "patch_size must be two positive integers"),
    ("grid: half a bin", lambda e: grid_feature_mask(X, (0.5, 2)), "patch_size must be two positive integers"),
    ("grid: one number", lambda e: grid_feature_mask(X, 2), "patch_size must be two positive integers"),
    ("slic: NaN", lambda e: slic_feature_mask(NAN), "holds NaN or infinite values"),
    ("slic: no patches", lambda e: slic_feature_mask(X, 0), "patches_per_second must be positive numbers"),
    ("slic: empty list", lambda e: slic_feature_mask(X, ()), "patches_per_second must be positive numbers"),
    ("slic: NaN patches", lambda e: slic_feature_mask(X, float("nan")), "patches_per_second must be positive numbers"),
    ("slic: text", lambda e: slic_feature_mask(X, "many"), "patches_per_second must be positive numbers"),
    ("slic: sigma below 0", lambda e: slic_feature_mask(X, sigma=-1), "sigma not negative"),
    ("slic: array", lambda e: slic_feature_mask(X.numpy()), "must be a tensor"),
    # forward functions
    (
        "KLDivergence: reference of another vocabulary",
        lambda e: KLDivergence(lambda x: LOG_PROBS, LOG_PROBS[..., :4])(X),
        "the reference has shape",
    ),
    (
        "KLDivergence: reference of another batch",
        lambda e: KLDivergence(lambda x: LOG_PROBS, LOG_PROBS.expand(2, -1, -1))(X),
        "the reference has 2 rows for a batch of 1",
    ),
    (
        "TokenProbability: id beyond the vocabulary",
        lambda e: TokenProbability(lambda x: LOG_PROBS, torch.tensor([[1, 2, 5]]))(X),
        "expected one id below 5 for each prediction",
    ),
    (
        "ContrastiveProbability: the same word",
        lambda e: ContrastiveProbability(lambda x: LOG_PROBS, [1], [1]),
        "are the same word",
    ),
    (
        "ContrastiveProbability: no tokens",
        lambda e: ContrastiveProbability(lambda x: LOG_PROBS, [], [1]),
        "expected the integer ids of a word's tokens",
    ),
    # SpeechToTextAttribution and Contrast
    (
        "wrapper: no method",
        lambda e: SpeechToTextAttribution(e.model),
        "give a perturbation or gradient method of captum.attr",
    ),
    ("wrapper: method of no model", lambda e: SpeechToTextAttribution(SPES(score)), "speech-to-text model"),
    (
        "wrapper: gradient of a KL",
        lambda e: SpeechToTextAttribution(Saliency(e.model), KLDivergence),
        "gradient",
    ),
    ("explain: no rate", lambda e: explain(e, sampling_rate=None), "an array of samples needs its sampling_rate"),
    ("explain: rate as text", lambda e: explain(e, sampling_rate="16k"), "needs its sampling_rate, a positive number"),
    ("explain: too long", lambda e: explain(e, inputs=np.tile(e.audio, 3)), "longer than the 1 s window"),
    ("explain: empty target", lambda e: explain(e, target=" "), "the target text is empty"),
    ("explain: ids beyond the vocabulary", lambda e: explain(e, target=[10**6]), "target ids must be integers from 0"),
    ("explain: no ids", lambda e: explain(e, target=[]), "target ids must be integers from 0"),
    ("explain: ids that are halves", lambda e: explain(e, target=[0.5]), "target ids must be integers from 0"),
    ("explain: target of bytes", lambda e: explain(e, target=b"so"), "must be a text or token ids"),
    ("explain: context in seconds", lambda e: explain(e, context=4.0), "context must be one of full, frozen, auto"),
    ("explain: context of no kind", lambda e: explain(e, context="soon"), "context must be one of full, frozen"),
    ("explain: dtype of integers", lambda e: explain(e, dtype=torch.int8), "dtype must be a floating-point"),
    ("explain: mask of another size", lambda e: explain(e, feature_mask=MASK), "does not fit the input of shape"),
    ("explain: unknown argument", lambda e: explain(e, n_sample=3), "n_sample"),
    (
        "explain: samples for a method without any",
        lambda e: explain(e, Saliency),
        "n_samples",
    ),
    ("explain: joint gradient", lambda e: explain(e, IntegratedGradients, n_samples=None, joint=True), "joint"),
    ("contrast: word not there", lambda e: explain(e, contrast=Contrast("when", "so")), "is not in the text"),
    ("contrast: number not there", lambda e: explain(e, contrast=Contrast(7, "was")), "the word 7 is not in the text"),
    ("contrast: foil is the word", lambda e: explain(e, contrast=Contrast("so", " so ")), "is the same word or blank"),
    (
        "contrast: of the sentence",
        lambda e: explain(e, contrast=Contrast("so", "was"), sentence=True),
        "give one of them",
    ),
    # explanations
    ("explanation: no tokens", lambda e: change(tokens=[]), "tokens is empty"),
    ("explanation: one text for tokens", lambda e: change(tokens="so w"), "tokens must be a list of texts"),
    ("explanation: maps of another size", lambda e: change(spectrogram=torch.rand(3, 8)), "must be of shape"),
    ("explanation: maps with NaN", lambda e: change(spectrogram_attr=torch.full((4, 30, 8), torch.nan)), "holds NaN"),
    ("explanation: no rate", lambda e: change(frames_per_second=0), "frames_per_second must be a positive number"),
    ("explanation: frequencies fall", lambda e: change(mel_frequencies=torch.arange(8.0).flip(0)), "must be ascending"),
    ("explanation: array", lambda e: change(spectrogram=np.zeros((30, 8))), "must be a tensor, not ndarray"),
    ("explanation: token not there", lambda e: make().index("when"), "none is 'when': give one of"),
    ("explanation: words of words", lambda e: make().words().words(), "are words already"),
    ("explanation: no patches", lambda e: make().plot_segmentation(), "this explanation has no patches"),
    ("explanation: metadata of tensors", lambda e: change(metadata={"x": X}).save(e.folder / "e"), "cannot be written"),
    ("explanation: no file", lambda e: SpeechToTextExplanation.load(e.folder / "e"), "does not exist: give the path"),
    ("explanation: folder", lambda e: SpeechToTextExplanation.load(e.folder), "give the path of a saved explanation"),
    # metrics
    ("wer: one text", lambda e: wer("so", ["so"]), "must be lists of texts, not single texts"),
    (
        "wer: reference without words",
        lambda e: wer(["so"], ["!"]),
        "has no words: a word error rate needs at least one",
    ),
    ("wer: fewer references", lambda e: wer(["so", "what"], ["so"]), "2 hypotheses and 1 references"),
    ("wer: normalizer", lambda e: WordErrorRate("french"), "there is no normalizer 'french'"),
    ("bleu: reference without words", lambda e: bleu(["so"], [""]), "has no words: BLEU needs at least one"),
    ("size: of no explanation", lambda e: size([]), "there is no explanation"),
    ("size: inputs", lambda e: size(make(), inputs="words"), "inputs must be 'spectrogram' or 'tokens'"),
    ("size: falling thresholds", lambda e: size(make(), thresholds=(1, 0)), "must be ascending numbers from 0 to 1"),
    ("deletion: of another model", lambda e: deletion(e.model, e.other), "not of the given model"),
    ("deletion: not made here", lambda e: deletion(e.model, make()), "metadata has no"),
    ("insertion: score", lambda e: insertion(e.model, e.explanation, score="cer"), "there is no score 'cer'"),
    (
        "deletion: steps",
        lambda e: deletion(e.model, e.explanation, percentages=(0, 200)),
        "ascending numbers from 0 to",
    ),
    ("deletion: maps", lambda e: deletion(e.model, e.explanation, maps="best"), "maps must be tensors or 'random'"),
    (
        "infidelity: no samples",
        lambda e: infidelity(e.model, e.explanation, n_perturb_samples=0),
        "must be an integer of at",
    ),
    (
        "sensitivity: no samples",
        lambda e: sensitivity_max(e.attribution, *e.prepared, n_perturb_samples=0),
        "must be an integer of at",
    ),
    ("flip rate: no contrast", lambda e: flip_rate(e.model, e.explanation), "is not a contrast: make it with"),
    (
        "flip rate: percentages",
        lambda e: flip_rate(e.model, e.explanation, percentages=5),
        "percentages must be numbers from 0 to 100, at least one, not 5",
    ),
    ("kurtosis: no count", lambda e: token_kurtosis(make(), min_count=0), "min_count must be an integer of at least 1"),
    ("context: of no explanation", lambda e: context_share([]), "there is no explanation"),
    ("order: threshold", lambda e: monotonicity(make(), threshold=2), "threshold must"),
    ("time: fewer alignments", lambda e: time_localization([make()], []), "alignments for 1 explanations"),
    ("frequency: level", lambda e: frequency_profile([make()], [None], "so", level="letter"), "level must be"),
    # alignments
    ("alignment: out of order", lambda e: Alignment(SEGMENTS), "is out of order"),
    ("alignment: endless", lambda e: Alignment([Segment("so", 0, float("inf"))]), "must end before"),
    ("alignment: no file", lambda e: Alignment.load(e.folder / "a.json"), "does not exist: give the path"),
    ("alignment: text", lambda e: Alignment.load(write(e.folder / "a.json", "no")), "is not a readable alignment"),
    (
        "alignment: no words",
        lambda e: Alignment.load(write(e.folder / "a.json", "{}")),
        "is not a readable alignment",
    ),
    (
        "alignment: times as text",
        lambda e: Alignment.load(write(e.folder / "a.json", '{"w": [{"t": "so", "b": "0", "d": "1"}]}')),
        "a segment has the text 'so' and the times '0' and '1'",
    ),
    ("alignment: suffix", lambda e: Alignment([]).save(e.folder / "a.txt"), "must end with .TextGrid or .json"),
    # audio
    ("audio: no file", lambda e: load_audio(e.folder / "none.wav", 16000), "does not exist: give the path of an audio"),
    ("audio: NaN", lambda e: load_audio(sound(e, np.full(9600, np.nan)), 16000), "holds NaN or infinite samples"),
    ("audio: silence", lambda e: load_audio(sound(e, np.zeros(9600)), 16000), "there is no speech to explain"),
    ("audio: 1 Hz", lambda e: load_audio(sound(e, e.audio, 1), 16000), "has a sampling rate of 1 Hz: it must be from"),
    ("audio: loud", lambda e: load_audio(sound(e, e.audio * 1e12), 16000), "samples lie between -1 and 1"),
    ("audio: ragged", lambda e: load_audio([[0.1], [0.1, 0.2]], 16000, 16000), "is not an array of samples"),
    # models
    ("model: not there", lambda e: load_model("no/such-model", device="cpu"), "cannot be loaded: give the id of"),
    ("model: empty folder", lambda e: load_model(e.folder, device="cpu"), "cannot be loaded: give the id of"),
    ("model: device", lambda e: load_model("whisper-tiny.en", device="quantum"), "'quantum' cannot be used here"),
    ("model: no processor", lambda e: load_model(e.whisper), "a model in memory needs its processor"),
    ("model: name and processor", lambda e: load_model("whisper-tiny.en", "tiny"), "has its own processor"),
    ("model: processor as text", lambda e: load_model(e.whisper, "tiny"), "needs its processor, or its feature"),
    ("model: no speech model", lambda e: load_model(torch.nn.Linear(1, 1), 1), "are not supported: the supported"),
    ("model: None", lambda e: load_model(None), "are not supported"),
    ("model: language", lambda e: load_model(e.whisper, e.processor, language="xx"), "is an English-only model"),
    ("model: task", lambda e: load_model(e.whisper, e.processor, task="sing"), "task"),
    # corpora, evaluations, analyses
    ("corpus: not there", lambda e: load_corpus(e.folder / "none"), "does not exist: give a .csv or .jsonl manifest"),
    (
        "corpus: outside",
        lambda e: load_corpus(write(e.folder / "l.csv", "file_name\n/etc/passwd\n")),
        "line 2: /etc/passwd is outside the manifest's folder",
    ),
    ("evaluation: no method", lambda e: evaluation(e, methods={}), "there is nothing to evaluate"),
    ("evaluation: metric", lambda e: evaluation(e, metrics=["beauty"]), "there is no metric 'beauty'"),
    ("evaluation: preset", lambda e: evaluation(e, preset="slow"), "preset must be one of instant, fast, paper"),
    ("evaluation: seed", lambda e: evaluation(e, seed=1.5), "seed must be an integer of at least 0"),
    ("evaluation: folder", lambda e: evaluation(e, folder=e.folder), "is not empty and does not hold an evaluation"),
    ("evaluation: no results", lambda e: evaluation(e).results(), "there are no results"),
    ("evaluation: reference", lambda e: evaluation(e).results(reference="truth"), "reference must be one of"),
    ("method: not there", lambda e: find_method("magic"), "there is no method 'magic': give one of spes,"),
    ("comparison: not there", lambda e: Comparison(e.model, *e.prepared).run("magic"), "there is no method 'magic'"),
    ("analysis: no folder", lambda e: analyze(e.folder / "none"), "is not a folder: give one with explanations"),
    ("analysis: no explanations", lambda e: analyze(e.folder), "holds no explanations"),
]


@pytest.fixture
def e(tiny_model, tiny_whisper, tiny_processor, audio, tmp_path):
    """The objects to which the bad inputs are passed."""
    soundfile.write(tmp_path / "a.wav", audio, 16000)
    attribution = SpeechToTextAttribution(SPES(tiny_model))
    prepared = attribution.prepare(audio, "so", sampling_rate=16000)
    explanation = METHODS["energy"].explain(tiny_model, *prepared, "fast")
    return SimpleNamespace(
        model=tiny_model,
        whisper=tiny_whisper,
        processor=tiny_processor,
        audio=audio,
        folder=tmp_path,
        attribution=attribution,
        prepared=prepared,
        explanation=explanation,
        other=replace(explanation, metadata={**explanation.metadata, "model": "another"}),
    )


@pytest.mark.parametrize(("call", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input(call, words, e):
    with pytest.raises((ValueError, TypeError, AssertionError)) as caught:
        call(e)
    assert words in str(caught.value)


# arguments of the command line, and what it must say; recording.wav and the folder speech, with a manifest, are there
COMMANDS = [
    (["magic"], "No such command"),
    (["explain", "none.wav"], "none.wav does not exist: give the path of an audio file."),
    (["explain", "speech"], "speech is a folder: give the path of an audio file."),
    (["explain", "--method", "magic"], "there is no method 'magic': give one of spes,"),
    (["explain", "--method", "energy", "--n-samples", "9"], "energy takes no samples: leave out --n-samples."),
    (["explain", "--n-samples", "0"], "Invalid value for '--n-samples'"),
    (["explain", "--n-samples", "many"], "Invalid value for '--n-samples'"),
    (["explain", "--preset", "slow"], "Invalid value for '--preset'"),
    (["explain", "--word", "so"], "--word and --foil belong together: give both, or none."),
    (["explain", "--context", "soon"], "Invalid value for '--context'"),
    (["explain", "--num-beams", "0"], "Invalid value for '--num-beams'"),
    (["explain", "--batch-size", "-1"], "Invalid value for '--batch-size'"),
    (["explain", "--seed", "-1"], "Invalid value for '--seed'"),
    (["explain", "--model"], "requires an argument"),
    (["explain", "recording.wav", "recording.wav"], "unexpected extra argument"),
    (["compare", "--methods", ","], "--methods is empty: give at least one name."),
    (["compare", "--methods", "spes;lime"], "there is no method 'spes;lime'"),
    (["evaluate"], "Missing argument"),
    (["evaluate", "none"], "none does not exist: give a .csv or .jsonl manifest, or a folder of audio files."),
    (["evaluate", "recording.wav"], "is neither a folder nor a manifest"),
    (["evaluate", "speech"], "is outside the manifest's folder"),
    (["evaluate", "speech", "--score", "cer"], "Invalid value for '--score'"),
    (["evaluate", "speech", "--normalizer", "french"], "Invalid value for '--normalizer'"),
    (["evaluate", "speech", "--allow-outside", "--metrics", "beauty"], "there is no metric 'beauty'"),
    (["evaluate", "speech", "--allow-outside", "--step", "0"], "--step and --until must be percentages"),
    (["evaluate", "speech", "--allow-outside", "--step", "nan"], "--step and --until must be percentages"),
    (["evaluate", "speech", "--allow-outside", "--until", "500"], "--step and --until must be percentages"),
    (["evaluate", "speech", "--allow-outside", "-o", "recording.wav"], "cannot be written to"),
    (["evaluate", "speech", "--reference", "truth"], "Invalid value for '--reference'"),
    (["analyze", "none"], "none is not a folder: give one with explanations"),
    (["analyze", "speech"], "speech holds no explanations (.safetensors)"),
    (["analyze", "speech", "-o", "s3://bucket"], "the output folder s3:/bucket is a URL: give a path"),
    (["analyze", "speech", "-o", "recording.wav"], "cannot be written to: recording.wav is a file"),
    (["analyze", "speech", "--min-count", "0"], "Invalid value for '--min-count'"),
    (["analyze", "speech", "--words", ""], "--words is empty: give at least one name."),
    (["analyze", "speech", "--corpus", "none"], "none does not exist: give a .csv or .jsonl manifest"),
]


@pytest.mark.parametrize(("arguments", "words"), COMMANDS, ids=[" ".join(case[0]) for case in COMMANDS])
def test_bad_arguments(arguments, words, audio, tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    soundfile.write("recording.wav", audio, 16000)
    Path("speech").mkdir()
    Path("speech", "metadata.csv").write_text("file_name\n../recording.wav\n")
    for module in ("explain", "compare", "evaluate"):
        monkeypatch.setattr(f"captum_spes.cli.{module}.load_model", lambda *args, **kwargs: tiny_model)
    monkeypatch.setattr(sys, "argv", ["captum-spes", *arguments])
    monkeypatch.setattr("warnings.showwarning", None)
    with pytest.raises(SystemExit) as caught:
        main()
    err = capsys.readouterr().err
    assert caught.value.code == 2
    said = " ".join(err.replace("│", " ").split())  # without a terminal's box around typer's messages
    assert words in said and "Traceback" not in err
    if "Error: " in err:
        assert len([line for line in err.splitlines() if line.startswith("Error: ")]) == 1


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"word_times": [("so", 0, 0.2)]}, "word_times must be a list of Segment"),
        ({"word_times": 3}, "word_times must be a list of Segment"),
        ({"word_times": [Segment("so", 0.3, 0.1)]}, "word_times has 'so' from 0.3 to 0.1 s: a word must not begin"),
        ({"word_times": [Segment("so", -1.0, 0.1)]}, "word_times has 'so' from -1.0 to 0.1 s"),
        ({"word_times": [Segment("so", 0.4, math.inf)]}, "word_times has 'so' from 0.4 to inf s"),
        ({"word_times": [Segment("so", "0", "1")]}, "word_times has 'so' from 0 to 1 s: a word must not begin"),
        ({"word_times": [Segment("so", math.nan, 0.1)]}, "word_times has 'so' from nan to 0.1 s"),
        ({"word_times": [Segment("so", 100, 101)]}, "from 100 s on, and the utterance lasts 0.6 s: give the times of"),
        ({"min_reliability": 1.5}, "min_reliability must lie strictly between 0 and 1"),
        ({"baselines": torch.zeros(7)}, r"baselines of shape \(7,\) do not broadcast to the spectrogram of shape"),
        ({"baselines": math.nan}, "baselines hold infinities or NaN"),
        ({"baselines": torch.zeros(1, 59, 16)}, "do not broadcast to the spectrogram"),
    ],
)
def test_arguments_are_refused_before_the_run(tiny_model, audio, arguments, words):
    def callback(stage, done, total):
        raise AssertionError("something was computed")

    with pytest.raises(ValueError, match=words):
        SpeechToTextAttribution(SPES(tiny_model)).attribute(
            audio, "so what", sampling_rate=16000, n_samples=6, callback=callback, **arguments
        )


def test_a_checkpoint_is_a_folder(tiny_model, audio, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file: give a folder"):
        SpeechToTextAttribution(SPES(tiny_model)).attribute(
            audio, "so what", sampling_rate=16000, n_samples=6, checkpoint=tmp_path / "file"
        )
