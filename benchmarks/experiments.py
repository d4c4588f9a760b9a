"""The paper's tables and figures of faithfulness and compactness: their methods, and their numbers.

Numbers are those of Fucci et al. (2024, arXiv:2411.01710): a Conformer on MuST-C, for speech recognition and, where the
paper has them, for translation from English.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, product

from torch import Tensor

from captum_spes.segmentation import slic_feature_mask
from captum_spes.speech_to_text.catalogue import FLOORS, METHODS, NamedMethod

N_SAMPLES = 20_000  # N_X, paper §6
Methods = dict[str, NamedMethod]
Mask = Callable[[Tensor], Tensor]
Paper = Mapping[str, Mapping[str, float]]  # by metric and method


@dataclass(frozen=True)
class Ordering:
    """A claim of the paper that the mean of some methods is better than that of others by a metric."""

    metric: str
    better: tuple[str, ...]
    worse: tuple[str, ...]
    claim: str


@dataclass(frozen=True)
class Experiment:
    """A table or figure of the paper.

    Attributes:
        title: title of the table.
        methods: makes the methods by name, for a number of samples.
        paper: the paper's number for each method, by metric.
        orderings: the claims that follow from these numbers.
        seconds: durations of the utterances; validation was done on 5 to 10 s.
        metrics: the metrics.
        quick: the methods of the quick setting; None for all.
        n_groups: number of groups of utterances that are analysed separately.
        long: whether it is about long utterances; those beyond the window are explained in parts.
    """

    title: str
    methods: Callable[[int], Methods]
    paper: Paper
    orderings: list[Ordering]
    seconds: tuple[float, float] = (0, 30)
    metrics: tuple[str, ...] = ("deletion",)
    quick: tuple[str, ...] | None = None
    n_groups: int = 1
    long: bool = False


def spes(n_samples: int, mask: Mask | None = None, name: str = "spes", **arguments) -> NamedMethod:
    """SPES or a variant; the tokens have the paper's budget, or a tenth of the spectrogram's samples (paper §6)."""
    given = {"n_samples": n_samples, "n_token_samples": max(n_samples // 10, 50), **arguments}
    method = METHODS[name]
    if method.arguments.get("joint"):
        del given["n_token_samples"]
    if name != "bubble_noise":
        mask = mask or method.feature_mask or slic()  # the paper's patches, for any number of samples
    return replace(method, feature_mask=mask, arguments={**method.arguments, **given})


def slic(**arguments) -> Mask:
    return partial(slic_feature_mask, **arguments)


def bubbles(n_samples: int, **arguments) -> NamedMethod:
    """Bubble Noise with at most the paper's 1,000 samples (§6)."""
    return spes(min(n_samples, 1_000), name="bubble_noise", **arguments)


def floors() -> Methods:
    return {name: METHODS[name] for name in FLOORS}


def best_first(metric: str, values: Mapping[str, float], higher_is_better: bool = True) -> list[Ordering]:
    """The claims that the paper's best method is better than each of the others."""
    ranked = sorted(values, key=values.__getitem__, reverse=higher_is_better)
    return [pair(metric, ranked[0], other) for other in ranked[1:]]


def ranked(metric: str, values: Mapping[str, float], higher_is_better: bool = True) -> list[Ordering]:
    """The claims that each method is better than all methods that are worse in the paper."""
    names = sorted(values, key=values.__getitem__, reverse=higher_is_better)
    return [pair(metric, *two) for two in combinations(names, 2)]


def pair(metric: str, better: str, worse: str) -> Ordering:
    return Ordering(metric, (better,), (worse,), f"{better} better than {worse}")


# Table 1: the methods, and SPES without one of its parts

TABLE1_DELETION = {
    "feature_wise": 71.39,
    "bubble_noise": 65.02,
    "spes": 92.54,
    "spes_single_granularity": 92.22,
    "spes_grid": 90.73,
    "spes_fixed_patches": 92.37,
    "spes_probability": 87.44,
}
TABLE1_SIZE = {
    "feature_wise": 47.85,
    "bubble_noise": 36.92,
    "spes": 29.71,
    "spes_single_granularity": 29.94,
    "spes_grid": 33.31,
    "spes_fixed_patches": 30.45,
    "spes_probability": 29.85,
}


def table1_methods(n_samples: int) -> Methods:
    return {
        **{
            name: bubbles(n_samples) if name == "bubble_noise" else spes(n_samples, name=name)
            for name in TABLE1_DELETION
        },
        # the paper does not have these
        "gradient_spes": METHODS["gradient_spes"].with_samples(96),
        **{name: METHODS[name] for name in ("integrated_gradients", "attn_lrp", "cross_attention")},
        **floors(),
    }


def table1_orderings(paper: Paper, higher_is_better: bool = True) -> list[Ordering]:
    better, worse = ("feature_wise", "bubble_noise")
    return [
        *best_first("deletion", paper["deletion"], higher_is_better),
        pair("deletion", better, worse),
        *best_first("size", paper["size"], higher_is_better=False),
        pair("size", worse, better),
    ]


# the paper tests the map of the sentence; comprehensiveness and sufficiency test those of the tokens
TESTS = ("deletion", "insertion", "comprehensiveness", "sufficiency", "size")
OTHERS = ("integrated_gradients", "gradient_spes", "attn_lrp", "energy")
TABLE1_PAPER = {"deletion": TABLE1_DELETION, "size": TABLE1_SIZE}
TABLE1 = Experiment(
    "Table 1: methods and ablations",
    table1_methods,
    TABLE1_PAPER,
    # the last are not the paper's
    [*table1_orderings(TABLE1_PAPER), *(pair("deletion", "spes", name) for name in OTHERS)],
    metrics=TESTS,
)

# Table 3: patches, smoothing, probability, and whether tokens are normalised

TABLE3_PATCHES = ((500, 1000, 2000), (1000, 1500, 2000), (2000, 2500, 3000), (3000, 3500, 4000), (1000, 2500, 5000))
TABLE3_PROBS = (0.3, 0.5, 0.7)
NORMALIZED, AS_THEY_ARE = "", ", not normalised"
# without and with normalisation, in the order of the paper's rows: patches, sigma, probability
TABLE3_NUMBERS = (
    *(91.75, 91.90, 91.95, 92.87, 84.90, 91.94, 91.92, 91.88, 92.29, 93.32, 85.26, 91.94),
    *(93.38, 93.09, 93.41, 94.56, 84.49, 92.45, 92.93, 92.62, 93.71, 94.71, 84.82, 92.65),
    *(93.73, 93.28, 94.12, 95.37, 83.02, 91.88, 93.62, 93.18, 93.78, 95.05, 82.45, 91.93),
    *(92.99, 92.51, 92.39, 94.24, 80.01, 90.25, 92.37, 91.75, 91.35, 93.94, 78.55, 88.70),
    *(92.56, 92.07, 92.46, 93.94, 83.00, 91.06, 91.61, 91.17, 92.29, 93.87, 82.87, 91.06),
)
TABLE3_CONFIGURATIONS = list(product(TABLE3_PATCHES, (0, 1), TABLE3_PROBS))


def table3_name(patches: tuple[int, ...], sigma: int, prob: float) -> str:
    return f"{'-'.join(map(str, patches))}, sigma {sigma}, p {prob:g}"


TABLE3 = {
    table3_name(*configuration) + kind: TABLE3_NUMBERS[2 * row + column]
    for row, configuration in enumerate(TABLE3_CONFIGURATIONS)
    for column, kind in enumerate((AS_THEY_ARE, NORMALIZED))
}


def table3_orderings() -> list[Ordering]:
    """The paper's three findings (A.2.1), each with the values that the paper chose for the other parameters."""
    chosen = table3_name((2000, 2500, 3000), 0, 0.5)
    names = [table3_name(*configuration) for configuration in TABLE3_CONFIGURATIONS]
    middle, *others = (tuple(n for n in names if n.endswith(f"p {prob:g}")) for prob in (0.5, 0.3, 0.7))
    return [
        *(pair("deletion", chosen, table3_name(k, 0, 0.5)) for k in TABLE3_PATCHES if k != (2000, 2500, 3000)),
        pair("deletion", chosen, table3_name((2000, 2500, 3000), 1, 0.5)),
        *(
            Ordering("deletion", middle, other, f"p 0.5 better than p {prob}, mean of all")
            for prob, other in zip((0.3, 0.7), others)
        ),
        Ordering(
            "deletion",
            tuple(names),
            tuple(name + AS_THEY_ARE for name in names),
            "normalised better than not, mean of all",
        ),
    ]


def table3_methods(n_samples: int) -> Methods:
    """Each configuration once; maps without normalisation are made of the same explanations."""
    return {
        table3_name(patches, sigma, prob): spes(n_samples, slic(n_patches=patches, sigma=sigma), perturbation_prob=prob)
        for patches, sigma, prob in TABLE3_CONFIGURATIONS
    }


# Tables 4 to 8: other hyper-parameters

TOKEN_PROBS = tuple(number / 10 for number in range(1, 10))
TABLE4_JOINT = dict(zip(TOKEN_PROBS, (83.72, 79.77, 77.48, 74.36, 71.02, 69.79, 66.57, 63.31, 62.71)))
TABLE4_SEPARATE = dict(zip(TOKEN_PROBS, (94.49, 94.48, 94.45, 94.50, 94.49, 94.48, 94.47, 94.42, 94.42)))
TABLE4 = {
    **{f"joint, p_tok {prob:g}": value for prob, value in TABLE4_JOINT.items()},
    **{f"separate, p_tok {prob:g}": value for prob, value in TABLE4_SEPARATE.items()},
}
TABLE5 = {f"tau {tau:g} s": value for tau, value in {2.5: 93.01, 5.0: 93.91, 7.5: 94.03, 10.0: 93.91}.items()}
TABLE6 = {f"p_spec {p:g}": value for p, value in {0.5: 74.79, 0.6: 76.63, 0.7: 79.29, 0.8: 78.49, 0.9: 58.67}.items()}
TABLE7 = {
    f"p_tok {prob:g}": value
    for prob, value in zip(TOKEN_PROBS, (77.38, 77.31, 77.29, 77.21, 77.17, 77.18, 77.21, 77.10, 77.06))
}
# bubbles a second, their width in seconds and height in mel channels
BUBBLES = {"10 bubbles": (10, 0.43, 31), "35 bubbles": (35, 0.25, 15), "115 bubbles": (115, 0.13, 9)}
TABLE8 = {"10 bubbles": 69.40, "35 bubbles": 59.07, "115 bubbles": 56.97}


def table4_methods(n_samples: int) -> Methods:
    names = {"joint": "spes_joint", "separate": "spes"}
    return {
        f"{kind}, p_tok {prob:g}": spes(n_samples, name=name, token_perturbation_prob=prob)
        for kind, name in names.items()
        for prob in TOKEN_PROBS
    }


def table5_methods(n_samples: int) -> Methods:
    return {f"tau {tau:g} s": spes(n_samples, slic(max_seconds=tau)) for tau in (2.5, 5.0, 7.5, 10.0)}


def table6_methods(n_samples: int) -> Methods:
    probs = (0.5, 0.6, 0.7, 0.8, 0.9)
    return {f"p_spec {p:g}": spes(n_samples, name="feature_wise", perturbation_prob=p) for p in probs}


def table7_methods(n_samples: int) -> Methods:
    return {f"p_tok {p:g}": spes(n_samples, name="feature_wise", token_perturbation_prob=p) for p in TOKEN_PROBS}


def table8_methods(n_samples: int) -> Methods:
    return {
        name: bubbles(n_samples, bubbles_per_second=count, bubble_seconds=width, bubble_channels=height)
        for name, (count, width, height) in BUBBLES.items()
    }


# Table 9: as few samples for all

TABLE9_DELETION = {"bubble_noise": 65.02, "spes_fine": 75.22, "spes_coarse": 79.71}
TABLE9_SIZE = {"bubble_noise": 36.92, "spes_fine": 39.54, "spes_coarse": 26.91}


TABLE9_PAPER = {"deletion": TABLE9_DELETION, "size": TABLE9_SIZE}


def table9_orderings(paper: Paper, higher_is_better: bool = True) -> list[Ordering]:
    return [
        *ranked("deletion", paper["deletion"], higher_is_better),
        *ranked("size", paper["size"], higher_is_better=False),
    ]


def table9_methods(n_samples: int) -> Methods:
    n_samples = min(n_samples, 1_000)
    return {
        "bubble_noise": bubbles(n_samples),
        "spes_fine": spes(n_samples),
        "spes_coarse": spes(n_samples, slic(patches_per_second=(20, 40, 60))),
        **floors(),
    }


# Robustness, which the paper leaves open: the main rows of Table 1 again

MAIN = ("feature_wise", "bubble_noise", "spes")


def main_methods(n_samples: int) -> Methods:
    return {name: method for name, method in table1_methods(n_samples).items() if name in (*MAIN, *FLOORS)}


# Plausibility (§8): SPES, its few samples of large patches, as Table 9 advises, and its gradient


def plausibility_methods(n_samples: int) -> Methods:
    draws = min(max(n_samples // 50, 12), 96)
    return {
        "spes": spes(n_samples),
        "spes_coarse": table9_methods(n_samples)["spes_coarse"],
        "gradient_spes": spes(draws, name="gradient_spes", n_token_samples=draws),
        **floors(),
    }


# Figure 2: numbers of patches, by the length of the utterance

LENGTHS = (5, 10, 15, 20, 30, 60, 90)  # seconds: where groups of utterances end


def figure2_methods(n_samples: int) -> Methods:
    return {
        "dynamic": spes(n_samples, slic(max_seconds=1e6)),
        "static": spes(n_samples, slic(n_patches=(2000, 2500, 3000))),
        "dynamic with threshold": spes(n_samples),
    }


FIGURE2 = [pair("deletion", "dynamic with threshold", other) for other in ("static", "dynamic")]

EXPERIMENTS = {
    "plausibility": Experiment("Plausibility", plausibility_methods, {}, [], metrics=("size",)),
    "table1": TABLE1,
    "table3": Experiment(
        "Table 3: patches, sigma, probability, normalisation",
        table3_methods,
        {"deletion": TABLE3},
        table3_orderings(),
        seconds=(5, 10),
        quick=tuple(table3_name(k, 0, p) for k in TABLE3_PATCHES[1:3] for p in TABLE3_PROBS),
    ),
    "table4": Experiment(
        "Table 4: joint and separate perturbation of the previous tokens",
        table4_methods,
        {"deletion": TABLE4},
        [pair("deletion", f"separate, p_tok {p:g}", f"joint, p_tok {p:g}") for p in TOKEN_PROBS],
        seconds=(5, 10),
        quick=tuple(f"{kind}, p_tok {p}" for kind in ("joint", "separate") for p in (0.1, 0.4, 0.9)),
    ),
    "table5": Experiment(
        "Table 5: the threshold duration",
        table5_methods,
        {"deletion": TABLE5},
        best_first("deletion", TABLE5),
    ),
    "table6": Experiment(
        "Table 6: the feature-wise baseline's probability for the spectrogram",
        table6_methods,
        {"deletion": TABLE6},
        best_first("deletion", TABLE6),
        seconds=(5, 10),
    ),
    "table7": Experiment(
        "Table 7: the feature-wise baseline's probability for the previous tokens",
        table7_methods,
        {"deletion": TABLE7},
        best_first("deletion", TABLE7),
        seconds=(5, 10),
        quick=("p_tok 0.1", "p_tok 0.5", "p_tok 0.9"),
    ),
    "table8": Experiment(
        "Table 8: sizes and numbers of bubbles",
        table8_methods,
        {"deletion": TABLE8},
        [pair("deletion", *names) for names in combinations(TABLE8, 2)],
        seconds=(5, 10),
    ),
    "table9": Experiment(
        "Table 9: Bubble Noise and SPES with 1,000 samples",
        table9_methods,
        TABLE9_PAPER,
        table9_orderings(TABLE9_PAPER),
        metrics=TESTS,
    ),
    "figure2": Experiment(
        "Figure 2: deletion by duration",
        figure2_methods,
        {},
        FIGURE2,
        seconds=(0, LENGTHS[-1]),
        n_groups=len(LENGTHS),
        long=True,
    ),
    "figure4": Experiment(
        "Figure 4: time by duration",
        lambda n_samples: {"spes": spes(n_samples)},
        {},
        [],
        seconds=(0, LENGTHS[-1]),
        metrics=("size",),
        long=True,
    ),
    "robustness": Experiment(
        "Robustness: noise, babble, speed and voices",
        main_methods,
        {},
        [
            pair(metric, better, worse)
            for metric, better, worse in (
                ("deletion", "spes", "feature_wise"),
                ("deletion", "spes", "bubble_noise"),
                ("size", "spes", "feature_wise"),
                ("size", "spes", "bubble_noise"),
            )
        ],
        metrics=("deletion", "insertion", "size"),
        n_groups=6,
    ),
}

# Translation from English: deletion is of BLEU, of which a faithful map leaves little

LANGUAGES = {"de": "German", "es": "Spanish"}
# the rows of the paper's tables, in the order of those for speech recognition
TRANSLATION = {
    "table1": {
        "de": {
            "deletion": (8.79, 10.85, 2.34, 2.49, 2.84, 2.35, 4.76),
            "size": (48.53, 43.89, 29.28, 29.62, 33.09, 31.10, 30.98),
        },
        "es": {
            "deletion": (9.03, 13.01, 2.45, 2.56, 2.93, 2.46, 4.99),
            "size": (46.00, 43.04, 29.47, 29.78, 32.90, 30.95, 30.74),
        },
    },
    "table5": {"de": {"deletion": (2.47, 2.34, 2.41, 2.49)}, "es": {"deletion": (2.91, 2.58, 2.62, 2.77)}},
    "table9": {
        "de": {"deletion": (10.85, 6.84, 5.14), "size": (43.89, 40.06, 28.58)},
        "es": {"deletion": (13.01, 7.41, 6.10), "size": (43.04, 39.66, 27.17)},
    },
}
TRANSLATION_ORDERINGS: dict[str, Callable[[Paper], list[Ordering]]] = {
    "table1": partial(table1_orderings, higher_is_better=False),
    "table5": lambda paper: best_first("deletion", paper["deletion"], higher_is_better=False),
    "table9": partial(table9_orderings, higher_is_better=False),
}


def translation(name: str, language: str) -> Experiment:
    """An experiment on translations from English."""
    experiment = EXPERIMENTS[name]
    paper = {
        metric: dict(zip(experiment.paper[metric], values, strict=True))
        for metric, values in TRANSLATION[name][language].items()
    }
    title = f"{experiment.title}, English to {LANGUAGES[language]}"
    return replace(experiment, title=title, paper=paper, orderings=TRANSLATION_ORDERINGS[name](paper))
