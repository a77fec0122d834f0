"""What the pages name exists: links, anchors, commands with their options, files, make targets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from curbside.cli import app
from curbside.router.policy import HELD
from curbside.router.policy_steps import REASONS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")),
    *sorted(p for p in (ROOT / "docs").glob("*.md") if p.name != "cli.md"),
]
#: Options in code that are another program's: pip, pytest, vLLM.
FOREIGN = re.compile(r"\b(pip|pytest|vllm|accelerate)\b")
page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)


def prose_and_code(text: str) -> tuple[str, list[str]]:
    """The text without fenced blocks, and every line or span of code."""
    fences = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    prose = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    spans = [" ".join(s.split()) for s in re.findall(r"`([^`]+)`", prose)]
    indented = re.findall(r"^ {4}(\S.*)$", prose, re.MULTILINE)
    return prose, [*spans, *indented, *(line for f in fences for line in f.splitlines())]


@cache
def anchors(file: Path) -> set[str]:
    """As GitHub makes them of headings."""
    prose, _ = prose_and_code(file.read_text(encoding="utf-8"))
    plain = (re.sub(r"[`*]", "", h) for h in re.findall(r"^#+ (.+)$", prose, re.MULTILINE))
    return {re.sub(r"[^\w\- ]", "", h.strip().lower()).replace(" ", "-") for h in plain}


@page
def test_links_lead_somewhere(page: Path) -> None:
    prose, _ = prose_and_code(page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{link} leads nowhere"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


#: A command of typer's own copy of click, which has no public type.
Command = Any


def below(command: Command) -> dict[str, Command]:
    """The commands of a group; none of a command."""
    return getattr(command, "commands", {})


@cache
def root() -> Command:
    return get_command(app)


def options(command: Command) -> set[str]:
    return {o for p in command.params for o in (*p.opts, *p.secondary_opts)}


def commands(text: str) -> Iterator[tuple[str, Command, str]]:
    """Every call of curbside in code: the text, the command it names, and what follows."""
    _, code = prose_and_code(text)
    for line in code:
        call = re.match(r"(?:\$ )?(?:[A-Z_]+=\S+ )*curbside ([a-z].*)", line)
        if call is None:
            continue
        words = call[1].split(" #")[0].split()
        at = root()
        while words and words[0] in below(at):
            at = below(at)[words.pop(0)]
        yield line, at, " ".join(words)


@page
def test_commands_and_their_options_exist(page: Path) -> None:
    for line, command, rest in commands(page.read_text(encoding="utf-8")):
        assert not below(command) or command.invoke_without_command, f"no such command: {line}"
        named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", rest))
        unknown = named - options(command) - {"--help"}
        assert not unknown, f"{line}: no option {sorted(unknown)}"


@cache
def every_option() -> frozenset[str]:
    found: set[str] = set()
    waiting = [root()]
    while waiting:
        command = waiting.pop()
        found |= options(command)
        waiting += below(command).values()
    return frozenset(found)


@page
def test_options_named_alone_belong_to_some_command(page: Path) -> None:
    _, code = prose_and_code(page.read_text(encoding="utf-8"))
    ours = [line for line in code if not FOREIGN.search(line)]
    named = {o for line in ours for o in re.findall(r"(?<![\w-])--[a-z][\w-]*", line)}
    own = {"--points", "--help"}  # of tests/router/kill_drill.py
    assert named <= every_option() | own, sorted(named - every_option() - own)


@page
def test_files_and_make_targets_exist(page: Path) -> None:
    prose, code = prose_and_code(page.read_text(encoding="utf-8"))
    for name in re.findall(r"`((?:\w+/)+[\w.-]+\.(?:py|yaml|csv|md))`", prose):
        places = (ROOT, page.parent, ROOT / "curbside")
        assert any((p / name).exists() for p in places), f"{name} does not exist"
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {m[1] for line in code if (m := re.match(r"make ([a-z][\w-]*)", line))}
    assert named <= targets, sorted(named - targets)


def test_every_reason_of_a_decision_is_explained() -> None:
    text = (ROOT / "docs" / "routing.md").read_text(encoding="utf-8")
    table = text[text.index("## Reasons") : text.index("## How a case ends")]
    said = set(re.findall(r"`(\w+)`", table))
    assert said >= {*REASONS, *HELD}
