"""Readings made elsewhere: the file, the team, and agents made of them."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curbside.cases import read_cases
from curbside.errors import CasesError, ConfigError
from curbside.evals.protocol import G16, GFULL
from curbside.evals.recorded import (
    Readings,
    Team,
    about_team,
    load_team,
    read_readings,
    recorded_fleet,
)
from curbside.readings import Abstention, Failure, Reading
from curbside.study import Question

MANIFEST = """id,image,modality,role,task,label,options
c1,a.png,cxr,train,chest,well,sick|well
c2,b.png,cxr,test,chest,sick,sick|well
c3,c.png,oct,test,,,
"""


@pytest.fixture
def cases(tmp_path):
    path = tmp_path / "cases.csv"
    path.write_text(MANIFEST)
    return read_cases(path)


@pytest.fixture
def readings(tmp_path, cases):
    def of(text: str, name: str = "r.csv") -> Readings:
        path = tmp_path / name
        path.write_text(text)
        return read_readings(path, (cases,))

    return of


def test_probabilities_answers_and_abstentions(readings):
    found = readings(
        "case,agent,answer,probabilities,confidence,cost,latency_ms,status\n"
        "c1,vlm,,0.3|0.7,,2,15,\n"
        "c2,vlm,sick,,0.6,,,\n"
        "c1,net,well,,,,,\n"
        "c2,net,,,,,,abstained\n"
        "c3,net,,,,,,failed\n"
    ).by_agent
    first = found["vlm"]["c1"]
    assert isinstance(first, Reading)
    assert first.answer == "well"
    assert (first.confidence, first.cost, first.latency_ms) == (0.7, 2.0, 15.0)
    second = found["vlm"]["c2"]
    assert isinstance(second, Reading)
    assert second.answer == "sick"
    assert second.confidence == 0.6
    assert second.cost == 1.0
    assert sum(second.probabilities) == pytest.approx(1)
    assert isinstance(found["net"]["c2"], Abstention)
    assert isinstance(found["net"]["c3"], Failure)


def test_an_unsure_answer_stays_the_answer(readings):
    found = readings("case,agent,answer,confidence\nc2,vlm,sick,0.1\n").by_agent["vlm"]["c2"]
    assert isinstance(found, Reading)
    assert (found.answer, found.confidence) == ("sick", 0.1)


def test_rows_without_confidence_are_counted(readings):
    assert readings("case,agent,answer\nc1,v,sick\nc2,v,sick\n").without_confidence == 2


def test_an_image_names_a_case_where_the_manifest_has_no_ids(readings):
    assert set(readings("image,agent,answer\nb.png,v,sick\n").by_agent["v"]) == {"c2"}


def test_jsonl_and_parquet_say_the_same(tmp_path, cases):
    rows = [{"case": "c1", "agent": "v", "probabilities": [0.25, 0.75]}]
    (tmp_path / "r.jsonl").write_text(json.dumps(rows[0]))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "r.parquet")
    a = read_readings(tmp_path / "r.jsonl", (cases,))
    b = read_readings(tmp_path / "r.parquet", (cases,))
    assert a.by_agent == b.by_agent


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("zz,v,sick,,", "its case is not in the manifest"),
        ("c1,,sick,,", "no agent"),
        ("c1,v,ill,,", "answer 'ill' is none of the options sick|well"),
        ("c1,v,,0.5,", "1 probabilities for 2 options"),
        ("c1,v,,0.9|0.4,", "sum to 1, not 1.300"),
        ("c1,v,,a|b,", "must be numbers joined by"),
        ("c1,v,,nan|1,", "must be finite"),
        ("c1,v,sick,0.2|0.8,", "not the option with the highest probability"),
        ("c1,v,sick,,1.4", "confidence 1.4 must be between 0 and 1"),
        ("c1,v,sick,,high", "confidence 'high' is no number"),
    ],
)
def test_bad_rows_are_named_with_their_line(readings, row, why):
    with pytest.raises(CasesError, match="1 problem") as e:
        readings(f"case,agent,answer,probabilities,confidence\n{row}\n")
    assert why in str(e.value)
    assert e.value.problems[0].line == 2


def test_all_bad_rows_come_at_once_and_a_second_row_is_one(readings):
    with pytest.raises(CasesError, match=r"2 problem\(s\)") as e:
        readings("case,agent,answer\nc1,v,sick\nc1,v,well\nzz,v,well\n")
    assert "second row of this case" in str(e.value)


def test_columns_and_status_are_checked(readings):
    with pytest.raises(CasesError, match="needs the columns 'agent' and 'case'"):
        readings("case,model\nc1,v\n")
    with pytest.raises(CasesError, match="status 'lost' is unknown; valid: read"):
        readings("case,agent,status\nc1,v,lost\n")


def test_agents_say_what_was_recorded(readings, cases):
    found = readings(
        "case,agent,answer,confidence\nc2,vlm,sick,0.8\nc3,vlm,fluid,0.9\nc1,net,well,1\n"
    )
    team = Team(generalist="vlm", specialists={"cxr": "net"})
    fleet = recorded_fleet(found, team, cases)
    vlm = fleet.agents[GFULL]
    said = vlm.read_batch(cases.studies())
    assert isinstance(said[0], Failure)
    assert said[1].answer == "sick"
    assert fleet.tasks == {"chest": ("sick", "well")}
    assert fleet.commonest_task == {"cxr": "chest"}
    assert fleet.serving == ("net", GFULL)
    # a novel case is asked another question: that it was answered, and how surely, is kept
    from dataclasses import replace

    asked = vlm.read(replace(cases[2].study(), question=Question(options=("sick", "well"))))
    assert isinstance(asked, Reading)
    assert asked.options == ("sick", "well")
    assert asked.confidence == 0.9


def test_the_team_must_name_agents_of_the_file(readings, cases, tmp_path):
    found = readings("case,agent,answer\nc2,vlm,sick\n")
    with pytest.raises(ConfigError, match=r"specialists\.cxr = 'net' has no reading.*: vlm"):
        recorded_fleet(found, Team(generalist="vlm", specialists={"cxr": "net"}), cases)
    path = tmp_path / "team.yaml"
    path.write_text("generalist: vlm\nspecialist: {cxr: net}\n")
    with pytest.raises(ConfigError, match="unknown key 'specialist'; valid keys here: generalist"):
        load_team(path)
    path.write_text("generalist: vlm\nfew_shot: small\nspecialists: {cxr: vlm}\n")
    about, notes = about_team(load_team(path), found, "r.csv")
    assert set(about) == {"Gfull", "G16", "S"}
    assert "no agent was called" in notes[0]
    assert "without probabilities" in notes[1]


def test_a_few_shot_generalist_has_its_own_arm(readings, cases):
    found = readings("case,agent,answer\nc2,vlm,sick\nc2,small,sick\nc2,net,well\n")
    team = Team(generalist="vlm", few_shot="small", specialists={"cxr": "net"})
    assert set(recorded_fleet(found, team, cases).agents) == {GFULL, G16, "net"}
