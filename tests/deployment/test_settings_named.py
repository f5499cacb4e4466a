"""Every setting can be set by an operator without reading the source, and nothing is set that does not exist."""

import re
from pathlib import Path

import pytest
from kombu import Connection

from app.settings import Settings
from tests.deployment.files import (
    BASE,
    OVERLAYS,
    ROOT,
    Manifest,
    base_manifests,
    containers,
    example_secret,
    image_environment,
    pods,
    section,
    settings_file,
)
from tests.deployment.overlays import resolve

SETTINGS = {f"STILLHOUSE_{name.upper()}" for name in Settings.model_fields}

EMBEDDED_ONLY = {"STILLHOUSE_ALLOWED_HOSTS": "a cluster does not ask under which name it is called"}
NOT_FOR_CONTAINERS = {
    "STILLHOUSE_HOME": "the images fix it; in a cluster nothing is kept there",
    "STILLHOUSE_HOST": "the images listen on all addresses of their container",
}
NOT_FOR_COMPOSE = {
    "STILLHOUSE_PORT": "the image fixes it; API_PORT is the one on the machine",
    "STILLHOUSE_WORK_DIR": "the image fixes it, where the volume is mounted",
    "STILLHOUSE_LOG_FORMAT": "the images fix it: a container's output is read by machines",
}


def named_in_kubernetes() -> set[str]:
    variables = {
        variable["name"]
        for overlay in OVERLAYS
        for pod in pods(resolve(ROOT / "k8s" / "overlays" / overlay)).values()
        for container in containers(pod)
        for variable in container["env"]
    }
    return variables | set(settings_file())


def ours(names: set[str]) -> set[str]:
    return {name for name in names if name.startswith("STILLHOUSE_")}


class TestEveryNameIsASetting:
    @pytest.mark.parametrize(
        "path",
        [
            "docker-compose.yml",
            "app/Dockerfile",
            "worker/Dockerfile",
            "docs/operations.md",
            *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "k8s").rglob("*") if path.is_file()),
        ],
    )
    def test_in_each_deployment_file(self, path: str) -> None:
        """Also in comments: an operator copies from there."""
        found = set(re.findall(r"STILLHOUSE_[A-Z0-9_]+[A-Z0-9]", (ROOT / path).read_text()))
        assert found - SETTINGS == set()

    def test_finds_the_names(self) -> None:
        """A wrong pattern would let the test above pass."""
        assert "STILLHOUSE_DATABASE_URL" in set(
            re.findall(r"STILLHOUSE_[A-Z0-9_]+[A-Z0-9]", (ROOT / "docker-compose.yml").read_text())
        )


class TestEverySettingIsNamed:
    def test_in_compose(self, services: dict[str, Manifest]) -> None:
        for service in ("api", "worker", "scheduler"):
            named = ours(set(services[service]["environment"]))
            assert named | set(EMBEDDED_ONLY) | set(NOT_FOR_CONTAINERS) | set(NOT_FOR_COMPOSE) == SETTINGS, service

    def test_in_kubernetes(self) -> None:
        assert ours(named_in_kubernetes()) | set(EMBEDDED_ONLY) | set(NOT_FOR_CONTAINERS) == SETTINGS

    def test_or_left_out_for_a_reason_that_holds(self, services: dict[str, Manifest]) -> None:
        """What the images are said to fix, they fix."""
        fixed = image_environment(ROOT / "app/Dockerfile") | image_environment(ROOT / "worker/Dockerfile")
        assert set(NOT_FOR_CONTAINERS) | set(NOT_FOR_COMPOSE) <= set(fixed)
        assert not set(NOT_FOR_CONTAINERS) & ours(named_in_kubernetes())
        assert not (set(NOT_FOR_CONTAINERS) | set(NOT_FOR_COMPOSE)) & set(services["worker"]["environment"])


class TestSecrets:
    def test_are_in_no_file_of_settings(self) -> None:
        assert set(settings_file()) & set(example_secret()) == set()

    def test_in_the_example_are_those_that_the_pods_ask_for(self) -> None:
        asked = {
            variable["valueFrom"]["secretKeyRef"]["key"]
            for pod in pods(base_manifests()).values()
            for container in containers(pod)
            for variable in container["env"]
            if "valueFrom" in variable
        }
        assert asked == set(example_secret())

    @pytest.mark.parametrize("option", ["ssl_ca_certs=/path", "ssl_cert_reqs=none"])
    def test_of_redis_come_with_what_can_be_said_of_its_certificate(self, option: str) -> None:
        """Harm: a Redis whose certificate is of the operator's own CA refuses every process, and nothing says why."""
        assert f"`?{option}`" in (BASE / "secret.example.yaml").read_text()
        assert f"`?{option}`" in section("Settings")
        url = example_secret()["STILLHOUSE_BROKER_URL"]
        assert url.startswith("rediss://")
        assert option.partition("=")[0] in (Connection(f"{url}?{option}").ssl or {})

    def test_are_not_applied_from_the_example(self) -> None:
        kustomizations = [*BASE.glob("kustomization.yaml"), *Path(ROOT / "k8s/overlays").rglob("kustomization.yaml")]
        assert len(kustomizations) == 3
        assert all("secret.example.yaml" not in _resources(path) for path in kustomizations)


def _resources(path: Path) -> list[str]:
    from tests.deployment.files import read_manifests

    (kustomization,) = read_manifests(path)
    return list(kustomization["resources"])
