"""captum-spes compare."""

import json
import os
import signal

import pytest
import torch

from captum_spes import SpeechToTextExplanation
from captum_spes.metrics import rank_correlation
from captum_spes.speech_to_text.catalogue import METHODS, NamedMethod


def test_compare(run, tiny_folder, recording, tmp_path):
    names = ["spes", "integrated_gradients", "integrated_gradients_abs", "deep_lift", "occlusion"]
    code, out, err = run(
        "compare", recording, "--model", tiny_folder, "--target", "so what", "--methods", ",".join(names), "-o", "out",
        "--num-beams", "2",
    )  # fmt: skip
    assert code == 0, err
    assert "Left out: DeepLift hooks" in err
    names.remove("deep_lift")
    folder = tmp_path / "out"
    files = {"comparison.json", "comparison.md", "words.png", "sentence.png", *(f"{n}.safetensors" for n in names)}
    assert {path.name for path in folder.iterdir()} == files
    assert all(str((folder / name).relative_to(tmp_path)) in out for name in files)
    results = json.loads((folder / "comparison.json").read_text())
    assert list(results["methods"]) == names
    signed, absolute = (SpeechToTextExplanation.load(folder / f"{name}.safetensors") for name in names[1:3])
    assert torch.equal(signed.spectrogram_attr.abs(), absolute.spectrogram_attr)
    assert absolute.metadata["method"] == "|Integrated Gradients|" and absolute.metadata["gen_args"] == {"num_beams": 2}
    entry = results["methods"]["integrated_gradients"]
    assert entry["passes"]["spectrogram"] == {"forward": 10, "backward": 20}
    correlation = torch.tensor(results["rank_correlation"])
    assert correlation.diag().eq(1).all() and torch.equal(correlation, correlation.T)
    assert correlation[1, 2] == pytest.approx(
        float(rank_correlation(signed.spectrogram_attr, absolute.spectrogram_attr).mean())
    )
    report = (folder / "comparison.md").read_text()
    assert all(f"| {name} |" in report for name in names) and f"{entry['infidelity']:.3g}" in report


@pytest.mark.parametrize("command", ["compare", "evaluate"])
def test_what_is_for_one_process(run, recording, monkeypatch, command):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = run(command, recording)
    assert code == 2 and f"{command} runs in one process: start it without torchrun" in err


@pytest.mark.parametrize("method", ["saliency", "energy"])  # energy is finished before anybody could ask
def test_compare_is_stopped_in_its_first_method(run, tiny_folder, recording, monkeypatch, method):
    original = NamedMethod.explain

    def explain(*args, **arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return original(*args, **arguments)

    monkeypatch.setattr(NamedMethod, "explain", explain)
    given = ["--model", tiny_folder, "--target", "so", "--methods", f"{method},random"]
    code, out, err = run("compare", recording, *given)
    assert code == 130 and f"Stopped in {method}." in err and "Error" not in err and "[2/2]" not in out
    assert ("Wrote" in out) == (method == "energy")


@pytest.mark.slow
def test_compare_goes_on_after_ctrl_c(run, tiny_folder, recording, tmp_path, monkeypatch):
    explained, stops = [], [METHODS["saliency"]]
    original = NamedMethod.explain

    def explain(self, *args, **arguments):
        if self in stops:
            stops.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
        explained.append(self.summary)
        return original(self, *args, **arguments)

    monkeypatch.setattr(NamedMethod, "explain", explain)
    given = ["compare", recording, "--model", tiny_folder, "--target", "so", "-o", "out"]
    given += ["--methods", "feature_ablation,saliency,random"]
    code, _, err = run(*given)
    assert code == 130 and "Stopped in saliency. The finished methods are saved" in err
    folder = tmp_path / "out"
    assert list(json.loads((folder / "comparison.json").read_text())["methods"]) == ["feature_ablation"]
    first = (folder / "feature_ablation.safetensors").read_bytes()
    explained.clear()
    code, _, err = run(*given)
    assert code == 0, err
    assert explained == [METHODS[name].summary for name in ("saliency", "random")]
    results = json.loads((folder / "comparison.json").read_text())["methods"]
    assert list(results) == ["feature_ablation", "saliency", "random"] and results["feature_ablation"]["seconds"] > 0
    assert (folder / "feature_ablation.safetensors").read_bytes() == first
    assert run(*given, "--seed", "1")[0] == 0  # another comparison
    assert explained[2:] == [METHODS[name].summary for name in results]
    (folder / "saliency.safetensors").write_bytes(b"of something else")
    code, _, err = run(*given, "--seed", "1")
    assert code == 0 and "Left out: " in err and "saliency.safetensors" in err and len(explained) == 5
