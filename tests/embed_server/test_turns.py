"""How many SQL queries run at once, and what becomes of the others."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import requests

from embed_server.errors import TooManyQueriesError
from embed_server.service import Service
from embed_server.settings import Settings
from embed_server.turns import MOST_WAITING, Turns

TIMEOUT_S = 60


def test_beyond_the_limit_a_query_is_refused() -> None:
    turns = Turns(2, wait_s=0.0)
    refused = pytest.raises(TooManyQueriesError, match=r"at once \(2\).*within 0 s.*MAX_SQL")
    with turns.turn(), turns.turn(), refused, turns.turn():
        pass
    with turns.turn(), turns.turn():
        pass


def test_a_failed_query_gives_its_turn_back() -> None:
    turns = Turns(1, wait_s=0.0)
    with pytest.raises(ValueError, match="failed"), turns.turn():
        raise ValueError("failed")
    with turns.turn():
        pass


def test_who_waits_gets_the_turn_that_is_given_back() -> None:
    turns = Turns(1, wait_s=TIMEOUT_S)
    first, done = turns.turn(), threading.Event()

    def wait() -> None:
        with turns.turn():
            done.set()

    first.__enter__()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(wait)
        assert not done.is_set()
        first.__exit__(None, None, None)
        waiting.result(TIMEOUT_S)
    assert done.is_set()


def test_few_wait_so_that_searches_have_threads() -> None:
    turns = Turns(1, wait_s=TIMEOUT_S)
    with ExitStack() as held, ThreadPoolExecutor(MOST_WAITING + 1) as threads:
        held.enter_context(turns.turn())

        def wait() -> bool:
            try:
                with turns.turn():
                    return True
            except TooManyQueriesError:
                held.close()  # One was refused while all others waited: let them go on.
                return False

        answers = [threads.submit(wait) for _ in range(MOST_WAITING + 1)]
        results = sorted(each.result(TIMEOUT_S) for each in answers)
    assert results == [False, *[True] * MOST_WAITING]


def test_the_server_says_when_too_many_queries_run(
    running: Callable[..., Any], make_settings: Callable[..., Settings]
) -> None:
    with running(make_settings(max_sql=1, sql_wait_s=0)) as (settings, app):
        service: Service = app.state.service
        token = settings.security.token.get_secret_value()

        def ask() -> requests.Response:
            return requests.post(
                f"{settings.server.url}/sql",
                json={"query": "SELECT count(*) AS n FROM valley"},
                headers={"Authorization": f"Bearer {token}"},
                timeout=TIMEOUT_S,
            )

        with service.sql_turns.turn():
            refused = ask()
        answered = ask()
    assert refused.status_code == 429
    assert refused.json()["code"] == "too-many-queries"
    assert refused.headers["Retry-After"] == "10"
    assert answered.json()["columns"] == ["n"]
