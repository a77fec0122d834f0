"""One file, ``curbside.yaml``, as strict frozen models.

Unknown keys are errors; every error names the key, the value, the valid values and
the line.  The JSON Schema in ``docs/curbside.schema.json`` is generated from here.
``Config.digest`` is stamped into every decision and every evaluation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from curbside.errors import ConfigError
from curbside.storage import write_text
from curbside.study import content_hash

__all__ = [
    "AnyPolicy",
    "AveragePolicy",
    "CascadePolicy",
    "CompetencePolicy",
    "Config",
    "ConsultPolicy",
    "EncoderConfig",
    "FleetConfig",
    "IndexConfig",
    "PolicyConfig",
    "PolicyProvenance",
    "PrivacyConfig",
    "ProjectionConfig",
    "StoresConfig",
    "TierPolicy",
    "load_config",
    "load_model",
    "load_policy",
    "load_policy_file",
    "save_config",
    "save_policy",
]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ProjectionConfig(_Strict):
    """The learned projection of the encoder's features, fitted on ``train`` labels."""

    kind: Literal["lda", "none"] = "lda"
    """``lda``: within-class whitening then discriminant axes, with shrinkage."""
    shrinkage: float = Field(default=0.1, ge=0, le=1)
    """Weight of the scaled identity in the within-class covariance."""
    dimensions: int = Field(default=64, ge=2, le=256)
    """Most axes kept."""
    invariance: float = Field(default=6.0, ge=0, le=100)
    """Weight of what compression, noise, a trimmed or shifted frame change in the features, as
    spread within a class; 0 encodes no perturbed copies."""


class EncoderConfig(_Strict):
    """What turns images into vectors."""

    kind: Literal["lite0", "sentence-transformers"] = "lite0"
    """``lite0``: the embedded default, no download; ``sentence-transformers``: CLIP or SigLIP."""
    model: str | None = None
    """Name or path of a sentence-transformers model; not used by ``lite0``."""
    batch_size: int = Field(default=32, ge=1, le=4096)
    """Images per forward pass."""
    threads: int = Field(default=2, ge=1, le=256)
    """CPU threads of the encoder."""
    projection: ProjectionConfig = ProjectionConfig()


class IndexConfig(_Strict):
    """Nearest-neighbour index and the novelty score calibrated on it."""

    neighbours: int = Field(default=10, ge=1, le=200)
    """k: neighbours kept for each case."""
    kind: Literal["auto", "flat", "hnsw"] = "auto"
    """``flat`` is exact, ``hnsw`` a graph; ``auto``: flat up to ``flat_up_to`` vectors."""
    flat_up_to: int = Field(default=10_000, ge=1)
    """Most vectors that ``auto`` searches exactly; docs/index-life.md has the curve."""
    novelty: Literal[
        "mahalanobis", "relative-mahalanobis", "knn", "lof", "residual", "msp", "energy"
    ] = "mahalanobis"
    """Novelty score, as ``curbside index select-novelty`` chooses it; see docs/rarity.md."""
    stratum_minimum: int = Field(default=19, ge=1)
    """Fewest calibration cases for a modality's own p-values; below it the pooled ones serve.
    With 19 a p-value can reach 5 %; a calibration_confidence of 0.9 raises this to 45."""
    calibration_copies: bool = True
    """A calibration case counts two fifths of the way towards the strangest of four slightly
    changed copies of its image: fewer decisions hang on such changes, and rather fewer cases than
    alpha are flagged."""
    calibration_confidence: float = Field(default=0.0, ge=0, lt=1)
    """0: false deferral is at most alpha on average over calibration sets; 0.9: with that
    confidence for this very set, at the price of larger p-values."""


class FleetConfig(_Strict):
    """Which agents serve, and how ``curbside build`` trains the embedded ones."""

    file: str = "embedded"
    """A fleet that ships (``curbside fleet list``), or the path of a fleet file."""
    specialist_minimum: int = Field(default=100, ge=1)
    """Labelled training cases from which a modality gets a specialist."""
    shots: int = Field(default=16, ge=1)
    """Training cases a label for few-shot heads and the few-shot generalist."""
    seed: int = Field(default=0, ge=0)
    """Seed of few-shot draws and of training."""
    generalist: Literal["gfull", "g16"] = "gfull"
    """The generalist that serves."""
    out_of_fold: int = Field(default=0, ge=0, le=10)
    """Fleets trained besides, each without one fold of train, so that competence also learns
    from train cases; 0: none.  k of them cost k - 1 times the fleet's training."""


class TierPolicy(_Strict):
    """The owner's rule: common to its specialist, rare to the generalist, novel to a person."""

    kind: Literal["tier"] = "tier"
    alpha: float = Field(default=0.05, ge=0, lt=1)
    """p-values at or below this are novel; 0 switches the novelty gate off."""
    hold_unproven: bool = True
    """A reading that its reader was never shown to be good for is provisional and a person
    decides: fewer than 5 logged outcomes near the case or in its modality, or P(correct) below
    3/8, where a referral is worth more.  Not where ``alpha`` is 0."""
    minimum_support: int = Field(default=100, ge=0)
    """Labelled training cases of the modality below which a case is rare."""
    floor: float = Field(default=0.0, ge=0, le=1)
    """Confidence below which a person reads."""


class CompetencePolicy(_Strict):
    """Ask the agent with the highest estimated P(correct) minus weighted cost."""

    kind: Literal["competence"] = "competence"
    alpha: float = Field(default=0.05, ge=0, lt=1)
    """p-values at or below this are novel; 0 switches the novelty gate off."""
    hold_unproven: bool = True
    """A reading that its reader was never shown to be good for is provisional and a person
    decides: fewer than 5 logged outcomes near the case or in its modality, or P(correct) below
    3/8, where a referral is worth more.  Not where ``alpha`` is 0."""
    cost_weight: float = Field(default=0.0, ge=0)
    """P(correct) given up per unit of cost."""
    floor: float = Field(default=0.0, ge=0, le=1)
    """Estimated P(correct) below which a person reads."""
    person_accuracy: float = Field(default=1.0, ge=0, le=1)
    """P(correct) of the person who reads what is referred: the benefit of a referral."""
    person_cost: float = Field(default=1.0, ge=0, le=1)
    """What a referral costs, in P(correct); at 1 nothing is referred for its worth alone."""


class CascadePolicy(_Strict):
    """Ask the specialist; ask the generalist too when unsure; answer with the surer one."""

    kind: Literal["cascade"] = "cascade"
    alpha: float = Field(default=0.05, ge=0, lt=1)
    """p-values at or below this are novel; 0 switches the novelty gate off."""
    hold_unproven: bool = True
    """A reading that its reader was never shown to be good for is provisional and a person
    decides: fewer than 5 logged outcomes near the case or in its modality, or P(correct) below
    3/8, where a referral is worth more.  Not where ``alpha`` is 0."""
    minimum_support: int = Field(default=100, ge=0)
    """Labelled training cases of the modality below which the generalist is asked first."""
    escalate_below: float = Field(default=0.7, ge=0, le=1)
    """Confidence of the first reading below which the second agent is asked."""
    escalate_unfamiliar: float = Field(default=0.0, ge=0, lt=1)
    """p-value at or below which the second agent is asked, however sure the first; 0: never.
    At or below ``alpha`` a person decides anyway."""
    refer_disagreement: bool = False
    """Where the two differ a person decides, instead of the surer of them."""
    floor: float = Field(default=0.0, ge=0, le=1)
    """Confidence below which a person reads."""


class AveragePolicy(_Strict):
    """Ask the specialist and the generalist; the weighted mean of their readings answers."""

    kind: Literal["average"] = "average"
    alpha: float = Field(default=0.05, ge=0, lt=1)
    """p-values at or below this are novel; 0 switches the novelty gate off."""
    hold_unproven: bool = True
    """A reading that its reader was never shown to be good for is provisional and a person
    decides: fewer than 5 logged outcomes near the case or in its modality, or P(correct) below
    3/8, where a referral is worth more.  Not where ``alpha`` is 0."""
    minimum_support: int = Field(default=0, ge=0)
    """Labelled training cases of the modality below which the generalist reads alone."""
    weight: float = Field(default=0.5, gt=0, lt=1)
    """Weight of the specialist's probabilities; the generalist's have the rest."""
    floor: float = Field(default=0.0, ge=0, le=1)
    """Confidence below which a person reads."""


class ConsultPolicy(_Strict):
    """Ask the generalist; when it is unsure ask colleagues too; the mean of all answers."""

    kind: Literal["consult"] = "consult"
    alpha: float = Field(default=0.05, ge=0, lt=1)
    """p-values at or below this are novel; 0 switches the novelty gate off."""
    hold_unproven: bool = True
    """A reading that its reader was never shown to be good for is provisional and a person
    decides: fewer than 5 logged outcomes near the case or in its modality, or P(correct) below
    3/8, where a referral is worth more.  Not where ``alpha`` is 0."""
    colleagues: tuple[str, ...] = Field(default=("specialist",), min_length=1)
    """Agents by name; ``specialist`` is the one of the recognised modality, if there is one."""
    minimum_support: int = Field(default=100, ge=0)
    """Labelled training cases of the modality below which the generalist reads alone."""
    escalate_below: float = Field(default=0.8, ge=0, le=1)
    """Confidence of the generalist below which the colleagues are asked; 1 asks them always."""
    floor: float = Field(default=0.0, ge=0, le=1)
    """Confidence below which a person reads."""


AnyPolicy = TierPolicy | CompetencePolicy | CascadePolicy | AveragePolicy | ConsultPolicy
PolicyConfig = Annotated[AnyPolicy, Field(discriminator="kind")]


class PolicyProvenance(_Strict):
    """Where a fitted policy's numbers come from."""

    role: str
    """Role of the cases that it was fitted on; it is not reported on them."""
    cases: str
    """Hash of those cases."""
    n_cases: int
    n_groups: int
    fleet: str
    index: str
    objective: str
    grid: dict[str, list[float | bool]]
    """Key → the values that were tried."""
    fitted: float
    """The objective on the cases that it was fitted on: too good."""
    cross_fitted: float
    """The same when each fold is judged by what was chosen on the others."""
    compared: dict[str, float]
    """Kind of policy, with the options that are on → its cross-fitted objective."""
    floor_from: str
    """What ``floor`` guarantees and on which cases, or that it was set by hand."""
    date: str
    code: str


class StoresConfig(_Strict):
    """Where state lives; relative paths are under CURBSIDE_HOME."""

    index: str = "index"
    """Folder of the FAISS index."""
    fleet: str = "fleet"
    """Folder of the trained agents."""
    cache: str = "cache"
    """Folder of cached features, named by content."""
    checkpoints: str = "checkpoints.sqlite"
    """SQLite file of interrupted cases."""
    ledger: str = "ledger.sqlite"
    """SQLite file of every case's outcome, or a SQLAlchemy URL of another database."""
    sources: str = "sources.sqlite"
    """SQLite file that says where the images of a case are; see ``privacy.keep_sources``."""


class PrivacyConfig(_Strict):
    """What may go further than intake."""

    allowed_tags: tuple[str, ...] = ("Modality", "BodyPartExamined")
    """DICOM attributes that may be kept; all others are dropped."""
    keep_sources: bool = True
    """Keep, on this machine and apart from all records, which files a case came from, so that
    the console can show its images.  File names may hold names of patients."""


class Config(_Strict):
    """The whole of ``curbside.yaml``."""

    version: Literal[1] = 1
    encoder: EncoderConfig = EncoderConfig()
    index: IndexConfig = IndexConfig()
    fleet: FleetConfig = FleetConfig()
    policy: PolicyConfig = TierPolicy()
    stores: StoresConfig = StoresConfig()
    privacy: PrivacyConfig = PrivacyConfig()

    @property
    def digest(self) -> str:
        """SHA-256 of the configuration's canonical JSON."""
        return model_digest(self)


def model_digest(model: BaseModel) -> str:
    """SHA-256 of a model's canonical JSON (keys sorted)."""
    return content_hash(json.dumps(model.model_dump(mode="json"), sort_keys=True))


def load_config(path: Path) -> Config:
    """Read and check ``curbside.yaml``.

    Raises:
        ConfigError: missing file, broken YAML, unknown key or bad value; names key,
            value, valid values and line, for all problems at once.
    """
    return load_model(Config, path)


class _PolicyFile(_Strict):
    policy: PolicyConfig
    provenance: PolicyProvenance | None = None


def load_policy(path: Path) -> AnyPolicy:
    """Read a policy file: one key ``policy`` holding what ``curbside.yaml`` has under it."""
    return load_policy_file(path)[0]


def load_policy_file(path: Path) -> tuple[AnyPolicy, PolicyProvenance | None]:
    """The policy of a file, and what it was fitted on if ``curbside policy fit`` wrote it."""
    found = load_model(
        _PolicyFile,
        path,
        hint="give a file of one key 'policy' with its kind below it (docs/policies.md), or let "
        "one be written: curbside policy fit --out FILE",
    )
    return found.policy, found.provenance


def save_policy(policy: AnyPolicy, provenance: PolicyProvenance, path: Path) -> None:
    """Write a policy file as YAML, atomically.  Raises StorageError."""
    body = _PolicyFile(policy=policy, provenance=provenance).model_dump(mode="json")
    text = yaml.safe_dump(body, sort_keys=False, allow_unicode=True)
    write_text(path, "# written by curbside policy fit; frozen: fit again to change it\n" + text)


def save_config(config: Config, path: Path) -> None:
    """Write a configuration as YAML, atomically."""
    body = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_text(path, "# curbside configuration; check it with: curbside config check\n" + body)


_Model = TypeVar("_Model", bound=BaseModel)


def load_model(model: type[_Model], path: Path, *, hint: str = "") -> _Model:
    """Read a YAML file as a strict model.

    Args:
        hint: what to do about a bad file; default: ``curbside config check``.

    Raises:
        ConfigError: as :func:`load_config`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist", hint=hint or "make demo, or curbside config init"
        ) from None
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path} cannot be read: {e}") from e
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise ConfigError(f"{path} is not YAML: {e}") from e
    problems = list(_given_twice(node, ""))
    try:
        found = model.model_validate(data if data is not None else {})
    except ValidationError as e:
        problems += [_explain(model, node, err) for err in e.errors(include_url=False)]
    if problems:
        raise ConfigError(
            f"{path} has {len(problems)} problem(s):\n  " + "\n  ".join(problems),
            hint=hint or f"edit it, then: curbside config check {path}",
        )
    return found


def _given_twice(node: Any, parent: str) -> Iterator[str]:
    """YAML would silently take the last of two equal keys."""
    if not isinstance(node, yaml.MappingNode):
        return
    first: dict[str, int] = {}
    for key, value in node.value:
        line, name = key.start_mark.line + 1, f"{parent}{key.value}"
        if key.value in first:
            yield f"line {line}: '{name}' is given twice, first on line {first[key.value]}"
        first.setdefault(key.value, line)
        yield from _given_twice(value, f"{name}.")


def _explain(model: type[BaseModel], node: Any, err: Any) -> str:
    loc = list(err["loc"])
    line, there = _line(node, loc)
    # pydantic puts a union's tag into loc; it is no key of the file, and a missing key is none yet
    last = len(loc) - 1
    shown = [
        str(part)
        for i, part in enumerate(loc)
        if there[i] or (i == last and err["type"] in ("missing", "extra_forbidden"))
    ]
    keys = ".".join(shown)
    if err["type"] == "extra_forbidden":
        valid = _valid_keys(model, [str(part) for part in loc[:-1]])
        return f"line {line}: unknown key '{keys}'; valid keys here: {', '.join(valid)}"
    if err["type"] == "missing":
        return f"line {line}: '{keys}' is missing"
    if err["type"] == "value_error":
        return f"line {line}: {keys or 'the file'}: {err['msg'].removeprefix('Value error, ')}"
    return f"line {line}: {keys} = {err.get('input')!r}: {err['msg']}"


def _line(node: Any, loc: Sequence[str | int]) -> tuple[int, list[bool]]:
    """The line that a location leads to, and which of its parts are keys of the file."""
    line: int = node.start_mark.line + 1 if node is not None else 1
    there = []
    for part in loc:
        found = False
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    node, line, found = value, key.start_mark.line + 1, True
                    break
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            found = part < len(node.value)
            if found:
                node = node.value[part]
                line = node.start_mark.line + 1
        there.append(found)
    return line, there


def _valid_keys(model: type[BaseModel], loc: list[str]) -> list[str]:
    schema = model.model_json_schema()
    here: Any = schema
    for part in loc:
        here = _resolve(schema, here)
        options = here.get("oneOf") or here.get("anyOf")
        if options:
            tagged = [_resolve(schema, o) for o in options]
            named = [
                o for o in tagged if o.get("properties", {}).get("kind", {}).get("const") == part
            ]
            here = named[0] if named else tagged[0]
        else:
            inside = here.get("properties", {}).get(part)
            here = inside or here.get("additionalProperties") or here.get("items") or {}
    return list(_resolve(schema, here).get("properties", {}))


def _resolve(schema: Any, node: Any) -> Any:
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return node
