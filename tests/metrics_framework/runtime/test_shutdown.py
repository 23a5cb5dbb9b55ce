"""Each end of a process writes the final snapshot exactly once, with real processes, signals and forks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from metrics_framework import InvalidInputError, MetricsSystem, read_snapshot
from metrics_framework.runtime.shutdown import Shutdown

PATIENCE = 60
FORKS = "ignore:This process:DeprecationWarning"

PRELUDE = """
import atexit, os, signal, sys, threading, time
from metrics_adapters.snapshot_writer import SnapshotWriter
from metrics_framework import MetricsSystem

class Slow(SnapshotWriter):
    def write(self, *run):
        say("writing")
        time.sleep(0.5)
        return super().write(*run)

def say(word):
    os.write(1, word.encode() + b"\\n")

def make(kind=SnapshotWriter, **options):
    options = options or {"shutdown_on_exit": True, "shutdown_on_sigterm": True}
    system = MetricsSystem(outputs=[kind(sys.argv[1])], **options)
    system.collector.record_counter("orders", 3)
    return system

def wait():
    say("ready")
    while True:
        time.sleep(60)

"""


class Program:
    """A script in its own interpreter."""

    def __init__(self, script: str, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            # Python 3.12 and newer warn of any fork beside a thread, which is the case under test.
            [sys.executable, "-W", "error", "-W", FORKS, "-c", PRELUDE + script, str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def after(self, word: str) -> Program:
        """Wait until it prints a word."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == word:
                return self
        raise AssertionError(f"it never said {word!r}: {self.process.stderr.read()}")

    def terminate(self) -> Program:
        """Send it SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self

    def end(self) -> tuple[int, str, str]:
        """Wait for its end, and return its exit status and the rest of stdout and stderr."""
        try:
            out, err = self.process.communicate(timeout=PATIENCE)
        finally:
            self.kill()
        return self.process.returncode, out, err

    def kill(self) -> None:
        """Kill it and its children."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def orders(self) -> list[float]:
        """Return the number of orders in each of its snapshots."""
        return [read_snapshot(path).metrics.custom["orders"] for path in sorted(self.folder.glob("*.json"))]


@pytest.fixture
def run(tmp_path):
    """Return a function that starts a script, which is killed at the end of the test."""
    programs = []

    def start(script: str) -> Program:
        programs.append(Program(script, tmp_path))
        return programs[-1]

    yield start
    for program in programs:
        program.kill()
        program.process.communicate()


# -- the interpreter's exit --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("make()", 0),
        ("make(); sys.exit(7)", 7),
        ("make(); raise ValueError('nobody catches this')", 1),
        ("make(); threading.Thread(target=sys.exit).start()", 0),
        ("make().shutdown_metrics()", 0),
        ("with make(): pass", 0),
        ("with make(): sys.exit(7)", 7),
        ("make(shutdown_on_exit=True)", 0),
        ("system = make()\nfor _ in range(4): threading.Thread(target=system.shutdown_metrics).start()", 0),
        ("system = make(); atexit.register(system.shutdown_metrics)", 0),
    ],
)
def test_every_exit_writes_one_snapshot(run, script, status):
    """It does not matter whether the program ends, fails or shuts the system down."""
    program = run(script)
    assert program.end()[0] == status
    assert program.orders() == [3]


@pytest.mark.slow
@pytest.mark.parametrize("script", ["make(shutdown_on_sigterm=True)", "make(); os._exit(0)"])
def test_by_default_nothing_is_written_at_exit(run, script):
    """The exit is handled on request only, and `os._exit` cannot be handled."""
    program = run(script)
    status, out, err = program.end()
    assert (status, out) == (0, "")
    # The remedy is logged, unless the process bypasses everything.
    assert ("pass shutdown_on_exit=True" in err) == ("_exit" not in script)
    assert program.orders() == []


SEVERAL = """
class Hanging:
    name = "hanging"
    def export(self, system):
        time.sleep(3_600)

def make_several(**options):
    for number in range(4):
        outputs = [Hanging(), SnapshotWriter(sys.argv[1])]
        system = MetricsSystem(outputs=outputs, shutdown_timeout=3 - number % 2, **options)
        system.collector.record_counter("orders", 3)

"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("make_several(shutdown_on_exit=True); say('ready')", 0),
        ("make_several(shutdown_on_sigterm=True); say('ready'); wait()", -signal.SIGTERM),
        ("make_several(shutdown_on_sigterm=True); atexit.register(wait)", -signal.SIGTERM),
    ],
)
def test_the_deadlines_of_several_systems_run_at_the_same_time(run, script, status):
    """The process ends within the longest of them, and each system writes its snapshot."""
    program = run(SEVERAL + script).after("ready")
    begin = time.monotonic()
    if status:
        program.terminate()
    assert program.end()[0] == status
    assert time.monotonic() - begin < 7  # the sum of the deadlines is 10
    assert program.orders() == [3] * 4


@pytest.mark.slow
def test_a_system_stays_open_until_its_turn_at_the_exit(run):
    """An exit function that was registered after it still records, though a newer system has ended."""
    program = run(
        "early = make()\n"
        "atexit.register(early.collector.record_counter, 'orders', 4)\n"
        "make(); say(str(len(os.listdir(sys.argv[1]))))\n"
        "atexit.register(lambda: say(str(len(os.listdir(sys.argv[1])))))\n"
    )
    assert program.end() == (0, "0\n0\n", "")
    assert sorted(program.orders()) == [3, 7]


@pytest.mark.slow
@pytest.mark.parametrize("hook", ["system.shutdown_metrics", "wait"])
def test_an_exit_function_between_two_systems_does_not_stop_their_shutdown(run, hook):
    """It may shut the other system down, or hang until SIGTERM ends the process."""
    program = run(
        f"system = make(); atexit.register({hook})\n"
        "class Late(SnapshotWriter):\n"
        "    is_local = False\n"
        "    def write(self, *run):\n"
        "        time.sleep(0.5)\n"
        "        return super().write(*run)\n"
        "make(Late)\n"
    )
    if hook == "wait":
        program.after("ready").terminate()
    assert program.end()[0] == (-signal.SIGTERM if hook == "wait" else 0)
    assert program.orders() == [3, 3]


@pytest.mark.slow
def test_a_system_is_garbage_after_its_shutdown(run):
    """Exit handlers keep no system alive after its shutdown."""
    program = run(
        "import gc, weakref\n"
        "system = make(); system.shutdown_metrics(); gone = weakref.ref(system)\n"
        "del system; gc.collect(); assert gone() is None\n"
        "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL"
    )
    assert program.end() == (0, "", "")


# -- SIGTERM -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("options", ["", "shutdown_on_sigterm=True"])
def test_sigterm_writes_one_snapshot_and_ends_the_process(run, options):
    """The default action of SIGTERM follows the final snapshot."""
    program = run(f"make({options}); wait()").after("ready").terminate()
    assert program.end()[0] == -signal.SIGTERM
    assert program.orders() == [3]


@pytest.mark.slow
def test_an_earlier_handler_gets_the_signal_after_the_snapshot(run):
    """It is called once, in the main thread, after the snapshot was written."""
    program = run(
        "def earlier(number, frame):\n"
        "    assert threading.current_thread() is threading.main_thread()\n"
        "    say(f'{number == signal.SIGTERM} {len(os.listdir(sys.argv[1]))}')\n"
        "    sys.exit(5)\n"
        "signal.signal(signal.SIGTERM, earlier); make(); wait()"
    )
    assert program.after("ready").terminate().end()[:2] == (5, "True 1\n")
    assert program.orders() == [3]


@pytest.mark.slow
def test_an_earlier_handler_may_let_the_process_live(run):
    """After the final snapshot a second SIGTERM goes to the earlier handler alone."""
    program = run(
        "told = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: told.append(1)); make(); say('ready')\n"
        "while len(told) < 1: time.sleep(0.01)\n"
        "say('told')\n"
        "while len(told) < 2: time.sleep(0.01)\n"
    )
    program.after("ready").terminate().after("told").terminate()
    assert program.end()[0] == 0
    assert program.orders() == [3]


@pytest.mark.slow
def test_an_ignored_sigterm_stays_ignored(run):
    """The process continues, and writes its snapshot at exit."""
    program = run(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); make(); os.kill(os.getpid(), signal.SIGTERM)\n"
        "assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN\n"
        "assert os.listdir(sys.argv[1]) == []"
    )
    assert program.end() == (0, "", "")
    assert program.orders() == [3]


@pytest.mark.slow
def test_the_earlier_handler_is_back_after_the_shutdown(run):
    """A shutdown restores the handler of SIGTERM."""
    program = run(
        "def earlier(*_): pass\n"
        "signal.signal(signal.SIGTERM, earlier); system = make()\n"
        "assert signal.getsignal(signal.SIGTERM) is not earlier\n"
        "system.shutdown_metrics()\n"
        "assert signal.getsignal(signal.SIGTERM) is earlier"
    )
    assert program.end() == (0, "", "")


@pytest.mark.slow
def test_a_handler_that_was_installed_later_stays(run):
    """The shutdown removes its own handler only. A later handler may still call it."""
    program = run(
        "system = make(); ours = signal.getsignal(signal.SIGTERM)\n"
        "def later(number, frame): say('later'); ours(number, frame)\n"
        "signal.signal(signal.SIGTERM, later); system.shutdown_metrics()\n"
        "assert signal.getsignal(signal.SIGTERM) is later\n"
        "wait()"
    )
    assert program.after("ready").terminate().end()[:2] == (-signal.SIGTERM, "later\n")
    assert program.orders() == [3]


@pytest.mark.slow
def test_several_systems_handle_the_signal(run):
    """Each system writes its snapshot, then SIGTERM ends the process."""
    program = run("a = make(); b = make(); c = make(); wait()").after("ready").terminate()
    assert program.end()[0] == -signal.SIGTERM
    assert program.orders() == [3, 3, 3]


def test_a_system_that_handles_the_signal_again_does_so_once(run):
    """Its handler is in the chain of another system, and passes the signal on to the earlier handler."""
    program = run(
        "a = make(); b = make()\n"
        "for on in (False, True): a.initialize_metrics({'shutdown_on_sigterm': on})\n"
        "wait()"
    )
    assert program.after("ready").terminate().end()[0] == -signal.SIGTERM
    assert program.orders() == [3, 3]


@pytest.mark.slow
def test_after_a_shutdown_in_another_thread_sigterm_ends_the_process(run):
    """The handler cannot be removed there, so it passes the signal on."""
    program = run(
        "thread = threading.Thread(target=make().shutdown_metrics); thread.start(); thread.join(); wait()"
    )
    assert program.after("ready").terminate().end()[0] == -signal.SIGTERM
    assert program.orders() == [3]


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [
        "make(Slow); say('ready')",  # during the interpreter's exit
        "make(Slow).shutdown_metrics(); wait()",
        "with make(Slow): pass\nwait()",
        "threading.Thread(target=make(Slow).shutdown_metrics).start(); wait()",
        "make(Slow); os.kill(os.getpid(), signal.SIGTERM); wait()",  # a second one
        "make(Slow, shutdown_on_sigterm=True); os.kill(os.getpid(), signal.SIGTERM)",  # it ends meanwhile
        "make(Slow); os.kill(os.getpid(), signal.SIGTERM)",
    ],
)
def test_sigterm_while_the_snapshot_is_written_waits_for_it(run, script):
    """The snapshot is finished, once, and then SIGTERM ends the process."""
    program = run(script).after("writing").terminate()
    assert program.end()[0] == -signal.SIGTERM
    assert program.orders() == [3]


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [
        "make(); atexit.register(wait)",  # it runs before the system's own hook
        "atexit.register(wait); make()",  # and this one after it
        "make(); threading.Thread(target=wait).start()",  # a thread that the exit waits for, without end
    ],
)
def test_sigterm_during_the_exit_ends_the_process(run, script):
    """An exit that hangs is ended by SIGTERM, with one snapshot."""
    program = run(script).after("ready").terminate()
    assert program.end()[0] == -signal.SIGTERM
    assert program.orders() == [3]


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [
        "make(); no_threads(); wait()",
        "make(Slow); no_threads(); os.kill(os.getpid(), signal.SIGTERM); say('alive')",
        "make(Slow); no_threads(); say('ready')",
        "no_threads(); make(); atexit.register(wait)",
    ],
)
def test_sigterm_works_if_no_thread_can_be_started(run, script):
    """An exiting interpreter starts no threads, and the handler writes the snapshot itself."""
    program = run(
        "import _thread\n"
        "def refuse(*_): raise RuntimeError('cannot start new thread at interpreter shutdown')\n"
        "def no_threads(): _thread.start_new_thread = refuse\n" + script
    )
    program.after("writing" if "Slow" in script else "ready").terminate()
    assert program.end()[:2] == (-signal.SIGTERM, "")
    assert program.orders() == [3]


BUSY = {
    "an output's own lock": """
lock = threading.Lock()
class Mine(SnapshotWriter):
    def write(self, snapshot):
        with lock:
            return super().write(snapshot)
make(Mine); say("ready")
while True:
    with lock:
        time.sleep(0.01)
""",
    "logging": """
import logging
logging.basicConfig(level=0)
system = make(); system.collector.record_gauge("balance", -1); say("ready")
while True:
    logging.getLogger("metrics_framework").info("x" * 1_000)
""",
    "reading": """
system = make(); say("ready")
while True:
    system.snapshot(); system.get_system_health()
""",
    "configuring": """
system = make(); say("ready")
for interval in range(1, sys.maxsize):
    system.initialize_metrics({"collection_interval": interval, "max_custom": 5})
""",
    "shutting down": """
say("ready")
while True:
    make().shutdown_metrics()
""",
}


@pytest.mark.parametrize("busy", BUSY)
@pytest.mark.heavy
def test_sigterm_never_deadlocks(run, busy):
    """The main thread may hold a lock that the snapshot needs."""
    for delay in (0.0, 0.003, 0.01):
        program = run(BUSY[busy]).after("ready")
        threading.Event().wait(delay)
        assert program.terminate().end()[0] == -signal.SIGTERM


def test_only_the_main_thread_can_handle_sigterm():
    """In another thread it is an error, and no part of the configuration is applied."""
    errors = []

    def make(call) -> None:
        with pytest.raises(InvalidInputError) as caught:
            call()
        errors.append(str(caught.value))

    with MetricsSystem() as system:
        for call in (
            lambda: MetricsSystem(shutdown_on_sigterm=True),
            lambda: MetricsSystem.from_config({"shutdown_on_sigterm": True}, environ={}),
            lambda: system.initialize_metrics({"shutdown_on_sigterm": True, "retention_days": 1}),
        ):
            thread = threading.Thread(target=make, args=[call], name="worker 7")
            thread.start()
            thread.join()
        assert system._store.retention.days == 30
    assert len(errors) == 3
    assert all("main thread" in error and "'worker 7'" in error for error in errors)


def test_a_handler_outside_of_python_is_not_replaced(monkeypatch):
    """The signal could not be passed on to it. The error states the remedy."""
    # Only a program that embeds Python can install a handler before Python looks.
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    with pytest.raises(InvalidInputError, match=r"not installed by Python.*call shutdown_metrics"):
        MetricsSystem(shutdown_on_sigterm=True)


# -- forks -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "child",
    [
        "sys.exit(0)",
        "pass",
        "system.shutdown_metrics()",
        "system.shutdown_metrics(); system.shutdown_metrics(); sys.exit(0)",
        "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)",
        "os._exit(0)",
        "system.initialize_metrics({'retention_days': 1}); system.collector.increment('orders')",
    ],
)
@pytest.mark.parametrize("options", ["", "shutdown_on_exit=True"])
def test_a_child_does_not_write_its_parents_snapshot(run, child, options):
    """Only the parent writes the final snapshot, at its own end."""
    program = run(
        f"system = make({options})\n"
        "if os.fork() == 0:\n"
        f"    {child}\n"
        "else:\n"
        "    os.wait()\n"
        "    assert os.listdir(sys.argv[1]) == []\n"
    )
    status, out, err = program.end()
    assert (status, out) == (0, "")
    assert err.count("does not shut down the MetricsSystem of its parent") == ("shutdown_metrics" in child)
    assert program.orders() == [3]


@pytest.mark.slow
def test_sigterm_ends_a_child(run):
    """The handler that a child inherits passes SIGTERM on at once."""
    program = run(
        "make()\n"
        "child = os.fork()\n"
        "if child == 0: wait()\n"
        "time.sleep(0.1); os.kill(child, signal.SIGTERM)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM\n"
    )
    assert program.end()[0] == 0
    assert program.orders() == [3]


@pytest.mark.slow
def test_a_fork_in_the_middle_of_a_shutdown_does_not_hang_the_child(run):
    """The child gets a new lock."""
    program = run(
        "system = make(Slow)\n"
        "thread = threading.Thread(target=system.shutdown_metrics); thread.start(); time.sleep(0.2)\n"
        "if os.fork() == 0: system.shutdown_metrics()\n"
        "else: assert os.wait()[1] == 0\n"
    )
    assert program.end()[0] == 0
    assert program.orders() == [3]


@pytest.mark.slow
def test_collection_does_not_continue_in_a_child_and_can_be_started_there(run):
    """A child collects and exports only after its own configuration, in one thread."""
    program = run(
        "system = make()\n"
        "system.initialize_metrics({'collection_interval': 0.005})\n"
        "files = lambda: len(os.listdir(sys.argv[1]))\n"
        "names = lambda: [t.name[8:] for t in threading.enumerate() if t.name.startswith('metrics-')]\n"
        "system.resource_monitor.start_resource_monitoring(3600)\n"
        "while files() < 3: time.sleep(0.01)\n"
        "system.initialize_metrics({'collection_interval': 3600})\n"
        "while system._outputs._given[0].worker.is_busy: time.sleep(0.01)\n"
        "written = files()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    assert names() == ['resource-reading'], names()\n"  # only the application started it
        "    system.resource_monitor.stop_resource_monitoring()\n"
        "    recorded = lambda: len(system.aggregator.get_metrics_by_tag({'by': 'collection'}))\n"
        "    system.callbacks.add('g', lambda: 1, tags={'by': 'collection'})\n"
        "    time.sleep(0.3)\n"
        "    assert (names(), recorded(), files()) == ([], 0, written)\n"
        "    system.initialize_metrics({'max_custom': 5})\n"
        "    assert names() == []\n"
        "    system.initialize_metrics({'collection_interval': 0.005})\n"
        # Another thread calls the gauge callback for a moment.
        "    started = {'metrics-collection', 'output snapshot_writer'}\n"
        "    while set(names()) - {'callback'} != started: time.sleep(0.001)\n"
        "    assert names().count('metrics-collection') == 1\n"
        "    while not recorded() or files() == written: time.sleep(0.01)\n"
        "    system.initialize_metrics({'collection_interval': 3600})\n"
        "    while system._outputs._given[0].worker.is_busy: time.sleep(0.01)\n"
        "    written = files()\n"
        "    system.shutdown_metrics()\n"
        "    assert files() > written\n"  # its own final snapshot
        "else:\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "    assert len(names()) == 3\n"
        "    os._exit(0)\n"
    )
    assert program.end() == (0, "", "")


# -- once --------------------------------------------------------------------------------------------------


def test_concurrent_shutdowns_run_once_and_wait():
    """One thread runs it, and none returns before its end."""
    entered, go_on = threading.Event(), threading.Event()
    done, returned = [], []

    def work() -> None:
        entered.set()
        assert go_on.wait(PATIENCE)
        done.append(1)

    shutdown = Shutdown(work, lambda: None)

    def call() -> None:
        shutdown.run()
        returned.append(len(done))

    threads = [threading.Thread(target=call) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert entered.wait(PATIENCE)
    assert shutdown.begun
    assert returned == []
    go_on.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert returned == [1, 1, 1, 1, 1]


def test_a_shutdown_inside_the_shutdown_returns():
    """An output may shut the system down during the final export."""
    done = []

    def work() -> None:
        done.append(1)
        shutdown.run()

    shutdown = Shutdown(work, lambda: None)
    shutdown.run()
    assert done == [1]


@pytest.mark.slow
def test_a_configuration_can_enable_and_disable_the_handlers(run):
    """The two keys work like the arguments of the constructor."""
    program = run(
        "system = make(shutdown_on_exit=True)\n"
        "system.initialize_metrics({'shutdown_on_exit': False, 'shutdown_on_sigterm': True})\n"
        "assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL\n"
        "system.initialize_metrics({'shutdown_on_sigterm': False})\n"
        "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\n"
    )
    assert program.end()[0] == 0
    assert program.orders() == []
