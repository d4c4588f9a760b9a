"""Attention weights of a decoder as attributions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from captum.attr import Attribution
from torch import Tensor


class CrossAttention(Attribution):
    """The attention that a decoder pays to the positions of an input while it writes each token.

    The weights of several heads are averaged. An encoder has fewer positions than its input has frames, and no
    frequencies: the weight of a position is divided evenly among its frames, and among all values of each frame. So
    the sum of a map is the attention that the decoder pays to this input. The map shows times but no frequencies, and
    it explains the encoder's states, each of which may depend on any part of the input.

    Args:
        forward_func: returns for an input (1, …) the weights of all layers and heads, (layers, heads, K, positions),
            for K tokens. Each row sums to 1 over all positions, of which the first belong to the input.

    Example::

        >>> import torch
        >>> from captum_spes.attr import CrossAttention
        >>> weights = torch.tensor([[[[0.5, 0.25]], [[0.25, 0.75]]]])  # one layer, two heads, one token, two positions
        >>> CrossAttention(lambda inputs: weights).attribute(torch.zeros(1, 4, 1)).flatten()
        tensor([0.1875, 0.1875, 0.2500, 0.2500])
        >>> CrossAttention(lambda inputs: weights).attribute(torch.zeros(1, 2), heads=[(0, 1)])
        tensor([[0.2500, 0.7500]])
    """

    def __init__(self, forward_func: Callable[[Tensor], Tensor]) -> None:
        super().__init__(forward_func)

    def attribute(self, inputs: Tensor, heads: Sequence[tuple[int, int]] | None = None) -> Tensor:
        """The attention to each value of an input.

        Args:
            inputs: of shape (1, T, …). If T is not a multiple of the positions, some positions have a frame less.
            heads: the heads that are averaged, as (layer, head). Default: all.

        Returns:
            Tensor: attributions (K, T, …), which are not negative.

        Raises:
            ValueError: there is more than one example, a head does not exist, or there are more positions than frames.
        """
        if len(inputs) != 1:
            raise ValueError(f"inputs has {len(inputs)} examples: give one example at a time.")
        with torch.no_grad():
            weights = self.forward_func(inputs)
        mean = weights.flatten(0, 1).mean(0) if heads is None else _chosen(weights, heads).mean(0)
        n_frames, n_positions = inputs.shape[1], mean.shape[-1]
        if n_positions > n_frames:
            raise ValueError(
                f"forward_func returned weights for {n_positions} positions, but the input has only {n_frames} frames."
            )
        position = torch.arange(n_frames, device=mean.device) * n_positions // n_frames
        values_each = position.bincount()[position] * inputs[0, 0].numel()
        spread = mean[:, position] / values_each
        return spread.view(*spread.shape, *[1] * (inputs.dim() - 2)).expand(-1, -1, *inputs.shape[2:]).contiguous()


def _chosen(weights: Tensor, heads: Sequence[tuple[int, int]]) -> Tensor:
    n_layers, n_heads = weights.shape[:2]
    are_pairs = all(isinstance(pair, Sequence) and len(pair) == 2 for pair in heads)
    if not heads or not are_pairs or not all(0 <= layer < n_layers and 0 <= head < n_heads for layer, head in heads):
        raise ValueError(
            f"heads {list(heads)} do not fit the {n_layers} layers of {n_heads} heads: give pairs (layer, head), each "
            "counted from 0."
        )
    return torch.stack([weights[layer, head] for layer, head in heads])
