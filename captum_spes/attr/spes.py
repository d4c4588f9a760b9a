"""SPES: Spectrogram Perturbation for Explainable Speech-to-text generation."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from captum._utils.common import _format_output, _is_tuple
from captum._utils.typing import BaselineType, TargetType, TensorOrTupleOfTensorsGeneric
from captum.attr import PerturbationAttribution
from captum.log import log_usage
from torch import Tensor

from captum_spes.attr._batches import Batches, Evaluator, Group, check_counts, draw_groups, perturbed_inputs
from captum_spes.attr._checkpoint import Checkpoint
from captum_spes.attr._features import FeatureLayout, MaskSampler, format_inputs
from captum_spes.attr._impacts import ImpactSums
from captum_spes.attr._ranks import Ranks

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class SPES(PerturbationAttribution):
    r"""Attribution by the mean impact of the random perturbations that hide a feature.

    Spectrogram Perturbation for Explainable Speech-to-text generation (Fucci et al., 2024, arXiv:2411.01710, §4).
    In each of ``n_samples`` evaluations every feature is replaced by its baseline with probability
    ``perturbation_prob``, independently. The impact of perturbation i is
    :math:`r_i = \text{score}(x) - \text{score}(x'_i)`, as in Captum's FeatureAblation, and with M = 0 where
    hidden the attribution is (Eq. 3)

    .. math:: S = \frac{\sum_i r_i (1 - M_i)}{\sum_i (1 - M_i)},

    the mean impact over the perturbations that hid the feature; a feature that was never hidden gets 0. Any
    forward function will do; the paper's is :class:`~captum_spes.KLDivergence`, whose impact is the KL divergence
    from the original prediction, for all tokens in one pass.

    Args:
        forward_func: the model or any function of it. It returns one score an example, shape ``(B,)``, or several
            (one a token, say), shape ``(B, K)``; larger means closer to the original prediction. As in FeatureAblation,
            a function with one score for the whole batch, or a fixed number of them, works with
            ``perturbations_per_eval=1`` and with examples that share their features.

    Example::

        >>> import torch
        >>> from captum_spes import SPES
        >>> weights = torch.tensor([0.0, 0.0, 5.0, 1.0])
        >>> attribution = SPES(lambda x: x @ weights).attribute(torch.ones(1, 4), n_samples=2000)
        >>> attribution.shape, attribution.argmax().item()
        (torch.Size([1, 4]), 2)
    """

    def __init__(self, forward_func: Any) -> None:
        super().__init__(forward_func)

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        feature_mask: Tensor | tuple[Tensor, ...] | None = None,
        n_samples: int = 20_000,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
        *,
        perturbation_prob: float | tuple[float, ...] = 0.5,
        seed: int = 0,
        return_reliability: bool = False,
        callback: Callable[[int, int], bool | None] | None = None,
        process_group: ProcessGroup | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Any:
        r"""Computes the attributions of the inputs.

        Args:
            inputs: a tensor, or a tuple of tensors that are perturbed jointly; dimension 0 is the batch.
            baselines: what a hidden feature becomes: a number, a tensor that broadcasts to its input, or a tuple of
                such, one for each input. Default: 0.
            target: which output is attributed, in any form that Captum's FeatureAblation takes.
            additional_forward_args: further arguments of ``forward_func``; tensors have the batch as dimension 0.
            feature_mask: integer ids that group scalars into features, in the shape of the input (its first
                dimension 1 or the batch). Several granularities are stacked in front, ``(S, 1 or B, …)``: the
                samples are split evenly over them and pooled. For a tuple of inputs a tuple of masks; equal ids in
                two of them are one feature, as in FeatureAblation. Default: every scalar is a feature.
                A mask of two granularities for an input of shape (1, 2, 4)::

                    +---+---+---+---+   +---+---+---+---+
                    | 0 | 0 | 1 | 1 |   | 0 | 1 | 2 | 3 |
                    +---+---+---+---+   +---+---+---+---+
                    | 0 | 0 | 1 | 1 |   | 0 | 1 | 2 | 3 |
                    +---+---+---+---+   +---+---+---+---+

            n_samples: number of perturbations (the paper's N_X; 20,000 there). Where a mask of one granularity has
                so few features P that 2^P does not exceed it, every combination is evaluated once and weighed by
                its probability, which is exact.
            perturbations_per_eval: how many are evaluated in one batch. It changes the speed, not the result.
            show_progress: shows a progress bar that counts perturbations.
            perturbation_prob: the probability with which a feature is hidden, one or one for each input.
            seed: determines the perturbations together with the mask, and nothing else does.
            return_reliability: also return how far two halves of the samples agree.
            callback: called after every batch as ``callback(done, total)``; when it returns True the run ends
                there and the attributions are those of the samples done.
            process_group: ranks of ``torch.distributed`` that share the samples, such as
                ``torch.distributed.group.WORLD``. Each calls this with the same arguments and a model of its own,
                and is given the whole result, which differs from a single process' by rounding alone. An error or
                the callback's True on one rank ends all of them after the current batch. Default: this process
                evaluates all samples.
            checkpoint: path of a file, in a folder that exists, into which the sums are written every minute (a few
                MB for patches). When the process is killed, the same call goes on from there, and ends with the same
                result to the last bit where ``perturbations_per_eval`` and the device are the same. It is removed when
                all samples are done, and stays after a stop by the callback. A failing write warns once and costs
                nothing else. Ranks have files of their own beside it. Default: none.

        Returns:
            **attributions**, or (**attributions**, **reliability**):
            - **attributions**: tensor, or tuple of tensors, of the inputs' shape for scores of shape ``(B,)`` and of
              shape ``(B * K, *input.shape[1:])`` for scores ``(B, K)``, as FeatureAblation returns them, and of the
              scores' dtype (a float one where the scores are integers, since attributions are means).
            - **reliability**: tensor of shape ``(B * K,)``, or a tuple of them: the correlation between the
              attributions of the two halves of the samples. The whole run's own is higher, about 2r / (1 + r).

        Raises:
            ValueError: an argument that does not fit the inputs, or scores that are not finite. Captum's methods
                raise an AssertionError or torch's RuntimeError there, or take the argument in silence.
            TypeError: a feature mask that holds no integers, or scores that are no numbers.
            AssertionError: a target that does not fit the scores; Captum's own code selects it.

        Example::

            >>> import torch
            >>> from captum_spes import SPES, grid_feature_mask
            >>> spectrogram = torch.rand(1, 30, 16)
            >>> mask = grid_feature_mask(spectrogram, patch_size=(10, 4))
            >>> spes = SPES(lambda x: x[:, 10:20, 4:8].sum((1, 2)))
            >>> attribution = spes.attribute(spectrogram, feature_mask=mask, n_samples=500, perturbations_per_eval=16)
            >>> bool(attribution[0, 15, 5] == attribution.max())
            True
        """
        is_inputs_tuple = _is_tuple(inputs)
        formatted, baselines = format_inputs(inputs, baselines)
        layout = FeatureLayout.create(formatted, feature_mask, perturbation_prob)
        check_counts(n_samples, perturbations_per_eval, layout.n_granularities)
        evaluate = Evaluator(self.forward_func, target, additional_forward_args)
        sampler = MaskSampler(layout, seed)
        ranks = Ranks(process_group)
        arguments = {
            "method": self.get_name(),
            "inputs": formatted,
            "baselines": baselines,
            "target": target,
            "additional_forward_args": evaluate.args,
            "feature_mask": layout.ids,
            "perturbation_prob": perturbation_prob,
            "n_samples": n_samples,
            "seed": seed,
        }
        ranks.check_same(arguments)
        exact = layout.n_granularities == 1 and layout.n_features <= math.log2(n_samples)

        def perturb(start: int, stop: int) -> tuple[Tensor, list[Group]]:
            groups = draw_groups(sampler, start, stop, exact)
            return evaluate(perturbed_inputs(formatted, baselines, layout, groups), stop - start), groups

        with torch.no_grad():
            original = ranks.together(lambda: evaluate(formatted))
            sums = ImpactSums(layout, original, batch_size=formatted[0].shape[0], per_eval=perturbations_per_eval)
            total = 2**layout.n_features if exact else n_samples
            file = Checkpoint.create(checkpoint, arguments, lambda: perturb(0, 1)[0], ranks)
            run = Batches(total, perturbations_per_eval, self.get_name(), sums, show_progress, callback, ranks, file)
            run.run(lambda start, stop: sums.add(*perturb(start, stop), seed))
        attributions, reliability = sums.attributions(formatted, exact=exact and run.n_done == total)
        output = _format_output(is_inputs_tuple, attributions)
        return (output, _format_output(is_inputs_tuple, reliability)) if return_reliability else output

    @classmethod
    def get_name(cls) -> str:
        """The method's name; Captum's own rule would spell it letter by letter."""
        return "SPES"

    def attribute_future(self, *args: Any, **kwargs: Any) -> None:
        """Not implemented: SPES evaluates its perturbations in order."""
        raise NotImplementedError("attribute_future is not implemented for SPES: use attribute.")
