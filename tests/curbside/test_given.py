"""A path that is not there: shown to who typed it, and in no error, no pipe and no log."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from curbside.cli import main
from curbside.commands.given import must_exist
from curbside.errors import ImageError

_NAME = "Doe^Jane 1961.png"


@pytest.mark.parametrize(
    "command", [["route"], ["studies"], ["batch", "--out", "out"]], ids=lambda c: c[0]
)
def test_what_was_typed_is_shown_on_a_terminal_alone(command: list[str], tmp_path: Path) -> None:
    def run(stderr: int) -> int:
        line = [sys.executable, "-c", "from curbside.cli import main; main()", *command, _NAME]
        return subprocess.run(
            line, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=stderr, check=False
        ).returncode

    reader, writer = pty.openpty()
    assert run(writer) == 2
    os.close(writer)
    shown = os.read(reader, 65536).decode().replace("\r\n", "\n")
    os.close(reader)
    assert shown.startswith(f"given: {_NAME}\nlooked for at: {tmp_path / _NAME}\nerror[image]: ")
    assert "would lie in is there" in shown
    assert f"a folder or a zip archive: curbside {command[0]} " in shown

    log = tmp_path / "log"
    with log.open("wb") as f:
        assert run(f.fileno()) == 2
    said = log.read_text()
    assert said.startswith("error[image]: there is no such file or folder (missing)")
    assert f"curbside {command[0]} " in said
    assert "Doe" not in said and str(tmp_path) not in said


def test_the_error_itself_names_nothing(tmp_path: Path) -> None:
    must_exist(tmp_path, "x")
    with pytest.raises(ImageError) as e:
        must_exist(tmp_path / "Doe" / "Jane", "curbside route PATH")
    assert (e.value.reason, "is not there either" in e.value.message) == ("missing", True)
    assert "Doe" not in repr(e.value) and "Doe" not in str(e.value)


def test_a_path_that_the_system_refuses_is_said(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be looked at") as e:
        must_exist(tmp_path / ("Doe" * 200), "curbside route PATH")
    assert e.value.reason == "unreadable" and "DoeDoe" not in str(e.value)


@pytest.mark.parametrize("out", [".", "out", "deep/out"])
def test_a_batch_never_writes_into_the_folder_that_it_reads(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "Doe"
    folder.mkdir()
    line = ["curbside", "batch", str(folder), "--out", str(folder / out)]
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(SystemExit) as e:
        main()
    said = capsys.readouterr().err
    assert e.value.code == 2 and "--out lies within CASES" in said and "Doe" not in said
    assert not list(folder.iterdir())
