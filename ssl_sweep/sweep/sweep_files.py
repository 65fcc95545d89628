"""Checks the files of one sweep against each other and its ledger, for `ssl-sweep doctor`."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ssl_sweep.ledger.entries import Trial
from ssl_sweep.ledger.lease import is_driven, no_driver
from ssl_sweep.ledger.reader import LedgerReader
from ssl_sweep.models.weights import WeightsError
from ssl_sweep.storage.layout import Storage
from ssl_sweep.storage.stored_spec import FILE, stored_spec, write_spec
from ssl_sweep.sweep.findings import Finding, keep_damaged, mend_journal
from ssl_sweep.sweep.relearn import SeenTrial, rebuild_sweep, see_trials
from ssl_sweep.tracking.spool import Spool
from ssl_sweep.trial.run import encoder_path, is_origin
from ssl_sweep.trial.stages import read_stages, stages_of
from ssl_sweep.trialdir import checkpoint
from ssl_sweep.trialdir.atomic import write_text
from ssl_sweep.trialdir.damage import DamagedFileError, set_aside
from ssl_sweep.trialdir.journal import JOURNAL, read
from ssl_sweep.trialdir.record import RECORD, TrialRecord
from ssl_sweep.trialdir.states import TrialState

STAGES, SPOOL, LOCK = "stages.json", "recorded.json", "driver.lock"


class SweepFiles:
    """The files of one sweep. Each mend first makes sure that no driver runs the sweep."""

    def __init__(self, storage: Storage, ledger: LedgerReader, tell: Callable[[str], object]) -> None:
        """tell: gets a word about the progress."""
        self.storage, self.ledger, self.name, self.tell = storage, ledger, ledger.spec.name, tell
        self.folder = storage.sweep(self.name)
        self.trials = {trial.trial_id: trial for trial in ledger.trials}

    def findings(self) -> Iterator[Finding]:
        """All findings; those of one file after those of the files that it is rebuilt from."""
        bad = 0
        for finding in self._all():
            bad += 1
            yield finding
        if not bad:
            yield Finding(f"{self.name}: files", True, f"{len(self.trials)} trials, with their records and encoders")

    def _all(self) -> Iterator[Finding]:
        driven = is_driven(self.ledger.notes)
        yield from self._lock()
        self.tell(f"{self.name}: journals")
        seen = {each.folder.name: each for each in see_trials(self.folder, self.ledger.spec)}
        if not driven:  # while one runs, journals are ahead of the ledger
            if newer := [each for each in seen.values() if self._is_newer(each)]:
                yield self._older_ledger(newer)
                return  # what follows would judge by the older ledger
            yield from self._spec()
        for number, trial in enumerate(self.ledger.trials, 1):
            self.tell(f"{self.name}: trial {number} of {len(self.trials)}")
            yield from self._trial(trial, seen.get(trial.trial_id), driven=driven)
        yield from self._others(set(seen) - self.trials.keys())

    def _finding(self, path: Path, found: str, source: str | None, mend: Callable[[], str] | None) -> Finding:
        """A finding about a file, whose mend keeps drivers out."""

        def locked() -> str:
            with no_driver(self.folder, self.ledger.notes):
                assert mend is not None  # noqa: S101 - mypy
                return mend()

        where = path.relative_to(self.storage.root).as_posix()
        return Finding(where, False, found, source, locked if mend is not None else None)

    def _lock(self) -> Iterator[Finding]:
        path = self.folder / LOCK
        if path.is_dir():  # nothing can hold it
            yield Finding(
                path.relative_to(self.storage.root).as_posix(), False, "is a folder", "nothing: it is made anew",
                lambda: f"renamed it to {set_aside(path).name}",
            )  # fmt: skip
        path = self.folder / SPOOL
        try:
            Spool(self.folder)
            if path.exists() and not isinstance(json.loads(path.read_text()).get("offsets"), dict):
                raise ValueError("no offsets")
        except (ValueError, AttributeError) as error:
            yield self._finding(
                path, f"damaged ({error})", "journals: all is delivered again",
                lambda: f"renamed it to {set_aside(path).name}",
            )  # fmt: skip

    def _spec(self) -> Iterator[Finding]:
        dump = self.ledger.spec.model_dump(mode="json")
        try:
            stored = stored_spec(self.folder)
            wrong = "gone" if stored is None else "differs from the ledger's" if stored != dump else None
        except DamagedFileError as error:
            wrong = str(error)
        if wrong is not None:

            def mend() -> str:
                words = keep_damaged(self.folder / FILE)
                write_spec(self.folder, dump)
                return f"wrote it from the ledger{words}"

            yield self._finding(self.folder / FILE, wrong, "the ledger", mend)

    def _is_newer(self, seen: SeenTrial) -> bool:
        """Whether a folder knows a trial or an attempt that the ledger does not."""
        if seen.trial is None or seen.record is None or not seen.trial.attempts:
            return False
        known = self.trials.get(seen.folder.name)
        if known is not None:
            return seen.trial.attempts > known.attempts
        same = (trial for trial in self.trials.values() if (trial.choice, trial.seed) == _place(seen.record))
        return all(trial.attempts == 0 for trial in same)  # others are leftovers, of another ledger

    def _older_ledger(self, newer: list[SeenTrial]) -> Finding:
        words = f"the ledger is older than the folders: it lacks what {len(newer)} trials have done"
        return Finding(
            f"{self.name}: ledger", False, words, "the trials' folders",
            partial(rebuild_sweep, self.storage, self.name, self.ledger),
        )  # fmt: skip

    def _trial(self, trial: Trial, seen: SeenTrial | None, *, driven: bool) -> Iterator[Finding]:
        folder = self.storage.trial(self.name, trial.trial_id)
        if (seen is None and not trial.attempts) or (driven and not trial.ended):
            return
        if (bad := seen.bad_record if seen is not None else "gone, with its folder") is not None and trial.attempts:
            yield self._finding(folder / RECORD, bad, "the ledger", partial(self._write_record, trial, folder))
        elif seen is not None and seen.record is not None and _place(seen.record) != (trial.choice, trial.seed):
            yield self._finding(folder / RECORD, "belongs to another choice or seed", None, None)
        bad = seen.bad_journal if seen is not None else "gone, with its folder"
        if bad is None and seen is not None and trial.ended and not _tells_end(seen.end, trial):
            bad = f"the ledger has the trial as {trial.state}, and it ends before that"
        if bad is not None:
            yield self._finding(
                folder / JOURNAL, bad, "its whole lines, and the results in the ledger",
                partial(self._write_journal, trial, folder),
            )  # fmt: skip
        yield from self._stages(trial, folder)
        if damage := checkpoint.damage(encoder_path(folder)):
            yield self._finding(encoder_path(folder), damage, *self._encoder_source(folder))

    def _write_record(self, trial: Trial, folder: Path) -> str:
        words = keep_damaged(folder / RECORD)
        self.ledger.record(trial).write(folder)
        return f"wrote it from the ledger{words}"

    def _write_journal(self, trial: Trial, folder: Path) -> str:
        try:
            keys = {stage: entry["key"] for stage, entry in read_stages(folder / STAGES).items()}
        except (DamagedFileError, FileNotFoundError):
            keys = {}
        done = mend_journal(folder, trial, keys)
        spool = Spool(self.folder)
        spool.rewind(trial.trial_id)  # its offset is of another file
        spool.save()
        return done

    def _stages(self, trial: Trial, folder: Path) -> Iterator[Finding]:
        path = folder / STAGES
        try:
            read_stages(path)
            return
        except FileNotFoundError:
            wrong = "gone"
        except DamagedFileError as error:
            wrong = str(error)
        try:
            stages = stages_of(folder)
        except DamagedFileError:
            return  # found above
        if stages or wrong != "gone":

            def mend() -> str:
                words = keep_damaged(path)
                write_text(path, json.dumps(stages_of(folder), indent=1))
                return f"wrote it from the journal{words}"

            yield self._finding(path, wrong, "the journal", mend)

    def _encoder_source(self, folder: Path) -> tuple[str | None, Callable[[], str] | None]:
        """An undamaged copy of a trial's encoder: the shared pretraining's, where the two are no links of one file."""
        try:
            key = read_stages(folder / STAGES)["pretrain"]["key"]
        except (DamagedFileError, FileNotFoundError, KeyError):
            return None, None
        shared = encoder_path(self.folder / "stages" / str(key))
        if not shared.exists() or checkpoint.damage(shared) is not None:
            return None, None

        def mend() -> str:
            words = keep_damaged(encoder_path(folder))
            checkpoint.copy(shared, encoder_path(folder))
            return f"copied {shared.relative_to(self.storage.root)}{words}"

        return "the shared pretraining", mend

    def _others(self, unused: set[str]) -> Iterator[Finding]:
        """The sweep's shared files, and folders of trials that the ledger does not have."""
        if unused:
            words = f"{len(unused)} folders are of trials that the ledger does not have ({min(unused)}, ...)"
            yield Finding(f"{self.name}: trials", True, f"{words}: nothing uses them")
        for path in sorted(self.folder.glob("weights/*.safetensors")):
            try:
                whole = is_origin(path, f"sha256:{path.stem}")
            except WeightsError:
                whole = False
            if not whole:
                mend = partial(lambda path: f"renamed it to {set_aside(path).name}", path)
                yield self._finding(path, "is not what its name says", "the earlier sweep, at the next resume", mend)
        for path in sorted(self.folder.glob(f"stages/*/{JOURNAL}")):
            try:
                read(path.parent)
            except DamagedFileError as error:
                mend = partial(lambda path: f"renamed it to {set_aside(path).name}", path)
                yield self._finding(path, str(error), "its checkpoint: trials that need it go on there", mend)


def _tells_end(end: TrialState | None, trial: Trial) -> bool:
    """Whether a journal with this end can be that of a trial that has ended; what a failure leads to, others decide."""
    return end is not None and (end == TrialState.COMPLETE or trial.state != TrialState.COMPLETE)


def _place(record: TrialRecord) -> tuple[int | None, int | None]:
    return record.choice, record.seed
