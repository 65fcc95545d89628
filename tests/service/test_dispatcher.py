"""The dispatcher against a Ray that the test plays: launches, ends, deaths, and a service killed at every step."""

import json
import os
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from services import Cluster, Killed, make_dispatcher, submit, submitted, sweep

from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.ledger.orders import give_order, read_orders
from ssl_sweep.service.dispatcher import Dispatcher
from ssl_sweep.service.drivers import MAX_DEATHS
from ssl_sweep.service.jobs import Job
from ssl_sweep.service.queue import Capacity
from ssl_sweep.service.store import Store
from ssl_sweep.spec.file import load_spec
from ssl_sweep.sweep.webhook import Webhook
from ssl_sweep.trialdir.requests import StopRequest


def wait_out(store: Store) -> None:
    """The back-off after a death, as if it had passed."""
    waited = submitted(store).not_before - time.time()
    assert waited > 50
    store.change(submitted(store), not_before=0)


def test_a_sweep_is_launched_as_a_job_and_ends(
    dispatcher: Dispatcher, store: Store, cluster: Cluster, tmp_path: Path
) -> None:
    submit(store, tmp_path)
    dispatcher.tick()
    assert (submitted(store).state, submitted(store).granted) == ("LAUNCHING", 4)
    ((_, *start, _, limit, option, storage),) = cluster.commands
    assert start == ["-P", "-m", "ssl_sweep", "run"]
    assert (limit, option, storage) == ("--set=resources.max_concurrent=4", "--storage", str(tmp_path))
    dispatcher.tick()
    assert submitted(store).state == "RUNNING"
    cluster.ends("SUCCEEDED", 0)
    dispatcher.tick()
    assert submitted(store).state == "COMPLETE"
    states = [each["state"] for each in store.events("tiny")]
    assert states == ["QUEUED", "LAUNCHING", "RUNNING", "COMPLETE"]


def test_what_the_driver_reads_is_the_spec_that_was_submitted(
    dispatcher: Dispatcher, store: Store, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(store, tmp_path)
    dispatcher.tick()
    monkeypatch.setenv("SSL_SWEEP_DATA", str(tmp_path / "data"))
    assert load_spec(cluster.commands[0][5]) == sweep(tmp_path)


def test_a_full_cluster_makes_a_sweep_wait_and_says_why(
    dispatcher: Dispatcher, store: Store, cluster: Cluster, tmp_path: Path
) -> None:
    submit(store, tmp_path)
    submit(store, tmp_path, "next", owner="bob")
    dispatcher.tick()
    assert submitted(store, "next").state == "QUEUED"
    assert "waits for resources" in submitted(store, "next").reason
    dispatcher.tick()
    cluster.ends("SUCCEEDED", 0)
    dispatcher.tick()
    assert submitted(store, "next").state == "LAUNCHING"
    assert submitted(store, "next").reason == ""


def test_a_cluster_that_can_grow_is_given_work_for_what_it_grows_to(
    store: Store, cluster: Cluster, tmp_path: Path
) -> None:
    submit(store, tmp_path, cpus=2, gpus=2, slots=9)
    growing = make_dispatcher(tmp_path, store, cluster, autoscale_max=Capacity(3, 8))  # has 4 CPUs and 2 GPUs now
    growing.tick()
    assert growing.capacity == Capacity(4, 8)
    assert (submitted(store).state, submitted(store).granted) == ("LAUNCHING", 2)
    assert json.loads(cluster.environments[0]["SSL_SWEEP_GROWS_TO"]) == {"CPU": 3, "GPU": 8}


def test_a_cluster_without_a_worker_is_given_work_that_makes_it_grow(
    store: Store, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "capacity", lambda: Capacity(0, 0))
    submit(store, tmp_path, slots=9)
    submit(store, tmp_path, "next", slots=9)
    growing = make_dispatcher(tmp_path, store, cluster, autoscale_max=Capacity(8, 2))
    growing.tick()
    assert (submitted(store).state, submitted(store).granted) == ("LAUNCHING", 4)  # of half a GPU each
    assert "0 GPUs of 8 CPUs and 2 GPUs are free" in submitted(store, "next").reason


def test_a_driver_that_dies_is_started_again_and_at_last_given_up(
    dispatcher: Dispatcher, store: Store, cluster: Cluster, tmp_path: Path
) -> None:
    submit(store, tmp_path)
    for death in range(1, MAX_DEATHS + 1):
        dispatcher.tick()
        cluster.ends("FAILED", -9, "killed")
        dispatcher.tick()
        assert (submitted(store).state, submitted(store).deaths) == ("QUEUED", death)
        wait_out(store)
    dispatcher.tick()
    assert len(cluster.commands) == MAX_DEATHS + 1
    cluster.ends("FAILED", -9, "killed")
    dispatcher.tick()
    assert submitted(store).state == "FAILED"
    assert "died 7 times without finishing a trial, at last: its driver ended: killed" in submitted(store).reason


def test_deaths_count_anew_when_trials_were_done_in_between(
    dispatcher: Dispatcher, store: Store, cluster: Cluster, tmp_path: Path
) -> None:
    submit(store, tmp_path, deaths=MAX_DEATHS)
    ledger = open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}", sweep(tmp_path))
    trial = ledger.ask().trials[0]
    dispatcher.tick()
    end(ledger, trial, "COMPLETE")
    cluster.ends("FAILED", None, "killed")
    dispatcher.tick()
    assert (submitted(store).state, submitted(store).deaths) == ("QUEUED", 1)
    assert "killed; relaunches after" in submitted(store).reason


def end(ledger: Any, trial: Any, state: str) -> None:
    ledger.update(
        replace(trial, state=state, attempts=1, results={"knn/top1_val": 1.0} if state == "COMPLETE" else None)
    )


@pytest.mark.parametrize("words", [(), ("--data-changed=restart",)])
@pytest.mark.parametrize("begun", [True, False])
def test_a_resume_that_has_begun_is_not_made_anew(
    dispatcher: Dispatcher, store: Store, cluster: Cluster, tmp_path: Path, begun: bool, words: tuple[str, ...]
) -> None:
    submit(store, tmp_path, command=("resume", *words))
    ledger = open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}", sweep(tmp_path))
    trial = ledger.ask().trials[0]
    dispatcher.tick()
    if begun:
        end(ledger, trial, "STOPPED")  # by somebody who wants no more of it
        dispatcher.tick()
    cluster.ends("FAILED", None, "killed")
    dispatcher.tick()
    wait_out(store)
    dispatcher.tick()
    verb, target = cluster.commands[-1][4:6]
    assert (verb, Path(target).suffix) == (("run", ".yaml") if begun else ("resume", ""))


@pytest.mark.parametrize("words", [("--failed",), ("--trial={0}", "--trial={1}")])
def test_of_a_partial_resume_what_is_left_goes_on(
    dispatcher: Dispatcher, store: Store, cluster: Cluster, tmp_path: Path, words: tuple[str, ...]
) -> None:
    ledger = open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}", sweep(tmp_path))
    first, second = ledger.ask().trials
    submit(store, tmp_path, command=("resume", *(each.format(first.trial_id, second.trial_id[:8]) for each in words)))
    asked = submitted(store).command
    store.add_events(
        "tiny", "trial", [{"trial_id": each.trial_id, "trial_state": "FAILED"} for each in (first, second)]
    )
    end(ledger, first, "FAILED")
    end(ledger, second, "FAILED")

    def dies() -> None:
        dispatcher.tick()
        cluster.ends("FAILED", None, "killed")
        dispatcher.tick()

    dies()  # before it took anything up
    assert submitted(store).command == asked
    wait_out(store)
    dispatcher.tick()
    again = open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}", sweep(tmp_path))
    again.retry(again.choices[0], [first.trial_id, second.trial_id])
    end(again, first, "FAILED")  # once more: nobody asks for it again
    dies()
    assert submitted(store).command == ("resume", f"--trial={second.trial_id[:13]}")
    wait_out(store)
    dispatcher.tick()
    end(again, second, "COMPLETE")
    dies()
    assert (submitted(store).state, len(cluster.commands)) == ("FAILED", 3)
    assert "all resumed trials have ended; its driver ended: killed" in submitted(store).reason


def test_a_head_that_forgot_its_jobs_gets_them_again(
    dispatcher: Dispatcher, store: Store, cluster: Cluster, tmp_path: Path
) -> None:
    submit(store, tmp_path)
    dispatcher.tick()
    dispatcher.tick()
    cluster.away = True
    dispatcher.tick()
    assert (submitted(store).state, submitted(store).reason) == ("RUNNING", "no Ray cluster answers")
    cluster.away = False
    cluster.jobs.clear()
    dispatcher.tick()
    assert "restarted" in submitted(store).reason
    dispatcher.tick()
    assert not cluster.jobs  # not at once
    wait_out(store)
    dispatcher.tick()
    assert list(cluster.jobs) == ["ssl-sweep-tiny-2"]
    dispatcher.tick()
    assert (submitted(store).state, submitted(store).reason) == ("RUNNING", "")


@pytest.mark.parametrize(
    ("code", "message", "state", "reason"),
    [
        (2, "data.source: 'imagefolder:x' is no folder", "FAILED", "is no folder"),
        (75, "another driver is running this sweep", "QUEUED", "another driver"),
        (75, "tiny cannot run here: a trial wants 1 GPU, there are 0", "QUEUED", "there are 0"),  # a node went away
        (2, "the folder named 'another driver is running' is missing", "FAILED", "is missing"),  # words decide nothing
        (130, "interrupted", "QUEUED", "its driver was interrupted"),
        (1, "Traceback\nOSError: no space", "QUEUED", "OSError: no space"),
    ],
)
def test_a_drivers_exit_code_says_what_follows(
    dispatcher: Dispatcher,
    store: Store,
    cluster: Cluster,
    tmp_path: Path,
    code: int,
    message: str,
    state: str,
    reason: str,
) -> None:
    submit(store, tmp_path)
    dispatcher.tick()
    cluster.ends("FAILED", code, message)
    dispatcher.tick()
    assert submitted(store).state == state
    assert reason in submitted(store).reason


def test_the_reason_is_the_drivers_words_not_rays(
    dispatcher: Dispatcher, store: Store, cluster: Cluster, tmp_path: Path
) -> None:
    submit(store, tmp_path)
    dispatcher.tick()
    said = "data.source: 'imagefolder:x' is no folder"
    header = "Job entrypoint command failed with exit code 2, last available logs (truncated to 20,000 chars):"
    setting_up = "2026-11-22 17:08:22,396\tINFO job_manager.py:581 -- Runtime env is setting up."
    running = "Running entrypoint for job ssl-sweep-1: python -m ssl_sweep run tiny.yaml"
    cluster.ends("FAILED", 2, "\n".join([header, setting_up, running, said]))
    dispatcher.tick()
    assert submitted(store).reason == said
    submit(store, tmp_path, "silent")
    dispatcher.tick()
    cluster.ends("FAILED", 1, header)
    dispatcher.tick()
    assert header in submitted(store, "silent").reason  # better than nothing


def test_the_webhook_is_told_of_what_the_service_gives_up(
    store: Store, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setenv("SSL_SWEEP_WEBHOOK_URL", "http://127.0.0.1:9/hook")
    monkeypatch.setattr(Webhook, "post", lambda _, body, __: told.append(json.loads(body)))
    dispatcher = make_dispatcher(tmp_path, store, cluster)
    for name, deaths, code in (("mistaken", 0, 2), ("dying", MAX_DEATHS, -9)):
        submit(store, tmp_path, name, deaths=deaths)
        dispatcher.tick()
        cluster.ends("FAILED", code, "why it ended")
        dispatcher.tick()
        assert submitted(store, name).state == "FAILED"
    dispatcher.start()
    dispatcher.stop()  # not before all is told
    assert [(each["sweep"], each["state"]) for each in told] == [("mistaken", "failed"), ("dying", "failed")]
    assert all("why it ended" in each["text"] for each in told)


def test_failed_trials_are_seen_counted_and_end_the_sweep(
    dispatcher: Dispatcher, store: Store, cluster: Cluster, tmp_path: Path
) -> None:
    submit(store, tmp_path)
    ledger = open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}", sweep(tmp_path))
    dispatcher.tick()
    for state in ("FAILED", "COMPLETE"):
        for trial in ledger.ask().trials:
            end(ledger, trial, state)
    dispatcher.tick()
    assert (submitted(store).counts["complete"], submitted(store).counts["failed"]) == (2, 2)
    cluster.ends("FAILED", 1)
    dispatcher.tick()
    assert (submitted(store).state, submitted(store).reason) == ("FAILED", "2 of 4 trials failed; ssl-sweep logs tiny")
    told = [(each["trial_id"], each["trial_state"]) for each in store.events("tiny", kind="trial")]
    assert sorted(told) == sorted((trial.trial_id, trial.state) for trial in ledger.trials)


def test_a_service_started_anew_tells_no_trial_twice(
    dispatcher: Dispatcher, store: Store, cluster: Cluster, tmp_path: Path
) -> None:
    submit(store, tmp_path)
    ledger = open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}", sweep(tmp_path))
    dispatcher.tick()
    first, second = ledger.ask().trials
    end(ledger, first, "COMPLETE")
    dispatcher.tick()
    end(ledger, second, "COMPLETE")
    anew = make_dispatcher(tmp_path, store, cluster)
    anew.tick()
    anew.tick()
    assert [each["trial_id"] for each in store.events("tiny", kind="trial")] == [first.trial_id, second.trial_id]


def test_an_order_is_handed_to_the_driver_and_ends_the_sweep(
    dispatcher: Dispatcher, store: Store, cluster: Cluster, tmp_path: Path
) -> None:
    submit(store, tmp_path)
    dispatcher.tick()
    store.change(submitted(store), asked="pause")
    dispatcher.tick()
    ledger = open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}", sweep(tmp_path))  # the driver begins only now
    dispatcher.tick()
    order = read_orders(ledger.notes).sweep
    assert order is not None
    assert (order.ask, order.why) == ("pause", "ssl-sweep pause through the service")
    cluster.ends("FAILED", 130)
    dispatcher.tick()
    assert (submitted(store).state, submitted(store).asked) == ("PAUSED", None)


def test_a_stop_from_beside_the_service_is_understood(
    dispatcher: Dispatcher, store: Store, cluster: Cluster, tmp_path: Path
) -> None:
    submit(store, tmp_path)
    dispatcher.tick()
    give_order(
        open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}", sweep(tmp_path)).notes, StopRequest("stop", "by hand")
    )
    cluster.ends("FAILED", 130)
    dispatcher.tick()
    assert submitted(store).state == "STOPPED"


@pytest.mark.parametrize("where", ["find", "before submit", "after submit"])
def test_a_service_killed_while_it_launches_launches_once(
    dispatcher: Dispatcher, store: Store, cluster: Cluster, tmp_path: Path, where: str
) -> None:
    submit(store, tmp_path)
    cluster.kill = where
    with pytest.raises(Killed):
        dispatcher.tick()
    anew = make_dispatcher(tmp_path, Store(f"sqlite:///{tmp_path / 'service.db'}"), cluster)
    for _ in range(3):
        anew.tick()
    assert list(cluster.jobs) == ["ssl-sweep-tiny-1"]
    assert (submitted(store).state, submitted(store).attempt) == ("RUNNING", 1)


def test_two_services_on_one_store_launch_once(
    dispatcher: Dispatcher, store: Store, cluster: Cluster, tmp_path: Path
) -> None:
    other = make_dispatcher(tmp_path, Store(f"sqlite:///{tmp_path / 'service.db'}"), cluster)
    submit(store, tmp_path)
    for _ in range(3):
        dispatcher.tick()
        other.tick()
    assert list(cluster.jobs) == ["ssl-sweep-tiny-1"]


def test_one_sweep_that_cannot_be_followed_does_not_hold_up_the_others(
    dispatcher: Dispatcher, store: Store, cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:

    submit(store, tmp_path, gpus=0, slots=1)
    submit(store, tmp_path, "well", gpus=0, slots=1)
    find = cluster.find

    def broken(name: str) -> Job | None:
        if "tiny" in name:
            raise RuntimeError("broken")
        return find(name)

    cluster.find = broken
    dispatcher.tick()
    dispatcher.tick()
    assert submitted(store, "well").state == "RUNNING"
    assert submitted(store).reason == "cannot be followed: RuntimeError: broken"


def test_the_thread_runs_and_ends(dispatcher: Dispatcher, store: Store, cluster: Cluster, tmp_path: Path) -> None:
    submit(store, tmp_path)
    dispatcher.start()
    deadline = time.monotonic() + 20
    while submitted(store).state == "QUEUED" and time.monotonic() < deadline:
        time.sleep(0.02)
    dispatcher.stop()
    assert submitted(store).state == "LAUNCHING"


def test_resumed_and_extended_sweeps_keep_their_words(
    dispatcher: Dispatcher, store: Store, cluster: Cluster, tmp_path: Path
) -> None:
    submit(store, tmp_path, gpus=0, slots=2, command=("resume", "--failed"))
    submit(store, tmp_path, "more", gpus=0, slots=2, command=("extend", "--trials=40"))
    dispatcher.tick()
    words = [command[4:-2] for command in cluster.commands]
    assert ["resume", "tiny", "--failed", "--max-concurrent=2"] in words
    assert ["extend", "more", "--trials=40", "--set=resources.max_concurrent=2"] in words


class Mortal:
    """Calls of what the service writes to: it is killed before the call of this number, and so after the last one."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def around(self, monkeypatch: pytest.MonkeyPatch, owner: Any, *names: str) -> None:
        for name in names:
            monkeypatch.setattr(owner, name, self._deadly(getattr(owner, name)))

    def _deadly(self, call: Any) -> Any:
        def called(*wiring: Any, **values: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise Killed
            return call(*wiring, **values)

        return called


def test_a_service_killed_at_any_write_loses_nothing_and_does_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first driver dies, the second ends with a mistake of the user's; the webhook hears of that once."""
    told: list[str] = []
    monkeypatch.setenv("SSL_SWEEP_WEBHOOK_URL", "http://127.0.0.1:9/hook")
    monkeypatch.setattr(Webhook, "post", lambda _, __, delivery: told.append(delivery))
    ledger = open_ledger(f"sqlite:///{tmp_path / 'trial.db'}", sweep(tmp_path))
    end(ledger, ledger.ask().trials[0], "COMPLETE")
    survived = deaths = 0
    while not survived:
        deaths += 1
        folder = tmp_path / str(deaths)
        folder.mkdir()
        told.clear()
        with monkeypatch.context() as patch:
            survived = lived(folder, tmp_path / "trial.db", Mortal(deaths), patch)
        assert len(set(told)) == 1  # a second time it has the same id
    assert deaths > 8


def lived(folder: Path, trial: Path, mortal: Mortal, patch: pytest.MonkeyPatch) -> bool:
    """A sweep from its submission to its end, past one death of the service; whether there was none."""
    cluster, url = Cluster(), f"sqlite:///{folder / 'service.db'}"
    key = submit(Store(url), folder, client_key="key").client_key
    mortal.around(patch, Store, "change", "add_events")
    mortal.around(patch, Cluster, "submit")
    ended, died = False, False
    store = Store(url)
    dispatcher = make_dispatcher(folder, store, cluster)
    for _ in range(20):
        try:
            dispatcher.tick()
            if submitted(store).state == "RUNNING" and not ended:
                if len(cluster.jobs) == 1:
                    shutil.copy(trial, folder / "ledger.db")  # a trial is complete
                    cluster.ends("FAILED", -9, "killed")
                else:
                    cluster.ends("FAILED", 2, "a mistake")
                    ended = True
            if submitted(store).not_before:
                with patch.context() as quiet:
                    quiet.setattr(mortal, "left", 0)
                    store.change(submitted(store), not_before=0)
        except Killed:
            dispatcher.drivers.close()
            died, store = True, Store(url)
            dispatcher = make_dispatcher(folder, store, cluster)
        if submitted(store).state == "FAILED":
            break
    dispatcher.drivers.deliver_webhooks()
    dispatcher.drivers.close()
    now = submitted(store)
    assert (now.state, now.reason, now.attempt) == ("FAILED", "a mistake", 2)
    assert list(cluster.jobs) == ["ssl-sweep-tiny-1", "ssl-sweep-tiny-2"]
    assert len(cluster.commands) == 2
    assert [each.client_key for each in store.find()] == [key]
    trials = [each["trial_id"] for each in store.events("tiny", kind="trial")]
    assert len(trials) == len(set(trials)) == 1
    assert store.pending_webhooks() == []
    return not died


@pytest.mark.slow  # a real driver imports torch, Ray and MLflow
def test_a_drivers_refusal_is_the_reason_that_is_shown(
    dispatcher: Dispatcher, store: Store, cluster: Cluster, tmp_path: Path
) -> None:
    spec = sweep(tmp_path).model_dump(mode="json")
    spec["encoder"]["from"] = "alpahs"
    submit(store, tmp_path, spec=spec)
    dispatcher.tick()
    environment = {**os.environ, **cluster.environments[0]}
    driver = subprocess.run(cluster.commands[0], env=environment, capture_output=True, text=True, check=False)
    header = "Job entrypoint command failed with exit code 2, last available logs (truncated to 20,000 chars):"
    cluster.ends("FAILED", driver.returncode, f"{header}\n{driver.stdout}{driver.stderr}")
    dispatcher.tick()
    assert submitted(store).state == "FAILED"
    assert submitted(store).reason.startswith(f"encoder.from: 'alpahs': no sweep named 'alpahs' in {tmp_path}; ")
    assert not (tmp_path / "tiny" / "trials").exists()
