"""A report that no longer says what the results say is found out; two folders of results are compared."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from test_report import edit, make_results

from fdm.errors import UserError
from fdm.report import build, check
from fdm.report.audit import differences
from fdm.report.compare import compare, difference
from fdm.report.numbers import estimate
from fdm.report.table import Cell, Header, Row, Table
from fdm.report.write import as_latex


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results and their report; not to be changed."""
    folder = tmp_path_factory.mktemp("audit")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        build("demo", make_results(folder, seeds=(0, 1)), folder / "reports/demo")
    return folder


@pytest.fixture
def copy(reported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that may be changed, as the working directory."""
    shutil.copytree(reported, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) >= 1, old
    path.write_text(text.replace(old, new, 1))


def test_the_record_lists_runs_and_files(reported: Path) -> None:
    report = reported / "reports/demo"
    record = json.loads((report / "manifest.json").read_text())
    names = {str(path.relative_to(report)) for path in report.rglob("*") if path.is_file()} - {"manifest.json"}
    assert set(record["files"]) == names
    for name, digest in record["files"].items():
        assert hashlib.sha256((report / name).read_bytes()).hexdigest() == digest
    run = record["runs"]["fdm-ds-2/seed1"]
    folder = reported / "results/demo/fdm-ds-2/seed1"
    assert run["identities"] == json.loads((folder / "manifest.json").read_text())["identities"]
    assert run["files"]["metrics.json"] == hashlib.sha256((folder / "metrics.json").read_bytes()).hexdigest()


def hand_edit(name: str) -> Callable[[Path], str]:
    """Change DDPM's FLOPs per sample, 9.10 GFLOP, in one of the table's formats."""

    def change(report: Path) -> str:
        if name.endswith(".csv"):
            replace(report / name, "9100000000.0", "8100000000.0")
            return rf"{name}: ddpm, flops_per_sample: says '8100000000.0', results give '9100000000.0'"
        replace(report / name, "9.10", "8.10")
        where = "index.html, table-main" if name == "index.html" else name
        return rf"{where}: DDPM, FLOPs.*: says '8\.10', results give '9\.10'"

    return change


def another_picture(report: Path) -> str:
    path = report / "figures/quality.png"
    path.write_bytes(path.read_bytes() + b" ")
    return r"figures/quality.png: not what the results give \(changed since it was built\)"


def other_words(report: Path) -> str:
    replace(report / "index.html", "one network and one training budget", "the best network and budget")
    return r"index.html: not what the results give"


def lost_file(report: Path) -> str:
    (report / "tables/main.tex").unlink()
    return r"tables/main.tex: missing"


def another_row(report: Path) -> str:
    path = report / "tables/main.csv"
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")
    return r"tables/main.csv: has other rows or columns"


def another_run(report: Path) -> str:
    edit(
        report / "manifest.json",
        lambda content: content["runs"]["ddpm/seed0"]["identities"].update(train="0" * 16),
    )
    return r"run ddpm/seed0: the results hold another run"


@pytest.mark.parametrize(
    "change",
    [
        *(hand_edit(name) for name in ("tables/main.csv", "tables/main.md", "tables/main.tex", "index.html")),
        another_picture,
        other_words,
        lost_file,
        another_row,
        another_run,
    ],
)
def test_every_change_is_named(reported: Path, copy: Path, change: Callable[[Path], str]) -> None:
    fresh, report = reported / "reports/demo", copy / "reports/demo"
    (report / "tables/.snakemake_timestamp").touch()
    assert list(differences(report, fresh)) == []
    said = change(report)
    found = list(differences(report, fresh))
    assert len(found) == 1 and re.match(said, found[0]) and "\n" not in found[0], found


def test_a_digest_that_was_adjusted_does_not_help(reported: Path, copy: Path) -> None:
    report = copy / "reports/demo"
    said = hand_edit("tables/main.csv")(report)
    digest = hashlib.sha256((report / "tables/main.csv").read_bytes()).hexdigest()
    edit(report / "manifest.json", lambda content: content["files"].update({"tables/main.csv": digest}))
    assert re.match(said, next(differences(report, reported / "reports/demo")))


def test_check_from_the_command_line(copy: Path, fdm: Any) -> None:
    results, report = copy / "results/demo", copy / "reports/demo"
    before = {path: path.read_bytes() for path in report.rglob("*") if path.is_file()}
    edit(results / "ddpm/seed0/metrics.json", lambda c: c["features"]["efficientnet-lite0"].update(precision=0.99))
    done = fdm("report", "demo", "--check")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert "run ddpm/seed0: metrics.json is not the file that the report was built from" in lines
    assert any(re.match(r"tables/runs.csv: ddpm, efficientnet-lite0/precision: says .* give '0.99'", x) for x in lines)
    assert re.search(r"^error: .*differences from results/demo", done.stderr, re.MULTILINE)
    assert {path: path.read_bytes() for path in report.rglob("*") if path.is_file()} == before, "it changes nothing"
    assert sorted(path.name for path in (copy / "reports").iterdir()) == [".demo.lock", "demo"]


def test_check_without_a_report(copy: Path) -> None:
    shutil.rmtree(copy / "reports/demo")
    with pytest.raises(UserError, match="no report.*run `fdm report demo` first"):
        check("demo", copy / "results/demo", copy / "reports/demo")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"files": {}}',
        '{"runs": {}, "files": {"index.html": 1}}',
        '{"runs": {"ddpm/seed0": {"identities": [], "files": {}}}, "files": {}}',
        b"\xff",
    ],
)
def test_a_record_that_cannot_be_read_is_one_line(tmp_path: Path, content: str | bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(
        UserError, match=r"manifest\.json: missing or damaged, so there is no report to check"
    ) as caught:
        list(differences(tmp_path, tmp_path))
    assert "\n" not in str(caught.value)


def test_difference_is_welchs() -> None:
    """By Welch-Satterthwaite's degrees of freedom; with one side that does not scatter it is Student's of the other."""
    rng = np.random.default_rng(0)
    before, after = rng.normal(3, 1, 5).tolist(), rng.normal(4, 0.2, 3).tolist()
    known = difference(before, after)
    parts = np.array([np.var(before, ddof=1) / 5, np.var(after, ddof=1) / 3])
    half = stats.t.ppf(0.975, parts.sum() ** 2 / (parts**2 / (4, 2)).sum()) * np.sqrt(parts.sum())
    assert (known.mean, known.half) == pytest.approx((np.mean(after) - np.mean(before), half))
    with warnings.catch_warnings(action="error"):
        assert difference([1.0, 1.0], after).half == pytest.approx(estimate(after).half)
        assert difference([0.1] * 3, [0.3] * 3).half == 0
    assert difference([1.0], [2.0, 3.0]).half is None and difference([1.0, 1.0], [2.0, 2.0]).half == 0


def test_compare_names_what_changed_and_nothing_else(copy: Path, fdm: Any) -> None:
    shutil.copytree(copy / "results", copy / "old")
    numbers, settings = compare(copy / "old/demo", copy / "results/demo")
    assert numbers.rows == () and settings.rows == ()
    for seed in (0, 1):
        folder = copy / "results/demo/fdm-ds-2" / f"seed{seed}"
        edit(folder / "cost.json", lambda content: content.update(parameters=900_000))
        edit(folder / "manifest.json", lambda content: content["experiment"]["network"].update(channels=24))
    shutil.rmtree(copy / "results/demo/fdm-ds-3")
    done = fdm("report", "--compare", "old/demo", "results/demo", "--to", "changes")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((copy / "changes/changes.csv").open()))
    changed = [row for row in rows if row["experiment"] == "fdm-ds-2"]
    assert [row["quantity"] for row in changed] == ["parameters"]
    assert [float(changed[0][key]) for key in ("before", "after", "difference")] == [812_345, 900_000, 87_655]
    assert {row["experiment"] for row in rows} == {"fdm-ds-2", "fdm-ds-3"}
    assert all(not row["after"] and not row["difference"] for row in rows if row["experiment"] == "fdm-ds-3")
    settings_rows = list(csv.DictReader((copy / "changes/changed-settings.csv").open()))
    assert ("fdm-ds-2", "network.channels", "16", "24") in [
        (row["experiment"], row["setting"], row["before"], row["after"]) for row in settings_rows
    ]
    assert "network.channels" in done.stdout and "900" in done.stdout


def test_an_interval_that_rounds_to_nothing_is_not_printed_as_zero(copy: Path) -> None:
    shutil.copytree(copy / "results", copy / "old")
    for seed, value in enumerate((0.9, 0.900001)):
        path = copy / f"results/demo/ddpm/seed{seed}/metrics.json"
        edit(path, lambda content, x=value: content["features"]["efficientnet-lite0"].update(precision=x))
    (row,) = compare(copy / "old/demo", copy / "results/demo")[0].rows
    assert (row.cells[2].text, row.cells[2].spread) == ("0.900", "± <0.001")


COMMANDS = {
    "begin", "bottomrule", "cdot", "cmidrule", "dots", "end", "le", "lambda", "midrule", "multicolumn", "pm", "textasciicircum",
    "textasciitilde", "textbackslash", "textbf", "times", "to", "toprule", "varepsilon",
}  # fmt: skip


def test_latex_is_a_tabular_that_compiles(reported: Path) -> None:
    title = 'ε-prediction, λ ≤ 3: 100 % & "x"_{2}^2 ~\\input{/etc/passwd} <#>'
    cells = (Cell("−1.5", None, "± <0.1", True), Cell("2 → 3 × 10"))
    made = Table(
        "t", "t", "100 %\nof it", (Header("a", "A", "×10⁻³", "left"), Header("b", "B")), (Row("n", title, 1, cells),)
    )
    texts = [path.read_text() for path in sorted((reported / "reports/demo/tables").glob("*.tex"))] + [as_latex(made)]
    assert len(texts) > 4
    for text in texts:
        comment, *body = text.rstrip("\n").split("\n")
        assert comment.startswith("% ") and body[0].startswith(r"\begin{tabular}{l") and body[-1] == r"\end{tabular}"
        columns = len(body[0].removeprefix(r"\begin{tabular}{").removesuffix("}"))
        assert set(re.findall(r"\\([a-zA-Z]+)", "\n".join(body))) <= COMMANDS
        for line in body:
            bare = re.sub(r"\\[&%$#_{}\\]", "", line)
            assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0, line
            assert not set(bare) & set("%#_~") and all(c.isascii() or c in "éöü" for c in bare), line
            assert "^" not in re.sub(r"\$[^$]*\$", "", bare), line
            if line.endswith(r"\\"):
                spans = [int(span) for span in re.findall(r"multicolumn\{(\d+)\}", line)]
                assert bare.count("&") + 1 + sum(spans) - len(spans) == columns, line
    assert r"A ($\times 10^{-3}$)" in texts[-1] and r"\textbf{$-$1.5 $\pm$ $<$0.1}" in texts[-1]
