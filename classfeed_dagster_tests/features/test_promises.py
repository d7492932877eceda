"""Every promise has a scenario that proves it, and every scenario a promise."""

from __future__ import annotations

from classfeed_dagster_tests.features.promises import PROMISES, scenarios


def test_promise_is_proven_by_a_scenario() -> None:
    proven = {promise for scenario in scenarios() for promise in scenario.proves}
    assert PROMISES.keys() - proven == set()


def test_scenario_proves_an_existing_promise() -> None:
    for scenario in scenarios():
        assert scenario.proves, scenario.title
        assert set(scenario.proves) <= PROMISES.keys(), scenario.title


def test_promises_are_sentences() -> None:
    assert len(PROMISES) >= 15
    assert all(sentence.endswith(".") for sentence in PROMISES.values())
