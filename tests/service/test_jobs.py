"""What the service reads of Ray's answers about jobs."""

import pytest

from ssl_sweep.service.jobs import Job
from ssl_sweep.sweep.exit_codes import ExitCode

HEADER = "Job entrypoint command failed with exit code 75, last available logs (truncated to 20,000 chars):"


@pytest.mark.parametrize(
    ("details", "status", "exit_code"),
    [
        ({"status": "PENDING", "message": None, "driver_exit_code": None}, "PENDING", None),
        ({"status": "RUNNING"}, "RUNNING", None),
        ({"status": "SUCCEEDED", "driver_exit_code": 0}, "SUCCEEDED", ExitCode.COMPLETE),
        ({"status": "FAILED", "message": f"{HEADER}\nno", "driver_exit_code": 75}, "FAILED", ExitCode.TRY_AGAIN),
        ({"status": "FAILED", "message": HEADER, "driver_exit_code": -9}, "FAILED", -9),  # killed
        ({"status": "FAILED", "message": "Job supervisor actor died", "driver_exit_code": None}, "FAILED", None),
    ],
)
def test_the_exit_code_of_a_job_is_a_field_not_words(
    details: dict[str, object], status: str, exit_code: int | None
) -> None:
    job = Job.of(details)
    assert (job.status, job.exit_code) == (status, exit_code)


def test_the_last_lines_are_the_drivers() -> None:
    printed = [f"line {number}" for number in range(9)]
    assert Job("FAILED", "\n".join([HEADER, *printed]), 1).last_lines().splitlines() == printed[-5:]
    assert Job("FAILED", HEADER, 1).last_lines() == HEADER  # better than nothing
