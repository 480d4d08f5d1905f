"""Suites and experiments: YAML in ``params/`` resolved into typed, frozen descriptions with an identity.

A suite names a dataset, a network, budgets, and experiments; each experiment names a method and may override any key.
Building blocks live in ``params/{datasets,networks,methods}/<name>.yaml``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, SerializeAsAny, ValidationError, model_validator

from fdm.config import (
    AutoencoderConfig,
    ConditioningConfig,
    DatasetConfig,
    EvaluationConfig,
    ExplorationConfig,
    Frozen,
    Name,
    NetworkConfig,
    RestorationConfig,
    SamplingConfig,
    Seed,
    TrainingConfig,
    explain,
    nearest,
    plain_name,
)
from fdm.discover import plugins
from fdm.errors import UserError
from fdm.grids import Ablation, expand, merge, nested
from fdm.plain import read_yaml
from fdm.store import json_sha256

PARAMS = Path("params")
Made = TypeVar("Made")
BLOCKS: dict[str, type[BaseModel]] = {
    "dataset": DatasetConfig,
    "network": NetworkConfig,
    "training": TrainingConfig,
    "sampling": SamplingConfig,
    "evaluation": EvaluationConfig,
    "conditioning": ConditioningConfig,
    "restoration": RestorationConfig,
    "exploration": ExplorationConfig,
}
NAMED = ("dataset", "network", "method")
"""Blocks that have files of their own in ``params/``."""
OPTIONAL = frozenset({"conditioning"})
"""Blocks that an experiment may do without."""


class Experiment(Frozen):
    """Everything that defines one run but its seed. ``title`` is for people and is not part of the identity."""

    name: Name
    title: str
    dataset: DatasetConfig
    network: NetworkConfig
    method: SerializeAsAny[Frozen]
    training: TrainingConfig
    sampling: SamplingConfig
    evaluation: EvaluationConfig
    conditioning: ConditioningConfig | None = None
    restoration: RestorationConfig = Field(default_factory=RestorationConfig)
    exploration: ExplorationConfig = Field(default_factory=ExplorationConfig)

    @property
    def classes(self) -> int:
        """Number of classes of a conditional experiment; 0 of any other."""
        return self.conditioning.classes if self.conditioning else 0

    @property
    def holdable(self) -> dict[int, int]:
        """Stages at whose start the reverse process can be held, and how many of its steps lie before that."""
        from fdm.processes import build_process

        process = build_process(self.method, self.dataset.channels, self.dataset.resolution)
        plan = enumerate(process.plan(self.sampling.steps, self.sampling.spacing))
        found = {event.stage: n for n, event in plan if 0 < event.t == process.stages[event.stage].start}
        return dict(sorted(found.items()))

    @property
    def scored(self) -> bool:
        """Whether there will be enough samples for scores; fewer are for the eye alone."""
        return self.sampling.count >= self.evaluation.least[0]

    def check_count(self) -> None:
        """Raise UserError where samples are too few to be scored. A validator does not: a few may be drawn to look at them."""
        least, why = self.evaluation.least
        if not self.scored:
            raise UserError(
                f"{self.name}: sampling.count={self.sampling.count} is too few to be scored; {why} needs {least}"
            )

    @model_validator(mode="after")
    def _fits(self) -> Experiment:
        """Reject combinations that no run could survive, before anything is computed."""
        from fdm.networks.build import check_network
        from fdm.processes import build_process

        process = build_process(self.method, self.dataset.channels, self.dataset.resolution)
        check_network(self.network, self.dataset.resolution, process)
        process.check_solver(self.sampling.solver)
        process.plan(self.sampling.steps, self.sampling.spacing)
        for stage in self.restoration.stages:
            process.measurement(stage)
        stages = self.holdable
        for stage in self.exploration.vary:
            if stage not in stages:
                known = f"stages: {', '.join(map(str, stages))}" if stages else "it has one stage"
                raise ValueError(f"nothing can be held at stage {stage}; {known}")
        if self.exploration.interpolate:
            process.check_solver("ddim")
        return self

    @model_validator(mode="after")
    def _guidable(self) -> Experiment:
        """Reject sampling that asks for a class, or for a network, that training does not know."""
        guidance, wanted = self.sampling.guidance, self.sampling.classes
        if self.conditioning is None:
            if guidance != 1 or wanted is not None:
                key = "classes" if guidance == 1 else f"guidance={guidance:g}"
                raise ValueError(f"sampling.{key} needs a class-conditional experiment; set conditioning.classes")
            return self
        if wanted is not None and max(wanted) >= self.classes:
            raise ValueError(
                f"sampling.classes: there is no class {max(wanted)}; conditioning.classes={self.classes} are 0 to {self.classes - 1}"
            )
        if wanted is not None and guidance == 0:
            raise ValueError(
                "sampling.classes has no meaning with sampling.guidance=0, which tells the network no class"
            )
        if self.conditioning.dropout == 0 and guidance != 1:
            raise ValueError(
                f"sampling.guidance={guidance:g} needs the unconditional network too, which conditioning.dropout=0 never "
                "trains; set it to 0.1, or guidance to 1"
            )
        if self.conditioning.dropout == 1 and guidance != 0:
            raise ValueError(
                f"sampling.guidance={guidance:g} needs a network that knows classes, and conditioning.dropout=1 hides them "
                "all; set it to 0.1, or guidance to 0"
            )
        return self


class _SuiteEntry(Frozen):
    method: Name
    title: str | None = None
    seeds: tuple[Seed, ...] | None = Field(default=None, min_length=1)
    overrides: dict[str, Any] = Field(default_factory=dict)


class SuiteFile(Frozen):
    """A suite as its file has it, nothing resolved."""

    title: str
    dataset: Name
    network: Name
    seeds: tuple[Seed, ...] = (0,)
    training: dict[str, Any] = Field(default_factory=dict)
    sampling: dict[str, Any] = Field(default_factory=dict)
    evaluation: dict[str, Any] = Field(default_factory=dict)
    conditioning: dict[str, Any] | None = None
    restoration: dict[str, Any] = Field(default_factory=dict)
    exploration: dict[str, Any] = Field(default_factory=dict)
    experiments: dict[Name, _SuiteEntry]
    ablations: dict[str, Ablation] = Field(default_factory=dict)


class Suite(Frozen):
    """A named set of experiments that are compared with each other, in the order of the file, those of grids last."""

    name: str
    title: str
    seeds: dict[str, tuple[int, ...]]
    """Of each experiment: its own, or those of the suite."""
    experiments: dict[str, Experiment]
    ablations: dict[str, Ablation]

    @property
    def runs(self) -> list[tuple[str, int]]:
        """Experiments with their seeds."""
        return [(name, seed) for name, seeds in self.seeds.items() for seed in seeds]


class Outline(Frozen):
    """What a suite's file says of it, before anything is resolved: its dataset and network, which experiments may override, and numbers."""

    name: str
    title: str
    dataset: str
    network: str
    experiments: int
    runs: int


def outlines() -> list[Outline]:
    """Of every suite in ``params/suites``, by name.

    Raises:
        UserError: a file is no suite, or there is no ``params`` here.
    """
    names = sorted(path.stem for path in (PARAMS / "suites").glob("*.yaml"))
    if not names:
        raise UserError(f"{PARAMS}/suites: there is no suite in {Path.cwd()}; run `fdm` at the root of the project")
    return [_outline(*read_suite(name)) for name in names]


def _outline(path: Path, file: SuiteFile) -> Outline:
    runs = sum(len(entry.seeds or file.seeds) for entry in file.experiments.values())
    numbers = {"experiments": len(file.experiments), "runs": runs}
    return Outline(name=path.stem, title=file.title, dataset=file.dataset, network=file.network, **numbers)


def suite_file(suite: str) -> Path:
    """Where a suite's file is, whose stem is its name: ``params/suites/<suite>.yaml``, or ``suite`` itself if it ends in ``.yaml`` or ``.yml``.

    Raises:
        UserError: ``suite`` is neither such a path nor a plain name.
    """
    return Path(suite) if suite.endswith((".yaml", ".yml")) else _file("suites", suite)


def read_suite(suite: str) -> tuple[Path, SuiteFile]:
    """A suite's file and what it says, with the experiments of its grids. No experiment is resolved, no method imported.

    Raises:
        UserError: there is no such file, or it is no suite; the message names file and key.
    """
    path = suite_file(suite)
    try:
        raw = _read(path, "suite")
        file = SuiteFile.model_validate(raw)
        if file.ablations:
            file = SuiteFile.model_validate(expand(raw, str(path), PARAMS))
    except ValidationError as error:
        raise explain(error, str(path), [SuiteFile, _SuiteEntry, Ablation]) from None
    if not file.experiments or not file.seeds:
        raise UserError(f"{path}: a suite needs at least one experiment and one seed")
    return path, file


def load_suite(suite: str, overrides: Sequence[str] = ()) -> Suite:
    """Read ``params/suites/<suite>.yaml`` (or a path to a suite file) and resolve every experiment in it.

    Args:
        suite: a name below ``params/suites`` or a path that ends in ``.yaml``.
        overrides: ``key=value`` strings that apply to every experiment, for example ``training.images=1000`` or ``network=lean32``.

    Raises:
        UserError: unknown suite, block or key, wrong type, or a contradiction; the message names file and key.
    """
    path, file = read_suite(suite)
    return Suite(
        name=path.stem,
        title=file.title,
        seeds={name: entry.seeds or file.seeds for name, entry in file.experiments.items()},
        experiments={name: _resolve(path, file, name, overrides) for name in file.experiments},
        ablations=file.ablations,
    )


def load_experiment(reference: str, overrides: Sequence[str] = ()) -> Experiment:
    """Resolve ``SUITE:EXPERIMENT``, or read a file that ``fdm show --yaml`` wrote (one resolved experiment)."""
    if ":" in reference:
        suite_name, name = reference.rsplit(":", 1)
        path, file = read_suite(suite_name)
        if name not in file.experiments:
            raise UserError(
                f"{reference}: suite {path.stem!r} has no experiment {name!r}{nearest(name, file.experiments)}; "
                f"it has: {', '.join(file.experiments)}"
            )
        return _resolve(path, file, name, overrides)
    if not reference.endswith((".yaml", ".yml")):
        raise UserError(f"{reference}: give SUITE:EXPERIMENT (for example digits:ddpm) or a resolved experiment file")
    raw = _read(Path(reference), "experiment")
    if isinstance(raw.get("experiments"), Mapping):
        raise UserError(
            f"{reference}: a suite, not an experiment; name one of it: {reference}:{next(iter(raw['experiments']), '')}"
        )
    return _overridden(experiment_from_dict, raw, overrides, reference, reference)


def load_methods() -> dict[str, Frozen]:
    """Every method of ``params/methods``, by its file's name."""
    names = sorted(path.stem for path in (PARAMS / "methods").glob("*.yaml"))
    return {name: _method(_block("methods", name), f"{PARAMS}/methods/{name}.yaml") for name in names}


def load_dataset(name: str, overrides: Sequence[str] = ()) -> DatasetConfig:
    """Read ``params/datasets/<name>.yaml``; overrides are ``dataset.key=value``."""
    path = _file("datasets", name)
    raw = {"dataset": {"name": name, **_block("datasets", name)}}

    def make(raw: dict[str, Any], where: str) -> DatasetConfig:
        return DatasetConfig.model_validate(_validate(DatasetConfig, raw["dataset"], where))

    return _overridden(make, raw, overrides, str(path), name)


def experiment_from_dict(raw: Mapping[str, Any], where: str) -> Experiment:
    """Validate a resolved experiment, each block with an error that names its keys."""
    blocks: dict[str, Any] = dict(raw)
    for key, model in BLOCKS.items():
        if key in OPTIONAL and blocks.get(key) is None:
            continue
        blocks[key] = _validate(model, blocks.get(key, {}), f"{where}: {key}")
    blocks["method"] = _method(blocks.get("method", {}), f"{where}: method")
    try:
        return Experiment.model_validate(blocks)
    except ValidationError as error:
        raise explain(error, where, [Experiment]) from None


def identity(*parts: Any) -> str:
    """First 16 hex digits of the SHA-256 of the canonical JSON of ``parts``; models are dumped with every default."""
    plain = [part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in parts]
    return json_sha256(plain)[:16]


def json_schema() -> dict[str, Any]:
    """JSON schema of a resolved experiment, with one alternative per method."""
    schema = Experiment.model_json_schema()
    definitions = schema.setdefault("$defs", {})
    for room, kind in (("processes", "method"), ("transforms", "transform")):
        for name, module in plugins(room).items():
            part = module.Config.model_json_schema(ref_template="#/$defs/{model}")
            definitions.update(part.pop("$defs", {}))
            definitions[f"{kind}-{name}"] = part
    schema["properties"]["method"] = {"oneOf": [{"$ref": f"#/$defs/method-{name}"} for name in plugins("processes")]}
    # The models say only that a transform is some frozen model; the files say which.
    definitions["Frozen"] = {"oneOf": [{"$ref": f"#/$defs/transform-{name}"} for name in plugins("transforms")]}
    return schema


def _resolve(path: Path, file: SuiteFile, name: str, overrides: Sequence[str]) -> Experiment:
    entry = file.experiments[name]
    raw: dict[str, Any] = {
        "name": name,
        "title": entry.title or name,
        "dataset": {"name": file.dataset, **_block("datasets", file.dataset)},
        "network": _block("networks", file.network),
        "method": _block("methods", entry.method),
        "training": file.training,
        "sampling": file.sampling,
        "evaluation": file.evaluation,
        "conditioning": file.conditioning,
        "restoration": file.restoration,
        "exploration": file.exploration,
    }
    where = f"{path}: experiments.{name}"
    for key in entry.overrides:
        if key not in (*BLOCKS, "method"):
            raise UserError(
                f"{where}.overrides: {key}: unknown key{nearest(key, [*BLOCKS, 'method'])}; "
                f"allowed here: {', '.join([*BLOCKS, 'method'])}"
            )
    merged = merge(raw, entry.overrides)
    if isinstance(merged["method"], Mapping):
        merged["method"] = _name_autoencoders(
            merged["method"], f"{where}: method"
        )  # overrides may reach into the block
    return _overridden(experiment_from_dict, merged, overrides, where, f"{path.stem}:{name}")


def _block(kind: str, name: str) -> dict[str, Any]:
    path = _file(kind, name)
    raw = _read(path, kind.removesuffix("s"))
    # Validate the file on its own, so that an error names it and not the suite that uses it.
    if kind == "methods":
        raw = _name_autoencoders(raw, str(path))
        _method(raw, str(path))
    else:
        key = kind.removesuffix("s")
        _validate(BLOCKS[key], {"name": name, **raw} if key == "dataset" else raw, str(path))
    return raw


def _validate(model: type[BaseModel], raw: Any, where: str) -> BaseModel:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise explain(error, where, [model]) from None


def _method(raw: Any, where: str) -> Frozen:
    if not isinstance(raw, Mapping):
        raise UserError(f"{where}: expected keys and values, found {type(raw).__name__}")
    known = plugins("processes")
    name = raw.get("process")
    if not isinstance(name, str) or name not in known:
        raise UserError(f"{where}: process: must be one of {', '.join(known)}, not {name!r}{nearest(str(name), known)}")
    raw = _name_autoencoders(raw, where)
    model = known[name].Config
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise explain(error, where, [model]) from None


def _name_autoencoders(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``raw`` (a method or one of its transforms) with every ``autoencoder: NAME`` replaced by params/autoencoders/NAME.yaml."""
    found = dict(raw)
    block = found.get("autoencoder")
    if isinstance(block, str):
        path = _file("autoencoders", block)
        found["autoencoder"] = _read(path, "autoencoder")
        _validate(AutoencoderConfig, found["autoencoder"], str(path))
    elif isinstance(block, Mapping):
        _validate(AutoencoderConfig, block, f"{where}: autoencoder")
    if isinstance(found.get("transforms"), list):
        found["transforms"] = [
            _name_autoencoders(item, f"{where}: transforms.{index}") if isinstance(item, Mapping) else item
            for index, item in enumerate(found["transforms"])
        ]
    return found


def _file(kind: str, name: str) -> Path:
    try:
        return PARAMS / kind / f"{plain_name(name)}.yaml"
    except ValueError as error:
        raise UserError(f"{PARAMS / kind}: {name!r}: {error}") from None


def _read(path: Path, what: str) -> dict[str, Any]:
    try:
        raw = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        names = sorted(found.stem for found in path.parent.glob("*.yaml"))
        if PARAMS in path.parents and not PARAMS.is_dir():
            raise UserError(
                f"{path}: there is no folder {PARAMS} in {Path.cwd()}; run `fdm` at the root of the project"
            ) from None
        raise UserError(
            f"{path}: no such {what} file{nearest(path.stem, names)}; there are: {', '.join(names) or 'none'}"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected keys and values at the top level, found {type(raw).__name__}")
    return raw


def _overridden(
    make: Callable[[dict[str, Any], str], Made], raw: dict[str, Any], overrides: Sequence[str], where: str, name: str
) -> Made:
    """What ``make`` makes of ``raw`` with the overrides.

    Args:
        make: takes keys and values, and where they are from, for errors.
        where: file that ``raw`` is from.
        name: of what is being made.

    Raises:
        UserError: something is wrong in the file; or with overrides: names those without which all would be well.
    """
    try:
        return make(_override(raw, overrides), where)
    except UserError as error:
        said, blamed = str(error), list(overrides)
    for item in overrides:
        rest = [other for other in blamed if other is not item]
        try:
            make(_override(raw, rest), where)
        except UserError as error:
            if str(error) == said:
                blamed = rest
    place = f"{' '.join(f'-o {item}' for item in blamed)}: {name}" if blamed else where
    return make(_override(raw, blamed), place)


def _override(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """``raw`` with each ``key=value``; dataset, network and method may be named: ``network=lean32`` stands for that file, whose keys others change."""
    for item in sorted(
        overrides, key=lambda item: item.partition("=")[0] not in NAMED
    ):  # a whole block before its keys
        key, separator, text = item.partition("=")
        if not separator or not key:
            raise UserError(f"-o {item}: expected key=value, for example training.images=1000")
        try:
            value: Any = read_yaml(text)
        except ValueError as error:
            raise UserError(f"-o {item}: the value is not valid YAML: {error}") from None
        change = nested(key, value)
        unknown = next(iter(change))
        if unknown not in (*BLOCKS, "method", "title"):
            raise UserError(f"-o {item}: unknown key {unknown!r}{nearest(unknown, [*BLOCKS, 'method'])}")
        if key in NAMED and isinstance(value, str):
            try:
                block = _block(f"{key}s", value)
            except UserError as error:
                raise UserError(f"-o {item}: {error}") from None
            raw = {**raw, key: {"name": value, **block} if key == "dataset" else block}
        else:
            raw = merge(raw, change)
    return raw
