"""How a driver's work on a sweep ended, in words."""

import re
from collections import Counter
from typing import TYPE_CHECKING

from ssl_sweep.ledger.budgets import HALTS
from ssl_sweep.trialdir.states import TrialState

if TYPE_CHECKING:
    from ssl_sweep.ledger.entries import Trial
    from ssl_sweep.sweep.drive import Summary


SKIPS = r"set (\S+\.on_error): skip"  # in the message of a trial with a corrupt file


def outcome(name: str, result: "Summary") -> str:
    """The counts of a sweep's trials, each failure once, and why the sweep ended before all were run."""
    done = f"{len(result.complete)} of {result.total} trials complete"
    done += f", {len(result.pruned)} pruned" if result.pruned else ""
    if fresh := result.confirming:
        complete = sum(trial.state == TrialState.COMPLETE for trial in fresh)
        words = "confirmed" if all(trial.ended for trial in fresh) else "confirming"
        choices = len({trial.choice for trial in fresh})
        done += f"; {words} the best {choices} choices: {complete} of {len(fresh)} fresh seeds complete"
    if result.ending.halted is not None:
        is_full = any(trial.reason in HALTS and not trial.ended for trial in result.trials)
        why = "" if is_full else ", since the first trials all failed alike"
        return f"{done}; stopped{why}:\n{result.ending.halted}"
    failures = Counter(f"{trial.reason}: {trial.message}" for trial in result.failed)
    lines = [*result.remarks, *(f"{count} failed, {message}" for message, count in failures.items())]
    lines += dict.fromkeys(remedy for trial in result.failed if (remedy := _remedy(name, trial)) is not None)
    request = result.ending.stop_request
    if request is not None:
        words = "stopped" if request.ask == "stop" else "paused"
        lines.append(f"{words} ({request.why}); trials left checkpoints: ssl-sweep resume {name} continues from them")
    elif result.ending.interrupted:
        lines.append("interrupted; a resume continues from the last checkpoints")
    return "\n".join([done, *lines])


def _remedy(name: str, trial: "Trial") -> str | None:
    """The command that runs a failed trial again with the setting that its message names."""
    resume = f"ssl-sweep resume {name} --set"
    if key := re.search(SKIPS, trial.message or ""):
        return f"leave corrupt files out: {resume} {key[1]}=skip"
    by_reason = {
        "diverged": f"clip the gradients of what diverged: {resume} pretrain.clip_norm=1",
        "oom": f"run what had too little memory in smaller batches: {resume} pretrain.batch_size=N",
        "hung": f"wait longer for a sign of life: {resume} resources.timeout=SECONDS",
    }
    return by_reason.get(trial.reason or "")
