"""Takes a trial's folder for an attempt: what another setting has left there must not become a part of its results."""

import logging
from itertools import count
from pathlib import Path

from ssl_sweep.trialdir.damage import DamagedFileError
from ssl_sweep.trialdir.events import TagsSet
from ssl_sweep.trialdir.journal import Journal
from ssl_sweep.trialdir.record import RECORD, TrialRecord

ASIDE = "set-aside-"  # begins the names of folders with another setting's files
log = logging.getLogger(__name__)


def claim(folder: Path, record: TrialRecord) -> None:
    """Write the trial's record into its folder, which may exist.

    The files of another choice, setting or seed, as a ledger of another state than the folders leaves them, are set
    aside in a folder for people to keep or remove; the trial begins anew.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        earlier = TrialRecord.read(folder)
    except (FileNotFoundError, DamagedFileError):  # new, or only this file is lost
        earlier = record
    if earlier.is_of(record):
        record.write(folder)
        return
    aside = _set_aside(folder)
    record.write(folder)
    whose = f"choice {earlier.choice}, seed {earlier.seed}, {dict(earlier.knobs)}"
    log.warning("%s: had the files of %s, now in %s: the trial begins anew", folder, whose, aside.name)
    Journal(folder).append(TagsSet(tags={"replaced": f"{whose}, in {aside.name}"}))


def keep(folder: Path, record: TrialRecord) -> None:
    """Write the trial's record into its folder where it has none: whoever shows its end needs its knobs.

    The folder may have been deleted while the trial ran.
    """
    if not (folder / RECORD).exists():
        record.write(folder)


def _set_aside(folder: Path) -> Path:
    """Move all files into a folder of their own; the record goes last, so that a process that dies is repeated."""
    files = [path for path in folder.iterdir() if not path.name.startswith(ASIDE)]
    aside = next(path for number in count(1) if not (path := folder / f"{ASIDE}{number}").exists())
    aside.mkdir()
    for path in sorted(files, key=lambda path: path.name == RECORD):
        path.rename(aside / path.name)
    return aside
