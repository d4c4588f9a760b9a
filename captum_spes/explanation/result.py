"""The explanation of one utterance: how each token depends on the spectrogram and on the previous tokens."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from captum_spes._extras import require
from captum_spes._files import write_atomically
from captum_spes.audio import AudioLike
from captum_spes.confidence import Confidence
from captum_spes.explanation import figures, files, page
from captum_spes.explanation.checks import check_tensors, check_values
from captum_spes.explanation.errors import TextError
from captum_spes.explanation.figures import Sign
from captum_spes.explanation.listening import part_span, to_audio
from captum_spes.explanation.rows import Times, WordRow, word_rows
from captum_spes.explanation.tables import csv_text, data_frame, json_text, textgrid_text
from captum_spes.maps import z_scores
from captum_spes.visualization import plot_segmentation, plot_spectrogram, plot_token_attributions
from captum_spes.visualization.report import iframe
from captum_spes.words import word_spans

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from captum_spes.visualization.report.widget import ReportWidget


@dataclass(frozen=True, eq=False, repr=False)
class SpeechToTextExplanation:
    """Attributions of the tokens that a model wrote. K explained tokens, J previous tokens, T frames, C mel channels.

    Larger values are more important. The maps are those of the method until :meth:`normalize` is called.

    Attributes:
        text: the explained text.
        tokens: text of the K explained tokens; joined, they are the whole text.
        previous_tokens: text of the J tokens that the decoder read: those of the prompt, then the explained tokens
            without the last. J is 0 for models that write all tokens at once, such as CTC models.
        spectrogram: the utterance's own frames, (T, C), as the input of the model.
        spectrogram_attr: the maps S^X of the paper's Eq. 1, (K, T, C).
        token_attr: the maps S^Y, (K, J): rows are explained by columns. It is 0 for tokens that are not features of
            the row.
        n_previous: for each row the number of previous tokens, from the first, that are its features, (K,). Later
            tokens are left out of every mean, deviation and minimum.
        frames_per_second: frames per second of the spectrogram.
        mel_frequencies: centre of each mel channel in Hz, (C,).
        reliability: correlation between the spectrogram maps of two halves of the samples, (K,); None for methods
            that do not measure it.
        feature_mask: the patches, int64 (S, T, C) for S granularities; None if every bin was a feature.
        normalized: whether the maps are normalised.
        grouped: whether the rows are words or the sentence, rather than the model's tokens.
        metadata: how the explanation was made: model, method, arguments, baseline, context, dtype, seed, versions.
        confidence: the model's confidence in each row, with alternatives; None if it was not recorded, for instance
            for contrasts.

    Raises:
        ValueError: shapes do not fit each other, or values are invalid, such as maps with NaN or negative numbers of
            tokens.

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
        """Whether a previous token is a feature of a row, bool (K, J)."""
        return torch.arange(len(self.previous_tokens)) < self.n_previous[:, None]

    @property
    def duration(self) -> float:
        """Seconds of the utterance."""
        return len(self.spectrogram) / self.frames_per_second

    # Reading

    def normalize(self) -> SpeechToTextExplanation:
        """Z-scores each map, and then scales the two maps of each token to [0, 1] together.

        These are the two steps of the paper's §4.3. Deviations are sample standard deviations; a constant map becomes
        0. A normalised explanation is returned unchanged.

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
        """An explanation with one row for the whole text: the mean of the tokens' maps (paper §4.3).

        A previous token that is a feature only of later rows counts as 0 in the others, as in the authors' code.

        Args:
            normalize: normalise the tokens' maps first. Otherwise tokens with large values dominate the mean.

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
        """An explanation with a row for each word: the mean of the maps of the word's tokens (paper §8.1).

        Words are those of the text, for any tokenizer. Punctuation is a word, and so is a special token such as the end
        of the text. A word's own tokens do not explain it.

        Args:
            normalize: normalise the tokens' maps first.
            group_previous: group the previous tokens to words as well, each the mean of its tokens.

        Example::

            >>> explanation.words(group_previous=True).previous_tokens
            ['<|startoftranscript|>', 'So', 'no', '.']
        """
        if self.grouped:
            raise ValueError("the rows of this explanation are words already: call words() on that of the tokens.")
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
        """For each token the previous token with the largest attribution; an empty text if there is none.

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
        """A table of the words: times, probability, salient span and band, reliability.

        Args:
            times: for each row of :meth:`words` its time or None, as :func:`~captum_spes.alignment.match_words` returns
                them. Default: the time at which the model attended to the word, for models that give it (Whisper).

        Raises:
            ValueError: there is not one time for each word.

        Example::

            >>> [row.text for row in explanation.word_rows()]
            ['So', 'no', '.', '<|endoftext|>']
        """
        return word_rows(self, times)

    def _check_previous(self) -> None:
        if not self.previous_tokens:
            raise ValueError(
                "there are no previous tokens: the model writes all tokens at once, or this token is the first."
            )

    def index(self, token: int | str) -> int:
        """The row of a token, by its number (negative numbers count from the end) or by its text, if it is unique.

        Raises:
            ValueError: there is no such token, or there are several.

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
            raise ValueError(f"there is no token {token}: the explanation has {len(self.tokens)} tokens.")
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
        """The recording with only its most salient regions for a token, or without them.

        The regions are the bins with the largest values of the token's map, as in
        :func:`~captum_spes.metrics.deletion`. All other bins, or these bins, are silenced (:func:`mask_audio
        <captum_spes.audio.masking.mask_audio>`). SPES's baseline is not silence: it sounds like steady noise, which
        is the other background. People perceive speech through gaps that are filled by noise, but not through silent
        gaps (Warren, 1970, "Perceptual restoration of missing speech sounds"), and Whisper writes a kept word more
        often in noise (``benchmarks/listening.py``). The level is not raised: a soft region stays soft.

        For a word, ``explanation.words().to_audio(audio, "next", keep=0.1)``; for the text as a whole,
        ``explanation.sentence().to_audio(audio, 0, keep=0.1)``.

        Args:
            audio: the recording that was explained, as for :func:`~captum_spes.audio.read_audio`. For the file of a
                long recording, the part that was explained is used.
            token: its row or its text.
            keep: the share of the utterance's bins that is kept, from 0 to 1.
            remove: the share that is removed. Give exactly one of the two. With equal shares and silence, the two
                results add up to the recording.
            background: the sound in place of hidden bins: ``"silence"``, or ``"noise"`` with the mean level of the
                recording at each frequency (:func:`mean_noise <captum_spes.audio.masking.mean_noise>`).
            sampling_rate: samples per second of an array. A file has its own rate.
            seed: the seed of the noise, and of the order of bins with equal values, such as those of a patch.

        Returns:
            numpy.ndarray: float32 samples of shape (n,), mono, at the recording's own rate, with the duration of the
            explained utterance.

        Raises:
            ValueError: both or none of ``keep`` and ``remove`` are given, or they are not shares; there is no such
                token; the audio cannot be read, or is not the recording that was explained, since its duration or the
                SHA-256 of its file differs.

        Warns:
            UserWarning: the map is the same everywhere, so that its bins are in random order.

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
        """Writes the explanation to a safetensors file, atomically.

        If the maps are constant over patches and this is smaller, one score is written for each patch (for each
        intersection of patches if there are several granularities), together with the feature mask.

        Args:
            path: the file.
            half: write the spectrogram and scores in half precision.

        Raises:
            ValueError: JSON cannot hold the metadata, or half precision cannot hold a value.

        Example::

            >>> explanation.save("so-no.safetensors", half=True)
        """
        files.save(self, path, half)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SpeechToTextExplanation:
        """Reads a file that :meth:`save` wrote.

        Files are not trusted: nothing in a file is run, all of it is checked, and it needs at most a few times its size
        and a gigabyte of memory.

        Raises:
            ValueError: the file does not exist, is not an explanation, is damaged (according to its checksum), or has a
                newer version.

        Example::

            >>> from captum_spes import SpeechToTextExplanation
            >>> explanation.save("so-no.safetensors")
            >>> SpeechToTextExplanation.load("so-no.safetensors")
            <SpeechToTextExplanation of 'So no.' by SPES: 4 tokens, 4 previous tokens, 1.50 s>
        """
        return files.load(path, cls)

    def to_json(self, times: Times | None = None) -> str:
        """The explanation of the words as JSON: the text, its duration, and the rows of :meth:`word_rows`.

        For a part of a long recording, ``start_seconds`` and ``stop_seconds`` are its place in the recording. The times
        of words count from its beginning.

        Args:
            times: as for :meth:`word_rows`.

        Example::

            >>> import json
            >>> words = json.loads(explanation.to_json())["words"]
            >>> [word["text"] for word in words], words[0]["salient_begin"]
            (['So', 'no', '.', '<|endoftext|>'], 0.2)
        """
        known = {name: self.metadata.get(name) for name in ("model", "method", "audio_file")}
        place = dict(zip(("start_seconds", "stop_seconds"), part_span(self) or ()))
        return json_text(word_rows(self, times), {"text": self.text, "duration": self.duration, **known, **place})

    def to_csv(self, times: Times | None = None) -> str:
        """The rows of :meth:`word_rows` as comma-separated values, with the columns of :meth:`to_dataframe`.

        Example::

            >>> explanation.to_csv().splitlines()[0].split(",")[:4]
            ['text', 'begin', 'end', 'probability']
        """
        return csv_text(word_rows(self, times))

    def to_dataframe(self, times: Times | None = None) -> Any:
        """The rows of :meth:`word_rows` as a ``pandas.DataFrame``.

        Args:
            times: as for :meth:`word_rows`.

        Raises:
            ImportError: pandas is missing (extra ``export``).

        Example::

            >>> explanation.to_dataframe()[["text", "salient_begin", "top_previous_token"]]  # doctest: +SKIP
        """
        return data_frame(word_rows(self, times))

    def to_textgrid(self, times: Times | None = None) -> str:
        """The words that have times as a Praat TextGrid, with a tier of the words and one for each fact about them.

        Args:
            times: as for :meth:`word_rows`.

        Raises:
            ValueError: the times of the words are not known.
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
        errors: Sequence[TextError] = (),
        reference: str = "",
    ) -> None:
        """Writes an interactive report as one HTML file, which plays the audio and shows the map of each word.

        The file needs no other files and no network, and opens in any browser of 2024 or later.

        Args:
            path: the file.
            audio: the recording that was explained, as for :func:`~captum_spes.audio.read_audio`. For the file of a
                long recording, the part that was explained is used. Default: the file that the metadata name
                (``audio_file``), if it still exists and has not changed (``audio_sha256``).
                False: no audio, for reports that must not contain the voice. A report without a recording says so.
            sampling_rate: samples per second of an array. A file has its own rate.
            others: explanations of the same utterance and text by other methods, shown together with this one. The
                colours are then percentile ranks, since values of different methods are not comparable.
            errors: errors of the text, from :func:`captum_spes.errors.explain_errors`, as rows to select.
            reference: the reference text, which is shown with the errors.

        Raises:
            ValueError: the audio cannot be read or is another recording, others explain something else, or errors are
                given together with others.

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
        write_atomically(path, page.html(self, audio, sampling_rate, others, errors, reference))

    def show(
        self,
        *,
        audio: AudioLike | Literal[False] | None = None,
        sampling_rate: int | None = None,
        others: Sequence[SpeechToTextExplanation] = (),
    ) -> None:
        """Shows the report of :meth:`to_html`, which documents the arguments, in a frame in a notebook.

        Raises:
            ValueError: as in :meth:`to_html`.
            ImportError: IPython is not installed.

        Example::

            >>> explanation = SpeechToTextExplanation.load("explanation.safetensors")  # doctest: +SKIP
            >>> explanation.show(audio="speech.wav")  # doctest: +SKIP
        """
        try:
            from IPython.display import HTML, display
        except ImportError as error:
            raise ImportError("show() needs IPython, which is not installed: use to_html(path).") from error
        display(HTML(iframe(page.html(self, audio, sampling_rate, others))))

    def widget(
        self,
        *,
        audio: AudioLike | Literal[False] | None = None,
        sampling_rate: int | None = None,
        others: Sequence[SpeechToTextExplanation] = (),
    ) -> ReportWidget:
        """The report of :meth:`to_html`, which documents the arguments, as a notebook widget.

        A notebook shows the widget where it ends a cell. The widget's attributes follow what the user selects:
        ``selected_word`` is the text of the chosen word, ``selected_index`` its number among :meth:`words`, and
        ``region`` the marked part of the spectrogram, in seconds and Hz. They are None where nothing is selected.
        ``view.observe(function, "selected_word")`` calls a function whenever another word is chosen.

        Raises:
            ValueError: what :meth:`to_html` refuses.
            ImportError: anywidget is missing (extra ``widget``).

        Example::

            >>> view = explanation.widget()  # doctest: +SKIP
            >>> view.selected_word, view.region  # doctest: +SKIP
            ('next', {'start': 0.9, 'stop': 1.2, 'low': 3000, 'high': 8000})
        """
        require("anywidget", "widget")
        from captum_spes.visualization.report.widget import ReportWidget

        return ReportWidget(page=page.html(self, audio, sampling_rate, others))

    def _repr_html_(self) -> str:
        return iframe(page.html(self))

    # Pictures

    def plot_spectrogram(self) -> Figure:
        """Draws the spectrogram alone.

        Example::

            >>> explanation.plot_spectrogram().savefig("spectrogram.png")
        """
        return plot_spectrogram(self.spectrogram, self.frames_per_second, self.mel_frequencies)

    def plot_sentence(self, sign: Sign | None = None) -> Figure:
        """Draws the map of the whole text over the spectrogram. The colours end at the maximum of this mean map.

        Args:
            sign: as in :meth:`plot_tokens`.

        Example::

            >>> explanation.plot_sentence().savefig("sentence.png")
        """
        return figures.plot_sentence(self, sign)

    def plot_tokens(
        self,
        sign: Sign | None = None,
        subset: Sequence[int | str] | None = None,
        figsize: tuple[float, float] | None = None,
        axes: Sequence[Axes] | None = None,
    ) -> Figure:
        """Draws one panel for each token, on one colour scale (paper, Fig. 3).

        Maps of one sign are normalised. If values have both signs, so that 0 means no effect, each map is divided by
        its largest value. Tokens with a reliability below 0.5 are hatched.

        Args:
            sign: ``"positive"`` draws bins that weaken the prediction when they are hidden, and the label gives the
                share of the values that is left out; ``"all"`` draws both signs, as in ``visualize_image_attr`` of
                Captum. Default: positive values, and both signs for a contrast, whose negative values speak for the
                foil.
            subset: the tokens to draw, as rows or texts, in this order; their colours are those of the whole figure.
                Default: all tokens.
            figsize: width and height of the figure in inches. Default: a size that fits the panels.
            axes: axes to draw on, one for each token, as in :func:`~captum_spes.visualization.plot_attributions`.
                Default: a new figure.

        Raises:
            ValueError: the sign is another one; a token does not exist, or occurs more than once; the number of axes
                is not that of the tokens.

        Example::

            >>> explanation.plot_tokens().savefig("tokens.png")
            >>> from matplotlib.figure import Figure
            >>> axes = Figure().subplots(1, 2)
            >>> explanation.plot_tokens(subset=["So", -1], axes=axes) is axes[0].figure
            True
        """
        return figures.plot_tokens(self, sign, subset=subset, figsize=figsize, axes=axes)

    def plot_words(
        self,
        sign: Sign | None = None,
        subset: Sequence[int | str] | None = None,
        figsize: tuple[float, float] | None = None,
        axes: Sequence[Axes] | None = None,
    ) -> Figure:
        """Draws one panel for each word, as :meth:`plot_tokens` does for each token.

        Args:
            sign: as in :meth:`plot_tokens`.
            subset: the words to draw, as in :meth:`plot_tokens`.
            figsize: width and height of the figure in inches.
            axes: axes to draw on, one for each word.

        Example::

            >>> explanation.plot_words().savefig("words.png")
            >>> explanation.plot_words(subset=["no"], figsize=(4, 3)).get_size_inches().tolist()
            [4.0, 3.0]
        """
        return figures.plot_words(self, sign, subset=subset, figsize=figsize, axes=axes)

    def plot_times(self, times: Times | None = None) -> Figure:
        """Draws the map of each word over time, in a row with a frame around the time in which the word is spoken.

        A row shows the largest value of the word's normalised map in each frame of the spectrogram, with colours from
        the row's smallest value to its largest. Words with a reliability below 0.5 are hatched.

        Args:
            times: the begin and end of each word of :meth:`words`, or None, as
                :func:`~captum_spes.alignment.match_words` returns them. Default: the time in which the model attends
                to the word, for models that provide it (Whisper); rows of other models have no frames.

        Raises:
            ValueError: the number of times is not that of the words.

        Example::

            >>> explanation.plot_times().savefig("times.png")
        """
        return figures.plot_times(self, times)

    def plot_previous_tokens(self) -> Figure:
        """Draws the matrix of explained tokens × previous tokens, with labels (paper, Fig. 3).

        Raises:
            ValueError: the model has no previous tokens.

        Example::

            >>> explanation.plot_previous_tokens().savefig("previous_tokens.png")
        """
        self._check_previous()
        source = self.normalize()
        return plot_token_attributions(source.token_attr, source.tokens, source.previous_tokens, source.is_previous)

    def plot_segmentation(self, granularity: int = 0) -> Figure:
        """Draws the spectrogram and its patches at one granularity (paper, Fig. 1).

        Raises:
            ValueError: the method used no patches.

        Example::

            >>> from dataclasses import replace
            >>> from captum_spes import grid_feature_mask
            >>> patches = grid_feature_mask(explanation.spectrogram[None], (5, 2))
            >>> replace(explanation, feature_mask=patches).plot_segmentation().savefig("segmentation.png")
        """
        if self.feature_mask is None:
            raise ValueError("this explanation has no patches, because every bin of the spectrogram was a feature.")
        return plot_segmentation(
            self.feature_mask[granularity], self.spectrogram, self.frames_per_second, self.mel_frequencies
        )

    def visualize(self, token: int | str, **kwargs: Any) -> Any:
        """Draws one token's map by ``captum.attr.visualization.visualize_image_attr``.

        The map is z-scored first, because the offset of Eq. 3, the mean impact of all perturbations, would dominate
        Captum's scale. A positive value is more important than the average bin. Captum scales every map separately; use
        :meth:`plot_tokens` to compare tokens.

        Args:
            token: its row or its text.
            **kwargs: arguments of ``visualize_image_attr``, such as ``method="blended_heat_map"``.

        Returns:
            (Figure, Axes): the figure, with the frequency axis upwards.

        Raises:
            ValueError: the map is constant.

        Example::

            >>> figure, axes = explanation.visualize("no", method="blended_heat_map")
        """
        return figures.visualize(self, token, **kwargs)
