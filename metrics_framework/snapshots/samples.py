"""The runs of a comparison, with the samples of their sidecars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from metrics_framework.errors import MetricsError, OutputError
from metrics_framework.recording import Distribution
from metrics_framework.snapshots.compare import ComparedRun
from metrics_framework.snapshots.distributions import DISTRIBUTIONS_TAG, read_distributions_of, sidecar_path
from metrics_framework.snapshots.files import MeasuredRun, Run


def with_samples(runs: Iterable[MeasuredRun], faults: list[str]) -> list[ComparedRun]:
    """Return runs with the distributions of their sidecars.

    A run whose sidecar cannot be read is compared without its samples.

    Args:
        runs: The runs.
        faults: Gets a message for each sidecar that cannot be read.
    """
    return [ComparedRun(run, values, _read_samples(run, faults)) for run, values in runs]


def _read_samples(run: Run, faults: list[str]) -> Mapping[str, Distribution]:
    if DISTRIBUTIONS_TAG not in run.tags:
        return {}
    if run.line is not None:
        faults.append(f"{str(run.path)!r} has one snapshot per line, and no sidecars")
        return {}
    try:
        return read_distributions_of(run.path, run.tags)
    except OutputError:
        missing = str(sidecar_path(run.path))
        faults.append(f"cannot read the sidecar {missing!r}: copy it along with its snapshot")
    except MetricsError as error:
        faults.append(str(error))
    return {}
