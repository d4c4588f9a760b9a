"""What the wheel must do without any extra; .ci/run runs this in a fresh environment, away from the sources."""

import re
import subprocess
import sys
from importlib.metadata import metadata
from importlib.util import find_spec
from pathlib import Path

import torch

import captum_spes
from captum_spes import SPES, grid_feature_mask

assert "site-packages" in captum_spes.__file__, captum_spes.__file__
assert not [name for name in ("gradio", "soundfile", "transformers", "typer") if find_spec(name)]

# the sum of the left half is explained by the left half alone
inputs = torch.rand(1, 16, 8)
mask = grid_feature_mask(inputs, (4, 4))
attributions = SPES(lambda x: x[:, :, :4].sum((1, 2))).attribute(inputs, feature_mask=mask, n_samples=500)
assert attributions.shape == inputs.shape
assert attributions[:, :, :4].min() > attributions[:, :, 4:].max()

command = Path(sys.executable).with_name("captum-spes")
found = subprocess.run([command, "explain"], capture_output=True, text=True)
assert found.returncode == 2, found
assert "pip install 'captum-spes[speech]'" in found.stderr and "Traceback" not in found.stderr, found.stderr

description = metadata("captum-spes").json["description"]
relative = [link for link in re.findall(r"\]\(([^)]+)\)", description) if not re.match(r"https://|#", link)]
assert description.startswith("# captum-spes") and not relative, relative
print("The wheel works without extras.")
