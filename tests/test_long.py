"""Recordings that are longer than the model's window: cuts, explanations of parts, and files."""

import json
import shutil
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from captum.attr import IntegratedGradients
from test_evaluation import write_words
from test_explanation import make
from test_report import content, embedded, write

from captum_spes import SPES, GradientSPES, LongExplanation, SpeechToTextAttribution
from captum_spes.alignment import Alignment, Segment, match_words
from captum_spes.attr import Energy
from captum_spes.audio import load_audio, read_recording, split_at_pauses
from captum_spes.explanation.long import peak_times
from captum_spes.metrics import deletion
from captum_spes.visualization import TranscriptLine, plot_transcript

pytestmark = pytest.mark.filterwarnings("ignore:the maps")

RATE = 16000
WRITES = {"min_new_tokens": 2}  # for else the tiny model leaves some parts without words


@pytest.fixture(scope="module")
def speech():
    """2 s of synthesised speech."""
    import captum_spes

    return load_audio(Path(captum_spes.__file__).parent / "data" / "so_what_was_the_next_step.wav", RATE)


def silence(seconds):
    return np.random.default_rng(0).normal(0, 1e-4, int(seconds * RATE)).astype(np.float32)


# Cutting


def test_parts_begin_and_end_in_pauses(speech):
    sentences = [(speech, silence(0.5 + 0.1 * (number % 3))) for number in range(8)]
    samples = np.concatenate([piece for pair in sentences for piece in pair])
    ends = np.cumsum([len(piece) for pair in sentences for piece in pair])
    pauses = list(zip(ends[::2], ends[1::2]))
    parts = split_at_pauses(samples, RATE, max_seconds=7)
    assert parts[0][0] == 0 and parts[-1][1] == len(samples)
    assert all(end - begin <= 7 * RATE for begin, end in parts)
    for (_, end), (begin, _) in pairwise(parts):
        assert end == begin  # nothing is lost, nothing doubled
        assert any(first < end < last for first, last in pauses)


@pytest.mark.parametrize("rate", [11025, 22050, 44100])
def test_cuts_do_not_drift_at_other_rates(speech, rate):
    """A frame of 10 ms is no whole number of samples at 22.05 kHz."""
    soxr = pytest.importorskip("soxr")
    period = len(speech) / RATE + 0.6
    samples = np.tile(np.concatenate((speech, silence(0.6))), 120)
    parts = split_at_pauses(soxr.resample(samples, RATE, rate), rate, max_seconds=8)
    assert len(parts) > 30
    for begin, _ in parts[1:]:
        assert begin / rate % period > len(speech) / RATE


@pytest.mark.parametrize("seconds, max_seconds", [(2.51, 1.0), (70, 30), (30.001, 30), (61.7, 10.3)])
def test_without_pauses_nothing_is_lost(seconds, max_seconds):
    samples = np.random.default_rng(1).normal(0, 0.2, int(seconds * RATE)).astype(np.float32)
    parts = split_at_pauses(samples, RATE, max_seconds)
    assert [part[0] for part in parts] == [0, *(end for _, end in parts[:-1])] and parts[-1][1] == len(samples)
    lengths = [end - begin for begin, end in parts]
    assert max(lengths) <= max_seconds * RATE and min(lengths) >= 0.24 * max_seconds * RATE


def test_parts_without_speech_are_left_out(speech):
    samples = np.concatenate((speech, silence(30), speech))
    parts = split_at_pauses(samples, RATE, max_seconds=5)
    assert parts[0][0] == 0 and parts[-1][1] == len(samples)
    assert sum(end - begin for begin, end in parts) < 12 * RATE
    assert parts[0][1] > len(speech) and parts[-1][0] < len(samples) - len(speech)


def test_short_audio_is_one_part(speech):
    assert split_at_pauses(speech, RATE, 30) == [(0, len(speech))]
    with pytest.raises(ValueError, match="max_seconds must be at least 1"):
        split_at_pauses(speech, RATE, 0.5)


# Explaining. The tiny model hears 1 s at once.


@pytest.fixture
def long_audio(speech):
    return np.concatenate((speech, silence(0.4), speech))[: int(3.3 * RATE)]


@pytest.fixture
def attribution(tiny_whisper, tiny_processor):
    from captum_spes.models import load_model

    write_words(tiny_whisper, tiny_processor)
    return SpeechToTextAttribution(SPES(load_model(tiny_whisper, tiny_processor)))


def explain(attribution, long_audio, folder, **arguments):
    given = {"n_samples": 9, "n_token_samples": 4, "seed": 2, "gen_args": WRITES, **arguments}
    return attribution.attribute_long(long_audio, folder, sampling_rate=RATE, **given)


def test_parts_are_explained_as_they_are_alone(attribution, long_audio, tmp_path):
    long = explain(attribution, long_audio, tmp_path / "long")
    assert not long.missing and len(long) == len(long.parts) >= 4
    assert long.duration == pytest.approx(3.3) and long.parts[-1].stop == pytest.approx(3.3)
    for part, found in zip(long.parts, long):
        samples = long_audio[round(part.start * RATE) : round(part.stop * RATE)]
        alone = attribution.attribute(
            samples, sampling_rate=RATE, n_samples=9, n_token_samples=4, seed=2, gen_args=WRITES
        )
        assert torch.equal(found.spectrogram_attr, alone.spectrogram_attr)
        assert torch.equal(found.token_attr, alone.token_attr) and found.tokens == alone.tokens == part.tokens
        assert found.metadata["start_seconds"] == part.start
        times = [word.time - part.start for word in part.words]
        assert times == pytest.approx([word.time for word in peak_times(alone)])
        assert all(0 <= time <= part.stop - part.start for time in times)
    assert long.text == " ".join(found.text for found in long)
    assert long.tokens == [token for found in long for token in found.tokens]
    assert [word.text for word in long.words] == [w for found in long for w in found.words().tokens if "<|" not in w]


def test_reading(attribution, long_audio, tmp_path):
    explain(attribution, long_audio, tmp_path / "long")
    long = LongExplanation.load(tmp_path / "long")
    first = len(long[0].tokens)
    part, explanation = long.at(first + 1)
    assert part == long.parts[1] and explanation.tokens == [long.tokens[first + 1]]
    assert torch.equal(explanation.spectrogram_attr[0], long[1].spectrogram_attr[1])
    assert torch.equal(long.at(-1)[1].spectrogram_attr[0], long[-1].spectrogram_attr[-1])
    with pytest.raises(ValueError, match="there is no token 999"):
        long.at(999)
    assert [each.text for each in long[:2]] == [part.text for part in long.parts[:2]]
    assert repr(long).endswith(f"{len(long.parts)} of {len(long.parts)} parts>")
    figure = long.plot()
    assert len(figure.axes) == len(long) + 1  # and the colour bar
    drawn = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert sorted(drawn) == sorted(word.text for word in long.words)
    begin = long.parts[1].start
    [ax, _] = long.plot(begin + 0.1, begin + 0.3).axes
    assert ax.images[0].get_extent()[:2] == pytest.approx([begin + 0.1, begin + 0.3], abs=0.011)
    assert len(long.plot(0, begin + 0.001).axes) == 2  # the next part has no frame in it
    with pytest.raises(ValueError, match="there are no words between 90 and 95 s"):
        long.plot(90, 95)
    with pytest.raises(ValueError, match="does not exist: give the folder"):
        LongExplanation.load(tmp_path)


def test_maps_with_both_signs_have_one_zero_in_the_overview(attribution, long_audio, tmp_path):
    by_gradients = SpeechToTextAttribution(GradientSPES(attribution.model))
    long = explain(by_gradients, long_audio, tmp_path / "long", n_samples=3)
    assert all(found.spectrogram_attr.min() < 0 for found in long)
    figure = long.plot()
    assert "positive = hiding it weakens" in figure.axes[-1].get_xlabel()
    assert figure.axes[-1].get_xlim() == pytest.approx((-1, 1))
    assert len(explain(attribution, long_audio, tmp_path / "other")) == len(long)
    other = LongExplanation.load(tmp_path / "other").plot()
    assert "larger = hiding it changes" in other.axes[-1].get_xlabel()


def test_parts_find_their_sound_in_the_recording(attribution, long_audio, tmp_path):
    rate = 2 * RATE  # the recording's own, not the model's
    path, moved = tmp_path / "talk.wav", tmp_path / "moved.wav"
    soundfile.write(path, long_audio.repeat(2), rate, subtype="PCM_16")
    samples, _ = soundfile.read(path)
    long = attribution.attribute_long(path, tmp_path / "long", n_samples=9, n_token_samples=4, gen_args=WRITES)
    for part, explanation in zip(long.parts, long):
        assert (explanation.metadata["start_seconds"], explanation.metadata["stop_seconds"]) == (part.start, part.stop)
        own = samples[round(part.start * rate) : round(part.stop * rate)].astype(np.float32)
        assert np.array_equal(embedded(write(explanation, tmp_path / "report.html"))[0], own)
        assert np.abs(explanation.to_audio(path, 0, keep=1) - own).max() < 1e-5
        alone = explanation.to_audio(own, 0, keep=0.2, sampling_rate=rate)
        assert np.array_equal(explanation.to_audio(path, 0, keep=0.2), alone)
    path.rename(moved)
    assert content(write(explanation, tmp_path / "report.html"))["audio"] is None
    assert np.array_equal(embedded(write(explanation, tmp_path / "report.html", audio=moved))[0], own)
    soundfile.write(path, long_audio, rate)
    with pytest.raises(ValueError, match="since its SHA-256 differs"):
        explanation.to_audio(path, 0, keep=0.2)


@pytest.mark.parametrize(
    "span", [(float("nan"), 1), (0, float("inf")), ("0", [1]), (-1, 0.5), (2, 1), (1e300, 1e301), (None, None)]
)
def test_spans_that_cannot_be_are_refused(span, tmp_path):
    """Explanations are not trusted."""
    path = tmp_path / "talk.wav"
    soundfile.write(path, np.sin(np.arange(RATE)), RATE)
    metadata = {**read_recording(path).source, **dict(zip(("start_seconds", "stop_seconds"), span))}
    explanation = replace(make(), metadata=metadata)
    with pytest.raises(
        ValueError, match=r"s and the explained utterance 0\.30 s: give the recording that was explained"
    ):
        explanation.to_audio(path, 0, keep=0.2)
    with pytest.raises(ValueError, match="give the recording that was explained"):
        explanation.to_html(tmp_path / "report.html")


def test_metrics_pool_the_parts(attribution, long_audio, tmp_path):
    long = explain(attribution, long_audio, tmp_path / "long")
    curve = deletion(attribution.model, long, percentages=(0, 50, 100))
    listed = deletion(attribution.model, list(long), percentages=(0, 50, 100))
    assert curve.texts == listed.texts and curve.references == [part.text for part in long.parts]


def test_a_stopped_run_goes_on(attribution, long_audio, tmp_path, monkeypatch):
    whole = explain(attribution, long_audio, tmp_path / "whole")
    calls = []
    attribute = attribution.attribute

    def count(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return attribute(*args, **kwargs)

    monkeypatch.setattr(attribution, "attribute", count)
    with pytest.raises(KeyboardInterrupt):
        explain(attribution, long_audio, tmp_path / "long")
    assert LongExplanation.load(tmp_path / "long").missing == list(range(2, len(whole.parts)))
    # other batches change no more than rounding
    again = explain(attribution, long_audio, tmp_path / "long", perturbations_per_eval=16)
    assert len(calls) == 1 + len(whole.parts) and not again.missing
    files = [sorted(each.folder.rglob("*.*")) for each in (again, whole)]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    explain(attribution, long_audio, tmp_path / "long")
    assert len(calls) == 1 + len(whole.parts)


@pytest.mark.parametrize("method", [SPES, IntegratedGradients])
@pytest.mark.parametrize("at", [1, 9])  # the ninth sample of SPES is its last
def test_a_callback_ends_the_run(attribution, long_audio, tmp_path, method, at):
    """Also that of a method without partial results."""
    told = []

    def callback(stage, done, total):
        told.append(stage == "spectrogram" and done >= at)
        return told[-1]

    samples = {"n_samples": 9, "n_token_samples": 4} if method is SPES else {"n_steps": 12}
    long = SpeechToTextAttribution(method(attribution.model)).attribute_long(
        long_audio, tmp_path / "long", sampling_rate=RATE, perturbations_per_eval=2, gen_args=WRITES,
        callback=callback, **samples,
    )  # fmt: skip
    assert not len(long) and len(long.missing) == len(long.parts) and sum(told) == 1


def test_a_longer_part_than_the_window_is_refused_at_the_beginning(attribution, long_audio, tmp_path):
    with pytest.raises(ValueError, match=r"at most 1 s at once: max_seconds must not be 1\.3"):
        explain(attribution, long_audio, tmp_path / "long", max_seconds=1.3)
    assert not (tmp_path / "long").exists()


def test_other_arguments_are_refused(attribution, long_audio, tmp_path):
    explain(attribution, long_audio, tmp_path / "long")
    before = (tmp_path / "long" / "parts.json").read_bytes()
    with pytest.raises(ValueError, match="arguments.seed was 2 and is 3 now"):
        explain(attribution, long_audio, tmp_path / "long", seed=3)
    with pytest.raises(ValueError, match="audio_sha256 was"):
        explain(attribution, long_audio[: 3 * RATE], tmp_path / "long")
    with pytest.raises(ValueError, match="leave out target"):
        explain(attribution, long_audio, tmp_path / "long", target="so")
    assert (tmp_path / "long" / "parts.json").read_bytes() == before
    content = json.loads(before)
    for damage in ({**content, "version": 99}, {"version": 1}, []):
        (tmp_path / "long" / "parts.json").write_text(json.dumps(damage))
        with pytest.raises(ValueError, match="is damaged"):
            LongExplanation.load(tmp_path / "long")


def test_another_method_of_the_same_class_is_refused(attribution, long_audio, tmp_path):
    def run(**made):
        method = SpeechToTextAttribution(IntegratedGradients(attribution.model, **made))
        method.attribute_long(long_audio, tmp_path / "long", sampling_rate=RATE, n_steps=2, gen_args=WRITES)

    run()
    with pytest.raises(ValueError, match="method_settings was None and is .*multiply_by_inputs': False"):
        run(multiply_by_inputs=False)


def test_other_baselines_and_masks_are_refused(attribution, long_audio, tmp_path):
    """Also those of the same shape."""
    baselines, mask = torch.zeros(16), torch.arange(16).expand(1, 1, 16)
    given = {"baselines": baselines, "feature_mask": partial(columns, n_columns=4)}
    explain(attribution, long_audio, tmp_path / "long", **given)
    explain(attribution, long_audio, tmp_path / "long", **given | {"baselines": baselines.clone()})
    with pytest.raises(ValueError, match=r"otherwise: arguments.baselines was float32 \(16,\) \w+ and is float32"):
        explain(attribution, long_audio, tmp_path / "long", **given | {"baselines": baselines + 1})
    with pytest.raises(ValueError, match=r"otherwise: arguments.feature_mask.keywords.n_columns was 4 and is 8 now"):
        explain(attribution, long_audio, tmp_path / "long", **given | {"feature_mask": partial(columns, n_columns=8)})
    with pytest.raises(ValueError, match=r"arguments.feature_mask.* and is int64 \(1, 1, 16\)"):
        explain(attribution, long_audio, tmp_path / "long", **given | {"feature_mask": mask})


def columns(spectrogram, n_columns):
    ids = torch.arange(spectrogram.shape[2]) * n_columns // spectrogram.shape[2]
    return ids.expand(1, spectrogram.shape[1], -1)


@pytest.mark.slow
def test_python_and_the_command_line_resume_each_other(run, tiny_folder, long_audio, tmp_path, monkeypatch):
    from captum_spes.models import load_model

    monkeypatch.setattr("captum_spes.cli.explain.write_explanation", lambda *_: [])  # the figures take long
    monkeypatch.setattr("captum_spes.cli.explain.draw_overview", lambda *_: [])
    soundfile.write(tmp_path / "talk.wav", long_audio, RATE)
    command = ["explain", "talk.wav", "--model", tiny_folder, "--method", "spes", "--n-samples", "9", "-o", "found"]
    attribution = SpeechToTextAttribution(SPES(load_model(tiny_folder)))
    by_python = partial(attribution.attribute_long, "talk.wav", "found", n_samples=9, dtype="auto")

    def files():
        return {path: path.stat().st_mtime_ns for path in Path("found").rglob("*.safetensors")}

    code, _, err = run(*command)
    assert code == 0, err
    before = files()
    assert by_python(n_token_samples=512).text == LongExplanation.load("found").text
    assert before and files() == before
    with pytest.raises(ValueError, match="arguments.n_token_samples was 512 and is 8 now"):
        by_python(n_token_samples=8)
    shutil.rmtree("found")
    long = by_python(n_token_samples=512)
    before = files()
    code, _, err = run(*command)
    assert code == 0 and not long.missing, err
    assert files() == before


def test_parts_in_which_nothing_is_heard(attribution, long_audio, tmp_path, monkeypatch):
    generate = attribution.model.generate
    n_calls = []

    def silent_once(utterance, **gen_args):
        tokens = generate(utterance, **gen_args)
        n_calls.append(1)
        if len(n_calls) > 1:
            return tokens
        return type(tokens)(tokens.prompt, tokens.target[-1:], generated=True)

    monkeypatch.setattr(attribution.model, "generate", silent_once)
    long = explain(attribution, long_audio, tmp_path / "long")
    assert not long.missing and len(long) == len(long.parts) - 1 and not long.parts[0].text
    assert long.at(0)[0] == long.parts[1]


def test_attribute_names_the_way(attribution, long_audio):
    with pytest.raises(ValueError, match=r"longer than the 1 s window .* by SpeechToTextAttribution.attribute_long"):
        attribution.attribute(long_audio, sampling_rate=RATE)


# The picture


def test_words_without_room_are_counted():
    spectrogram = torch.rand(1500, 16, generator=torch.Generator().manual_seed(0))
    words = [(f"word{number}", 63.0) for number in range(11)] + [("aside", 70.0)]
    figure = plot_transcript([TranscriptLine(60, spectrogram, spectrogram, words)], 100, torch.linspace(40, 7700, 16))
    signed = spectrogram.clone()
    signed[0, 0] = -0.5  # a single negative value
    lines = [TranscriptLine(60, spectrogram, signed, words)]
    scale = plot_transcript(lines, 100, torch.linspace(40, 7700, 16)).axes[0].images[-1].norm
    assert scale.vmin == -scale.vmax < 0
    ax = figure.axes[0]
    texts = [text.get_text() for text in ax.texts]
    assert texts.count("and 3 more") == 1 and "aside" in texts and len(texts) == 8 + 1 + 1
    assert min(ax.get_xticks()) >= 60 and max(ax.get_xticks()) <= 75  # of the line, and not beyond it


# The command line


@pytest.mark.long
def test_explain_a_long_recording(run, tiny_folder, long_audio, tmp_path):
    soundfile.write(tmp_path / "talk.wav", long_audio, RATE)
    command = ["explain", "talk.wav", "--model", tiny_folder, "--n-samples", "4"]
    code, out, err = run(*command)
    assert code == 0, err
    folder = tmp_path / "spes-output" / "talk"
    long = LongExplanation.load(folder)
    assert not long.missing and long.settings["method"] == "GradientSPES"
    assert "Length:     3.3 s, in parts of at most 1 s" in out and f"Part 1 of {len(long.parts)}: 0.0 to" in out
    assert (folder / "overview.png").is_file() and f"Transcript: {long.text}" in out
    pages = [sorted(path.name for path in (folder / f"part-{n + 1:03}").iterdir()) for n in long.explained]
    assert all({"words.png", "tokens.png", "explanation.safetensors"} <= set(page) for page in pages)
    part, explanation = long.parts[1], folder / "part-002" / "explanation.safetensors"
    for page in (folder / "part-002" / "report.html", tmp_path / "again.html"):
        assert run("report", explanation, "-o", tmp_path / "again.html")[0] == 0
        sound = embedded(page.read_text(encoding="utf-8"))[0]
        assert np.abs(sound - long_audio[round(part.start * RATE) : round(part.stop * RATE)]).max() < 1e-3
    assert run("listen", explanation, "--sentence")[0] == 0
    [kept, removed] = sorted(folder.glob("part-002/listen/*.wav"))
    assert np.abs(soundfile.read(kept)[0] + soundfile.read(removed)[0] - sound).max() < 1e-3
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    code, out, err = run(*command)
    assert code == 0 and "Part 1" not in out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == before
    code, _, err = run(*command, "--seed", "1")
    assert code == 2 and "seed was 0 and is 1 now" in err
    code, _, err = run(*command, "--target", "so")
    assert code == 2 and "longer than the 1 s that are explained at once: leave out --target" in err


# The real model


@pytest.mark.long
def test_no_text_is_lost_at_the_seams(bundled_model, speech, tmp_path):
    """Each part has one sentence, and is written as alone."""
    samples = np.concatenate([piece for _ in range(4) for piece in (silence(0.3), speech, silence(0.3))])
    attribution = SpeechToTextAttribution(Energy(bundled_model))
    long = attribution.attribute_long(samples, tmp_path, sampling_rate=RATE, max_seconds=4)
    assert long.text == " ".join(["So what was the next step?"] * 4)
    assert [word.text for word in long.words[:7]] == ["So", "what", "was", "the", "next", "step", "?"]


@pytest.mark.long
def test_words_light_up_on_the_recordings_axis(bundled_model, librivox, tmp_path):
    """Two sentences, three times: their words peak where they are spoken, which alignments of the sentences tell."""
    names = [f"sense_and_sensibility_01_austen_64kb-{number}" for number in ("0930", "0920")] * 3
    pieces = [load_audio(librivox / f"{name}.wav", RATE) for name in names]
    starts = np.cumsum([0, *(len(piece) for piece in pieces)]) / RATE
    attribution = SpeechToTextAttribution(GradientSPES(bundled_model))
    long = attribution.attribute_long(
        np.concatenate(pieces),
        tmp_path,
        sampling_rate=RATE,
        max_seconds=10,
        n_samples=12,
        n_token_samples=20,
        context="auto",
    )
    alone = [attribution.text(attribution.prepare(piece, sampling_rate=RATE)[1]) for piece in pieces[:2]]
    assert long.text.lower().split() == " ".join(alone * 3).lower().split()
    spoken = [
        Segment(word.text, start + word.begin, start + word.end)
        for name, start in zip(names, starts)
        for word in Alignment.load(librivox / f"{name}.json").words
    ]
    matches = match_words([word.text for word in long.words], spoken)
    hits = [match.begin - 0.05 <= word.time <= match.end + 0.05 for word, match in zip(long.words, matches) if match]
    assert len(hits) > 60 and np.mean(hits) > 0.8
