"""Toy models and real ones. Tests that need the bundled model or recordings are skipped if these are missing."""

import copy
import logging
import os
import shutil
import signal
import sys
from pathlib import Path

# Both are set before torch and transformers are imported, and are inherited by the processes that tests start.
os.environ["HF_HUB_OFFLINE"] = "1"  # no test waits for a hub
os.environ["OMP_NUM_THREADS"] = "1"  # each pytest worker has a core of its own

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import settings

matplotlib.use("Agg")
settings.register_profile("shared machines", deadline=None)  # how long an example takes says nothing of the code
settings.load_profile("shared machines")
torch.set_num_threads(1)

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def tiny_processor():
    """A Whisper processor with 16 mel channels, a window of 1 s and a small byte-level vocabulary."""
    pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import WhisperFeatureExtractor, WhisperProcessor, WhisperTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [" so what was the next step? in his power to do"],
        trainers.BpeTrainer(
            vocab_size=290,
            special_tokens=["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    end = "<|endoftext|>"
    fast = WhisperTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, pad_token=end, unk_token=end)
    return WhisperProcessor(WhisperFeatureExtractor(feature_size=16, chunk_length=1), fast)


@pytest.fixture(scope="session")
def _tiny_whisper(tiny_processor):
    """The model that :func:`tiny_whisper` copies, which is five times faster than making another one."""
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(0)
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "decoder_start_token_id": 1}
    config = WhisperConfig(
        vocab_size=len(tiny_processor.tokenizer),
        d_model=16,
        num_mel_bins=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_source_positions=50,
        max_target_positions=24,
        init_std=0.4,
        **ids,
    )
    model = WhisperForConditionalGeneration(config).eval()
    model.generation_config = GenerationConfig(no_timestamps_token_id=2, max_length=24, is_multilingual=False, **ids)
    return model


@pytest.fixture
def tiny_whisper(_tiny_whisper):
    """A random Whisper in eval mode, which a test may change."""
    torch.manual_seed(0)
    return copy.deepcopy(_tiny_whisper)


@pytest.fixture
def tiny_model(tiny_whisper, tiny_processor):
    from captum_spes.models import load_model

    return load_model(tiny_whisper, tiny_processor)


@pytest.fixture
def audio():
    """0.6 s of a rising tone in noise at 16 kHz."""
    time = np.arange(9600) / 16000
    noise = np.random.default_rng(0).normal(0, 0.02, len(time))
    return (0.3 * np.sin(2 * np.pi * (300 + 900 * time) * time) + noise).astype(np.float32)


@pytest.fixture(scope="session")
def bundled_model():
    from captum_spes.models import load_model
    from captum_spes.models.bundled import BUNDLES

    if BUNDLES["whisper-tiny.en"].find() is None:
        pytest.skip("the bundled model is not installed (extra: demo)")
    return load_model("whisper-tiny.en", device="cpu")


@pytest.fixture(scope="session")
def sample():
    """Path of the bundled recording."""
    import captum_spes

    return Path(captum_spes.__file__).parent / "data" / "so_what_was_the_next_step.wav"


@pytest.fixture
def librivox():
    folder = SHARED / "speech" / "librivox"
    if not folder.is_dir():
        pytest.skip("the LibriVox sentences are not beside this checkout")
    return folder


@pytest.fixture(autouse=True)
def no_font_is_told(monkeypatch):
    """Resets the warnings about characters without a font, which a process gives once."""
    monkeypatch.setattr("captum_spes.visualization._text._told", set())


@pytest.fixture
def cases():
    folder = SHARED / "cases"
    if not folder.is_dir():
        pytest.skip("the inputs that once went wrong are not beside this checkout")
    return folder


@pytest.fixture
def author_reference():
    folder = SHARED / "author_reference"
    if not folder.is_dir():
        pytest.skip("the author reference is not beside this checkout")
    return folder


@pytest.fixture
def tiny_folder(tiny_whisper, tiny_processor, tmp_path):
    folder = tmp_path / "tiny-whisper"
    tiny_whisper.save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    return folder


@pytest.fixture
def multilingual_folder(tiny_whisper, tiny_processor, tmp_path):
    config = tiny_whisper.generation_config
    config.is_multilingual = True
    config.lang_to_id = {"<|en|>": 70, "<|de|>": 71}
    config.task_to_id = {"transcribe": 80, "translate": 81}
    tiny_whisper.save_pretrained(tmp_path / "multilingual")
    tiny_processor.save_pretrained(tmp_path / "multilingual")
    return tmp_path / "multilingual"


@pytest.fixture(autouse=True)
def _logger(monkeypatch):
    """Takes away the handler that the command gives the logger."""
    logger = logging.getLogger("captum_spes")
    monkeypatch.setattr(logger, "handlers", logger.handlers[:])
    monkeypatch.setattr(logger, "propagate", logger.propagate)


@pytest.fixture
def recording(audio, tmp_path):
    import soundfile

    path = tmp_path / "recording.wav"
    soundfile.write(path, audio, 16000)
    return path


@pytest.fixture(scope="module")
def benchmarks():
    """Makes the scripts of benchmarks/ importable."""
    folder = str(Path(__file__).resolve().parents[1] / "benchmarks")
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)


@pytest.fixture(autouse=True)
def interrupt():
    """The command line sets a handler of Ctrl-C, which would stay in this process."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs the command line in an empty folder; returns exit code, stdout and stderr."""
    from captum_spes.__main__ import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["captum-spes", *map(str, arguments)])
        monkeypatch.setattr("warnings.showwarning", None)
        with pytest.raises(SystemExit) as exit_info:
            main()
            raise SystemExit(0)
        return (exit_info.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def browser():
    """Chromium, which ends with the module, because its event loop would disturb other tests."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra: dev)")
    system = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with api.sync_playwright() as playwright:
        if system is None and not os.path.exists(playwright.chromium.executable_path):
            pytest.skip("no browser: install Debian's chromium, or run `playwright install chromium`")
        arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        browser = playwright.chromium.launch(executable_path=system, args=arguments)
        yield browser
        browser.close()
