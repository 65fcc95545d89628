"""What the containers are made from and run: schemas, pins, secrets, and that every command is one that exists."""

import importlib.resources
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
# MLflow 3.17 warns of its own type hints when its command line is imported
pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?P<rest>[^}]*)\}")


class _Loader(yaml.SafeLoader):
    """Compose's YAML: !reset takes away what an earlier file says."""


_Loader.add_constructor("!reset", lambda loader, node: None)


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.load((DOCKER / name).read_text(), _Loader)
    return found


COMPOSE = load("compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def manifests(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DOCKER / "kuberay" / name).read_text()))


def filled(text: str) -> str:
    """A value as Compose would read it, where nothing but defaults is set."""
    return VARIABLE.sub(lambda found: found["rest"].removeprefix(":-") if found["rest"].startswith(":-") else "x", text)


def words(command: str | list[str]) -> list[str]:
    return [filled(word) for word in (shlex.split(command) if isinstance(command, str) else command)]


def all_commands() -> dict[str, list[str]]:
    found = {f"compose {name}": words(each["command"]) for name, each in SERVICES.items() if "command" in each}
    tests = {
        f"compose {name} health": each["healthcheck"]["test"]
        for name, each in SERVICES.items()
        if "healthcheck" in each
    }
    found |= {name: words(test[1:]) for name, test in tests.items() if test[0] == "CMD"}
    for kind in ("cluster.yaml", "service.yaml"):
        for pod in pods(kind):
            found |= {f"{kind} {each['name']}": each["command"] for each in pod["containers"] if "command" in each}
    return found


def pods(name: str) -> list[dict[str, Any]]:
    """The pod specs in a file of manifests."""
    found = []
    for manifest in manifests(name):
        spec = manifest.get("spec", {})
        groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]] if manifest["kind"] == "RayCluster" else [spec]
        found += [group["template"]["spec"] for group in groups if "template" in group]
    return found


def click_command(program: str) -> Any:
    if program == "ssl-sweep":
        import typer

        from ssl_sweep.cli import app

        return typer.main.get_command(app)
    if program == "ray":
        from ray.scripts.scripts import cli as ray

        return ray
    from mlflow.cli import cli as mlflow

    return mlflow


def parse(arguments: list[str]) -> None:
    """Have a program's own parser read a command, down to its last subcommand."""
    command, rest, parent = click_command(arguments[0]), arguments[1:], None
    while True:
        context = command.make_context(command.name, rest, parent=parent)
        if not hasattr(command, "resolve_command"):
            return
        _, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        command, parent = found, context


@pytest.mark.parametrize("name", ["compose.yaml", "compose.cpu.yaml"])
def test_compose_files_fit_their_specification(name: str) -> None:
    vendored = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.validate(load(name), json.loads(vendored.read_text()))


@pytest.mark.parametrize("name", all_commands())
def test_every_command_is_one_that_exists(name: str) -> None:
    command = all_commands()[name]
    if command[0] in ("ssl-sweep", "ray", "mlflow"):
        parse(command)
    elif name == "compose prometheus":
        if shutil.which("prometheus") is None:
            pytest.skip("needs Prometheus: apt-get install prometheus")
        known = subprocess.run(["prometheus", "--help"], capture_output=True, text=True, check=False)
        for option in command:
            assert option.split("=")[0] in known.stdout + known.stderr
    elif command[:2] == ["python", "-c"]:
        compile(command[2], name, "exec")
    else:
        assert command[0] in ("python", "server", "wget", "pg_isready")  # the images' own


def test_a_command_that_does_not_exist_is_found() -> None:
    for wrong in ("ray start --heads", "mlflow serve", "ssl-sweep runs x.yaml", "ssl-sweep run"):
        with pytest.raises(Exception, match=r"No such|Missing"):
            parse(shlex.split(wrong))


def test_every_image_is_pinned_and_ours_has_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = [each["image"] for each in SERVICES.values()]
    for name in ("cluster.yaml", "service.yaml"):
        images += [each["image"] for pod in pods(name) for each in pod["containers"]]
    images += [pod["image"] for pod in manifests("job.yaml")[0]["spec"]["submitterPodTemplate"]["spec"]["containers"]]
    for image in images:
        name, _, tag = image.partition(":")
        assert re.fullmatch(r"v?\d+\.\d+.*", tag), image
        assert name != "ssl_sweep" or tag == version
    dockerfile = (DOCKER / "Dockerfile").read_text()
    assert re.search(r"^ARG PYTHON=3\.\d+\.\d+-", dockerfile, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)) == {"python:${PYTHON}"}


def test_ray_of_the_cluster_is_ray_of_the_image() -> None:
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    cluster = next(each for each in manifests("cluster.yaml") if each["kind"] == "RayCluster")
    assert cluster["spec"]["rayVersion"] == pinned["ray"]


def test_no_file_has_a_secret() -> None:
    for service in SERVICES.values():
        for name, value in (service.get("environment") or {}).items():
            if re.search(r"PASSWORD|SECRET|TOKEN", name) and value:
                assert re.fullmatch(r"\$\{\w+(:\?[^}]+|:-)\}", value), name
    example = dict(re.findall(r"^(\w+)=(.*)$", (DOCKER / ".env.example").read_text(), re.MULTILINE))
    assert set(example.values()) == {""}
    required = {
        found["name"] for found in VARIABLE.finditer((DOCKER / "compose.yaml").read_text()) if ":?" in found["rest"]
    }
    assert required == set(example)
    for name in ("cluster.yaml", "service.yaml", "job.yaml"):
        for variable, value in re.findall(r"name: (\w+), value: \"?([^\"}]*)", (DOCKER / "kuberay" / name).read_text()):
            assert not re.search(r"PASSWORD|SECRET|_TOKEN", variable), value


def test_secrets_are_made_once_and_for_nobody_else_to_read(tmp_path: Path) -> None:
    shutil.copy(DOCKER / "secrets.sh", tmp_path)

    def made() -> dict[str, str]:
        subprocess.run([tmp_path / "secrets.sh"], check=True, capture_output=True)
        return dict(re.findall(r"^(\w+)=(.*)$", (tmp_path / ".env").read_text(), re.MULTILINE))

    first = made()
    assert set(first) == set(re.findall(r"^(\w+)=", (DOCKER / ".env.example").read_text(), re.MULTILINE))
    assert all(re.fullmatch(r"[0-9a-f]{64}", value) for value in first.values())
    assert len(set(first.values())) == len(first)
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    assert made() == first
    ignored = subprocess.run(["git", "check-ignore", "docker/.env"], cwd=ROOT, check=False, capture_output=True)
    assert ignored.returncode == 0


def test_all_settings_of_compose_are_in_the_example() -> None:
    used = {found["name"] for found in VARIABLE.finditer((DOCKER / "compose.yaml").read_text())}
    assert used == set(re.findall(r"^(?:# )?([A-Z_0-9]+)=", (DOCKER / ".env.example").read_text(), re.MULTILINE))


def test_a_users_limits_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose hands them to the service by their names, and what is empty sets none."""
    serve = SERVICES["service"]
    given = {"SSL_SWEEP_MAX_GPUS": ("max_gpus", "1.5", 1.5), "SSL_SWEEP_MAX_SWEEPS": ("max_sweeps", "2", 2)}
    assert set(given) <= set(serve["environment"])
    for variable, (option, text, value) in given.items():
        for word, read in ((text, value), ("", None)):
            monkeypatch.setenv(variable, word)
            context = click_command("ssl-sweep").commands["serve"].make_context("serve", ["--data-root", "/data"])
            assert context.params[option] == read


def test_volumes_are_declared_and_what_is_mounted_is_there() -> None:
    mounted = [filled(volume).split(":")[0] for each in SERVICES.values() for volume in each.get("volumes", [])]
    named = {each for each in mounted if not each.startswith(".")}
    assert named == set(COMPOSE["volumes"])
    for folder in {each for each in mounted if each.startswith(".") and each != "./data"}:
        assert (DOCKER / folder).exists(), folder


def test_no_port_is_open_to_the_network_unless_it_is_told_to() -> None:
    for name, service in SERVICES.items():
        for port in service.get("ports", []):
            assert filled(port).startswith("127.0.0.1:"), name
    open_to_all = {
        name for name, each in SERVICES.items() if any("BIND_ADDRESS" in port for port in each.get("ports", []))
    }
    assert open_to_all == {"service", "mlflow", "grafana"}  # which ask who is there


def test_whatever_dies_comes_back_and_says_how_it_is() -> None:
    for name, service in SERVICES.items():
        if name == "bucket":  # ends when it is done
            continue
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"], name
    for name, service in SERVICES.items():
        for other, condition in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if other == "bucket" else "service_healthy"
            assert condition == {"condition": wanted}, (name, other)


def test_ray_asks_for_its_token_everywhere() -> None:
    for name in ("head", "worker", "service"):
        assert SERVICES[name]["environment"]["RAY_AUTH_MODE"] == "token"
    cluster = next(each for each in manifests("cluster.yaml") if each["kind"] == "RayCluster")
    assert cluster["spec"]["authOptions"] == {"mode": "token"}
    assert "RAY_AUTH_MODE=token" in (DOCKER / "slurm" / "cluster.sbatch").read_text()


def test_gpus_are_reserved_and_the_override_does_without() -> None:
    devices = SERVICES["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices[0]["capabilities"] == ["gpu"]
    assert load("compose.cpu.yaml") == {"services": {"worker": {"deploy": None}}}
    assert "deploy: !reset" in (DOCKER / "compose.cpu.yaml").read_text()


def test_prometheus_and_grafana_look_where_the_others_are() -> None:
    config = yaml.safe_load((ROOT / "dashboards/prometheus/prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    service = jobs["ssl_sweep_service"]
    host, port = service["static_configs"][0]["targets"][0].split(":")
    assert port in words(SERVICES[host]["command"])
    found = Path(jobs["ray"]["file_sd_configs"][0]["files"][0])
    mounts = dict(volume.split(":")[:2] for volume in SERVICES["prometheus"]["volumes"])
    assert mounts["ray"] == str(found.parent)
    assert mounts["./tokens"] == str(Path(service["authorization"]["credentials_file"]).parent)
    assert (
        dict(volume.split(":")[:2] for volume in SERVICES["head"]["volumes"] if "$" not in volume)["ray"] == "/tmp/ray"
    )
    source = yaml.safe_load((ROOT / "dashboards/grafana/provisioning/datasources/prometheus.yml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    assert "prometheus" in SERVICES
    provider = yaml.safe_load((ROOT / "dashboards/grafana/provisioning/dashboards/ssl_sweep.yml").read_text())
    mounted = {volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]}
    assert provider["providers"][0]["options"]["path"] in mounted


def test_every_database_is_made() -> None:
    made = set(re.findall(r"CREATE DATABASE (\w+);", (DOCKER / "postgres" / "databases.sql").read_text()))
    made.add(SERVICES["postgres"]["environment"]["POSTGRES_DB"])
    texts = [(DOCKER / name).read_text() for name in ("compose.yaml", "mlflow/auth.ini")]
    assert set(re.findall(r"@postgres/(\w+)", "".join(texts))) == made


@pytest.mark.parametrize("name", ["cluster.yaml", "service.yaml"])
def test_kubernetes_takes_its_manifests(name: str) -> None:
    import kubernetes_validate

    version = kubernetes_validate.latest_version()
    for manifest in manifests(name):
        if not manifest["apiVersion"].startswith("ray.io/"):
            kubernetes_validate.validate(manifest, version, strict=True)
    for pod in pods(name):
        wrapped = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}
        kubernetes_validate.validate(wrapped, version, strict=True)
        assert pod["securityContext"]["runAsNonRoot"] is True
        declared = {volume["name"] for volume in pod.get("volumes", [])} | {
            "data"
        }  # data: a claim of the StatefulSet's
        assert {mount["name"] for each in pod["containers"] for mount in each["volumeMounts"]} <= declared


def test_the_cluster_survives_its_head_and_works_on_spot_machines() -> None:
    cluster = next(each for each in manifests("cluster.yaml") if each["kind"] == "RayCluster")["spec"]
    redis = cluster["gcsFaultToleranceOptions"]["redisAddress"]
    assert redis == "redis://ray-redis:6379"
    assert {"kind": "Service", "name": "ray-redis"} in [
        {"kind": each["kind"], "name": each["metadata"]["name"]} for each in manifests("cluster.yaml")
    ]
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    spot = groups["gpu-spot"]["template"]["spec"]
    tainted = {each["key"] for each in spot["tolerations"]} - {"nvidia.com/gpu"}
    wanted = spot["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert {term["matchExpressions"][0]["key"] for term in wanted} == tainted
    assert groups["gpu-spot"]["minReplicas"] == 0


def test_the_job_runs_a_spec_that_is_valid() -> None:
    from ssl_sweep.spec.sweep import from_dump

    job = manifests("job.yaml")[0]["spec"]
    spec = yaml.safe_load(job["runtimeEnvYAML"])["env_vars"]["SPEC"]
    assert from_dump(yaml.safe_load(spec)).name == "quickstart"
    assert "ssl-sweep run" in job["entrypoint"]
    cluster = next(each for each in manifests("cluster.yaml") if each["kind"] == "RayCluster")
    assert job["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}


def test_the_dockerfile_is_sound() -> None:
    ran = subprocess.run(["hadolint", DOCKER / "Dockerfile"], capture_output=True, text=True, check=False, env=_path())
    assert ran.stdout == ""
    text = (DOCKER / "Dockerfile").read_text()
    last = text.split("\nFROM ")[-1]
    assert re.search(r"^USER 1000:1000$", last, re.MULTILINE)
    ignore = (DOCKER / "Dockerfile.dockerignore").read_text().split("\n")
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for source in line.split():
            assert (ROOT / source).exists()
            assert f"!{source}" in ignore


@pytest.mark.parametrize("script", ["secrets.sh", "slurm/cluster.sbatch"])
def test_scripts_pass_shellcheck(script: str) -> None:
    ran = subprocess.run(["shellcheck", DOCKER / script], capture_output=True, text=True, check=False, env=_path())
    assert ran.stdout == ""


def _path() -> dict[str, str]:
    """With the programs that pip puts beside Python."""
    import sys

    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
