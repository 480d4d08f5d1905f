"""One and four shards on the command line: the same samples and scores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fdm.cli import app
from fdm.evaluation.features import BATCH

COUNT = 230
OPTIONS = [
    word
    for change in (
        "training.images=128", f"sampling.count={COUNT}", "sampling.steps=2", "sampling.batch=32",
        "evaluation.reference_limit=180", "evaluation.kid_subsets=2", "evaluation.kid_subset_size=50",
    )
    for word in ("-o", change)
]  # fmt: skip


def fdm(verb: str, *words: str) -> str:
    result = CliRunner().invoke(app, [verb, "smoke:ddpm", *OPTIONS, *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def features() -> list[Path]:
    """Of the samples, a file for each batch, as they lie in the run store."""
    return list(Path("work").glob("evaluate-*/features/*/*"))


def test_one_and_four_shards_give_equal_scores(smoke: Path) -> None:
    fdm("train")
    for verb in ("sample", "evaluate"):
        for shard in ("3/4", "1/4", "4/4", "2/4"):
            assert f"shard {shard}" in fdm(verb, "--shard", shard, "--to", "four")
        if verb == "evaluate":
            assert len(features()) == -(-COUNT // BATCH)
            assert not Path("four/metrics.json").exists()
        fdm(verb, "--to", "four")
    assert not features(), "kept until there are scores"
    assert "frechet_distance" in fdm("evaluate", "--shard", "1/4", "--to", "four"), "done: says so"

    for folder in [*Path("work").glob("sample-*"), *Path("work").glob("evaluate-*"), Path("work/reference")]:
        shutil.rmtree(folder)
    fdm("sample", "--to", "one")
    fdm("evaluate", "--shard", "1/1", "--to", "one")
    for name in ("samples.npy", "metrics.json"):
        assert Path("one", name).read_bytes() == Path("four", name).read_bytes()
    identities = [json.loads(Path(name, "manifest.json").read_text())["identities"] for name in ("one", "four")]
    assert identities[0] == identities[1]


@pytest.mark.parametrize("verb", ["sample", "evaluate"])
@pytest.mark.parametrize(
    ("shard", "message"), [("5/4", "numbered 1/N to N/N"), ("1/0", "numbered"), ("one", "expected I/N")]
)
def test_no_such_shard(smoke: Path, verb: str, shard: str, message: str) -> None:
    from fdm.errors import UserError

    with pytest.raises(UserError, match=message):
        fdm(verb, "--shard", shard)
