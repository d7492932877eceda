"""Every promise has a scenario that proves it, and every scenario a promise."""

from __future__ import annotations

from classfeed_dagster_tests.features.promises import PROMISES, scenarios


def test_every_promise_is_proven() -> None:
    proven = {promise for scenario in scenarios() for promise in scenario.proves}
    assert PROMISES.keys() - proven == set()


def test_every_scenario_proves_a_promise_that_exists() -> None:
    for scenario in scenarios():
        assert scenario.proves, scenario.title
        assert set(scenario.proves) <= PROMISES.keys(), scenario.title


def test_promises_are_sentences() -> None:
    assert len(PROMISES) >= 15
    assert all(sentence.endswith(".") for sentence in PROMISES.values())
