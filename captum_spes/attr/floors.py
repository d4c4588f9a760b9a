"""Baseline methods that do not use the model, with which attribution methods are compared."""

from __future__ import annotations

import torch
from captum.attr import PerturbationAttribution
from torch import Tensor


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

    def attribute(self, inputs: Tensor) -> Tensor:
        """Random numbers in the inputs' shape, from torch's global generator."""
        return torch.rand(inputs.shape).to(inputs)


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

    def attribute(self, inputs: Tensor, baselines: Tensor | float = 0.0) -> Tensor:
        """The difference, in the inputs' shape."""
        return inputs - baselines
