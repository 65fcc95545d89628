"""Which runs of a sweep MLflow has, for those who compare them with its journals."""

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from ssl_sweep.tracking import store
from ssl_sweep.tracking.store import EXPERIMENT, PAGE, tag_filter
from ssl_sweep.tracking.transcript import PREFIX


class FoundRun(NamedTuple):
    """A run of a trial, and the trial's state in it."""

    run_id: str
    state: str


def trial_runs(sweep: str, folder: Path, tracking_uri: str) -> dict[str, list[FoundRun]]:
    """The active runs of a sweep's trials, by their ids; the oldest first.

    Raises DamagedFileError; NotTrackedError: there is no store; MLflow's errors.
    """
    with store.naming_damage(tracking_uri):
        client = store.connect(tracking_uri)
        experiment = client.get_experiment_by_name(EXPERIMENT + sweep)
        runs: dict[str, list[FoundRun]] = defaultdict(list)
        identity, token = folder / "sweep_id", None
        if experiment is None or not identity.exists():
            return runs
        query = f"{tag_filter('role')} = 'trial' and {tag_filter('sweep_id')} = '{identity.read_text()}'"
        while True:
            page = client.search_runs(
                [experiment.experiment_id], query, order_by=["start_time"], max_results=PAGE, page_token=token
            )
            for run in page:
                tags = run.data.tags
                runs[tags[f"{PREFIX}trial_id"]].append(FoundRun(run.info.run_id, tags.get(f"{PREFIX}state", "")))
            token = page.token
            if not token:
                return runs


def delete_runs(run_ids: list[str], tracking_uri: str) -> None:
    """Mark runs as deleted, which MLflow can undo."""
    client = store.connect(tracking_uri)
    for run_id in run_ids:
        client.delete_run(run_id)
