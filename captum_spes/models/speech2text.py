"""Speech2Text models of Hugging Face transformers (fairseq S2T), the family of the paper's models."""

from __future__ import annotations

from captum_spes.models.encoder_decoder import EncoderDecoderModel
from captum_spes.models.features import Speech2TextFeatures


class Speech2TextModel(Speech2TextFeatures, EncoderDecoderModel):
    """A :class:`~captum_spes.models.SpeechToTextModel` from a Hugging Face Speech2Text.

    Its features are 80 log mel energies every 10 ms, normalised to mean 0 and variance 1 in each channel of an
    utterance, so that the baseline is the paper's 0.

    Args:
        model: the Speech2Text model.
        processor: its processor (feature extractor and tokenizer), or the feature extractor alone.
        name: its name in results. Default: the name with which it was loaded.
        language: language of the text of a multilingual model, as a code such as ``"de"``.
        task: ``"transcribe"``, or ``"translate"`` if the model was trained to translate; the model is not told.

    Raises:
        ValueError: the model does not know the language, or needs one that is not given.
    """

    def _fixed_prompt(self, language: str | None, task: str) -> list[int]:
        prompt = [self._decoder_start()]
        languages = getattr(self.tokenizer, "lang_code_to_id", {})
        forced = self.model.generation_config.forced_bos_token_id
        if language is None:
            if languages and forced is None:
                raise ValueError(f"{self.name} writes several languages: give language, {_one_of(languages)}.")
            return prompt if forced is None else [*prompt, forced]
        if language not in languages:
            known = f"give {_one_of(languages)}" if languages else "it writes only one, so leave out language"
            raise ValueError(f"{self.name} knows no language {language!r}: {known}.")
        return [*prompt, languages[language]]


def _one_of(languages: dict[str, int]) -> str:
    return f"one of {', '.join(sorted(languages))}"
