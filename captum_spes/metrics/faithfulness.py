"""Whether maps tell what hiding parts of the spectrogram does to a prediction: Captum's infidelity."""

from __future__ import annotations

import captum.metrics
import numpy as np
import torch
from torch import Tensor

from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.forward_func import TokenLogProbability
from captum_spes.metrics._additive import additive_attributions
from captum_spes.metrics._checks import check_positive
from captum_spes.metrics._restore import restore_for_scores
from captum_spes.models.protocol import SpeechToTextModel, Tokens, Utterance
from captum_spes.segmentation import slic_feature_mask
from captum_spes.speech_to_text.profiles import Score
from captum_spes.speech_to_text.targets import TokenPrediction

# Coarse to fine, and none of them what a method takes by default (20, 40, 60, 400, 500, 600).
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
    r"""How far a token's map misses what hiding random patches does to the token's score; smaller is better.

    ``captum.metrics.infidelity`` (Yeh et al., 2019, "On the (In)fidelity and Sensitivity of Explanations") with
    ``normalize=True``: over random sets I of hidden bins the mean of

    .. math::
        \Big(\beta \sum_{b \in I} \Phi_b - \big(f(x) - f(x_{\text{without } I})\big)\Big)^2

    with the factor :math:`\beta` that is best for the map, so that only its proportions count, and
    :math:`\Phi` from :func:`.additive_attributions`. Methods can be compared because everything but the map is the same
    for all of them, and none of it was chosen by one of them:

    - *The forward function.* By default the log-probability of the written tokens, which gradient methods explain,
      and not the KL divergence, which perturbation methods explain: the choice favours the rivals of SPES, and matters
      little. For a token that the model is sure of both fall alike (on the bundled sample they correlate at 0.97 or
      more, for all tokens but the unsure end of the text).
    - *The patches.* SLIC at four granularities, 10, 30, 100 and 300 patches a second, a random one for each
      perturbation: from words to formants, and no method's own. With rectangles, or with a method's own mask in its
      place, thirteen methods and three controls kept their order on the bundled sample (rank correlations of 0.86 to
      0.96).
    - *What is hidden* takes the model's baseline, each patch with a probability of 0.5. There the sets differ most;
      half of a spectrogram hidden is also where predictions fall apart, which is what a map should foresee.

    There is no constant beside :math:`\beta`, so a map also has to be right about the sum of all bins: one that is the
    same everywhere foresees the mean fall, and is the control to beat, ``attributions=torch.ones(K, T, C)``. Noisy
    maps do not beat it. The control of zeros gives the mean squared fall: divided by it, infidelities lie in [0, 1].

    It costs ``n_perturb_samples`` + 1 passes of the model for all tokens together.

    Args:
        model: the model that was explained.
        explanation: of its tokens, as ``attribute`` gave it.
        n_perturb_samples: number of random sets I.
        perturbation_prob: the probability with which each patch is hidden.
        feature_mask: the patches: integers (1, T, C), or (S, 1, T, C) for several granularities.
        score: the forward function.
        attributions: additive maps (K, T, C) to be measured in place of the explanation's, such as controls; those of
            several methods, (M, K, T, C), share the passes of the model.
        perturbations_per_eval: perturbations in a batch; it changes the speed, not the result.
        seed: the seed of the perturbations. The same seed gives every method the same ones.

    Returns:
        Tensor: float32 (K,), or (M, K), in squared units of the score (nats² for log-probabilities).

    Raises:
        ValueError: an explanation of another model, of words, of a contrast, normalised or without the metadata that
            is needed; maps or a mask that do not fit it; numbers out of range.

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
    """What is hidden together: the P patches of all granularities, numbered through.

    Captum's infidelity is given the patches as its inputs, 1 where they are heard and 0 where hidden, since a
    perturbation hides whole patches: the same numbers as of bins, in a fraction of the memory.
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
        self.granularity: list[int] = []  # of each patch
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
        """For K × n rows of patches the hidden ones, and those that are heard then."""
        n_samples = len(heard) // self.n_rows
        # a row a sample, so that the size of a batch changes nothing
        numbers = self.generator.random((n_samples, 1 + len(self.granularity)))
        chosen = np.floor(numbers[:, :1] * (self.granularity[-1] + 1))
        hidden = (numbers[:, 1:] < self.prob) & (self.granularity == chosen)
        perturbation = torch.from_numpy(hidden).to(heard).repeat(self.n_rows, 1)
        return perturbation, heard - perturbation


class _Scores:
    """The forward function: the K scores of patches that are heard. All rows share the passes of the model."""

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
