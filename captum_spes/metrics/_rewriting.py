"""Transcribes spectrograms of which parts are hidden."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.metrics._restore import restore
from captum_spes.metrics.baselines import Baseline, make_hider
from captum_spes.models import SpeechToTextModel, text

# arguments of generation with which transformers downloads code and runs it
CODE = {"custom_generate", "trust_remote_code"}
# the largest number of tokens of a text, unless the original has as many
MAX_NEW_TOKENS = 200


class Rewriter:
    """Transcribes perturbed spectrograms with the settings of an explanation.

    The model runs in the full window and the explanation's precision, with its prompt and arguments of generation.
    Texts end after ``max_new_tokens``, by default twice the original's tokens plus ten, so that repetitions end.

    Args:
        model: the model that was explained.
        explanation: an explanation of the tokens, or of the text as a whole.
        max_new_tokens: largest number of tokens of a text.
        baseline: the values that replace hidden bins; see :func:`~captum_spes.metrics.baselines.make_hider`.
        seed: the seed of the baseline's noise.

    Raises:
        ValueError: :func:`restore` refuses the explanation.
    """

    def __init__(
        self,
        model: SpeechToTextModel,
        explanation: SpeechToTextExplanation,
        max_new_tokens: int | None = None,
        baseline: Baseline = "mean",
        seed: int = 0,
    ) -> None:
        self.model = model
        self.utterance, self.tokens = restore(model, explanation)
        self.hide = make_hider(baseline, model, self.utterance, seed)
        gen_args = explanation.metadata.get("gen_args", {})
        if unsafe := CODE & gen_args.keys():
            raise ValueError(
                f"the explanation's metadata has {' and '.join(sorted(unsafe))} among its gen_args, which could run "
                "foreign code: such an explanation is refused."
            )
        if max_new_tokens is None:
            n_tokens = len(self.tokens.target)
            longest = max(n_tokens, min(2 * n_tokens + 10, MAX_NEW_TOKENS))
            max_new_tokens = min(longest, _given_length(gen_args, len(self.tokens.prompt)) or longest)
        unlimited = {name: value for name, value in gen_args.items() if name != "max_length"}
        self.gen_args = {**unlimited, "max_new_tokens": max_new_tokens}

    def texts(self, hidden: Tensor, batch_size: int) -> Iterator[str]:
        """The texts for masks (S, T · C), whose bins are set to the baseline."""
        spectrogram = self.utterance.spectrogram
        for masks in hidden.split(batch_size):
            heard = self.hide(masks.view(-1, *spectrogram.shape[1:]).to(spectrogram.device))
            for ids in self.model.generate_batch(heard, self.utterance, self.tokens.prompt, **self.gen_args):
                yield text(self.model, ids)


def _given_length(gen_args: dict[str, Any], n_prompt: int) -> int | None:
    """The largest number of new tokens by the arguments of generation, of which ``max_length`` counts the prompt."""
    if gen_args.get("max_new_tokens") is None and gen_args.get("max_length") is not None:
        return gen_args["max_length"] - n_prompt
    return gen_args.get("max_new_tokens")
