"""Fingerprints are equal for equal values in every process, and differ for different values."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from captum_spes.attr.fingerprint import fingerprint


def scaled(x, weights, bias=0):
    return x * weights + bias


class Scaled:
    """A callable with a state."""

    def __init__(self, weights):
        self.weights = weights
        self.itself = self

    def __call__(self, x):
        return x * self.weights

    def method(self, x):
        return x + self.weights


class Slotted:
    __slots__ = ("weights",)

    def __init__(self, weights):
        self.weights = weights

    def __call__(self, x):
        return x * self.weights


@dataclass(frozen=True)
class Options:
    weights: torch.Tensor
    name: str = "options"


def holding(weights):
    return lambda x: x * weights


# from a tensor, a value that depends on it
MAKERS = {
    "tensor": lambda weights: weights,
    "array": lambda weights: weights.numpy(),
    "partial": lambda weights: partial(scaled, weights=weights),
    "positional partial": lambda weights: partial(scaled, 1, weights),
    "partial of a partial": lambda weights: partial(partial(scaled, weights=weights), bias=1),
    "callable": Scaled,
    "slots": Slotted,
    "method": lambda weights: Scaled(weights).method,
    "dataclass": Options,
    "closure": holding,
    "nested": lambda weights: {"masks": [(None, weights)], "more": {"function": holding(weights)}},
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_other_content_is_another_fingerprint(make):
    ones, zeros = fingerprint(make(torch.ones(3))), fingerprint(make(torch.zeros(3)))
    assert ones == fingerprint(make(torch.ones(3)))
    assert ones != zeros
    assert json.loads(json.dumps(ones)) == ones


@pytest.mark.slow
def test_a_new_process_finds_the_same():
    code = (
        "import json, torch; from test_fingerprint import MAKERS, fingerprint\n"
        "print(json.dumps({name: fingerprint(make(torch.arange(4.0))) for name, make in MAKERS.items()}))"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "7"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert json.loads(found.stdout) == {name: fingerprint(make(torch.arange(4.0))) for name, make in MAKERS.items()}


def test_functions_differ_by_what_they_do():
    first, second = (lambda x: x + 1), (lambda x: x + 2)
    assert fingerprint(first) != fingerprint(second)

    def with_default(x, scale=torch.ones(2)):  # noqa: B008
        return x * scale

    before = fingerprint(with_default)
    with_default.__defaults__ = (torch.zeros(2),)
    assert fingerprint(with_default) != before
    assert fingerprint(torch.sum) == fingerprint(torch.sum) != fingerprint(torch.mean)
    assert fingerprint(Scaled) != fingerprint(Slotted)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float16)),
        (np.zeros(2), np.zeros(2, np.float32)),
        (1, 1.5),
        (True, "True"),
        ({1, 2}, {1, 3}),
        (b"a", b"b"),
        (torch.float32, torch.float16),
    ],
)
def test_values_that_differ(one, other):
    assert fingerprint(one) != fingerprint(other)


def test_tensors_in_other_layouts_have_their_content():
    dense = torch.eye(3)
    assert fingerprint(dense.to_sparse()) == fingerprint(dense)
    complex_ = torch.tensor([1 + 2j])
    assert fingerprint(complex_.conj()) == fingerprint(torch.tensor([1 - 2j]))


def test_what_has_no_content_is_named_by_its_class():
    assert fingerprint(nn.Linear(2, 3)) == "Linear"
    assert fingerprint(object()) == "object"
    assert fingerprint({2, 1}) == [1, 2]
    assert fingerprint(torch.tensor([], dtype=torch.bool)).startswith("bool (0,)")
