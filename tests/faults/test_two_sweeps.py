"""Two drivers at once on one cluster and one database: each sweep ends as it does alone. In `make test-faults`."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster
from servers import Postgres


@pytest.mark.slow
@pytest.mark.skipif("SSL_SWEEP_FAULTS" not in os.environ, reason="two drivers start at once: make test-faults")
def test_two_sweeps_do_not_mix(
    tmp_path: Path,
    postgres: Postgres,
    monkeypatch: pytest.MonkeyPatch,
    start_driver: Callable[..., subprocess.Popen[bytes]],
    check_end: Callable[..., None],
) -> None:
    """Slow: PostgreSQL, Ray and two drivers start. The ledger is on the one, MLflow's SQLite file is shared too."""
    monkeypatch.setenv("PGPASSWORD", postgres.password)
    monkeypatch.setenv("SSL_SWEEP_LEDGER", postgres.create("two_sweeps"))
    steps = {"first": 10, "second": 15}  # so that their results differ
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
    drivers = [start_driver(tmp_path, steps[name], name, RAY_ADDRESS=cluster.address) for name in steps]
    try:
        for driver in drivers:
            said, _ = driver.communicate(timeout=240)
            assert driver.returncode == 0, said.decode()
    finally:
        for driver in drivers:
            driver.kill()
            driver.wait()
        cluster.shutdown()
    for name in steps:
        check_end(tmp_path, steps[name], repeated=0, name=name)
