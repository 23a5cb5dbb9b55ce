"""Timers and trackers that are wrong in one way each."""

# ruff: noqa: D101, D102 - the name of a mutant states its fault

from __future__ import annotations

import time
from datetime import timedelta

from factories import contracts_of

from metrics_adapters.in_memory import InMemoryTimer, InMemoryTracker
from metrics_framework.errors import InvalidInputError, UnknownMetricError, UnknownTimerError
from metrics_framework.recording import Store
from metrics_framework.values import MetricUnit


class DurationInSeconds(InMemoryTimer):
    def stop_timer(self, timer_id, success=True):
        result = super().stop_timer(timer_id, success)
        result.duration /= 1_000
        return result


class UnitIsSeconds(InMemoryTimer):
    def stop_timer(self, timer_id, success=True):
        result = super().stop_timer(timer_id, success)
        result.unit = MetricUnit.SECONDS
        return result


class RecordsSeconds(InMemoryTimer):
    """The result is right, the statistics are in seconds."""

    def get_timing_stats(self, operation_name):
        stats = super().get_timing_stats(operation_name)
        plain = ("count", "rate", "seconds")
        return {key: value if key in plain else value / 1_000 for key, value in stats.items()}


class StopsTwice(InMemoryTimer):
    def __init__(self, store):
        super().__init__(store)
        self.stopped = {}

    def stop_timer(self, timer_id, success=True):
        if timer_id in self.stopped:
            return self.stopped[timer_id]
        self.stopped[timer_id] = super().stop_timer(timer_id, success)
        return self.stopped[timer_id]


class StopsAnything(InMemoryTimer):
    def stop_timer(self, timer_id, success=True):
        try:
            return super().stop_timer(timer_id, success)
        except UnknownTimerError:
            return None


class PlainKeyError(InMemoryTimer):
    def stop_timer(self, timer_id, success=True):
        try:
            return super().stop_timer(timer_id, success)
        except UnknownTimerError as error:
            raise KeyError(str(error)) from None


class OneIdForAll(InMemoryTimer):
    def __init__(self, store):
        super().__init__(store)
        self.newest = {}

    def start_timer(self, operation_name, metadata=None):
        self.newest[operation_name] = super().start_timer(operation_name, metadata)
        return operation_name

    def stop_timer(self, timer_id, success=True):
        return super().stop_timer(self.newest.pop(timer_id, timer_id), success)


class LastInFirstOut(InMemoryTimer):
    """Stops the newest timer, whichever was meant."""

    def __init__(self, store):
        super().__init__(store)
        self.running = {}

    def start_timer(self, operation_name, metadata=None):
        timer_id = super().start_timer(operation_name, metadata)
        self.running[timer_id] = timer_id
        return timer_id

    def stop_timer(self, timer_id, success=True):
        if timer_id in self.running:
            newest = next(reversed(self.running))
            self.running[newest], self.running[timer_id] = self.running[timer_id], self.running[newest]
        return super().stop_timer(self.running.pop(timer_id, timer_id), success)


class AlwaysSucceeds(InMemoryTimer):
    def stop_timer(self, timer_id, success=True):
        return super().stop_timer(timer_id, True)


class SkipsFailures(InMemoryTimer):
    """A failure's time is not recorded."""

    def __init__(self, store):
        super().__init__(store)
        self.elsewhere = InMemoryTimer(Store(store.clock))
        self.ids = {}

    def start_timer(self, operation_name, metadata=None):
        timer_id = super().start_timer(operation_name, metadata)
        self.ids[timer_id] = self.elsewhere.start_timer(operation_name, metadata)
        return timer_id

    def stop_timer(self, timer_id, success=True):
        twin = self.ids.pop(timer_id, timer_id)
        return super().stop_timer(timer_id) if success else self.elsewhere.stop_timer(twin, success)


class ForgetsMetadata(InMemoryTimer):
    def start_timer(self, operation_name, metadata=None):
        return super().start_timer(operation_name)


class KeepsMetadata(InMemoryTimer):
    """Holds on to the caller's dict."""

    def __init__(self, store):
        super().__init__(store)
        self.given = {}

    def start_timer(self, operation_name, metadata=None):
        timer_id = super().start_timer(operation_name, metadata)
        self.given[timer_id] = {} if metadata is None else metadata
        return timer_id

    def stop_timer(self, timer_id, success=True):
        result = super().stop_timer(timer_id, success)
        result.metadata = self.given.pop(timer_id)
        return result


class ResultIntoTheCallersDict(InMemoryTimer):
    def time_operation(self, operation_name, operation, metadata=None):
        result = super().time_operation(operation_name, operation, metadata)
        if metadata is not None:
            metadata["result"] = result.metadata["result"]
        return result


class NoResult(InMemoryTimer):
    def time_operation(self, operation_name, operation, metadata=None):
        result = super().time_operation(operation_name, operation, metadata)
        del result.metadata["result"]
        return result


class ResultAlone(InMemoryTimer):
    def time_operation(self, operation_name, operation, metadata=None):
        result = super().time_operation(operation_name, operation, metadata)
        result.metadata = {"result": result.metadata["result"]}
        return result


class SwallowsErrors(InMemoryTimer):
    def time_operation(self, operation_name, operation, metadata=None):
        timer_id = self.start_timer(operation_name, metadata)
        try:
            operation()
        except Exception:  # noqa: BLE001 - the fault of this mutant
            return self.stop_timer(timer_id, False)
        return super().time_operation(operation_name, operation, metadata)


class WrapsErrors(InMemoryTimer):
    def time_operation(self, operation_name, operation, metadata=None):
        try:
            return super().time_operation(operation_name, operation, metadata)
        except KeyError as error:
            raise KeyError("wrapped") from error


class ForgetsInterrupts(InMemoryTimer):
    """The time of what ends by Ctrl-C is not recorded."""

    def time_operation(self, operation_name, operation, metadata=None):
        timer_id = self.start_timer(operation_name, metadata)
        try:
            value = operation()
        except Exception:
            self.stop_timer(timer_id, False)
            raise
        result = self.stop_timer(timer_id)
        result.metadata["result"] = value
        return result


class CallsTwice(InMemoryTimer):
    def time_operation(self, operation_name, operation, metadata=None):
        operation()
        return super().time_operation(operation_name, operation, metadata)


class CallsBeforeItChecks(InMemoryTimer):
    def time_operation(self, operation_name, operation, metadata=None):
        if not isinstance(operation_name, str) or not operation_name:
            operation()
        return super().time_operation(operation_name, operation, metadata)


class CountsRunning(InMemoryTimer):
    """A timer counts from its start."""

    def start_timer(self, operation_name, metadata=None):
        self.store.find_timing(operation_name).observe(0.0)
        return super().start_timer(operation_name, metadata)


class StartAndEndSwapped(InMemoryTimer):
    def stop_timer(self, timer_id, success=True):
        result = super().stop_timer(timer_id, success)
        result.start_time, result.end_time = result.end_time, result.start_time
        return result


class LocalTime(InMemoryTimer):
    def stop_timer(self, timer_id, success=True):
        result = super().stop_timer(timer_id, success)
        result.start_time = result.start_time.replace(tzinfo=None)
        result.end_time = result.end_time.replace(tzinfo=None)
        return result


class EmptyStats(InMemoryTimer):
    """Unknown operations have a rate of zero."""

    def get_timing_stats(self, operation_name):
        try:
            return super().get_timing_stats(operation_name)
        except UnknownMetricError:
            return {"count": 0, "seconds": 0.0, "sum": 0.0, "rate": 0.0}


class RateIsTheSum(InMemoryTimer):
    def get_timing_stats(self, operation_name):
        stats = super().get_timing_stats(operation_name)
        return {**stats, "rate": stats["sum"] / stats["seconds"] if stats["seconds"] else 0.0}


class OneOperation(InMemoryTimer):
    def start_timer(self, operation_name, metadata=None):
        known = isinstance(operation_name, str) and operation_name == "other"
        return super().start_timer("one" if known else operation_name, metadata)


class MetadataMakesOperations(InMemoryTracker):
    def record_success(self, operation, metadata=None):
        suffix = f".{metadata['user']}" if metadata else ""
        super().record_success(operation + suffix if isinstance(operation, str) and suffix else operation)


class PercentNotShare(InMemoryTracker):
    def get_success_rate(self, operation, time_window=None):
        return 100 * super().get_success_rate(operation, time_window)


class FailureRate(InMemoryTracker):
    def get_success_rate(self, operation, time_window=None):
        return 1.0 - super().get_success_rate(operation, time_window)


class EmptyIsZero(InMemoryTracker):
    """A window without events has a success rate of 0."""

    def get_success_rate(self, operation, time_window=None):
        outcomes = self.store.outcomes(operation, time_window)
        return outcomes.success_rate if outcomes.count else 0.0


class UnknownIsFine(InMemoryTracker):
    def get_success_rate(self, operation, time_window=None):
        try:
            return super().get_success_rate(operation, time_window)
        except UnknownMetricError:
            return 1.0


class UnknownHasNoFailures(InMemoryTracker):
    def get_failure_breakdown(self, operation, time_window=None):
        try:
            return super().get_failure_breakdown(operation, time_window)
        except UnknownMetricError:
            return {}


class NoHint(InMemoryTracker):
    def get_success_rate(self, operation, time_window=None):
        try:
            return super().get_success_rate(operation, time_window)
        except UnknownMetricError:
            raise UnknownMetricError("unknown operation") from None


class RateForgetsWindows(InMemoryTracker):
    def get_success_rate(self, operation, time_window=None):
        super().get_success_rate(operation, time_window)
        return super().get_success_rate(operation)


class BreakdownForgetsWindows(InMemoryTracker):
    def get_failure_breakdown(self, operation, time_window=None):
        super().get_failure_breakdown(operation, time_window)
        return super().get_failure_breakdown(operation)


class WindowOfMinutes(InMemoryTracker):
    """Takes seconds for minutes."""

    def get_success_rate(self, operation, time_window=None):
        if isinstance(time_window, timedelta):
            time_window *= 60
        return super().get_success_rate(operation, time_window)


class BackwardsWindow(InMemoryTracker):
    def get_success_rate(self, operation, time_window=None):
        if isinstance(time_window, timedelta):
            time_window = abs(time_window) or None
        return super().get_success_rate(operation, time_window)


class WindowInSeconds(InMemoryTracker):
    def get_failure_breakdown(self, operation, time_window=None):
        if isinstance(time_window, int):
            time_window = timedelta(seconds=time_window)
        return super().get_failure_breakdown(operation, time_window)


class ZerosInBreakdown(InMemoryTracker):
    def get_failure_breakdown(self, operation, time_window=None):
        kinds = super().get_failure_breakdown(operation)
        return dict.fromkeys(kinds, 0) | super().get_failure_breakdown(operation, time_window)


class KindsTogether(InMemoryTracker):
    def get_failure_breakdown(self, operation, time_window=None):
        found = super().get_failure_breakdown(operation, time_window)
        return {min(found): sum(found.values())} if found else {}


class KindOnce(InMemoryTracker):
    """Says which kinds there were, not how many."""

    def get_failure_breakdown(self, operation, time_window=None):
        return dict.fromkeys(super().get_failure_breakdown(operation, time_window), 1)


class OpenBreakdown(InMemoryTracker):
    """Hands out its own dict."""

    def __init__(self, store):
        super().__init__(store)
        self.answers = {}

    def get_failure_breakdown(self, operation, time_window=None):
        found = super().get_failure_breakdown(operation, time_window)
        total, answer = self.answers.setdefault((operation, time_window), (sum(found.values()), found))
        return answer if total == sum(found.values()) else found


class AnyErrorType(InMemoryTracker):
    def record_failure(self, operation, error_type, metadata=None):
        super().record_failure(operation, error_type or "unknown", metadata)


class CountsThenChecks(InMemoryTracker):
    def record_failure(self, operation, error_type, metadata=None):
        try:
            super().record_failure(operation, error_type, metadata)
        except InvalidInputError:
            if isinstance(operation, str) and operation:
                super().record_failure(operation, "invalid")
            raise


class RacyTracker(InMemoryTracker):
    busy = False

    def record_success(self, operation, metadata=None):
        if not self.busy:
            self.busy = True
            time.sleep(0)
            super().record_success(operation, metadata)
            self.busy = False


globals().update(contracts_of(globals()))
