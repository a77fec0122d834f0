"""summary.json: stable, strict, without NaN, and documented."""

from __future__ import annotations

import errno
import io
import json
import math
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
from rich.console import Console

from curbside.agents.cost import BuildCost
from curbside.agents.trunk import trunk_parameters
from curbside.config import Config
from curbside.errors import StorageError
from curbside.evals.costs import Prices, cost_rows
from curbside.evals.detail_tables import detail_tables, markdown
from curbside.evals.evaluation import evaluate
from curbside.evals.report import _apart, novelty_histogram, render_report
from curbside.evals.schema import Control, Cost, Summary, json_schema
from curbside.evals.shown import Shown
from curbside.evals.summary import arm_costs, summarise, write_summary
from curbside.evals.table import control_cells, lines, print_summary, rows
from curbside.indexes.lite0 import folded_weights

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def made():
    return {}


@pytest.fixture
def result(plant, made):
    if "result" not in made:
        world = plant(lambda a, m: 0.9 if a.endswith(m) else 0.6, per=24)
        made["result"] = evaluate(
            world.everything, world.assessments, world.trained, Config(), replicates=80
        )
    return made["result"]


@pytest.fixture
def summary(result):
    t = result.frame
    cost = {a: BuildCost(50, 10, 1.5, 100.0) for a in ("specialist-cxr", "generalist-full")}
    assert len(t)
    return summarise(
        result,
        manifest="m.csv",
        digest="d",
        build_cost=cost,
        specialists={"cxr": "specialist-cxr"},
        versions={"code": "0"},
        notes=["one few-shot draw"],
        phantoms=True,
        attributes=False,
        generated_at="2026-01-01T00:00:00+00:00",
        machine="a machine",
    )


def test_schema_in_docs_is_the_one_generated():
    path = DOCS / "summary.schema.json"
    assert path.read_text(encoding="utf-8") == json_schema(), (
        "python -c 'from curbside.evals.schema import json_schema; print(json_schema(), end=\"\")'"
        " > docs/summary.schema.json"
    )


def test_written_file_keeps_the_schema_and_has_no_nan(summary, tmp_path):
    path = tmp_path / "summary.json"
    write_summary(summary, path)
    body = json.loads(path.read_text(), parse_constant=lambda c: pytest.fail(f"{c} in summary"))
    jsonschema.validate(body, json.loads(json_schema()))
    assert Summary.model_validate_json(path.read_bytes()) == summary


def test_what_was_promised_is_there(summary):
    body = summary.model_dump(mode="json")
    for name in ("S", "G16", "Gfull", "E", "H-tier", "H-competence", "H-cascade", "H-tier16"):
        arm = body["arms"][name]
        for metric in (
            "accuracy",
            "balanced_accuracy",
            "coverage",
            "selective_accuracy",
            "net_benefit",
            "cost",
            "latency_ms",
        ):
            assert {"value", "ci_low", "ci_high", "per_tier", "per_modality"} == set(arm[metric])
            assert {"common", "rare", "novel", "rare_finding"} == set(arm[metric]["per_tier"])
        low, value, high = (arm["accuracy"][k] for k in ("ci_low", "value", "ci_high"))
        assert low <= value <= high
        assert arm["accuracy"]["per_tier"]["novel"]["value"] is None
    needed = {"id", "a", "b", "metric", "delta", "ci_low", "ci_high", "p_holm"}
    assert needed | {"minimum_detectable", "verdict"} <= set(body["contrasts"][0])
    assert isinstance(body["modality"]["accuracy_common"], float)
    assert {"auroc_vs_common", "auroc_vs_known", "fpr95", "false_deferral", "alpha"} <= set(
        body["novelty"]
    )
    assert body["novelty"]["per_modality"]["oct"]["novel_answered"]["value"] is not None
    assert body["n_cases"] == summary.cases.n_scored + summary.cases.n_novel
    assert isinstance(body["verdict"], str)
    assert len({c["id"] for c in body["contrasts"]}) == len(body["contrasts"])


def test_a_team_has_no_more_labels_than_there_are():
    by = {
        "specialist-a": BuildCost(80, 5, 1, 10),
        "specialist-b": BuildCost(70, 5, 2, 30),
        "generalist-16": BuildCost(20, 3, 1, 10),
        "generalist-full": BuildCost(100, 3, 4, 20),
    }
    found = arm_costs(by, {"a": "specialist-a", "b": "specialist-b"})
    assert found["S"].labels == 100
    assert found["S"].trainable_parameters == 10
    assert found["E"].train_seconds == pytest.approx(7)
    assert found["E"].peak_mib == pytest.approx(30)
    assert found["G16"].labels == 20
    assert "H-consult" not in found
    by["second"] = BuildCost(100, 7, 2, 15)
    found = arm_costs(by, {"a": "specialist-a", "b": "specialist-b"}, ["second"])
    assert found["H-consult"].trainable_parameters == 10
    assert found["E-consult"].labels == 100
    assert "linear-full" not in found


def test_disk_full_leaves_the_old_summary(summary, tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_summary(summary, path)
    before = path.read_bytes()

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="No space left"):
        write_summary(summary, path)
    assert path.read_bytes() == before


def test_report_is_one_page_that_needs_no_network(summary, result):
    histogram = novelty_histogram(result.novelty_score, result.frame.tier, result.frame.usable)
    page = render_report(summary, histogram)
    assert f">{summary.verdict[0].upper()}{summary.verdict[1:]}</div>" in page
    assert "Research software, not a medical device" in page
    assert "Phantoms: generated pictures" in page
    head = page.replace(page[page.index("<script>") : page.index("</script>")], "", 1)
    assert "<link" not in head
    assert "src=" not in head.replace("data-src=", "")
    for title in ("Contrasts", "Deferral", "By modality", "Novelty"):
        assert f"<h2>{title}</h2>" in page
    assert "nan" not in head.split("<script")[0].lower().split()
    for tier, (edges, share) in histogram.items():
        assert len(edges) == len(share) + 1, tier
        assert math.fsum(share) == pytest.approx(1, abs=0.001)


def test_the_report_leads_with_what_was_registered_and_has_a_dark_side(summary):
    told = [control("blank_image", 0.2), control("blank_image", 0.3, agent="reader")]
    page = render_report(summary.model_copy(update={"controls": told}))
    registered = [c for c in summary.contrasts if c.p_holm is not None]
    more = len(summary.contrasts) - len(registered)
    assert registered and more
    first, rest = page.split(f"<summary>{more} more, beside the registered ones</summary>")
    table = first[first.index("<h2>All contrasts</h2>") :]
    assert table.count("<tr><td>") == len(registered)
    assert rest[: rest.index("</table>")].count("<tr><td>") == more
    alone = page[page.index("<summary>Each agent alone</summary>") :]
    assert "<td>reader</td><td>30</td><td>30.0</td>" in alone
    assert "blank image, reader" not in page  # once, in the table of agents
    assert "prefers-color-scheme: dark" in page


def test_names_in_a_plot_do_not_cover_each_other(summary):
    hybrid = summary.decision.hybrid
    points = [("a", 1.0, 0.70), ("b", 1.0, 0.7001), (hybrid, 1.0, 0.7002), ("far", 2.0, 0.9)]
    assert _apart(summary, points) == (["", "", hybrid, "far"], ["top center"] * 4)
    assert _apart(summary, []) == ([], [])
    # a line through where the name would stand: it stands below, and nowhere else
    line = [(1.0, 0.7092), (2.0, 0.7092)]
    names, places = _apart(summary, points, [line])
    assert dict(zip(names, places, strict=True))[hybrid] == "bottom center"
    assert dict(zip(names, places, strict=True))["far"] == "top center"


def test_table_names_the_verdict_below_the_arms(summary, capsys):
    print_summary(summary)
    out = capsys.readouterr().out
    assert out.index("Gfull") < out.index("VERDICT")
    assert summary.verdict in out.replace("\n", " ")
    assert "PHANTOMS" in out
    assert sum(r[0].startswith("▶") for r in rows(summary)) == 1
    assert any("novel answered at 5 %" in line for line in lines(summary))
    for shown, said in ((True, ", non-inferior (2 points)"), (False, ", not shown to be non-inf")):
        decision = summary.decision.model_copy(update={"not_below_margin": shown})
        told = lines(summary.model_copy(update={"decision": decision}))
        assert sum(line.startswith("P1 ") and said in line for line in told) == 1


def test_costs_are_counted_by_hand_at_stated_prices():
    assert trunk_parameters() == sum(v.size for v in folded_weights().values())
    arm = SimpleNamespace(
        latency_ms=SimpleNamespace(value=36.0),
        cost=SimpleNamespace(value=1.0),
        accuracy=SimpleNamespace(value=0.7),
    )
    built = {
        "dear": Cost(labels=100, trainable_parameters=10, train_seconds=3600, peak_mib=1),
        "cheap": Cost(labels=10, trainable_parameters=0, train_seconds=0, peak_mib=1),
        "unknown": Cost(labels=1, trainable_parameters=0, train_seconds=0, peak_mib=1),
    }
    rows = cost_rows({"dear": arm, "cheap": arm}, built, Prices(label=2.0, hour=3.0))
    assert [r.arm for r in rows] == ["cheap", "dear"]
    assert rows[1].money_to_build == pytest.approx(203)
    assert rows[1].money_per_1000 == pytest.approx(36 / 3600 * 3)
    assert rows[0].trainable_share == 0


def test_tables_of_details_are_in_the_report_and_in_markdown(summary):
    tables = detail_tables(summary)
    titles = [t.title for t in tables]
    assert "Where hybrids lose" in titles and "Which reader earns its place" in titles
    for t in tables:
        assert all(len(row) == len(t.head) for row in t.rows)
        assert not any("nan" in cell.lower() for row in t.rows for cell in row)
    page = render_report(summary)
    for t in tables:
        assert t.title in page
        # whoever reads many intervals side by side is told that none is adjusted
        values_alone = t.title == "What each arm takes and brings"
        assert ("not corrected for their number" in t.about) != values_alone, t.title
    said = {t.title: t.about for t in tables}
    assert f"({len(summary.details.persons)})" in said["When a person should read"]
    assert f"({len(summary.details.routes)})" in said["Which way cases went"]
    assert f"not corrected for their number ({len(rows(summary))})" in page
    text = "\n".join(markdown(tables))
    assert text.count("| --- |") == len(tables)
    # P2 is the mean of what is told budget by budget
    told = {row[0]: row for t in tables if t.title == "Referring 5 %, 10 %, 20 %" for row in t.rows}
    each = [float(cell.split()[0]) for cell in told["S"][2:5]]
    assert sum(each) / 3 == pytest.approx(summary.arms["S"].gates.p2.value, abs=0.001)
    bare = summary.model_copy(update={"details": None, "costs": (), "arms": {}})
    assert detail_tables(bare) == []


def test_model_cards_are_in_the_report_and_run_nothing(summary):
    page = render_report(summary, None, {"a": "# a\n\n| x | y |\n| --- | --- |\n| <b>1 | 2 |"})
    assert "<summary>a</summary><h1>a</h1>" in page and "&lt;b&gt;1" in page
    assert "model cards" not in render_report(summary)


def test_images_are_in_the_report_only_where_some_were_given(summary):
    one = Shown(
        "ct: x", "orange speaks for x", ("data:image/png;base64,AA", "data:image/png;base64,BB")
    )
    page = render_report(summary, shown=[one])
    assert "What readings rest on" in page and page.count('"data:image/png;base64,AA"') == 1
    assert "mind where it goes" in page
    plain = render_report(summary)
    assert "What readings rest on" not in plain and "mind where it goes" not in plain


def control(name, value, *, agent="", held=0.4, finding="not found"):
    return Control(name=name, about="about", n=30, value=value, ci_low=0.1, ci_high=0.3,
                   held_against=held, finding=finding, agent=agent)  # fmt: skip


def test_controls_are_told_by_agent(summary):
    names = ("blank_image", "noise_image", "shuffled_image", "option_order")
    told = [control(n, 0.2) for n in names]
    told += [control(n, 0.25, agent="vlm") for n in names]
    told.append(control("option_order_alone", 0.6, agent="vlm", held=None, finding="reported"))
    told.append(control("option_order_averaged", 0.1, agent="vlm", held=0.02, finding="found"))
    said = "\n".join(lines(summary.model_copy(update={"controls": told})))
    assert "option_order_averaged of vlm: about: 10.0 % of 30 (held against 2.0 %)" in said
    assert said.split("vlm  ")[1].split()[:8] == [
        "30", "25.0", "25.0", "25.0", "40.0", "25.0", "60.0", "10.0",
    ]  # fmt: skip
    fine = "\n".join(lines(summary.model_copy(update={"controls": told[:4]})))
    assert "4 assessed, none found anything" in fine and "by agent" not in fine
    page = render_report(summary.model_copy(update={"controls": told}))
    assert "option order averaged, vlm" in page  # found, so it is in the first table too


def test_an_agent_with_few_readings_is_named_and_no_more(summary):
    names = ("blank_image", "noise_image", "shuffled_image", "option_order")
    told = [control(n, 0.25, agent="vlm") for n in names]
    told += [control(n, None, agent="rare-one", held=None, finding="not assessable") for n in names]
    said = lines(summary.model_copy(update={"controls": told}))
    assert "too few    to assess alone: rare-one" in said
    assert not any(line.startswith("rare-one") for line in said)
    assert control_cells(told[-1])[-1] == "too few to assess"


def test_the_table_fits_eighty_columns_with_every_number(summary):
    slow = summary.arms["Gfull"].latency_ms.model_copy(update={"value": 12345.6})
    colleague = summary.arms["Gfull"].model_copy(update={"kind": "colleague", "latency_ms": slow})
    wide = summary.model_copy(
        update={"arms": summary.arms | {"a-colleague-with-a-very-long-name": colleague}}
    )
    out = io.StringIO()
    print_summary(wide, Console(file=out, width=80, force_terminal=True, color_system=None))
    printed = out.getvalue()
    assert max(map(len, printed.splitlines())) <= 80
    assert "…" not in printed
    for row in rows(wide):
        for cell in row[1:]:
            assert cell in printed
    assert "12346" in printed and "12345.6" not in printed
    names = [r[0].strip("▶ ") for r in rows(wide)]
    assert names[names.index("E") + 1] == "a-colleague-with-a-very-long-name"


def test_elsewhere_than_on_a_terminal_a_line_stays_whole(summary, capsys):
    print_summary(summary)
    assert f"VERDICT    {summary.verdict}" in capsys.readouterr().out.splitlines()
