"""The overlays by as much of kustomize's rules as they use, for machines that have no kustomize.

What else a kustomization could say is refused, so that nobody takes it for checked.
"""

import json
from pathlib import Path
from typing import Any

from tests.deployment.files import BASE, Manifest, base_manifests, containers, read_manifests

_FIELDS = {"apiVersion", "kind", "resources", "images", "patches"}


def resolve(folder: Path) -> list[Manifest]:
    """The base's manifests with the overlay's patches and both their image tags; the settings are not among them."""
    (kustomization,) = read_manifests(folder / "kustomization.yaml")
    assert set(kustomization) <= _FIELDS, f"{folder}: fields that only kustomize knows"
    bases = [(folder / name).resolve() for name in kustomization["resources"]]
    assert bases == [BASE], f"{folder}: resources that are not the base alone"
    # Through JSON, because the anchors of the files' YAML make one object of several.
    manifests: list[Manifest] = json.loads(json.dumps(base_manifests()))
    for entry in kustomization.get("patches", ()):
        _patch(manifests, entry["target"], folder / entry["path"])
    (base,) = read_manifests(BASE / "kustomization.yaml")
    _tag(manifests, [*base["images"], *kustomization.get("images", ())])
    return manifests


def _patch(manifests: list[Manifest], target: dict[str, str], path: Path) -> None:
    assert set(target) == {"kind", "name"}, target
    (patch,) = read_manifests(path)
    assert (patch["kind"], patch["metadata"]["name"]) == (target["kind"], target["name"]), path
    hit = [m for m in manifests if (m["kind"], m["metadata"]["name"]) == (target["kind"], target["name"])]
    assert len(hit) == 1, f"{path} changes nothing of the base"
    _merge(hit[0], patch, str(path))


def _merge(into: dict[str, Any], patch: dict[str, Any], where: str) -> None:
    """Kubernetes' strategic merge, where a list of named things is merged by their names, a new variable going to the
    head of its list, and another list is replaced."""
    for key, value in patch.items():
        assert value is not None, f"{where}: {key} is deleted, which is not known here"
        assert not key.startswith("$"), f"{where}: {key} is not known here"
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value, f"{where}: {key}")
        elif isinstance(value, list) and all(isinstance(item, dict) and "name" in item for item in value):
            there = {item["name"]: item for item in into.get(key, ())}
            for item in value:
                if key == "env" and item["name"] not in there:
                    into[key] = [item, *into[key]]
                    continue
                # kustomize would add it, as a container without an image.
                assert item["name"] in there, f"{where}: the base has no {key} {item['name']!r}"
                _merge(there[item["name"]], item, f"{where}: {key}")
        else:
            into[key] = value


def _tag(manifests: list[Manifest], images: list[dict[str, str]]) -> None:
    templates = [m["spec"]["template"] for m in manifests if "template" in m.get("spec", {})]
    found = [container for template in templates for container in containers(template)]
    for image in images:
        assert set(image) == {"name", "newTag"}, image
        hit = [container for container in found if container["image"].partition(":")[0] == image["name"]]
        assert hit, f"no container has the image {image['name']!r}"
        for container in hit:
            container["image"] = f"{image['name']}:{image['newTag']}"
