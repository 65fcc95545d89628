"""Opens a sweep's data before anything runs, and refuses to go on with other data than the sweep began with."""

import gzip
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from ssl_sweep.data.differences import differences
from ssl_sweep.data.fingerprints import LABELLED, SOURCE, short
from ssl_sweep.data.identity import identity_of, listing
from ssl_sweep.data.splits import data_of
from ssl_sweep.data.summary import summarize
from ssl_sweep.knobs.pins import PinError, data_use
from ssl_sweep.ledger.entries import DATA, DataNote, Notes
from ssl_sweep.ledger.open import load_ledger
from ssl_sweep.ledger.restart import forget_results
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.labels import check_labels, evaluated_sources
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.storage.layout import Storage
from ssl_sweep.trialdir.atomic import write_bytes
from ssl_sweep.trialdir.damage import DamagedFileError
from ssl_sweep.trialdir.events import Ended
from ssl_sweep.trialdir.journal import Journal, last_event
from ssl_sweep.trialdir.states import TrialState

DataChanged = Literal["keep", "restart"]
log = logging.getLogger(__name__)
RESTARTED = "its sweep restarts on other data"


def open_data(spec: SweepSpec) -> tuple[int, dict[str, str]]:
    """Open all data sources, so that missing data and labels are refused.

    Returns:
        The number of training images, and the listing of each source by its use.
    """
    summary = summarize(data_of(spec.data), root=spec.root)
    check_labels(spec, summary)
    listings = {SOURCE: listing(summary.source)}
    if summary.labelled is not None:
        listings[LABELLED] = listing(summary.labelled.source)
    for name in spec.evaluate:
        listings |= {data_use(name, source.name): listing(source) for source in evaluated_sources(spec, name)}
    return summary.train_images, listings


def take_data(
    spec: SweepSpec,
    storage: Storage,
    notes: Notes,
    listings: Mapping[str, str],
    say: Callable[[str], object],
    changed: DataChanged | None,
) -> None:
    """Write the identity of a new sweep's data to its ledger; compare that of another sweep with what is at hand.

    Args:
        spec: the sweep's, or its extension.
        storage: where the sweep lies.
        notes: the ledger's.
        listings: of all sources, by their uses.
        say: gets a message on what follows from data that differs.
        changed: what to do about it; None refuses it, unless the old data has failed all trials: they run again then.

    Raises:
        PinError: the data differs; the message says in what.
    """
    known, found = notes.read(), {use: identity_of(text) for use, text in listings.items()}
    note = DataNote.read(known)
    if found == note.identities:
        return
    for use, text in listings.items():
        if note.identities.get(use) != found[use]:
            _write_listing(storage, spec, found[use], text)
    trials = load_ledger(storage.ledger_url, spec.name).trials if "spec" in known else ()
    begun = [trial for trial in trials if trial.attempts]
    if not begun:
        notes.write(DATA, asdict(DataNote(found)))
        return
    other = [use for use in found if note.identities.get(use, found[use]) != found[use]]
    if changed is None and all(trial.state == TrialState.FAILED and trial.reason == "data" for trial in begun):
        changed = "restart"  # the data was at fault, and no result is of it
    if other and changed is None:
        raise PinError(_refusal(spec.name, list(_lines(storage, spec, other, note, listings))))
    began_before = {*note.unkeyed, *(use for use in found if use not in note.identities)}
    new = replace(note, identities=found, unkeyed=sorted(began_before & found.keys() - {*other}))
    if other and changed == "restart":
        forget_results(notes, DATA, asdict(replace(new, restarting=True)))
    else:
        notes.write(DATA, asdict(new))
    if other:
        ends = "all trials run again" if changed == "restart" else "finished trials keep their results"
        say("\n".join([f"the data has changed, and {ends}:", *_lines(storage, spec, other, note, listings)]))


def finish_restart(ledger: Ledger, storage: Storage) -> None:
    """Take the results that the ledger has forgotten out of MLflow's tables: no trial of them counts as complete."""
    if not ledger.data.restarting:
        return
    for trial in ledger.trials:
        folder = storage.trial(ledger.spec.name, trial.trial_id)
        try:
            with storage.synced_journal(folder):
                last = last_event(folder)
                if last is not None and not (isinstance(last, Ended) and last.message == RESTARTED):
                    Journal(folder).append(Ended(state=TrialState.INTERRUPTED, message=RESTARTED))
        except DamagedFileError as error:
            log.warning("trial %s: tables have its old result until it has run again: %s", trial.trial_id, error)
    ledger.notes.write(DATA, asdict(replace(ledger.data, restarting=False)))


def _refusal(sweep: str, lines: Sequence[str]) -> str:
    listed = "\n".join(lines)
    return (
        f"sweep '{sweep}' began with other data than is here:\n{listed}\n"
        f"put the old data back, run it as a new sweep (ssl-sweep run SPEC.YAML --set name={sweep}-2), or add "
        "--data-changed keep (finished trials keep their results, the others use the new data) or "
        "--data-changed restart (finished trials run again)"
    )


def _lines(
    storage: Storage, spec: SweepSpec, other: Sequence[str], note: DataNote, listings: Mapping[str, str]
) -> Iterator[str]:
    """A line for each source that differs."""
    for use in other:
        name = f"{use} {spec.data[use.rpartition('.')[2]]}" if use in (SOURCE, LABELLED) else use
        before = _read_listing(_listing_file(storage, spec, note.identities[use]))
        hashes = f"{short(note.identities[use])} became {short(identity_of(listings[use]))}"
        why = f" ({'; '.join(differences(before, listings[use]))})" if before is not None else ""
        yield f"  {name}: {hashes}{why}"


def _listing_file(storage: Storage, spec: SweepSpec, identity: str) -> Path:
    return storage.sweep(spec.name) / f"data-{short(identity)}.tsv.gz"


def _write_listing(storage: Storage, spec: SweepSpec, identity: str, text: str) -> None:
    path = _listing_file(storage, spec, identity)
    if not path.exists():
        write_bytes(path, gzip.compress(text.encode(errors="surrogateescape"), compresslevel=3, mtime=0))


def _read_listing(path: Path) -> str | None:
    """A listing; None if it is gone or damaged: it only says what differs."""
    try:
        return gzip.decompress(path.read_bytes()).decode(errors="surrogateescape")
    except (OSError, EOFError, ValueError):
        return None
