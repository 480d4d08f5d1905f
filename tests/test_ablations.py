"""Ablation tables, figures and the claims table, from synthetic results with numbers that are known."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats
from test_report import make_results

from fdm.errors import UserError
from fdm.grids import Ablation
from fdm.report import build
from fdm.report.ablations import ablation_table
from fdm.report.claims import Claim, Evidence, Verdict, judge, read_claims
from fdm.report.load import load
from fdm.report.numbers import Estimate, estimate
from fdm.report.plan import read_plan
from fdm.report.results import Results

REPOSITORY = Path(__file__).parent.parent
SCORE = "efficientnet-lite0/frechet_distance"
ABLATIONS = {
    "stages": {
        "title": "Number of stages",
        "question": "How many?",
        "baseline": "ddpm",
        "experiments": ["fdm-ds-2", "fdm-ds-3"],
    }
}
CLAIM = {"paper": "p", "claim": "Two stages beat one.", "source": "abstract", "of": ["fdm-ds-2"], "against": ["ddpm"]}
BETTER = {**CLAIM, "tests": [{"measure": "quality", "below": 1}]}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(
    place: Path, distances: Mapping[str, Sequence[float]], samples: int = 500, claims: Mapping[str, Any] | None = None
) -> Path:
    """Results whose Fréchet distances are given, one per seed."""
    seeds = tuple(range(len(next(iter(distances.values())))))
    results = make_results(place, seeds=seeds)
    suite = place / "params/suites/demo.yaml"
    suite.write_text(yaml.safe_dump({**yaml.safe_load(suite.read_text()), "ablations": ABLATIONS}, sort_keys=False))
    if claims:
        papers = {"p": {"title": "A paper", "arxiv": "1"}}
        (place / "params/claims.yaml").write_text(yaml.safe_dump({"papers": papers, "claims": dict(claims)}))
    for path in results.glob("*/seed*"):
        values = distances.get(path.parent.name)
        metrics = json.loads((path / "metrics.json").read_text())
        metrics["samples"] = samples
        if values:
            metrics["features"]["efficientnet-lite0"]["frechet_distance"] = values[int(path.name[4:])]
        (path / "metrics.json").write_text(json.dumps(metrics))
        stored = np.load(path / "samples.npy")
        np.save(path / "samples.npy", np.resize(stored, (samples, *stored.shape[1:])))
    return results


def rows(path: Path) -> dict[str, dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return {row["experiment"]: row for row in csv.DictReader(file)}


def found(results: Path) -> Results:
    return load("demo", results, read_plan("demo"))


def test_differences_are_paired_and_a_tie_is_called_none(place: Path) -> None:
    base = [50.0, 60.0, 70.0]
    # Two stages: 4 to 5 better under every seed, though the seeds differ by 20. Three stages: no direction.
    two, three = [46.0, 55.0, 65.5], [53.0, 58.0, 69.0]
    results = make(place, {"ddpm": base, "fdm-ds-2": two, "fdm-ds-3": three})
    target = build("demo", results, place / "reports/demo").parent
    table = rows(target / "tables/ablation-stages.csv")
    assert list(table) == ["ddpm", "fdm-ds-2", "fdm-ds-3"]
    for name, values in (("fdm-ds-2", two), ("fdm-ds-3", three)):
        change = np.subtract(values, base)
        low, high = stats.t.interval(0.95, 2, loc=change.mean(), scale=stats.sem(change))
        wanted = [change.mean(), low, high]
        assert [float(table[name][f"{SCORE}/difference{end}"]) for end in ("", "_low", "_high")] == pytest.approx(
            wanted
        )
        assert float(table[name][SCORE]) == pytest.approx(np.mean(values))
    verdicts = [table[name][f"{SCORE}/verdict"] for name in table]
    assert verdicts == ["baseline", "better", "none"]
    flops = float(table["fdm-ds-2"]["flops_per_sample_relative"])
    assert flops == pytest.approx(1 / 1.6)
    svg = (target / "figures/ablation-stages.svg").read_text()
    assert ">better<" in svg and ">none<" in svg and ">worse<" not in svg
    page = (target / "index.html").read_text()
    assert 'id="table-ablation-stages"' in page and 'id="figure-ablation-stages"' in page


def test_one_seed_knows_no_difference(place: Path) -> None:
    results = make(place, {"ddpm": [50.0], "fdm-ds-2": [1.0], "fdm-ds-3": [90.0]}, claims={"better": BETTER})
    target = build("demo", results, place / "reports/demo").parent
    table = rows(target / "tables/ablation-stages.csv")
    assert [table[name][f"{SCORE}/verdict"] for name in table] == ["baseline", "not known", "not known"]
    claim = rows(target / "tables/claims.csv")["better"]
    assert claim["verdict"] == "not testable at this scale" and "One seed" in claim["reason"]


def test_numbers_of_seeds_that_differ_are_said(place: Path) -> None:
    results = make(place, {"ddpm": [50.0, 51.0], "fdm-ds-2": [40.0, 42.0], "fdm-ds-3": [90.0, 91.0]})
    captions = []
    for missing in ((), ("fdm-ds-3",), ("ddpm", "fdm-ds-2")):
        for name in missing:
            shutil.rmtree(results / name / "seed1")
        captions.append((build("demo", results, place / "reports/demo", partial=True)).read_text())
    whole, some, one = captions
    assert "2 seeds, " in whole and "1 to 2 seeds, " not in whole and "With one seed there is no interval" not in whole
    assert (
        "1 to 2 seeds, " in some
        and "With one seed there is no interval" in some
        and "no difference is known" not in some
    )
    assert "no interval, so no difference is known" in one


def test_evaluations_of_one_model_are_drawn_as_lines(place: Path) -> None:
    results = make(place, {"ddpm": [5.0, 6.0], "fdm-ds-2": [4.0, 5.0], "fdm-ds-3": [3.0, 4.0]})
    base = json.loads((results / "ddpm/seed0/manifest.json").read_text())["experiment"]

    def figure(**other: object) -> str:
        for steps, spacing, name in ((10, "uniform", "fdm-ds-2"), (30, "quadratic", "fdm-ds-3")):
            for path in (results / name).glob("seed*/manifest.json"):
                manifest = json.loads(path.read_text())
                sampling = base["sampling"] | {"steps": steps, "spacing": spacing}
                manifest["experiment"] = base | {"name": name, "sampling": sampling} | other
                path.write_text(json.dumps(manifest))
        build("demo", results, place / "reports/demo")
        return (place / "reports/demo/figures/ablation-stages.svg").read_text()

    svg = figure()
    assert "network evaluations per sample" in svg and ">10<" in svg and ">30<" in svg
    assert ", uniform<" in svg and ", quadratic<" in svg, "one line for each way of sampling"
    assert "network evaluations per sample" not in figure(training=base["training"] | {"images": 7}), "another model"


GOOD = {"ddpm": [50.0, 60.0, 70.0], "fdm-ds-2": [40.0, 50.0, 55.0]}
WIDE = {"ddpm": [50.0, 60.0, 70.0], "fdm-ds-2": [40.0, 62.0, 71.0]}
WORSE = {"ddpm": GOOD["fdm-ds-2"], "fdm-ds-2": GOOD["ddpm"]}
FASTER = {**CLAIM, "tests": [{"measure": "seconds_per_sample", "below": 1}]}
CHEAPER = {**CLAIM, "tests": [{"measure": "quality", "below": 1}, {"measure": "flops_per_sample", "below": 0.7}]}


@pytest.mark.parametrize(
    ("distances", "claim", "samples", "word", "said"),
    [
        (GOOD, BETTER, 500, "reproduced", "below the bound"),
        (GOOD, CHEAPER, 500, "reproduced", "below the bound"),
        (WIDE, BETTER, 500, "undecided", "do not decide"),
        (GOOD, FASTER, 500, "undecided", "not judged"),
        (
            GOOD,
            {**FASTER, "tests": [*FASTER["tests"], *BETTER["tests"]]},
            500,
            "undecided",
            "(EfficientNet-Lite0): ratio and",
        ),
        (WORSE, {**FASTER, "tests": [*FASTER["tests"], *BETTER["tests"]]}, 500, "not reproduced", "above the bound"),
        (WORSE, BETTER, 500, "not reproduced", "above the bound"),
        (GOOD, BETTER, 499, "not testable at this scale", "at least 500 samples"),
        ({name: values[:1] for name, values in GOOD.items()}, BETTER, 500, "not testable at this scale", "One seed"),
        ({"ddpm": [50.0] * 3, "fdm-ds-2": [40.0] * 3}, BETTER, 500, "not testable at this scale", "same distance"),
        (GOOD, {**BETTER, "resolution": 64}, 500, "not testable at this scale", "Claimed for 64×64"),
        (GOOD, {**BETTER, "datasets": ["ffhq256"]}, 500, "not testable at this scale", "Claimed for ffhq256"),
        (GOOD, {**BETTER, "against": ["ldm"]}, 500, "not testable at this scale", "does not compare"),
        (
            GOOD,
            {**CLAIM, "tests": [{"measure": "flops_per_sample", "below": 0.6}]},
            500,
            "not reproduced",
            "above the bound",  # 1 / 1.6 of the FLOPs
        ),
    ],
)
def test_verdicts_say_no_more_than_the_data(
    place: Path, distances: Mapping[str, Sequence[float]], claim: Mapping[str, Any], samples: int, word: str, said: str
) -> None:
    verdict = judge(Claim.model_validate(claim), found(make(place, distances, samples)))
    assert (verdict.word, said in verdict.reason) == (word, True), verdict


def test_times_of_different_devices_prove_nothing(place: Path) -> None:
    claim = Claim.model_validate(FASTER)
    results = make(place, GOOD)
    assert judge(claim, found(results)).word == "undecided"
    for moved in range(3):
        path = results / f"fdm-ds-2/seed{moved}/cost.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"device": "H200"}))
        verdict = judge(claim, found(results))
        assert [item.ratio.count for item in verdict.evidence] == [2 - moved][: 2 - moved], "pairs on one device"
    assert verdict.word == "not testable at this scale" and "different devices" in verdict.reason
    flops = Claim.model_validate({**CLAIM, "tests": [{"measure": "flops_per_sample", "below": 1}]})
    assert judge(flops, found(results)).word == "reproduced", "FLOPs are the same everywhere"
    ablation = Ablation.model_validate({**ABLATIONS["stages"], "experiments": ["ddpm", "fdm-ds-2"]})
    columns = [header.key for header in ablation_table("stages", ablation, found(results)).headers]
    assert "flops_per_sample_relative" in columns and "seconds_per_sample_relative" not in columns


def test_counted_flops_need_no_second_seed(place: Path) -> None:
    flops = Claim.model_validate({**CLAIM, "tests": [{"measure": "flops_per_sample", "below": 1}]})
    results = make(place, {name: values[:1] for name, values in GOOD.items()})
    assert judge(flops, found(results)).word == "reproduced"


def test_a_copied_seed_is_not_a_second_one(place: Path) -> None:
    results = make(place, GOOD)
    for name in GOOD:
        folder = results / name
        identity = json.loads((folder / "seed0/manifest.json").read_text())["identities"]["evaluate"]
        path = folder / "seed1/manifest.json"
        manifest = json.loads(path.read_text())
        manifest["identities"]["evaluate"] = manifest["records"]["evaluate"]["identity"] = identity
        path.write_text(json.dumps(manifest))
    verdict = judge(Claim.model_validate(BETTER), found(results))
    assert verdict.word == "not testable at this scale" and "same run" in verdict.reason
    # A seed that is only a copied folder is refused when it is read.
    shutil.rmtree(results / "fdm-ds-2/seed1")
    shutil.copytree(results / "fdm-ds-2/seed0", results / "fdm-ds-2/seed1")
    with pytest.raises(UserError, match="is of seed 0"):
        found(results)


def test_a_published_ratio_is_told_beside_the_verdict() -> None:
    for half, published, words in (
        (0.1, 0.55, "bound 1, published 0.55, inside the interval"),
        (0.1, 0.85, "bound 1, published 0.85, outside the interval"),
        (None, 0.85, "bound 1, published 0.85"),
        (0.1, None, "bound 1"),
    ):
        assert str(Evidence("quality", "FID", Estimate(0.5, half, 3), 5000, 1.0, published)).endswith(words)


@pytest.mark.parametrize(
    "evidence",
    [
        (),
        (Evidence("quality", "FID", Estimate(0.5, None, 1), 5000, 1.0),),
        (Evidence("quality", "FID", Estimate(0.5, 0.1, 3), 100, 1.0),),
        (Evidence("quality", "FID", Estimate(0.5, 0.6, 3), 5000, 1.0),),
        (Evidence("quality", "FID", Estimate(1.5, 0.1, 3), 5000, 1.0),),
        (Evidence("quality", "FID", Estimate(0.5, 0.0, 3), 5000, 1.0),),
        (
            Evidence("quality", "FID", Estimate(0.5, 0.1, 3), 5000, 1.0),
            Evidence("quality", "FID", Estimate(0.5, 0.6, 3), 5000, 1.0),
        ),
    ],
)
def test_reproduced_cannot_be_said_without_support(evidence: tuple[Evidence, ...]) -> None:
    with pytest.raises(ValueError, match="reproduced needs"):
        Verdict("reproduced", "because", evidence)


def test_the_claims_file_is_complete_and_its_table_holds_its_own_evidence(place: Path) -> None:
    claims = read_claims(REPOSITORY / "params/claims.yaml")
    assert claims is not None and {claim.paper for claim in claims.claims.values()} == set(claims.papers)
    suite = yaml.safe_load((REPOSITORY / "params/suites/ablations.yaml").read_text())
    assert suite["seeds"] == [0, 1, 2] and suite["sampling"]["count"] >= 500
    plans = [
        set(read_plan(str(REPOSITORY / f"params/suites/{name}.yaml")).experiments)
        for name in ("ablations", "cifar10-cpu")
    ]
    for name, claim in claims.claims.items():
        if not claim.untestable and not claim.resolution:
            assert any(plan & set(claim.of) and plan & set(claim.against) for plan in plans), name
    results = make(place, GOOD, claims={"good": BETTER, "no": {**CLAIM, "untestable": "Because."} | {"of": []}})
    build("demo", results, place / "reports/demo")
    table = rows(place / "reports/demo/tables/claims.csv")
    assert table["no"]["verdict"] == "not testable at this scale" and table["no"]["reason"] == "Because."
    assert table["good"]["verdict"] == "reproduced" and (table["good"]["paired_seeds"], table["good"]["samples"]) == (
        "3",
        "500",
    )
    values = estimate([a / b for a, b in zip(GOOD["fdm-ds-2"], GOOD["ddpm"], strict=True)])
    assert f"[{values.low:.3g}, {values.high:.3g}], bound 1" in table["good"]["measured"]


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ({**CLAIM}, "needs either of, against and tests, or untestable"),
        ({**BETTER, "untestable": "both"}, "needs either"),
        ({**BETTER, "paper": "q"}, "'q' is not among p"),
        ({**BETTER, "tests": [{"measure": "qality", "below": 1}]}, "did you mean 'quality'"),
    ],
)
def test_a_broken_claims_file_is_one_line(place: Path, claim: Mapping[str, Any], said: str) -> None:
    make(place, GOOD, claims={"one": claim})
    with pytest.raises(UserError, match=said) as caught:
        read_claims(place / "params/claims.yaml")
    assert "\n" not in str(caught.value)
