"""Evaluation of methods on a corpus: manifests, runs that can be resumed, results, and comparisons."""

from captum_spes.evaluation.cluster import Workers
from captum_spes.evaluation.comparison import Comparison
from captum_spes.evaluation.corpus import Corpus, CorpusUtterance, load_corpus
from captum_spes.evaluation.evaluation import Evaluation
from captum_spes.evaluation.results import Difference, MethodResult, Results

__all__ = [
    "Comparison",
    "Corpus",
    "CorpusUtterance",
    "Difference",
    "Evaluation",
    "MethodResult",
    "Results",
    "Workers",
    "load_corpus",
]
