"""Creates test classes for mutants: a contract of the kit, on our adapters with one mutant among them."""

from __future__ import annotations

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_framework.recording import Store
from metrics_framework.testing import conformance
from metrics_framework.testing.conformance import Parts

CONTRACTS = {
    InMemoryCollector: conformance.MetricCollectorContract,
    InMemoryTimer: conformance.PerformanceTimerContract,
    InMemoryTracker: conformance.SuccessFailureTrackerContract,
    InMemoryAggregator: conformance.MetricsAggregatorContract,
}


class MutantFactory:
    """Creates the four parts on one store. One part is a mutant."""

    mutant: type

    def make(self, clock):
        """Create them."""
        store = Store(clock)
        kinds = (self.mutant if issubclass(self.mutant, kind) else kind for kind in CONTRACTS)
        return Parts(*(kind(store) for kind in kinds))


def contracts_of(namespace):
    """Return a test class for each subclass of an adapter in a module's namespace."""
    found = {}
    for name, value in list(namespace.items()):
        if isinstance(value, type) and value not in CONTRACTS:
            for kind, contract in CONTRACTS.items():
                if issubclass(value, kind):
                    found[f"Test{name}"] = type(f"Test{name}", (MutantFactory, contract), {"mutant": value})
    return found
