# Shared by all rules: the chosen suite, and what is up to date.
import os
import re
import shlex
import sys
from pathlib import Path

from fdm.config import nearest
from fdm.data import open_store
from fdm.errors import UserError
from fdm.experiment import identity, load_dataset, load_suite
from fdm.pretrained import pretraining_of
from fdm.provenance.folder import record_name
from fdm.restoration import restoration_of
from fdm.runs import Run
from fdm.sources import PACKAGE, source_version
from fdm.store import read_sealed
from fdm.variations import Interpolations, Variations

DEFAULTS = {
    "suite": "digits",
    "overrides": [],
    "threads": 1,
    "devices": 1,
    "shards": 1,
    "gpus": 0,
    "max_hours": 24,
    "timeout": 0,
}
for key in config:
    if key not in DEFAULTS:
        sys.exit(f"error: --config {key}: unknown key{nearest(key, DEFAULTS)}; there are: {', '.join(DEFAULTS)}")
config = {**DEFAULTS, **config}
for key, least in {"threads": 1, "devices": 1, "shards": 1, "gpus": 0, "max_hours": 1, "timeout": 0}.items():
    if not isinstance(config[key], int) or config[key] < least:
        sys.exit(f"error: --config {key}={config[key]}: must be a whole number, at least {least}")

if config["timeout"]:
    # Local jobs know no time limit. A training saves its state when it is asked to end; what does not even do that is killed.
    shell.prefix(f"set -euo pipefail; timeout --verbose --foreground --kill-after=60 {config['timeout']} ")
CHANGES = config["overrides"].split() if isinstance(config["overrides"], str) else list(config["overrides"])

try:
    SUITE = load_suite(str(config["suite"]), CHANGES)
    for e in SUITE.experiments.values():
        e.check_count()  # here every run is scored in the end
    DATASETS = {e.dataset.name: load_dataset(e.dataset.name, CHANGES) for e in SUITE.experiments.values()}
except UserError as error:
    sys.exit(f"error: {error}")
AUTOENCODER = ["autoencoder.safetensors", "pretrain.json"]
PAGE = PACKAGE / "report"  # template, style and script are not Python, but part of the page
PRETRAIN_REPORTED = ["autoencoder.csv", "reconstructions.png", "pretrain.json"]
RUNS = SUITE.runs


def extras(name):
    """Steps beyond its scores that an experiment asks for."""
    e = SUITE.experiments[name]
    asked = {"restore": e.restoration.stages, "vary": e.exploration.vary, "interpolate": e.exploration.interpolate}
    return [step for step, wish in asked.items() if wish]


EXTRAS = [(step, *run) for run in RUNS for step in extras(run[0])]


def overrides(wildcards, input):
    """For the shell. Not what Snakemake calls a changed parameter, as functions of `input` are not."""
    return shlex.join(word for change in CHANGES for word in ("-o", change))


# `fdm` comes from the environment that runs Snakemake, whether or not that is activated.
os.environ.update(PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


wildcard_constraints:
    suite=re.escape(SUITE.name),
    experiment="|".join(map(re.escape, SUITE.experiments)),
    dataset="|".join(map(re.escape, DATASETS)),
    seed=r"\d+",
    shard=r"\d+",
    shards=r"\d+",


# When does a step run again? When the identity of what it would make now (parameters, code, data, and the same of the
# steps before it) is not the one in the record of what it has made. Nothing else counts: `git clone` and `dvc pull` set
# the times of files anew and know nothing of Snakemake's own notes (.snakemake/), and after `dvc checkout` these notes
# are of other results. So inputs are `ancient`, which is never too new, and what is outdated is forced.
def folder(name, seed):
    return f"results/{SUITE.name}/{name}/seed{seed}"


def wanted(step, name, seed):
    """Identity of what a step would make now; None while the data are not prepared, or are to be prepared anew."""
    dataset = SUITE.experiments[name].dataset.name
    if not Path("data", dataset).exists() or data_outdated(dataset):
        return None
    try:
        run = Run(SUITE.experiments[name], int(seed))
        if step == "restore":
            return restoration_of(run, CHANGES).identity
        explorations = {"vary": Variations, "interpolate": Interpolations}
        return explorations[step](run).identity if step in explorations else getattr(run, f"{step}_identity")
    except UserError as error:
        sys.exit(f"error: {error}")


def made(step, name, seed):
    """Identity of what a step has made; None when there is nothing, "" when it cannot be read."""
    try:
        record = read_sealed(Path(folder(name, seed), record_name(step)))
        return record["identities"]["evaluate"] if step == "evaluate" else record["identity"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def pretraining(name):
    """What the autoencoder of an experiment is made of; None where it needs none."""
    needed = pretraining_of(SUITE.experiments[name])
    data = SUITE.experiments[name].dataset
    return needed and identity(data, needed.config, [config.model_dump(mode="json") for config in needed.before])


PRETRAININGS = {name: pretraining(name) for name in SUITE.experiments}


def data_outdated(dataset):
    """Data are there, but damaged or of another description."""
    path = Path("data", dataset)
    try:
        return path.exists() and bool(open_store(path).differences(DATASETS[dataset]))
    except UserError:
        return True


def outdated(step, name, seed):
    if data_outdated(SUITE.experiments[name].dataset.name):
        return True
    before, now = made(step, name, seed), wanted(step, name, seed)
    return None not in (before, now) and before != now


def unless(stale, *paths):
    """``paths`` as an input: up to date whatever their times, or to be made again (as --forcerun does)."""
    if not stale:
        return [ancient(path) for path in paths]
    workflow.dag.forcefiles.update(paths)
    return list(paths)


def data(*datasets):
    """Input: manifests of prepared data."""
    return [path for name in datasets for path in unless(data_outdated(name), f"data/{name}/manifest.json")]


def files(step, name, seed, *names):
    """Input: files that a step of a run makes."""
    return unless(outdated(step, name, seed), *(f"{folder(name, seed)}/{file}" for file in names))


def inputs(step, **earlier):
    """Input of a step: the data, and files of earlier steps of the same run."""

    def function(wildcards):
        run = wildcards.experiment, wildcards.seed
        files(step, *run, record_name(step))  # forces the step, if it must be
        paths = data(SUITE.experiments[wildcards.experiment].dataset.name)
        if step != "pretrain" and PRETRAININGS[wildcards.experiment]:
            paths += files("pretrain", *run, *AUTOENCODER)
        return paths + [path for before, names in earlier.items() for path in files(before, *run, *names)]

    return function


def shards(step):
    """Input of a step of a run: marks of its shards, each a job, that hold what the shards were made for. None without shards.

    The marks go when the step has ended. What shards make lies in work/; the step makes what it does not find there.
    """

    def function(wildcards):
        if config["shards"] == 1:
            return []
        run = wildcards.experiment, wildcards.seed
        now = wanted(step, *run)
        marks = [f"{folder(*run)}/.{step}-{n}-of-{config['shards']}" for n in range(1, config["shards"] + 1)]
        return [
            path
            for mark in marks
            for path in unless(Path(mark).exists() and Path(mark).read_text().strip() != now, mark)
        ]

    return function


def training(name):
    """What the training of an experiment is made of."""
    e = SUITE.experiments[name]
    return identity(e.dataset, e.network, e.method, e.training, e.conditioning)


TRAININGS = {name: training(name) for name in SUITE.experiments}


def shared(step, parts, *names):
    """Input of a step: files of a run further up in the suite that has the same ``parts``; they are then only copied."""

    def function(wildcards):
        own, seed = wildcards.experiment, int(wildcards.seed)
        first = next((name for name, other in RUNS if other == seed and parts[name] == parts[own]), own)
        return [] if first == own else files(step, first, seed, *names)

    return function


def ilvr_baseline(wildcards):
    """Input of a restoration: the training of its baseline, where that is in this suite."""
    suite, _, name = (SUITE.experiments[wildcards.experiment].restoration.baseline or "").rpartition(":")
    if suite != SUITE.name or name not in SUITE.experiments:
        return []
    return files("train", name, wildcards.seed, "model.safetensors", "train.json")


def metrics(_):
    """Input: the scores of every run, and what else is asked of it."""
    scores = [path for run in RUNS for path in files("evaluate", *run, "metrics.json")]
    return scores + extra_files()


def extra_files():
    """Restorations, variations and interpolations of the runs that are asked for them."""
    return [path for step, *run in EXTRAS for path in files(step, *run, f"{step}.json", f"{step}.png")]


def report_identity(wildcards=None):
    titles = [SUITE.title, *(experiment.title for experiment in SUITE.experiments.values())]
    ablations = [ablation.model_dump(mode="json") for ablation in SUITE.ablations.values()]
    claims = Path("params/claims.yaml")
    said = claims.read_text(encoding="utf-8") if claims.is_file() else ""
    steps = [("evaluate", *run) for run in RUNS] + EXTRAS
    runs = [wanted(*step) or made(*step) for step in steps]
    page = [path.read_text() for path in sorted(PAGE.iterdir()) if path.suffix in (".j2", ".css", ".js")]
    return identity(titles, ablations, said, runs, source_version("report"), page)


def report_page(_):
    """Input: the report."""
    record = Path("reports", SUITE.name, ".identity")
    stale = record.parent.exists() and (not record.exists() or record.read_text().strip() != report_identity())
    return unless(stale, f"reports/{SUITE.name}/index.html")
