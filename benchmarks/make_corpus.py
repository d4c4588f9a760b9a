"""Makes a small corpus of synthesised speech with known transcripts, word times and phone times.

    python benchmarks/make_corpus.py OUTPUT [--voices rms slt espeak:en-gb-scotland] [--real FOLDER]
    python benchmarks/make_corpus.py OUTPUT --n-sentences 0 --joined 0 --snr 20 10 5 --babble 10 --speed 0.8 1.25
    python benchmarks/make_corpus.py OUTPUT --joined 30 --joined-seconds 5 88
    python benchmarks/make_corpus.py OUTPUT --joined 8 --join-real --real ../shared/speech/ljspeech
    python benchmarks/make_corpus.py OUTPUT --minimal-pair

Speaks the first fifty Harvard sentences (lists 1 to 5 of "IEEE Recommended Practice for Speech Quality Measurements",
IEEE Transactions on Audio and Electroacoustics 17(3), 1969) with flite (Debian package: flite) or espeak-ng (Debian
package: espeak-ng), joins some into utterances of 5 to 28 s, adds recordings of real speech, and leaves out utterances
that the model transcribes wrongly. All files are 16 kHz, mono, 16 bit; the same command makes the same files.

--joined-seconds can make recordings that are longer than the model's window. They are transcribed in parts, cut in
their pauses.

--join-real joins the recordings of real speech in their order, and makes nothing else.

--minimal-pair speaks sentences with *so* and the same sentences with *no*, each by every voice.

OUTPUT/metadata.csv follows the audiofolder convention of Hugging Face datasets. A WAV file with known times has a
.json (words) and a .phone.json (words and their phones) beside it; b = begin and d = duration, in seconds.

The noise of --snr is speech-shaped: random, with the long-term spectrum of the utterance itself. That of --babble is
six other recordings of the corpus at a time. The ratio is that of the speech's power, without pauses, to the noise's.
--speed resamples, which also changes the pitch. The column condition names what was done to a recording.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import re
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
from corpora import read_corpus
from scipy.signal import resample_poly
from tqdm import tqdm

from captum_spes import SPES, SpeechToTextAttribution
from captum_spes.audio import load_audio, split_at_pauses
from captum_spes.metrics import wer
from captum_spes.models import load_model

RATE = 16_000
VOICES = ["rms", "awb", "slt"]  # two male, one female
JOINED_SECONDS = (5.0, 28.0)
MARGIN = 2  # seconds by which joined sentences may differ from the intended length
GAP = 0.2  # seconds between joined sentences, beside the synthesiser's own pauses
WINDOW = 30  # seconds of Whisper's window
BABBLERS = 6  # recordings that are mixed to babble
CORPORA = {"librivox": "LibriVox", "ljspeech": "LJ Speech"}  # names of corpora by their folders
MAX_NEW_TOKENS = 200  # of what the model misses, and perhaps repeats
REAL = Path(__file__).resolve().parents[2] / "shared" / "speech" / "librivox"  # included where it is there
COLUMNS = ["file_name", "transcription", "voice", "gender", "condition", "duration", "n_sentences"]
COLUMNS += ["alignment", "source"]

SENTENCES = """\
The birch canoe slid on the smooth planks.
Glue the sheet to the dark blue background.
It's easy to tell the depth of a well.
These days a chicken leg is a rare dish.
Rice is often served in round bowls.
The juice of lemons makes fine punch.
The box was thrown beside the parked truck.
The hogs were fed chopped corn and garbage.
Four hours of steady work faced us.
A large size in stockings is hard to sell.
The boy was there when the sun rose.
A rod is used to catch pink salmon.
The source of the huge river is the clear spring.
Kick the ball straight and follow through.
Help the woman get back to her feet.
A pot of tea helps to pass the evening.
Smoky fires lack flame and heat.
The soft cushion broke the man's fall.
The salt breeze came across from the sea.
The girl at the booth sold fifty bonds.
The small pup gnawed a hole in the sock.
The fish twisted and turned on the bent hook.
Press the pants and sew a button on the vest.
The swan dive was far short of perfect.
The beauty of the view stunned the young boy.
Two blue fish swam in the tank.
Her purse was full of useless trash.
The colt reared and threw the tall rider.
It snowed, rained, and hailed the same morning.
Read verse out loud for pleasure.
Hoist the load to your left shoulder.
Take the winding path to reach the lake.
Note closely the size of the gas tank.
Wipe the grease off his dirty face.
Mend the coat before you go out.
The wrist was badly strained and hung limp.
The stray cat gave birth to kittens.
The young girl gave no clear response.
The meal was cooked before the bell rang.
What joy there is in living.
A king ruled the state in the early days.
The ship was torn apart on the sharp reef.
Sickness kept him home the third week.
The broad road shimmered in the hot sun.
The lazy cow lay in the cool grass.
Lift the square stone over the fence.
The rope will bind the seven books at once.
Hop over the fence and plunge in.
The friendly gang left the drug store.
Mesh wire keeps chicks inside.""".splitlines()

MINIMAL_PAIR = ("so", "no")
CARRIERS = """\
He said {} again.
She told them {} twice.
We said {} last week.
They always say {} to me.
The man wrote {} on the wall.
Please say {} to the teacher.
I heard her say {} this morning.
The word {} is very short.
The first word was {} and the second was good.
You can say {} if you want.
The children shouted {} all day.
My brother said {} yesterday.""".splitlines()


@dataclass(frozen=True)
class Recording:
    """An utterance with its transcript, speaker and times."""

    name: str  # of its files
    text: str
    voice: str
    gender: str  # "" where it is not known
    source: str
    samples: np.ndarray  # int16, what the file will hold
    alignments: dict[str, list[dict]]  # words, by the suffix of their file; {} where their times are not known
    condition: str = ""  # what was done to it: "noise 10 dB"
    n_sentences: int = 1

    @property
    def seconds(self) -> float:
        return len(self.samples) / RATE


def pcm(samples: np.ndarray) -> np.ndarray:
    """Converts samples to 16 bits; samples that were read from 16 bits do not change."""
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)


def normal(text: str) -> str:
    """Words in the spelling of the alignments."""
    return " ".join(re.sub(r"[^a-z0-9' -]", "", text.lower()).split())


def slug(voice: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", voice.lower())


def run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"{command[0]} failed: {result.stderr.strip() or result.returncode}")
    return result.stdout


def check_voices(voices: list[str]) -> None:
    for name in voices:
        program, option = ("espeak-ng", "--voices") if name.startswith("espeak:") else ("flite", "-lv")
        if shutil.which(program) is None:
            raise SystemExit(f"{program} speaks {name} and is not installed (Debian: apt install {program}).")
        # both speak with another voice where they do not know the name
        if name.removeprefix("espeak:").split("+")[0].lower() not in run(program, option).lower().split():
            raise SystemExit(f"{program} has no voice {name}: see `{program} {option}`.")


def gender(voice: str) -> str:
    """The gender of a voice: espeak-ng's plain voices are male, variants such as +f3 female; MBROLA's may be either."""
    if "mb-" in voice or "mb/" in voice:
        return ""
    return "female" if voice == "slt" or "+f" in voice else "male"


@cache
def speak(voice: str, number: int) -> Recording:
    """The Harvard sentence of this number, which counts from 1."""
    return say(voice, SENTENCES[number - 1], f"harvard-{number:02}", f"Harvard sentence {number}")


def minimal_pair(voices: list[str]) -> Iterator[Recording]:
    """Each carrier sentence with both words, by every voice."""
    for (number, carrier), word, voice in itertools.product(enumerate(CARRIERS, 1), MINIMAL_PAIR, voices):
        yield say(voice, carrier.format(word), f"carrier-{number:02}-{word}", f"carrier sentence {number}")


def say(voice: str, text: str, name: str, source: str) -> Recording:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "speech.wav"))
        if voice.startswith("espeak:"):
            run("espeak-ng", "-v", voice.removeprefix("espeak:"), "-w", path, text)
            times = None
        else:
            times = segments(run("flite", "-voice", voice, "-psdur", "-t", text, path))
        samples = pcm(load_audio(path, RATE))
    seconds = len(samples) / RATE
    # the times of flite's diphone voices (kal, kal16) are those it planned, not those of the sound
    known = times is not None and abs(times[-1][2] - seconds) < 0.02
    words = alignments(align(voice, text, times, seconds)) if known else {}
    return Recording(f"{slug(voice)}-{name}", text, voice, gender(voice), source, samples, words)


def segments(printed: str) -> list[tuple[str, float, float]]:
    """Phone, begin and end of each segment, from the ends that `flite -psdur` printed."""
    pairs = [item.rsplit(":", 1) for item in printed.split()]
    ends = [float(end) for _, end in pairs]
    return [(phone, begin, end) for (phone, _), begin, end in zip(pairs, [0.0, *ends], ends)]


def align(voice: str, text: str, times: list[tuple[str, float, float]], seconds: float) -> list[dict]:
    """Words with their phones.

    flite prints no word boundaries. Therefore the text is spoken again with a comma after each word, and the pauses
    separate the phones of the words. Only vowels depend on the neighbouring words ("the" before a vowel).
    """
    tokens = normal(text).split()
    apart = segments(run("flite", "-voice", voice, "-psdur", "-t", ", ".join(tokens) + ".", "none"))
    pauses = [index for index, (phone, *_) in enumerate(apart) if phone == "pau"]
    lengths = [after - before - 1 for before, after in itertools.pairwise(pauses) if after > before + 1]
    said, alone = ([phone for phone, *_ in spoken if phone != "pau"] for spoken in (times, apart))
    if len(lengths) != len(tokens) or [consonant(p) for p in said] != [consonant(p) for p in alone]:
        raise SystemExit(f"flite's phones of {text!r} ({voice}) cannot be parted into words.")
    ends = set(itertools.accumulate(lengths))
    words: list[dict] = []
    parts: list[dict] = []
    said_now = 0
    for phone, begin, end in times:
        end = min(end, seconds)  # the sound ends up to 5 ms before
        if phone == "pau":
            words.append(silence(begin, end))
            continue
        parts.append(timed(phone.upper(), begin, end))
        said_now += 1
        if said_now in ends:
            words.append(spanning(tokens.pop(0), parts))
            parts = []
    return words


def consonant(phone: str) -> str:
    return "vowel" if phone[0] in "aeiou" else phone


def timed(text: str, begin: float, end: float) -> dict:
    return {"b": round(begin, 3), "d": round(end - begin, 3), "p": 1.0, "t": text}


def spanning(text: str, parts: list[dict]) -> dict:
    return timed(text, parts[0]["b"], parts[-1]["b"] + parts[-1]["d"]) | {"w": parts}


def silence(begin: float, end: float) -> dict:
    return spanning("<sil>", [timed("SIL", begin, end)])


def alignments(words: list[dict]) -> dict[str, list[dict]]:
    return {".json": [{key: word[key] for key in "bdpt"} for word in words], ".phone.json": words}


def join(parts: list[Recording], name: str) -> Recording:
    """Joins sentences, with a pause between them that belongs to the <sil> in the alignment."""
    samples: list[np.ndarray] = []
    words: list[dict] = []
    begin = 0.0
    for part in parts:
        for word in part.alignments.get(".phone.json", []):
            phones = [timed(p["t"], begin + p["b"], begin + p["b"] + p["d"]) for p in word["w"]]
            if words and word["t"] == words[-1]["t"] == "<sil>":
                words[-1] = silence(words[-1]["b"], phones[-1]["b"] + phones[-1]["d"])
            else:
                words.append(spanning(word["t"], phones))
        samples += [part.samples, np.zeros(round(GAP * RATE), np.int16)]
        begin += part.seconds + GAP
    return replace(
        parts[0],
        name=name,
        text=" ".join(part.text for part in parts),
        source=f"{parts[0].source}, " + ", ".join(part.source.split()[-1] for part in parts[1:]),
        samples=np.concatenate(samples[:-1]),
        alignments=alignments(words) if words else {},
        n_sentences=len(parts),
    )


def joined(
    part_of: Callable[[int, int], Recording], count: int, seconds: tuple[float, float] = JOINED_SECONDS
) -> Iterator[Recording]:
    """Utterances with lengths spread over the range, whose sentences are in order.

    ``part_of(utterance, sentence)`` returns the recording of a sentence; both numbers count from 0, the sentences
    without an end.
    """
    shortest, longest = seconds
    cursor = 0
    for index, target in enumerate(np.linspace(shortest + MARGIN, longest - MARGIN, count)):
        parts: list[Recording] = []
        total = 0.0
        while True:
            part = part_of(index, cursor)
            more = total + part.seconds + (GAP if parts else 0)
            # at least two sentences; otherwise the sum that is nearest to the intended length
            if len(parts) >= 2 and (more > longest or (total >= shortest and more - target > target - total)):
                break
            parts.append(part)
            total, cursor = more, cursor + 1
        yield join(parts, f"{slug(parts[0].voice)}-joined-{index + 1:02}")


def by_turns(voices: list[str]) -> Callable[[int, int], Recording]:
    """The Harvard sentences, by another voice in each utterance."""
    return lambda utterance, sentence: speak(voices[utterance % len(voices)], sentence % len(SENTENCES) + 1)


def real(folder: Path) -> Iterator[Recording]:
    """Recordings of a manifest, or with .txt and, if they exist, .json and .phone.json beside them, or of corpora."""
    for item in read_corpus(folder).utterances:
        if item.transcription is None:
            raise SystemExit(
                f"{item.path} has no transcript: give a manifest, or {item.path.with_suffix('.txt').name}."
            )
        files = {suffix: item.path.with_suffix(suffix) for suffix in (".json", ".phone.json")}
        words = {suffix: json.loads(file.read_text())["w"] for suffix, file in files.items() if file.is_file()}
        text = " ".join(item.transcription.split())
        samples = pcm(load_audio(item.path, RATE))
        corpus = item.path.resolve().parent.name
        source = f"{CORPORA.get(corpus, corpus)} {item.path.stem}"
        yield Recording(item.path.stem, text, "human", "", source, samples, words)


def changed(recording: Recording, condition: str, samples: np.ndarray) -> Recording:
    """The recording with other samples, which are turned down if they would clip."""
    samples = samples / max(1, np.abs(samples).max() / 0.999)
    return replace(recording, name=f"{recording.name}-{slug(condition)}", samples=pcm(samples), condition=condition)


def frames_of(speech: np.ndarray) -> np.ndarray:
    """The samples in frames of 20 ms."""
    size = RATE // 50
    return speech[: len(speech) // size * size].reshape(-1, size)


def mixed(recording: Recording, noise: np.ndarray, snr: float, condition: str) -> Recording:
    """The recording with a noise that is scaled to a ratio in decibels."""
    speech = recording.samples / 32768
    power = np.square(frames_of(speech)).mean(1)
    power = power[power > power.max() * 1e-4].mean()  # of what is within 40 dB of the loudest frame: no pauses
    return changed(recording, condition, speech + noise * np.sqrt(power / 10 ** (snr / 10) / np.square(noise).mean()))


def generator(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def with_noise(recording: Recording, snr: float, seed: int) -> Recording:
    """The recording with random noise that has its own long-term spectrum."""
    frames = frames_of(recording.samples / 32768)
    n_samples = len(recording.samples)
    spectrum = np.sqrt(np.square(np.abs(np.fft.rfft(frames * np.hanning(frames.shape[1])))).mean(0))
    white = np.fft.rfft(generator(f"{recording.name}-snr{snr:g}", seed).standard_normal(n_samples))
    shape = np.interp(np.linspace(0, 1, len(white)), np.linspace(0, 1, len(spectrum)), spectrum)
    return mixed(recording, np.fft.irfft(white * shape, n_samples), snr, f"noise {snr:g} dB")


def with_babble(recording: Recording, others: list[Recording], snr: float, seed: int) -> Recording:
    """The recording with some of the others, which speak at the same time and equally loudly."""
    others = [other for other in others if other.name != recording.name]
    if not others:
        raise SystemExit("--babble needs other recordings: give more sentences, or a folder of several.")
    chosen = generator(recording.name, seed).permutation(len(others))[:BABBLERS]
    voices = (np.resize(others[number].samples / 32768, len(recording.samples)) for number in chosen)
    return mixed(recording, sum(voice / voice.std() for voice in voices), snr, f"babble {snr:g} dB")


def at_speed(recording: Recording, speed: float) -> Recording:
    """The recording played faster or more slowly, with its times."""
    ratio = Fraction(speed).limit_denominator(100)
    samples = resample_poly(recording.samples / 32768, ratio.denominator, ratio.numerator)
    words = {suffix: [scaled(word, 1 / speed) for word in found] for suffix, found in recording.alignments.items()}
    return replace(changed(recording, f"speed {speed:g}", samples), alignments=words)


def scaled(word: dict, factor: float) -> dict:
    """A word or phone of an alignment with other times, and the phones of a word as well."""
    times = {"b": round(factor * word["b"], 3), "d": round(factor * word["d"], 3)}
    return word | times | ({"w": [scaled(phone, factor) for phone in word["w"]]} if "w" in word else {})


def transcriber(name: str) -> Callable[[Path], str]:
    model = load_model(name)
    text = SpeechToTextAttribution(SPES(model)).text

    def transcribe(path: Path) -> str:
        samples = load_audio(path, RATE)
        parts = (model.utterance(samples[begin:end]) for begin, end in split_at_pauses(samples, RATE, WINDOW))
        return " ".join(text(model.generate(part, max_new_tokens=MAX_NEW_TOKENS)) for part in parts)

    return transcribe


def write(recording: Recording, output: Path) -> dict[str, str]:
    """Writes the files of a recording, and returns its row of the manifest."""
    path = output / "audio" / f"{recording.name}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, recording.samples, RATE, subtype="PCM_16")
    for suffix, words in recording.alignments.items():
        whole = timed(normal(recording.text), 0.0, recording.seconds) | {"w": words}
        path.with_suffix(suffix).write_text(json.dumps(whole, separators=(",", ":")) + "\n")
    aligned = path.with_suffix(".json").relative_to(output).as_posix() if ".json" in recording.alignments else ""
    return {
        "file_name": path.relative_to(output).as_posix(),
        "transcription": recording.text,
        "voice": recording.voice,
        "gender": recording.gender,
        "condition": recording.condition,
        "duration": f"{recording.seconds:.3f}",
        "n_sentences": str(recording.n_sentences),
        "alignment": aligned,
        "source": recording.source,
    }


def write_csv(path: Path, columns: list[str], rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def recordings_of(args: argparse.Namespace) -> list[Recording]:
    """The recordings that the arguments ask for, and the same in noise, in babble, and at other speeds."""
    plan = [(voice, number) for number in range(1, args.n_sentences + 1) for voice in args.voices]
    if not args.every_voice:
        plan = [(args.voices[index % len(args.voices)], index + 1) for index in range(args.n_sentences)]
    lengths = args.joined, tuple(args.joined_seconds)
    folder = args.real or (REAL if REAL.is_dir() and not args.minimal_pair else None)
    if args.minimal_pair:
        recordings = list(minimal_pair(args.voices))
    elif args.join_real:
        human = list(real(args.real))
        recordings = list(joined(lambda _, number: human[number % len(human)], *lengths))
    else:
        recordings = [speak(*item) for item in plan] + list(joined(by_turns(args.voices), *lengths))
    if folder and not args.no_real and not args.join_real:
        recordings += real(folder)
    return [
        *recordings,
        *(with_noise(recording, snr, args.seed) for snr in args.snr for recording in recordings),
        *(with_babble(recording, recordings, snr, args.seed) for snr in args.babble for recording in recordings),
        *(at_speed(recording, speed) for speed in args.speed for recording in recordings),
    ]


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The arguments, after a check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="a new or empty folder")
    parser.add_argument("--voices", nargs="+", default=VOICES, help="of flite, or espeak:NAME (default: rms awb slt)")
    parser.add_argument("--every-voice", action="store_true", help="each sentence by all voices, not by one in turn")
    parser.add_argument("--minimal-pair", action="store_true", help="so and no in carrier sentences, and nothing else")
    parser.add_argument("--n-sentences", type=int, default=len(SENTENCES), help="only the first so many (default: 50)")
    parser.add_argument("--joined", type=int, default=6, metavar="N", help="utterances of some sentences (default: 6)")
    parser.add_argument(
        "--joined-seconds",
        type=float,
        nargs=2,
        default=JOINED_SECONDS,
        metavar=("FROM", "TO"),
        help="how long they are (default: 5 28)",
    )
    parser.add_argument("--snr", type=float, nargs="+", default=[], metavar="DB", help="each utterance also with noise")
    parser.add_argument("--babble", type=float, nargs="+", default=[], metavar="DB", help="each also in other voices")
    parser.add_argument("--speed", type=float, nargs="+", default=[], help="each also at these speeds, 0.5 to 2")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--real", type=Path, metavar="FOLDER", help="recordings with a manifest, or .txt beside them")
    parser.add_argument("--join-real", action="store_true", help="only those of --real, joined as by --joined")
    parser.add_argument("--no-real", action="store_true", help="no recordings, also where the default ones are there")
    parser.add_argument("--model", default="whisper-tiny.en", help="which should hear the utterances right")
    parser.add_argument("--max-wer", type=float, default=20, metavar="PERCENT", help="of what stays (default: 20)")
    parser.add_argument("--no-filter", action="store_true", help="every utterance stays, no model is run")
    args = parser.parse_args(arguments)
    if not 0 <= args.n_sentences <= len(SENTENCES):
        parser.error(f"--n-sentences is 0 to {len(SENTENCES)}, not {args.n_sentences}")
    if wrong := [speed for speed in args.speed if not 0.5 <= speed <= 2]:
        parser.error(f"--speed is 0.5 to 2, not {wrong[0]:g}")
    shortest, longest = args.joined_seconds
    if not JOINED_SECONDS[0] <= shortest <= longest - 2 * MARGIN:
        parser.error(f"--joined-seconds are {JOINED_SECONDS[0]:g} or more, and {2 * MARGIN} or more beyond them")
    if args.join_real and args.real is None:
        parser.error("--join-real needs --real FOLDER, whose recordings are joined")
    return args


def main(arguments: list[str] | None = None) -> None:
    args = parsed(arguments)
    if args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
        raise SystemExit(f"{args.output} is there and not an empty folder: give a new one.")
    if not args.join_real and (args.n_sentences or args.joined or args.minimal_pair):
        check_voices(args.voices)

    recordings = recordings_of(args)
    transcribe = None if args.no_filter else transcriber(args.model)
    rows, left_out = [], []
    for recording in tqdm(recordings, unit="utterance"):
        row = write(recording, args.output)
        path = args.output / row["file_name"]
        text = transcribe(path) if transcribe else ""
        error = wer([text], [recording.text]) if transcribe else 0
        if error <= args.max_wer:
            rows.append(row)
            continue
        left_out.append({**{key: row[key] for key in COLUMNS[:2]}, "model_text": text, "wer": f"{error:.1f}"})
        tqdm.write(f"left out, WER {error:.0f} %: {row['file_name']}: {recording.text!r} is heard as {text!r}")
        for suffix in (".wav", ".json", ".phone.json"):
            path.with_suffix(suffix).unlink(missing_ok=True)
    write_csv(args.output / "metadata.csv", COLUMNS, rows)
    if transcribe:
        write_csv(args.output / "left_out.csv", [*COLUMNS[:2], "model_text", "wer"], left_out)
    minutes = sum(float(row["duration"]) for row in rows) / 60
    print(f"{len(rows)} utterances, {minutes:.1f} minutes, in {args.output}; {len(left_out)} left out.")


if __name__ == "__main__":
    main()
