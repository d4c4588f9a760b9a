"""The package as a whole: public names, light imports, and the direction of imports."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import captum_spes

ROOT = Path(captum_spes.__file__).parent
# each group may import the groups above it, and itself
ROOMS = [
    {"_extras", "_files", "_log", "_text"},
    {"forward_func", "segmentation", "maps", "words", "confidence", "audio"},
    {"visualization", "attr"},
    {"models"},
    {"explanation"},
    {"alignment"},
    {"speech_to_text"},
    {"metrics"},
    {"errors"},
    {"evaluation"},
    {"analysis"},
    {"app"},
    {"cli"},
    {"__main__"},
]


def test_public_names():
    assert captum_spes.__all__ == [
        "SPES",
        "BubbleNoise",
        "CTCLogLikelihood",
        "Contrast",
        "ContrastiveProbability",
        "GradientSPES",
        "KLDivergence",
        "LongExplanation",
        "SpeechToTextAttribution",
        "SpeechToTextExplanation",
        "TokenLogProbability",
        "TokenLogit",
        "TokenProbability",
        "grid_feature_mask",
        "image_feature_mask",
        "slic_feature_mask",
    ]
    assert all(getattr(captum_spes, name).__doc__ for name in captum_spes.__all__)


def test_import_needs_no_extra():
    code = (
        "import sys\n"
        "for name in ('transformers', 'soundfile', 'soxr', 'safetensors', 'typer'): sys.modules[name] = None\n"
        "import captum_spes, captum_spes.models\n"
        "try: captum_spes.models.load_model('whisper-tiny.en')\n"
        "except ImportError as error: print(error)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'captum-spes[speech]'" in out


def test_import_loads_nothing_heavy():
    code = "import sys, captum_spes; print([m for m in ('transformers', 'skimage.segmentation') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def room_of(parts):
    return parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    own = room_of(path.relative_to(ROOT).parts)
    if own == "__init__":
        return
    level = next(i for i, rooms in enumerate(ROOMS) if own in rooms)
    allowed = set().union(*ROOMS[:level], {own})
    if own in ROOMS[1]:
        allowed = {own, *ROOMS[0]}
    for node in ast.walk(ast.parse(path.read_text())):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            modules = [node.module]
        for module in modules:
            if module.startswith("captum_spes."):
                assert room_of(module.split(".")[1:]) in allowed, f"{path.name} imports {module}"
            elif module == "captum_spes":
                assert own == "cli", f"{path.name} imports the package that holds it"


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_private_modules_are_used_in_their_own_folder(path):
    for node in ast.walk(ast.parse(path.read_text())):
        parts = (getattr(node, "module", None) or "").split(".") if isinstance(node, ast.ImportFrom) else []
        private = [number for number, part in enumerate(parts) if part.startswith("_") and number > 1]
        assert not private or ROOT.joinpath(*parts[1 : private[0]]) in path.parents, f"imports {'.'.join(parts)}"


# where users find what: these paths stay
PUBLIC = {
    "captum_spes.alignment": "Alignment Segment Transcript attention_alignment find_alignment force_align match_words",
    "captum_spes.analysis": "analyze",
    "captum_spes.attr": "SPES BubbleNoise Energy GradientSPES Random",
    "captum_spes.audio": "AudioLike Recording duration load_audio mask_audio mean_noise read_audio read_recording "
    "source_of speech_seconds split_at_pauses",
    "captum_spes.audio.masking": "mask_audio mean_noise",
    "captum_spes.errors": "errors_text explain_errors find_errors",
    "captum_spes.evaluation": "Comparison Corpus Evaluation Results",
    "captum_spes.evaluation.corpus": "Corpus load_corpus",
    "captum_spes.explanation": "LongExplanation Part SpeechToTextExplanation Word",
    "captum_spes.metrics": "bleu deletion infidelity insertion parameter_randomization rank_correlation size wer",
    "captum_spes.metrics.contrast": "FlipRate flip_rate",
    "captum_spes.models": "SpeechToTextModel Tokens Utterance load_model prepare text",
    "captum_spes.models.context": "fit_utterance",
    "captum_spes.speech_to_text": "Contrast SpeechToTextAttribution",
    "captum_spes.speech_to_text.catalogue": "METHODS NamedMethod absolute describe_methods find_method",
    "captum_spes.visualization": "TranscriptLine plot_attributions plot_comparison plot_segmentation plot_spectrogram "
    "plot_token_attributions plot_transcript",
    "captum_spes.words": "is_word word_spans",
}


@pytest.mark.parametrize("module", PUBLIC)
def test_public_import_paths_stay(module):
    found = importlib.import_module(module)
    assert not [name for name in PUBLIC[module].split() if not hasattr(found, name)]


# what runs code that is in a file
RUNS_CODE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "eval", "exec"}
RUNS_CODE |= {"torch.load", "np.load", "numpy.load", "torch.hub", "os.system", "subprocess", "read_pickle"}


def test_nothing_in_a_file_is_run():
    """No pickle, no eval, and no code of a model's own."""
    trusting = []
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in getattr(node, "names", []) if isinstance(alias, ast.alias)]
            if isinstance(node, ast.ImportFrom):
                names.append(node.module or "")
            if isinstance(node, (ast.Attribute, ast.Name)):
                names.append(ast.unparse(node))
            assert not RUNS_CODE & set(names), f"{path} line {node.lineno}"
            if isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "allow_pickle"):
                assert ast.literal_eval(node.value) is False, path
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".from_pretrained"):
                given = {keyword.arg for keyword in node.keywords}
                if not given & {"trust_remote_code", "use_safetensors"} and "Embedding" not in ast.unparse(node.func):
                    trusting.append(f"{path} line {node.lineno}")
    assert not trusting
