"""docker-compose.yml, infra/ and the settings tree agree, and keep what ARCHITECTURE.md promises of them."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from services.chat.metrics import Metrics
from tandem.settings import REPOSITORY, Settings

INFRA = REPOSITORY / "infra"
COMPOSE_FILE = REPOSITORY / "docker-compose.yml"
OBSERVABILITY = INFRA / "compose.observability.yml"
OURS = {"chat", "ingest", "trainer", "model", "model-cpu"}
SECRETS = ("POSTGRES_PASSWORD", "TANDEM_QDRANT__API_KEY", "TANDEM_MODEL__API_KEY", "TANDEM_AUTH__API_KEYS")
# Read by docker compose alone: which folder is mounted where, and on which port.
COMPOSE_ONLY = {"TANDEM_BIND", "TANDEM_PORT", "TANDEM_DOCUMENTS", "TANDEM_MODELS", "TANDEM_BASE_MODEL"}
ADAPTERS = "/var/lib/tandem/adapters"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE_FILE.read_text())


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return compose["services"]


def setting_names(model: type[BaseModel] = Settings, prefix: str = "TANDEM_") -> Iterator[str]:
    for name, field in model.model_fields.items():
        variable = f"{prefix}{name.upper()}"
        yield variable
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from setting_names(field.annotation, f"{variable}__")


def mounts(service: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """Target -> (source, read-only). A default value in a source may itself contain colons, so split from the right."""
    found = {}
    for mount in service.get("volumes", []):
        body, read_only = (mount[: -len(":ro")], True) if mount.endswith(":ro") else (mount, False)
        source, target = body.rsplit(":", 1)
        found[target] = (source, read_only)
    return found


def manifests(folder: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.rglob("*.yaml")):
        yield from yaml.safe_load_all(file.read_text())


def test_the_services_are_those_of_the_design(services: dict[str, dict[str, Any]]) -> None:
    assert set(services) == OURS | {"qdrant", "postgres"}
    assert services["model"]["profiles"] == ["gpu"]
    assert services["model-cpu"]["profiles"] == ["cpu"]


def test_only_chat_publishes_a_port_and_on_the_loopback(services: dict[str, dict[str, Any]]) -> None:
    assert [name for name, service in services.items() if "ports" in service] == ["chat"]
    assert services["chat"]["ports"] == ["${TANDEM_BIND:-127.0.0.1}:${TANDEM_PORT:-8080}:8080"]


def test_only_chat_is_on_a_network_with_a_way_out(compose: dict[str, Any], services: dict[str, dict[str, Any]]) -> None:
    assert compose["networks"]["internal"] == {"internal": True}
    outside = {name for name, service in services.items() if set(service["networks"]) != {"internal"}}
    assert outside == {"chat"}
    assert all("network_mode" not in service for service in services.values())


def test_both_model_servers_answer_to_one_name(services: dict[str, dict[str, Any]]) -> None:
    for name in ("model", "model-cpu"):
        assert services[name]["networks"]["internal"]["aliases"] == ["model"]
    assert services["chat"]["environment"]["TANDEM_MODEL__URL"] == "http://model:8000/v1"


def test_every_service_has_a_healthcheck_and_waits_for_healthy_ones(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        for needed, how in service.get("depends_on", {}).items():
            assert how["condition"] == "service_healthy", f"{name} -> {needed}"
            # One that is only there in a profile must not be required, or the other profile would not start.
            assert how.get("required", True) is ("profiles" not in services[needed]), f"{name} -> {needed}"
    assert set(services["chat"]["depends_on"]) == {"qdrant", "postgres", "model", "model-cpu"}
    assert set(services["ingest"]["depends_on"]) == set(services["trainer"]["depends_on"]) == {"qdrant", "postgres"}


@pytest.mark.parametrize("where", ["compose", "kubernetes"])
def test_a_trainer_that_hangs_is_not_healthy(where: str, services: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    if where == "compose":
        command = services["trainer"]["healthcheck"]["test"][1:]
    else:
        file = INFRA / "kubernetes" / "base" / "trainer.yaml"
        command = yaml.safe_load(file.read_text())["spec"]["template"]["spec"]["containers"][0]["readinessProbe"][
            "exec"
        ]["command"]
    alive = tmp_path / "alive"
    here = [part.replace("/var/lib/tandem/training/alive", str(alive)) for part in (sys.executable, *command[1:])]

    def healthy() -> bool:
        return subprocess.run(here, capture_output=True).returncode == 0

    assert str(alive) in here[-1]
    assert not healthy()
    alive.touch()
    assert healthy()
    os.utime(alive, (time.time() - 600,) * 2)
    assert not healthy()


def test_every_service_is_confined(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert "cap_add" not in service, name
        assert "privileged" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is (name != "model"), name
        assert service["logging"]["options"]["max-size"], name
        assert service["deploy"]["resources"]["limits"]["memory"], name


def test_qdrant_has_the_key_that_its_clients_send(services: dict[str, dict[str, Any]]) -> None:
    key = services["qdrant"]["environment"]["QDRANT__SERVICE__API_KEY"]
    assert key.startswith("${TANDEM_QDRANT__API_KEY:?")
    for name in ("chat", "ingest", "trainer"):
        assert services[name]["environment"]["TANDEM_QDRANT__API_KEY"] == key


@pytest.mark.parametrize("secret", SECRETS)
def test_secrets_have_no_default(secret: str) -> None:
    uses = re.findall(rf"\$\{{{secret}([^}}]*)\}}", COMPOSE_FILE.read_text())
    assert uses
    assert all(use.startswith(":?Set ") for use in uses)


def test_no_image_floats(services: dict[str, dict[str, Any]]) -> None:
    overlay = yaml.safe_load(OBSERVABILITY.read_text())["services"]
    images = [service["image"] for service in (*services.values(), *overlay.values())]
    images += re.findall(r"^ARG (?:PYTHON|VLLM)_IMAGE=(\S+)", (INFRA / "Dockerfile").read_text(), re.MULTILINE)
    for file in sorted((INFRA / "kubernetes" / "base").glob("*.yaml")):
        images += [image for image in re.findall(r"^ +image: (\S+)", file.read_text(), re.MULTILINE) if ":" in image]
    assert len(images) > 10
    for image in images:
        _, _, tag = image.rpartition(":")
        assert re.search(r"\d", tag), image
        assert "latest" not in tag, image


def test_every_variable_is_a_setting(services: dict[str, dict[str, Any]]) -> None:
    known = set(setting_names())
    assert "TANDEM_QDRANT__API_KEY" in known
    used = {name for service in services.values() for name in service["environment"] if name.startswith("TANDEM_")}
    assert used - known == set()
    read = set(re.findall(r"\$\{(TANDEM_\w+)", COMPOSE_FILE.read_text()))
    assert read - known == COMPOSE_ONLY
    in_dockerfile = set(re.findall(r"\b(TANDEM_\w+)=", (INFRA / "Dockerfile").read_text()))
    assert in_dockerfile - known == set()


def test_chat_is_given_every_margin_of_a_canary(services: dict[str, dict[str, Any]]) -> None:
    margins = {name for name in setting_names() if name.startswith("TANDEM_CANARY__")}
    assert len(margins) > 8
    assert margins - set(services["chat"]["environment"]) == set()


def test_the_example_names_every_variable() -> None:
    text = COMPOSE_FILE.read_text() + OBSERVABILITY.read_text()
    read = set(re.findall(r"\$\{(\w+)", text))
    example = (REPOSITORY / ".env.example").read_text()
    assert {name for name in read if not re.search(rf"^{name}=", example, re.MULTILINE)} == set()
    for secret in SECRETS:
        assert re.search(rf"^{secret}=$", example, re.MULTILINE), f"{secret} has a value in .env.example"


def test_adapters_lie_at_one_path_and_the_model_cannot_write_them(services: dict[str, dict[str, Any]]) -> None:
    for name in ("chat", "trainer"):
        assert mounts(services[name])[ADAPTERS] == ("adapters", False)
    for name in ("model", "model-cpu"):
        assert mounts(services[name])[ADAPTERS] == ("adapters", True)
    for name, service in services.items():
        if name in OURS:
            assert all(ro for source, ro in mounts(service).values() if source.startswith("${")), name


def test_every_target_of_compose_is_built_by_the_dockerfile(services: dict[str, dict[str, Any]]) -> None:
    dockerfile = (INFRA / "Dockerfile").read_text()
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", dockerfile, re.MULTILINE))
    assert {service["build"]["target"] for service in services.values() if "build" in service} <= stages
    for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE):
        for source in copied.split():
            assert (REPOSITORY / source).exists(), f"the Dockerfile copies {source!r}, which is not here"


def test_the_images_run_as_a_user_of_their_own() -> None:
    dockerfile = (INFRA / "Dockerfile").read_text()
    for target in ("chat", "engine", "model-gpu"):
        stage = dockerfile.split(f" AS {target}\n")[1].split("\nFROM ")[0]
        assert re.findall(r"^USER (\S+)$", stage, re.MULTILINE)[-1].startswith("10001:"), target


def test_infra_holds_no_python() -> None:
    assert list(INFRA.rglob("*.py")) == []


def test_dashboard_and_alerts_use_metrics_that_chat_exposes() -> None:
    exposed = set()
    for family in Metrics().registry.collect():
        ending = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(family.type, ("",))
        exposed |= {family.name + end for end in ending}
    dashboard = json.loads((INFRA / "grafana" / "tandem.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    alerts = yaml.safe_load((INFRA / "prometheus" / "alerts.yml").read_text())
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    expressions += [rule["expr"] for rule in rules]
    used = set(re.findall(r"\btandem_\w+", " ".join(expressions)))
    assert len(used) > 8
    assert used - exposed == set()
    assert all(rule["annotations"]["action"] for rule in rules)


def test_kubernetes_takes_its_secrets_by_reference_and_confines_its_pods() -> None:
    documents = list(manifests(INFRA / "kubernetes"))
    assert all(document["kind"] != "Secret" for document in documents)
    known = set(setting_names())
    pods = 0
    for document in manifests(INFRA / "kubernetes" / "base"):
        if document["kind"] == "ConfigMap":
            assert set(document["data"]) - known == set()
        if document["kind"] not in ("Deployment", "StatefulSet"):
            continue
        pods += 1
        pod = document["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in (*pod.get("initContainers", []), *pod["containers"]):
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["resources"]["limits"]["memory"]
            for variable in container.get("env", []):
                if re.search(r"KEY|PASSWORD|DATABASE_URL", variable["name"]):
                    assert variable["valueFrom"]["secretKeyRef"]["name"] == "tandem", variable
                if variable["name"].startswith("TANDEM_"):
                    assert variable["name"] in known
    assert pods == 6


def test_every_manifest_is_in_its_kustomization() -> None:
    for folder in (INFRA / "kubernetes" / "base", INFRA / "kubernetes" / "gpu"):
        kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
        named = set(kustomization["resources"]) | {patch["path"] for patch in kustomization.get("patches", [])}
        here = {file.name for file in folder.glob("*.yaml")} - {"kustomization.yaml"}
        assert here == named - {"../base"}


def docker_compose() -> list[str]:
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and not subprocess.run([*command, "version"], capture_output=True).returncode:
            return command
    pytest.skip("docker compose is not installed here")


@pytest.fixture(scope="module")
def compose_environment() -> dict[str, str]:
    secrets = dict.fromkeys((*SECRETS, "GRAFANA_PASSWORD"), "0f1e2d")
    keep = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_CONFIG") if name in os.environ}
    return keep | secrets | {"TANDEM_AUTH__API_KEYS": '{"k": {"user": "ada"}}'}


def test_the_trainer_searches_as_the_service_does(services: dict[str, dict[str, Any]]) -> None:
    """An adapter is trained on what the service shows: a setting that only one of the two has would part them."""
    chat, trainer = (
        {name for name in services[each]["environment"] if name.startswith("TANDEM_RETRIEVAL__")}
        for each in ("chat", "trainer")
    )
    assert chat == trainer
    assert {"TANDEM_RETRIEVAL__BEST_ALONE", "TANDEM_RETRIEVAL__COMPARED"} <= chat


@pytest.mark.parametrize("overlay", [False, True], ids=["plain", "observability"])
@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_compose_accepts_both_profiles(profile: str, overlay: bool, compose_environment: dict[str, str]) -> None:
    files = [COMPOSE_FILE, OBSERVABILITY] if overlay else [COMPOSE_FILE]
    command = [*docker_compose(), "--env-file", "/dev/null", "--profile", profile]
    command += [part for file in files for part in ("-f", str(file))]
    done = subprocess.run(
        [*command, "config", "--format", "json"],
        env=compose_environment,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["services"]
    models = {name for name in found if name.startswith("model")}
    assert models == {"cpu": {"model-cpu"}, "gpu": {"model"}}[profile]
    published = [port["host_ip"] for service in found.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1"] * (2 if overlay else 1)


@pytest.mark.parametrize("secret", SECRETS)
def test_compose_asks_for_a_missing_secret_in_a_sentence(secret: str, compose_environment: dict[str, str]) -> None:
    environment = {name: value for name, value in compose_environment.items() if name != secret}
    command = [*docker_compose(), "--env-file", "/dev/null", "-f", str(COMPOSE_FILE), "config", "-q"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode != 0
    assert f"Set {secret} in .env" in done.stderr
