"""Each family's model, made once for each worker."""

import pytest
import torch
from family_cases import ALL, AUDIO_LANGUAGE, CTC, FAMILIES, Case, voxtral

from captum_spes.models import load_model


@pytest.fixture(scope="session")
def cases(tmp_path_factory):
    """Each family's case, made once."""
    made = {}

    def case(name):
        if name not in made:
            torch.manual_seed(0)
            family = ALL[name]
            plain, processor = family.make()
            folder = tmp_path_factory.mktemp(name)
            plain.eval().save_pretrained(folder)
            processor.save_pretrained(folder)
            if family.make is voxtral:  # whose processor needs mistral-common
                adapter = load_model(type(plain).from_pretrained(folder), processor)
            else:
                adapter = load_model(folder, device="cpu", **family.load)
            made[name] = Case(family, plain, processor, adapter)
        return made[name]

    return case


@pytest.fixture(params=FAMILIES)
def case(request, cases):
    return cases(request.param)


@pytest.fixture(params=ALL)
def any_case(request, cases):
    return cases(request.param)


@pytest.fixture(params={**FAMILIES, **AUDIO_LANGUAGE})
def autoregressive(request, cases):
    return cases(request.param).adapter


@pytest.fixture(params=AUDIO_LANGUAGE)
def language_case(request, cases):
    return cases(request.param)


@pytest.fixture(params=CTC)
def ctc_case(request, cases):
    return cases(request.param)


@pytest.fixture
def model(case):
    return case.adapter
