"""Projects telemetry events with Stormlog, for tests that compare: run by an interpreter that has it.

Reads a case a line from standard input, ``{"json": …}`` or ``{"literal": "…"}`` with an optional
``observed``, and answers each with a line: the representation and the plain form of the record, or the type
and the message of the error.
"""

import ast
import json
import sys

from stormlog.telemetry_model import project_telemetry_mapping, projected_record_to_dict


def answer(case: dict) -> dict:
    """Return Stormlog's result for a case."""
    record = case["json"] if "json" in case else ast.literal_eval(case["literal"])
    try:
        projected = project_telemetry_mapping(record, observed_timestamp_ns=case.get("observed"))
    except Exception as error:  # noqa: BLE001 - which one it is, is the answer
        return {"error": type(error).__name__, "message": str(error)}
    return {"repr": repr(projected), "plain": repr(projected_record_to_dict(projected))}


for line in sys.stdin:
    sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
    sys.stdout.flush()
