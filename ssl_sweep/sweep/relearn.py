"""A lost ledger, made anew from the folders of its sweeps: config.yaml and journals of trials, and spec.yaml."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_sweep.knobs.pins import is_data_use
from ssl_sweep.ledger.entries import DataNote, Trial
from ssl_sweep.ledger.lease import no_driver
from ssl_sweep.ledger.reader import LedgerReader
from ssl_sweep.ledger.rebuild import FoundTrial, rebuild_study
from ssl_sweep.ledger.replay import replay, reports
from ssl_sweep.spec.sweep import SweepSpec, from_dump
from ssl_sweep.storage.layout import Storage
from ssl_sweep.storage.stored_spec import FILE, stored_spec
from ssl_sweep.sweep.findings import good_lines
from ssl_sweep.trialdir.damage import DamagedFileError
from ssl_sweep.trialdir.events import Ended, Superseded, TagsSet
from ssl_sweep.trialdir.journal import JOURNAL, read
from ssl_sweep.trialdir.record import RECORD, TrialRecord
from ssl_sweep.trialdir.states import TrialState

PIN = "pin."  # starts the names of the tags for pins and sources of data that a driver writes to the sweep's journal


@dataclass(frozen=True)
class SeenTrial:
    """A trial's folder: its record and the trial by its journal, each None if it is damaged, and what is wrong."""

    folder: Path
    record: TrialRecord | None
    trial: Trial | None  # by the lines that can be read
    reports: dict[int, float]
    end: TrialState | None  # with which the journal ends; None if it ends otherwise
    bad_record: str | None = None
    bad_journal: str | None = None


def sweep_folders(storage: Storage) -> list[str]:
    """The names of the folders in which trials have begun."""
    return sorted({path.parents[2].name for path in storage.root.glob(f"*/trials/*/{JOURNAL}")})


def see_trials(folder: Path, spec: SweepSpec) -> Iterator[SeenTrial]:
    """Read all trials' folders of a sweep."""
    for path in sorted(folder.glob("trials/*")):
        if path.is_dir():
            yield _see(path, spec)


def _see(folder: Path, spec: SweepSpec) -> SeenTrial:
    record = bad_record = bad_journal = None
    try:
        record = TrialRecord.read(folder)
        if record.config and "seed" not in record.config:  # its last key, but for the pins
            bad_record, record = f"{folder / RECORD} is cut off", None
    except FileNotFoundError:
        bad_record = f"{folder / RECORD} is gone"
    except DamagedFileError as error:
        bad_record = str(error)
    try:
        events = read(folder)[0]
    except DamagedFileError as error:
        bad_journal, events = str(error), [event for _, event in good_lines(folder)]
    end = events[-1].state if events and isinstance(events[-1], Ended) else None
    if record is None or (events and isinstance(events[-1], Superseded)):  # a ledger has left it out
        return SeenTrial(folder, record, None, {}, end, bad_record, bad_journal)
    judged = reports(events, spec.search.prune_objective.metric) if spec.search.prunes_by == "epoch" else {}
    return SeenTrial(folder, record, replay(record, events, spec), judged, end, bad_record, bad_journal)


def rebuild_sweep(storage: Storage, name: str, older: LedgerReader | None = None) -> str:
    """Make a sweep's study from its folder, in place of the one in the ledger; returns what was done.

    older: what the ledger has of the sweep; None where it is lost, and with it the leases of other machines.

    Raises:
        DamagedFileError: the spec is damaged too.
        SweepLockedError: a driver runs the sweep.
    """
    folder = storage.sweep(name)
    with no_driver(folder, None if older is None else older.notes):
        spec = _spec_of(folder, older)
        seen = list(see_trials(folder, spec))
        found = [
            FoundTrial(each.trial, *_knobs_and_settings(each.record), each.reports)
            for each in seen
            if each.trial is not None and each.record is not None and each.record.choice is not None
        ]
        rebuild_study(storage.ledger_url, spec, found, *_pins_and_data(folder, seen))
    left_out = len(seen) - len(found)
    words = f"; left out {left_out} whose config.yaml is damaged: their settings run again" if left_out else ""
    return f"made sweep {name} anew from the folders of {len(found)} trials{words}"


def _knobs_and_settings(record: TrialRecord) -> tuple[dict[str, Any], dict[str, Any]]:
    """The searched knobs of a trial, and those that a resume has set."""
    settings = {path: record.knobs[path] for path in record.settings}
    return {path: value for path, value in record.knobs.items() if path not in settings}, settings


def _spec_of(folder: Path, older: LedgerReader | None) -> SweepSpec:
    """A sweep's spec, from the file that every driver writes, the one that it sends to MLflow, or an older ledger."""
    for place in (folder, folder / "artifacts"):
        with suppress(DamagedFileError):
            if (spec := stored_spec(place)) is not None:
                return from_dump(spec)
    if older is None:
        raise DamagedFileError(f"{folder / FILE} is lost too; restore it from a backup, or from MLflow's spec.yaml")
    return older.spec


def _pins_and_data(folder: Path, seen: list[SeenTrial]) -> tuple[dict[str, str], DataNote]:
    """What the sweep pins, and what it knows of its data: by the tags of its last driver, else by its trials."""
    configs = [each.record.config for each in seen if each.record is not None]
    pins: dict[str, str] = {}
    identities: dict[str, str] = {}
    for config in configs:
        pins |= config.get("pins", {})
        identities |= config.get("identities", {})
    for tags in (event.tags for _, event in good_lines(folder) if isinstance(event, TagsSet)):
        told = {name.removeprefix(PIN): value for name, value in tags.items() if name.startswith(PIN)}
        if told:
            pins = {use: value for use, value in told.items() if not is_data_use(use)}
            identities = {use: value for use, value in told.items() if is_data_use(use)} or identities
    unkeyed = sorted(use for use in identities if _is_unkeyed(use, identities[use], configs))
    return pins, DataNote(identities, unkeyed)


def _is_unkeyed(use: str, identity: str, configs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the keys of stages lack the identity of a source: the sweep began without it, see `DataNote`."""
    with_it = [config for config in configs if use in config.get("identities", {})]
    if not with_it:
        return bool(configs)
    return any(use in config["unkeyed"] for config in with_it if config["identities"][use] == identity)
