"""The base of all errors that a user is told in one message, without a stack trace.

Each message names the place, the value and a remedy. Each class stands in the package that raises it:

UserError
├── BucketError             storage   a bucket cannot be reached, or refuses a request
├── ClusterError            cluster   the Ray cluster cannot be used
│   ├── BrokenClusterError  cluster   Ray has died while a sweep ran
│   └── InfeasibleError     cluster   no node has the resources for a trial
├── ContractError           contracts a method, an encoder, ... breaks a promise of its kind
├── DamagedFileError        trialdir  a file of a storage is damaged, is a folder, or may not be read
│   ├── JournalError        trialdir  a line of a journal is not an event
│   └── RecordError         trialdir  a trial's `config.yaml` cannot be read
├── DamagedRequestError     trialdir  a trial cannot read the request to end it
├── DataError               data      images are missing, damaged or misnamed
│   ├── AbsentDataError     data      there is no such folder or file, or the set is not downloaded
│   └── Damaged             data      a pack differs from what was written
├── DiskFull                trialdir  there is no room for what must be written
├── ExportError             trial     there is no encoder to export, or no place for it
├── LedgerError             ledger    the ledger does not fit the request
│   ├── LeaseLost           ledger    another driver has taken this sweep over
│   ├── NoFileLocksError    ledger    the storage's file system cannot lock files
│   └── SweepLockedError    ledger    another driver runs this sweep
├── LedgerUnreachableError  ledger    the ledger's database cannot be reached
├── LibraryError            models    a library of encoders is not installed, or has no such model
├── LockHeldError           trialdir  another process holds a lock for too long
├── MlflowLockedError       tracking  another process locks MLflow's database for too long
├── NoSuchTrial             sweep     no trial, or more than one, fits the request
├── NotTrackedError         tracking  MLflow holds no such sweep or trial
├── PinError                knobs     a plugin or a file is not the one that the sweep began with
├── PluginError             plugins   a plugin cannot be found or imported, or its name is taken
├── RunDeletedError         tracking  a run that is written to has been deleted in MLflow
├── ServiceError            client    the service refused a request, or did not answer
├── SpecError               knobs     a spec is invalid; one line for each problem
├── StorageError            storage   sweeps cannot be stored there
├── StoreError              service   the service's database does not accept a value
├── TableError              tables    no table can be made of these runs
├── UndeliveredError        tracking  MLflow lacks events of trials whose files are damaged
├── UnknownNameError        knobs     there is no method, evaluation or encoder of this name
├── WebhookError            sweep     a setting of the webhook is invalid
└── WeightsError            models    a file of weights cannot be read, or does not fit its encoder

Any other exception is a fault of this package, or of the machine, and keeps its stack trace.
"""


class UserError(Exception):
    """A user's mistake, or a condition that a user can change; its message names the remedy."""

    def _render_traceback_(self) -> list[str]:
        """IPython's hook: notebooks show the message alone, as the command line does."""
        return [f"{type(self).__name__}: {self}"]
