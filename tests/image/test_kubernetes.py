from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from predeploy.errors import ConfigurationError, PostgresRefused
from tests.image.engine import docker, eventually, start
from tests.image.manifests import EXAMPLES, TOOLS, Podman, all_containers, breaches, pod_spec, read, tool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.image.manifests import Document

BASE = EXAMPLES / "kubernetes"
FAILING_FILE = 1
# The schemas contain podFailurePolicy since 1.25, but are correct only since 1.29.
SINCE_1_25 = ["1.25", "1.27", "1.29", "1.31", "1.33", "1.35", "1.37"]
VERSIONS = {"deployment": SINCE_1_25, "namespace": SINCE_1_25, "job": SINCE_1_25[2:], "tenants": SINCE_1_25[2:]}


def document(name: str) -> Document:
    return read((BASE / f"{name}.yaml").read_text())[0]


@pytest.mark.parametrize("name", VERSIONS)
def test_the_manifests_are_valid(name: str) -> None:
    for version in VERSIONS[name]:
        command = [str(TOOLS / "kubernetes-validate"), "--strict", "-k", version, str(BASE / f"{name}.yaml")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_kustomize_builds_the_base() -> None:
    command = [tool("kustomize"), "build", str(BASE)]
    built = read(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert sorted(one["kind"] for one in built) == ["ConfigMap", "Deployment", "Job", "Job", "Namespace"]
    (files,) = [one for one in built if one["kind"] == "ConfigMap"]
    assert list(files["data"]) == ["001_notes.sql"]
    specs = [pod_spec(one) for one in built if "template" in one.get("spec", {})]
    assert all(spec["volumes"][0]["configMap"]["name"] == files["metadata"]["name"] for spec in specs)
    assert {container["image"] for spec in specs for container in all_containers(spec)} == {"pg-predeploy:0.1.0", "app"}


@pytest.mark.parametrize("name", ["deployment", "job", "tenants"])
def test_the_restricted_standard_admits_the_pods(name: str) -> None:
    assert breaches(pod_spec(document(name))) == []


@pytest.mark.parametrize("name", ["job", "tenants"])
def test_jobs_do_not_retry_permanent_failures(name: str) -> None:
    permanent = [FAILING_FILE, ConfigurationError.exit_code, PostgresRefused.exit_code]
    rules = document(name)["spec"]["podFailurePolicy"]["rules"]
    assert rules[0]["onExitCodes"] == {"containerName": "migrate", "operator": "In", "values": permanent}


@pytest.fixture(scope="module")
def podman(image: str) -> Iterator[Podman]:
    with tempfile.TemporaryDirectory(prefix="podman-", ignore_cleanup_errors=True) as place:  # a short path
        engine = Podman(Path(place))
        archive = engine.place / "image.tar"
        docker("save", "--output", str(archive), image)
        engine("load", "--input", str(archive))
        yield engine
        engine("pod", "rm", "--all", "--force", check=False)
        engine("system", "reset", "--force", check=False)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A database on the host's loopback, because a Pod on the host's network cannot reach Docker's."""
    options = ("--publish=127.0.0.1::5432",)
    with start(os.environ["POSTGRES_IMAGE"], options=options, environment={"POSTGRES_PASSWORD": "s3cret"}) as server:
        eventually(lambda: server.psql("SELECT 1", check=False) == "1")
        port = server.inspect('{{(index (index .NetworkSettings.Ports "5432/tcp") 0).HostPort}}')
        yield f"postgres://postgres:s3cret@127.0.0.1:{port}"


class Case:
    """A Pod spec from the examples, with host directories in place of a cluster's volumes."""

    def __init__(self, name: str, image: str, place: Path) -> None:
        self.name = f"{name}-{secrets.token_hex(3)}"
        self.spec = pod_spec(document(name))
        self.spec["hostNetwork"] = True
        self.place = place
        place.chmod(0o755)
        for volume in self.spec["volumes"]:
            directory = place / volume["name"]
            directory.mkdir()
            volume.pop("configMap", None)
            volume.pop("secret", None)
            volume["hostPath"] = {"path": str(directory), "type": "Directory"}
        for container in all_containers(self.spec):
            container["image"] = f"localhost/{image}"
        (place / "migrations/001_notes.sql").write_text((BASE / "migrations/001_notes.sql").read_text())

    @property
    def migrate(self) -> Document:
        return all_containers(self.spec)[0]


@pytest.fixture(params=["job", "deployment"])
def case(request: pytest.FixtureRequest, image: str, tmp_path: Path) -> Case:
    made = Case(request.param, image, tmp_path)
    if request.param == "deployment":
        made.spec["containers"][0]["args"] = ["--version"]
        made.spec["restartPolicy"] = "Never"
    return made


def new_database(url: str, name: str) -> str:
    """Create a database and return its name."""
    with psycopg.connect(f"{url}/postgres", autocommit=True) as conn:
        conn.execute(f'CREATE DATABASE "{name}"'.encode())
    return f"{url}/{name}"


def test_the_pod_migrates(podman: Podman, url: str, case: Case) -> None:
    (case.place / "database/url").write_text(new_database(url, case.name))
    podman.play(case.name, case.spec)
    code, log = podman.ended(f"{case.name}-migrate")
    assert (code, log[-1]["applied"]) == (0, 1)
    if case.name.startswith("deployment"):
        assert int(podman("wait", f"{case.name}-app")) == 0


def test_a_failing_file_stops_the_pod(podman: Podman, url: str, case: Case) -> None:
    (case.place / "database/url").write_text(new_database(url, case.name))
    (case.place / "migrations/002_broken.sql").write_text("SELECT nothing FROM nowhere;")
    podman.play(case.name, case.spec)
    code, log = podman.ended(f"{case.name}-migrate")
    assert (code, log[-1]["failed"]) == (1, 1)
    if case.name.startswith("deployment"):
        assert podman("inspect", f"{case.name}-app", "--format={{.State.Status}}").strip() == "created"


def test_an_unreachable_database_is_retried(podman: Podman, case: Case) -> None:
    (case.place / "database/url").write_text("postgres://postgres:s3cret@127.0.0.1:1/app")
    case.migrate["env"].append({"name": "MIGRATE_WAIT_TIMEOUT", "value": "1s"})
    podman.play(case.name, case.spec)
    code, _ = podman.ended(f"{case.name}-migrate")
    assert code == 3


def test_each_job_index_has_its_own_database(podman: Podman, url: str, image: str, tmp_path: Path) -> None:
    case = Case("tenants", image, tmp_path)
    for index in range(3):
        (case.place / f"databases/{index}").write_text(new_database(url, f"tenant_{index}"))
    index_variable, database_url_file = case.migrate["env"][:2]
    assert (index_variable["name"], database_url_file["value"]) == ("INDEX", "/run/secrets/databases/$(INDEX)")
    for index in range(3):
        # podman supports neither the annotation nor the reference to it
        case.migrate["env"][:2] = [{"name": "DATABASE_URL_FILE", "value": f"/run/secrets/databases/{index}"}]
        podman.play(f"tenant-{index}", case.spec)
        code, log = podman.ended(f"tenant-{index}-migrate")
        assert (code, log[-1]["applied"]) == (0, 1)
        case.migrate["env"][:1] = [index_variable, database_url_file]
