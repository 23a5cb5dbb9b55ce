"""The selection of an engine: the compiled one if it is built, and the pure-Python one on demand."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest

from metrics_framework.recording import _pure, engine

ENGINE = "metrics_framework.recording._core"
REPORT = "from metrics_framework.recording import engine; print(engine.ENGINE, engine.ENGINE_REASON)"


def run(code: str = REPORT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a new process."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("METRICS_FRAMEWORK_")}
    return subprocess.run(
        [sys.executable, "-c", code], env={**plain, **environment}, capture_output=True, text=True
    )


def fake_engine(layout: int) -> SimpleNamespace:
    """Return an engine of some layout, with the names of the pure-Python one."""
    return SimpleNamespace(**{**vars(_pure), "LAYOUT": layout})


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin without the variables that select an engine."""
    monkeypatch.delenv("METRICS_FRAMEWORK_PURE", raising=False)
    monkeypatch.delenv("METRICS_FRAMEWORK_COMPILED", raising=False)


def test_the_pure_engine_is_used_on_demand():
    """``METRICS_FRAMEWORK_PURE=1`` selects the pure-Python engine, and is the reason."""
    result = run(METRICS_FRAMEWORK_PURE="1")
    assert result.stdout.split(maxsplit=1) == ["pure", "METRICS_FRAMEWORK_PURE=1\n"]
    assert result.stderr == ""


def test_the_compiled_engine_is_used_if_it_can_be_imported(monkeypatch):
    """A compiled engine with the right layout is selected by default."""
    core = fake_engine(engine.LAYOUT)
    monkeypatch.setitem(sys.modules, ENGINE, core)
    selected, name, reason = engine._select()
    assert (selected, name) == (core, "compiled")
    assert reason


def test_the_pure_engine_is_used_without_a_compiled_one(monkeypatch):
    """Without a compiled engine the pure-Python one is selected; the reason quotes the error."""
    monkeypatch.setitem(sys.modules, ENGINE, None)
    selected, name, reason = engine._select()
    assert (selected, name) == (_pure, "pure")
    assert "_core" in reason


def test_a_missing_compiled_engine_is_an_error_on_demand(monkeypatch):
    """With ``METRICS_FRAMEWORK_COMPILED=1`` a missing compiled engine is an error that names the remedy."""
    monkeypatch.setitem(sys.modules, ENGINE, None)
    monkeypatch.setenv("METRICS_FRAMEWORK_COMPILED", "1")
    with pytest.raises(ImportError, match="make build"):
        engine._select()


def test_a_stale_build_is_refused(monkeypatch):
    """A compiled engine with another layout raises an error instead of being replaced silently."""
    monkeypatch.setitem(sys.modules, ENGINE, fake_engine(engine.LAYOUT - 1))
    with pytest.raises(ImportError, match="make build"):
        engine._select()
    monkeypatch.setenv("METRICS_FRAMEWORK_PURE", "1")
    assert engine._select()[1] == "pure"


@pytest.mark.slow
def test_the_fall_back_is_logged_for_applications_that_debug():
    """An application that logs debug events gets one; others do not import structlog."""
    code = f"""
import logging, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
sys.modules["{ENGINE}"] = None
from metrics_framework.recording import engine
"""
    assert run(code).stdout.count("pure-Python") == 1
    quiet = code.replace("level=logging.DEBUG, ", "") + "print('structlog' in sys.modules)"
    assert run(quiet).stdout == "False\n"


@pytest.mark.parametrize("name", ["_pure", "_core"])
def test_engines_have_the_same_names(name):
    """Each engine exports every name of the interface, with the layout of the library."""
    try:
        module: ModuleType = __import__(f"metrics_framework.recording.{name}", fromlist=["LAYOUT"])
    except ImportError:
        pytest.skip("the compiled engine is not built (`make build` builds it)")
    assert module.LAYOUT == engine.LAYOUT
    for exported in engine._NAMES:
        assert hasattr(module, exported), exported
    assert set(engine._NAMES) == set(_pure.__all__) - {"LAYOUT"}
