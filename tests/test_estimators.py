"""The studies of estimators: their arithmetic on data whose result is known."""

import importlib

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("benchmarks")


@pytest.fixture(scope="module")
def adjustments(benchmarks):
    return importlib.import_module("adjustments")


@pytest.fixture(scope="module")
def estimators(benchmarks):
    return importlib.import_module("estimators")


def test_every_way_finds_additive_effects(adjustments):
    """Impacts that are sums of the effects of hidden patches; a regression without penalty is exact."""
    generator = torch.Generator().manual_seed(0)
    effects = torch.rand(20, 3, generator=generator).double()
    masks = (torch.rand(2_000, 20, generator=generator) < 0.5).double()
    impacts = torch.stack((masks @ effects, (1 - masks) @ effects))
    made = adjustments.ways(masks, impacts)
    assert {name.split(", penalty")[0] for name in made} == {"Eq. 3", "pairs", "ridge", "pairs, ridge"}
    areas = torch.ones(20).double()
    for name, make in made.items():
        assert adjustments.correlation(make(1_000, 0), effects, areas) > 0.9, (
            name
        )  # the noise of 19 other effects over 1,000 masks
    assert (
        adjustments.correlation(adjustments.ridge(masks, impacts[0] - impacts[0].mean(0), 1e-3), effects, areas) > 0.999
    )


def test_correlations_weight_patches_by_their_area(adjustments):
    first, second = torch.tensor([[0.0], [1], [5]]), torch.tensor([[0.0], [1], [-5]])
    assert adjustments.correlation(first, second, torch.tensor([1.0, 1, 0])) == pytest.approx(1)
    assert adjustments.correlation(first, second, torch.tensor([1.0, 1, 1])) < 0


def test_pooled_maps_have_the_sum_of_each_patch(estimators):
    attributions = torch.tensor([[[1.0, 2], [3, 4]]])
    rows, columns = torch.tensor([[0, 0], [1, 1]]), torch.tensor([[0, 1], [0, 1]])
    expected = torch.tensor([[[3.0 + 4, 3 + 6], [7 + 4, 7 + 6]]]) / 2
    assert torch.equal(estimators.pooled(attributions, torch.stack((rows, columns))), expected)


def test_differences_are_those_of_the_same_recordings(estimators):
    measures = [name for name in estimators.COLUMNS if name != "reliability"]
    names = [*estimators.RUNS, "AttnLRP, patches", "energy, patches"]
    rng = np.random.default_rng(0)

    def measured(level, name):
        better = 1.0 if name == "AttnLRP" else 0.0
        return {key: level + better + 0.01 * rng.normal() for key in measures} | {"reliability": None}

    results = {f"recording {n}": {name: measured(10 * n, name) for name in names} for n in range(6)}
    [line] = [line for line in estimators.paired_table(results) if line.startswith("| AttnLRP | SPES, 1,000 |")]
    cells = line.strip("| ").split(" | ")[2:]
    assert all(cell.startswith("+1.0 [") for cell in cells)
    verdicts = ["better" if high else "worse" for key, high in estimators.COLUMNS.items() if key in measures[1:]]
    assert [cell.split()[-1] for cell in cells] == verdicts
    few = dict(list(results.items())[:5])
    assert not any("better" in line or "worse" in line for line in estimators.paired_table(few))
    table = estimators.table(results)
    assert len(table) == 2 + len(names) and "nan" not in "".join(table)


def test_curves_and_pairs_are_of_runs(estimators):
    maps = {*estimators.RUNS, *(f"{name}, patches" for name, run in estimators.RUNS.items() if run.pooled)}
    assert {name for names in estimators.CURVES.values() for name in names} <= maps
    assert {name for pair in estimators.PAIRS for name in pair} <= maps
