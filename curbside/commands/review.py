"""``curbside explain``, ``replay`` and ``review``: recorded cases, without images or models."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curbside.commands.options import ConfigFile

if TYPE_CHECKING:
    from curbside.config import Config
    from curbside.readings import CaseRecord
    from curbside.router.ledger import Ledger
    from curbside.router.review import Event

__all__ = ["register"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add ``explain``, ``replay`` and ``review`` to the command line."""
    app.command("explain")(explain)
    app.command("replay")(replay)
    review = typer.Typer(no_args_is_help=True, help="Cases that wait for a person.")
    review.command("list")(review_list)
    review.command("show")(explain)
    review.command("answer")(review_answer)
    app.add_typer(review, name="review")


def explain(
    case: Annotated[str, typer.Argument(help="Id of a case in the ledger.")],
    revision: Annotated[
        int | None, typer.Option(min=0, help="An earlier record; default: the latest.")
    ] = None,
    config: ConfigFile = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Also write a page with the image and what the reading rests on."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Why a recorded case went where it went, and what people did with it since.

    A page of --html holds the case's image, where it is on this machine: mind where it goes.
    """
    from curbside.router.render import render

    ledger, settings = _open(config)
    record, events = ledger.record(case, revision), ledger.events(case)
    entry = ledger.get(case)
    if html is not None:
        _write_page(html, record, [_told(e) for e in events], settings)
        typer.echo(f"page       {html}", err=True)
    if as_json:
        story = [{**vars(e), "kind": str(e.kind)} for e in events]
        body = {"revision": entry.revision, "record": record.to_json(), "events": story}
        typer.echo(json.dumps(body, indent=1))
        return
    typer.echo(render(record))
    typer.echo(f"  revision {entry.revision if revision is None else revision} of {entry.revision}")
    for event in events:
        typer.echo(f"  {_told(event)}")


def replay(
    case: Annotated[str, typer.Argument(help="Id of a case in the ledger.")],
    policy: Annotated[Path, typer.Option(help="Policy file to decide by.")],
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """How a recorded case would end under another policy, from its record alone."""
    from curbside.config import load_policy
    from curbside.router.replay import replay as run

    ledger, _ = _open(config)
    found = run(ledger, case, load_policy(policy))
    if as_json:
        body = {
            "case": case,
            "changed": found.changed,
            "answered": found.verdict.answered,
            "answer": found.answer,
            "confidence": found.confidence,
            "reader": found.verdict.reader,
            "reason": found.verdict.reason,
            "tier": str(found.tier),
            "missing": list(found.missing),
        }
        typer.echo(json.dumps(body, indent=1))
        return
    typer.echo("\n".join(found.lines()))


def review_list(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most cases shown.")] = 50,
    text: Annotated[str, typer.Option(help="In ids, answers, tasks, options or flags.")] = "",
    modality: Annotated[str, typer.Option(help="Only this modality.")] = "",
    flag: Annotated[str, typer.Option(help="Only with this flag, e.g. novel.")] = "",
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Cases that wait for a person, the most urgent first."""
    from curbside.router.worklist import View, count, page, waited

    ledger, _ = _open(config)
    view = View(
        waiting=True,
        text=text,
        modality=(modality,) if modality else (),
        flags=(flag,) if flag else (),
    )
    shown = page(ledger, view, limit=limit).entries
    if as_json:
        typer.echo(json.dumps([e._asdict() for e in shown], indent=1))
        return
    counts = count(ledger, view)
    total = counts.total
    if not total:
        waiting = count(ledger, View(waiting=True)).total if (text or modality or flag) else 0
        if not waiting:
            typer.echo("no case waits for a person")
            return
        typer.echo(
            f"no case waits that matches; without --text, --modality and --flag, {waiting} do"
        )
        # a facet's counts leave its own filter out: these are what it could be set to
        for asked, facet in ((modality, "modality"), (flag, "flags")):
            if asked and counts.by[facet]:
                valid = ", ".join(f"{name or 'none'} {n}" for name, n in counts.by[facet].items())
                typer.echo(f"  instead of {asked!r}: {valid}")
        return
    width = max(len("case"), *(len(e.study) for e in shown))
    typer.echo(f"{'case':<{width}}  {'waits':>7}  {'status':<12}  {'modality':<14}  flags")
    for e in shown:
        row = f"{e.study:<{width}}  {_duration(waited(e) or 0):>7}  {e.status:<12}"
        typer.echo(f"{row}  {e.modality or '-':<14}  {', '.join(e.flags)}")
    if total > len(shown):
        typer.echo(f"… and {total - len(shown)} more")
    typer.echo(f"next: curbside review show {shown[0].study}")


def review_answer(
    case: Annotated[str, typer.Argument(help="Id of a case in the ledger.")],
    answer: Annotated[
        str, typer.Argument(help="One of its options; left out: agree with its reading.")
    ] = "",
    who: Annotated[
        str, typer.Option(envvar="CURBSIDE_READER", help="Who answers; an opaque name.")
    ] = "person",
    override: Annotated[
        str, typer.Option(help="Why the reading is overridden: a code of docs/ledger.md.")
    ] = "",
    note: Annotated[str, typer.Option(help="Kept with the answer.")] = "",
    revision: Annotated[
        int | None,
        typer.Option(min=0, help="What was seen; refused if the case has changed since."),
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Answer a case; it ends with that, and the record from before is kept."""
    from curbside.home import home
    from curbside.router.checkpoints import forget
    from curbside.router.review import Kind

    ledger, settings = _open(config)
    kind = Kind.OVERRIDE if override else Kind.ANSWER if answer else Kind.AGREE
    record = ledger.review(
        case,
        who,
        kind=kind,
        answer=answer or None,
        code=override or None,
        text=note,
        revision=revision,
    )
    forget(home() / settings.stores.checkpoints, case)
    typer.echo(f"{case}: answered {record.outcome.answer!r} by {who}")


def _open(config: Path | None) -> tuple[Ledger, Config]:
    from curbside.config import load_config
    from curbside.home import config_path, home
    from curbside.router.ledger import open_ledger

    settings = load_config(config or config_path())
    return open_ledger(home(), settings.stores.ledger), settings


def _write_page(path: Path, record: CaseRecord, story: list[str], settings: Config) -> None:
    from contextlib import closing

    from curbside.errors import ImageError, NotBuilt
    from curbside.home import home
    from curbside.router.case_page import case_page
    from curbside.router.model_cards import model_cards
    from curbside.router.sources import open_sources
    from curbside.router.workspace import Workspace
    from curbside.storage import write_text

    image, card, store = None, "", open_sources(home(), settings)
    if store is not None:
        with closing(store):
            found = store.standing_for(record)
        try:
            image = found.pixels() if found else None
        except ImageError:
            image = None
    if record.explained is not None:
        try:
            cards = model_cards(Workspace(home(), settings))
            card = cards.get(record.explained.agent, "")
        except NotBuilt:
            card = ""
    write_text(path, case_page(record, story=story, image=image, card=card))


def _told(event: Event) -> str:
    when = datetime.fromtimestamp(event.at).astimezone().isoformat(" ", "seconds")
    said = [event.kind.value, event.answer or "", event.code or "", event.text]
    return f"{when}  {event.who}: {'  '.join(s for s in said if s)}"


def _duration(seconds: float) -> str:
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h" if hours < 48 else f"{hours // 24} d"
