"""The shortest context and the lowest precision in which a model does the same as in its full window."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from captum_spes.attr._features import FeatureLayout, MaskSampler
from captum_spes.forward_func import KLDivergence
from captum_spes.models.protocol import SpeechToTextModel, Utterance
from captum_spes.segmentation import slic_feature_mask

N_PROBES = 8
MIN_CORRELATION = 0.99
# seconds of padding that are tried, from the longest on until one fails
PADDINGS = (16.0, 8.0, 4.0, 2.0, 1.0, 0.5)

Context = float | Literal["full", "auto"]
Dtype = torch.dtype | Literal["auto"]


def fit_utterance(
    model: SpeechToTextModel,
    utterance: Utterance,
    context: Context = "full",
    dtype: Dtype | None = None,
    gen_args: dict[str, Any] | None = None,
) -> Utterance:
    """Cuts the context of an utterance and lowers the precision of the model where that changes nothing that matters.

    A forward of Whisper costs what its window of 30 s costs, silence included, but a window that is cut too close
    makes it write something else. ``"auto"`` cuts on while both hold, and takes bfloat16 autocast where the hardware
    has it and both hold: the model writes the same as with the full window in float32, and the scores of a few
    perturbed spectrograms correlate with those of the full window at 0.99 or more.

    Args:
        model: the model.
        utterance: an utterance in its full window.
        context: ``"full"``, ``"auto"``, or the seconds of the window, at least the utterance's own. A number is taken
            as it is, with a warning where the model writes something else than with the full window.
        dtype: the precision, such as ``torch.bfloat16``, or ``"auto"``. Default: that of the model's weights.
        gen_args: arguments of the model's generation.

    Returns:
        Utterance: with its padding cut and its dtype set.

    Raises:
        ValueError: a context that is shorter than the utterance or longer than the window, or values of another kind.

    Example::

        >>> from captum_spes.models import load_model
        >>> from captum_spes.audio import load_audio
        >>> from captum_spes.models.context import fit_utterance
        >>> model = load_model("whisper-tiny.en")
        >>> utterance = model.utterance(load_audio("speech.wav", model.sample_rate))
        >>> fit_utterance(model, utterance, context="auto").n_frames <= utterance.n_frames
        True
    """
    gen_args = gen_args or {}
    if isinstance(context, str) and context not in ("full", "auto"):
        raise ValueError(f"context must be 'full', 'auto' or seconds, not {context!r}.")
    if dtype not in (None, "auto") and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype must be a floating-point torch.dtype or 'auto', not {dtype!r}.")
    if isinstance(dtype, torch.dtype):
        utterance = replace(utterance, dtype=dtype)
    if getattr(model, "full_window_only", False):
        if not isinstance(context, str):
            raise ValueError(f"context must be 'full' or 'auto', for {model.name} hears nothing but whole windows.")
        context = "full"
    if not isinstance(context, str):
        utterance = _cut(model, utterance, context, gen_args)
    contexts = list(_shorter(model, utterance)) if context == "auto" else []
    lower_dtype = dtype == "auto" and _has_fast_bfloat16(utterance.spectrogram.device)
    if not contexts and not lower_dtype:
        return utterance
    probe = _Probe(model, utterance, gen_args)
    for candidate in contexts:
        if not probe.agrees(candidate):
            break
        utterance = candidate
    if lower_dtype and probe.agrees(lower := replace(utterance, dtype=torch.bfloat16)):
        utterance = lower
    return utterance


def context_seconds(model: SpeechToTextModel, utterance: Utterance) -> float:
    """Seconds of the window that the model is given."""
    return utterance.n_frames / model.frames_per_second


class _Probe:
    """What a model does in one way of running it, to compare others with: its text and some perturbed scores."""

    def __init__(self, model: SpeechToTextModel, utterance: Utterance, gen_args: dict[str, Any]) -> None:
        spectrogram = utterance.spectrogram
        self.model = model
        self.tokens = model.generate(utterance, **gen_args)
        # a model that has begun to loop need not be heard to its end
        longest = len(self.tokens.target)
        self.gen_args = {**gen_args, "max_new_tokens": min(longest, gen_args.get("max_new_tokens", longest))}
        mask = slic_feature_mask(spectrogram, 500, frames_per_second=model.frames_per_second)
        layout = FeatureLayout.create((spectrogram,), mask, 0.5)
        hidden = MaskSampler(layout, seed=0).draw(0, 0, N_PROBES)
        self.inputs = layout.hide(spectrogram, model.baseline(utterance), 0, 0, hidden)[:, 0]
        self.scores = self._scores(utterance)

    def agrees(self, utterance: Utterance) -> bool:
        if not torch.equal(self.model.generate(utterance, **self.gen_args).target, self.tokens.target):
            return False
        scores = torch.stack((self.scores.flatten(), self._scores(utterance).flatten()))
        return bool(torch.corrcoef(scores)[0, 1] >= MIN_CORRELATION)  # False for NaN as well

    @torch.no_grad()
    def _scores(self, utterance: Utterance) -> Tensor:
        def logits(spectrogram: Tensor) -> Tensor:
            return self.model.logits(self.model.encode(spectrogram, utterance), self.tokens)

        return KLDivergence(logits, logits(utterance.spectrogram))(self.inputs)


def _cut(model: SpeechToTextModel, utterance: Utterance, seconds: float, gen_args: dict[str, Any]) -> Utterance:
    own, full = utterance.spectrogram.shape[1], utterance.n_frames
    if not own <= round(seconds * model.frames_per_second, 3) <= full:  # refuses NaN as well
        raise ValueError(
            f"context must be 'full', 'auto' or seconds between the utterance's {own / model.frames_per_second:.2f} s "
            f"and the window's {full / model.frames_per_second:g} s, not {seconds}."
        )
    cut = replace(utterance, padding=utterance.padding[:, : round(seconds * model.frames_per_second) - own])
    if not torch.equal(model.generate(cut, **gen_args).target, model.generate(utterance, **gen_args).target):
        warnings.warn(
            f"with a context of {seconds:g} s the model writes something else than with its full window: "
            "use context='auto' or a longer one.",
            stacklevel=2,
        )
    return cut


def _shorter(model: SpeechToTextModel, utterance: Utterance) -> Iterator[Utterance]:
    own, full = utterance.spectrogram.shape[1], utterance.n_frames
    for seconds in PADDINGS:
        n_frames = own + round(seconds * model.frames_per_second)
        n_frames += n_frames % 2  # Whisper's encoder halves them
        if n_frames < full:
            yield replace(utterance, padding=utterance.padding[:, : n_frames - own])


def _has_fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return False
