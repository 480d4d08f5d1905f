"""Grids of ablations: names, overrides, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fdm.errors import UserError
from fdm.experiment import load_experiment, load_suite
from fdm.report.plan import read_plan

SUITE = """
title: Grids
dataset: digits8
network: tiny8
sampling: {steps: 10, solver: ancestral}
experiments:
  ddpm: {method: ddpm, title: DDPM}
  fdm-ds-2:
    method: fdm-ds
    title: f-DM-DS
    overrides: {method: {transforms: [{kind: resize, operator: box}]}}
ablations:
  interpolation:
    title: Interpolation
    question: Does it help?
    baseline: fdm-ds-2
    grid: {method.interpolation: [true, false]}
  solver:
    title: Solver and evaluations
    question: Which?
    baseline: fdm-ds-2
    grid: {sampling.solver: [ancestral, ddim], sampling.steps: [5, 10]}
  prediction:
    title: Prediction
    question: Which?
    baseline: fdm-ds-2
    grid: {method: {operator: {predict: operator}, x: {target: x}}, method.boundaries: {early: [0.25], same: equal}}
    experiments: [ddpm]
"""
MEMBERS = {
    "interpolation": ["fdm-ds-2", "fdm-ds-2+interpolation=false"],
    "solver": ["fdm-ds-2+steps=5", "fdm-ds-2", "fdm-ds-2+solver=ddim+steps=5", "fdm-ds-2+solver=ddim"],
    "prediction": [
        "fdm-ds-2+operator+boundaries=early",
        "fdm-ds-2+operator",
        "fdm-ds-2+x+boundaries=early",
        "fdm-ds-2+x",
        "ddpm",
    ],
}


def write(text: str) -> None:
    Path("params/suites/grids.yaml").write_text(text)


def change(**ablations: object) -> str:
    return yaml.safe_dump({**yaml.safe_load(SUITE), "ablations": ablations}, sort_keys=False)


def test_a_grid_makes_named_experiments_around_its_baseline(project: Path) -> None:
    write(SUITE)
    suite = load_suite("grids")
    for name, members in MEMBERS.items():
        assert suite.ablations[name].experiments[0] == "fdm-ds-2"
        assert set(suite.ablations[name].experiments) == {"fdm-ds-2", *members}
    assert list(suite.experiments)[:2] == ["ddpm", "fdm-ds-2"]
    assert set(suite.experiments) == {member for members in MEMBERS.values() for member in members}
    both = suite.experiments["fdm-ds-2+operator+boundaries=early"]
    assert both.method.model_dump()["predict"] == "operator" and both.method.model_dump()["boundaries"] == (0.25,)
    assert both.title == "f-DM-DS, operator, boundaries early"
    assert suite.experiments["fdm-ds-2+interpolation=false"].title == "f-DM-DS, interpolation off"
    quick = load_experiment("grids:fdm-ds-2+solver=ddim+steps=5")
    assert (quick.sampling.solver, quick.sampling.steps) == ("ddim", 5)
    assert quick.method == suite.experiments["fdm-ds-2"].method
    # The report reads the same names without resolving anything.
    plan = read_plan("grids")
    assert list(plan.experiments) == list(suite.experiments)
    assert {name: tuple(item.experiments) for name, item in plan.ablations.items()} == {
        name: item.experiments for name, item in suite.ablations.items()
    }


ONE = {"title": "T", "question": "Q", "baseline": "ddpm"}


@pytest.mark.parametrize(
    ("ablation", "said"),
    [
        ({**ONE, "baseline": "dpm", "grid": {"sampling.steps": [5]}}, "no experiment 'dpm' .*did you mean 'ddpm'"),
        ({**ONE, "experiments": ["fdm"]}, "ablations.one: no experiment 'fdm'"),
        (ONE, "ablations.one: needs a grid of values or a list of experiments"),
        ({**ONE, "grid": {"sampling.steps": []}}, "sampling.steps: needs at least one value"),
        ({**ONE, "grid": {"sampling.steps": ["5 or 6"]}}, "'5 or 6' cannot be part of a name; write `label: value`"),
        (
            {**ONE, "grid": {"samplin.steps": [5]}},
            r"ddpm\+steps=5.overrides: samplin: unknown key; did you mean 'sampling'",
        ),
        ({**ONE, "grid": {"sampling.stesp": [5]}}, "sampling: stesp: unknown key; did you mean 'steps'"),
        ({**ONE, "gird": {}}, "ablations.one.gird: unknown key; did you mean 'grid'"),
        ({**ONE, "grid": {"method": {"a": {"target": "x"}}, "sampling": {"a": {"steps": 3}}}}, None),
        ({**ONE, "grid": {"sampling.steps": {"few": [3]}}}, "steps"),
    ],
)
def test_bad_grids_are_one_clear_line(project: Path, ablation: dict[str, object], said: str | None) -> None:
    write(change(one=ablation))
    if said is None:
        assert list(load_suite("grids").experiments)[-1] == "ddpm+a+a"
        return
    with pytest.raises(UserError, match=said) as caught:
        load_suite("grids")
    assert "\n" not in str(caught.value) and "grids.yaml" in str(caught.value)


def test_one_name_for_two_settings_is_refused(project: Path) -> None:
    first = {**ONE, "grid": {"sampling.steps": {"few": 3}}}
    write(change(one=first, two={**ONE, "grid": {"sampling.steps": {"few": 4}}}))
    with pytest.raises(UserError, match=r"ablations.two: ddpm\+steps=few stands for two different settings"):
        load_suite("grids")
    write(change(one=first, two=first))
    assert len(load_suite("grids").experiments) == 3


@pytest.mark.parametrize(
    ("block", "key", "values"),
    [
        ("training", "lr", [1e-3, 2e-3]),
        ("sampling", "steps", [10, 5]),
        ("evaluation", "kid_subsets", [10, 20]),
        ("conditioning", "dropout", [0.1, 0.2]),
        ("restoration", "count", [4, 2]),
        ("exploration", "columns", [3, 2]),
    ],
)
def test_a_value_that_the_suite_gives_is_the_baseline(project: Path, block: str, key: str, values: list[float]) -> None:
    suite = yaml.safe_load(change(one={**ONE, "grid": {f"{block}.{key}": values}}))
    suite[block] = {**({"classes": 10} if block == "conditioning" else {}), key: values[0]}
    write(yaml.safe_dump(suite, sort_keys=False))
    assert load_suite("grids").ablations["one"].experiments == ("ddpm", f"ddpm+{key}={values[1]}")
