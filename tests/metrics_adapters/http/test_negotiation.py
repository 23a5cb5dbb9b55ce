"""Headers of clients are read as HTTP defines it, real and malformed ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_adapters.http.negotiation import choose_format, wants_gzip
from metrics_framework.exposition.text import Format

TEXT, OPENMETRICS = Format.TEXT, Format.OPENMETRICS
TEXT_1_0_0 = "text/plain; version=1.0.0; charset=utf-8"

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_2_TEXT = "text/plain;version=0.0.4;q=1,*/*;q=0.1"
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_3_TEXT = "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.5"
PROMETHEUS_3_PROTOBUF = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;"
    f"escaping=allow-utf-8;q=0.7,{PROMETHEUS_3}"
)
VICTORIAMETRICS = "text/plain;version=0.0.4;q=1,*/*;q=0.1"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "format"),
    [
        (PROMETHEUS_2, OPENMETRICS),
        (PROMETHEUS_2_TEXT, TEXT),
        (PROMETHEUS_3, OPENMETRICS),
        (PROMETHEUS_3_PROTOBUF, OPENMETRICS),
        (VICTORIAMETRICS, TEXT),
        (BROWSER, TEXT),
        ("*/*", TEXT),
        ("", TEXT),
        (None, TEXT),
        ("application/json", TEXT),
        ("text/plain", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text;version=0.0.1", TEXT),
        ("application/openmetrics-text;version=2.0.0, */*;q=0.1", TEXT),
        ('APPLICATION/OpenMetrics-Text ; Version="1.0.0" ; charset=utf-8', OPENMETRICS),
        ("application/openmetrics-text;q=0.3, text/plain;q=0.7", TEXT),
        ("application/openmetrics-text;q=0.7, text/plain;q=0.3", OPENMETRICS),
        ("text/plain, application/openmetrics-text", TEXT),
        ("application/openmetrics-text, text/plain", TEXT),
        ("*/*, application/openmetrics-text", OPENMETRICS),
        ("application/*", OPENMETRICS),
        ("text/*, application/openmetrics-text;q=0.9", TEXT),
        ("application/openmetrics-text;q=0, application/*", TEXT),
        ("text/plain;q=0, */*", OPENMETRICS),
        ("text/plain;q=0.0, application/openmetrics-text;q=0.000", TEXT),
        ("text/plain;version=0.0.4;q=0.2, text/plain;q=0.9, application/openmetrics-text;q=0.5", OPENMETRICS),
    ],
)
def test_the_format_with_the_highest_weight_is_chosen(accept, format):
    """The weights of the most specific elements decide. Rejected formats are not sent."""
    assert choose_format(accept).format is format


@pytest.mark.parametrize(
    ("accept", "escaping", "content_type"),
    [
        (None, "underscores", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "underscores", "text/plain; version=0.0.4; charset=utf-8"),
        (PROMETHEUS_2_TEXT, "underscores", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text", "underscores", OPENMETRICS.content_type),
        (PROMETHEUS_2, "underscores", f"{OPENMETRICS.content_type}; escaping=underscores"),
        (PROMETHEUS_3, "allow-utf-8", f"{OPENMETRICS.content_type}; escaping=allow-utf-8"),
        (PROMETHEUS_3_TEXT, "allow-utf-8", f"{TEXT_1_0_0}; escaping=allow-utf-8"),
        ("text/plain;version=1.0.0", "underscores", f"{TEXT_1_0_0}; escaping=underscores"),
        ("text/plain;version=1.0.0;escaping=dots", "dots", f"{TEXT_1_0_0}; escaping=dots"),
        ("text/plain;version=1.0.0;escaping=values", "values", f"{TEXT_1_0_0}; escaping=values"),
        (
            "text/plain;version=1.0.0;escaping=allow-utf8",
            "allow-utf-8",
            f"{TEXT_1_0_0}; escaping=allow-utf-8",
        ),
        ("text/plain;version=1.0.0;escaping=x", "underscores", f"{TEXT_1_0_0}; escaping=underscores"),
        ("text/plain;version=0.0.4;escaping=allow-utf-8", "underscores", TEXT.content_type),
        (
            "text/plain;version=1.0.0;escaping=values;q=0.2, text/plain;q=0.9",
            "underscores",
            TEXT.content_type,
        ),
    ],
)
def test_the_escaping_scheme_is_echoed(accept, escaping, content_type):
    """Versions 1.0.0 negotiate the scheme, by default underscores; older versions have none."""
    chosen = choose_format(accept)
    assert (chosen.escaping.value, chosen.content_type) == (escaping, content_type)


@pytest.mark.parametrize(
    "accept",
    [
        ";",
        ",,;;,",
        "/",
        "application/openmetrics-text;q=",
        "application/openmetrics-text;q=high",
        "application/openmetrics-text;q=nan",
        "application/openmetrics-text;q=-1",
        "application/openmetrics-text;q=2",
        "application/openmetrics-text;q=1.5",
        'application/openmetrics-text;version="1.0',
        '"application/openmetrics-text',
        'text/plain;x=",application/openmetrics-text"',
        "application/openmetrics-text version=1.0.0",
        "\x00\xff",
    ],
)
def test_malformed_elements_are_ignored(accept):
    """A malformed header selects the text format."""
    assert choose_format(accept).content_type == TEXT.content_type


@given(
    st.text() | st.lists(st.sampled_from([*',;="/*qQ.01 ', "text/plain", "gzip", PROMETHEUS_3])).map("".join)
)
def test_no_header_is_an_error(header):
    """Any header has a result."""
    assert choose_format(header).format in Format
    assert wants_gzip(header) in (True, False)


@pytest.mark.slow
def test_a_long_header_is_parsed_in_linear_time():
    """A header of 200 000 characters, whatever they are."""
    for mark in (",", ";", '"', "=", 'a;b="', '",'):
        assert choose_format(mark * (200_000 // len(mark))).format is TEXT


@pytest.mark.parametrize(
    ("accept_encoding", "wanted"),
    [
        ("gzip", True),
        ("GZip", True),
        ("x-gzip", True),
        ("deflate, gzip;q=0.5", True),
        ("*", True),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("*;q=0", False),
        ("identity", False),
        ("identity, gzip;q=0.5", False),
        ("identity;q=0.5, gzip;q=0.5", True),
        ("br", False),
        ("gzip;q=x", False),
        ("", False),
        (None, False),
    ],
)
def test_gzip_is_sent_to_clients_that_accept_it(accept_encoding, wanted):
    """If it is named or anything is accepted, and not if it is rejected or less preferred."""
    assert wants_gzip(accept_encoding) is wanted
