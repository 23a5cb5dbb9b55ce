"""The incremental writer: its text equals that of a registry, and only changes are rendered again."""

from __future__ import annotations

import gc
import math
import threading
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from metrics_adapters.in_memory import (
    InMemoryAggregator,
    InMemoryCollector,
    InMemoryTimer,
    InMemoryTracker,
)
from metrics_adapters.prometheus import PrometheusCollector
from metrics_adapters.prometheus.targets import Exposition
from metrics_framework.clock import ManualClock
from metrics_framework.exposition import incremental
from metrics_framework.exposition.families import ExposedFamilies, FamilyReader
from metrics_framework.exposition.incremental import BLOCK_LINES, MetricText
from metrics_framework.exposition.names import Escaping
from metrics_framework.exposition.text import Format, NumberWriter, family_text
from metrics_framework.recording import Budgets, Store
from metrics_framework.values import MetricUnit

PARSERS = {Format.TEXT: parse_text, Format.OPENMETRICS: parse_openmetrics}


def parsed(text: bytes, format: Format) -> dict[str, tuple]:
    """Return each family of a text with its samples, as the parser of prometheus_client reads them."""
    families = {}
    for family in PARSERS[format](text.decode()):
        samples = {
            (sample.name, frozenset(sample.labels.items())): float(sample.value) for sample in family.samples
        }
        assert len(samples) == len(family.samples), "a series is there twice"
        assert family.name not in families, "a family is there twice"
        families[family.name] = (family.type, family.documentation, family.unit, samples)
    return families


def ours(exposition: Exposition, format: Format = Format.TEXT) -> dict[str, tuple]:
    """Return the families of an exposition."""
    return parsed(exposition.render(format), format)


def theirs(store: Store, format: Format) -> dict[str, tuple]:
    """Return the families of the same store on a registry, rendered by prometheus_client."""
    registry = CollectorRegistry()
    PrometheusCollector(registry, store)
    render = openmetrics.generate_latest if format is Format.OPENMETRICS else generate_latest
    return parsed(render(registry), format)


@pytest.fixture
def store() -> Store:
    """Return a store with the settings of a PrometheusCollector."""
    return PrometheusCollector(CollectorRegistry(), Store(ManualClock())).store


@pytest.fixture
def collector(store) -> InMemoryCollector:
    """Return a collector of the store."""
    return InMemoryCollector(store)


@pytest.fixture
def written(monkeypatch) -> list[int]:
    """Return a list to which the sizes of rendered blocks of counters and gauges are appended."""
    sizes: list[int] = []
    original = NumberWriter.render

    def render(writer, prepared, series, format):
        sizes.append(len(series))
        return original(writer, prepared, series, format)

    monkeypatch.setattr(NumberWriter, "render", render)
    return sizes


# -- content -----------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=()), max_size=8) | st.sampled_from(
    ['"', "\\", "\n", "%", "%s", "%%", "\0", "\ud800", '"} 1\n# EOF\nx{y="', "a;b", "", "é", "le", "{", ","]
)
TAGS = st.dictionaries(TEXTS.filter(bool), TEXTS, max_size=3)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**30), 10**30)
POSITIVE = st.floats(0, allow_nan=False, allow_infinity=False) | st.integers(0, 10**30)
UNITS = st.sampled_from([None, MetricUnit.KILOBYTES, MetricUnit.MILLISECONDS, MetricUnit.PERCENT])


@st.composite
def records(draw):
    """Return records of every kind, as functions that take the three recorders."""
    name, tags = draw(TEXTS.filter(bool)), draw(TAGS)
    kind = draw(st.sampled_from(["counter", "gauge", "histogram", "timer", "timing", "success", "failure"]))
    if kind == "counter":
        number = draw(POSITIVE)
        return lambda collector, timer, tracker: collector.record_counter(f"c.{name}", number, tags)
    if kind == "gauge":
        number = draw(NUMBERS)
        return lambda collector, timer, tracker: collector.record_gauge(f"g.{name}", number, tags)
    if kind == "histogram":
        number = draw(NUMBERS)
        return lambda collector, timer, tracker: collector.record_histogram(f"h.{name}", number, tags)
    if kind == "timer":
        number = draw(st.floats(0, 1e6))
        return lambda collector, timer, tracker: collector.record_timer(f"t.{name}", number, tags=tags)
    if kind == "timing":
        return lambda collector, timer, tracker: timer.time_operation(f"o.{name}", int)
    if kind == "success":
        return lambda collector, timer, tracker: tracker.record_success(f"o.{name}")
    error = draw(TEXTS.filter(bool))
    return lambda collector, timer, tracker: tracker.record_failure(f"o.{name}", error)


BOUNDS = st.lists(NUMBERS.filter(lambda bound: abs(bound) < 1e300), min_size=1, max_size=4, unique_by=float)


@settings(deadline=None, max_examples=80)
@given(
    st.lists(records(), max_size=20),
    st.dictionaries(st.sampled_from(["service", "le", "a"]), TEXTS, max_size=2),
    st.lists(st.tuples(TEXTS, UNITS, st.just(()) | BOUNDS.map(sorted)), max_size=3),
    st.booleans(),
)
def test_every_writer_writes_the_same_text(calls, constants, descriptions, is_registered):
    """The incremental writer, the plain writer and a registry agree.

    This holds for any records, names, tags, constant tags, units, bounds, error types and help texts.
    """
    store = Store(ManualClock(), tags=constants, on_error="log")
    if is_registered:  # otherwise names may collide
        PrometheusCollector(CollectorRegistry(), store)
    exposition, reader = Exposition(store), FamilyReader(ExposedFamilies(store))
    parts = InMemoryCollector(store), InMemoryTimer(store), InMemoryTracker(store)
    for call in calls:
        call(*parts)
        list(reader.families())
        for format in Format:
            exposition.render(format)  # each scrape reuses the text of the one before
    names = {named.name for named, _ in store.metrics()}
    for name, (help_text, unit, buckets) in zip(sorted(names), descriptions, strict=False):
        store.describe(name, help=help_text, unit=unit, buckets=buckets)
    for format in Format:
        plain = "".join(family_text(family, format) for family in reader.families())
        assert exposition.render(format) == plain.encode() + format.end
        ours(exposition, format)  # prometheus_client can read it
    if is_registered:
        assert ours(exposition) == theirs(store, Format.TEXT)
    aggregator = InMemoryAggregator(store)
    assert aggregator.export_metrics("prometheus").encode() == exposition.render()


@pytest.mark.parametrize("format", Format)
def test_both_formats_end_correctly(collector, format):
    """An empty store gives an empty text; OpenMetrics ends in exactly one `# EOF`."""
    exposition = Exposition(collector.store)
    assert exposition.render(format) == format.end
    collector.increment("hits")
    assert exposition.render(format).count(b"# EOF") == (format is Format.OPENMETRICS)


def test_numbers_beyond_floats_are_infinite(collector):
    """A number that no float can represent is written as infinity."""
    collector.record_counter("big", 1e308, {"a": "b"})
    collector.record_counter("big", 1e308, {"a": "b"})
    collector.record_counter("big", 5, {"a": "c"})
    collector.record_counter("huge", 10**308)
    collector.record_counter("huge", 10**308)
    text = Exposition(collector.store).render().decode()
    assert 'big_total{a="b"} +Inf\n' in text
    assert 'big_total{a="c"} 5\n' in text
    samples = parsed(text.encode(), Format.TEXT)["huge"][3]
    assert list(samples.values()) == [math.inf]


def test_a_described_metric_has_its_text_and_unit_at_the_next_scrape(collector):
    """Help, unit and name follow the description, even if it is set late."""
    exposition = Exposition(collector.store)
    collector.record_gauge("cache.size", 2)
    assert "cache_size 2\n" in exposition.render().decode()
    collector.describe("cache.size", unit=MetricUnit.KILOBYTES, help='A "size"\\\n')
    assert exposition.render(Format.OPENMETRICS).decode() == (
        "# TYPE cache_size_bytes gauge\n# UNIT cache_size_bytes bytes\n"
        '# HELP cache_size_bytes A \\"size\\"\\\\\\n\ncache_size_bytes 2000.0\n# EOF\n'
    )


def test_new_bounds_restart_every_series(collector):
    """New bounds restart every series at zero, with or without records since then."""
    exposition = Exposition(collector.store)
    for page in "ab":
        collector.record_histogram("size", 3, {"page": page})
    exposition.render()
    collector.describe("size", buckets=[1, 5])
    collector.record_histogram("size", 4, {"page": "a"})
    text = exposition.render().decode()
    assert 'size_bucket{page="a",le="5.0"} 1\n' in text
    assert 'size_bucket{page="b",le="5.0"} 0\n' in text
    assert ours(exposition) == theirs(collector.store, Format.TEXT)


def test_a_negative_value_removes_only_the_sum(collector):
    """Text 0.0.4 keeps the count. OpenMetrics allows no count without a sum, so `+Inf` has it there."""
    exposition = Exposition(collector.store)
    collector.describe("delay", buckets=(1.0, 2.0))
    collector.describe("offset", buckets=(-1, 1))
    for _ in range(1_000):
        collector.record_histogram("delay", 1.5)
    collector.record_histogram("delay", 1.5, {"a": "b"})
    for format in Format:
        samples = ours(exposition, format)["delay"][3]
        assert samples[("delay_count", frozenset())] == 1_000
        assert samples[("delay_sum", frozenset())] == 1_500
    collector.record_histogram("delay", -0.001)
    collector.record_histogram("offset", 0.5)
    for _ in range(2):
        for format, count in ((Format.TEXT, 1_001), (Format.OPENMETRICS, None)):
            found = ours(exposition, format)
            samples = found["delay"][3]
            assert samples.get(("delay_count", frozenset())) == count
            assert ("delay_sum", frozenset()) not in samples
            assert samples[("delay_bucket", frozenset({("le", "+Inf")}))] == 1_001
            assert samples[("delay_sum", frozenset({("a", "b")}))] == 1.5
            assert ("offset_sum", frozenset()) not in found["offset"][3]
            assert (("offset_count", frozenset()) in found["offset"][3]) == (format is Format.TEXT)


def test_windows_by_tag_are_one_family(collector):
    """Series with separate windows are exposed together."""
    collector.describe("hits", window_by=["page"])
    for number in range(BLOCK_LINES):
        collector.record_counter("hits", number, {"page": f"p{number % 7}", "user": f"u{number}"})
    exposition = Exposition(collector.store)
    assert ours(exposition) == theirs(collector.store, Format.TEXT)
    assert len(ours(exposition)["hits"][3]) == BLOCK_LINES


# -- rendering only changes --------------------------------------------------------------------------------


def test_unchanged_blocks_are_not_rendered_again(collector, written):
    """A scrape renders only the blocks with new records."""
    for number in range(3 * BLOCK_LINES):
        collector.increment("hits", {"user": str(number)})
    exposition = Exposition(collector.store)
    first = exposition.render()
    assert written == [BLOCK_LINES] * 3
    written.clear()
    assert exposition.render() == first
    assert written == []
    collector.increment("hits", {"user": str(BLOCK_LINES + 1)})
    changed = exposition.render()
    assert written == [BLOCK_LINES]
    assert changed.count(b"} 2\n") == 1
    assert exposition.render(Format.OPENMETRICS).count(b"} 2\n") == 1
    assert written == [BLOCK_LINES], "the samples are the same in both formats"


def test_new_series_do_not_affect_full_blocks(collector, written):
    """Only the last block, which has room, is rendered with the new series."""
    exposition = Exposition(collector.store)
    for number in range(BLOCK_LINES + 3):
        collector.increment("hits", {"user": str(number)})
    exposition.render()
    written.clear()
    collector.increment("hits", {"user": "new"})
    assert ours(exposition) == theirs(collector.store, Format.TEXT)
    assert written == [4]


def test_a_removed_series_affects_only_its_block(collector, written):
    """Only the other series of its block are rendered again."""
    for number in range(3 * BLOCK_LINES):
        collector.increment("hits", {"user": str(number)})
    exposition = Exposition(collector.store)
    exposition.render()
    written.clear()
    collector.remove("hits", {"user": "5"})
    assert len(ours(exposition)["hits"][3]) == 3 * BLOCK_LINES - 1
    assert written == [BLOCK_LINES - 1]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_series_may_be_added_and_removed(data):
    """After any sequence of additions, removals and scrapes, the text equals that of a new exposition."""
    store = Store(ManualClock())
    collector = PrometheusCollector(CollectorRegistry(), store)
    exposition = Exposition(store)
    users = [str(number) for number in range(3 * BLOCK_LINES)]
    bound = collector.counter("hits", {"user": "bound"})
    for _ in range(data.draw(st.integers(1, 6))):
        step = data.draw(st.sampled_from(["add", "remove", "all", "bound", "other"]))
        start, count = data.draw(st.integers(0, 3 * BLOCK_LINES)), data.draw(st.integers(0, 2 * BLOCK_LINES))
        if step == "add":
            for user in users[start : start + count]:
                collector.increment("hits", {"user": user})
        elif step == "remove":
            for user in users[start : start + count]:
                collector.remove("hits", {"user": user})
        elif step == "all":
            collector.remove("hits")
        elif step == "other":
            collector.increment("hits", {"page": str(start)})
        else:
            bound.add(1)
        if data.draw(st.booleans()):
            exposition.render()
    assert ours(exposition) == ours(Exposition(store))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_names_may_be_taken_and_freed(data):
    """After any sequence of metrics that share exposed names, the text equals that of new writers."""
    store = Store(ManualClock())
    collector, registry = InMemoryCollector(store), CollectorRegistry()
    exposition, reader = Exposition(store, registry), FamilyReader(ExposedFamilies(store))
    theirs = Gauge("a_b", "Theirs.", registry=registry)
    registry.unregister(theirs)
    is_taken = False
    for _ in range(data.draw(st.integers(1, 8))):
        step = data.draw(st.sampled_from(["record", "remove", "describe", "registry"]))
        name = data.draw(st.sampled_from(["a.b", "a_b", "a/b", "a.b_bytes", "请求"]))
        if step == "record":
            collector.record_gauge(name, data.draw(st.integers(1, 9)))
        elif step == "remove":
            collector.remove(name)
        elif step == "describe":
            collector.describe(name, unit=data.draw(st.sampled_from([None, MetricUnit.BYTES])))
        else:
            (registry.unregister if is_taken else registry.register)(theirs)
            is_taken = not is_taken
        for escaping in data.draw(st.lists(st.sampled_from(Escaping), max_size=2)):
            exposition.render(escaping=escaping)
        plain = "".join(family_text(family, Format.TEXT) for family in reader.families())
        assert plain == "".join(
            family_text(family, Format.TEXT) for family in FamilyReader(ExposedFamilies(store)).families()
        )
        assert plain.encode() == Exposition(store).render()
    for escaping in Escaping:
        assert exposition.render(escaping=escaping) == Exposition(store, registry).render(escaping=escaping)


def test_idle_series_expire_during_scrapes():
    """A series that was idle for too long is removed."""
    clock = ManualClock()
    store = Store(clock, expire_after=timedelta(minutes=1))
    collector = InMemoryCollector(store)
    collector.increment("hits", {"user": "old"})
    clock.advance(50)
    collector.increment("hits", {"user": "new"})
    exposition = Exposition(store)
    assert exposition.render().count(b"hits_total{") == 2
    clock.advance(30)
    exposition.render()
    text = exposition.render()
    assert text.count(b"hits_total{") == 1
    assert store.series_count == 1


def test_a_removed_metric_leaves_nothing_behind(collector):
    """The text of a removed metric is not kept, whatever its name and however the next scrape escapes."""
    exposition = Exposition(collector.store)
    for name, later in (("hits", Escaping.UNDERSCORES), *(("命中", each) for each in Escaping)):
        collector.increment(name)
        assert exposition.render(escaping=Escaping.ALLOW_UTF_8)
        collector.remove(name)
        assert exposition.render(escaping=later) == b""
        gc.collect()
        texts = [each for each in gc.get_objects() if isinstance(each, MetricText)]
        assert name not in [each.metric.name for each in texts]


# -- series with the same labels ---------------------------------------------------------------------------


def test_of_series_with_the_same_labels_the_first_is_exposed(collector, caplog):
    """Tags that become the same labels, or are empty, are logged once."""
    exposition = Exposition(collector.store)
    collector.increment("hits", {"a.b": "x"})
    assert len(ours(exposition)["hits"][3]) == 1
    collector.increment("hits", {"a_b": "x"})
    collector.increment("size", {"page": ""})
    collector.increment("size")
    for _ in range(2):
        found = ours(exposition)
    assert list(found["hits"][3].values()) == [1]
    assert list(found["size"][3].values()) == [1]
    assert sum("another one has its labels" in record.message for record in caplog.records) == 2


def test_constant_and_own_tags_may_give_the_same_labels():
    """A series whose own tag equals the constant tag has the labels of the series without it."""
    store = Store(ManualClock(), tags={"service": "x"})
    collector = InMemoryCollector(store)
    collector.increment("hits", {"page": "/"})
    collector.increment("hits", {"page": "/", "service": "x"})
    collector.increment("hits", {"page": "/", "service": "y"})
    for format in Format:
        assert ours(Exposition(store), format) == theirs(store, format)


# -- metrics of a registry ---------------------------------------------------------------------------------


@pytest.mark.parametrize("format", Format)
def test_a_registry_is_appended(collector, format):
    """Metrics of prometheus_client follow ours, and ours do not occur twice."""
    registry = CollectorRegistry(target_info={"service": "shop"})
    Counter("theirs", "help", registry=registry).inc(3)
    mine = PrometheusCollector(registry, collector.store)
    mine.increment("mine")
    found = ours(Exposition(collector.store, registry), format)
    assert found["mine"][3] == {("mine_total", frozenset()): 1}
    assert found["theirs"][3][("theirs_total", frozenset())] == 3
    assert "target" in found or "target_info" in found


def test_metrics_of_the_registry_take_precedence(collector, caplog):
    """If both have a name, that of the registry is exposed, which is logged once."""
    registry = CollectorRegistry()
    Counter("hits", "theirs", registry=registry).inc(3)
    collector.increment("hits")
    exposition = Exposition(collector.store, registry)
    for _ in range(2):
        assert ours(exposition)["hits"][3][("hits_total", frozenset())] == 3
    assert sum("its name is taken" in record.message for record in caplog.records) == 1


def test_a_failing_collector_affects_no_other(collector, caplog):
    """The other metrics of the registry and ours are exposed."""

    class Broken:
        def describe(self):
            return []

        def collect(self):
            raise OSError("gone")

    registry = CollectorRegistry()
    registry.register(Broken())
    Counter("theirs", "help", registry=registry).inc(3)
    collector.increment("mine")
    exposition = Exposition(collector.store, registry)
    for _ in range(2):
        assert {"mine", "theirs"} <= set(ours(exposition))
    assert sum("OSError('gone')" in record.message for record in caplog.records) == 1


def test_a_failing_metric_affects_no_other(collector, monkeypatch, caplog):
    """The other metrics are exposed, and the error is logged."""
    for name in ("a", "b", "c"):
        collector.increment(name)
    exposition = Exposition(collector.store)
    exposition.render()
    pieces = MetricText.pieces
    monkeypatch.setattr(
        MetricText,
        "pieces",
        lambda text, *args: 1 / 0 if text.metric.name == "b" else pieces(text, *args),
    )
    assert set(ours(exposition)) == {"a", "c"}
    assert "ZeroDivisionError" in caplog.text


# -- chunks and concurrent changes -------------------------------------------------------------------------


def test_chunks_are_small_even_the_first_time(collector):
    """The first scrape is split into chunks too."""
    for number in range(20 * BLOCK_LINES):
        collector.increment("hits", {"user": str(number)})
    chunks = list(Exposition(collector.store).chunks())
    assert max(map(len, chunks)) < 200_000
    assert len(chunks) > 2


@pytest.mark.parametrize("is_on", [True, False])
def test_the_garbage_of_new_blocks_is_collected_early(collector, monkeypatch, is_on):
    """The garbage collector never visits all series at once; if it is disabled, it stays disabled."""
    monkeypatch.setattr(incremental, "GC_EVERY_BLOCKS", 2)
    for number in range(5 * BLOCK_LINES):
        collector.increment("hits", {"user": str(number)})
    seen = []
    gc.collect()
    (gc.enable if is_on else gc.disable)()
    gc.callbacks.append(lambda phase, info: seen.append(info["generation"]))
    try:
        assert Exposition(collector.store).render().count(b"hits_total{") == 5 * BLOCK_LINES
    finally:
        gc.callbacks.pop()
        gc.enable()
    assert seen.count(1) == (4 if is_on else 0)  # two collections, each with a start and a stop


@pytest.mark.parametrize("change", ["come", "go", "come and go"])
def test_series_may_change_during_a_first_scrape(collector, monkeypatch, change):
    """Each series that stays is exposed once, in that scrape and in the next."""
    monkeypatch.setattr(incremental, "CHUNK_SECONDS", 0.0)
    for number in range(3 * BLOCK_LINES):
        collector.increment("hits", {"user": str(number)})
    exposition = Exposition(collector.store)
    chunks = exposition.chunks()
    text = [next(chunks), next(chunks)]
    for number in range(BLOCK_LINES):
        if "go" in change:
            collector.remove("hits", {"user": str(number)})
        if "come" in change:
            collector.increment("hits", {"user": f"new {number}"})
    text += chunks
    samples = parsed(b"".join(text), Format.TEXT)["hits"][3]
    stayed = {
        ("hits_total", frozenset({("user", str(number))})) for number in range(BLOCK_LINES, 3 * BLOCK_LINES)
    }
    assert samples.keys() >= stayed
    assert ours(exposition) == theirs(collector.store, Format.TEXT)


def test_an_abandoned_scrape_does_not_affect_the_next(collector):
    """The next scrape returns the whole text."""
    for number in range(5 * BLOCK_LINES):
        collector.increment("hits", {"user": str(number)})
    exposition = Exposition(collector.store)
    half = exposition.chunks()
    next(half)
    half.close()
    assert ours(exposition) == theirs(collector.store, Format.TEXT)
    gc.collect()


@pytest.mark.heavy
@pytest.mark.timeout(180)
def test_counts_never_fall_during_writes():
    """For a minute with eight writers, each histogram count equals its last bucket, and no counter falls."""
    store = Store(budgets=Budgets(series_per_name=100_000))
    collector = PrometheusCollector(CollectorRegistry(), store)
    stop = threading.Event()
    totals = [0] * 8

    def write(place: int) -> None:
        number = 0
        while not stop.is_set():
            collector.increment("hits", {"user": f"u{number % 500}"})
            collector.record_histogram("size", number % 100 / 10, {"user": f"u{number % 50}"})
            number += 1
        totals[place] = number

    exposition = Exposition(store)
    writers = [threading.Thread(target=write, args=(place,)) for place in range(8)]
    for writer in writers:
        writer.start()
    stopper = threading.Timer(60, stop.set)
    stopper.start()
    before: dict = {}
    scrapes = 0
    try:
        while not stop.is_set():
            format = list(Format)[scrapes % 2]
            found = ours(exposition, format)
            counts: dict = {}
            for family in found.values():
                for (name, labels), value in family[3].items():
                    counts[name, labels] = value
                    assert value >= before.get((name, labels), 0)
            for (name, labels), value in counts.items():
                if name == "size_count":
                    assert value == counts["size_bucket", labels | {("le", "+Inf")}]
            assert before.keys() <= counts.keys()
            before = counts
            scrapes += 1
    finally:
        stop.set()
        stopper.cancel()
        for writer in writers:
            writer.join()
    found = ours(exposition)
    assert sum(found["hits"][3].values()) == sum(totals)
    assert sum(n for (name, _), n in found["size"][3].items() if name == "size_count") == sum(totals)
    assert scrapes > 5
