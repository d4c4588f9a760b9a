"""What the package promises as a whole: its names, its light import, the one direction of its imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import captum_spes

ROOT = Path(captum_spes.__file__).parent
# each room may import those to its left, and within itself
ROOMS = [
    {"_extras", "_files"},
    {"forward_func", "segmentation", "maps", "words", "confidence", "audio"},
    {"visualization", "attr"},
    {"models"},
    {"explanation"},
    {"alignment"},
    {"speech_to_text"},
    {"metrics"},
    {"evaluation"},
    {"analysis"},
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
