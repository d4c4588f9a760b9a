"""Trains a CTC head on Whisper's encoder, and explains the same words by it and by Whisper's own decoder.

    python benchmarks/ctc_head.py ../shared/speech --work spes-output/ctc --output benchmarks/results/ctc_head

The encoder of Whisper tiny.en is frozen. A small convolutional head is trained on its states to write characters by
connectionist temporal classification (CTC), so that two decoders, one with autoregression and one without, hear through
one encoder. The training data are random words, spoken by flite and espeak-ng, and the human recordings that are not
explained. The shortest recordings are explained, except those that Whisper transcribes with errors, digits or hyphens.

Each word of Whisper's text is explained by both decoders with SPES, in the same patches and with the same masks:

- *hit*: is the peak of the word's map within its time?
- *outside*: the share of the map above its mean that is outside of the word's time;
- *size*: the area under the curve of the map's size, smaller for compact maps;
- *comprehensiveness*: the fall of the words' log-probability when the map's top 5, 10, 20 and 50 % are hidden, as a
  share of their fall when everything is hidden;
- *own sound*: the fall when the word's own time is hidden, as a share of the same;
- *context*: the share of the word's importance that lies in the previous tokens, of which CTC has none.

A word's time is that of a forced alignment, and 0.1 s on both sides. What is done is kept in the work folder, and the
same command continues a run that was stopped.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from corpora import by_duration, read_corpus
from make_corpus import RATE, check_voices, run
from matplotlib.figure import Figure
from provenance import command, machine, publish
from torch import Tensor, nn
from tqdm import tqdm
from transformers import Wav2Vec2CTCTokenizer

from captum_spes import SpeechToTextExplanation
from captum_spes._files import write_atomically
from captum_spes._text import markdown_table
from captum_spes.alignment import force_align, match_words
from captum_spes.audio import load_audio
from captum_spes.evaluation.corpus import CorpusUtterance
from captum_spes.metrics import comprehensiveness, context_share, wer
from captum_spes.metrics.bootstrap import draw_utterances, interval
from captum_spes.models import load_model, prepare
from captum_spes.models import text as text_of
from captum_spes.models.ctc import CtcModel
from captum_spes.models.whisper import WhisperModel
from captum_spes.speech_to_text.catalogue import METHODS
from captum_spes.words import is_word

CHARACTERS = ("<pad>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz'")
VOICES = (
    *("awb", "kal16", "rms", "slt"),
    *("espeak:en-us", "espeak:en-us+f3", "espeak:en-gb", "espeak:en-gb+f2"),
)
WORDS_AT_ONCE = 7
MARGIN_SECONDS = 0.1
MAX_WER = 20
DECODERS = ("Whisper", "CTC")
STEPS = (5, 10, 20, 50, 100)
# by title: a measure of the words, and the one of which it is a share (1 for none)
MEASURES = {
    "peak in the word's time ↑": ("hit", "one"),
    "map outside the word's time ↓": ("outside", "one"),
    "size ↓": ("size", "one"),
    "comprehensiveness ↑": ("fall", "whole"),
    "fall without the word's own sound": ("own sound", "whole"),
    "share of the previous tokens": ("context", "one"),
}


class CtcWhisper(CtcModel, WhisperModel):
    """Whisper's encoder with a CTC head that writes characters.

    Args:
        whisper: the model that the encoder and the features are of.
        head: maps encoder states (B, D, F) to logits (B, V, F).
        folder: a folder for the vocabulary.
    """

    token_times = no_speech_probability = None  # which are of Whisper's decoder

    def __init__(self, whisper: WhisperModel, head: nn.Module, folder: Path) -> None:
        path = folder / "vocabulary.json"
        path.write_text(json.dumps({character: index for index, character in enumerate(CHARACTERS)}))
        tokenizer = Wav2Vec2CTCTokenizer(str(path), pad_token="<pad>", word_delimiter_token="|", bos_token=None,
                                         eos_token=None)  # fmt: skip
        super().__init__(whisper.model, whisper.feature_extractor, f"CTC on the encoder of {whisper.name}")
        self.ctc_head = head.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self._special = set(tokenizer.all_special_ids)
        self.blank = tokenizer.pad_token_id

    def _frame_logits(self, spectrogram: Tensor, utterance: Any) -> Tensor:
        return self.ctc_head(states_of(self, spectrogram, utterance).mT).mT

    def _target_ids(self, target: Any) -> list[int]:
        return ids_of(target) if isinstance(target, str) else super()._target_ids(target)

    def _vocab_size(self) -> int:
        return len(CHARACTERS)


def states_of(model: WhisperModel, spectrogram: Tensor, utterance: Any) -> Tensor:
    """The encoder's states (B, F, D) of the utterance's own frames."""
    hidden = WhisperModel.encode(model, spectrogram, utterance).hidden
    return hidden[:, : -(-spectrogram.shape[1] // 2)]


def ids_of(text: str) -> list[int]:
    return [CHARACTERS.index(character) for character in plain(text).replace(" ", "|")]


def plain(text: str) -> str:
    """Lower case, and letters and apostrophes alone."""
    kept = "".join(c if c in CHARACTERS else " " for c in text.lower().replace("|", " "))
    return " ".join(kept.split())


def save(content: Any, path: Path) -> None:
    part = path.with_suffix(".part")
    torch.save(content, part)
    part.rename(path)


# Training


def new_head(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(width, 256, 7, padding=3),
        nn.GELU(),
        nn.Dropout(0.2),
        nn.Conv1d(256, 256, 7, padding=3),
        nn.GELU(),
        nn.Dropout(0.2),
        nn.Conv1d(256, len(CHARACTERS), 1),
    )


def spoken(whisper: WhisperModel, number: int, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Random words of Whisper's vocabulary, and their sound by one of the voices."""
    drawing = random.Random(seed)
    pieces = sorted(whisper.tokenizer.get_vocab().items(), key=lambda item: item[1])
    words = [piece[1:] for piece, _ in pieces if piece[0] == "Ġ" and piece[1:].isascii() and piece[1:].isalpha()]
    words = [word for word in words if word.islower() and 3 <= len(word) <= 10][:8_000]
    for index in range(number):
        # half of them among the most frequent, which come first in the vocabulary
        chosen = [drawing.choice(words[: drawing.choice((400, 8_000))]) for _ in range(WORDS_AT_ONCE)]
        yield " ".join(chosen), sound(VOICES[index % len(VOICES)], " ".join(chosen))


def sound(voice: str, text: str) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "speech.wav"))
        if voice.startswith("espeak:"):
            run("espeak-ng", "-v", voice.removeprefix("espeak:"), "-w", path, text)
        else:
            run("flite", "-voice", voice, "-t", text, path)
        return load_audio(path, RATE)


def training_data(whisper: WhisperModel, human: list[CorpusUtterance], args: argparse.Namespace) -> list[Any]:
    """Encoder states (F, D) and texts of the recordings to train on."""
    path = args.work / f"states-{args.n_explained}-{args.n_spoken}-{args.seed}.pt"
    if path.is_file():
        return torch.load(path)
    sounds = ((item.transcription or "", load_audio(item.path, whisper.sample_rate)) for item in human)
    pairs = [*sounds, *tqdm(spoken(whisper, args.n_spoken, args.seed), total=args.n_spoken, desc="speaking")]
    found = []
    for text, samples in tqdm(pairs, desc="encoding"):
        utterance = whisper.utterance(samples)
        with torch.no_grad():
            found.append((states_of(whisper, utterance.spectrogram, utterance)[0].clone(), plain(text)))
    save(found, path)
    return found


def train(data: list[tuple[Tensor, str]], epochs: int, n_human: int, seed: int) -> nn.Module:
    """Trains a head; human speech, which comes first, is shown four times in each epoch."""
    torch.manual_seed(seed)
    head = new_head(data[0][0].shape[1])
    order = [*range(n_human)] * 4 + [*range(n_human, len(data))]
    drawing = random.Random(seed)
    n_steps = epochs * -(-len(order) // 16)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=n_steps)
    with tqdm(total=n_steps, desc="training") as bar:
        for _ in range(epochs):
            drawing.shuffle(order)
            for start in range(0, len(order), 16):
                states, texts = zip(*(data[index] for index in order[start : start + 16]))
                targets = [torch.tensor(ids_of(text)) for text in texts]
                batch = nn.utils.rnn.pad_sequence(list(states), batch_first=True).mT
                log_probs = head(batch).permute(2, 0, 1).log_softmax(-1)
                lengths = [torch.tensor([len(part) for part in parts]) for parts in (states, targets)]
                loss = nn.functional.ctc_loss(log_probs, torch.cat(targets), *lengths, zero_infinity=True)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(head.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                bar.update()
                bar.set_postfix(loss=f"{loss.item():.2f}", refresh=False)
    return head.eval()


def trained_head(whisper: WhisperModel, human: list[CorpusUtterance], args: argparse.Namespace) -> nn.Module:
    path = args.work / f"head-{args.n_explained}-{args.n_spoken}-{args.epochs}-{args.seed}.pt"
    if not path.is_file():
        head = train(training_data(whisper, human, args), args.epochs, len(human), args.seed)
        save(head.state_dict(), path)
    head = new_head(whisper.model.config.d_model)
    head.load_state_dict(torch.load(path))
    return head


# Explaining


def words_of(explanation: SpeechToTextExplanation) -> tuple[SpeechToTextExplanation, list[int]]:
    """The explanation of words, and its rows that are words."""
    words = explanation.words()
    return words, [row for row, text in enumerate(words.tokens) if is_word(text)]


def curve_of(words: SpeechToTextExplanation, row: int) -> np.ndarray:
    """What a word's map has above its mean, in each frame."""
    own = words.spectrogram_attr[row].double()
    return (own - own.mean()).clamp(min=0).sum(1).numpy()


def measure(model: Any, explanation: SpeechToTextExplanation, spans: list[tuple[float, float]]) -> list[dict[str, Any]]:
    """The measures of each word, whose times are given."""
    words, rows = words_of(explanation)
    seconds = (np.arange(len(words.spectrogram)) + 0.5) / words.frames_per_second
    falls = comprehensiveness(model, words, percentages=STEPS).falls[0][rows].double()
    shares = context_share(explanation).shares[0] if explanation.previous_tokens else np.zeros(len(explanation.tokens))
    places = np.cumsum([0, *(len(text.strip()) for text in words.tokens)])
    ends = np.cumsum([len(text.strip()) for text in explanation.tokens])
    found = []
    for index, (row, (begin, end)) in enumerate(zip(rows, spans, strict=True)):
        curve = curve_of(words, row)
        near = (seconds >= begin - MARGIN_SECONDS) & (seconds <= end + MARGIN_SECONDS)
        own = (ends > places[row]) & (ends <= places[row + 1])
        scaled = words.spectrogram_attr[row].double()
        scaled = (scaled - scaled.min()) / (scaled.max() - scaled.min())
        found.append(
            {
                "word": words.tokens[row].strip(),
                "hit": float(near[curve.argmax()]),
                "outside": float(curve[~near].sum() / curve.sum()),
                "size": 100 * float(scaled.mean()),  # the area under the curve of the size, for all thresholds
                "fall": float(falls[index, :-1].mean()),
                "own sound": fall_without(model, words, row, near),
                "whole": float(falls[index, -1]),
                "one": 1.0,
                "context": float(shares[own].mean()),
            }
        )
    return found


def fall_without(model: Any, words: SpeechToTextExplanation, row: int, frames: np.ndarray) -> float:
    """The fall of a word's log-probability when some frames are hidden."""
    marked = torch.from_numpy(frames).float()[:, None].expand(words.spectrogram_attr.shape[1:])
    share = min(100 * float(frames.mean()) + 1e-6, 100)  # percentages are rounded down to features
    curve = comprehensiveness(model, words, percentages=(0, share), maps=[marked.expand_as(words.spectrogram_attr)])
    return float(curve.falls[0][row, 1])


def explain(whisper: WhisperModel, ctc: CtcWhisper, item: CorpusUtterance, args: argparse.Namespace) -> dict[str, Any]:
    """The measures of the words of a recording by both decoders, and the curves of their maps."""
    head = f"{args.n_explained}-{args.n_spoken}-{args.epochs}"
    path = args.work / f"words-{item.id}-{head}-{args.n_samples}-{args.seed}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    utterance, tokens = prepare(whisper, item.path)
    text = "".join(whisper.token_texts(tokens.target[:-1])).strip()
    written = [word for word in text.split() if is_word(word)]
    spoken = match_words(written, force_align(item.path, plain(text)).words)
    spans = [(word.begin, word.end) for word in spoken if word is not None]
    found: dict[str, Any] = {"text": text, "ctc text": ctc_text(ctc, item), "spans": spans}
    method = METHODS["spes"].with_samples(args.n_samples)
    targets = (whisper, tokens), (ctc, ctc.tokens(text, utterance))
    for name, (model, target) in zip(DECODERS, targets):
        explanation = method.explain(model, utterance, target, "fast", seed=args.seed)
        words, rows = words_of(explanation)
        found[name] = measure(model, explanation, spans)
        found[f"{name} curves"] = [
            (curve_of(words, row) / curve_of(words, row).max()).round(3).tolist() for row in rows
        ]
    write_atomically(path, json.dumps(found))
    return found


def ctc_text(ctc: CtcWhisper, item: CorpusUtterance) -> str:
    utterance = ctc.utterance(load_audio(item.path, ctc.sample_rate))
    return "".join(ctc.token_texts(ctc.generate(utterance).target)).replace("|", " ")


def is_explained(whisper: WhisperModel, item: CorpusUtterance) -> bool:
    """Whether Whisper transcribes a recording correctly, in words that the characters of CTC can write one by one."""
    written = text_of(whisper, prepare(whisper, item.path, context="full")[1])
    plainly = not any(character.isdigit() or character == "-" for character in written)
    return plainly and wer([written], [item.transcription or ""]) <= MAX_WER


# The report


def table(results: list[dict[str, Any]], seed: int) -> list[str]:
    """The mean of each measure over the words by both decoders, and the interval of the paired difference."""
    rows = [("", "Whisper's decoder", "CTC head", "difference, 95 % interval")]
    drawn = draw_utterances(len(results), seed)
    for title, (measure_name, whole) in MEASURES.items():
        sums = np.array(
            [
                [[sum(word[key] for word in result[name]) for key in (measure_name, whole)] for name in DECODERS]
                for result in results
            ]
        )  # (recordings, decoders, 2)
        values, draws = (total[..., 0] / total[..., 1] for total in (sums.sum(0), np.tensordot(drawn, sums, 1)))
        low, high = interval(draws[:, 1] - draws[:, 0])
        difference = f"{values[1] - values[0]:+.2f} [{low:+.2f}, {high:+.2f}]"
        rows.append((title, f"{values[0]:.2f}", f"{values[1]:.2f}", difference))
    return markdown_table(rows)


def draw(result: dict[str, Any], frames_per_second: float = 100) -> Figure:
    """Draws the curve of each word over time for both decoders, and the words' times."""
    names = [word["word"] for word in result["Whisper"]]
    figure = Figure(figsize=(10, 0.32 * len(names) + 1.4), layout="constrained")
    for axes, (name, title) in zip(
        figure.subplots(1, 2, sharey=True), zip(DECODERS, ("Whisper's decoder", "CTC head, same encoder"))
    ):
        curves = np.array(result[f"{name} curves"])
        seconds = curves.shape[1] / frames_per_second
        axes.imshow(
            curves,
            aspect="auto",
            cmap="Blues",
            interpolation="nearest",
            extent=(0, seconds, len(names) - 0.5, -0.5),
            vmin=0,
            vmax=1,
        )
        for row, (begin, end) in enumerate(result["spans"]):
            axes.plot(
                [begin, begin, end, end, begin], row + 0.45 * np.array([-1, 1, 1, -1, -1]), color="#D55E00", lw=1.2
            )
        axes.set(title=title, xlabel="time (s)", xlim=(0, seconds))
        axes.set_yticks(range(len(names)), labels=names)
        axes.tick_params(length=0)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path, help="folder of corpora of human speech")
    parser.add_argument("--work", type=Path, default=Path("spes-output/ctc"), help="what is done is kept here")
    parser.add_argument("--output", type=Path, help="also write the table (.md), figure (.png) and numbers (.json)")
    parser.add_argument(
        "--n-explained", type=int, default=8, help="the shortest recordings, on which the head is not trained"
    )
    parser.add_argument("--n-recordings", type=int, help="explain at most so many of them")
    parser.add_argument("--n-spoken", type=int, default=800, help="synthesised recordings to train on")
    parser.add_argument("--n-samples", type=int, default=2_000)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "the maps are noisy")
    check_voices(list(VOICES))
    args.work.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    items = [item for item in by_duration(read_corpus(args.speech).utterances) if item.transcription]
    shortest, human = items[: args.n_explained], items[args.n_explained :]
    whisper = load_model("whisper-tiny.en", device="cpu")
    assert isinstance(whisper, WhisperModel)
    ctc = CtcWhisper(whisper, trained_head(whisper, human, args), args.work)
    explained = [item for item in shortest if is_explained(whisper, item)][: args.n_recordings]
    results = [explain(whisper, ctc, item, args) for item in tqdm(explained, desc="explaining")]
    n_words = sum(len(result["spans"]) for result in results)
    errors = [wer([plain(r[key]) for r in results], [plain(item.transcription or "") for item in explained])
              for key in ("text", "ctc text")]  # fmt: skip
    lines = [
        *table(results, args.seed),
        "",
        f"Word error rate of these recordings: {errors[0]:.0f} % by Whisper's decoder, {errors[1]:.0f} % by the head.",
        "",
        f"`{command()}`: {n_words} words of {len(results)} human recordings, SPES with {args.n_samples:,} samples. The "
        f"head was trained on {args.n_spoken} synthesised and {len(human)} human recordings. Seed {args.seed}; "
        f"{machine()}; {(time.perf_counter() - start) / 60:.0f} minutes for what was left to do.",
    ]
    publish(lines, args.output)
    for result in results:
        print(f"{result['text']!r}: CTC {result['ctc text']!r}")
    if args.output:
        numbers = [{key: value for key, value in r.items() if not key.endswith("curves")} for r in results]
        args.output.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
        draw(max(results[:4], key=lambda result: len(result["spans"]))).savefig(
            args.output.with_suffix(".png"), dpi=150
        )


if __name__ == "__main__":
    main()
