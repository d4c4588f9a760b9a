"""Where names of other libraries lead: a table in place of inventories that would have to be fetched."""

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

TORCH = "https://docs.pytorch.org/docs/stable"
CAPTUM = "https://captum.ai/api"
NUMPY = "https://numpy.org/doc/stable/reference"
MATPLOTLIB = "https://matplotlib.org/stable/api"
PAGES = {
    "torch.Tensor": f"{TORCH}/tensors.html",
    "torch.dtype": f"{TORCH}/tensor_attributes.html",
    "torch.nn.Module": f"{TORCH}/generated/torch.nn.Module.html",
    "captum.attr.Attribution": f"{CAPTUM}/attribution.html",
    "captum.attr.FeatureAblation": f"{CAPTUM}/feature_ablation.html",
    "captum.attr.IntegratedGradients": f"{CAPTUM}/integrated_gradients.html",
    "captum.attr.LLMAttribution": f"{CAPTUM}/llm_attr.html",
    "captum.attr.Lime": f"{CAPTUM}/lime.html",
    "captum.attr.NoiseTunnel": f"{CAPTUM}/noise_tunnel.html",
    "captum.attr.Occlusion": f"{CAPTUM}/occlusion.html",
    "captum.metrics.infidelity": f"{CAPTUM}/metrics.html",
    "captum.metrics.sensitivity_max": f"{CAPTUM}/metrics.html",
    "numpy.ndarray": f"{NUMPY}/generated/numpy.ndarray.html",
    "matplotlib.figure.Figure": f"{MATPLOTLIB}/figure_api.html",
    "matplotlib.axes.Axes": f"{MATPLOTLIB}/_as_gen/matplotlib.axes.Axes.html",
}
SHORT = {name.rsplit(".", 1)[-1]: name for name in ("torch.Tensor", "matplotlib.figure.Figure", "matplotlib.axes.Axes")}


def link(app: Sphinx, env: BuildEnvironment, node: nodes.Element, content: nodes.TextElement) -> nodes.reference | None:
    name = node.get("reftarget", "")
    page = PAGES.get(SHORT.get(name, name))
    return page and nodes.reference("", "", content, refuri=page, internal=False)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("missing-reference", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
