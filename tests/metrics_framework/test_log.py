"""Log events use structlog if the application configured it, otherwise the standard library."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from metrics_framework import log
from metrics_framework.log import Isolation, LogOnce, log_event


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter without any configuration."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_events_reach_the_standard_logger(caplog):
    """Without configuration an event is a record of the logger `metrics_framework`, with its fields."""
    with caplog.at_level(logging.INFO, logger="metrics_framework"):
        log_event("info", "something happened", number=3, name="a b")
    record = caplog.records[-1]
    assert (record.name, record.levelname) == ("metrics_framework", "INFO")
    assert record.getMessage() == "event='something happened' number=3 name='a b'"


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_levels_are_those_of_the_standard_library(caplog, level):
    """An event of a level is a record of that level."""
    with caplog.at_level(logging.DEBUG, logger="metrics_framework"):
        log_event(level, "something happened")
    assert [record.levelname for record in caplog.records] == [level.upper()]


def test_the_standard_loggers_level_filters(caplog):
    """Events below the logger's level do not reach its handlers."""
    with caplog.at_level(logging.ERROR, logger="metrics_framework"):
        log_event("warning", "something happened")
    assert caplog.records == []


@pytest.mark.slow
def test_an_event_that_is_not_logged_costs_no_import():
    """structlog, which is slow to import, is imported by the first event whose level is enabled."""
    run(
        "import sys\n"
        "from metrics_framework.log import log_event\n"
        "log_event('info', 'nothing happened')\n"
        "assert 'structlog' not in sys.modules\n"
        "log_event('warning', 'it happened')\n"
        "assert 'structlog' in sys.modules\n"
    )


@pytest.mark.slow
def test_a_structlog_that_is_configured_later_gets_all_levels():
    """Events that an unconfigured logger drops reach structlog once it is configured."""
    done = run(
        "from metrics_framework.log import log_event\n"
        "log_event('debug', 'before')\n"
        "import structlog\n"
        "structlog.configure(processors=[structlog.processors.JSONRenderer()])\n"
        "log_event('debug', 'after')\n"
    )
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == ["after"]


@pytest.mark.slow
def test_nothing_is_printed_to_standard_output():
    """Without configuration a warning goes to standard error, so that pipes stay valid."""
    done = run("from metrics_framework.log import log_event\nlog_event('warning', 'it happened', number=3)")
    assert done.stdout == ""
    assert "it happened" in done.stderr
    assert "number=3" in done.stderr


@pytest.mark.slow
def test_structlog_stays_unconfigured():
    """Logging an event does not change structlog's configuration."""
    done = run(
        "import structlog\n"
        "from metrics_framework.log import log_event\n"
        "before = structlog.get_config()\n"
        "log_event('warning', 'it happened')\n"
        "assert not structlog.is_configured()\n"
        "assert structlog.get_config() == before\n"
    )
    assert done.stdout == ""


@pytest.mark.slow
def test_a_configured_structlog_is_used_as_it_is():
    """The application's processors process the event, and its logger prints it."""
    done = run(
        "import logging, structlog\n"
        "from metrics_framework.log import log_event\n"
        "logging.basicConfig(level=logging.DEBUG)\n"
        "structlog.configure(processors=[structlog.processors.add_log_level,"
        " structlog.processors.JSONRenderer()])\n"
        "before = structlog.get_config()\n"
        "log_event('warning', 'it happened', number=3)\n"
        "assert structlog.get_config() == before\n"
    )
    assert json.loads(done.stdout) == {"event": "it happened", "level": "warning", "number": 3}
    assert done.stderr == ""


@pytest.mark.slow
def test_a_configuration_that_comes_later_is_used():
    """An application may configure structlog after the library has logged."""
    done = run(
        "import structlog\n"
        "from metrics_framework.log import log_event\n"
        "log_event('warning', 'first')\n"
        "structlog.configure(processors=[structlog.processors.JSONRenderer()])\n"
        "log_event('warning', 'second')\n"
    )
    assert json.loads(done.stdout) == {"event": "second"}
    assert "first" in done.stderr


@pytest.mark.slow
def test_structlog_is_imported_by_the_first_event():
    """A program that never logs does not import structlog."""
    run(
        "import sys\n"
        "from metrics_framework.log import log_event\n"
        "assert 'structlog' not in sys.modules\n"
        "log_event('warning', 'it happened')\n"
        "assert 'structlog' in sys.modules\n"
    )


# -- logging that raises -----------------------------------------------------------------------------------


class RaisingHandler(logging.Handler):
    """A handler of the application that fails."""

    def emit(self, record: logging.LogRecord) -> None:
        """Raise an error whose text has two lines."""
        raise OSError("the log server\nis gone")


@pytest.fixture
def raising_handler():
    """Add a handler that raises to the library's logger."""
    handler = RaisingHandler()
    logging.getLogger("metrics_framework").addHandler(handler)
    yield
    logging.getLogger("metrics_framework").removeHandler(handler)


def test_a_handler_that_raises_costs_one_line_on_standard_error(raising_handler, capsys):
    """The caller sees no exception; the line names the error and the event that was dropped."""
    log_event("warning", "something happened")
    log_event("warning", "something else happened")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "OSError('the log server\\nis gone')" in lines[0]
    assert "something happened" in lines[0]
    assert "something else happened" in lines[1]
    first, second = (int(line.rpartition("dropped so far: ")[2]) for line in lines)
    assert second == first + 1


@pytest.mark.slow
def test_a_structlog_processor_that_raises_costs_one_line_on_standard_error():
    """The same holds if the application configured structlog, also for its bound loggers and renderers."""
    done = run(
        "import structlog\n"
        "from metrics_framework.log import log_event\n"
        "def fail(logger, method, event): raise KeyError('request_id')\n"
        "structlog.configure(processors=[fail])\n"
        "log_event('error', 'it happened', number=3)\n"
        "print('goes on')\n"
    )
    assert done.stdout == "goes on\n"
    assert len(done.stderr.splitlines()) == 1
    assert "KeyError('request_id')" in done.stderr
    assert "it happened" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("stderr", ["None", "open(os.devnull)"])
def test_logging_that_raises_without_standard_error_is_silent(stderr):
    """A program without a standard error, or with one that refuses text, loses the event only."""
    done = run(
        "import os, sys, structlog\n"
        "from metrics_framework.log import log_event\n"
        "structlog.configure(processors=[lambda *_: 1 / 0])\n"
        f"sys.stderr = {stderr}\n"
        "log_event('error', 'it happened')\n"
        "print('goes on')\n"
    )
    assert done.stdout == "goes on\n"


def test_an_interrupt_inside_logging_reaches_the_caller(monkeypatch):
    """`KeyboardInterrupt` and `SystemExit` are not faults of the application's logging."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(log, "_logger", interrupt)
    with pytest.raises(KeyboardInterrupt):
        log_event("warning", "something happened")


# -- once --------------------------------------------------------------------------------------------------


def test_an_event_is_logged_once_for_the_same_fields(caplog):
    """Other fields are another event."""
    once = LogOnce(output="statsd")
    for number in (1, 1, 2):
        once.log("warning", "left out", number=number)
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [f"event='left out' output='statsd' number={number}" for number in (1, 2)]


def test_fields_that_change_do_not_repeat_an_event(caplog):
    """What identifies the event may be given apart from its details."""
    once = LogOnce()
    for number in (1, 2):
        once.log("warning", "left out", once_for="kind", number=number)
    once.log("warning", "left out", once_for="other kind", number=3)
    assert [record.getMessage()[-1] for record in caplog.records] == ["1", "3"]


def test_the_number_of_logged_events_is_limited(caplog, monkeypatch):
    """Fields without an end, such as names of users, do not fill the log or the memory."""
    monkeypatch.setattr(log, "MAX_LOGGED_ONCE", 3)
    once = LogOnce()
    for number in range(10):
        once.log("warning", "left out", number=number)
    assert len(caplog.records) == 3


# -- isolation ---------------------------------------------------------------------------------------------


def test_a_result_is_returned(caplog):
    """A call that succeeds returns the result of the function and logs nothing."""
    assert Isolation().call("not read", lambda: 3) == 3
    assert caplog.records == []


def test_a_failure_is_logged_once_until_it_works_again(caplog):
    """Each kind of failure, identified by its fields, is logged the first time and after a success."""
    isolation = Isolation()

    def fail() -> None:
        raise ValueError("broken")

    for _ in range(3):
        assert isolation.call("not read", fail, part="a") is None
    assert len(caplog.records) == 1
    assert "broken" in caplog.text
    isolation.call("not read", fail, part="b")
    assert len(caplog.records) == 2
    isolation.call("not read", lambda: 1, part="a")
    isolation.call("not read", fail, part="b")
    isolation.call("not read", fail, part="a")
    assert len(caplog.records) == 3


def test_an_error_without_a_repr_is_isolated(caplog):
    """An exception whose `repr` raises is logged by the name of its type."""

    class Opaque(Exception):
        def __repr__(self) -> str:
            raise RuntimeError

    def fail() -> None:
        raise Opaque

    assert Isolation().call("not read", fail) is None
    assert "<Opaque>" in caplog.text


def test_an_interrupt_is_not_isolated():
    """`KeyboardInterrupt` ends the program."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Isolation().call("not read", interrupt)
