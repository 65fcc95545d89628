"""The service as a process, and a played Ray for it whose drivers are threads: they outlive the service, as jobs do."""

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
from servers import eventually, free_port

from ssl_sweep.ledger.lease import sole_driver
from ssl_sweep.ledger.open import open_ledger, open_notes
from ssl_sweep.spec.sweep import from_dump
from ssl_sweep.storage.layout import Storage
from ssl_sweep.trialdir.journal import Journal

SERVE = """
import sys
from pathlib import Path
from ssl_sweep.service.listener import Listener
from ssl_sweep.service.server import serve
from ssl_sweep.service.settings import Settings
from ssl_sweep.storage.folder_storage import FolderStorage
folder, ray, port = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
settings = Settings(FolderStorage(folder), (folder,), tick_s=float(sys.argv[4]), back_off_s=0.5)
serve(settings, ray, Listener("127.0.0.1", port))
"""


class Ray:
    """Ray's jobs interface as far as the service asks it, and drivers that run trials of nothing."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.jobs: dict[str, Future[None]] = {}
        self.ran: Counter[str] = Counter()  # trials, by their ids
        self._pool, self._lock = ThreadPoolExecutor(32), threading.Lock()
        ray = self

        class ResponseCache(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                node = {"state": "ALIVE", "resources_total": {"CPU": 64.0}}
                content = {"data": {"result": {"result": [node]}}} if "nodes" in self.path else ray.told(self.path)
                self.reply(content)

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.reply({"submission_id": asked["submission_id"]} if ray.submit(asked) else None, missing=400)

            def reply(self, content: Any, missing: int = 404) -> None:
                text = b"Job with submission_id already exists" if content is None else json.dumps(content).encode()
                self.send_response(missing if content is None else 200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), ResponseCache)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def told(self, path: str) -> dict[str, Any] | None:
        job = self.jobs.get(path.rpartition("/")[2])
        if job is None:
            return None
        if not job.done():
            return {"status": "RUNNING"}
        error = job.exception()
        status = "FAILED" if error else "SUCCEEDED"
        return {"status": status, "message": repr(error), "driver_exit_code": int(bool(error))}

    def submit(self, asked: dict[str, Any]) -> bool:
        with self._lock:
            if asked["submission_id"] in self.jobs:
                return False
            self.jobs[asked["submission_id"]] = self._pool.submit(self._drive, asked["entrypoint"].split())
        return True

    def _drive(self, command: list[str]) -> None:
        """What `ssl-sweep run SPEC` does, without Ray, MLflow and training."""
        spec = from_dump({**json.loads(Path(command[4]).read_text()), "root": str(self.storage.root)})
        folder = self.storage.sweep(spec.name)
        folder.mkdir(exist_ok=True)
        with sole_driver(folder, open_notes(self.storage.ledger_url, spec)):
            ledger = open_ledger(self.storage.ledger_url, spec)
            while choice := ledger.ask():
                for trial in choice.trials:
                    ledger.update(replace(trial, state="RUNNING", attempts=1))
                    self.ran[trial.trial_id] += 1
                    place = folder / "trials" / trial.trial_id
                    place.mkdir(parents=True)
                    Journal(place).report({"pretrain/loss": 1.0}, 1)
                    time.sleep(random.uniform(0.05, 0.5))
                    ledger.update(replace(trial, state="COMPLETE", attempts=1, results={"knn/top1_val": 1.0}))

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
        self._pool.shutdown()


class Service:
    """The service's process, which may be killed and started again at the same address."""

    def __init__(self, storage: Storage, ray: Ray, tick_s: float) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, "-c", SERVE, str(storage.root), ray.url, str(self.port), str(tick_s)]
        self._log = storage.root / "service.log"

    def start(self) -> None:
        with self._log.open("a") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)
        assert eventually(self._answers, 120), self._log.read_text()

    def _answers(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()
        try:
            return httpx2.get(f"{self.url}/healthz", timeout=5).status_code == 200
        except httpx2.TransportError:
            return False

    def end(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        self.process.wait(60)
