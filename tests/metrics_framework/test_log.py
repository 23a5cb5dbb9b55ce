"""Log events: through structlog where the application configured it, else through the standard library."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from metrics_framework.log import log_event


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter that nothing has been configured in."""
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
    """What the application does not want to hear does not reach its handlers."""
    with caplog.at_level(logging.ERROR, logger="metrics_framework"):
        log_event("warning", "something happened")
    assert caplog.records == []


def test_nothing_is_printed_to_standard_output():
    """In a program that configured nothing a warning goes to standard error: a pipe is not spoiled."""
    done = run("from metrics_framework.log import log_event\nlog_event('warning', 'it happened', number=3)")
    assert done.stdout == ""
    assert "it happened" in done.stderr
    assert "number=3" in done.stderr


def test_structlog_stays_unconfigured():
    """Logging an event leaves structlog's configuration as it was found."""
    done = run(
        "import structlog\n"
        "from metrics_framework.log import log_event\n"
        "before = structlog.get_config()\n"
        "log_event('warning', 'it happened')\n"
        "assert not structlog.is_configured()\n"
        "assert structlog.get_config() == before\n"
    )
    assert done.stdout == ""


def test_a_configured_structlog_is_used_as_it_is():
    """Where the application configured structlog, its processors see the event and its logger prints it."""
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


def test_a_configuration_that_comes_later_is_used():
    """An application may configure structlog after the library has logged already."""
    done = run(
        "import structlog\n"
        "from metrics_framework.log import log_event\n"
        "log_event('warning', 'first')\n"
        "structlog.configure(processors=[structlog.processors.JSONRenderer()])\n"
        "log_event('warning', 'second')\n"
    )
    assert json.loads(done.stdout) == {"event": "second"}
    assert "first" in done.stderr


def test_structlog_is_imported_by_the_first_event():
    """A program that never logs does not pay for importing structlog."""
    run(
        "import sys\n"
        "from metrics_framework.log import log_event\n"
        "assert 'structlog' not in sys.modules\n"
        "log_event('warning', 'it happened')\n"
        "assert 'structlog' in sys.modules\n"
    )
