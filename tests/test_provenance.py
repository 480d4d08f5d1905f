"""`fdm trace` and `fdm check` on a finished tiny suite with every kind of file that a run can have."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scipy import stats

from fdm import cli
from fdm.errors import UserError
from fdm.experiment import load_experiment, load_suite
from fdm.provenance.again import commands, overrides, recorded_run
from fdm.provenance.check import check_everything, check_run, check_suites
from fdm.provenance.finding import Finding
from fdm.provenance.folder import PUBLISHED_FILES, read_folder, under_dvc
from fdm.provenance.publish import publish
from fdm.provenance.rescore import chosen, tolerance
from fdm.provenance.trace import Trace, find_column, find_rows, find_table, tables_of, trace
from fdm.report import build
from fdm.report.numbers import Estimate
from fdm.report.write import as_csv
from fdm.restoration import restoration_of
from fdm.runs import Run
from fdm.store import provenance, sealed, sha256
from fdm.variations import Interpolations, Variations

REPOSITORY = Path(__file__).parent.parent
EVERYTHING = "mixed"
SUITE: dict[str, Any] = {
    "title": "Everything, tiny",
    "dataset": "digits8",
    "network": "tiny8",
    "seeds": [0, 1],
    "training": {"images": 192, "batch": 64, "warmup": 2},
    "sampling": {"count": 128, "steps": 3, "batch": 128},
    "evaluation": {"reference_limit": 128, "kid_subsets": 2, "kid_subset_size": 50},
    "restoration": {"count": 4, "lpips": False},
    "exploration": {"count": 1, "columns": 2},
    "experiments": {
        "ddpm": {"method": "ddpm", "title": "DDPM"},
        EVERYTHING: {
            "method": "fdm-ds-vqvae",
            "title": "f-DM with everything",
            "overrides": {
                "method": {
                    "transforms": [
                        {"kind": "resize"},
                        {
                            "kind": "latent",
                            "autoencoder": {
                                "kind": "vqvae", "factor": 2, "latent_channels": 3, "width": 8, "codebook": 32,
                                "images": 320, "warmup": 2,
                            },
                        },
                    ],
                },
                "restoration": {"stages": [1]},
                "exploration": {"vary": [1], "interpolate": True},
            },
        },
    },
    "ablations": {
        "stages": {"title": "Stages", "question": "Do stages matter?", "baseline": "ddpm", "experiments": [EVERYTHING]}
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, digits8: Path) -> Iterator[Path]:
    """The suite, finished, with its report, as the working directory of the module. Tests put back what they change."""
    root = tmp_path_factory.mktemp("provenance")
    shutil.copytree(REPOSITORY / "params", root / "params")
    shutil.copytree(digits8, root / "data")
    (root / "params/suites/tiny.yaml").write_text(yaml.safe_dump(SUITE, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.delenv("FDM_WORK", raising=False)
        for name, experiment in load_suite("tiny").experiments.items():
            for seed in (0, 1):
                run = Run(experiment, seed, "cpu", Path("results/tiny") / name / f"seed{seed}")
                run.pretrain()
                run.train()
                run.sample()
                run.evaluate()
                if name == EVERYTHING and seed == 0:
                    restoration_of(run).restore()
                    Variations(run).make()
                    Interpolations(run).make()
        build("tiny", Path("results/tiny"), Path("reports/tiny"))
        yield root


def bad(findings: Any) -> list[Finding]:
    return [finding for finding in findings if finding.status == "bad"]


def run_folder(name: str = EVERYTHING, seed: int = 0) -> Path:
    return Path("results/tiny") / name / f"seed{seed}"


def call(*words: str) -> None:
    """The command line in this process."""
    cli.app(list(words), standalone_mode=False)


# --- trace ----------------------------------------------------------------------------------------------------------


def test_every_table_of_the_report_can_be_traced(made: Path) -> None:
    tables = tables_of("tiny")[1]
    on_disk = {path.stem for path in Path("reports/tiny/tables").glob("*.csv")}
    assert set(tables) == on_disk >= {
        "main", "training", "stages", "runs", "settings", "neighbours", "conditional", "autoencoders", "ablation-stages",
    }  # fmt: skip
    for table in tables.values():
        for row in table.rows:
            for header, cell in zip(table.headers, row.cells, strict=True):
                if isinstance(cell.raw, Estimate):
                    assert cell.origin, f"{table.name}: {row.name}, {header.key} does not say where it comes from"


def expected(how: str, ours: list[float], theirs: list[float]) -> float:
    """What a cell should say, by an independent reading of the words in ``how``."""
    kind = how.split(" to ")[0]
    if kind in ("mean over seeds", "mean over seeds, each a mean over images", "as it stands in the file"):
        return float(np.mean(ours))
    if kind.startswith("ratio of the means"):
        return float(np.mean(ours) / np.mean(theirs))
    if kind == "mean of the differences":
        return float(np.mean(np.subtract(ours, theirs)))
    assert kind == "mean of the ratios", how
    return float(np.mean(np.divide(ours, theirs)))


def test_the_values_in_the_files_give_the_number_in_the_cell(made: Path) -> None:
    results, tables = tables_of("tiny")
    count = 0
    for table in tables.values():
        if table.name in ("neighbours", "settings"):  # arrays, and words
            continue
        for row in table.rows:
            cells = {found.column: found for found in trace(results, table, [row], None).cells}
            for header, cell in zip(table.headers, row.cells, strict=True):
                if not isinstance(cell.raw, Estimate):
                    continue
                found = cells[header.key]
                assert cell.origin
                values = {value.run: value.value for value in found.values if value.value is not None}
                ours = [value for name, value in values.items() if name.split("/")[0] in row.experiments]
                theirs = [value for name, value in values.items() if name.split("/")[0] == cell.origin.against]
                ours, theirs = ours or theirs, theirs or ours  # the baseline beside itself
                assert found.exact == pytest.approx(expected(found.how, ours, theirs)), (table.name, found)
                if found.how == "mean over seeds" and len(set(ours)) > 1:
                    interval = stats.t.interval(0.95, len(ours) - 1, loc=np.mean(ours), scale=stats.sem(ours))
                    assert found.interval == pytest.approx(interval)
                assert {value.state for value in found.values if value.value is not None} == {"as recorded"}
                count += 1
    assert count > 100


def traced(table: str, row: str, column: str | None = None) -> Trace:
    results, tables = tables_of("tiny")
    chosen = find_table(tables, table)
    return trace(results, chosen, find_rows(chosen, row), None if column is None else find_column(chosen, column))


def test_a_trace_holds_all_that_made_the_number(made: Path) -> None:
    found = traced("main", EVERYTHING, "frechet")
    assert [run.run for run in found.runs] == [f"{EVERYTHING}/seed0", f"{EVERYTHING}/seed1"]
    manifest = json.loads((run_folder() / "manifest.json").read_text())
    run = found.runs[0]
    assert run.config == manifest["experiment"] and run.seed == 0 and run.same_now
    assert run.data == {"name": "digits8", "digest": manifest["data"]["digest"], "here": "the same here"}
    assert [step.step for step in run.steps] == ["pretrain", "train", "sample", "evaluate"]
    for step in run.steps:
        assert step.identity == manifest["identities"][step.step] and step.source == manifest["sources"][step.step]
        assert step.packages["torch"] == torch.__version__.partition("+")[0] and step.device and step.log is None
        assert all(step.files[name] for name in step.files) and step.files
    (cell,) = found.cells
    scores = json.loads((run_folder() / "metrics.json").read_text())["features"]["efficientnet-lite0"]
    assert cell.values[0].value == scores["frechet_distance"] and cell.values[0].file.endswith("seed0/metrics.json")
    assert json.loads(json.dumps(found.as_dict()))["cells"][0]["exact"] == cell.exact


def test_a_ratio_leads_to_both_sides_and_an_autoencoder_to_its_training(made: Path) -> None:
    names = [run.run for run in traced("main", EVERYTHING, "flops_per_sample_relative").runs]
    assert names == [f"{EVERYTHING}/seed0", f"{EVERYTHING}/seed1", "ddpm/seed0", "ddpm/seed1"]
    autoencoder = traced("autoencoders", "autoencoder-0", "psnr")
    record = json.loads((run_folder() / "pretrain.json").read_text())
    assert autoencoder.cells[0].values[0].value == record["metrics"]["psnr"]
    assert [step.step for step in traced("conditional", EVERYTHING, "psnr").runs[0].steps][-1] == "restore"
    assert [run.run for run in traced("runs", "ddpm/seed1").runs] == ["ddpm/seed1"]


def test_logs_are_named_where_they_are(made: Path) -> None:
    log = Path("logs/tiny/ddpm/seed0/train.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("train ddpm seed 0: 100 %\n")
    assert [step.log for step in traced("main", "DDPM", "recall").runs[0].steps] == [str(log), None, None]


@pytest.mark.parametrize(
    ("table", "row", "column", "said"),
    [
        ("mian", "ddpm", "recall", "no table 'mian'; did you mean 'main'"),
        ("main", "dpm", "recall", "no row 'dpm'; did you mean 'ddpm'"),
        ("main", "ddpm", "recal", None),
        ("Quality and cost", "f-dm with", "Recall", None),
        ("main", "ddpm", "FLOPs", "column 'FLOPs' may be any of: flops_per_sample, flops_per_sample_relative"),
        ("main", "ddpm", "accuracy", "no column 'accuracy'"),
        ("s", "ddpm", "x", "table 's' may be any of: ablation-stages, stages, settings, runs"),
        ("runs", "ddpm", "seed", "holds nothing that was read from a run"),
    ],
)
def test_names_are_forgiven_or_explained(made: Path, table: str, row: str, column: str, said: str | None) -> None:
    if said is None:
        assert traced(table, row, column).cells[0].column == "efficientnet-lite0/recall"
        return
    with pytest.raises(UserError) as caught:
        traced(table, row, column)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_every_setting_in_print_leads_to_its_manifest(made: Path) -> None:
    _, tables = tables_of("tiny")
    shown = [header for header in tables["settings"].headers if header.only != "csv" and header.key != "others"]
    assert shown
    for header in shown:
        for name in {header.key, header.label}:
            values = [value for cell in traced("settings", "f-dm with", name).cells for value in cell.values]
            assert values and {Path(value.file).name for value in values} == {"manifest.json"}, name


def test_the_command_prints_lists_trees_and_json(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("trace", "tiny")
    assert "ablation-stages" in capsys.readouterr().out
    call("trace", "tiny", "ma")
    said = capsys.readouterr().out
    assert EVERYTHING in said and "efficientnet-lite0/kid_mean" in said
    call("trace", "tiny", "main", "ddpm", "frechet")
    said = capsys.readouterr().out
    manifest = json.loads((run_folder("ddpm") / "manifest.json").read_text())
    identities = manifest["identities"].values()
    for word in (*identities, manifest["data"]["digest"], "✓ as recorded", "fdm train tiny:ddpm --seed 0", "torch "):
        assert word in said
    call("trace", "tiny", "main", "ddpm", "frechet", "--json")
    content = json.loads(capsys.readouterr().out)
    assert content["runs"][1]["config"]["training"]["images"] == 192
    with pytest.raises(UserError, match="results/tny: no results here; did you mean 'tiny'"):
        call("trace", "tny")


def test_commands_make_the_same_run(made: Path) -> None:
    """The overrides that it prints lead to the recorded identities, also where the suite file has moved on."""
    manifest = json.loads((run_folder("ddpm") / "manifest.json").read_text())
    path = Path("params/suites/tiny.yaml")
    before = path.read_text()
    path.write_text(before.replace("images: 192", "images: 640").replace("steps: 3", "steps: 5"))
    try:
        found = overrides("tiny:ddpm", manifest["experiment"])
        assert found == ["training.images=192", "sampling.steps=3"]
        run = Run(load_experiment("tiny:ddpm", found), 0)
        assert run.evaluate_identity == manifest["identities"]["evaluate"]
        lines = commands("tiny", "ddpm", manifest)
        assert lines[-1] == (
            "fdm evaluate tiny:ddpm -o training.images=192 -o sampling.steps=3 --seed 0 --to results/tiny/ddpm/seed0"
        )
    finally:
        path.write_text(before)
    assert recorded_run(manifest, "").identities == manifest["identities"]
    assert commands("tiny", "gone", manifest)[-1].startswith(
        "fdm evaluate tiny:ddpm --seed 0 "
    )  # known by another name
    assert overrides("tiny:gone", manifest["experiment"]) is None
    del manifest["experiment"]["training"]["compile"]  # as written before there was such a key
    assert overrides("tiny:ddpm", manifest["experiment"]) == []


def test_commands_fit_the_suite_of_their_revision(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step is made by its own revision, with what the suite lacked then; -o for that of today would be wrong there."""
    manifest = json.loads((run_folder("ddpm") / "manifest.json").read_text())
    shutil.copytree("params", tmp_path / "params")
    monkeypatch.chdir(tmp_path)
    suite = Path("params/suites/tiny.yaml")
    today, revisions = suite.read_text(), []
    for images in (640, 192):
        suite.write_text(today.replace("images: 192", f"images: {images}"))
        for words in (("init", "--quiet"), ("add", "--all"), ("commit", "--quiet", "--message", "test")):
            subprocess.run([*GIT, *words], check=True)
        asked = subprocess.run([*GIT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        revisions.append(asked.stdout.strip())
    suite.write_text(today.replace("steps: 3", "steps: 5"))
    for step, revision in zip(("train", "sample", "evaluate"), (*revisions, "0" * 40), strict=True):
        manifest["records"][step]["provenance"]["revision"] = revision
    rest = "--seed 0 --to results/tiny/ddpm/seed0"
    assert commands("tiny", "ddpm", manifest) == [
        f"git checkout {revisions[0]}",
        "fdm data digits8",
        f"fdm train tiny:ddpm -o training.images=192 {rest}",
        f"git checkout {revisions[1]}",
        f"fdm sample tiny:ddpm {rest}",
        f"git checkout {'0' * 40}",
        "# git has no 000000000000 here; -o as params/suites/tiny.yaml is now",
        f"fdm evaluate tiny:ddpm -o sampling.steps=3 {rest}",
    ]


GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@example.org")


def test_code_that_is_not_committed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = (*GIT, "-C", str(tmp_path))
    module = tmp_path / "fdm/store.py"
    module.parent.mkdir()
    module.write_text("")
    for words in (("init", "--quiet"), ("add", "--all"), ("commit", "--quiet", "--message", "test")):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr("fdm.store.__file__", str(module))
    revision = provenance.__wrapped__()["revision"]
    assert len(revision) == 40
    (tmp_path / "notes.txt").write_text("beside the package")
    assert provenance.__wrapped__()["revision"] == revision
    (module.parent / "method.py").write_text("")  # a new method, not yet added
    assert provenance.__wrapped__()["revision"] == f"{revision}+changes"


PUBLISHED = Path(__file__).parents[1] / "published/results"


@pytest.mark.parametrize("suite", sorted(path.name for path in PUBLISHED.iterdir()))
def test_published_runs_have_their_commands(suite: str) -> None:
    for file in sorted(PUBLISHED.glob(f"{suite}/*/seed*/manifest.json")):
        lines = commands(suite, file.parts[-3], json.loads(file.read_text()))
        assert any(line.startswith(f"fdm train {suite}:") for line in lines), (file, lines)


# --- check ----------------------------------------------------------------------------------------------------------


def test_a_finished_suite_is_as_made(made: Path) -> None:
    findings = check_suites([], Path("results"), Path("reports"), 1, "cpu")
    assert not bad(findings) and not [f for f in findings if f.status == "absent"]
    kinds = {finding.kind for finding in findings}
    assert kinds == {"files", "records", "identities", "data", "report", "scores"}
    on_disk = {str(path) for path in Path("results/tiny").rglob("*") if path.is_file()}
    looked = {finding.what for finding in findings if finding.kind in ("files", "records")}
    assert looked == on_disk, "every file of the results is covered by a digest"


FILES = [
    "model.safetensors", "training.csv", "train.json", "samples.npy", "grid.png", "trajectory.npz", "sample.json", "metrics.json",
    "cost.json", "neighbours.npz", "forward.npz", "manifest.json", "autoencoder.safetensors", "autoencoder.csv",
    "reconstructions.png", "pretrain.json", "restored.npz", "restore.png", "restore.json", "vary.npy", "vary.png", "vary.json",
    "interpolate.npy", "interpolate.png", "interpolate.json",
]  # fmt: skip


def test_the_list_of_files_is_complete(made: Path) -> None:
    assert {path.name for path in run_folder().iterdir()} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_found_in_every_file(made: Path, name: str) -> None:
    path = run_folder() / name
    before = path.read_bytes()
    rng = np.random.default_rng(len(name))
    # The first byte, the last but one (the last of a text is a line's end), and some between.
    for place in (0, len(before) - 2, *rng.integers(len(before), size=4)):
        changed = bytearray(before)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(changed))
        found = bad(check_run("tiny", read_folder(run_folder())))
        assert any(finding.what == str(path) for finding in found), (name, place)
        assert all("\n" not in finding.said for finding in found)
    path.write_bytes(before)
    assert not bad(check_run("tiny", read_folder(run_folder())))


@pytest.mark.parametrize("name", ["model.safetensors", "metrics.json", "train.json", "manifest.json", "restore.png"])
@pytest.mark.parametrize("tracked", [False, True])
def test_a_missing_file_is_a_fault_unless_dvc_has_it(made: Path, name: str, tracked: bool) -> None:
    path, note = run_folder() / name, Path("results/tiny.dvc")
    path.rename("kept")
    if tracked:
        note.write_text("outs:\n- path: tiny\n")
    try:
        (found,) = [f for f in check_run("tiny", read_folder(run_folder())) if f.what == str(path)]
    finally:
        Path("kept").rename(path)
        note.unlink(missing_ok=True)
    assert (found.status, found.said) == (
        ("absent", "not here (dvc pull from a remote that has it)") if tracked else ("bad", "missing")
    )


def test_a_run_in_the_making_is_no_fault(made: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run_folder(), tmp_path / "fdm/seed0")
    (folder / "manifest.json").unlink()
    found = {finding.what: finding for finding in check_run("tiny", read_folder(folder))}
    assert found[str(folder / "manifest.json")].status == "bad", "its scores are here"
    for name in ("metrics.json", "cost.json"):
        (folder / name).unlink()
    found = {finding.what: finding for finding in check_run("tiny", read_folder(folder))}
    assert not bad(found.values()) and found[str(folder)].status == "note"
    assert found[str(folder / "train.json")].status == found[str(folder / "samples.npy")].status == "good"
    # Below published/ nothing is in the making.
    other = shutil.copytree(folder, Path("published/results/tiny/fdm/seed0"))
    assert str(other / "manifest.json") in {finding.what for finding in bad(check_run("tiny", read_folder(other)))}
    shutil.rmtree("published")


def test_a_report_is_no_fault_while_a_seed_more_is_made(made: Path, tmp_path: Path) -> None:
    results, reports = tmp_path / "results", tmp_path / "reports"
    shutil.copytree(Path("results/tiny"), results / "tiny")
    shutil.copytree(Path("reports/tiny"), reports / "tiny")
    folder = shutil.copytree(
        results / "tiny" / run_folder().parent.name / "seed0", results / "tiny" / run_folder().parent.name / "seed7"
    )
    for name in ("manifest.json", "metrics.json", "cost.json"):
        (folder / name).unlink()
    found = check_suites(["tiny"], results, reports, 0)
    assert not bad(found)
    assert [finding.status for finding in found if finding.kind == "report"] == ["note"]


def test_outputs_of_stages_are_under_dvc(tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").write_text("stages: {results: {cmd: x, outs: [{path: results/tiny}]}}")
    assert under_dvc(tmp_path / "results/tiny/ddpm/seed0/samples.npy", tmp_path)
    assert not under_dvc(tmp_path / "results/other/samples.npy", tmp_path)


def reseal(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a record and give it a new digest, as someone would who wants it not to be noticed."""
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(sealed(record)))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("manifest.json", lambda r: r["identities"].update(train="0" * 16), "train record in manifest.json is of another run"),
        ("manifest.json", lambda r: r.update(seed=7), "is of seed 7"),
        ("manifest.json", lambda r: r["data"]["splits"]["train"].update(count=1), "digest in manifest.json is not that"),
        ("manifest.json", lambda r: r.pop("identities"), "lacks an entry"),
        ("train.json", lambda r: r.update(seconds=1.0), "train.json is not the record in manifest.json"),
        ("sample.json", lambda r: r.update(count=1), "sample.json is not the record in manifest.json"),
        ("pretrain.json", lambda r: r.update(identity="0" * 16), "pretrain.json is not the record"),
        ("restore.json", lambda r: r.update(train="0" * 16), "restore.json was made with another training"),
    ],
)  # fmt: skip
def test_records_that_do_not_belong_together(
    made: Path, name: str, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    path = run_folder() / name
    before = path.read_bytes()
    reseal(path, change)
    try:
        found = bad(check_run("tiny", read_folder(run_folder())))
    finally:
        path.write_bytes(before)
    assert any(finding.kind == "identities" and said in finding.said for finding in found), found


def test_weights_of_another_run_are_found_even_with_the_right_digest(made: Path) -> None:
    """Both the file and its digests are replaced: only the identity in the weights tells."""
    folder = run_folder("ddpm")
    kept = {name: (folder / name).read_bytes() for name in ("model.safetensors", "train.json", "manifest.json")}
    shutil.copy(run_folder("ddpm", 1) / "model.safetensors", folder)
    digest = json.loads((run_folder("ddpm", 1) / "train.json").read_text())["files"]["model.safetensors"]
    reseal(folder / "train.json", lambda r: r["files"].update({"model.safetensors": digest}))
    train = json.loads((folder / "train.json").read_text())
    reseal(folder / "manifest.json", lambda r: r["records"].update(train=train))
    try:
        (found,) = bad(check_run("tiny", read_folder(folder)))
    finally:
        for name, content in kept.items():
            (folder / name).write_bytes(content)
    assert "model.safetensors is not the weights of run" in found.said


def test_other_code_is_a_note_and_no_fault(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fdm.runs.SAMPLE_SOURCES", ("sampling/shards", "cli"))
    findings = [f for f in check_run("tiny", read_folder(run_folder())) if f.kind == "identities"]
    assert [f.status for f in findings] == ["note"]
    assert "another run, from sample on (code of sample differs)" in findings[0].said


def test_scores_that_the_samples_do_not_give(made: Path) -> None:
    """The published number and its digests are changed together; only computing it again finds that."""
    runs = [read_folder(folder) for folder in sorted(Path("results/tiny").glob("*/seed*"))]
    (first,) = chosen(runs, 1)
    assert chosen(runs[::-1], 2)[0] == first, "always the same"
    kept = {name: (first.folder / name).read_bytes() for name in ("metrics.json", "manifest.json")}
    metrics = json.loads(kept["metrics.json"])
    scores = metrics["features"]["efficientnet-lite0"]
    scores["frechet_distance"] += 2 * tolerance("frechet_distance", scores["frechet_distance"])
    (first.folder / "metrics.json").write_text(json.dumps(metrics))
    digest = sha256(first.folder / "metrics.json")
    reseal(first.folder / "manifest.json", lambda r: r["records"]["evaluate"]["files"].update({"metrics.json": digest}))
    try:
        assert not bad(check_run("tiny", read_folder(first.folder)))
        found = bad(check_suites(["tiny"], Path("results"), Path("nowhere"), 1, "cpu"))
    finally:
        for name, content in kept.items():
            (first.folder / name).write_bytes(content)
    assert [f.kind for f in found] == ["scores"] and "efficientnet-lite0/frechet_distance" in found[0].what


def test_data_that_were_changed(made: Path) -> None:
    images = Path("data/digits8/train/images.npy")
    before = images.read_bytes()
    images.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    try:
        (found,) = bad(check_suites([], Path("results"), Path("nowhere"), 0))
    finally:
        images.write_bytes(before)
    assert found.kind == "data" and "run `fdm data digits8 --force`" in found.said


def test_a_clone_without_large_files_passes(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Git has JSON and tables; weights, arrays, pictures and data are under DVC and were not pulled."""
    for part in ("params", "results", "reports"):
        shutil.copytree(made / part, tmp_path / part)
    for path in (tmp_path / "results").rglob("*.*"):
        if path.suffix != ".json":
            path.unlink()
    monkeypatch.chdir(tmp_path)
    Path("results/tiny.dvc").write_text("outs:\n- path: tiny\n")
    call("check")
    said = capsys.readouterr().out
    assert (
        "✗" not in said
        and "more: not here (dvc pull from a remote that has it)" in said
        and "data/digits8: not here" in said
    )
    call("trace", "tiny", "main", "ddpm", "frechet")
    assert "✓ as recorded" in capsys.readouterr().out
    table = Path("reports/tiny/tables/training.csv")
    table.write_text(table.read_text().replace("DDPM", "DDPN"))
    with pytest.raises(UserError, match="2 things are not as made"):
        call("check")
    said = capsys.readouterr().out
    assert "tables/training.csv: changed since it was built" in said
    assert (
        "tables/training.csv: not what the results give" in said and "`fdm report tiny` writes the report again" in said
    )


def test_the_advice_names_the_files(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run_folder("ddpm") / "training.csv"
    before = path.read_bytes()
    path.write_bytes(before.replace(b"1", b"2", 1))
    try:
        with pytest.raises(UserError, match="check: 1 thing is not as made"):
            call("check", "tiny", "--metrics", "0", "--reports", "nowhere")
    finally:
        path.write_bytes(before)
    said = capsys.readouterr().out
    assert f"✗ {path}: not the file that was made" in said and "✗ 1 of " in said
    assert f"rm -f {path} && snakemake --config suite=tiny -- {path}" in said


def test_nothing_to_check_is_one_line(project: Path) -> None:
    with pytest.raises(UserError, match="results: no results here; `snakemake` makes them"):
        check_suites([], Path("results"), Path("reports"), 1)


# --- the store ------------------------------------------------------------------------------------------------------


def test_a_deleted_copy_comes_back_from_the_store(made: Path) -> None:
    """What `fdm check` advises: delete, and run the same command again."""
    path = run_folder("ddpm") / "model.safetensors"
    before = path.read_bytes()
    path.unlink()
    run = Run(load_experiment("tiny:ddpm"), 0, "cpu", path.parent)
    run.train()
    assert path.read_bytes() == before


# --- publish --------------------------------------------------------------------------------------------------------


def test_a_clone_with_what_is_published_traces_and_checks(made: Path, tmp_path: Path) -> None:
    assert publish("tiny", Path("results/tiny"), tmp_path / "published") == 4
    shutil.copytree("params", tmp_path / "params")
    copied = {path.name for path in tmp_path.glob("published/results/**/*")}
    assert "grid.png" in copied and not copied & {"model.safetensors", "samples.npy"}
    assert [p.parent.name for p in tmp_path.glob("published/results/tiny/ddpm/*/trajectory.npz")] == ["seed0"]
    here = tables_of("tiny")[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        findings = check_everything([], None, None, 1, "cpu")
        assert not bad(findings), bad(findings)
        assert {f.kind for f in findings if f.status == "good"} == {"files", "records", "identities", "report"}
        assert any(f.what.endswith("samples.npy") for f in findings if f.status == "absent")
        results, tables = tables_of("tiny")
        assert {name: as_csv(table) for name, table in tables.items()} == {n: as_csv(t) for n, t in here.items()}
        (cell,) = trace(results, tables["main"], find_rows(tables["main"], "ddpm"), 0).cells
        assert [value.state for value in cell.values] == ["as recorded"] * 2
        for seed in (0, 1):  # trained, not yet scored
            Path(f"published/results/tiny/{EVERYTHING}/seed{seed}/manifest.json").unlink()
        results, tables = tables_of("tiny")
        assert [row.name for row in tables["main"].rows] == ["ddpm"] and any(
            "no run yet" in said for said in results.warnings
        )
        edited = tmp_path / "published/results/tiny/ddpm/seed1/metrics.json"
        edited.write_text(edited.read_text().replace("0.", "1.", 1))
        assert any(f.what.endswith("seed1/metrics.json") for f in bad(check_everything(["tiny"], None, None, 0)))
        with pytest.raises(UserError, match="no results of it here; did you mean 'tiny'"):
            check_everything(["tinny"], None, None, 0)


def test_tables_need_no_pictures(made: Path, tmp_path: Path) -> None:
    publish("tiny", Path("results/tiny"), tmp_path, report=False, pictures=False)
    copied = {path.name for path in tmp_path.rglob("*.*") if path.is_file()}
    assert copied == {name for name in PUBLISHED_FILES if any(Path("results/tiny").rglob(name))}
    whole, bare = (tables_of("tiny", folder)[1] for folder in (None, tmp_path / "results/tiny"))
    assert {name: as_csv(table) for name, table in bare.items()} == {name: as_csv(t) for name, t in whole.items()}


def test_what_is_not_as_made_is_not_published(made: Path, tmp_path: Path) -> None:
    path = run_folder("ddpm") / "metrics.json"
    before = path.read_text()
    path.write_text(before + " ")
    try:
        with pytest.raises(UserError, match=r"metrics.json.*nothing was published"):
            publish("tiny", Path("results/tiny"), tmp_path / "published")
    finally:
        path.write_text(before)
    assert not (tmp_path / "published").exists()
    with pytest.raises(UserError, match="no finished run here"):
        publish("tiny", tmp_path, tmp_path / "published")
