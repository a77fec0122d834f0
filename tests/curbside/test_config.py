"""A configuration comes back from its file; every mistake names key, value, valid ones and line."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from curbside.config import (
    CascadePolicy,
    CompetencePolicy,
    Config,
    IndexConfig,
    TierPolicy,
    load_config,
    load_policy,
    save_config,
)
from curbside.errors import ConfigError

POLICIES = [TierPolicy(), CompetencePolicy(cost_weight=0.1), CascadePolicy(alpha=0)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "curbside.yaml"


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p.kind)
def test_it_comes_back(file: Path, policy: TierPolicy | CompetencePolicy | CascadePolicy) -> None:
    config = Config(policy=policy)
    save_config(config, file)
    assert load_config(file) == config
    assert load_config(file).digest == config.digest


def test_an_empty_file_is_the_default(file: Path) -> None:
    file.write_text("")
    assert load_config(file) == Config()


def test_the_digest_is_of_every_value() -> None:
    others = [
        Config(index=IndexConfig(neighbours=11)),
        *(Config(policy=p) for p in POLICIES[1:]),
        Config(policy=TierPolicy(floor=0.5)),
    ]
    digests = [c.digest for c in (Config(), *others)]
    assert len(set(digests)) == len(digests)
    assert Config().digest == Config(policy=TierPolicy()).digest


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("encodr: {}", ["line 1", "unknown key 'encodr'", "encoder, index, fleet, policy"]),
        (
            "version: 1\nindex:\n  neigbours: 3\n",
            ["line 3", "unknown key 'index.neigbours'", "valid keys here: neighbours"],
        ),
        (
            "encoder:\n  projection:\n    kind: pca\n",
            ["line 3", "encoder.projection.kind = 'pca'", "'lda' or 'none'"],
        ),
        ("index:\n  neighbours: 0\n", ["line 2", "index.neighbours = 0", "greater than or equal"]),
        ("fleet:\n  seed: x\n", ["line 2", "fleet.seed = 'x'", "integer"]),
        ("version: 2\n", ["line 1", "version = 2"]),
        (
            "policy:\n  kind: tier\n  flor: 0.3\n",
            ["line 3", "unknown key 'policy.flor'", "alpha, hold_unproven, minimum_support, floor"],
        ),
        (
            "policy:\n  kind: cascade\n  cost_weight: 1\n",
            ["line 3", "'policy.cost_weight'", "escalate_below"],
        ),
        ("policy:\n  kind: best\n", ["line 1", "'tier', 'competence', 'cascade'"]),
        ("policy:\n  alpha: 0.1\n", ["line 1", "policy", "kind"]),
        (
            "index:\n  neighbours: 3\n  neighbours: 4\n",
            ["line 3", "'index.neighbours' is given twice, first on line 2"],
        ),
        ("index: {}\nfleet: {}\nindex: {}\n", ["line 3", "'index' is given twice"]),
        ("- 1\n", ["line 1"]),
        ("index: 3\n", ["line 1", "index = 3"]),
    ],
)
def test_a_mistake_is_named(file: Path, text: str, expected: list[str]) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as e:
        load_config(file)
    for part in (*expected, "1 problem(s)", f"curbside config check {file}"):
        assert part in str(e.value)


def test_all_mistakes_are_named_at_once(file: Path) -> None:
    file.write_text("index:\n  neighbours: 0\nfleet:\n  seed: -1\nfoo: 1\n")
    with pytest.raises(ConfigError, match="3 problem") as e:
        load_config(file)
    assert all(f"line {n}" in str(e.value) for n in (2, 4, 5))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"a: [1\n", "is not YAML"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"a: !!python/x 1", "YAML"),
    ],
)
def test_what_is_not_yaml(file: Path, raw: bytes, message: str) -> None:
    file.write_bytes(raw)
    with pytest.raises(ConfigError, match=message):
        load_config(file)


def test_a_missing_file_names_the_command_that_makes_one(file: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist") as e:
        load_config(file)
    assert "curbside config init" in e.value.hint


def test_yaml_cannot_make_objects(file: Path) -> None:
    file.write_text("version: !!python/object/apply:os.system ['touch made']\n")
    with pytest.raises(ConfigError):
        load_config(file)
    assert list(Path().iterdir()) == []


def test_a_policy_file(file: Path) -> None:
    file.write_text("policy:\n  kind: cascade\n  escalate_below: 0.6\n")
    assert load_policy(file) == CascadePolicy(escalate_below=0.6)
    file.write_text("kind: cascade\n")
    with pytest.raises(ConfigError, match="unknown key 'kind'; valid keys here: policy"):
        load_policy(file)
    file.write_text("policy:\n  kind: tier\n  alfa: 0.1\n")
    with pytest.raises(ConfigError, match=r"line 3: unknown key 'policy\.alfa'") as e:
        load_policy(file)
    # config check is for curbside.yaml and would refuse a policy file that was fitted
    assert "curbside policy fit" in e.value.hint and "check" not in e.value.hint
    file.unlink()
    with pytest.raises(ConfigError, match="does not exist") as e:
        load_policy(file)
    assert "curbside policy fit" in e.value.hint and "demo" not in e.value.hint


def test_nothing_can_be_changed_in_place() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().index.__setattr__("neighbours", 3)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p.kind)
def test_the_schema_takes_what_the_models_take(
    policy: TierPolicy | CompetencePolicy | CascadePolicy,
) -> None:
    jsonschema.validate(Config(policy=policy).model_dump(mode="json"), Config.model_json_schema())


def test_the_schema_refuses_what_the_models_refuse() -> None:
    schema = Config.model_json_schema()
    refused: tuple[dict[str, dict[str, object]], ...] = (
        {"encodr": {}},
        {"index": {"neighbours": 0}},
        {"policy": {"kind": "best"}},
    )
    for wrong in refused:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


def test_every_key_is_described() -> None:
    schema = Config.model_json_schema()
    sections = [d["properties"] for n, d in schema["$defs"].items()]
    undescribed = [
        key
        for key, what in itertools.chain.from_iterable(s.items() for s in sections)
        if not {"description", "$ref", "const"} & set(what)
    ]
    assert undescribed == []


def test_the_written_file_is_plain(file: Path) -> None:
    save_config(Config(), file)
    assert yaml.safe_load(file.read_text()) == json.loads(Config().model_dump_json())
