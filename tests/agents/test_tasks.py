"""Which tasks labelled cases pose: all options that any offers, the commonest task first."""

from __future__ import annotations

from curbside.agents.tasks import options_by_task, tasks_by_modality


def test_options_are_all_that_any_case_offers_in_the_order_of_first_appearance() -> None:
    offers = [("t", ("b", "a")), ("u", ("x",)), ("t", ("a", "c")), ("t", ("b",))]
    assert options_by_task(offers) == {"t": ("b", "a", "c"), "u": ("x",)}
    assert options_by_task([]) == {}


def test_tasks_come_by_modality_the_commonest_first_and_then_by_name() -> None:
    pairs = [("ct", "z"), ("ct", "a"), ("ct", "z"), ("ct", "b"), ("xray", "t")]
    assert tasks_by_modality(pairs) == {"ct": ("z", "a", "b"), "xray": ("t",)}
