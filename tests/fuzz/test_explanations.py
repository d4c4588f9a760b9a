"""Explanation files: saved explanations can be loaded, and any other content raises a ValueError."""

import json
import struct

import torch
from hypothesis import given
from hypothesis import strategies as st
from mutations import altered, damaged, examples, json_values
from test_explanation import make

from captum_spes import SpeechToTextExplanation

KEY = "captum-spes explanation"
DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I8": 1, "U8": 1, "BOOL": 1, "X9": 1}


def content_of(tmp_path, with_mask):
    """A file in parts: the header of the tensors, what captum-spes says, and the data."""
    path = tmp_path / "whole.safetensors"
    make(with_mask=with_mask).save(path)
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    return data, header, json.loads(header["__metadata__"][KEY]), data[8 + size :]


def join(header, said, data):
    header = {**header, "__metadata__": {KEY: said if isinstance(said, str) else json.dumps(said)}}
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def load(path, data):
    """Loads some bytes; what can be loaded can be read, too."""
    path.write_bytes(data)
    try:
        explanation = SpeechToTextExplanation.load(path)
    except ValueError as error:
        assert str(path) in str(error)
        return
    explanation.sentence()
    if not explanation.grouped:
        explanation.words()
    assert explanation.spectrogram_attr.isfinite().all()


@st.composite
def explanations(draw):
    n_rows, n_columns, n_frames, n_channels = (draw(st.integers(low, 4)) for low in (1, 0, 1, 1))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    mask = None
    maps = torch.randn(n_rows, n_frames, n_channels, generator=generator)
    if draw(st.booleans()):
        mask = torch.randint(-3, 3, (draw(st.integers(1, 3)), n_frames, n_channels), generator=generator)
        maps = mask.sum(0).float().expand(n_rows, -1, -1) if draw(st.booleans()) else maps
    return SpeechToTextExplanation(
        text=draw(st.text(max_size=5)),
        tokens=draw(st.lists(st.text(max_size=5), min_size=n_rows, max_size=n_rows)),
        previous_tokens=draw(st.lists(st.text(max_size=5), min_size=n_columns, max_size=n_columns)),
        spectrogram=torch.randn(n_frames, n_channels, generator=generator),
        spectrogram_attr=maps,
        token_attr=torch.randn(n_rows, n_columns, generator=generator),
        n_previous=torch.randint(0, n_columns + 1, (n_rows,), generator=generator),
        frames_per_second=draw(st.integers(1, 200) | st.floats(1e-3, 1e3)),
        mel_frequencies=torch.arange(n_channels) * 100.0,
        reliability=draw(st.sampled_from([None, torch.rand(n_rows, generator=generator)])),
        feature_mask=mask,
        normalized=draw(st.booleans()),
        grouped=draw(st.booleans()),
        metadata=draw(st.dictionaries(st.text(max_size=5), json_values.filter(lambda v: v == v), max_size=3)),
    )


@examples(60)
@given(explanation=explanations())
def test_what_is_saved_is_loaded(explanation, tmp_path):
    explanation.save(tmp_path / "e.safetensors")
    loaded = SpeechToTextExplanation.load(tmp_path / "e.safetensors")
    for name in explanation.__dataclass_fields__:
        ours, theirs = getattr(explanation, name), getattr(loaded, name)
        if isinstance(ours, torch.Tensor):
            assert torch.equal(ours, theirs), name
        else:
            assert json.dumps(ours) == json.dumps(theirs), name  # NaN in the metadata, too


@examples(80)
@given(data=st.data(), with_mask=st.booleans())
def test_damaged_bytes(data, with_mask, tmp_path):
    whole, header, said, rest = content_of(tmp_path, with_mask)
    kind = data.draw(st.sampled_from(["file", "header", "said"]))
    if kind == "file":
        damage = data.draw(damaged(whole))
    elif kind == "header":  # of the right length, so that more than its length is read
        encoded = data.draw(damaged(json.dumps(header).encode()))
        damage = struct.pack("<Q", len(encoded)) + encoded + rest
    else:
        damage = join(header, data.draw(damaged(json.dumps(said).encode())).decode(errors="replace"), rest)
    load(tmp_path / "e.safetensors", damage)


@examples(120)
@given(data=st.data(), with_mask=st.booleans())
def test_a_valid_file_that_says_something_else(data, with_mask, tmp_path):
    _, header, said, rest = content_of(tmp_path, with_mask)
    load(tmp_path / "e.safetensors", join(header, data.draw(altered(said)), rest))


@examples(120)
@given(data=st.data(), with_mask=st.booleans())
def test_tensors_of_other_types_and_shapes(data, with_mask, tmp_path):
    _, header, said, rest = content_of(tmp_path, with_mask)
    header.pop("__metadata__")
    chunks, offset = [], 0
    for name, entry in list(header.items()):
        chunk, dtype, shape = rest[slice(*entry["data_offsets"])], entry["dtype"], entry["shape"]
        if not data.draw(st.integers(0, 2)):
            dtype = data.draw(st.sampled_from(sorted(DTYPES)))
            shape = data.draw(st.lists(st.integers(0, 5), max_size=4))
            n_bytes = DTYPES[dtype]
            for size in shape:
                n_bytes *= size
            chunk = data.draw(st.binary(min_size=1, max_size=4)) * n_bytes
            chunk = chunk[:n_bytes]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(chunk)]}
        chunks.append(chunk)
        offset += len(chunk)
    load(tmp_path / "e.safetensors", join(header, said, b"".join(chunks)))
