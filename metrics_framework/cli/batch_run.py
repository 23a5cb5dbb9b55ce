"""Running a command for each of many files: the batch behind ``metrics-framework batch run``."""

from __future__ import annotations

import glob
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from metrics_framework.batch import BatchMetrics
from metrics_framework.batch.pool import Outcome, Pool, Task
from metrics_framework.batch.progress import Progress, make_progress
from metrics_framework.cli.measure import describe_exit
from metrics_framework.cli.tables import visible
from metrics_framework.clock import SYSTEM_CLOCK
from metrics_framework.errors import InvalidInputError

PLACEHOLDER = "{}"
"""What stands for the file in a command."""

_SHOWN_FAILURES = 10
_SHOWN_LINES = 3
_MESSAGE_CHARACTERS = 500
_COMMAND_IS_WRONG = InvalidInputError.__name__


@dataclass(frozen=True)
class Job:
    """What to do for each file.

    Attributes:
        command: The program and its arguments, in which `PLACEHOLDER` is the file.
        workers: How many files at the same time.
        timeout: After how many seconds to end a command; ``None`` for never.
        retries: How often to try again.
    """

    command: Sequence[str]
    workers: int
    timeout: float | None
    retries: int

    def for_file(self, path: str) -> list[str]:
        """Return the command for a file."""
        return [part.replace(PLACEHOLDER, path) for part in self.command]


def find_files(patterns: Iterable[str]) -> list[str]:
    """Return the files that paths and patterns name, each once, in their order; no folders.

    ``**`` stands for any number of folders.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        # A path that the shell has found already may hold characters that a pattern uses.
        paths = [pattern] if Path(pattern).exists() else sorted(glob.iglob(pattern, recursive=True))  # noqa: PTH207
        found.update(dict.fromkeys(path for path in paths if not Path(path).is_dir()))
    return list(found)


def shown_name(path: str) -> str:
    """Return the name that a file is recorded by: text, also where the path is none."""
    return path.encode(errors="backslashreplace").decode()


def run_files(batch: BatchMetrics, monitor: Any, job: Job, paths: Sequence[str], title: str) -> bool:
    """Run the command for each file and record how it went.

    Args:
        batch: Where to.
        monitor: A `metrics_framework.cli.measure.CommandMonitor` that several threads may use.
        job: What to do.
        paths: The files.
        title: What the progress calls it.

    Returns:
        Whether nothing interrupted it: Ctrl-C, SIGTERM, or a command that Ctrl-C ended.

    Raises:
        InvalidInputError: If the command of the first file cannot be started; of another one, it has failed.
    """
    cancelled = Event()
    progress = make_progress(title, len(paths), SYSTEM_CLOCK)
    task = Task(_Runner(monitor, job, cancelled), 0, (), track_memory=False)
    failures = 0
    try:
        with Pool(task, job.workers, in_processes=False) as pool:
            try:
                for done, (path, outcome) in enumerate(pool.run(paths), 1):
                    if done == 1 and outcome.error_type == _COMMAND_IS_WRONG:
                        raise InvalidInputError(outcome.error_message)
                    failed = _record(batch, shown_name(path), outcome)
                    if failed:
                        failures += 1
                        if failures <= _SHOWN_FAILURES:
                            _show_failure(progress, failed)
                    progress.update(done, failures)
            finally:
                cancelled.set()
    except KeyboardInterrupt:
        return False
    finally:
        progress.stop()
    return True


class _Runner:
    """Runs the command for one file, in a thread of the pool."""

    def __init__(self, monitor: Any, job: Job, cancelled: Event) -> None:
        self._monitor = monitor
        self._job = job
        self._cancelled = cancelled

    def __call__(self, path: str) -> Any:
        for _ in range(self._job.retries):
            try:
                run = self._once(path)
            except TimeoutError:
                continue
            if run.exit_code in (0, -signal.SIGINT):
                return run
        return self._once(path)

    def _once(self, path: str) -> Any:
        return self._monitor.run(
            self._job.for_file(path), timeout=self._job.timeout, cancelled=self._cancelled
        )


@dataclass(frozen=True)
class _Failure:
    name: str
    error_type: str
    message: str


def _record(batch: BatchMetrics, name: str, outcome: Outcome) -> _Failure | None:
    """Record how a command went, and return how it failed."""
    if outcome.status == "error":
        if outcome.error_type == InterruptedError.__name__:
            raise KeyboardInterrupt
        failure = _Failure(name, str(outcome.error_type), str(outcome.error_message))
        batch.record_error(name, failure.error_type, failure.message, outcome.duration)
        return failure
    run = outcome.value
    if run.exit_code == -signal.SIGINT:  # it had the same Ctrl-C as we have, or are about to
        raise KeyboardInterrupt
    if run.exit_code == 0:
        batch.record_file(name, duration=run.seconds, memory_peak=run.peak_rss)
        return None
    failure = _Failure(name, describe_exit(run.exit_code), run.error_output.strip()[-_MESSAGE_CHARACTERS:])
    batch.record_file(
        name,
        duration=run.seconds,
        status="error",
        error_type=failure.error_type,
        error_message=failure.message,
        memory_peak=run.peak_rss,
    )
    return failure


def _show_failure(progress: Progress, failure: _Failure) -> None:
    progress.say(visible(f"{failure.name}: {failure.error_type}"))
    for line in failure.message.splitlines()[-_SHOWN_LINES:]:
        progress.say(visible(f"  {line}"))


def not_done(batch: BatchMetrics, paths: Iterable[str]) -> Iterator[str]:
    """Yield the files that the batch has not done in an earlier session."""
    return batch.remaining(paths, name=shown_name)
