"""The deployment files as the tests read them: manifests, the compose file as a tool resolves it, Dockerfiles."""

import functools
import os
import re
import shlex
import shutil
import subprocess
import sysconfig
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from app import cli

Manifest = dict[str, Any]

ROOT = Path(__file__).parents[2]
BASE = ROOT / "k8s" / "base"
POD_MONITOR = ROOT / "k8s" / "components" / "pod-monitor" / "pod-monitor.yaml"
TEACHERS = ROOT / "k8s" / "components" / "teachers"
OVERLAYS = ("cpu", "gpu")
OPERATIONS = ROOT / "docs" / "operations.md"
# Where pip puts the programs of the packages: hadolint, weed and the like.
PROGRAMS = Path(sysconfig.get_path("scripts"))
# What an operator has to give docker-compose.yml, and nothing else; here with all profiles, of which they choose one.
COMPOSE_VARIABLES = {
    "COMPOSE_PROFILES": "cpu,gpu",
    "POSTGRES_PASSWORD": "5f1d0c",
    "REDIS_PASSWORD": "7a2b9e",
    "S3_ACCESS_KEY_ID": "stillhouse",
    "S3_SECRET_ACCESS_KEY": "c4e81f",
}


def read_manifests(path: Path) -> list[Manifest]:
    return list(yaml.safe_load_all(path.read_text()))


@functools.cache
def base_manifests() -> list[Manifest]:
    """What the base's kustomization lists, as the files say it. To be read, not changed."""
    (kustomization,) = read_manifests(BASE / "kustomization.yaml")
    return [manifest for name in kustomization["resources"] for manifest in read_manifests(BASE / name)]


def example_secret() -> dict[str, str]:
    (secret,) = read_manifests(BASE / "secret.example.yaml")
    return dict(secret["stringData"])


def settings_file() -> dict[str, str]:
    """settings.env by kustomize's rules: one variable a line, `#` begins a line of comment."""
    lines = (line for line in (BASE / "settings.env").read_text().splitlines() if line and not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines)  # type: ignore[misc]


@functools.cache
def build(folder: Path) -> list[Manifest]:
    """What kustomize makes of a folder; skips where neither kubectl nor kustomize is installed."""
    if shutil.which("kubectl"):
        command = ["kubectl", "kustomize", str(folder)]
    elif shutil.which("kustomize"):
        command = ["kustomize", "build", str(folder)]
    else:
        pytest.skip("neither kubectl nor kustomize is installed; the files are checked all the same")
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return list(yaml.safe_load_all(built.stdout))


def of_kind(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    """The manifests of a kind, by name."""
    return {manifest["metadata"]["name"]: manifest for manifest in manifests if manifest["kind"] == kind}


def pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Every pod template, by its component (api, worker, ...)."""
    templates = [m["spec"]["template"] for m in manifests if "template" in m.get("spec", {})]
    return {template["metadata"]["labels"]["app.kubernetes.io/component"]: template for template in templates}


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]


def environment(container: Manifest, secret: Mapping[str, str]) -> dict[str, str]:
    """What a container of the base gets, with the values of this secret."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        assert source == {"configMapRef": {"name": "stillhouse-settings"}}
        found |= settings_file()
    for variable in container.get("env", ()):
        if "value" in variable:
            found[variable["name"]] = variable["value"]
        else:
            reference = variable["valueFrom"]["secretKeyRef"]
            assert reference["name"] == "stillhouse-secrets"
            found[variable["name"]] = secret[reference["key"]]
    return found


def resolve_compose(variables: Mapping[str, str], *, folder: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    """The folder's docker-compose.yml as podman-compose understands it, with these variables and no others of ours."""
    inherited = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    # A dry run: only then it does not look for podman, which `config` has no use for.
    command = [PROGRAMS / "podman-compose", "--env-file", os.devnull, "--dry-run", "config"]
    return subprocess.run(
        command, cwd=folder, env={**inherited, **variables}, capture_output=True, text=True, check=False
    )


def compose_services(variables: Mapping[str, str], *, folder: Path = ROOT) -> dict[str, Manifest]:
    """The services of the folder's docker-compose.yml that these variables start, with all that they stand for filled
    in."""
    resolved = resolve_compose(variables, folder=folder)
    assert resolved.returncode == 0, resolved.stderr
    return dict(yaml.safe_load(resolved.stdout)["services"])


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile in order, each with its arguments on one line."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", "", text).splitlines()
    return [(name, arguments.strip()) for name, _, arguments in (line.partition(" ") for line in lines if line)]


def image_environment(dockerfile: Path) -> dict[str, str]:
    """The variables of the image's last stage."""
    found: dict[str, str] = {}
    for name, arguments in instructions(dockerfile):
        if name == "FROM":
            found = {}
        if name == "ENV":
            found |= dict(word.split("=", 1) for word in shlex.split(arguments))  # type: ignore[misc]
    return found


def released_version() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def section(title: str) -> str:
    """What stands under a heading of docs/operations.md."""
    return OPERATIONS.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]


def console_blocks(text: str) -> list[list[list[str]]]:
    """The words of the commands of each console block; what a command prints or reads is left out."""
    return [_commands(block) for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL)]


def yaml_blocks(text: str) -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)


def posted(text: str, path: str) -> list[str]:
    """The JSON bodies that the page's curl commands send to a route of that path."""
    commands = [command for block in console_blocks(text) for command in block]
    return [c[c.index("-d") + 1] for c in commands if c[0] == "curl" and "-d" in c and c[2].endswith(path)]


def _commands(block: str) -> list[list[str]]:
    found: list[list[str]] = []
    lines = iter(block.replace("\\\n", "").splitlines())
    for line in lines:
        command = line.removeprefix("$ ")
        while command != line:
            try:
                found.append(shlex.split(command, comments=True))
                break
            except ValueError:  # a quotation that goes on
                command += f"\n{next(lines)}"
    return found


def assert_is_command(arguments: list[str]) -> None:
    """That the `stillhouse` program takes these arguments; argparse ends the process where it does not."""
    cli.make_parser().parse_args(arguments)
