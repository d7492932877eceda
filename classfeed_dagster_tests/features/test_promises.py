"""Every promise has a scenario that proves it, and every scenario a promise."""

from __future__ import annotations

from classfeed_dagster_tests.features.promises import promises, told


def test_every_promise_is_proven() -> None:
    proven = {promise for scenario in told() for promise in scenario.proves}
    assert set(promises()) - proven == set()


def test_every_scenario_proves_a_promise_that_exists() -> None:
    for scenario in told():
        assert scenario.proves, scenario.title
        assert set(scenario.proves) <= promises().keys(), scenario.title


def test_promises_are_sentences() -> None:
    assert len(promises()) >= 15
    assert all(said.endswith(".") for said in promises().values())
