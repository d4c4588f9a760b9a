"""The explanation of one utterance: what each written token owes to the spectrogram and to the tokens before it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from captum_spes._files import write_atomically
from captum_spes.audio import AudioLike
from captum_spes.confidence import Confidence
from captum_spes.explanation import figures, files, page
from captum_spes.explanation.checks import check_tensors, check_values
from captum_spes.explanation.export import csv_text, data_frame, json_text, textgrid_text
from captum_spes.explanation.figures import Sign
from captum_spes.explanation.listening import to_audio
from captum_spes.explanation.rows import Times, WordRow, word_rows
from captum_spes.maps import z_scores
from captum_spes.visualization import plot_segmentation, plot_spectrogram, plot_token_attributions
from captum_spes.visualization.report import iframe
from captum_spes.words import word_spans

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class SpeechToTextExplanation:
    """Attributions of the tokens that a model wrote. K explained tokens, J previous tokens, T frames, C mel channels.

    Larger is more important; maps are as the method gave them until :meth:`normalize`.

    Attributes:
        text: the explained text.
        tokens: text of the K explained tokens; joined, they are all that was written.
        previous_tokens: text of the J tokens that the decoder read: those of the prompt, then the explained ones but
            the last. None (J = 0) where a model writes all tokens at once, as CTC models do.
        spectrogram: the utterance's own frames, (T, C), as the model hears them.
        spectrogram_attr: the maps S^X of the paper's Eq. 1, (K, T, C).
        token_attr: the maps S^Y, (K, J): rows are explained by columns; 0 where a token is no feature of the row.
        n_previous: how many of the previous tokens, from the first, are features of each row, (K,). Those that come
            later stay out of every mean, deviation and minimum.
        frames_per_second: frames a second of the spectrogram.
        mel_frequencies: centre of each mel channel in Hz, (C,).
        reliability: correlation between the spectrogram maps of two halves of the samples, (K,); None for methods
            that do not tell.
        feature_mask: the patches, int64 (S, T, C) for S granularities; None where every bin was a feature.
        normalized: whether the maps are normalised.
        grouped: whether the rows are words or the sentence, rather than the model's tokens.
        metadata: what was done: model, method, arguments, baseline, context, dtype, seed, versions.
        confidence: how sure the model was of each row, with what it might have written instead; None where that was
            not recorded, as of contrasts.

    Raises:
        ValueError: shapes that do not fit each other, or values that are none: texts that are no text, maps with NaN,
            numbers of tokens, frames or hertz that cannot be.

    Example::

        >>> import torch
        >>> from captum_spes import SpeechToTextExplanation
        >>> explanation = SpeechToTextExplanation(
        ...     text="So what", tokens=[" So", " what"], previous_tokens=["<s>", " So"],
        ...     spectrogram=torch.rand(10, 4), spectrogram_attr=torch.rand(2, 10, 4),
        ...     token_attr=torch.tensor([[0.3, 0.0], [0.1, 0.5]]), n_previous=torch.tensor([1, 2]),
        ...     frames_per_second=100, mel_frequencies=torch.linspace(100, 7000, 4))
        >>> explanation.words().tokens
        ['So', 'what']
        >>> explanation.sentence().spectrogram_attr.shape
        torch.Size([1, 10, 4])
        >>> explanation.duration, explanation.is_previous.tolist()
        (0.1, [[True, False], [True, True]])
    """

    text: str
    tokens: list[str]
    previous_tokens: list[str]
    spectrogram: Tensor
    spectrogram_attr: Tensor
    token_attr: Tensor
    n_previous: Tensor
    frames_per_second: float
    mel_frequencies: Tensor
    reliability: Tensor | None = None
    feature_mask: Tensor | None = None
    normalized: bool = False
    grouped: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)
    confidence: Confidence | None = None

    def __post_init__(self) -> None:
        check_values(self)
        check_tensors(self)

    def __repr__(self) -> str:
        method = self.metadata.get("method", "unknown method")
        return (
            f"<SpeechToTextExplanation of {self.text!r} by {method}: {len(self.tokens)} tokens, "
            f"{len(self.previous_tokens) or 'no'} previous tokens, {self.duration:.2f} s>"
        )

    @property
    def is_previous(self) -> Tensor:
        """Which previous tokens are features of which row, bool (K, J)."""
        return torch.arange(len(self.previous_tokens)) < self.n_previous[:, None]

    @property
    def duration(self) -> float:
        """Seconds of the utterance."""
        return len(self.spectrogram) / self.frames_per_second

    # Reading

    def normalize(self) -> SpeechToTextExplanation:
        """The maps z-scored each by itself, then scaled to [0, 1] together with the other map of the same token.

        The two steps of the paper's §4.3. Deviations are those of a sample; a map without deviation becomes 0. A
        normalised explanation is returned as it is.

        Example::

            >>> explanation.normalize().spectrogram_attr.amax((1, 2))
            tensor([1., 1., 1., 1.])
        """
        if self.normalized:
            return self
        spectrogram_attr, token_attr = z_scores(self.spectrogram_attr, self.token_attr, self.is_previous)
        mask = self.is_previous
        low, high = spectrogram_attr.amin((1, 2)), spectrogram_attr.amax((1, 2))
        if self.previous_tokens:
            low = torch.minimum(low, token_attr.masked_fill(~mask, torch.inf).amin(1))
            high = torch.maximum(high, token_attr.masked_fill(~mask, -torch.inf).amax(1))
        span = torch.where(high > low, high - low, 1)
        return replace(
            self,
            spectrogram_attr=(spectrogram_attr - low[:, None, None]) / span[:, None, None],
            token_attr=torch.where(mask, (token_attr - low[:, None]) / span[:, None], 0),
            normalized=True,
        )

    def sentence(self, normalize: bool = True) -> SpeechToTextExplanation:
        """An explanation with one row, the whole text: the mean of the tokens' maps (paper §4.3).

        Previous tokens that explain only the later rows count as 0 in the others, as in the authors' code.

        Args:
            normalize: normalise the tokens' maps first, without which the tokens with the largest values prevail.

        Example::

            >>> explanation.sentence().spectrogram_attr.shape
            torch.Size([1, 15, 4])
        """
        source = self.normalize() if normalize else self
        return replace(
            source,
            tokens=[self.text],
            spectrogram_attr=source.spectrogram_attr.mean(0, keepdim=True),
            token_attr=source.token_attr.mean(0, keepdim=True),
            n_previous=torch.tensor([len(self.previous_tokens)]),
            grouped=True,
            reliability=None if self.reliability is None else self.reliability.mean(0, keepdim=True),
            confidence=self.confidence and self.confidence.grouped([(0, len(self.tokens))], self.tokens),
        )

    def words(self, normalize: bool = True, group_previous: bool = False) -> SpeechToTextExplanation:
        """An explanation whose tokens are the words: the mean of the maps of a word's tokens (paper §8.1).

        Words are those of the text, whatever its tokens; punctuation is a word, and so is a mark such as the end of
        the text. A word's own tokens do not explain it.

        Args:
            normalize: normalise the tokens' maps first.
            group_previous: make words of the previous tokens too, each the mean of its tokens.

        Example::

            >>> explanation.words(group_previous=True).previous_tokens
            ['<|startoftranscript|>', 'So', 'no', '.']
        """
        if self.grouped:
            raise ValueError("this explanation is of words or a sentence already: call words() on that of the tokens.")
        source = self.normalize() if normalize else self
        spans = word_spans(self.tokens)
        spectrogram_attr = torch.stack([source.spectrogram_attr[start:stop].mean(0) for start, stop in spans])
        token_attr = torch.stack([source.token_attr[start:stop].mean(0) for start, stop in spans])
        words = ["".join(self.tokens[start:stop]).strip() for start, stop in spans]
        n_prompt = int(self.n_previous[0])
        first = [start for start, _ in spans]
        previous, n_previous = self.previous_tokens, self.n_previous[first]
        if group_previous and previous:
            columns = [(i, i + 1) for i in range(n_prompt)] + [(n_prompt + a, n_prompt + b) for a, b in spans[:-1]]
            token_attr = torch.stack([token_attr[:, start:stop].mean(1) for start, stop in columns], dim=1)
            previous, n_previous = previous[:n_prompt] + words[:-1], n_prompt + torch.arange(len(spans))
        return replace(
            source,
            tokens=words,
            previous_tokens=previous,
            spectrogram_attr=spectrogram_attr,
            token_attr=torch.where(torch.arange(len(previous)) < n_previous[:, None], token_attr, 0),
            n_previous=n_previous,
            grouped=True,
            reliability=None
            if self.reliability is None
            else torch.stack([self.reliability[start:stop].mean() for start, stop in spans]),
            confidence=self.confidence and self.confidence.grouped(spans, self.tokens),
        )

    def top_previous_tokens(self) -> list[str]:
        """For each token the previous token with the largest attribution; an empty text where there is none before.

        Raises:
            ValueError: the model has no previous tokens.

        Example::

            >>> explanation.top_previous_tokens()
            ['<|startoftranscript|>', ' So', ' no', ' So']
        """
        self._check_previous()
        scores = self.token_attr.masked_fill(~self.is_previous, -torch.inf)
        tops = zip(scores.argmax(1).tolist(), self.n_previous.tolist())
        return [self.previous_tokens[top] if n_previous else "" for top, n_previous in tops]

    def word_rows(self, times: Times | None = None) -> list[WordRow]:
        """What is known of each word in numbers: times, probability, salient span and band, reliability.

        Args:
            times: for each row of :meth:`words` when it is spoken, or None, such as what
                :func:`~captum_spes.alignment.match_words` returns. Default: when the model itself attended to it, of
                models that tell (Whisper).

        Raises:
            ValueError: times that are not one for each word.

        Example::

            >>> [row.text for row in explanation.word_rows()]
            ['So', 'no', '.', '<|endoftext|>']
        """
        return word_rows(self, times)

    def _check_previous(self) -> None:
        if not self.previous_tokens:
            raise ValueError(
                "there are no previous tokens: the model writes all tokens at once, or wrote this one after no other."
            )

    def index(self, token: int | str) -> int:
        """The row of a token: its number (from the end where negative) or its text, where only one has it.

        Raises:
            ValueError: no such token, or several.

        Example::

            >>> explanation.index("no"), explanation.index(-1)
            (1, 3)
        """
        if isinstance(token, str):
            rows = [row for row, text in enumerate(self.tokens) if text.strip() == token.strip()]
            if len(rows) != 1:
                found = f"rows {rows} are" if rows else "none is"
                raise ValueError(f"{found} {token.strip()!r}: give one of {self.tokens}, or its row.")
            return rows[0]
        if not -len(self.tokens) <= token < len(self.tokens):
            raise ValueError(f"there is no token {token}: there are {len(self.tokens)}.")
        return token % len(self.tokens)

    # Listening

    def to_audio(
        self,
        audio: AudioLike,
        token: int | str,
        *,
        keep: float | None = None,
        remove: float | None = None,
        background: Literal["silence", "noise"] = "silence",
        sampling_rate: int | None = None,
        seed: int = 0,
    ) -> np.ndarray:
        """The recording with nothing but its most salient regions for a token, or without them.

        The bins with the largest values of the token's map are the regions, as in
        :func:`~captum_spes.metrics.deletion`; all but them, or they, are silenced (:func:`mask_audio
        <captum_spes.audio.masking.mask_audio>`). Silence is not what SPES puts in the place of hidden bins: that sounds
        like steady noise, and is the other background. People hear speech go on through gaps that noise fills, not
        through silent ones (Warren, 1970, "Perceptual restoration of missing speech sounds"), and Whisper writes a kept
        word more often in noise (``benchmarks/listening.py``). Nothing is made louder: what little is kept is as faint
        as in the recording.

        For a word, ``explanation.words().to_audio(audio, "next", keep=0.1)``; for the text as a whole,
        ``explanation.sentence().to_audio(audio, 0, keep=0.1)``.

        Args:
            audio: the recording that was explained, as for :func:`~captum_spes.audio.read_audio`; of the file of a long
                recording, the part that was explained is taken.
            token: its row or its text.
            keep: the share of the utterance's bins that is kept, from 0 to 1.
            remove: the share that is removed. Exactly one of the two is given; with equal shares and silence, the two
                results add up to the recording.
            background: what is heard in place of hidden bins: ``"silence"``, or ``"noise"``, at each frequency as loud
                as the recording is in the mean (:func:`mean_noise <captum_spes.audio.masking.mean_noise>`).
            sampling_rate: samples a second of an array. A file tells its own.
            seed: the seed of the order of bins with equal values, as all of a patch have, and of the noise.

        Returns:
            numpy.ndarray: float32 samples of shape (n,), mono, at the recording's own rate and as long as what was
            explained.

        Raises:
            ValueError: both or none of ``keep`` and ``remove``, or no share; no such token; audio that cannot be read,
                or is another recording: it is longer or shorter, or its file is not the one that the metadata tell.

        Warns:
            UserWarning: a map that is the same everywhere, whose bins come in random order.

        Example::

            >>> import numpy as np
            >>> import torch
            >>> from captum_spes import SpeechToTextExplanation
            >>> spectrogram_attr = torch.zeros(1, 50, 4)
            >>> spectrogram_attr[0, 10:30] = 1  # 0.1 to 0.3 s
            >>> explanation = SpeechToTextExplanation(
            ...     text="So", tokens=[" So"], previous_tokens=[], spectrogram=torch.rand(50, 4),
            ...     spectrogram_attr=spectrogram_attr, token_attr=torch.zeros(1, 0), n_previous=torch.tensor([0]),
            ...     frames_per_second=100, mel_frequencies=torch.linspace(100, 7000, 4))
            >>> recording = np.sin(np.arange(8000)).astype(np.float32)
            >>> kept = explanation.to_audio(recording, "So", keep=0.4, sampling_rate=16000)
            >>> bool(np.abs(kept - recording)[2000:4400].max() < 1e-5), float(np.abs(kept)[5600:].max())
            (True, 0.0)
        """
        return to_audio(self, audio, token, keep, remove, background, sampling_rate, seed)

    # Files

    def save(self, path: str | os.PathLike[str], half: bool = False) -> None:
        """Writes the explanation to a safetensors file, all at once or not at all.

        Where the maps are constant over patches and that is smaller, one score for each patch is written (for each
        intersection of patches where there are several granularities) beside the feature mask.

        Args:
            path: the file.
            half: write the spectrogram and scores in half precision.

        Raises:
            ValueError: metadata that JSON cannot hold, or values that half precision cannot.

        Example::

            >>> explanation.save("so-no.safetensors", half=True)
        """
        files.save(self, path, half)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SpeechToTextExplanation:
        """Reads what :meth:`save` wrote.

        A file may come from anyone: nothing in it is run, all of it is checked, and it takes no more memory than some
        times its size and a gigabyte.

        Raises:
            ValueError: no such file, or one that is no explanation, is damaged (its checksum tells) or of a newer
                version.

        Example::

            >>> from captum_spes import SpeechToTextExplanation
            >>> explanation.save("so-no.safetensors")
            >>> SpeechToTextExplanation.load("so-no.safetensors")
            <SpeechToTextExplanation of 'So no.' by SPES: 4 tokens, 4 previous tokens, 1.50 s>
        """
        return files.load(path, cls)

    def to_json(self, times: Times | None = None) -> str:
        """What is known of each word, as JSON: the text, its duration, and the rows of :meth:`word_rows`.

        Args:
            times: as for :meth:`word_rows`.

        Example::

            >>> import json
            >>> words = json.loads(explanation.to_json())["words"]
            >>> [word["text"] for word in words], words[0]["salient_begin"]
            (['So', 'no', '.', '<|endoftext|>'], 0.2)
        """
        known = {name: self.metadata.get(name) for name in ("model", "method", "audio_file")}
        return json_text(word_rows(self, times), {"text": self.text, "duration": self.duration, **known})

    def to_csv(self, times: Times | None = None) -> str:
        """What is known of each word, a line each, as :meth:`to_dataframe` has it.

        Example::

            >>> explanation.to_csv().splitlines()[0].split(",")[:4]
            ['text', 'begin', 'end', 'probability']
        """
        return csv_text(word_rows(self, times))

    def to_dataframe(self, times: Times | None = None) -> Any:
        """What is known of each word, as a ``pandas.DataFrame`` with a row each.

        Args:
            times: as for :meth:`word_rows`.

        Raises:
            ImportError: pandas is missing (extra ``export``).

        Example::

            >>> explanation.to_dataframe()[["text", "salient_begin", "top_previous_token"]]  # doctest: +SKIP
        """
        return data_frame(word_rows(self, times))

    def to_textgrid(self, times: Times | None = None) -> str:
        """What is known of each word that has times, as a Praat TextGrid: a tier of the words, and one for each fact.

        Args:
            times: as for :meth:`word_rows`.

        Raises:
            ValueError: it is not known when the words are spoken.
            ImportError: praatio is missing (extra ``export``).

        Example::

            >>> from captum_spes.alignment import match_words
            >>> times = match_words(explanation.words().tokens, alignment.words)
            >>> '"words"' in explanation.to_textgrid(times)
            True
        """
        return textgrid_text(word_rows(self, times), self.duration)

    # The interactive report

    def to_html(
        self,
        path: str | os.PathLike[str],
        *,
        audio: AudioLike | Literal[False] | None = None,
        sampling_rate: int | None = None,
        others: Sequence[SpeechToTextExplanation] = (),
    ) -> None:
        """Writes one HTML file that plays the audio and shows, word by word, what the model heard.

        The file is whole: it can be sent to others, opens in any browser of 2024 or later, and never asks a network.

        Args:
            path: the file.
            audio: the recording that was explained, as for :func:`~captum_spes.audio.read_audio`; of the file of a long
                recording, the part that was explained is taken. Default: the file that the metadata name
                (``audio_file``), where it is still there and the same (``audio_sha256``).
                False: no audio, for reports that may go where the voice may not. Without a recording the report says
                that there is none.
            sampling_rate: samples a second of an array. A file tells its own.
            others: explanations of the same utterance and text by other methods, shown beside this one. Their colours
                are then percentile ranks, since values of different methods do not compare.

        Raises:
            ValueError: audio that cannot be read or is another recording, or others that explain something else.

        Example::

            >>> import tempfile
            >>> from pathlib import Path
            >>> import torch
            >>> from captum_spes import SpeechToTextExplanation
            >>> explanation = SpeechToTextExplanation(
            ...     text="So", tokens=[" So"], previous_tokens=[], spectrogram=torch.rand(50, 4),
            ...     spectrogram_attr=torch.rand(1, 50, 4), token_attr=torch.zeros(1, 0), n_previous=torch.tensor([0]),
            ...     frames_per_second=100, mel_frequencies=torch.linspace(100, 7000, 4))
            >>> path = Path(tempfile.mkdtemp()) / "report.html"
            >>> explanation.to_html(path, audio=torch.rand(8000) - 0.5, sampling_rate=16000)
            >>> path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
            True
        """
        write_atomically(path, page.html(self, audio, sampling_rate, others))

    def show(
        self,
        *,
        audio: AudioLike | Literal[False] | None = None,
        sampling_rate: int | None = None,
        others: Sequence[SpeechToTextExplanation] = (),
    ) -> None:
        """Shows the report of :meth:`to_html`, which says what is taken, in a notebook, in a frame of its own.

        Raises:
            ValueError: what :meth:`to_html` refuses.
            ImportError: there is no IPython.

        Example::

            >>> explanation = SpeechToTextExplanation.load("explanation.safetensors")  # doctest: +SKIP
            >>> explanation.show(audio="speech.wav")  # doctest: +SKIP
        """
        try:
            from IPython.display import HTML, display
        except ImportError as error:
            raise ImportError("show() is for notebooks, and IPython is not there: use to_html(path).") from error
        display(HTML(iframe(page.html(self, audio, sampling_rate, others))))

    def _repr_html_(self) -> str:
        return iframe(page.html(self))

    # Pictures

    def plot_spectrogram(self) -> Figure:
        """The spectrogram alone.

        Example::

            >>> explanation.plot_spectrogram().savefig("spectrogram.png")
        """
        return plot_spectrogram(self.spectrogram, self.frames_per_second, self.mel_frequencies)

    def plot_sentence(self, sign: Sign | None = None) -> Figure:
        """The map of the whole text over the spectrogram, coloured up to its own maximum: it is the mean of many.

        Args:
            sign: as of :meth:`plot_tokens`.

        Example::

            >>> explanation.plot_sentence().savefig("sentence.png")
        """
        return figures.plot_sentence(self, sign)

    def plot_tokens(self, sign: Sign | None = None) -> Figure:
        """One panel a token, on one colour scale (paper, Fig. 3).

        Maps of one sign are normalised. Where values have both signs and 0 is no effect, each map is divided by its
        largest value. Tokens whose reliability is below 0.5 are hatched.

        Args:
            sign: ``"positive"`` draws what weakens the prediction when it is hidden, and the label says which share of
                the values is left out; ``"all"`` draws both signs, as ``visualize_image_attr`` of Captum calls them.
                Default: positive values, and both signs for a contrast, whose negative values speak for the foil.

        Raises:
            ValueError: another sign.

        Example::

            >>> explanation.plot_tokens().savefig("tokens.png")
        """
        return figures.plot_tokens(self, sign)

    def plot_words(self, sign: Sign | None = None) -> Figure:
        """One panel a word, as :meth:`plot_tokens` has one a token.

        Args:
            sign: as of :meth:`plot_tokens`.

        Example::

            >>> explanation.plot_words().savefig("words.png")
        """
        return figures.plot_words(self, sign)

    def plot_previous_tokens(self) -> Figure:
        """The matrix of explained tokens × previous tokens, with labels (paper, Fig. 3).

        Raises:
            ValueError: the model has no previous tokens.

        Example::

            >>> explanation.plot_previous_tokens().savefig("previous_tokens.png")
        """
        self._check_previous()
        source = self.normalize()
        return plot_token_attributions(source.token_attr, source.tokens, source.previous_tokens, source.is_previous)

    def plot_segmentation(self, granularity: int = 0) -> Figure:
        """The spectrogram and its patches at one granularity (paper, Fig. 1).

        Raises:
            ValueError: the method used no patches.

        Example::

            >>> from dataclasses import replace
            >>> from captum_spes import grid_feature_mask
            >>> patches = grid_feature_mask(explanation.spectrogram[None], (5, 2))
            >>> replace(explanation, feature_mask=patches).plot_segmentation().savefig("segmentation.png")
        """
        if self.feature_mask is None:
            raise ValueError("this explanation has no patches: every bin of the spectrogram was a feature.")
        return plot_segmentation(
            self.feature_mask[granularity], self.spectrogram, self.frames_per_second, self.mel_frequencies
        )

    def visualize(self, token: int | str, **kwargs: Any) -> Any:
        """One token's map through ``captum.attr.visualization.visualize_image_attr``.

        The map is z-scored first: Eq. 3 gives every bin the mean impact of all perturbations as an offset, which would
        take up Captum's scale. Positive is more important than the average bin. Captum scales every map by itself: to
        compare tokens, use :meth:`plot_tokens`.

        Args:
            token: its row or its text.
            **kwargs: arguments of ``visualize_image_attr``, such as ``method="blended_heat_map"``.

        Returns:
            (Figure, Axes): the picture, frequency upwards.

        Example::

            >>> figure, axes = explanation.visualize("no", method="blended_heat_map")
        """
        return figures.visualize(self, token, **kwargs)
