"""The number of pytest's workers, and the names and files for examples in docstrings.

Examples start from a model that is tiny and random, from recordings, and from explanations.
"""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from _pytest.doctest import DoctestItem

from tests.conftest import _tiny_whisper, audio, tiny_model, tiny_processor, tiny_whisper  # noqa: F401 (fixtures)

# modules of extras that are not installed
EXTRAS = {"gradio": "captum_spes/app/*.py", "anywidget": "captum_spes/visualization/report/widget.py"}
collect_ignore_glob = [modules for package, modules in EXTRAS.items() if find_spec(package) is None]


def pytest_xdist_auto_num_workers(config):
    """A worker for each core, at most eight; none if some tests are selected, because one process starts faster."""
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores, 8)


def pytest_itemcollected(item):
    """Examples have few samples, whose maps are noisy."""
    if isinstance(item, DoctestItem):
        item.add_marker(pytest.mark.filterwarnings("ignore:the maps are noisy"))


@pytest.fixture(autouse=True)
def _examples(request, monkeypatch):
    """Makes ``load_model`` return the tiny model, and provides ``speech.wav``, ``speech/`` and some names."""
    if not isinstance(request.node, DoctestItem):
        return
    source = "".join(example.source for example in request.node.dtest.examples)
    if "load_model(" in source:
        model = request.getfixturevalue("tiny_model")
        monkeypatch.setattr("captum_spes.models.load_model", lambda *args, **kwargs: model)
    if "speech" in source or "save" in source:
        monkeypatch.chdir(request.getfixturevalue("tmp_path"))
        write_speech(request.getfixturevalue("audio"))
    if "explanation" in source or "alignment" in source:
        names = request.getfixturevalue("doctest_namespace")
        names |= saved_explanations()


def write_speech(samples):
    """A recording, and a corpus of two."""
    import soundfile

    Path("speech").mkdir()
    for path in ("speech.wav", "speech/one.wav", "speech/two.wav"):
        soundfile.write(path, samples, 16000)
    Path("speech/metadata.csv").write_text("file_name,transcription,gender\none.wav,so,female\ntwo.wav,so,male\n")


def saved_explanations():
    """``explanations`` of *So no.*, four alike but for a little noise, and the times of their words and phones."""
    import torch

    from captum_spes import SpeechToTextExplanation
    from captum_spes.alignment import Alignment, Segment

    explanations = []
    for seed in range(4):
        spectrogram_attr = 0.1 * torch.rand(4, 15, 4, generator=torch.Generator().manual_seed(seed))
        spectrogram_attr[0, [2, 3, 5], [3, 3, 1]] += 1  # so, with a hiss
        spectrogram_attr[1, [9, 11], [0, 1]] += 1
        explanations.append(
            SpeechToTextExplanation(
                text="So no.",
                tokens=[" So", " no", ".", "<|endoftext|>"],
                previous_tokens=["<|startoftranscript|>", " So", " no", "."],
                spectrogram=torch.rand(15, 4, generator=torch.Generator().manual_seed(seed)),
                spectrogram_attr=spectrogram_attr,
                token_attr=torch.tensor([[0.5, 0, 0, 0], [0.1, 0.2, 0, 0], [0.1, 0.3, 0.9, 0], [0.1, 0.9, 0.2, 0.3]]),
                n_previous=torch.arange(1, 5),
                frames_per_second=10,
                mel_frequencies=torch.tensor([200.0, 1000.0, 3000.0, 6000.0]),
                reliability=torch.tensor([0.9, 0.9, 0.8, 0.7]),
                metadata={"method": "SPES"},
            )
        )
    alignment = Alignment(
        [Segment("so", 0.2, 0.6), Segment("no", 0.8, 1.2)],
        [Segment("S", 0.2, 0.4), Segment("OW", 0.4, 0.6), Segment("N", 0.8, 1.0), Segment("OW", 1.0, 1.2)],
        source="by hand",
    )
    return {
        "explanation": explanations[0],
        "explanations": explanations,
        "alignment": alignment,
        "alignments": [alignment] * len(explanations),
    }
