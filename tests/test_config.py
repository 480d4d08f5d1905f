"""Configuration: what is refused, how it is said, and what makes two runs the same."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from commandline import attempt
from conftest import REPOSITORY

from fdm.errors import UserError
from fdm.experiment import experiment_from_dict, identity, json_schema, load_dataset, load_experiment, load_suite
from fdm.report.plan import read_plan

SUITES = sorted(path.stem for path in (REPOSITORY / "params/suites").glob("*.yaml"))


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_resolves_and_survives_a_round_trip(project: Path, suite: str) -> None:
    for name, experiment in load_suite(suite).experiments.items():
        text = yaml.safe_dump(experiment.model_dump(mode="json"))
        Path("one.yaml").write_text(text)
        assert load_experiment("one.yaml") == experiment
        assert identity(experiment) == identity(load_experiment(f"{suite}:{name}"))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.imges=3", ["imges", "unknown key", "did you mean 'images'", "allowed here"]),
        ("training.lr=fast", ["training: lr", "valid number", "'fast'"]),
        ("training.batch=0", ["batch", "greater than 0"]),
        ("training.accumulate=7", ["batch=64 is not divisible by accumulate=7"]),
        ("sampling.solver=dimm", ["solver", "'ancestral', 'ddim'", "did you mean 'ddim'"]),
        ("sampling.steps=2", ["2 steps cannot cover 3 stages"]),
        ("method.process=stagd", ["process", "must be one of ", "gaussian", "did you mean 'staged'"]),
        ("method.rescalin=dim", ["rescalin", "unknown key", "did you mean 'rescaling'"]),
        ("method.transforms=[{kind: resise}]", ["kind must be one of", "did you mean 'resize'"]),
        ("method.transforms=[{kind: resize, faktor: 2}]", ["resize.faktor", "did you mean 'factor'"]),
        ("method.transforms=[{kind: resize, factor: 3}]", ["cannot be down-sampled by 3"]),
        ("method.boundaries=[0.5, 0.4]", ["boundaries", "increase strictly"]),
        ("method.predict=operator; method.target=eps", ["operator needs target v or x"]),
        ("network.mult=[1, 2]", ["2x2 pixels needs a network level of that size; the network has 8, 4"]),
        ("network.channels=10", ["multiple of 8"]),
        ("evaluation.features=[inception-v2]", ["features", "did you mean 'inception-v3'"]),
        ("evaluation.features=[]", ["at least one network"]),
        ("evaluation.reference_limit=112", ["reference_limit=112 is too few", "efficientnet-lite0 needs 113"]),
        (
            "evaluation.reference_limit=149; evaluation.kid_subset_size=150",
            ["evaluation.kid_subset_size=150 needs 150"],
        ),
        ("dataset.resolution=eight", ["dataset: resolution", "valid integer"]),
        ("nonsense", ["expected key=value"]),
        ("trainin.lr=1", ["unknown key 'trainin'", "did you mean 'training'"]),
        ("training.lr=[", ["not valid YAML"]),
        ("training.lr=.nan", ["lr", "finite"]),
        (
            "network=lean3",
            ["-o network=lean3: params/networks/lean3.yaml: no such network file; did you mean 'lean32'"],
        ),
        ("method=../ddpm", ["-o method=../ddpm: ", "a plain folder name is wanted"]),
    ],
)
def test_bad_values_are_one_clear_line(project: Path, override: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_experiment("smoke:fdm-ds-3", override.split("; "))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("overrides", "blamed"),
    [
        ("training.lr=fast", "-o training.lr=fast"),
        ("sampling.steps=50; training.lr=fast; title=x", "-o training.lr=fast"),
        (
            "method.predict=operator; training.lr=1; method.target=eps",
            "-o method.predict=operator -o method.target=eps",
        ),
        ("training.lr=fast; training.lr=slow", "-o training.lr=slow"),
    ],
)
def test_errors_name_the_overrides_that_are_wrong(project: Path, overrides: str, blamed: str) -> None:
    for reference in ("smoke:fdm-ds-3", "one.yaml"):
        Path("one.yaml").write_text(yaml.safe_dump(load_experiment("smoke:fdm-ds-3").model_dump(mode="json")))
        with pytest.raises(UserError) as caught:
            load_experiment(reference, overrides.split("; "))
        assert str(caught.value).startswith(f"{blamed}: {reference}: ")
    path = Path("params/suites/smoke.yaml")
    path.write_text(path.read_text().replace("images:", "imges:"))
    with pytest.raises(
        UserError, match=r"^params/suites/smoke.yaml: experiments.fdm-ds-3: training: imges: unknown key"
    ):
        load_experiment("smoke:fdm-ds-3", ["sampling.steps=50"])


def test_errors_of_a_dataset_name_the_override(project: Path) -> None:
    with pytest.raises(UserError, match=r"^-o dataset.resolution=eight: digits8: resolution: "):
        load_dataset("digits8", ["training.lr=1", "dataset.resolution=eight"])


def test_an_override_may_name_a_file_of_params(project: Path) -> None:
    """The file takes the place of the block: nothing of the old one is left, and other overrides apply to it in any order."""
    base, other = load_experiment("digits:fdm-ds-3"), load_experiment("digits:ddpm", ["title=x"])
    found = load_experiment(
        "digits:fdm-ds-3", ["method=ddpm", "network=tiny8", "network.channels=16", "dataset=digits8"]
    )
    assert found.method == other.method and found.dataset == load_dataset("digits8")
    assert found.network == load_experiment("smoke:ddpm").network.model_copy(update={"channels": 16})
    assert found.training == base.training
    assert load_experiment("smoke:ddpm", ["network.channels=32", "network=tiny8"]).network.channels == 32


def test_a_suite_file_is_no_experiment(project: Path) -> None:
    with pytest.raises(UserError, match=r"a suite, not an experiment; name one of it: params/suites/smoke.yaml:ddpm"):
        load_experiment("params/suites/smoke.yaml")
    assert load_experiment("params/suites/smoke.yaml:ddpm") == load_experiment("smoke:ddpm")


def test_errors_name_the_file_that_is_wrong(project: Path) -> None:
    Path("params/methods/fdm-ds.yaml").write_text("process: staged\ninterpolate: true\n")
    with pytest.raises(
        UserError, match=r"params/methods/fdm-ds.yaml: interpolate: unknown key; did you mean 'interpolation'"
    ):
        load_suite("smoke")


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("smoke:dpm", "has no experiment 'dpm'; did you mean 'ddpm'"),
        ("smokes:ddpm", "no such suite file; did you mean 'smoke'"),
        ("ddpm", "give SUITE:EXPERIMENT"),
        ("nowhere.yaml", "no such experiment file"),
    ],
)
def test_unknown_references(project: Path, reference: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_experiment(reference)


def test_another_folder_than_the_project_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"no folder params in {tmp_path}; run `fdm` at the root of the project"):
        load_experiment("smoke:ddpm")


def test_show_lists_what_there_is(project: Path) -> None:
    listed = attempt("show").stdout
    for kind in ("suites", "datasets", "networks", "methods", "autoencoders"):
        for path in Path("params", kind).glob("*.yaml"):
            assert re.search(rf"(?m)(^|[ ,]){re.escape(path.stem)}([ ,\n]|$)", listed), path
    assert re.search(r"^ablations +Ablations on .* digits16 +small16 +35 +105 *$", listed, re.MULTILINE)
    one = attempt("show", "digits", "-o", "sampling.steps=7").stdout
    assert one.startswith("digits: Handwritten digits at 32×32 (data: digits32)")
    for name, experiment in load_suite("digits").experiments.items():
        row = rf"^{name} .* {experiment.method.process} +multistep2 +7 +500 +19,200 +0 *$"
        assert re.search(row, one, re.MULTILINE), one


def test_a_list_says_which_suite_is_broken(project: Path) -> None:
    Path("params/suites/mine.yaml").write_text("title: x\n")
    assert "error: params/suites/mine.yaml: dataset: this key is required" in attempt("show").stderr


def test_version(fdm: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert fdm("--version").stdout == f"fdm {importlib.metadata.version('fdm')}\n"


@pytest.mark.parametrize("text", ["- a\n- b\n", "title: [", "title: x\n", "!!python/object/apply:os.system [ls]"])
def test_broken_suite_files(project: Path, text: str) -> None:
    Path("params/suites/broken.yaml").write_text(text)
    with pytest.raises(UserError, match=r"params/suites/broken.yaml: "):
        load_suite("broken")


def test_an_experiment_may_have_seeds_of_its_own(project: Path) -> None:
    path = Path("params/suites/smoke.yaml")
    raw = yaml.safe_load(path.read_text())
    raw["experiments"]["ddpm"]["seeds"] = [3, 4]
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    suite = load_suite("smoke")
    others = [(name, seed) for name in suite.experiments if name != "ddpm" for seed in raw["seeds"]]
    assert sorted(suite.runs) == sorted([("ddpm", 3), ("ddpm", 4), *others])
    assert read_plan("smoke").seeds == suite.seeds
    raw["experiments"]["ddpm"]["seeds"] = []
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    with pytest.raises(UserError, match=r"experiments\.ddpm\.seeds"):
        load_suite("smoke")


def test_identity_covers_values_not_names(project: Path) -> None:
    base, same = load_experiment("smoke:ddpm"), load_experiment("smoke:ddpm", ["training.lr=0.001", "title=Other"])
    other = load_experiment("smoke:ddpm", ["training.lr=0.002"])
    assert identity(base.training) == identity(same.training) != identity(other.training)


def test_schema_is_up_to_date() -> None:
    assert json.loads((REPOSITORY / "params/schema.json").read_text()) == json_schema(), "run `make schema`"


def test_schema_accepts_what_the_models_accept(project: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    raw = load_experiment("smoke:fdm-ds-3").model_dump(mode="json")
    jsonschema.validate(raw, json_schema())
    raw["method"]["process"] = "nothing"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(raw, json_schema())


def test_a_resolved_experiment_needs_all_its_parts() -> None:
    with pytest.raises(UserError, match="dataset: name: this key is required"):
        experiment_from_dict({"name": "x", "title": "x"}, "file.yaml")
