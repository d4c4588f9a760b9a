"""Texts of other systems: what is read of them, what is refused, and how they are explained."""

import json

import numpy as np
import pytest
import soundfile

from captum_spes import SPES, SpeechToTextAttribution, SpeechToTextExplanation
from captum_spes.alignment import Alignment, Segment, Transcript
from captum_spes.attr import Energy

pytestmark = pytest.mark.filterwarnings("ignore:the maps are noisy")

SEGMENTS = [
    {"id": 0, "start": 0.0, "end": 0.5, "text": " so what", "words": [
        {"start": 0.1, "end": 0.2, "word": " so", "probability": 0.9},
        {"start": 0.2, "end": 0.4, "word": " what", "probability": 0.8},
    ]},
    {"id": 1, "start": 0.7, "end": 1.1, "text": " was  it", "words": None},
]  # fmt: skip
VTT = """WEBVTT - by a system

NOTE a comment

1
00:00.100 --> 00:00.500 align:start
<v Ann>so <c>what</c>

00:00:00.700 --> 00:00:01.100
was &amp;
it
"""
SRT = (
    "\ufeff1\r\n00:00:00,100 --> 00:00:00,500\r\nso what\r\n\r\n2\r\n00:00:00,700 --> 00:00:01,100\r\n<i>was it</i>\r\n"
)

FORMS = {
    "whisper.json": (json.dumps({"text": " so what was it", "segments": SEGMENTS, "language": "en"}), 2, 2),
    "faster-whisper.json": (json.dumps(SEGMENTS), 2, 2),
    "whisperx.json": (json.dumps({"segments": [{"start": 0, "end": 1, "text": "so what was it"}]}), 1, 0),
    "pipeline.json": (json.dumps({"chunks": [{"text": " so what was it", "timestamp": [0.0, 1.0]}]}), 1, 0),
    "cpp.json": (
        json.dumps({"transcription": [{"offsets": {"from": 0, "to": 1100}, "text": " so what was it"}]}), 1, 0,
    ),
    "text.json": (json.dumps({"text": "so what\nwas it"}), 0, 0),
    "a.srt": (SRT, 2, 0),
    "a.txt": (" so what\n was it \n", 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_forms(name, tmp_path):
    content, n_segments, n_words = FORMS[name]
    (tmp_path / name).write_bytes(content.encode())
    found = Transcript.load(tmp_path / name)
    assert found.text == "so what was it" and found.source == name
    assert (len(found.segments), len(found.words)) == (n_segments, n_words)


def test_webvtt(tmp_path):
    (tmp_path / "a.vtt").write_text(VTT)
    assert Transcript.load(tmp_path / "a.vtt").segments == [Segment("so what", 0.1, 0.5), Segment("was & it", 0.7, 1.1)]


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.json", "so what", "it is no valid JSON"),
        ("a.json", '{"model": "whisper", "layers": 4}', "its JSON is not that of Whisper, faster-whisper"),
        ("a.json", "[1, 2]", "its JSON is not that of Whisper"),
        ("a.json", '[{"b": 0, "e": 1}]', "segments without text"),
        ("a.json", '[{"text": "so", "start": 1, "end": 0.5}]', "'so' lasts from 1 to 0.5 s"),
        ("a.json", '[{"text": "so", "start": 0, "end": NaN}]', "and the times 0 and nan"),
        ("a.json", '[{"text": "so", "start": 2, "end": 3}, {"text": "to", "start": 0, "end": 1}]', "begins before the"),
        ("a.json", '[{"text": "so", "start": 0, "end": 1, "words": 5}]', "its JSON is not that of Whisper"),
        ("a.json", f'[{{"text": "so", "start": 0, "end": {"9" * 400}}}]', "its JSON is not that of Whisper"),
        (
            "a.json",
            '[{"text": "so", "start": 0, "end": 1, "words": [{"word": " so", "start": 0, "end": Infinity}]}]',
            "the word 'so' has no end",
        ),
        ("a.vtt", "WEBVTT\n\n0.1 --> 0.5\nso", "has no times as WebVTT and SubRip write them"),
        ("a.vtt", "WEBVTT\n", "it has no text"),
        ("a.txt", " \n", "it has no text"),
    ],
)
def test_what_is_no_transcript_is_refused(name, content, words, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"{name} is no transcript that can be read: .*{words}"):
        Transcript.load(tmp_path / name)
    with pytest.raises(ValueError, match="does not exist: give the path of a transcript"):
        Transcript.load(tmp_path / "none.txt")


def test_parts_are_of_whole_segments():
    segments = [Segment("a", 2.0, 4.0), Segment("b", 6.0, 8.0), Segment("c", 9.0, 10.0)]
    transcript = Transcript("a b c", segments, [Segment("a", 2.5, 3.0), Segment("b", 6.5, 7.0)])
    parts = transcript.parts(max_seconds=5, duration=20)
    assert [(span, part.text) for span, part in parts] == [((1.0, 5.0), "a"), ((5.0, 8.5), "b"), ((8.5, 11.0), "c")]
    assert parts[0][1].words == [Segment("a", 1.5, 2.0)] and parts[1][1].words == [Segment("b", 1.5, 2.0)]


def test_parts_are_as_long_as_can_be():
    segments = [Segment("a", 2.0, 4.0), Segment("b", 6.0, 8.0), Segment("c", 9.0, 10.0)]
    parts = Transcript("a b c", segments).parts(max_seconds=8, duration=10.4)
    assert [(span, part.text) for span, part in parts] == [((1.0, 8.5), "a b"), ((8.5, 10.4), "c")]


def test_the_last_segment_of_a_pipeline_may_have_no_end(tmp_path):
    chunks = [{"text": " so", "timestamp": [0.0, 1.0]}, {"text": " what", "timestamp": [1.5, None]}]
    (tmp_path / "pipeline.json").write_text(json.dumps({"text": " so what", "chunks": chunks}))
    [(span, part)] = Transcript.load(tmp_path / "pipeline.json").parts(max_seconds=30, duration=4.0)
    assert span == (0.0, 4.0) and part.segments[-1] == Segment("what", 1.5, 4.0)
    chunks[0]["timestamp"][1] = None
    (tmp_path / "pipeline.json").write_text(json.dumps({"chunks": chunks}))
    with pytest.raises(ValueError, match="a segment has the text ' so' and the times 0.0 and None"):
        Transcript.load(tmp_path / "pipeline.json")


def test_a_long_pause_belongs_to_no_part():
    parts = Transcript("So no", [Segment("So.", 0, 5), Segment("No.", 65, 70)]).parts(max_seconds=30, duration=75)
    assert [(span, part.text) for span, part in parts] == [((0.0, 6), "So."), ((64, 71), "No.")]


@pytest.mark.parametrize(
    "transcript, words",
    [
        (Transcript("so what", source="a.txt"), "the transcript a.txt has no times, by which a long recording is cut"),
        (Transcript("so", [Segment("so", 30, 31)]), "begins at 30 s, and the recording lasts 20 s"),
        (Transcript("so", [Segment("so", 2, 12)]), "lasts longer than the 5 s that are explained at once"),
    ],
)
def test_parts_that_cannot_be(transcript, words):
    with pytest.raises(ValueError, match=words):
        transcript.parts(max_seconds=5, duration=20)


def test_word_times_are_taken_over(tiny_model, audio):
    words = [Segment("so", 0.1, 0.2), Segment("what", 0.2, 0.4)]
    explanation = SpeechToTextAttribution(SPES(tiny_model)).attribute(
        audio, "so what?", sampling_rate=16000, n_samples=30, word_times=words
    )
    assert [(row.begin, row.end) for row in explanation.word_rows()] == [(0.1, 0.2), (0.2, 0.4), (None, None)]
    assert explanation.confidence.heard is not None
    partly = SpeechToTextAttribution(SPES(tiny_model)).attribute(
        audio, "so what?", sampling_rate=16000, n_samples=30, word_times=words[:1]
    )
    assert [row.begin for row in partly.word_rows()] == [0.1, None, None] and partly.confidence.heard is None


def test_a_long_recording_by_its_transcript(tiny_model, audio, tmp_path):
    long = np.concatenate((audio, audio[::-1]))  # 1.2 s, in a window of 1 s
    segments = [Segment("so what", 0.0, 0.5), Segment("was", 0.7, 1.1)]
    transcript = Transcript("so what was", segments, [Segment("was", 0.8, 1.0)], "a.json")
    attribution = SpeechToTextAttribution(SPES(tiny_model))
    given = {"sampling_rate": 16000, "n_samples": 3, "n_token_samples": 8}
    found = attribution.attribute_long(long, tmp_path / "a", transcript=transcript, **given)
    assert [(part.start, part.stop, part.text) for part in found.parts] == [(0, 0.6, "so what"), (0.6, 1.2, "was")]
    assert found[1].word_rows()[0].begin == pytest.approx(0.2)
    with pytest.raises(ValueError, match="transcript"):
        attribution.attribute_long(long, tmp_path / "a", **given)


def test_texts_that_are_too_long_are_refused_at_the_beginning(tiny_model, audio, tmp_path):
    long = np.concatenate((audio, audio[::-1]))
    text = " ".join(["what"] * 40)
    transcript = Transcript(f"so {text}", [Segment("so", 0.0, 0.5), Segment(text, 0.7, 1.1)])
    with pytest.raises(ValueError, match=r"the transcript from 0\.6 to 1\.2 s: the target has \d+ tokens"):
        SpeechToTextAttribution(Energy(tiny_model)).attribute_long(
            long, tmp_path / "a", sampling_rate=16000, transcript=transcript
        )
    assert not (tmp_path / "a").exists()


def test_a_short_recording_needs_no_times(tiny_model, audio, tmp_path):
    found = SpeechToTextAttribution(Energy(tiny_model)).attribute_long(
        audio, tmp_path / "a", sampling_rate=16000, transcript=Transcript("so what")
    )
    assert [(part.start, part.stop, part.text) for part in found.parts] == [(0, 0.6, "so what")]


@pytest.mark.slow
def test_command_line(run, tiny_folder, recording, audio, tmp_path):
    (tmp_path / "a.json").write_text(FORMS["whisper.json"][0])
    common = ["explain", recording, "--model", tiny_folder, "--method", "energy", "-o", "out", "--transcript", "a.json"]
    code, out, err = run(*common)
    assert code == 0 and "Transcript: so what was it" in out, err
    explanation = SpeechToTextExplanation.load("out/explanation.safetensors")
    assert [row.begin for row in explanation.word_rows()][:2] == [0.1, 0.2]
    code, _, err = run(*common, "--target", "so")
    assert code == 2 and "--transcript and --target both give the text" in err
    soundfile.write(tmp_path / "long.wav", np.concatenate((audio, audio[::-1])), 16000)
    code, out, err = run("explain", "long.wav", *common[2:6], "-o", "long", "--transcript", "a.json")
    assert code == 0 and "Transcript: so what\n" in out and "Transcript: was it\n" in out, err
    (tmp_path / "b.json").write_text('{"layers": 4}')
    code, _, err = run("explain", recording, "--model", tiny_folder, "--transcript", "b.json")
    assert code == 2 and "b.json is no transcript that can be read: its JSON is not that of Whisper" in err


def test_an_alignment_as_word_times(tiny_model, audio):
    alignment = Alignment([Segment("so", 0.0, 0.2), Segment("what", 0.2, 0.5)], source="a")
    given = {"sampling_rate": 16000, "n_samples": 6, "n_token_samples": 4}
    attribute = SpeechToTextAttribution(SPES(tiny_model)).attribute
    whole, words = (attribute(audio, "so what", word_times=times, **given) for times in (alignment, alignment.words))
    assert whole.metadata["token_times"] == words.metadata["token_times"]


def test_a_segment_inside_another_is_not_cut_from_it():
    """Two speakers at once: the long sentence keeps its sound."""
    segments = [Segment("a long sentence", 0, 20), Segment("yes", 2, 3), Segment("and the next one", 25, 40)]
    transcript = Transcript("a long sentence yes and the next one", segments, [], "whisperx.json")
    parts = transcript.parts(30, 41)
    assert [span for span, _ in parts] == [(0.0, 21.0), (24.0, 41.0)]
    assert [part.text for _, part in parts] == ["a long sentence yes", "and the next one"]
    with pytest.raises(ValueError, match="with those that overlap it, lasts longer than the 10 s"):
        transcript.parts(10, 41)
    touching = [Segment("one", 0, 9.2), Segment("two", 9.0, 18)]
    assert [span for span, _ in Transcript("one two", touching, [], "a.srt").parts(10, 18)] == [(0, 9.1), (9.1, 18)]


YOUTUBE = (
    "WEBVTT\n\n00:00:00.000 --> 00:00:00.300 align:start position:0%\n \nso<00:00:00.100><c> what</c>\n\n"
    "00:00:00.300 --> 00:00:00.600\nthe next\n"
)


def test_a_line_of_a_space_before_the_text_of_a_cue(tmp_path):
    (tmp_path / "captions.vtt").write_text(YOUTUBE)
    assert Transcript.load(tmp_path / "captions.vtt").text == "so what the next"


@pytest.mark.parametrize("text", ["[noise] so what", "{so} what", "so --> what"])
def test_plain_text_with_brackets_and_arrows(tmp_path, text):
    (tmp_path / "text.txt").write_text(text)
    assert Transcript.load(tmp_path / "text.txt").text == text


def _loaded(folder, whole):
    (folder / "a.json").write_text(json.dumps(whole), encoding="utf-8")
    return Transcript.load(folder / "a.json")


def _segments(*texts):
    return [{"text": text, "start": i, "end": i + 1} for i, text in enumerate(texts)]


def _chunks(*texts):
    return [{"text": text, "timestamp": [i, i + 1]} for i, text in enumerate(texts)]


def _pieces(*texts):
    return [{"text": text, "offsets": {"from": 1000 * i, "to": 1000 * (i + 1)}} for i, text in enumerate(texts)]


@pytest.mark.parametrize(
    "whole, text",
    [
        ({"text": "你好世界", "segments": _segments("你好", "世界")}, "你好世界"),
        (_segments("你好，", "Ann 和世界"), "你好，Ann 和世界"),
        ({"chunks": _chunks(*"你好世界")}, "你好世界"),
        ({"transcription": _pieces(" ill", "-dis", "posed", " man")}, "ill-disposed man"),
        ({"segments": _segments(" So what.", "It was.")}, "So what. It was."),  # whisperX
        ({"text": "그래서 뭐", "segments": _segments("그래서", "뭐")}, "그래서 뭐"),
    ],
)
def test_no_spaces_are_added(whole, text, tmp_path):
    transcript = _loaded(tmp_path, whole)
    assert transcript.text == text
    [(_, part)] = transcript.parts(max_seconds=10, duration=4)
    assert part.text == text


def test_no_spaces_are_added_to_subtitles_and_lines(tmp_path):
    lines = ["1", "00:00:00,000 --> 00:00:01,000", "你好", "世界", "", "2", "00:00:01,000 --> 00:00:02,000", "天气"]
    (tmp_path / "a.srt").write_text("\n".join(lines), encoding="utf-8")
    assert Transcript.load(tmp_path / "a.srt").text == "你好世界天气"
    (tmp_path / "a.txt").write_text("你好\n世界\n", encoding="utf-8")
    assert Transcript.load(tmp_path / "a.txt").text == "你好世界"


def test_the_spaces_of_parts_are_those_of_the_text(tmp_path):
    whole = {"text": " an an -an so", "chunks": _chunks(" an", " an", " -", "an", " so")}
    parts = _loaded(tmp_path, whole).parts(max_seconds=4, duration=5)
    assert [part.text for _, part in parts] == ["an an -an", "so"]
    assert [segment.text for segment in parts[0][1].segments] == ["an", "an", "-", "an"]


def test_chunks_of_words_have_their_times(tmp_path):
    chunks = _chunks(" So", " what?")
    assert _loaded(tmp_path, {"text": " So what?", "chunks": chunks}).words == [
        Segment("So", 0.0, 1.0),
        Segment("what?", 1.0, 2.0),
    ]
    chunks[-1]["timestamp"][1] = None
    assert _loaded(tmp_path, {"chunks": chunks}).words == [Segment("So", 0.0, 1.0)]
    assert _loaded(tmp_path, {"chunks": _chunks(" So what.", " No.")}).words == []
    assert len(_loaded(tmp_path, {"chunks": _chunks(" So", " - what")}).words) == 2  # as Transformers joins a dash
    long = [{"text": " Yes.", "timestamp": [0, 8]}, {"text": " No.", "timestamp": [8, 9]}]
    assert _loaded(tmp_path, {"chunks": long}).words == [Segment("No.", 8.0, 9.0)]
    assert _loaded(tmp_path, {"chunks": _chunks("你好世界和天气")}).words == []


@pytest.mark.parametrize(
    "written, text",
    [
        ("a < b and c > d", "a < b and c > d"),
        ("I love <3 you -> and", "I love <3 you -> and"),
        ("<i>so</i> <00:00:00.100><c.yellow> what</c>", "so what"),
        (r"{\an8}so {what}", "so {what}"),
    ],
)
def test_only_tags_are_removed_from_subtitles(written, text, tmp_path):
    (tmp_path / "a.srt").write_text(f"1\n00:00:00,000 --> 00:00:01,000\n{written}\n")
    assert Transcript.load(tmp_path / "a.srt").text == text


def test_subtitles_without_empty_lines(tmp_path):
    (tmp_path / "a.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nso\n42\n2\n00:00:01,000 --> 00:00:02,000\nno\n")
    assert Transcript.load(tmp_path / "a.srt").segments == [Segment("so 42", 0, 1), Segment("no", 1, 2)]
    (tmp_path / "a.srt").write_text("00:00:00,000 --> 00:00:01,000\nin\n1984\n00:00:01,000 --> 00:00:02,000\nno\n")
    assert Transcript.load(tmp_path / "a.srt").text == "in 1984 no"  # cues without numbers


def test_margins_are_shortened_to_fit():
    [(span, part)] = Transcript("a", [Segment("a", 2, 31.5)]).parts(30, 60)
    assert span == (1.75, 31.75) and part.segments == [Segment("a", 0.25, 29.75)]
    parts = Transcript("a b", [Segment("a", 0, 30.0), Segment("b", 32, 40)]).parts(30, 60)
    assert [span for span, _ in parts] == [(0, 30), (31, 41)]
    [(span, _)] = Transcript("a", [Segment("a", 29.98, 59.98)]).parts(30, 90)
    assert span == pytest.approx((29.98, 59.98))
