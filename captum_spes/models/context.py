"""Chooses how the window of a model is run: in full or with frozen padding, and in which precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from captum_spes._log import warn
from captum_spes.attr.features import FeatureLayout, MaskSampler
from captum_spes.forward_func import KLDivergence
from captum_spes.models.protocol import MARGIN, SpeechToTextModel, Tokens, Utterance
from captum_spes.segmentation import slic_feature_mask

Context = Literal["full", "frozen", "auto", "unperturbed"]
Dtype = torch.dtype | Literal["auto"]

# Numbers of perturbed spectrograms whose padding states are averaged, and of others on which the scores are compared.
N_REFERENCES, N_PROBES = 4, 12
PROBES_AT_ONCE = 4
# If the speech fills a larger share of the window, freezing the rest saves less than the probe costs.
MAX_SHARE = 0.8
# Ways to freeze the padding, from the cheapest to the most exact: how many of its positions are averaged into one, and
# how many positions after the speech are computed. Punctuation may depend on the beginning of the padding.
FORMS = ((8, MARGIN), *((merge, 64) for merge in (8, 4, 2, 1)))
# The least correlations between scores of the probe and those of the full window: over all tokens, and for each token
# whose mean impact is at least this share of the largest token's. The others are reported.
MIN_CORRELATION, MIN_TOKEN_CORRELATION, WEAK_SHARE = 0.995, 0.95, 0.01


def fit_utterance(
    model: SpeechToTextModel,
    utterance: Utterance,
    tokens: Tokens,
    context: Context = "auto",
    dtype: Dtype | None = None,
    gen_args: dict[str, Any] | None = None,
    callback: Callable[[str, int, int], object] | None = None,
) -> Utterance:
    """Chooses the cheapest way to run the window of a model that scores perturbed spectrograms like the full window.

    A pass of Whisper computes a window of 30 s, although only a few seconds of it are speech. With *frozen
    padding* the states of the padding are recorded in a few passes of the full window. Later passes compute the speech
    alone and attend to the recorded states, of which neighbours may be merged
    (:class:`~captum_spes.models.frozen_padding.FrozenPadding`). A probe compares the scores on other perturbed
    spectrograms. It passes if the model writes the same text, the scores of all tokens correlate at 0.995 or more with
    those of the full window, and the scores of each token correlate at 0.95 or more, except for tokens whose mean
    impact is below 1 % of the largest.

    Args:
        model: the model.
        utterance: an utterance in its full window.
        tokens: the text to explain.
        context: ``"full"``: every pass computes the full window. ``"frozen"``: the padding is frozen and not merged,
            with a warning if the probe fails. ``"auto"``: the cheapest of padding merged by 8, 4, 2 and unmerged
            padding that passes the probe, or else the full window, which is also used if the speech fills more than
            80 % of it. If padding merged by 8 does not pass, 1.3 s of the padding are computed instead of 0.3 s.
            ``"unperturbed"``: the padding is frozen at its states for the utterance itself, in one pass and without a
            probe, which would take longer than a method that does not perturb, such as
            :class:`~captum_spes.attr.AttnLRP`. The scores of the utterance are those of the full window; their
            gradients leave out the paths through the padding. ``dtype="auto"`` then keeps the precision of the weights.
        dtype: the precision, such as ``torch.bfloat16``. ``"auto"`` uses bfloat16 autocast if the hardware has it
            and the same probe passes. Default: the precision of the model's weights.
        gen_args: arguments of the model's generation, with which the probe compares texts.
        callback: called as ``callback("context", done, total)`` while spectrograms pass through the full window.

    Returns:
        Utterance: the utterance with ``frozen``, ``dtype`` and ``context`` set. ``context`` describes the choice and
        the result of the probe.

    Raises:
        ValueError: an argument has another value, or is ``"frozen"`` for a model without a fixed window.

    Example::

        >>> from captum_spes.audio import load_audio
        >>> from captum_spes.models import load_model
        >>> from captum_spes.models.context import fit_utterance
        >>> model = load_model("whisper-tiny.en")
        >>> utterance = model.utterance(load_audio("speech.wav", model.sample_rate))
        >>> tokens = model.generate(utterance)
        >>> fit_utterance(model, utterance, tokens, context="frozen").frozen.merged_by
        1
    """
    check_context(model, context, dtype)
    if isinstance(dtype, torch.dtype):
        utterance = replace(utterance, dtype=dtype)
    lowers = dtype == "auto" and utterance.dtype == torch.float32 and _has_fast_bfloat16(utterance.spectrogram.device)
    reason = _reason_for_full(model, utterance, context)
    utterance = _in_full(utterance, reason)
    if context == "unperturbed":
        return utterance if reason is not None else _freeze_unperturbed(model, utterance)
    freezes = context != "full" and reason is None
    if not freezes and not lowers:
        return utterance
    references, probes = _perturbed(model, utterance)
    total = len(probes) + (len(references) if freezes else 0)
    tell = partial(callback or (lambda *progress: None), "context")
    full = _Probe(model, utterance, tokens, probes, gen_args or {}, lambda done: tell(done, total))
    if freezes:
        utterance = _freeze(model, utterance, context, references, full)
        tell(total, total)
    if lowers:
        lower = replace(utterance, dtype=torch.bfloat16)
        agreement = full.compare(lower)
        if agreement.holds:
            utterance = replace(lower, context={**lower.context, "bfloat16": agreement.describe()})
    return utterance


def check_context(model: SpeechToTextModel, context: Context, dtype: Dtype | None) -> None:
    """Raises a ValueError for a context or dtype that the model cannot take."""
    if context not in get_args(Context):
        raise ValueError(f"context must be one of {', '.join(get_args(Context))}, not {context!r}.")
    if dtype not in (None, "auto") and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype must be a floating-point torch.dtype or 'auto', not {dtype!r}.")
    if context == "frozen" and not hasattr(model, "freeze_padding"):
        raise ValueError(
            f"the padding of {model.name} cannot be frozen, since its encoder has no window of fixed length: use "
            "context='full' or 'auto'."
        )


def refreeze(model: Any, utterance: Utterance, merged_by: int, margin: int = MARGIN) -> Utterance:
    """Freezes the padding of an utterance as in :func:`fit_utterance`, without a probe."""
    references, _ = _perturbed(model, utterance)
    return replace(utterance, frozen=model.freeze_padding(utterance, references, margin).merge(merged_by))


def context_seconds(model: SpeechToTextModel, utterance: Utterance) -> float:
    """Seconds of the window, including the padding."""
    return utterance.n_frames / model.frames_per_second


def describe_context(model: SpeechToTextModel, utterance: Utterance) -> str:
    """Describes in one line how the window is run and what the probe found."""
    found = utterance.context
    seconds = f"{context_seconds(model, utterance):g} s"
    if found.get("used") != "frozen":
        reason = f" ({found['reason']})" if "reason" in found else ""
        return f"{seconds}, full window{reason}"
    merged = f", merged by {found['merged_by']}" if found["merged_by"] > 1 else ""
    if "correlation" not in found:
        return f"{seconds}, of which {found['computed_seconds']:.1f} s are computed and the padding is frozen, unprobed"
    computed = f"{seconds}, of which {found['computed_seconds']:.1f} s are computed and the padding is frozen{merged}"
    if found["correlation"] is None:
        return f"{computed}; the scores of the probe are constant, so that they say nothing"
    lowest = found["lowest_token_correlation"]
    each = "" if lowest is None else f", those of each token at least {lowest:.3f}"
    return f"{computed}; scores correlate {found['correlation']:.4f} with the full window's{each}"


@dataclass(frozen=True)
class Agreement:
    """The agreement between two ways of running a model.

    Attributes:
        same_text: whether the model writes the same text.
        correlation: the correlation of the scores of all tokens on all probes.
        token_correlations: the correlation of each token's scores.
        weak: for each token, whether its mean impact is below 1 % of the largest token's.
        names: the tokens.
    """

    same_text: bool
    correlation: float
    token_correlations: list[float]
    weak: list[bool]
    names: list[str]

    @property
    def lowest(self) -> float | None:
        """The lowest correlation of a token that is not weak; None if all are weak."""
        strong = [value for value, weak in zip(self.token_correlations, self.weak) if not weak]
        return min(strong, key=lambda value: -2.0 if math.isnan(value) else value) if strong else None

    @property
    def holds(self) -> bool:
        """Whether one way can replace the other; False for correlations that are not a number."""
        lowest = self.lowest
        return (
            self.same_text
            and self.correlation >= MIN_CORRELATION
            and lowest is not None
            and lowest >= MIN_TOKEN_CORRELATION
        )

    def describe(self) -> dict[str, Any]:
        """The agreement as plain values for the metadata; None for a correlation of constant scores."""
        return {
            "same_text": self.same_text,
            "correlation": _plain(self.correlation),
            "lowest_token_correlation": None if self.lowest is None else _plain(self.lowest),
            "weak_tokens": [
                [name, _plain(value)]
                for name, value, weak in zip(self.names, self.token_correlations, self.weak)
                if weak
            ],
        }


class _Probe:
    """The text of a model in its full window, and its scores of some perturbed spectrograms."""

    def __init__(
        self,
        model: Any,
        utterance: Utterance,
        tokens: Tokens,
        probes: Tensor,
        gen_args: dict[str, Any],
        callback: Callable[[int], object],
    ) -> None:
        self.model, self.tokens, self.probes, self.gen_args = model, tokens, probes, gen_args
        self.utterance = utterance
        self.scores = self._scores(utterance, callback)
        self.written: Tokens | None = tokens if tokens.generated else None

    def compare(self, utterance: Utterance) -> Agreement:
        scores = self._scores(utterance)
        impacts = self.scores.mean(0).abs()
        # CTC models have no frozen padding, but bfloat16 is probed for them as well; their rows are frames
        names = self.model.token_texts(self.tokens.target) if self.tokens.path is None else []
        return Agreement(
            same_text=self._writes_the_same(utterance),
            correlation=_correlation(self.scores.flatten(), scores.flatten()),
            token_correlations=[_correlation(*pair) for pair in zip(self.scores.T, scores.T)],
            weak=(impacts < WEAK_SHARE * impacts.max()).tolist(),
            names=names or [str(row) for row in range(len(impacts))],
        )

    def _writes_the_same(self, utterance: Utterance) -> bool:
        if self.written is None:
            self.written = self.model.generate(self.utterance, **self.gen_args)
        target, prompt = self.written.target, self.written.prompt
        gen_args = dict(self.gen_args)
        if not self._has_beams():  # beams that the limit cuts would count as finished
            gen_args["max_new_tokens"] = len(target)  # which stops a model that repeats itself
        if utterance.frozen is None:
            found = self.model.generate(utterance, **gen_args).target
        else:
            with torch.no_grad():
                encoded = self.model.encode(utterance.spectrogram, utterance)
            [found] = self.model.write(encoded, prompt, **gen_args)
        return torch.equal(found, target)

    def _has_beams(self) -> bool:
        config = getattr(getattr(self.model, "model", None), "generation_config", None)
        return (self.gen_args.get("num_beams") or getattr(config, "num_beams", None) or 1) > 1

    @torch.no_grad()
    def _scores(self, utterance: Utterance, callback: Callable[[int], object] = lambda done: None) -> Tensor:
        def logits(spectrogram: Tensor) -> Tensor:
            return self.model.logits(self.model.encode(spectrogram, utterance), self.tokens)

        score = KLDivergence(logits, logits(utterance.spectrogram))
        found = []
        for part in self.probes.split(PROBES_AT_ONCE):
            found.append(score(part))
            callback(sum(map(len, found)))
        return torch.cat(found)


def _reason_for_full(model: Any, utterance: Utterance, context: Context) -> str | None:
    """Why no padding can be frozen; None if it can, or if the caller asked for the full window."""
    if context == "full":
        return None
    if not hasattr(model, "freeze_padding"):
        return "the model has no window of fixed length"
    share = 2 * model.computed_positions(utterance) / utterance.n_frames
    if share == 1 or (context != "frozen" and share > MAX_SHARE):
        return f"the utterance and its margin fill {share:.0%} of the window"
    return None


def _freeze_unperturbed(model: Any, utterance: Utterance) -> Utterance:
    """Freezes the padding at its states for the utterance itself; the full window if the model does not allow it."""
    try:
        padding = model.freeze_padding(utterance, utterance.spectrogram)
    except RuntimeError as error:
        return _in_full(utterance, str(error).rstrip("."))
    return _frozen(model, utterance, padding, MARGIN, {"probe": None})


def _freeze(model: Any, utterance: Utterance, context: Context, references: Tensor, full: _Probe) -> Utterance:
    """The utterance with the cheapest frozen padding that agrees with the full window."""
    try:
        recorded = model.freeze_padding(utterance, references)
    except RuntimeError as error:
        if context == "frozen":
            raise
        return _in_full(utterance, str(error).rstrip("."))
    for merge, margin in FORMS if context == "auto" else ((1, MARGIN),):
        n_positions = model.computed_positions(utterance, margin)
        if margin > MARGIN and 2 * n_positions == utterance.n_frames:
            break  # nothing is left to freeze
        padding = recorded.beyond(n_positions, model.positions_at_once).merge(merge)
        agreement = full.compare(replace(utterance, frozen=padding))
        if agreement.holds or context == "frozen":
            break
    found = agreement.describe()
    if not agreement.holds:
        message = "with frozen padding the text or the scores differ from those of the full window"
        if context == "auto":
            return replace(utterance, context={"used": "full", "reason": message, "probe": found})
        warn(f"{message}: scores correlate {agreement.correlation:.3f}. Use context='full' or 'auto'.", stacklevel=4)
    return _frozen(model, utterance, padding, margin, found)


def _in_full(utterance: Utterance, reason: str | None) -> Utterance:
    """The utterance in its full window, with the reason if no padding can be frozen."""
    return replace(utterance, context={"used": "full", **({} if reason is None else {"reason": reason})})


def _frozen(model: Any, utterance: Utterance, padding: Any, margin: int, found: dict[str, Any]) -> Utterance:
    """The utterance with frozen padding, and metadata that say how it was frozen and what the probe found."""
    seconds = round(2 * padding.n_positions / model.frames_per_second, 3)
    how = {"used": "frozen", "merged_by": padding.merged_by, "margin": margin, "computed_seconds": seconds}
    return replace(utterance, frozen=padding, context={**how, **found})


def _perturbed(model: SpeechToTextModel, utterance: Utterance) -> tuple[Tensor, Tensor]:
    """Perturbed spectrograms for recording the padding, and others for the probe."""
    spectrogram = utterance.spectrogram
    mask = slic_feature_mask(spectrogram, 500, frames_per_second=model.frames_per_second)
    layout = FeatureLayout.create((spectrogram,), mask, 0.5)
    hidden = MaskSampler(layout, seed=0).draw(0, 0, N_REFERENCES + N_PROBES)
    inputs = layout.hide(spectrogram, model.baseline(utterance), 0, 0, hidden)[:, 0]
    return inputs[:N_REFERENCES], inputs[N_REFERENCES:]


def _correlation(first: Tensor, second: Tensor) -> float:
    return float(torch.corrcoef(torch.stack((first.double(), second.double())))[0, 1])


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def _has_fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return False
