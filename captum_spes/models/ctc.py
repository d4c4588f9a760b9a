"""Models of Hugging Face transformers that write all tokens at once (connectionist temporal classification, CTC)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from captum_spes.models.features import ParakeetFeatures, StackedFeatures
from captum_spes.models.huggingface import HuggingFaceModel
from captum_spes.models.protocol import Tokens, Utterance


class CtcModel(HuggingFaceModel, ABC):
    """A :class:`~captum_spes.models.SpeechToTextModel` that writes all tokens at once.

    It predicts a token or a blank at each of its frames. Equal neighbours are merged into one token, and blanks are
    left out (Graves et al., 2006). A token is explained by the predictions at the frames that the best path assigns to
    it. There are no previous tokens.

    Args:
        model: the model.
        processor: its processor (feature extractor and tokenizer), or the feature extractor alone.
        name: its name in results. Default: the name with which it was loaded.
        language: must be None; the language cannot be chosen.
        task: ``"transcribe"``.

    Raises:
        ValueError: a language or another task is given.
    """

    embedding_dim = 0  # tokens are not inputs of the model

    def __init__(
        self,
        model: Any,
        processor: Any,
        name: str | None = None,
        language: str | None = None,
        task: str = "transcribe",
    ) -> None:
        super().__init__(model, processor, name, language, task)
        if language is not None or task != "transcribe":
            raise ValueError(f"{self.name} can only transcribe its own language: leave out language and task.")
        self.blank: int = model.config.pad_token_id
        self._special.discard(getattr(self.tokenizer, "word_delimiter_token_id", None))

    @abstractmethod
    def _frame_logits(self, spectrogram: Tensor, utterance: Utterance) -> Tensor:
        """Predictions (B, F, V) at all frames that are not masked, for spectrograms (B, T, C)."""

    # The protocol

    def encode(self, spectrogram: Tensor, utterance: Utterance) -> Tensor:
        """Predictions at all frames, (B, F, V)."""
        with self._running(utterance.dtype):
            return self._frame_logits(spectrogram, utterance)

    def logits(self, encoded: Tensor, tokens: Tokens, token_gate: Tensor | None = None) -> Tensor:
        """Predictions at the frames of the tokens, (B, R, V); see :attr:`Tokens.path`."""
        assert tokens.path is not None  # tokens of this model have a path
        return encoded[:, tokens.path >= 0]

    def generate(self, utterance: Utterance, **gen_args: Any) -> Tokens:
        ids, path = collapse(self._best(utterance.spectrogram, utterance)[0], self.blank)
        ids = _limited(ids, **gen_args)
        return Tokens(ids[:0], ids, generated=True, path=torch.where(path < len(ids), path, -1))

    def generate_batch(
        self, spectrograms: Tensor, utterance: Utterance, prompt: Tensor, **gen_args: Any
    ) -> list[Tensor]:
        return [_limited(collapse(row, self.blank)[0], **gen_args) for row in self._best(spectrograms, utterance)]

    def tokens(self, target: str | Sequence[int] | Tensor, utterance: Utterance) -> Tokens:
        ids = torch.tensor(self._target_ids(target), device=self.model.device)
        if (ids == self.blank).any():
            raise ValueError(f"the target holds the blank, {self.blank}, which is not a token of texts: leave it out.")
        with torch.no_grad():
            log_probs = self.encode(utterance.spectrogram, utterance)[0].float().log_softmax(-1)
        return Tokens(ids[:0], ids, path=best_path(log_probs, ids, self.blank))

    @torch.no_grad()
    def _best(self, spectrograms: Tensor, utterance: Utterance) -> Tensor:
        """The most probable token at each frame, (B, F)."""
        return self.encode(spectrograms, utterance).argmax(-1)

    # Text

    def _text_within(self, ids: list[int]) -> str:
        # some models round up their vocabulary: ids beyond those of the tokenizer have no text
        pieces = "".join(piece or "" for piece in self.tokenizer.convert_ids_to_tokens(ids))
        delimiter = getattr(self.tokenizer, "word_delimiter_token", None)
        return (pieces.replace(delimiter, " ") if delimiter else pieces).replace("▁", " ")

    def _decode(self, ids: list[int]) -> str:
        return self._text_within(ids)  # the tokenizer's decode would merge equal neighbours as in frames


class Wav2Vec2BertModel(StackedFeatures, CtcModel):
    """Wav2Vec2-BERT with a CTC head, ``Wav2Vec2BertForCTC``; arguments as in :class:`CtcModel`."""

    def _frame_logits(self, spectrogram: Tensor, utterance: Utterance) -> Tensor:
        stacked, mask = self._stacked(spectrogram, utterance), self._mask(utterance)
        n_pairs = stacked.shape[1] if mask is None else int(mask.sum())
        mask = None if mask is None else mask.expand(len(stacked), -1)
        logits = self.model(stacked, attention_mask=mask).logits
        return logits[:, : int(self.model._get_feat_extract_output_lengths(torch.tensor(n_pairs)))]


class ParakeetCtcModel(ParakeetFeatures, CtcModel):
    """Parakeet with a CTC head, ``ParakeetForCTC``; arguments as in :class:`CtcModel`."""

    def _frame_logits(self, spectrogram: Tensor, utterance: Utterance) -> Tensor:
        return self.model(spectrogram.to(self.model.dtype)).logits


def collapse(best: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    """The tokens of a path, (K,), and for each frame the number of its token, (F,), −1 for blanks.

    Example::

        >>> import torch
        >>> from captum_spes.models.ctc import collapse
        >>> collapse(torch.tensor([0, 5, 5, 0, 5, 7]), blank=0)
        (tensor([5, 5, 7]), tensor([-1,  0,  0, -1,  1,  2]))
    """
    is_token = best != blank
    begins = is_token & torch.cat((best.new_ones(1, dtype=torch.bool), best[1:] != best[:-1]))
    return best[begins], torch.where(is_token, begins.cumsum(0) - 1, -1)


def best_path(log_probs: Tensor, ids: Tensor, blank: int) -> Tensor:
    """Finds the most probable path that collapses to the given tokens, by Viterbi's algorithm.

    Args:
        log_probs: log-probabilities at each frame, (F, V).
        ids: the tokens, (K,).
        blank: the id of the blank.

    Returns:
        Tensor: for each frame the number of its token, (F,); −1 for blanks.

    Raises:
        ValueError: the tokens need more frames than there are.
    """
    states = ids.new_full((2 * len(ids) + 1,), blank)  # blank, token, blank, …, token, blank
    states[1::2] = ids
    may_skip = torch.zeros_like(states, dtype=torch.bool)  # whether the blank before a token can be skipped
    may_skip[3::2] = ids[1:] != ids[:-1]
    scores = torch.where(torch.arange(len(states), device=ids.device) < 2, log_probs[0, states], -torch.inf)
    steps = []
    for frame in log_probs[1:, states]:
        ways = torch.stack(
            [torch.nn.functional.pad(scores, (back, 0), value=-torch.inf)[: len(states)] for back in range(3)]
        )
        ways[2].masked_fill_(~may_skip, -torch.inf)
        best, step = ways.max(0)
        scores = best + frame
        steps.append(step)
    state = len(states) - 1 if scores[-1] > scores[-2] else len(states) - 2
    if scores[state] == -torch.inf:
        raise ValueError(f"the target has {len(ids)} tokens, too many for {len(log_probs)} frames of the model.")
    path = [state]
    for step in reversed(steps):
        path.append(path[-1] - int(step[path[-1]]))
    found = torch.tensor(path[::-1], device=ids.device)
    return torch.where(found % 2 == 1, found // 2, -1)


def _limited(ids: Tensor, max_new_tokens: int | None = None, **gen_args: Any) -> Tensor:
    if gen_args:
        raise ValueError(f"gen_args cannot hold {', '.join(sorted(gen_args))}: a CTC model takes only max_new_tokens.")
    return ids[:max_new_tokens]
