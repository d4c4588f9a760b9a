"""Captum's infidelity: how well maps predict the effect of hiding parts of the spectrogram."""

from __future__ import annotations

import captum.metrics
import numpy as np
import torch
from torch import Tensor

from captum_spes.attr.batches import check_positive
from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.forward_func import TokenLogProbability
from captum_spes.metrics._additive import additive_attributions
from captum_spes.metrics._restore import restore_for_scores
from captum_spes.models.protocol import SpeechToTextModel, Tokens, Utterance
from captum_spes.segmentation import slic_feature_mask
from captum_spes.speech_to_text.profiles import Score
from captum_spes.speech_to_text.targets import TokenPrediction

# From coarse to fine; none of them is the default of a method (20, 40, 60, 400, 500, 600).
PATCHES_PER_SECOND = (10, 30, 100, 300)


def infidelity(
    model: SpeechToTextModel,
    explanation: SpeechToTextExplanation,
    *,
    n_perturb_samples: int = 200,
    perturbation_prob: float = 0.5,
    feature_mask: Tensor | None = None,
    score: Score = TokenLogProbability,
    attributions: Tensor | None = None,
    perturbations_per_eval: int = 16,
    seed: int = 0,
) -> Tensor:
    r"""Squared error with which a token's map predicts the effect of hiding random patches; smaller is better.

    This is ``captum.metrics.infidelity`` (Yeh et al., 2019, "On the (In)fidelity and Sensitivity of Explanations") with
    ``normalize=True``, the mean over random sets I of hidden bins of

    .. math::
        \Big(\beta \sum_{b \in I} \Phi_b - \big(f(x) - f(x_{\text{without } I})\big)\Big)^2

    with the factor :math:`\beta` that is best for the map, so that only its proportions count, and
    :math:`\Phi` from :func:`.additive_attributions`. Methods can be compared because all of them are measured with the
    same settings, which are not those of any one method:

    - *The forward function.* By default it is the log-probability of the written tokens, which gradient methods
      explain, and not the KL divergence, which perturbation methods explain. The choice favours the rivals of SPES, but
      matters little: if the model is certain of a token, both fall in the same way (on the bundled sample they
      correlate at 0.97 or more, for all tokens but the uncertain end of the text).
    - *The patches.* They are those of SLIC at four granularities, 10, 30, 100 and 300 patches a second, a random one
      for each perturbation, from the size of words to that of formants. With rectangles instead, or with the mask of
      one of the methods, thirteen methods and three controls kept their order on the bundled sample (rank
      correlations of 0.86 to 0.96).
    - *What is hidden.* Each patch is set to the model's baseline with a probability of 0.5, at which the sets differ
      most. Predictions also break down when half of the spectrogram is hidden, which a map should predict.

    There is no constant beside :math:`\beta`, so that a map must also be right about the sum of all bins. A map that is
    the same everywhere predicts the mean fall; it is the control, ``attributions=torch.ones(K, T, C)``. Noisy
    maps are not better than this control. A map of zeros gives the mean squared fall; infidelities divided by it lie in
    [0, 1].

    It costs ``n_perturb_samples`` + 1 passes of the model for all tokens together.

    Args:
        model: the model that was explained.
        explanation: an explanation of the tokens, as ``attribute`` returned it.
        n_perturb_samples: number of random sets I.
        perturbation_prob: the probability with which each patch is hidden.
        feature_mask: the patches: integers (1, T, C), or (S, 1, T, C) for several granularities.
        score: the forward function.
        attributions: additive maps (K, T, C) to be measured in place of the explanation's, such as controls. Maps of
            several methods, (M, K, T, C), share the passes of the model.
        perturbations_per_eval: perturbations in a batch; it changes the speed, not the result.
        seed: the seed of the perturbations. The same seed gives every method the same perturbations.

    Returns:
        Tensor: float32 (K,), or (M, K), in squared units of the score (nats² for log-probabilities).

    Raises:
        ValueError: the explanation is of another model, of words or of a contrast, or it is normalised or lacks
            metadata; maps or the mask do not fit it, or the maps are not finite; or a number is out of range.

    Example::

        >>> from captum_spes import SPES, SpeechToTextAttribution
        >>> from captum_spes.metrics import infidelity
        >>> from captum_spes.models import load_model
        >>> model = load_model("whisper-tiny.en")
        >>> explanation = SpeechToTextAttribution(SPES(model)).attribute("speech.wav", n_samples=90)
        >>> infidelity(model, explanation).shape == (len(explanation.tokens),)
        True
    """
    check_positive(n_perturb_samples=n_perturb_samples, perturbations_per_eval=perturbations_per_eval)
    if not 0 < perturbation_prob < 1:
        raise ValueError(f"perturbation_prob must lie strictly between 0 and 1, not {perturbation_prob}.")
    utterance, tokens = restore_for_scores(model, explanation, tokens_only=True)
    maps = additive_attributions(explanation) if attributions is None else attributions
    shape = explanation.spectrogram_attr.shape
    if maps.shape[-3:] != shape or maps.dim() > 4:
        raise ValueError(f"attributions must be of shape {tuple(shape)} or (M, *that), not {tuple(maps.shape)}.")
    if not maps.isfinite().all():
        raise ValueError("attributions hold infinities or NaN: give finite values, or explain the utterance again.")
    if feature_mask is None:
        feature_mask = slic_feature_mask(
            utterance.spectrogram, PATCHES_PER_SECOND, frames_per_second=model.frames_per_second
        )
    patches = _Patches(feature_mask, explanation.spectrogram)
    sums = patches.sums(maps.reshape(-1, *shape[1:]))  # (K or M * K, P)
    values = captum.metrics.infidelity(
        _Scores(model, utterance, tokens, score, patches, len(sums)),
        _Hiding(patches, len(sums), perturbation_prob, seed),
        torch.ones_like(sums),
        sums,
        n_perturb_samples=n_perturb_samples,
        max_examples_per_batch=len(sums) * min(perturbations_per_eval, n_perturb_samples),
        normalize=True,
    )
    return values.float().view(maps.shape[:-2])


class _Patches:
    """The P patches of all granularities, numbered consecutively.

    The inputs of Captum's infidelity are the patches, 1 where they are kept and 0 where they are hidden. Since a
    perturbation hides whole patches, the result is the same as with bins as inputs, and needs far less memory.
    """

    def __init__(self, feature_mask: Tensor, spectrogram: Tensor) -> None:
        if feature_mask.is_floating_point() or feature_mask.shape[-2:] != spectrogram.shape or feature_mask.dim() > 4:
            raise ValueError(
                f"feature_mask of {feature_mask.dtype} and shape {tuple(feature_mask.shape)} does not fit the "
                f"spectrogram: expected integers of shape (1, {len(spectrogram)}, {spectrogram.shape[1]}), or with the "
                "number of granularities in front."
            )
        masks = feature_mask.cpu().reshape(-1, spectrogram.numel())
        self.shape = spectrogram.shape
        self.granularity: list[int] = []  # the granularity of each patch
        ids = []
        for number, mask in enumerate(masks):
            values, inverse = mask.unique(return_inverse=True)
            ids.append(inverse + len(self.granularity))
            self.granularity += [number] * len(values)
        self.ids = torch.stack(ids)  # (S, T * C)

    def __len__(self) -> int:
        return len(self.granularity)

    def sums(self, maps: Tensor) -> Tensor:
        """The sum of maps (K, T, C) over each patch, (K, P)."""
        flat = maps.flatten(1).cpu().double()
        sums = flat.new_zeros(len(flat), len(self))
        for ids in self.ids:
            sums.index_add_(1, ids, flat)
        return sums

    def bins(self, hidden: Tensor) -> Tensor:
        """The bins (n, T, C) of hidden patches (n, P), both bool."""
        bins = torch.stack([hidden[:, ids] for ids in self.ids]).any(0)
        return bins.view(-1, *self.shape)


class _Hiding:
    """The perturbation function: hides random patches of one granularity, the same for all K rows."""

    def __init__(self, patches: _Patches, n_rows: int, prob: float, seed: int) -> None:
        self.granularity = np.array(patches.granularity)
        self.n_rows = n_rows
        self.prob = prob
        self.generator = np.random.default_rng(seed)

    def __call__(self, heard: Tensor) -> tuple[Tensor, Tensor]:
        """For K × n rows of patches, the patches that are hidden and those that are kept."""
        n_samples = len(heard) // self.n_rows
        # each sample has its own random numbers, so that the batch size changes nothing
        numbers = self.generator.random((n_samples, 1 + len(self.granularity)))
        chosen = np.floor(numbers[:, :1] * (self.granularity[-1] + 1))
        hidden = (numbers[:, 1:] < self.prob) & (self.granularity == chosen)
        perturbation = torch.from_numpy(hidden).to(heard).repeat(self.n_rows, 1)
        return perturbation, heard - perturbation


class _Scores:
    """The forward function: the K scores for the patches that are kept. All rows share the passes of the model."""

    def __init__(
        self,
        model: SpeechToTextModel,
        utterance: Utterance,
        tokens: Tokens,
        score: Score,
        patches: _Patches,
        n_rows: int,
    ) -> None:
        self.patches = patches
        self.spectrogram = utterance.spectrogram
        self.baseline = model.baseline(utterance)
        self.n_rows = n_rows  # K, or M times that

        prediction = TokenPrediction(model, tokens, score)

        def logits(spectrogram: Tensor) -> Tensor:
            return prediction.outputs(model.encode(spectrogram, utterance))

        with torch.no_grad():
            original = logits(self.spectrogram)
            self.score = prediction.score(logits, original)
            self.original = prediction.score(lambda _: original, original)(self.spectrogram)

    def __call__(self, heard: Tensor) -> Tensor:
        rows = heard[: len(heard) // self.n_rows]  # Captum repeats the samples for each row
        if bool(rows.all()):
            scores = self.original.expand(len(rows), -1)
        else:
            hidden = self.patches.bins(rows == 0).to(self.spectrogram.device)
            scores = self.score(torch.where(hidden, self.baseline, self.spectrogram))
        return scores.T.repeat(self.n_rows // scores.shape[1], 1).flatten().to(heard)
