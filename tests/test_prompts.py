"""Prompts: text that Whisper's decoder reads before it writes."""

import numpy as np
import pytest
import torch
from test_evaluation import write_words

from captum_spes import SPES, SpeechToTextAttribution, SpeechToTextExplanation
from captum_spes.models import load_model, prepare
from captum_spes.models.whisper import PREVIOUS, WhisperModel

MARK = 3  # in place of <|startofprev|>, which the small vocabulary has not

pytestmark = pytest.mark.filterwarnings("ignore:the maps are noisy")


@pytest.fixture
def with_mark(monkeypatch):
    monkeypatch.setattr(WhisperModel, "_special_id", lambda self, *names: MARK if PREVIOUS in names else None)


def ids_of(model, text):
    return model.tokenizer.encode(" " + text, add_special_tokens=False)


def test_the_decoder_reads_the_prompt(with_mark, tiny_model, audio):
    utterance, tokens = prepare(tiny_model, audio, "so what", sampling_rate=16000, prompt=" his power ", context="full")
    ids = [MARK, *ids_of(tiny_model, "his power")]
    assert tokens.prompt.tolist() == [*ids, 1, 2] and utterance.prompt == "his power"
    with torch.no_grad():
        found = tiny_model.logits(tiny_model.encode(utterance.spectrogram, utterance), tokens)
        features = torch.cat((utterance.spectrogram, utterance.padding), 1).transpose(1, 2)
        expected = tiny_model.model(input_features=features, decoder_input_ids=tokens.previous[None]).logits
    torch.testing.assert_close(found, expected[:, len(ids) + 1 :], atol=1e-4, rtol=1e-4)


def test_its_tokens_are_explained_like_the_others(with_mark, tiny_model, audio):
    explanation = SpeechToTextAttribution(SPES(tiny_model)).attribute(
        audio, "so what", sampling_rate=16000, prompt="his power", n_samples=30
    )
    n_prompt = 1 + len(ids_of(tiny_model, "his power"))
    assert "".join(explanation.previous_tokens[1:n_prompt]) == " his power"
    assert explanation.n_previous[0] == n_prompt + 2 and explanation.token_attr[:, 1:n_prompt].abs().min() > 0
    assert explanation.metadata["prompt"] == "his power"


def test_the_model_writes_after_the_prompt(with_mark, tiny_model, audio):
    with_prompt = prepare(tiny_model, audio, sampling_rate=16000, prompt="his power", context="full")[1]
    by_hand = tiny_model.generate_batch(
        prepare(tiny_model, audio, "so", sampling_rate=16000, context="full")[0].spectrogram,
        prepare(tiny_model, audio, "so", sampling_rate=16000, context="full")[0],
        with_prompt.prompt,
    )
    assert torch.equal(by_hand[0], with_prompt.target)


def test_languages_stand_behind_the_prompt(with_mark, multilingual_folder, audio):
    model = load_model(multilingual_folder, language="de")
    tokens = prepare(model, audio, "so", sampling_rate=16000, prompt="his power", context="full")[1]
    assert tokens.prompt.tolist()[-4:] == [1, 71, 80, 2] and model.language_of(tokens) == "de"


def test_long_prompts_are_cut_as_whisper_does(with_mark, tiny_model, audio):
    text = "so what? " * 6 + "his power"
    with pytest.warns(UserWarning, match=r"the prompt has \d+ tokens: .* reads the last 11 of them"):
        tokens = prepare(tiny_model, audio, "so", sampling_rate=16000, prompt=text, context="full")[1]
    assert tokens.prompt.tolist() == [MARK, *ids_of(tiny_model, text)[-11:], 1, 2]


def test_what_is_no_prompt_is_refused(with_mark, tiny_model, audio):
    with pytest.raises(ValueError, match="marks of the model among its words"):
        prepare(tiny_model, audio, "so", sampling_rate=16000, prompt="so <|endoftext|> what")
    utterance, tokens = prepare(tiny_model, audio, "so", sampling_rate=16000)
    with pytest.raises(ValueError, match=r"are set by prepare\(\)"):
        prepare(tiny_model, utterance, tokens, prompt="so")
    with pytest.raises(ValueError, match="tokens have the prompt with which they were made: leave out prompt"):
        prepare(tiny_model, audio, tokens, sampling_rate=16000, prompt="so")


def test_models_without_prompts_say_so(tiny_model, audio):
    with pytest.raises(ValueError, match="takes no prompt: leave it out, or take a Whisper model"):
        prepare(tiny_model, audio, "so", sampling_rate=16000, prompt="his power")


def test_the_text_of_the_part_before(with_mark, tiny_model, tiny_processor, audio, tmp_path):
    write_words(tiny_model.model, tiny_processor)
    attribution = SpeechToTextAttribution(SPES(tiny_model))
    given = {
        "sampling_rate": 16000,
        "n_samples": 3,
        "n_token_samples": 8,
        "gen_args": {"min_new_tokens": 2, "max_new_tokens": 4},
    }
    long = np.concatenate((audio, audio[::-1]))
    found = attribution.attribute_long(long, tmp_path / "a", prompt="so", previous_text=True, **given)
    assert len(found) == 2
    assert [part.metadata["prompt"] for part in found] == ["so", found.parts[0].text]
    plain = attribution.attribute_long(long, tmp_path / "b", prompt="so", **given)
    assert [part.metadata["prompt"] for part in plain] == ["so", "so"]
    with pytest.raises(ValueError, match="previous_text"):
        attribution.attribute_long(long, tmp_path / "a", prompt="so", **given)


def test_command_line(with_mark, run, tiny_folder, recording):
    common = ["explain", recording, "--model", tiny_folder, "--target", "so what", "--method", "energy", "-o", "out"]
    code, _, err = run(*common, "--prompt", "his power")
    assert code == 0, err
    assert SpeechToTextExplanation.load("out/explanation.safetensors").metadata["prompt"] == "his power"


@pytest.mark.long
def test_a_prompt_changes_what_whisper_writes(bundled_model, librivox):
    path = next(librivox.glob("*0880.wav"))
    texts = [
        bundled_model.token_texts(prepare(bundled_model, path, prompt=prompt, context="full")[1].target)
        for prompt in (None, "A tale of an ill-disposed gentleman.")
    ]
    assert "old-sposed" in "".join(texts[0]) and "ill-disposed" in "".join(texts[1])
