"""Relevance propagation through transformers: one forward pass, and one backward pass for each score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from captum._utils.common import _format_output, _is_tuple
from captum._utils.gradient import apply_gradient_requirements, undo_gradient_requirements
from captum.attr import GradientAttribution
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from captum_spes.attr._template import Inputs, attribute_method
from captum_spes.attr.features import format_inputs


class AttnLRP(GradientAttribution):
    r"""Layer-wise relevance propagation for transformers: (inputs − baselines) times a modified gradient.

    The relevance of a score is passed back through the layers, and each layer distributes the relevance of its output
    among its inputs. With the rules below this is the gradient of a network in which some parts of the normalisations,
    activations and attention count as constants (Ali et al., 2022, "XAI for Transformers"; Achtibat et al., 2024,
    "AttnLRP", §3 and Appendix A). It costs no more than a gradient, and has no sampling noise:

    - layer norm and RMS norm: the divisor is a constant;
    - GELU and SiLU: f(x) is x times the constant f(x) / x, the identity rule;
    - attention and GLU: the weights are constants, and the relevance goes to the values;
    - linear layers, convolutions, additions: the plain gradient (the ε-rule with ε = 0). Biases absorb their share.

    The original AttnLRP divides the relevance of a product of weights and values between both.
    ``benchmarks/attn_lrp.py`` compares the two rules on speech. As there, scores should be logits:
    :class:`~captum_spes.SpeechToTextAttribution` explains a token by its logit.

    The rules apply while :meth:`attribute` runs, to the functions of torch that the calling thread uses. The
    model itself is not changed. The scores must not contain a softmax; a log-softmax is left as it is. There is no rule
    for products of two parts of a network other than attention and GLU, such as SwiGLU in language models: their
    relevance would be counted twice.

    Args:
        forward_func: computes the scores of the inputs by functions of torch.
        rules: a rule for each function of torch that it replaces. Default: the rules above.

    Example::

        >>> import torch
        >>> from captum_spes.attr import AttnLRP
        >>> network = torch.nn.Sequential(torch.nn.Linear(8, 8, bias=False), torch.nn.GELU(), torch.nn.Linear(8, 2))
        >>> inputs = torch.rand(1, 8)
        >>> method = AttnLRP(network)
        >>> relevance = method.attribute(inputs, target=1)
        >>> torch.allclose(relevance.sum() + network[2].bias[1], network(inputs)[0, 1])  # all is shared out
        True
        >>> method.multiplies_by_inputs
        True
    """

    def __init__(
        self, forward_func: Callable[..., Any], rules: Mapping[Callable[..., Any], Callable[..., Any]] | None = None
    ) -> None:
        super().__init__(forward_func)
        self.rules = RULES if rules is None else rules

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether gradients are multiplied by the inputs. They are, by the inputs minus their baselines."""
        return True

    @attribute_method
    def attribute(
        self,
        inputs: Inputs,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Inputs:
        """The relevance of each value of the inputs for the scores.

        Args:
            inputs: a tensor whose first dimension is the batch, or a tuple of them.
            baselines: for each input a number or a tensor that broadcasts to it. A value that equals its baseline
                has the relevance 0. Default: 0.
            target: selects one of several scores, as in Captum's methods.
            additional_forward_args: further arguments of ``forward_func``.

        Returns:
            The relevance in the inputs' shapes, a tensor for a tensor and a tuple for a tuple.

        Raises:
            TypeError: the inputs are not floating point.
            ValueError: baselines do not fit the inputs, or the scores do not depend on the inputs.
        """
        is_tuple = _is_tuple(inputs)
        several = isinstance(baselines, (tuple, list))
        formatted, references = format_inputs(inputs, tuple(baselines) if several else baselines)
        for index, inp in enumerate(formatted):
            if not inp.is_floating_point():
                raise TypeError(f"inputs[{index}] must be floating point, not {inp.dtype}: integers have no relevance.")
        required = apply_gradient_requirements(formatted, warn=False)
        try:
            with RelevanceRules(self.rules):
                gradients = self.gradient_func(self.forward_func, formatted, target, additional_forward_args)
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                raise
            raise ValueError(
                "no relevance flows from the scores to the inputs: return logits instead of a softmax of them, and "
                "compute the scores without detaching, outside of torch.inference_mode()."
            ) from error
        finally:
            undo_gradient_requirements(formatted, required)
        relevance = tuple(
            (tensor - reference) * gradient for tensor, reference, gradient in zip(formatted, references, gradients)
        )
        return _format_output(is_tuple, tuple(part.detach() for part in relevance))

    @classmethod
    def get_name(cls) -> str:
        """The name of the method; Captum's default would split the abbreviation into letters."""
        return "AttnLRP"


class RelevanceRules(TorchFunctionMode):
    """A context in which backward passes propagate relevance, for all that the calling thread computes in it.

    The forward pass gives the same numbers.

    Args:
        rules: for each replaced function of torch, a function that takes the function and its arguments.
            Default: the rules of :class:`.AttnLRP`.

    Example::

        >>> import torch
        >>> from captum_spes.attr.attn_lrp import RelevanceRules
        >>> x = torch.tensor(2.0, requires_grad=True)
        >>> with RelevanceRules():
        ...     y = torch.nn.functional.gelu(x)
        >>> torch.allclose(x * torch.autograd.grad(y, x)[0], y)
        True
    """

    def __init__(self, rules: Mapping[Callable[..., Any], Callable[..., Any]] | None = None) -> None:
        super().__init__()
        self.rules = RULES if rules is None else rules

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        rule = self.rules.get(func)
        if rule is None:
            return func(*args, **(kwargs or {}))
        return rule(func, *args, **(kwargs or {}))


# The rules. Each takes the function of torch that it replaces, and the arguments of the call.


def constant(func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """Makes the result a constant, so that the relevance goes to the other factor of its products."""
    return func(*args, **kwargs).detach()


def attention(
    func: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """Attention with constant weights; masks and relative positions, which are added to them, are constants as well.

    Query, key and value are also the first arguments of what torch.nn.MultiheadAttention calls.
    """
    others = [item.detach() if isinstance(item, Tensor) else item for item in args]
    kwargs = {name: item.detach() if isinstance(item, Tensor) else item for name, item in kwargs.items()}
    return func(query.detach(), key.detach(), value, *others, **kwargs)


def activation(func: Callable[..., Tensor], input: Tensor, **kwargs: Any) -> Tensor:
    """f(x) as x times the constant f(x) / x, or at 0 its limit; torch calls x ``input``."""
    with torch.no_grad():
        value, wide = func(input, **kwargs), _at_least_float32(input)
        safe = torch.where(wide.abs() < 1e-6, 1e-6, wide)
        ratio = (func(safe, **kwargs) / safe).to(input.dtype)
    return _valued(value, input * ratio)


def gated(func: Callable[..., Tensor], input: Tensor, dim: int = -1) -> Tensor:
    """GLU, whose gate is a constant."""
    values, gates = input.chunk(2, dim)
    return _valued(func(input, dim), values * gates.sigmoid().detach())


def layer_norm(
    func: Callable[..., Tensor],
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *cudnn_enable: bool,
) -> Tensor:
    """Layer norm, whose standard deviation is a constant."""
    axes = tuple(range(-len(normalized_shape), 0))
    wide = _at_least_float32(input)
    deviation = (wide.var(axes, keepdim=True, unbiased=False) + eps).sqrt().detach()
    linear = (wide - wide.mean(axes, keepdim=True)) / deviation
    linear = linear if weight is None else linear * weight
    linear = linear if bias is None else linear + bias
    return _valued(func(input, normalized_shape, weight, bias, eps, *cudnn_enable), linear)


def rms_norm(
    func: Callable[..., Tensor],
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """RMS norm, whose root mean square is a constant."""
    axes = tuple(range(-len(normalized_shape), 0))
    wide = _at_least_float32(input)
    eps_or_default = torch.finfo(wide.dtype).eps if eps is None else eps
    linear = wide * (wide.square().mean(axes, keepdim=True) + eps_or_default).rsqrt().detach()
    return _valued(func(input, normalized_shape, weight, eps), linear if weight is None else linear * weight)


def _at_least_float32(x: Tensor) -> Tensor:
    """Half precision as float32; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def _silu(func: Callable[..., Tensor], input: Tensor, inplace: bool = False) -> Tensor:
    """The rule of activations; ``inplace`` overwrites the input, as without the rule."""
    found = activation(func, input.clone() if inplace else input)
    return input.copy_(found) if inplace else found


def _valued(value: Tensor, linear: Tensor) -> Tensor:
    """Returns ``value`` to the last bit, with the gradient of ``linear``."""
    linear = linear.to(value.dtype)
    return value.detach() + (linear - linear.detach())


#: The rules of :class:`AttnLRP`, by the function of torch that each replaces.
RULES: dict[Callable[..., Any], Callable[..., Any]] = {
    **dict.fromkeys((F.scaled_dot_product_attention, F.multi_head_attention_forward), attention),
    **dict.fromkeys((F.softmax, torch.softmax, torch.special.softmax, Tensor.softmax), constant),
    **dict.fromkeys((torch.rsqrt, Tensor.rsqrt), constant),
    F.gelu: activation,
    F.silu: _silu,
    F.glu: gated,
    **dict.fromkeys((F.layer_norm, torch.layer_norm), layer_norm),
    **dict.fromkeys((F.rms_norm, torch.rms_norm), rms_norm),
}
