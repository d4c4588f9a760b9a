"""Where names of other libraries lead: a table in place of inventories that would have to be fetched."""

from typing import Any

from docutils import nodes
from sphinx import addnodes
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


def link(app: Sphinx, env: BuildEnvironment, node: nodes.Element, content: nodes.TextElement) -> nodes.Node | None:
    name = node.get("reftarget", "")
    if page := PAGES.get(SHORT.get(name, name)):
        return nodes.reference("", "", content, refuri=page, internal=False)
    if node.get("refdoc") == "api" and "." not in name:  # the first line of a docstring, in a list of names
        node["refspecific"] = True
        return env.domains["py"].resolve_xref(env, "api", app.builder, node["reftype"], name, node, content)
    # types in signatures may be those of any library, or have no page here; references in texts lead somewhere
    return content if _is_in_signature(node) else None


def _is_in_signature(node: nodes.Node) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, addnodes.desc_signature):
            return True
    return False


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("missing-reference", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
