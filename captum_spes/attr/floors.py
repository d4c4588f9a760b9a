"""Baseline methods that do not use the model, with which attribution methods are compared."""

from __future__ import annotations

import hashlib

import torch
from captum._utils.common import _format_output, _is_tuple
from captum._utils.typing import BaselineType
from captum.attr import PerturbationAttribution
from torch import Tensor

from captum_spes.attr._template import Inputs, attribute_method
from captum_spes.attr.features import format_inputs
from captum_spes.attr.fingerprint import fingerprint


class Random(PerturbationAttribution):
    """Attributions drawn uniformly from 0 to 1.

    Args:
        forward_func: never called.

    Example::

        >>> import torch
        >>> from captum_spes.attr import Random
        >>> Random(torch.sum).attribute(torch.ones(1, 20, 80)).shape
        torch.Size([1, 20, 80])
    """

    @attribute_method
    def attribute(self, inputs: Inputs) -> Inputs:
        """Random numbers in the inputs' shapes, floating-point also for integers.

        They follow from the state of torch's global generator and from the inputs, so that the maps of other inputs of
        the same shape are others.
        """
        formatted, _ = format_inputs(inputs, None)
        seed = int(torch.randint(2**62, (), device="cpu")) ^ _digest(formatted)
        generator = torch.Generator().manual_seed(seed)
        numbers = (
            torch.rand(each.shape, generator=generator, device="cpu").to(
                each.device, each.dtype if each.is_floating_point() else None
            )
            for each in formatted
        )
        return _format_output(_is_tuple(inputs), tuple(numbers))


class Energy(PerturbationAttribution):
    """The inputs minus their baselines; for a log-mel spectrogram, how loud each bin is.

    Args:
        forward_func: never called.

    Example::

        >>> import torch
        >>> from captum_spes.attr import Energy
        >>> Energy(torch.sum).attribute(torch.tensor([[3.0, 1.0]]), baselines=1.0)
        tensor([[2., 0.]])
    """

    @attribute_method
    def attribute(self, inputs: Inputs, baselines: BaselineType = None) -> Inputs:
        """The difference, in the inputs' shapes. Default of the baselines: 0."""
        formatted, references = format_inputs(inputs, baselines)
        with torch.no_grad():
            differences = tuple(_floating(each) - _floating(other) for each, other in zip(formatted, references))
        return _format_output(_is_tuple(inputs), differences)


def _digest(inputs: tuple[Tensor, ...]) -> int:
    """A number below 2^62 that identifies the inputs."""
    found = hashlib.sha256(repr([fingerprint(each) for each in inputs]).encode())
    return int.from_bytes(found.digest()[:8], "big") >> 2


def _floating(value: Tensor | int | float) -> Tensor | int | float:
    """Integers and truth values as floating-point numbers, so that differences do not overflow."""
    if not isinstance(value, Tensor):
        return +value  # False becomes 0
    if value.is_floating_point() or value.is_complex():
        return value
    return value.to(torch.get_default_dtype())
