"""The command line: what it prints and exits with when something is wrong, and ``config``."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

import curbside
from curbside import cli
from curbside.config import Config, load_config, save_config
from curbside.errors import ConfigError, StorageError
from curbside.home import config_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Exit code of ``curbside ARGUMENTS``, run in this process."""
    monkeypatch.setattr(sys, "argv", ["curbside", *arguments])
    try:
        cli.main()
    except SystemExit as e:
        return int(e.code or 0)
    return 0


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command line whose one command raises what it is given."""

    def with_error(error: BaseException) -> int:
        def app(**_: str) -> None:
            raise error

        monkeypatch.setattr(cli, "app", app)
        return run(monkeypatch)

    return with_error


@pytest.mark.parametrize("module", ["curbside", "curbside.cli"])
def test_the_package_runs_as_a_module(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "no-such-command"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "No such command 'no-such-command'" in done.stderr


def _command(name: str) -> Any:
    return importlib.import_module(f"curbside.commands.{name}")


def test_every_command_module_is_in_the_table_and_names_commands() -> None:
    folder = Path(cli.__file__).parent / "commands"
    modules = {p.stem for p in folder.glob("*.py")} - {"__init__"}
    # modules without `register` hold parts of commands
    there = {m for m in modules if hasattr(_command(m), "register")}
    assert set(cli.COMMANDS) == there
    for name in cli.COMMANDS:
        alone = typer.Typer()
        _command(name).register(alone)
        assert alone.registered_commands or alone.registered_groups


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"curbside {curbside.__version__}\n"


def test_no_arguments_print_the_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch)
    assert "Usage: curbside" in "".join(capsys.readouterr())


@pytest.mark.parametrize("arguments", [["rout"], ["config", "check", "--fast"], ["route"]])
def test_a_mistyped_command_exits_with_two(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run(monkeypatch, *arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_users_mistake(fails: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert fails(ConfigError("no such key", hint="mend it")) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error[config]: no such key\n  next: mend it\n"


def test_a_back_ends_failure(fails: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert fails(StorageError("disk full")) == 1
    assert capsys.readouterr().err == "error[storage]: disk full\n"


def test_a_bug_shows_no_text_of_a_library(
    fails: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CURBSIDE_DEBUG", raising=False)
    assert fails(ValueError("/patients/Doe^Jane.dcm")) == 1
    err = capsys.readouterr().err
    assert "error[internal]: ValueError" in err
    assert "CURBSIDE_DEBUG=1" in err
    assert "Doe" not in err and "Traceback" not in err
    monkeypatch.setenv("CURBSIDE_DEBUG", "1")
    assert fails(ValueError("seen")) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt(fails: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert fails(KeyboardInterrupt()) == 130
    assert "run it again" in capsys.readouterr().err


# -- config ----------------------------------------------------------------------------------


def call(*arguments: str | Path) -> str:
    result = CliRunner().invoke(cli.app, ["config", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_configuration_is_made_checked_and_shown() -> None:
    assert str(config_path()) in call("init")
    assert load_config(config_path()) == Config()
    assert Config().digest[:12] in call("check")
    assert yaml.safe_load(call("show")) == Config().model_dump(mode="json")


def test_files_may_be_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    call("init", file)
    assert str(file) in call("check", file)
    assert not config_path().exists()


def test_a_tag_that_may_name_a_patient_is_no_valid_configuration() -> None:
    tags = {"privacy": {"allowed_tags": ["Modality", "AccessionNumber"]}}
    save_config(Config.model_validate(tags), config_path())
    with pytest.raises(ConfigError, match="AccessionNumber may say who the patient is"):
        call("check")


def test_one_that_is_there_is_kept() -> None:
    mine = Config.model_validate({"index": {"neighbours": 7}})
    save_config(mine, config_path())
    with pytest.raises(ConfigError, match="exists"):
        call("init")
    assert load_config(config_path()) == mine
    assert yaml.safe_load(call("show"))["index"]["neighbours"] == 7


def test_one_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        call("check")


def test_the_schema_is_printed() -> None:
    assert json.loads(call("schema")) == Config.model_json_schema()
