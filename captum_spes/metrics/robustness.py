"""Robustness of maps: they should change with the model's weights, and not with a little noise in the input."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import captum.metrics
import torch
from captum.attr import Attribution
from torch import Tensor, nn

from captum_spes._log import without_warnings
from captum_spes.attr.batches import check_positive
from captum_spes.audio import AudioLike
from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.forward_func import CTCLogLikelihood
from captum_spes.maps import rank_correlation
from captum_spes.metrics._additive import without_offset
from captum_spes.models import SpeechToTextModel, Tokens, Utterance, prepare
from captum_spes.models.context import refreeze
from captum_spes.models.threads import exclusive
from captum_spes.speech_to_text import SpeechToTextAttribution, profiles

PREPARATION = signature(SpeechToTextAttribution.prepare).parameters.keys() - {"self", "inputs", "target"}


def sensitivity_max(
    attribution: SpeechToTextAttribution,
    utterance: Utterance,
    tokens: Tokens,
    *,
    perturb_radius: float = 0.02,
    n_perturb_samples: int = 10,
    seed: int = 0,
    **arguments: Any,
) -> Tensor:
    r"""The largest change of a token's map when a little noise is added to the spectrogram; smaller is better.

    This is ``captum.metrics.sensitivity_max`` (Yeh et al., 2019, "On the (In)fidelity and Sensitivity of
    Explanations"): over several spectrograms x' = x + noise, uniform in ± r, the maximum of

    .. math::
        \frac{\lVert \Phi(x') - \Phi(x) \rVert}{\lVert \Phi(x) \rVert}

    in the Frobenius norm, for the same tokens. The offset that SPES and Bubble Noise leave in every bin is
    first subtracted from Φ (see :func:`.additive_attributions`), since it would make any map look stable.

    The baseline is computed again for x', and so are the SLIC patches, unless ``feature_mask`` is a tensor. The random
    numbers of the method are the same for all x'. The noise of a method with few samples still counts as a change.

    It costs ``n_perturb_samples`` + 1 explanations. For SPES and Bubble Noise, the maps of the previous tokens are not
    used and get 1 sample unless you give ``n_token_samples``.

    Args:
        attribution: the method, wrapped for the model.
        utterance: the utterance, from :meth:`.SpeechToTextAttribution.prepare`.
        tokens: the tokens of the text, from :meth:`.SpeechToTextAttribution.prepare`.
        perturb_radius: r as a share of the spectrogram's range (largest minus smallest value). Captum's default for
            inputs between 0 and 1.
        n_perturb_samples: number of noisy spectrograms.
        seed: the seed of the noise, and of the method's own random numbers.
        **arguments: arguments of :meth:`.SpeechToTextAttribution.attribute`, such as ``n_samples``.

    Returns:
        Tensor: float32 (K,), 0 for a map that does not change; (1,) for a ``contrast`` or a ``sentence``.

    Raises:
        ValueError: the radius or the number of samples is not positive, or ``attribute`` refuses an argument.
        TypeError: the method does not take an argument.

    Example::

        >>> from captum.attr import IntegratedGradients
        >>> from captum_spes import SpeechToTextAttribution
        >>> from captum_spes.metrics import sensitivity_max
        >>> from captum_spes.models import load_model
        >>> attribution = SpeechToTextAttribution(IntegratedGradients(load_model("whisper-tiny.en")))
        >>> utterance, tokens = attribution.prepare("speech.wav", "so what")
        >>> sensitivity = sensitivity_max(attribution, utterance, tokens, n_perturb_samples=2, n_steps=5)
        >>> sensitivity.shape == tokens.target.shape
        True
    """
    check_positive(n_perturb_samples=n_perturb_samples)
    if not perturb_radius > 0:
        raise ValueError(f"perturb_radius must be positive, a share of the spectrogram's range, not {perturb_radius}.")
    if isinstance(attribution.attr_method, profiles.ALL_TOKENS):
        arguments = {"n_token_samples": 1, **arguments}
    is_one = arguments.get("contrast") or arguments.get("sentence") or attribution.score is CTCLogLikelihood
    n_rows = 1 if is_one else len(tokens.target)
    generator = torch.Generator().manual_seed(seed)

    def perturb(rows: Tensor, radius: float) -> Tensor:
        """The same noise for the rows of all tokens."""
        noise = 2 * torch.rand(rows.shape[1:], generator=generator).to(rows) - 1
        return rows + radius * (rows.max() - rows.min()) * noise

    @torch.enable_grad()  # Captum's metric switches gradients off
    def explain(rows: Tensor | tuple[Tensor]) -> tuple[Tensor]:
        """The maps of all tokens; Captum passes a tuple in the first call, and then tensors."""
        spectrogram = rows[0] if isinstance(rows, tuple) else rows
        heard = replace(utterance, spectrogram=spectrogram[:1])
        return (without_offset(attribution.attribute(heard, tokens, seed=seed, **arguments)),)

    rows = utterance.spectrogram.expand(n_rows, -1, -1)
    # one noisy spectrogram at a time, repeated in a row for each token
    return captum.metrics.sensitivity_max(
        explain, rows, perturb, perturb_radius, n_perturb_samples, max_examples_per_batch=n_rows
    ).float()


@dataclass(frozen=True, eq=False)
class ParameterRandomization:
    """Correlations between the maps of a model and those of its R randomised copies, for K tokens.

    Attributes:
        blocks: the block that was randomised last in each copy, (R,); a copy keeps the random blocks of those before.
        correlations: rank correlation between the maps, (R, K).
        absolute_correlations: rank correlation between the absolute values of the maps, (R, K), for methods whose
            signs flip easily.
        original: the explanation of the model itself.
        randomized: the explanations of the copies, (R,).

    Example::

        >>> from captum.attr import InputXGradient
        >>> from captum_spes.metrics import parameter_randomization
        >>> from captum_spes.models import load_model
        >>> model = load_model("whisper-tiny.en")
        >>> found = parameter_randomization(model, InputXGradient, "speech.wav", "so what", cascade=True)
        >>> found.blocks[0], found.blocks[-1]
        ('model.model.decoder.layer_norm', 'model.model.encoder.conv1')
        >>> found.correlations.shape == found.absolute_correlations.shape
        True
        >>> len(found.blocks) == len(found.randomized), len(found.original.tokens)
        (True, 2)
    """

    blocks: list[str]
    correlations: Tensor
    absolute_correlations: Tensor
    original: SpeechToTextExplanation
    randomized: list[SpeechToTextExplanation]


def parameter_randomization(
    model: SpeechToTextModel,
    method: Callable[[Any], Attribution],
    inputs: AudioLike | Utterance,
    target: Any = None,
    *,
    cascade: bool = False,
    seed: int = 0,
    **arguments: Any,
) -> ParameterRandomization:
    """Compares a model's maps with those of a model with random weights, which must look different.

    This is the model parameter randomisation test (Adebayo et al., 2018, "Sanity Checks for Saliency Maps"). A copy of
    the model gets random weights and explains the same tokens of the same utterance. If the maps still correlate, they
    depend on the sound and not on the model. There are two caveats. A model with any weights reacts more to louder and
    larger patches, which leaves FeatureAblation a correlation of 0.43 on the bundled sample. Noisy maps do not
    correlate with any others, so compare with the correlation of two seeds of the method on the same model
    (``benchmarks/sanity.py``). The correlation of a constant map counts as 0.

    The values of a randomised parameter are shuffled. So mean, deviation and norm of every tensor stay, and
    activations keep their scale, but everything learned is lost. Buffers stay. Padding that is frozen for the utterance
    is frozen again, at the states of the randomised model.

    With ``cascade`` the blocks of the model are randomised one after another, from the output to the input, and the
    maps of each step are compared. A block is a numbered layer or another module that holds parameters itself, in the
    reverse of the order in which the model registers them: for Whisper the decoder from its last normalisation and
    layers down to the token embeddings (which are its output matrix too), then the encoder from top to bottom.

    It costs two explanations, or with ``cascade`` one more than there are blocks (17 for Whisper tiny), and the memory
    of a second model.

    Args:
        model: the model, which is not changed. Every ``torch.nn.Module`` among its attributes is randomised in the
            copy, or the model itself if it is a module.
        method: makes the attribution method of a model, such as ``SPES`` or ``lambda m: NoiseTunnel(Saliency(m))``.
        inputs: audio or utterance, as for :meth:`.SpeechToTextAttribution.attribute`.
        target: the text to explain. Default: the text that the model writes; the copies explain the same text.
        cascade: whether to randomise block after block rather than all at once.
        seed: the seed of the order of the weights, and of the method's own random numbers.
        **arguments: arguments of :meth:`.SpeechToTextAttribution.attribute`, such as ``n_samples`` or ``context``.

    Returns:
        ParameterRandomization: correlations of the spectrogram maps, with one row, or with ``cascade`` a row for each
        block.

    Raises:
        ValueError: the model holds no modules with parameters, or ``attribute`` refuses an argument.
        TypeError: ``attribute`` refuses the method or an argument.

    Example::

        >>> from captum.attr import InputXGradient
        >>> from captum_spes.metrics import parameter_randomization
        >>> from captum_spes.models import load_model
        >>> model = load_model("whisper-tiny.en")
        >>> found = parameter_randomization(model, InputXGradient, "speech.wav", "so what")
        >>> len(found.randomized), found.correlations.isfinite().all()
        (1, tensor(True))
    """
    preparation = {name: arguments.pop(name) for name in PREPARATION & arguments.keys()}
    attribution = SpeechToTextAttribution(method(model))
    utterance, tokens = prepare(model, inputs, target, **preparation)
    original = attribution.attribute(utterance, tokens, seed=seed, **arguments)
    with exclusive():  # not in the midst of another thread's pass
        other = copy.deepcopy(model)
    blocks, randomized = [], []
    steps = _randomize(other, seed)
    for name in steps if cascade else [f"all {len(list(steps))} blocks"]:
        blocks.append(name)
        # maps of a randomised model are expected to be noisy or constant
        with without_warnings("the maps (are noisy|of .* are the same everywhere)"):
            attribution = SpeechToTextAttribution(method(other))
            randomized.append(
                attribution.attribute(_with_own_padding(other, utterance), tokens, seed=seed, **arguments)
            )
    maps = [explanation.spectrogram_attr for explanation in randomized]
    return ParameterRandomization(
        blocks,
        torch.stack([rank_correlation(original.spectrogram_attr, attr) for attr in maps]),
        torch.stack([rank_correlation(original.spectrogram_attr.abs(), attr.abs()) for attr in maps]),
        original,
        randomized,
    )


def _with_own_padding(model: SpeechToTextModel, utterance: Utterance) -> Utterance:
    """The utterance; if its padding is frozen, with the states of this model in the same form."""
    if utterance.frozen is None:
        return utterance
    return refreeze(model, utterance, utterance.context["merged_by"], utterance.context["margin"])


@torch.no_grad()
def _shuffle(parameter: Tensor, generator: torch.Generator) -> None:
    """Puts the values of a parameter into a random order."""
    order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
    parameter.copy_(parameter.flatten()[order].view_as(parameter))


def _randomize(model: SpeechToTextModel, seed: int) -> Iterator[str]:
    """Randomises a model block by block, beginning with the last, and yields the name of each block."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameters in reversed(_blocks(model).items()):
        for parameter in parameters:
            _shuffle(parameter, generator)
        yield name


def _blocks(model: SpeechToTextModel) -> dict[str, list[nn.Parameter]]:
    """The parameters of a model's numbered layers and other modules, in the order in which they are registered."""
    modules = {"": model} if isinstance(model, nn.Module) else vars(model)
    names: dict[nn.Parameter, str] = {}  # one name for each parameter, even if several modules share it
    for attribute, module in modules.items():
        if isinstance(module, nn.Module):
            for name, parameter in module.named_parameters(prefix=attribute):
                names.setdefault(parameter, name)
    if not names:
        raise ValueError(f"{model.name} holds no torch.nn.Module with parameters: there is nothing to randomise.")
    blocks: dict[str, list[nn.Parameter]] = {}
    for parameter, name in names.items():
        path = name.split(".")[:-1]
        number = next((n for n, part in enumerate(path) if part.isdigit()), len(path))
        blocks.setdefault(".".join(path[: number + 1]) or name, []).append(parameter)
    return blocks
