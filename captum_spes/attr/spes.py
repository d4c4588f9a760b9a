"""SPES: Spectrogram Perturbation for Explainable Speech-to-text generation."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, Literal, overload

from captum._utils.common import _format_output, _is_tuple
from captum._utils.typing import BaselineType, TargetType
from captum.attr import PerturbationAttribution
from torch import Tensor

from captum_spes.attr._impacts import ImpactEstimator
from captum_spes.attr._perturbations import Evaluator, Perturbed, draw_groups, perturbed_inputs
from captum_spes.attr._template import Inputs, Options, SamplingArguments, Tensors, attribute_method, run
from captum_spes.attr.batches import Callback, check_counts
from captum_spes.attr.features import FeatureLayout, MaskSampler, format_inputs

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from typing_extensions import Unpack


class _Arguments(SamplingArguments, total=False):
    """The keyword-only arguments of attribute, for its overloads."""

    perturbation_prob: float | tuple[float, ...]
    centered: bool


class SPES(PerturbationAttribution):
    r"""Attribution by the mean impact of the random perturbations that hide a feature.

    Spectrogram Perturbation for Explainable Speech-to-text generation (Fucci et al., 2024, arXiv:2411.01710, §4).
    In each of ``n_samples`` evaluations every feature is replaced by its baseline with probability
    ``perturbation_prob``, independently. The impact of perturbation i is
    :math:`r_i = \text{score}(x) - \text{score}(x'_i)`, as in Captum's FeatureAblation, and with M = 0 where
    hidden the attribution is (Eq. 3)

    .. math:: S = \frac{\sum_i r_i (1 - M_i)}{\sum_i (1 - M_i)},

    the mean impact over the perturbations that hid the feature; a feature that was never hidden gets 0. Eq. 3 has an
    offset, the impact of the other features that are hidden at the same time: a feature without any effect gets the
    mean impact of all perturbations and not 0. By default the class therefore subtracts the mean impact of the
    perturbations that did *not* hide the feature,

    .. math:: D = \frac{\sum_i r_i (1 - M_i)}{\sum_i (1 - M_i)} - \frac{\sum_i r_i M_i}{\sum_i M_i}.

    D is 0 for a feature without effect, the effect itself on a linear score, as in FeatureAblation, and for
    ``perturbation_prob=0.5`` an estimate of the feature's Banzhaf value. Except for sampling noise, D equals S up to a
    shift and a scale, so that normalised maps of both look the same. ``centered=False`` gives Eq. 3 as in the paper;
    :class:`~captum_spes.SpeechToTextAttribution` uses it.

    SPES works with any forward function. The paper uses :class:`~captum_spes.KLDivergence`, whose impact is the KL
    divergence from the original prediction, for all tokens in one pass.

    Args:
        forward_func: the model or any function of it. It returns one score for each example, shape ``(B,)``, or
            several, for instance one for each token, shape ``(B, K)``. Larger scores mean closer to the original
            prediction. As in FeatureAblation, a function with one score for the whole batch, or a fixed number of
            them, works with ``perturbations_per_eval=1`` and with examples that share their features.

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

    @overload
    def attribute(
        self,
        inputs: Inputs,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        feature_mask: Tensor | tuple[Tensor, ...] | None = None,
        n_samples: int = 1_000,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
        *,
        return_reliability: Literal[False] = False,
        **arguments: Unpack[_Arguments],
    ) -> Inputs: ...

    @overload
    def attribute(
        self,
        inputs: Inputs,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        feature_mask: Tensor | tuple[Tensor, ...] | None = None,
        n_samples: int = 1_000,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
        *,
        return_reliability: Literal[True],
        **arguments: Unpack[_Arguments],
    ) -> tuple[Inputs, Inputs]: ...

    @attribute_method
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        feature_mask: Tensor | tuple[Tensor, ...] | None = None,
        n_samples: int = 1_000,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
        *,
        perturbation_prob: float | tuple[float, ...] = 0.5,
        centered: bool = True,
        seed: int = 0,
        min_reliability: float | None = None,
        return_reliability: bool = False,
        callback: Callback | None = None,
        process_group: ProcessGroup | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Tensor | tuple[Any, ...]:
        r"""Computes the attributions of the inputs.

        Args:
            inputs: a tensor, or a tuple of tensors that are perturbed jointly; dimension 0 is the batch.
            baselines: the values that replace hidden features: a number, a tensor that broadcasts to its input, or a
                tuple with one of them for each input. Default: 0.
            target: which output is attributed, in any form that Captum's FeatureAblation takes.
            additional_forward_args: further arguments of ``forward_func``; tensors have the batch as dimension 0.
            feature_mask: integer ids that group scalars into features, in the shape of the input (its first
                dimension 1 or the batch). Several granularities are stacked in front, ``(S, 1 or B, …)``: the
                samples are split evenly over them and pooled. A tuple of inputs takes a tuple of masks; equal ids in
                two masks are one feature, as in FeatureAblation. Default: every scalar is a feature.
                A mask of two granularities for an input of shape (1, 2, 4)::

                    +---+---+---+---+   +---+---+---+---+
                    | 0 | 0 | 1 | 1 |   | 0 | 1 | 2 | 3 |
                    +---+---+---+---+   +---+---+---+---+
                    | 0 | 0 | 1 | 1 |   | 0 | 1 | 2 | 3 |
                    +---+---+---+---+   +---+---+---+---+

            n_samples: number of perturbations. The paper takes 20,000 for the thousands of patches of a spectrogram
                (N_X). For dozens of features 1,000 are enough; ``return_reliability`` measures it. If a mask of
                one granularity has P features and 2^P is at most ``n_samples``, every combination is evaluated once
                and weighted by its probability, which is exact.
            perturbations_per_eval: number of perturbations in one batch. It changes the speed, and the result only by
                rounding.
            show_progress: shows a progress bar that counts perturbations.
            perturbation_prob: the probability with which a feature is hidden: one number, or one for each input.
            centered: subtract the mean impact of the perturbations that did not hide the feature, so that a feature
                without effect gets 0. False gives Eq. 3, which has an offset. The class describes both.
            seed: the seed of the perturbations, which depend on it and on the mask alone.
            min_reliability: end the run as soon as the reliability reaches this number, between 0 and 1. The
                reliability is the mean over the rows of what ``return_reliability`` gives. ``n_samples`` is then the
                largest number of samples. The reliability is first computed after 48 samples, or the next multiple of
                the granularities, and then each time after about a quarter more. The result equals that of a run with
                the number of samples at which it ends, to the last bit in one process. The callback is told this
                number as ``done`` and as ``total``. If all combinations of features are evaluated, the run does not
                end early, since it is exact. Default: evaluate all samples.
            return_reliability: also return the correlation between the attributions of two halves of the samples.
            callback: called after every batch as ``callback(done, total)``; when it returns True the run ends
                there and the attributions are those of the samples done.
            process_group: ranks of ``torch.distributed`` that share the samples, such as
                ``torch.distributed.group.WORLD``. Each rank calls this method with the same arguments and its own
                model, and gets the whole result, which equals that of a single process up to rounding. An error on
                one rank, or a callback that returns True, ends all ranks after the current batch. Default: this process
                evaluates all samples.
            checkpoint: path of a file, in an existing folder, to which the sums are written every minute (a few
                MB for patches). If the process is killed, the same call continues from the file and gives the same
                result, to the last bit if ``perturbations_per_eval`` and the device are the same. The file is removed
                when all samples are done, and stays after a stop by the callback. If it cannot be written, the run
                warns once and goes on. Each rank has its own file beside it. Default: no file.

        Returns:
            **attributions**, or (**attributions**, **reliability**):
            - **attributions**: tensor, or tuple of tensors, of the inputs' shape for scores of shape ``(B,)`` and of
              shape ``(B * K, *input.shape[1:])`` for scores ``(B, K)``, as FeatureAblation returns them, and of the
              scores' dtype (a float one where the scores are integers, since attributions are means).
            - **reliability**: tensor of shape ``(B * K,)``, or a tuple of them: the correlation between the
              attributions of the two halves of the samples. The whole run's own is higher, about 2r / (1 + r).

        Raises:
            ValueError: an argument does not fit the inputs, or scores are not finite. Captum's methods
                raise an AssertionError or torch's RuntimeError in these cases, or accept the argument.
            TypeError: a feature mask does not hold integers, or scores are not numbers.
            AssertionError: the target does not fit the scores; Captum's own code selects the target.

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
        formatted, baselines = format_inputs(inputs, baselines)
        layout = FeatureLayout.create(formatted, feature_mask, perturbation_prob)
        check_counts(n_samples, perturbations_per_eval, layout.n_granularities)
        options = Options(perturbations_per_eval, show_progress, min_reliability, callback, process_group, checkpoint)
        evaluate = Evaluator(self.forward_func, target, additional_forward_args)
        arguments = {
            "inputs": formatted,
            "baselines": baselines,
            "target": target,
            "additional_forward_args": evaluate.args,
            "feature_mask": layout.ids,
            "perturbation_prob": perturbation_prob,
            "centered": centered,
            "seed": seed,
        }
        estimator = _RandomlyHidden(
            evaluate, formatted, layout, n_samples, perturbations_per_eval, centered, seed, baselines
        )
        attributions, reliability = run(estimator, self.get_name(), arguments, options)
        output = _format_output(_is_tuple(inputs), attributions)
        return (output, _format_output(_is_tuple(inputs), reliability)) if return_reliability else output

    @classmethod
    def get_name(cls) -> str:
        """The name of the method; Captum's default would split the abbreviation into letters."""
        return "SPES"

    def attribute_future(self, *args: Any, **kwargs: Any) -> None:
        """Not implemented: SPES evaluates its perturbations in order."""
        raise NotImplementedError("attribute_future is not implemented for SPES: use attribute.")


class _RandomlyHidden(ImpactEstimator):
    """Hides each feature at random or, if there are few features, hides every combination of them once."""

    def __init__(
        self,
        evaluate: Evaluator,
        inputs: Tensors,
        layout: FeatureLayout,
        n_samples: int,
        per_eval: int,
        centered: bool,
        seed: int,
        baselines: tuple[Tensor | int | float, ...],
    ) -> None:
        super().__init__(evaluate, inputs, layout, n_samples, per_eval, centered, seed)
        self.baselines = baselines
        self.sampler = MaskSampler(layout, seed)
        self.exact = self.enumerates = layout.n_granularities == 1 and layout.n_features <= math.log2(n_samples)

    @property
    def n_total(self) -> int:
        return 2**self.layout.n_features if self.enumerates else self.n_samples

    def draw(self, start: int, stop: int) -> Perturbed:
        groups = draw_groups(self.sampler, start, stop, self.enumerates)
        return Perturbed(perturbed_inputs(self.inputs, self.baselines, self.layout, groups), groups)
