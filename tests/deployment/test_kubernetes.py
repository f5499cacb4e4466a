"""The manifests of k8s/: those of the base as they stand, and what kustomize makes of the overlays."""

import re
import shutil
from collections.abc import Callable
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml
from pydantic import ValidationError
from starlette.testclient import TestClient

from app.db.session import create_database_engine
from app.main import create_app
from app.settings import Settings
from tests.deployment.files import (
    BASE,
    OPERATIONS,
    OVERLAYS,
    POD_MONITOR,
    ROOT,
    TEACHERS,
    Manifest,
    assert_is_command,
    base_manifests,
    build,
    console_blocks,
    containers,
    environment,
    example_secret,
    image_environment,
    of_kind,
    pods,
    read_manifests,
    released_version,
    section,
    settings_file,
    yaml_blocks,
)
from tests.deployment.overlays import resolve
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.servers import free_port
from worker.engine_outcome import EngineEnd

# The oldest that k8s/base/kustomization.yaml names, and the newest that the validator knows.
KUBERNETES_VERSIONS = ("1.30", kubernetes_validate.latest_version())
COMPONENTS = ("api", "migrate", "scheduler", "worker")
COMPONENT = "app.kubernetes.io/component"
# Of the end of a process that has used up STILLHOUSE_SHUTDOWN_SECONDS.
SPARE_SECONDS = 5
REAL_SECRET = {
    name: value.replace("changeme", "5f1d0c").replace("hf_xxx", "hf_5f1d0c") for name, value in example_secret().items()
}


def pod(component: str) -> Manifest:
    return pods(base_manifests())[component]


def main_container(component: str) -> Manifest:
    (container,) = pod(component)["spec"]["containers"]
    return dict(container)


def defined_elsewhere() -> dict[str, Any]:
    """The kinds that Kubernetes itself has not. They take seconds to import, which every process that collects the
    tests would do."""
    from cloudcoil.models.keda.v1alpha1 import ScaledObject, TriggerAuthentication
    from cloudcoil.models.prometheus_operator.v1 import PodMonitor

    return {kind.__name__: kind for kind in (ScaledObject, TriggerAuthentication, PodMonitor)}


def validate(manifest: Manifest) -> None:
    """By the schemas of Kubernetes or of the kind's own makers; unknown fields are refused."""
    if manifest["kind"] in (elsewhere := defined_elsewhere()):
        elsewhere[manifest["kind"]].model_validate(manifest, extra="forbid")
        return
    for version in KUBERNETES_VERSIONS:
        kubernetes_validate.validate(manifest, version, strict=True)


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    assert set(selector) == {"matchLabels"}, selector
    return bool(selector["matchLabels"].items() <= labels.items())


def applying(component: str) -> list[Manifest]:
    """The network policies that apply to a component's pods."""
    labels = pod(component)["metadata"]["labels"]
    policies = of_kind(base_manifests(), "NetworkPolicy").values()
    return [policy["spec"] for policy in policies if selects(policy["spec"]["podSelector"], labels)]


def let_through(component: str, direction: str) -> set[int | str]:
    """The ports of the rules for a component's pods, in this direction."""
    rules = [rule for policy in applying(component) for rule in policy.get(direction, ())]
    return {port["port"] for rule in rules for port in rule["ports"]}


# In one process: see defined_elsewhere.
@pytest.mark.xdist_group("schemas")
class TestSchemas:
    @pytest.mark.parametrize("manifest", base_manifests(), ids=lambda m: f"{m['kind']}-{m['metadata']['name']}")
    def test_take_the_base(self, manifest: Manifest) -> None:
        validate(manifest)

    def test_take_the_pod_monitor_and_the_example_secret(self) -> None:
        for path in (POD_MONITOR, BASE / "secret.example.yaml"):
            for manifest in read_manifests(path):
                validate(manifest)

    @pytest.mark.parametrize("overlay", OVERLAYS)
    def test_take_what_kustomize_makes_of_an_overlay(self, overlay: str) -> None:
        manifests = build(ROOT / "k8s" / "overlays" / overlay)
        assert len(manifests) == len(base_manifests()) + 1  # the settings
        for manifest in manifests:
            validate(manifest)

    def test_refuse_a_wrong_field_everywhere(self) -> None:
        """Else the tests above could not fail."""
        for manifest in (*base_manifests(), *read_manifests(POD_MONITOR)):
            part = "spec" if "spec" in manifest else "metadata"
            wrong = {**manifest, part: {**manifest[part], "replikas": 2}}
            with pytest.raises((ValidationError, kubernetes_validate.ValidationError)):
                validate(wrong)


class TestBase:
    def test_lists_every_file(self) -> None:
        (kustomization,) = read_manifests(BASE / "kustomization.yaml")
        not_applied = {"kustomization.yaml", "secret.example.yaml", "settings.env"}
        assert {path.name for path in BASE.iterdir()} == {*kustomization["resources"], *not_applied}

    def test_says_of_each_manifest_for_which_pods_it_is(self) -> None:
        """Harm: an upgrade that applies the workers first leaves it out, or applies it with them."""
        for manifest in base_manifests():
            spec, component = manifest.get("spec", {}), component_of(manifest)
            selector = spec.get("podSelector", spec.get("selector", {}))
            labels = selector.get("matchLabels", selector)
            assert component in (*COMPONENTS, "settings"), manifest["metadata"]
            assert labels.get(COMPONENT, component) == component, manifest["metadata"]
            if "scaleTargetRef" in spec:
                assert spec["scaleTargetRef"]["name"] == f"stillhouse-{component}"
        for path in (POD_MONITOR, ROOT / "k8s/alerts/prometheus-rules.yaml"):
            assert [component_of(manifest) for manifest in read_manifests(path)] == ["monitoring"]

    def test_says_it_of_the_settings_too(self) -> None:
        (kustomization,) = read_manifests(BASE / "kustomization.yaml")
        (generator,) = kustomization["configMapGenerator"]
        assert generator["options"]["labels"][COMPONENT] == "settings"

    def test_names_no_namespace(self) -> None:
        assert [m["metadata"]["name"] for m in base_manifests() if "namespace" in m["metadata"]] == []

    def test_has_a_pod_for_each_part(self) -> None:
        assert sorted(pods(base_manifests())) == sorted(COMPONENTS)

    def test_releases_the_version_of_the_package(self) -> None:
        (kustomization,) = read_manifests(BASE / "kustomization.yaml")
        assert {image["name"]: image["newTag"] for image in kustomization["images"]} == {
            "stillhouse-api": released_version(),
            "stillhouse-worker": released_version(),
        }


@pytest.mark.parametrize("component", COMPONENTS)
class TestPods:
    def test_run_commands_that_exist(self, component: str) -> None:
        for container in containers(pod(component)):
            assert "command" not in container
            assert_is_command(container["args"])
            image = "stillhouse-worker" if component == "worker" else "stillhouse-api"
            assert container["image"] == image

    def test_have_no_rights(self, component: str) -> None:
        spec = pod(component)["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 10001
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(pod(component)):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }

    def test_are_not_told_of_services_by_variables(self, component: str) -> None:
        """Harm: a Service of the name `stillhouse` would set STILLHOUSE_PORT to tcp://..."""
        assert pod(component)["spec"]["enableServiceLinks"] is False

    def test_request_and_limit_what_they_use(self, component: str) -> None:
        for container in containers(pod(component)):
            for kind in ("requests", "limits"):
                assert {"cpu", "memory"} <= set(container["resources"][kind]), container["name"]

    def test_are_looked_after_by_the_tokenless_account(self, component: str) -> None:
        account = of_kind(base_manifests(), "ServiceAccount")[pod(component)["spec"]["serviceAccountName"]]
        assert account["automountServiceAccountToken"] is False

    def test_get_settings_that_the_program_takes(self, component: str, monkeypatch: pytest.MonkeyPatch) -> None:
        for container in containers(pod(component)):
            for name, value in environment(container, REAL_SECRET).items():
                monkeypatch.setenv(name, value)
            settings = Settings()
            assert not settings.embedded
            assert settings.object_store_url.startswith("s3://")

    def test_refuse_to_start_with_the_example_secret(self, component: str, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in environment(main_container(component), example_secret()).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ValidationError, match="still a placeholder"):
            Settings()


@pytest.mark.parametrize("component", ["api", "scheduler", "worker"])
class TestDeployments:
    def test_wait_for_the_migrations(self, component: str) -> None:
        (container,) = pod(component)["spec"]["initContainers"]
        assert container["args"][:2] == ["migrate", "--check"]

    def test_select_their_own_pods(self, component: str) -> None:
        deployment = of_kind(base_manifests(), "Deployment")[f"stillhouse-{component}"]
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert selects(deployment["spec"]["selector"], labels)
        for other in set(COMPONENTS) - {component}:
            assert not selects(deployment["spec"]["selector"], pod(other)["metadata"]["labels"])
        for constraint in deployment["spec"]["template"]["spec"].get("topologySpreadConstraints", ()):
            assert selects(constraint["labelSelector"], labels)

    def test_have_longer_to_stop_than_they_take(self, component: str) -> None:
        container = main_container(component)
        shutdown_seconds = float(environment(container, REAL_SECRET)["STILLHOUSE_SHUTDOWN_SECONDS"])
        pause_seconds = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        grace_seconds = pod(component)["spec"]["terminationGracePeriodSeconds"]
        assert grace_seconds >= shutdown_seconds + pause_seconds + SPARE_SECONDS

    def test_listen_on_the_ports_of_their_settings(self, component: str) -> None:
        container = main_container(component)
        name, setting = ("http", "STILLHOUSE_PORT") if component == "api" else ("metrics", "STILLHOUSE_METRICS_PORT")
        number = int(environment(container, REAL_SECRET)[setting])
        assert container["ports"] == [{"name": name, "containerPort": number}]

    def test_are_probed_where_they_answer(self, component: str, answers: Callable[[str, str], bool]) -> None:
        container = main_container(component)
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container[kind]["httpGet"]
            assert probe["port"] == container["ports"][0]["name"]
            assert answers(probe["port"], probe["path"]), (kind, probe)

    def test_are_not_killed_for_a_database_that_is_away(self, component: str) -> None:
        assert main_container(component)["livenessProbe"]["httpGet"]["path"] == "/healthz"

    def test_are_scraped_where_they_answer(self, component: str, answers: Callable[[str, str], bool]) -> None:
        annotations = pod(component)["metadata"]["annotations"]
        (port,) = main_container(component)["ports"]
        assert annotations["prometheus.io/port"] == str(port["containerPort"])
        assert answers(port["name"], annotations["prometheus.io/path"])
        (monitor,) = read_manifests(POD_MONITOR)
        assert selects(monitor["spec"]["selector"], pod(component)["metadata"]["labels"])
        endpoints = {endpoint["port"]: endpoint["path"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
        assert endpoints[port["name"]] == annotations["prometheus.io/path"]

    def test_have_volumes_where_they_write(self, component: str) -> None:
        """Their roots are read-only."""
        volumes = {v["name"] for v in pod(component)["spec"]["volumes"] if {"emptyDir", "ephemeral"} & set(v)}
        mounts = {m["mountPath"] for m in main_container(component)["volumeMounts"] if m["name"] in volumes}
        assert "/tmp" in mounts
        if component == "worker":
            given = image_environment(ROOT / "worker/Dockerfile") | environment(main_container("worker"), REAL_SECRET)
            assert {given["STILLHOUSE_WORK_DIR"], given["NUMBA_CACHE_DIR"]} <= mounts
            assert Path(given["HF_HOME"]).is_relative_to("/tmp")


class TestApi:
    def test_is_ready_without_what_all_its_pods_share(
        self, change_settings: ChangeSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: while the database or the store is away no pod is ready, and clients are refused the connection where
        they should be told what is wrong and when to come again."""
        nowhere = f"127.0.0.1:{free_port()}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{nowhere}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
        settings = change_settings(
            database_url=f"postgresql://nobody@{nowhere}/none",
            broker_url=f"redis://{nowhere}/0",
            object_store_url="s3://bucket/prefix",
        )
        client = TestClient(create_app(settings))
        assert client.get("/readyz").status_code == 503  # so they are away
        assert client.get(main_container("api")["readinessProbe"]["httpGet"]["path"]).status_code == 200


class TestWorkersDisk:
    def volumes(self) -> dict[str, Manifest]:
        return {volume["name"]: volume for volume in pod("worker")["spec"]["volumes"]}

    def test_for_run_folders_is_a_volume_that_can_be_full(self) -> None:
        """Harm: over the limit of an emptyDir the pod is evicted, and the job loses its worker without a reason."""
        work_dir = settings_file()["STILLHOUSE_WORK_DIR"]
        (mount,) = [m for m in main_container("worker")["volumeMounts"] if m["mountPath"] == work_dir]
        claim = self.volumes()[mount["name"]]["ephemeral"]["volumeClaimTemplate"]["spec"]
        assert claim["accessModes"] == ["ReadWriteOnce"]
        # The class is the cluster's own.
        assert set(claim) == {"accessModes", "resources"}
        documented = re.findall(r"(\d+) GiB", section("Sizing").split("Worker's disk")[1].split("\n- ")[0])
        assert [f"{number}Gi" for number in documented] == [claim["resources"]["requests"]["storage"]]
        assert f"a volume of {documented[0]} GiB" in " ".join(section("Install").split())

    def test_belongs_to_the_group_that_the_worker_runs_as(self) -> None:
        """Harm: a new volume belongs to root."""
        security = pod("worker")["spec"]["securityContext"]
        assert security["fsGroup"] == security["runAsGroup"] == 10001

    def test_of_the_node_is_asked_for_as_far_as_the_other_volumes_may_fill_it(self) -> None:
        limits = [volume["emptyDir"]["sizeLimit"] for volume in self.volumes().values() if "emptyDir" in volume]
        asked = main_container("worker")["resources"]["requests"]["ephemeral-storage"]
        total = sum(int(limit.removesuffix("Gi")) for limit in limits)
        assert total < int(asked.removesuffix("Gi")) <= total + 2


class TestScaling:
    def test_stays_within_the_connections_that_the_operator_is_told_to_allow(self) -> None:
        """Harm: at their most the API pods use up what PostgreSQL allows, and requests and workers are refused."""
        (autoscaler,) = of_kind(base_manifests(), "HorizontalPodAutoscaler").values()
        (scaled,) = of_kind(base_manifests(), "ScaledObject").values()
        pods_at_most, workers = autoscaler["spec"]["maxReplicas"], scaled["spec"]["maxReplicaCount"]
        pool: Any = create_database_engine("postgresql+psycopg://stillhouse@127.0.0.1/stillhouse").pool
        for_a_pod = pool.size() + pool._max_overflow
        text = " ".join(section("Sizing").split())
        found = re.search(r"`max_connections` has to be (\d+) x \(API pods \+ 1.*?\) \+ (\d+) x workers \+ (\d+)", text)
        assert found is not None
        by_pod, by_worker, rest = map(int, found.groups())
        assert by_pod == for_a_pod
        (shipped,) = re.findall(r"(\d+) for the manifests as they are, which go up to (\d+) API pods and (\d+)", text)
        needed = by_pod * (pods_at_most + 1) + by_worker * workers + rest
        assert [int(number) for number in shipped] == [needed, pods_at_most, workers]
        # Fewer pods than the autoscaler keeps there are not, so PostgreSQL's default is to be raised in any case.
        (least,) = re.findall(r"own default is (\d+), and two API pods with (\d+) workers already need (\d+)", text)
        needed = by_pod * (autoscaler["spec"]["minReplicas"] + 1) + by_worker * workers + rest
        assert [int(number) for number in least] == [100, workers, needed]
        assert needed > 100

    def test_leaves_the_number_of_pods_to_who_scales_them(self) -> None:
        manifests = base_manifests()
        deployments = of_kind(manifests, "Deployment")
        (autoscaler,) = of_kind(manifests, "HorizontalPodAutoscaler").values()
        (scaled,) = of_kind(manifests, "ScaledObject").values()
        assert autoscaler["spec"]["scaleTargetRef"]["name"] == "stillhouse-api"
        assert scaled["spec"]["scaleTargetRef"]["name"] == "stillhouse-worker"
        for name in ("stillhouse-api", "stillhouse-worker"):
            assert "replicas" not in deployments[name]["spec"]

    def test_keeps_two_api_pods(self) -> None:
        (autoscaler,) = of_kind(base_manifests(), "HorizontalPodAutoscaler").values()
        assert autoscaler["spec"]["minReplicas"] >= 2

    @pytest.mark.parametrize("component", ["api", "worker"])
    def test_never_blocks_a_drain(self, component: str) -> None:
        """Harm: minAvailable, or maxUnavailable 0, keeps a node from being emptied while a single pod is left."""
        budget = of_kind(base_manifests(), "PodDisruptionBudget")[f"stillhouse-{component}"]["spec"]
        assert selects(budget["selector"], pod(component)["metadata"]["labels"])
        assert "minAvailable" not in budget
        assert budget["maxUnavailable"] >= 1
        assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"

    def test_replaces_a_worker_before_it_wants_another_gpu(self) -> None:
        deployment = of_kind(base_manifests(), "Deployment")["stillhouse-worker"]
        assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}


class TestUpgrade:
    """The selectors of docs/operations.md, which tell a first step from the rest."""

    def test_applies_with_the_workers_what_they_need_and_nothing_of_the_api(self) -> None:
        (first,) = chosen_by("apply")
        assert set(of_kind(first, "Deployment")) == {"stillhouse-worker"}
        assert set(of_kind(first, "Job")) == {"stillhouse-migrate"}
        assert set(of_kind(first, "ServiceAccount")) == {pod("worker")["spec"]["serviceAccountName"]}
        policies = [policy["spec"] for policy in of_kind(first, "NetworkPolicy").values()]
        for component in ("worker", "migrate"):
            assert all(policy in policies for policy in applying(component))
        assert {"ScaledObject", "TriggerAuthentication", "PodDisruptionBudget"} <= {m["kind"] for m in first}
        assert {component_of(manifest) for manifest in first} == {"settings", "migrate", "worker"}

    def test_stops_with_what_would_start_the_pods_anew_and_lets_the_database_be_reached(self) -> None:
        (chosen,) = chosen_by("delete")
        commands = [command for block in console_blocks(section("Upgrade")) for command in block]
        verbs = [(command[3], command[4]) for command in commands if command[0] == "kubectl"]
        (kinds,) = [what for verb, what in verbs if verb == "delete"]
        deleted = [manifest for manifest in chosen if manifest["kind"].lower() in kinds.split(",")]
        manifests = base_manifests()
        for kind in ("Deployment", "ScaledObject", "HorizontalPodAutoscaler"):
            assert of_kind(deleted, kind) == of_kind(manifests, kind)
        # Workers hand back what they have in hand, and the database is changed once they have.
        assert of_kind(deleted, "NetworkPolicy") == {}
        assert [verb for verb, _ in verbs][-3:] == ["delete", "wait", "run"]

    @pytest.mark.parametrize("overlay", OVERLAYS)
    def test_applies_the_settings_with_the_workers(self, overlay: str) -> None:
        manifests = build(ROOT / "k8s" / "overlays" / overlay)
        (settings,) = of_kind(manifests, "ConfigMap").values()
        assert component_of(settings) == "settings"
        assert all(component_of(manifest) for manifest in manifests)


def component_of(manifest: Manifest) -> str:
    return str(manifest["metadata"]["labels"][COMPONENT])


def chosen_by(verb: str) -> list[list[Manifest]]:
    """What each `kubectl` command of this verb with a selector takes of the base."""
    commands = [command for block in console_blocks(section("Upgrade")) for command in block]
    found = []
    for command in commands:
        if command[0] != "kubectl" or verb not in command or "--selector" not in command:
            continue
        selector = command[command.index("--selector") + 1]
        words = re.fullmatch(rf"{re.escape(COMPONENT)} in \(([a-z,]+)\)", selector)
        assert words is not None, selector
        found.append([manifest for manifest in base_manifests() if component_of(manifest) in words[1].split(",")])
    return found


class TestImages:
    @pytest.mark.parametrize("overlay", OVERLAYS)
    def test_are_built_by_a_command_of_the_docs(self, overlay: str) -> None:
        """Harm: pods that wait for an image which nobody was told to build."""
        built = {image.partition("/")[2]: command for command in docker_builds() for image in tags(command)}
        for template in pods(resolve(ROOT / "k8s" / "overlays" / overlay)).values():
            for container in containers(template):
                command = built[container["image"]]
                assert any(word.startswith("TORCH_INDEX=") for word in command) == container["image"].endswith("-cuda")

    @pytest.mark.parametrize("overlay", OVERLAYS)
    def test_are_found_where_the_overlay_of_the_docs_says(self, overlay: str, tmp_path: Path) -> None:
        shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
        folder = tmp_path / "k8s" / "overlays" / "ours"
        folder.mkdir()
        (text,) = re.findall(r"\$ cat > kustomization.yaml\n(.*?)\$ ", section("Install"), re.DOTALL)
        (folder / "kustomization.yaml").write_text(text.replace("../cpu", f"../{overlay}"))
        manifests = build(folder)
        built = {image for command in docker_builds() for image in tags(command)}
        assert {
            container["image"] for template in pods(manifests).values() for container in containers(template)
        } <= built
        (settings,) = of_kind(manifests, "ConfigMap").values()
        assert settings["data"]["STILLHOUSE_OBJECT_STORE_URL"] == "s3://our-bucket"
        assert component_of(settings) == "settings"

    @pytest.mark.parametrize("overlay", OVERLAYS)
    def test_of_the_next_release_know_the_gpu_where_they_are_for_it(self, overlay: str, tmp_path: Path) -> None:
        """Harm: the CPU image runs on GPU nodes, finds no GPU, and no job is ever done."""
        cpu, gpu = yaml_blocks(section("Upgrade"))
        kustomization = yaml.safe_load({"cpu": cpu, "gpu": gpu}[overlay])
        kustomization["resources"] = [_relative(str(ROOT / "k8s" / "overlays" / overlay), tmp_path)]
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        for component, template in pods(build(tmp_path)).items():
            is_for_gpu = (component, overlay) == ("worker", "gpu")
            for container in containers(template):
                _, _, tag = container["image"].rpartition(":")
                assert tag.removesuffix("-cuda") != released_version()
                assert tag.endswith("-cuda") == is_for_gpu

    def test_that_know_no_gpu_are_named_where_a_worker_ends_for_want_of_one(self) -> None:
        """Harm: the driver and the hardware are looked at, and it was the tag."""
        (paragraph,) = [part for part in section("Install").split("\n\n") if "exit code 69" in part]
        for word in ("the CPU image", "`-cuda`", f"`{EngineEnd.NO_DEVICE}`"):
            assert word in paragraph


class TestSecret:
    def test_of_the_docs_is_made_of_the_example(self) -> None:
        """Harm: a command that reads a file of a form which no page shows."""
        (install,) = [b for b in console_blocks(section("Install")) if ["kubectl", "create"] in [c[:2] for c in b]]
        (copied,) = [command for command in install if command[0] == "cp"]
        assert (ROOT / "k8s" / "overlays" / "ours" / copied[1]).resolve() == BASE / "secret.example.yaml"
        applied = [command[-1] for command in install if "--filename" in command]
        assert applied == [copied[2]]
        assert f"--filename {copied[2]}" in (BASE / "secret.example.yaml").read_text()


def docker_builds() -> list[list[str]]:
    commands = [command for block in console_blocks(OPERATIONS.read_text()) for command in block]
    return [command for command in commands if command[:2] == ["docker", "build"]]


def tags(command: list[str]) -> list[str]:
    return [word for before, word in pairwise(command) if before == "-t"]


class TestService:
    def test_leads_to_the_port_of_the_api(self) -> None:
        (service,) = of_kind(base_manifests(), "Service").values()
        assert service["spec"]["selector"].items() <= pod("api")["metadata"]["labels"].items()
        assert [port["targetPort"] for port in service["spec"]["ports"]] == [main_container("api")["ports"][0]["name"]]


class TestNetworkPolicies:
    @pytest.mark.parametrize("component", COMPONENTS)
    def test_let_nothing_through_that_they_do_not_name(self, component: str) -> None:
        assert any(
            set(policy["policyTypes"]) == {"Ingress", "Egress"} and "ingress" not in policy and "egress" not in policy
            for policy in applying(component)
        )

    @pytest.mark.parametrize("component", COMPONENTS)
    def test_open_the_ports_of_the_container_and_no_other(self, component: str) -> None:
        open_ports = let_through(component, "ingress")
        assert open_ports == {port["name"] for port in main_container(component).get("ports", ())}

    @pytest.mark.parametrize("component", COMPONENTS)
    def test_let_out_what_the_settings_lead_to(self, component: str) -> None:
        given = environment(main_container(component), REAL_SECRET)
        wanted = {53, urlsplit(given["STILLHOUSE_DATABASE_URL"]).port}
        if component != "migrate":
            # S3 and the hub; traces, where OTLP over HTTP goes by itself.
            wanted |= {urlsplit(given["STILLHOUSE_BROKER_URL"]).port, 443, 4318}
        assert let_through(component, "egress") == wanted

    @pytest.mark.parametrize("component", COMPONENTS)
    def test_keep_away_from_the_machines_own_keys(self, component: str) -> None:
        for policy in applying(component):
            for rule in policy.get("egress", ()):
                for block in (to["ipBlock"] for to in rule.get("to", ()) if "ipBlock" in to):
                    assert {"169.254.0.0/16", "fe80::/10"} & set(block["except"]), block


@pytest.mark.parametrize("overlay", OVERLAYS)
class TestOverlayFiles:
    """What can be said of the overlays where neither kubectl nor kustomize is installed."""

    def test_fit_the_base(self, overlay: str) -> None:
        """Harm: a patch of what the base has renamed, found by the first who applies it."""
        manifests = resolve(ROOT / "k8s" / "overlays" / overlay)
        assert len(manifests) == len(base_manifests())
        assert manifests != base_manifests()
        for manifest in manifests:
            validate(manifest)

    def test_lists_every_file(self, overlay: str) -> None:
        folder = ROOT / "k8s" / "overlays" / overlay
        (kustomization,) = read_manifests(folder / "kustomization.yaml")
        listed = {entry["path"] for entry in kustomization["patches"]}
        assert {path.name for path in folder.iterdir()} == {"kustomization.yaml", *listed}

    def test_give_the_worker_whole_cores_and_the_gpu_where_they_are_for_it(self, overlay: str) -> None:
        worker = pods(resolve(ROOT / "k8s" / "overlays" / overlay))["worker"]["spec"]
        (container,) = worker["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert container["resources"]["limits"]["cpu"].isdigit()
        is_for_gpu = overlay == "gpu"
        assert ("nvidia.com/gpu" in container["resources"]["limits"]) == is_for_gpu
        assert ({"name": "STILLHOUSE_ENGINE_DEVICE", "value": "cuda"} in container["env"]) == is_for_gpu
        assert container["image"].endswith("-cuda") == is_for_gpu

    def test_are_understood_as_kustomize_does(self, overlay: str) -> None:
        """Else the tests above prove nothing of what is applied."""
        built = build(ROOT / "k8s" / "overlays" / overlay)
        (settings,) = of_kind(built, "ConfigMap")
        named = yaml.safe_load(yaml.safe_dump(built).replace(settings, "stillhouse-settings"))
        key = itemgetter("kind", "apiVersion")
        rest = [manifest for manifest in named if manifest["kind"] != "ConfigMap"]
        by_name = {(*key(manifest), manifest["metadata"]["name"]): manifest for manifest in rest}
        assert by_name == {
            (*key(manifest), manifest["metadata"]["name"]): manifest
            for manifest in resolve(ROOT / "k8s" / "overlays" / overlay)
        }


class TestResolve:
    @pytest.mark.parametrize(
        ("deployment", "container", "tagged", "message"),
        [
            ("stillhouse-wroker", "worker", "stillhouse-worker", "changes nothing of the base"),
            ("stillhouse-worker", "wroker", "stillhouse-worker", "no containers 'wroker'"),
            ("stillhouse-worker", "worker", "stillhouse-wroker", "no container has the image"),
        ],
    )
    def test_refuses_what_does_not_fit_the_base(
        self, tmp_path: Path, deployment: str, container: str, tagged: str, message: str
    ) -> None:
        """Else the tests of the overlays could not fail."""
        pod_patch = {"template": {"spec": {"containers": [{"name": container, "args": ["worker"]}]}}}
        patch = {"kind": "Deployment", "metadata": {"name": deployment}, "spec": pod_patch}
        (tmp_path / "worker.yaml").write_text(yaml.safe_dump(patch))
        kustomization = {
            "resources": [_relative(str(BASE), tmp_path)],
            "images": [{"name": tagged, "newTag": "1"}],
            "patches": [{"target": {"kind": "Deployment", "name": deployment}, "path": "worker.yaml"}],
        }
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        with pytest.raises(AssertionError, match=message):
            resolve(tmp_path)


@pytest.mark.parametrize("overlay", OVERLAYS)
class TestOverlays:
    def test_give_the_pods_the_settings_and_the_released_images(self, overlay: str) -> None:
        manifests = build(ROOT / "k8s" / "overlays" / overlay)
        (config,) = of_kind(manifests, "ConfigMap").values()
        assert config["data"] == settings_file()
        tags = {"stillhouse-api": released_version(), "stillhouse-worker": released_version()}
        if overlay == "gpu":
            tags["stillhouse-worker"] += "-cuda"
        for template in pods(manifests).values():
            for container in containers(template):
                name, _, tag = container["image"].partition(":")
                assert tags[name] == tag
                assert container["envFrom"] == [{"configMapRef": {"name": config["metadata"]["name"]}}]

    def test_keep_what_the_base_gives_the_worker(self, overlay: str) -> None:
        built = pods(build(ROOT / "k8s" / "overlays" / overlay))["worker"]["spec"]
        (container,) = built["containers"]
        for name, value in main_container("worker").items():
            assert name in ("image", "envFrom", "env", "resources") or container[name] == value, name
        assert [variable for variable in main_container("worker")["env"] if variable not in container["env"]] == []
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert container["resources"]["limits"]["cpu"].isdigit()

    def test_ask_for_a_gpu_where_they_are_for_it(self, overlay: str) -> None:
        worker = pods(build(ROOT / "k8s" / "overlays" / overlay))["worker"]["spec"]
        (container,) = worker["containers"]
        is_for_gpu = overlay == "gpu"
        assert (container["resources"]["limits"].get("nvidia.com/gpu") == "1") == is_for_gpu
        assert ("nodeSelector" in worker) == is_for_gpu
        tolerated = [toleration["key"] for toleration in worker.get("tolerations", ())]
        assert tolerated == (["nvidia.com/gpu"] if is_for_gpu else [])

    def test_take_the_pod_monitor(self, overlay: str, tmp_path: Path) -> None:
        built = _with_component(POD_MONITOR.parent, overlay, tmp_path)
        assert of_kind(built, "PodMonitor") == of_kind(read_manifests(POD_MONITOR), "PodMonitor")

    def test_take_the_teachers(self, overlay: str, tmp_path: Path) -> None:
        """Harm: a folder is allowed which some pod does not see, or which it could write to."""
        manifests = _with_component(TEACHERS, overlay, tmp_path)
        for manifest in manifests:
            validate(manifest)
        (settings,) = of_kind(manifests, "ConfigMap").values()
        assert component_of(settings) == "settings"
        folder = settings["data"]["STILLHOUSE_TEACHER_DIRS"]
        assert settings["data"] == settings_file() | {"STILLHOUSE_TEACHER_DIRS": folder}
        for component, template in pods(manifests).items():
            (container,) = template["spec"]["containers"]
            claims = {
                v["name"]: v["persistentVolumeClaim"]
                for v in template["spec"].get("volumes", ())
                if "persistentVolumeClaim" in v
            }
            mounts = [mount for mount in container.get("volumeMounts", ()) if mount["name"] in claims]
            if component not in ("api", "worker"):
                assert claims == {}
                continue
            assert mounts == [{"name": "teachers", "mountPath": folder, "readOnly": True}]
            assert claims == {"teachers": {"claimName": "stillhouse-teachers", "readOnly": True}}
            # What the pod has of its own stays.
            own = main_container(component)["volumeMounts"]
            assert [mount for mount in container["volumeMounts"] if mount not in mounts] == own


def _with_component(component: Path, overlay: str, folder: Path) -> list[Manifest]:
    """As an operator adds it who does not change these files: from a folder of their own."""
    kustomization = {
        "resources": [str(ROOT / "k8s" / "overlays" / overlay)],
        "components": [str(component)],
    }
    relative = {kind: [_relative(path, folder) for path in paths] for kind, paths in kustomization.items()}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(relative))
    return build(folder)


def _relative(path: str, start: Path) -> str:
    # kustomize takes no absolute paths.
    up = "/".join([".."] * len(start.resolve().relative_to("/").parts))
    return f"{up}{path}"
