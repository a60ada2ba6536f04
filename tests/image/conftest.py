from __future__ import annotations

import os
import secrets
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.image.engine import HARDENED, Container, docker, eventually, start
from tests.support.migrations_dir import MigrationsDir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """If the images are missing, keep one test of this directory and skip it with the reason."""
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    if ours and "IMAGE" not in os.environ:
        reason = "no test of the image was run: they need a Docker engine and ci/test-image"
        ours[0].add_marker(pytest.mark.skip(reason=reason))
        config.hook.pytest_deselected(items=ours[1:])
        items[:] = [item for item in items if item not in ours[1:]]


@pytest.fixture(scope="session")
def image() -> str:
    """The minimal image."""
    return os.environ["IMAGE"] + ":latest"


@pytest.fixture(scope="session")
def slim_image() -> str:
    """The slim image, for debugging."""
    return os.environ["IMAGE"] + ":slim"


@pytest.fixture(scope="session")
def network() -> Iterator[str]:
    """A separate Docker network."""
    name = f"pg-predeploy-{secrets.token_hex(4)}"
    docker("network", "create", name)
    yield name
    docker("network", "rm", name, check=False)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private CA (ca.crt) and a certificate for the host name `db` (server.crt, server.key)."""
    place = tmp_path_factory.mktemp("certificates")
    (place / "san").write_text("subjectAltName=DNS:db\n")
    make_ca = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ours -keyout ca.key -out ca.crt"
    request = "req -newkey rsa:2048 -nodes -subj /CN=db -keyout server.key -out server.csr"
    sign = "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile san -out server.crt"
    for command in (make_ca, request, sign):
        subprocess.run(["openssl", *command.split()], cwd=place, check=True, capture_output=True)
    for path in (place, *place.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return place


def start_server(network: str, certificates: Path, alias: str) -> Container:
    """Start a Postgres with TLS on `network`; Postgres must own its key, and no one else may read it."""
    tls = "install -o postgres -g postgres -m 600 /certificates/server.key /server.key && exec docker-entrypoint.sh"
    settings = "-c ssl=on -c ssl_cert_file=/certificates/server.crt -c ssl_key_file=/server.key -c fsync=off"
    return start(
        os.environ["POSTGRES_IMAGE"],
        "-c",
        f"{tls} postgres {settings}",
        options=(
            "--entrypoint=/bin/sh",
            f"--network={network}",
            f"--network-alias={alias}",
            f"--volume={certificates}:/certificates:ro",
        ),
        environment={"POSTGRES_PASSWORD": "s3cret"},
    )


def accepts(server: Container) -> bool:
    return server.psql("SELECT 1", check=False) == "1"


@pytest.fixture(scope="session")
def server(network: str, certificates: Path) -> Iterator[Container]:
    """A server that all tests share, `db` on the network: do not stop it."""
    with start_server(network, certificates, "db") as running:
        eventually(lambda: accepts(running))
        yield running


@pytest.fixture
def private_server(network: str, certificates: Path) -> Iterator[Container]:
    """A server that one test may stop, pause and cut off: `private` on the network."""
    with start_server(network, certificates, "private") as running:
        eventually(lambda: accepts(running))
        yield running


@pytest.fixture
def database(server: Container) -> Iterator[str]:
    """An empty database on the shared server."""
    name = f"db_{secrets.token_hex(4)}"
    server.psql(f"CREATE DATABASE {name}")
    yield name
    server.psql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def dsn(database: str) -> str:
    return f"postgres://postgres:s3cret@db/{database}"


@pytest.fixture
def migrations(tmp_path: Path) -> MigrationsDir:
    """The directory that is mounted at /migrations, with one valid file."""
    directory = MigrationsDir(tmp_path / "migrations")
    directory.path.chmod(0o755)
    directory.write("001_notes.sql", "CREATE TABLE notes (id bigint PRIMARY KEY);")
    return directory


@pytest.fixture
def migrate(image: str, network: str, migrations: MigrationsDir) -> Iterator[Callable[..., Container]]:
    """Start the image as the README describes: `migrate(*command, options=(...), DATABASE_URL=..., ...)`."""
    containers = []

    def begin(*command: str, options: tuple[str, ...] = (), use: str = image, **environment: str) -> Container:
        usual = (*HARDENED, f"--network={network}", f"--volume={migrations}:/migrations:ro", *options)
        containers.append(start(use, *command, options=usual, environment=environment))
        return containers[-1]

    yield begin
    for container in containers:
        with container:
            pass
