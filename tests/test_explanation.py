"""The explanation: normalisation, words, files."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from captum.attr import visualization
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from captum_spes import SpeechToTextExplanation
from captum_spes.alignment import Segment
from captum_spes.confidence import Confidence
from captum_spes.words import is_mark, text_words, word_spans


def make(n_tokens=4, n_prompt=2, with_mask=False, seed=0):
    torch.manual_seed(seed)
    n_previous = n_prompt + torch.arange(n_tokens)
    n_columns = n_prompt + n_tokens - 1
    token_attr = torch.rand(n_tokens, n_columns) * (torch.arange(n_columns) < n_previous[:, None])
    maps, mask = torch.randn(n_tokens, 30, 8), None
    if with_mask:
        mask = torch.stack([(torch.arange(240) // size).view(30, 8) for size in (24, 30)])
        maps = torch.randn(n_tokens, 10)[:, mask[0]] + torch.randn(n_tokens, 8)[:, mask[1]]
    tokens = [" so", " wh", "at", "?"][:n_tokens]
    return SpeechToTextExplanation(
        text="so what?",
        tokens=tokens,
        previous_tokens=["<|startoftranscript|>", "<|notimestamps|>"][:n_prompt] + tokens[:-1],
        spectrogram=torch.rand(30, 8),
        spectrogram_attr=maps,
        token_attr=token_attr,
        n_previous=n_previous,
        frames_per_second=100,
        mel_frequencies=torch.linspace(100, 7000, 8),
        reliability=torch.rand(n_tokens),
        feature_mask=mask,
        metadata={"model": "toy", "seed": seed},
    )


def test_normalised_maps_share_their_scale():
    normalized = make().normalize()
    valid = normalized.is_previous
    for row in range(4):
        both = torch.cat((normalized.spectrogram_attr[row].flatten(), normalized.token_attr[row][valid[row]]))
        assert both.min() == 0 and both.max() == 1
    assert not normalized.token_attr[~valid].any()
    assert normalized.normalize() is normalized
    # each map keeps its order
    assert torch.equal(normalized.spectrogram_attr.flatten(1).argsort(), make().spectrogram_attr.flatten(1).argsort())


def test_future_tokens_change_nothing():
    explanation = make()
    future = torch.where(explanation.is_previous, explanation.token_attr, 1e6)
    normalized = replace(explanation, token_attr=future).normalize()
    assert torch.equal(normalized.token_attr, explanation.normalize().token_attr)


def test_a_single_token_and_constant_maps():
    single = make(n_tokens=1, n_prompt=1)
    assert single.normalize().spectrogram_attr.isfinite().all()
    constant = replace(make(), spectrogram_attr=torch.full((4, 30, 8), 0.1), token_attr=torch.zeros(4, 5))
    normalized = constant.normalize()
    assert not normalized.spectrogram_attr.any() and not normalized.token_attr.any()


def test_words():
    explanation = make()
    words = explanation.words()
    assert words.tokens == ["so", "what", "?"] and isinstance(words, SpeechToTextExplanation)
    normalized = explanation.normalize()
    torch.testing.assert_close(words.spectrogram_attr[1], normalized.spectrogram_attr[1:3].mean(0))
    expected = normalized.token_attr[1:3].mean(0)
    expected[3:] = 0  # the word's own tokens
    torch.testing.assert_close(words.token_attr[1], expected)
    assert words.n_previous.tolist() == [2, 3, 5]
    with pytest.raises(ValueError, match="are words already"):
        words.words()
    grouped = explanation.words(group_previous=True)
    assert grouped.previous_tokens == ["<|startoftranscript|>", "<|notimestamps|>", "so", "what"]
    torch.testing.assert_close(grouped.token_attr[2, 3], normalized.token_attr[3, 3:5].mean())
    assert grouped.n_previous.tolist() == [2, 3, 4] and not grouped.token_attr[~grouped.is_previous].any()


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ([" So", " what", "?", "<|endoftext|>"], ["So", "what", "?", "<|endoftext|>"]),
        ([" an", " ill", "-", "dis", "posed", " man", "."], ["an", "ill-disposed", "man", "."]),
        ([" Don", "'t", " go", "!", "!"], ["Don't", "go", "!!"]),
        ([" pi", " is", " 3", ".", "14", "."], ["pi", "is", "3.14", "."]),
        ([" (", "so", ")", "."], ["(", "so", ")."]),
        ([" Mr", ".", " John"], ["Mr", ".", "John"]),
        (["", "", "語", "は"], ["語", "は"]),
        ([" na", "ïve", " word"], ["naïve", "word"]),
        (["?</s>"], ["?</s>"]),
        ([" न", "म", "स्", "ते", "।"], ["नमस्ते", "।"]),
        ([" a", " ", " b"], ["a", "b"]),
        (["\n"], [""]),
    ],
)
def test_words_are_those_of_the_text(tokens, words):
    spans = word_spans(tokens)
    assert ["".join(tokens[start:stop]).strip() for start, stop in spans] == words


@given(st.lists(st.text(max_size=5), min_size=1, max_size=12))
def test_words_divide_the_tokens(tokens):
    spans = word_spans(tokens)
    assert spans[0][0] == 0 and spans[-1][1] == len(tokens)
    assert all(start < stop for start, stop in spans)
    assert all(before[1] == after[0] for before, after in zip(spans, spans[1:]))


@pytest.mark.parametrize(
    "tokens, spans",
    [
        (["", "彼", "は", "", "薬"], [(0, 2), (2, 3), (3, 5)]),
        ([" a", " ", "b", "", "é"], [(0, 1), (1, 5)]),
        ([" ह", "", "ू", "", "ँ", "", " घ", "र"], [(0, 5), (5, 8)]),
        # bytes that become no character begin neither a mark nor a word
        (["薬", "", "<|endoftext|>"], [(0, 2), (2, 3)]),
        (["<|0.00|>", "", "薬", "", "<|0.50|>", "", "は"], [(0, 1), (1, 4), (4, 5), (5, 7)]),
        (["薬", "", ""], [(0, 3)]),
        (["", "<|endoftext|>"], [(0, 2)]),
        (["", ""], [(0, 2)]),
    ],
)
def test_tokens_without_text_begin_a_word(tokens, spans):
    assert word_spans(tokens) == spans


PIECES = ["彼", "は", "薬", "今天", "뷔페에", "हूँ", "घर", "ខ្ញុំ", "ฉัน", "naïve", "3.14", "?", "<|0.50|>", "<|endoftext|>"]


@given(st.data())
def test_words_have_all_tokens_of_their_characters(data):
    """Tokens are bytes, as Whisper's are, and a character belongs to the last of its tokens."""
    pieces = st.tuples(st.sampled_from(PIECES), st.sampled_from(["", " "])).map("".join)
    text = "".join(data.draw(st.lists(pieces, min_size=1)))
    tokens, spans, end = [], [], 0
    for match in text_words(text):
        start, pending = len(tokens), b""
        whole = text[end : match.end()].encode()
        cuts = {len(whole)} if is_mark(match[0]) else data.draw(st.sets(st.integers(1, len(whole)))) | {len(whole)}
        for first, last in pairwise([0, *sorted(cuts)]):
            pending += whole[first:last]
            try:
                tokens.append(pending.decode())
                pending = b""
            except UnicodeDecodeError:
                tokens.append("")
        spans.append((start, len(tokens)))
        end = match.end()
    assert word_spans(tokens) == spans
    assert ["".join(tokens[slice(*span)]).strip() for span in spans] == [match[0] for match in text_words(text)]


def test_a_word_has_the_map_of_its_own_first_bytes():
    tokens = ["は", "", "薬"]
    explanation = replace(
        make(3, n_prompt=0),
        text="は薬",
        tokens=tokens,
        spectrogram_attr=torch.tensor([1.0, 2.0, 4.0])[:, None, None].expand(3, 30, 8),
        reliability=torch.tensor([0.9, 0.2, 0.4]),
        confidence=Confidence([0.9, 0.1, 0.5], [0.9, 0.1, 0.5], [0.0] * 3, [[("x", 0.1)]] * 3, [0.0, 0.1, 0.5]),
    )
    words = explanation.words(normalize=False)
    assert words.tokens == ["は", "薬"]
    assert words.spectrogram_attr[:, 0, 0].tolist() == [1, 3]
    assert words.reliability.tolist() == pytest.approx([0.9, 0.3])
    assert words.confidence.probabilities == pytest.approx([0.9, 0.05])
    assert words.confidence.verdicts == ["heard", "guessed"]


def test_it_prints_on_a_line():
    assert repr(make()) == (
        "<SpeechToTextExplanation of 'so what?' by unknown method: 4 tokens, 5 previous tokens, 0.30 s>"
    )


def test_top_previous_tokens_and_index():
    explanation = make()
    rows = explanation.token_attr.masked_fill(~explanation.is_previous, -1).argmax(1)
    assert explanation.top_previous_tokens() == [explanation.previous_tokens[i] for i in rows]
    assert explanation.index("wh") == explanation.index(1) == explanation.index(-3) == 1
    for token, words in [("none", "none is"), (4, "no token 4"), (-5, "no token -5")]:
        with pytest.raises(ValueError, match=words):
            explanation.index(token)


@pytest.mark.parametrize("with_mask", [False, True])
def test_files_keep_everything(with_mask, tmp_path):
    explanation = make(with_mask=with_mask)
    explanation.save(tmp_path / "e.safetensors")
    loaded = SpeechToTextExplanation.load(tmp_path / "e.safetensors")
    for name in explanation.__dataclass_fields__:
        ours, theirs = getattr(explanation, name), getattr(loaded, name)
        assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs, name
    assert [path.name for path in tmp_path.iterdir()] == ["e.safetensors"]


def test_patches_and_half_precision_make_files_small(tmp_path):
    torch.manual_seed(0)
    mask = torch.arange(300)[:, None].div(20, rounding_mode="floor").expand(300, 80)[None]
    big = replace(
        make(),
        spectrogram=torch.rand(300, 80),
        spectrogram_attr=torch.randn(4, 15)[:, mask[0]],
        mel_frequencies=torch.arange(80.0),
    )
    sizes = []
    for name, explanation, half in [("dense", big, False), ("patches", replace(big, feature_mask=mask), False),
                                    ("half", replace(big, feature_mask=mask), True)]:  # fmt: skip
        explanation.save(tmp_path / name, half=half)
        sizes.append((tmp_path / name).stat().st_size)
        torch.testing.assert_close(
            SpeechToTextExplanation.load(tmp_path / name).spectrogram_attr, big.spectrogram_attr, atol=2e-3, rtol=1e-3
        )
    assert sizes[1] < 0.5 * sizes[0] and sizes[2] < 0.8 * sizes[1]


def test_a_failing_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "e.safetensors"
    make().save(path)
    before = path.read_bytes()
    monkeypatch.setattr("pathlib.Path.write_bytes", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        make(seed=1).save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="is a folder: give the path of a saved explanation\\.$"):
        SpeechToTextExplanation.load(tmp_path)
    (tmp_path / "part-001").mkdir()
    for name in ("part-001/explanation.safetensors", "spes.safetensors"):
        make().save(tmp_path / name)
        with pytest.raises(ValueError, match=f"is a folder: give the path of a saved explanation, such as .*/{name}"):
            SpeechToTextExplanation.load(tmp_path)


def test_foreign_and_damaged_files(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "e.safetensors"
    with pytest.raises(ValueError, match="does not exist"):
        SpeechToTextExplanation.load(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="damaged or not an explanation"):
        SpeechToTextExplanation.load(path)
    save_file({"x": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="is not an explanation"):
        SpeechToTextExplanation.load(path)
    for header in ('{"version": 1}', "{}", "[]", "no JSON"):
        save_file({"x": torch.ones(1)}, path, {"captum-spes explanation": header})
        with pytest.raises(ValueError, match="is damaged"):
            SpeechToTextExplanation.load(path)
    save_file({"x": torch.ones(1)}, path, {"captum-spes explanation": '{"version": 99}'})
    with pytest.raises(ValueError, match="newer than this library"):
        SpeechToTextExplanation.load(path)
    make().save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        SpeechToTextExplanation.load(path)


@pytest.mark.parametrize("with_mask", [True, False])
@pytest.mark.parametrize("half", [True, False])
def test_flipped_values_are_refused(tmp_path, with_mask, half):
    """A bit of any tensor, and any letter of the texts, whatever it still means."""
    path = tmp_path / "e.safetensors"
    make(with_mask=with_mask).save(path, half=half)
    whole = path.read_bytes()
    SpeechToTextExplanation.load(path)
    size = 8 + int.from_bytes(whole[:8], "little")
    positions = [*np.random.default_rng(0).integers(size, len(whole), 60), whole.index(b"toy"), whole.index(b'"so')]
    for position in positions:
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged"):
            SpeechToTextExplanation.load(path)


def test_equal_explanations_are_equal_files(tmp_path):
    paths = [tmp_path / f"{number}.safetensors" for number in range(5)]
    for path in paths:
        make().save(path)
    assert len({path.read_bytes() for path in paths}) == 1


def test_metadata_is_readable_without_the_library(tmp_path):
    from safetensors import safe_open

    make().save(tmp_path / "e.safetensors")
    with safe_open(tmp_path / "e.safetensors", framework="np") as file:
        assert json.loads(file.metadata()["captum-spes explanation"])["metadata"] == {"model": "toy", "seed": 0}


@pytest.mark.parametrize("name", ["spectrogram_attr", "token_attr", "n_previous", "mel_frequencies", "reliability"])
def test_shapes_are_checked(name):
    with pytest.raises(ValueError, match=f"{name} must be of shape"):
        replace(make(), **{name: torch.zeros(2)})


def test_figures():
    explanation = make(with_mask=True)
    for name in ("spectrogram", "sentence", "tokens", "previous_tokens", "segmentation"):
        assert isinstance(getattr(explanation, f"plot_{name}")(), Figure), name
        assert isinstance(getattr(explanation.words(), f"plot_{name}")(), Figure), name
    with pytest.raises(ValueError, match="no patches"):
        make().plot_segmentation()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int8, torch.int16, torch.int32, torch.int64])
def test_masks_of_every_integer_type_are_saved(dtype, tmp_path):
    explanation = make(with_mask=True)
    mask = explanation.feature_mask
    replace(explanation, feature_mask=mask.to(dtype)).save(tmp_path / "e.safetensors")
    assert torch.equal(SpeechToTextExplanation.load(tmp_path / "e.safetensors").feature_mask, mask)


def test_visualize_is_captums(monkeypatch):
    seen = {}

    def visualize_image_attr(attr, image, **kwargs):
        seen.update(attr=attr, image=image, kwargs=kwargs)
        return "figure", "axes"

    monkeypatch.setattr(visualization, "visualize_image_attr", visualize_image_attr)
    explanation = make()
    assert explanation.visualize("so", method="heat_map") == ("figure", "axes")
    assert seen["kwargs"]["method"] == "heat_map" and seen["attr"].shape == seen["image"].shape == (8, 30, 1)
    own = explanation.spectrogram_attr[0]
    scores = ((own - own.mean()) / own.std()).numpy()
    assert np.allclose(seen["attr"][-1, :, 0], scores[:, 0], atol=1e-5)  # low below
    assert seen["image"].min() == 0 and seen["image"].max() == 1


def drawn_by_captum(explanation):
    """The z-scores of the first map, low frequencies below, scaled by the size up to which 98 % of their sum lie."""
    own = explanation.spectrogram_attr[0].T.flip(0)
    scores = ((own - own.mean()) / own.std()).numpy()
    sizes = np.sort(np.abs(scores).flatten())
    scale = sizes[np.flatnonzero(sizes.cumsum() >= 0.98 * sizes.sum())[0]]
    return (scores / scale).clip(-1, 1)


@pytest.mark.parametrize("change", [torch.Tensor.bfloat16, torch.Tensor.double, torch.Tensor.requires_grad_])
def test_captum_draws_maps_of_every_kind(change):
    explanation = make()
    maps = {name: change(getattr(explanation, name).clone()) for name in ("spectrogram", "spectrogram_attr")}
    _, axes = replace(explanation, **maps).visualize(0)
    # bfloat16 rounds by at most 2^-9 of a value, which is at most a few scales
    np.testing.assert_allclose(axes.images[-1].get_array(), drawn_by_captum(explanation), atol=0.02)


def test_captum_cannot_draw_a_constant_map():
    explanation = make()
    constant = replace(explanation, spectrogram_attr=torch.ones_like(explanation.spectrogram_attr))
    with pytest.raises(ValueError, match="the map of 0 is constant"):
        constant.visualize(0)


def test_captum_draws_it():
    figure, axes = make().visualize(0)
    assert axes in figure.axes
    np.testing.assert_allclose(axes.images[-1].get_array(), drawn_by_captum(make()), atol=1e-5)


def overlays(figure):
    """The maps of a figure, without colour bars: what was drawn last in each panel."""
    return [ax.images[-1] if ax.images else ax.collections[-1] for ax in figure.axes[:-1]]


def test_some_panels_of_a_size_have_the_colours_of_the_whole_figure():
    explanation = make()
    whole = explanation.plot_tokens(sign="all")
    some = explanation.plot_tokens(sign="all", subset=["at", 0], figsize=(5, 4))
    assert [ax.get_title() for ax in some.axes[:2]] == ["at", "so"]
    assert some.get_size_inches().tolist() == [5, 4]
    some.draw_without_rendering()
    for drawn, row in zip(some.axes, (2, 0)):
        np.testing.assert_array_equal(drawn.images[1].get_array(), whole.axes[row].images[1].get_array())
        assert drawn.images[1].get_clim() == whole.axes[row].images[1].get_clim()


def test_panels_on_axes_of_a_figure_of_ones_own():
    figure = Figure(figsize=(8, 6))
    axes = figure.subplots(2, 2)
    axes[0, 0].set_title("mine")
    assert make().plot_words(subset=["so", "what", -1], axes=axes.flat[1:]) is figure
    assert [ax.get_title() for ax in figure.axes] == ["mine", "so", "what", "?"]  # and no colour bar
    assert not axes[0, 0].images and all(len(ax.images) == 2 for ax in axes.flat[1:])
    assert not figure.texts


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"subset": []}, "subset is empty"),
        ({"subset": ["nothing"]}, "none is 'nothing'"),
        ({"subset": [4]}, "there is no token 4"),
        ({"axes": Figure().subplots(1, 3)}, "3 axes and 4 maps"),
        ({"axes": Figure().subplots(2, 2), "figsize": (3, 3)}, "not both"),
        ({"figsize": (1, 1)}, "too small for 4 panels"),
    ],
)
def test_panels_that_cannot_be_drawn(arguments, words):
    with pytest.raises(ValueError, match=words):
        make().plot_tokens(**arguments)


def framed(figure):
    """Begin and end of the frame of each row that has one."""
    rows = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle) and not patch.get_hatch()]
    return {round(p.get_y() + 0.5): (p.get_x(), p.get_x() + p.get_width()) for p in rows}


def test_words_in_time_are_framed_where_the_model_attends_or_where_they_are_spoken():
    own = [[0.0, 0.1], [0.1, 0.15], [0.15, 0.2], [0.2, 0.3]]  # of so, wh, at, ?
    explanation = replace(make(), metadata={"token_times": own, "method": "SPES"})
    figure = explanation.plot_times()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["so", "what", "?"]
    assert framed(figure) == {0: (0.0, 0.1), 1: (0.1, 0.2)}  # and none of the punctuation
    assert "frame: when the model attends to it" in figure.axes[1].get_xlabel().replace("\n", " ")
    assert figure.texts[0].get_text().startswith("SPES")
    spoken = explanation.plot_times([None, Segment("what", 0.05, 0.25), None])
    assert framed(spoken) == {1: (0.05, 0.25)}
    assert "frame: where it is spoken" in spoken.axes[1].get_xlabel().replace("\n", " ")
    reliable = replace(explanation, reliability=torch.tensor([0.4, 0.4, 0.7, 0.9]))  # of what: 0.55
    hatched = [patch.get_y() + 0.5 for patch in reliable.plot_times().axes[0].patches if patch.get_hatch()]
    assert hatched == [0]
    unknown = make().plot_times()
    assert not framed(unknown) and "frame" not in unknown.axes[1].get_xlabel()
    with pytest.raises(ValueError, match="2 times were given for 3 words"):
        explanation.plot_times([None, None])


@pytest.mark.parametrize("plot, n_panels", [("plot_tokens", 4), ("plot_words", 3)])
def test_maps_of_both_signs_keep_their_zero(plot, n_panels):
    maps = torch.randn(4, 30, 8)
    maps[:, :10] = 0
    panels = overlays(getattr(replace(make(), spectrogram_attr=maps), plot)(sign="all"))
    assert len(panels) == n_panels
    for panel in panels:
        values = np.asarray(panel.get_array())
        assert (panel.norm.vmin, panel.norm.vmax) == (-1, 1)
        assert (values == 0).mean() == pytest.approx(1 / 3)
        # the outliers, above 1, have at most a tenth of the sum, and with the next bin at least a tenth
        values = np.sort(np.abs(values).ravel())[::-1]
        outliers = values > 1 + 1e-6
        assert outliers.sum() > 0 and values[outliers].sum() < 0.1 * values.sum()
        assert values[: outliers.sum() + 1].sum() >= 0.1 * values.sum() and values[~outliers][0] == pytest.approx(1)


@pytest.mark.parametrize("plot, n_panels", [("plot_tokens", 4), ("plot_words", 3), ("plot_sentence", 1)])
def test_negative_values_are_left_out_and_their_share_is_told(plot, n_panels):
    maps = torch.full((4, 30, 8), 3.0)
    maps[:, :10] = -2  # a third of the bins: 2 / (2 + 2 * 3) of the sum of absolute values
    explanation = replace(make(), spectrogram_attr=maps)
    figure = getattr(explanation, plot)()
    panels = overlays(figure)
    assert len(panels) == n_panels
    for panel in panels:
        values = np.asarray(panel.get_array())
        assert panel.norm.vmin == 0 and values.min() == 0 and (values == 0).mean() == pytest.approx(1 / 3)
    assert "25% of the sum of absolute values" in " ".join(figure.axes[-1].get_xlabel().split())
    contrast = replace(explanation, metadata={**explanation.metadata, "contrast": {"word": "so"}})
    assert overlays(getattr(contrast, plot)())[0].norm.vmin < 0  # negative values speak for the foil
    with pytest.raises(ValueError, match="sign must be one of positive, all"):
        explanation.plot_tokens(sign="negative")


def test_unreliable_panels_are_hatched_and_figures_say_how_they_were_made():
    explanation = replace(make(), reliability=torch.tensor([0.9, 0.4, 0.6, 0.7]))
    figure = explanation.plot_tokens()
    hatched = [any(patch.get_hatch() for patch in ax.patches) for ax in figure.axes[:4]]
    assert hatched == [False, True, False, False]
    assert "hatched: unreliable" in " ".join(figure.axes[-1].get_xlabel().split())
    assert any("reliability 0.65" in text.get_text() for text in figure.texts)


def test_the_sentence_of_maps_of_both_signs_has_its_zero_in_the_middle():
    contrast = replace(make(), metadata={"contrast": {"word": "a"}}).sentence(normalize=False)
    attr = contrast.spectrogram_attr.clone()
    attr[0, 0, 0], attr[0, 1, 1] = 100.0, -100.0  # outliers
    [outliers] = overlays(replace(contrast, spectrogram_attr=attr, metadata={"contrast": {}}).plot_sentence())
    assert outliers.norm.vmin == -1 and outliers.norm.vmax == 1
    [panel] = overlays(make().plot_sentence(sign="all"))
    assert panel.norm.vmin == -panel.norm.vmax < 0


@pytest.mark.parametrize("plot", ["plot_tokens", "plot_words"])
def test_maps_of_one_sign_are_normalised(plot):
    explanation = make()
    positive = replace(explanation, spectrogram_attr=explanation.spectrogram_attr.abs() + 3)
    for panel in overlays(getattr(positive, plot)()):
        assert (panel.norm.vmin, panel.norm.vmax) == (0, 1)
