"""Reproduces the paper's figures and tables of plausibility (§8), and compares the findings."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import as_file, files
from typing import TYPE_CHECKING

import numpy as np
import torch

from captum_spes import SpeechToTextExplanation
from captum_spes._text import markdown_table
from captum_spes.alignment import Alignment, find_alignment
from captum_spes.evaluation.corpus import Corpus, CorpusUtterance
from captum_spes.metrics import (
    FrequencyProfile,
    MeanComparison,
    context_share,
    frequency_profile,
    monotonicity,
    phone_boundaries,
    plot_frequency_profiles,
    plot_time,
    previous_token_saliency,
    time_localization,
    token_kurtosis,
)
from captum_spes.models import SpeechToTextModel, Tokens, Utterance, load_model
from captum_spes.segmentation import slic_feature_mask
from captum_spes.visualization import plot_segmentation

if TYPE_CHECKING:
    from paper import Study

SAMPLE = "so_what_was_the_next_step.wav"  # the paper's example sentence
LEVEL = 0.01  # significance level of the paper's tests
FEW_SAMPLES = 3_000  # fewer samples need large patches (Table 9)
SIBILANT, MURMUR = (4000.0, 1e6), (200.0, 400.0)  # Hz: /s/, and the murmur of /n/
N_TOP = 5

Claim = tuple[str, str, str, str]  # the claim, the paper's words, our result, the verdict
Items = list[CorpusUtterance]


# Functions that the experiments share


def spes(study: Study) -> str:
    """The name of SPES with patches that suit the number of samples."""
    return "spes" if study.n_samples >= FEW_SAMPLES else "spes_coarse"


def fine(study: Study) -> str:
    """The name of the method that shows details with this number of samples."""
    return "spes" if study.n_samples >= FEW_SAMPLES else "gradient_spes"


def verdict(test: MeanComparison) -> str:
    """The verdict on the claim that the difference is above 0."""
    one_sided = "one-sided" in test.test
    if test.p_value < LEVEL and test.difference > 0:
        return "holds"
    opposed = test.p_value > 1 - LEVEL if one_sided else test.p_value < LEVEL
    return "does not hold" if opposed and test.difference < 0 else "undecided"


def claim(what: str, paper: str, test: MeanComparison) -> Claim:
    return what, paper, str(test), verdict(test)


def claims_table(claims: list[Claim]) -> list[str]:
    return markdown_table([("claim", "paper", "ours", "verdict"), *claims])


def interval(value: float, ends: tuple[float, float], digits: int = 2) -> str:
    return f"{value:.{digits}f}" + ("" if np.isnan(ends[0]) else f" [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]")


def explained(study: Study, corpus: Corpus, methods: list[str]) -> dict[str, tuple[Items, list]]:
    """For each method the utterances, and their explanations."""
    evaluation = study.run(corpus, {name: study.methods[name] for name in methods})
    items = [item for item in corpus.utterances if item.id not in evaluation.problems]
    paths = {name: [evaluation.explanation_path(item, name) for item in items] for name in methods}
    return {name: (items, list(map(SpeechToTextExplanation.load, paths[name]))) for name in methods}


def aligned(study: Study, corpus: Corpus, methods: list[str]) -> dict[str, tuple[Items, list, list]]:
    """For each method the utterances whose alignment is known, their explanations, and the alignments."""
    known = {item.id: path for item in corpus.utterances if (path := find_alignment(item.path))}
    corpus = replace(corpus, utterances=[item for item in corpus.utterances if item.id in known])
    found = explained(study, corpus, methods)
    return {name: (*both, [Alignment.load(known[item.id]) for item in both[0]]) for name, both in found.items()}


def in_turn(items: Items) -> Items:
    """Utterances in an order that alternates between words and genders."""
    groups: dict[tuple[str, str], Items] = {}
    for item in items:
        groups.setdefault((item.fields["gender"], word_of(item)), []).append(item)
    return [item for row in range(len(items)) for group in groups.values() for item in group[row : row + 1]]


def word_of(item: CorpusUtterance) -> str:
    """The word of the minimal pair in an utterance, from the utterance's name."""
    return item.id.rsplit("-", 1)[-1]


def by_gender(profile: FrequencyProfile, items: Items) -> dict[str, FrequencyProfile]:
    numbers = {g: [n for n, item in enumerate(items) if item.fields["gender"] == g] for g in ("female", "male")}
    return {"women": profile.of(numbers["female"]), "men": profile.of(numbers["male"])}


# The experiments


def figure1(study: Study) -> None:
    """A spectrogram and its segmentation by SLIC."""
    utterance, tokens = prepared_sample(study, study.model)
    rate = study.model.frames_per_second
    mask = slic_feature_mask(utterance.spectrogram, 400, frames_per_second=rate)
    frequencies = torch.from_numpy(study.model.mel_frequencies)
    study.write("figure1.png", plot_segmentation(mask[0, 0], utterance.spectrogram[0], rate, frequencies))
    text = "".join(study.model.token_texts(tokens.target[:-1])).strip()
    study.report([f"The patches of {text!r}, 400 a second, the coarsest of the three granularities.", *study.origin()])


def prepared_sample(study: Study, model: SpeechToTextModel) -> tuple[Utterance, Tokens]:
    attribution = study.methods[fine(study)].wrap(model)
    with as_file(files("captum_spes") / "data" / SAMPLE) as path:
        return attribution.prepare(path, context=study.context, dtype="auto")


def figure3(study: Study) -> None:
    """The example sentence, transcribed and translated: maps, previous tokens, and monotonicity."""
    rows = [("language", "text", "tau", "steps forward")]
    for language in ("en", "de", "es"):
        model = load_model("whisper-base", device=study.args.device, language=language)
        prepared = prepared_sample(study, model)
        explanation = study.methods[fine(study)].explain(model, *prepared, "paper", seed=study.args.seed)
        study.write(f"figure3-{language}.png", explanation.plot_tokens())
        study.write(f"figure3-{language}-previous-tokens.png", explanation.plot_previous_tokens())
        found = monotonicity(explanation)
        rows.append((language, explanation.text, f"{found.mean:.2f}", f"{100 * found.forward[0]:.0f} %"))
    study.report([*markdown_table(rows), *study.origin("whisper-base")])


def figure7(study: Study) -> None:
    """The frequencies of the minimal pair so and no, and of so for women and men."""
    items, explanations, alignments = aligned(study, study.corpus(in_turn), ["gradient_spes"])["gradient_spes"]
    so, no = (frequency_profile(explanations, alignments, word) for word in ("so", "no"))
    s, n = (frequency_profile(explanations, alignments, phone, level="phone") for phone in ("S", "N"))
    voices = by_gender(so, items)
    everyone = by_gender(frequency_profile(explanations, alignments), items)
    study.write("figure7-words.png", plot_frequency_profiles({"so": so, "no": no}, "so and no"))
    study.write("figure7-phones.png", plot_frequency_profiles({"/s/": s, "/n/": n}, "/s/ and /n/ of all words"))
    study.write("figure7-voices.png", plot_frequency_profiles(voices, "so, by voices"))
    found = [
        claim("so above no, over 4 kHz", "high above 4,000 Hz for so", so.compare_band(no, *SIBILANT)),
        claim("no above so, 200 to 400 Hz", "a prominent peak around 300 Hz for no", no.compare_band(so, *MURMUR)),
        claim("/s/ above /n/, over 4 kHz", "", s.compare_band(n, *SIBILANT)),
        claim("/n/ above /s/, 200 to 400 Hz", "", n.compare_band(s, *MURMUR)),
        claim("so: women above men, mean frequency (Hz)", "slightly higher", higher(voices)),
        claim("all words: women above men, mean frequency (Hz)", "", higher(everyone)),
    ]
    rows = [("profile", "n", "mean frequency (Hz)", "largest at (Hz)")]
    for name, profile in {"so": so, "no": no, "/s/": s, "/n/": n, **{f"so, {k}": v for k, v in voices.items()}}.items():
        frequency = interval(profile.mean_frequency, profile.mean_frequency_interval, 0)
        rows.append((name, str(len(profile)), frequency, f"{profile.frequencies[profile.mean.argmax()]:.0f}"))
    study.report([*claims_table(found), "", *markdown_table(rows), *study.footer(items)])


def higher(voices: dict[str, FrequencyProfile]) -> MeanComparison:
    return voices["women"].compare_mean_frequency(voices["men"])


def example(study: Study, word: str) -> None:
    """One map of a word (paper, Fig. 8 and 9)."""
    study.n_utterances = 1
    corpus = study.corpus(lambda items: [item for item in items if word_of(item) == word])
    items, [explanation] = explained(study, corpus, [fine(study)])[fine(study)]
    study.write(f"{study.args.experiment}.png", explanation.plot_words(subset=[word], figsize=(6.5, 4)))
    study.report([f"The map of *{word}* in {explanation.text!r}, by {fine(study)}.", *study.footer(items)])


def figure8(study: Study) -> None:
    example(study, "so")


def figure9(study: Study) -> None:
    example(study, "no")


def figure10(study: Study) -> None:
    """Kurtosis by token, and which words were heard and which guessed."""
    items, explanations = explained(study, study.corpus(), [spes(study)])[spes(study)]
    kurtosis = token_kurtosis(explanations, min_count=study.args.min_count)
    if kurtosis.means:
        study.write("figure10.png", kurtosis.plot(N_TOP))
    shares = context_share(explanations)
    study.write("context.png", shares.plot(int(np.argmax([len(tokens) for tokens in shares.tokens]))))
    words, text = "full words above punctuation and </s>", "punctuation and </s> depend on the text before"
    found = [
        claim("kurtosis: words above the others", words, kurtosis.test),
        claim("share of the text before: others above words", text, shares.test),
    ]
    rows = [("", "words", "punctuation", "marks", "largest", "smallest")]
    ends = [" ".join(f"`{token}`" for token in tokens) for tokens in (kurtosis.top(N_TOP), kurtosis.bottom(N_TOP))]
    rows.append(("kurtosis", *(interval(kurtosis.mean(k), kurtosis.interval(k)) for k in kurtosis.values), *ends))
    means = (interval(shares.mean(kind), shares.interval(kind)) for kind in kurtosis.values)
    rows.append(("share of the text before", *means, "", ""))
    data = {"means": kurtosis.means, "counts": kurtosis.counts}
    study.write("figure10.json", json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    note = f"Largest and smallest of the tokens that occur {study.args.min_count} times or more (the paper's: 100)."
    study.report([*claims_table(found), "", *markdown_table(rows), "", note, *study.footer(items)])


def figure11(study: Study) -> None:
    """Previous tokens by position."""
    items, explanations = explained(study, study.corpus(), [spes(study)])[spes(study)]
    saliency = previous_token_saliency(explanations, min_count=study.args.min_count)
    study.write("figure11.png", saliency.plot())
    found = [
        claim("last token above start tokens", "highest mean", saliency.compare("last", "start")),
        claim("last token above intermediate ones", "highest mean", saliency.compare("last", "intermediate")),
        claim("start tokens above intermediate ones", "second", saliency.compare("start", "intermediate")),
    ]
    rows = [("position", "mean")]
    rows += [(position, interval(saliency.mean(position), saliency.interval(position))) for position in saliency.values]
    study.report([*claims_table(found), "", *markdown_table(rows), *study.footer(items)])


def table10(study: Study) -> None:
    """Tokens that an intermediate token explains most."""
    items, explanations = explained(study, study.corpus(), [spes(study)])[spes(study)]
    saliency = previous_token_saliency(explanations, min_count=study.args.min_count)
    rows = [("token", "occurrences", "explained by an intermediate token", "by")]
    for item in saliency.explained:
        by = ", ".join(f"`{text}` [{n}]" for text, n in item.by[:2])
        rows.append((f"`{item.token}`", str(item.count), f"{100 * item.share:.1f} %", by))
    lines = markdown_table(rows) if len(rows) > 1 else ["No token is."]
    note = (
        f"Of {saliency.n_often} tokens that occur {study.args.min_count} times or more (the paper's: 100), those that "
        "an intermediate token explains most in a quarter of their occurrences. The paper has `)` by `(` and `?` by "
        "`What`."
    )
    study.report([note, "", *lines, *study.footer(items)])


def time_localisation(study: Study) -> None:
    """Words in time, for real and for synthesised speech, with the control and the baseline methods."""
    methods = [spes(study), "gradient_spes", "energy", "random"]
    runs = aligned(study, study.corpus(), methods)
    items = next(iter(runs.values()))[0]
    groups = {
        kind: [n for n, item in enumerate(items) if (item.fields["voice"] == "human") == (kind == "real")]
        for kind in ("real", "synthesised")
    }
    found: list[Claim] = []
    rows = [
        (
            "speech",
            "method",
            "words",
            "less other words",
            "peaks in the span (chance)",
            "high frames, precision / recall",
            "offset (ms)",
            "phone onsets, precision (chance)",
            "tau",
        )
    ]
    for kind, numbers in groups.items():
        for method, (_, explanations, alignments) in runs.items():
            if numbers:
                chosen = [explanations[n] for n in numbers], [alignments[n] for n in numbers]
                found += time_claims(f"{kind}, {method}", chosen)
                rows.append((kind, method, *time_cells(chosen)))
    longest = max(range(len(items)), key=lambda n: len(runs[methods[0]][1][n].tokens))
    for method in methods[:2]:
        study.write(f"time-{method}.png", plot_time(runs[method][1][longest], runs[method][2][longest]))
    study.report([*claims_table(found), "", *markdown_table(rows), *study.footer(items)])


def time_claims(name: str, chosen: tuple[list, list]) -> list[Claim]:
    found = time_localization(*chosen)
    shuffled = time_localization(*chosen, maps="shuffled")
    what = f"{name}: inside the word's span above outside"
    return [claim(what, "p < 0.01", found.test), claim(f"{what}, shuffled", "", shuffled.test)]


def time_cells(chosen: tuple[list, list]) -> list[str]:
    found = time_localization(*chosen)
    other = found.test_against_other_words
    onsets = phone_boundaries(*chosen).onsets
    order = monotonicity(chosen[0])
    return [
        str(len(found.words)),
        str(other),
        f"{100 * found.mean('hit'):.0f} % ({100 * found.mean('chance'):.0f} %)",
        f"{100 * found.mean('precision'):.0f} % / {100 * found.mean('recall'):.0f} %",
        f"{1000 * float(np.median([word.offset for word in found.words])):+.0f}",
        f"{100 * onsets.precision:.0f} % ({100 * onsets.chance_precision:.0f} %)",
        "" if np.isnan(order.mean) else interval(order.mean, order.interval),
    ]


EXPERIMENTS: dict[str, tuple[str, Callable[[Study], None]]] = {
    "figure1": ("Figure 1: a spectrogram and its patches", figure1),
    "figure3": ("Figure 3: the example sentence, transcribed and translated", figure3),
    "figure7": ("Figure 7: so and no, women and men", figure7),
    "figure8": ("Figure 8: a map of so", figure8),
    "figure9": ("Figure 9: a map of no", figure9),
    "figure10": ("Figure 10: kurtosis by token", figure10),
    "figure11": ("Figure 11: previous tokens by position", figure11),
    "table10": ("Table 10: tokens explained by intermediate tokens", table10),
    "time_localisation": ("Words in time (§8.1)", time_localisation),
}
