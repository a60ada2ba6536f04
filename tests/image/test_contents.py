"""The image's contents, privileges and size."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from predeploy import __version__
from tests.image.engine import HARDENED, docker

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.image.engine import Container
    from tests.support.migrations_dir import MigrationsDir

    Migrate = Callable[..., Container]

SBOM_TOO = ("--select-catalogers", "+sbom-cataloger")
TOOLS = Path(__file__).parents[2] / ".venv-deploy/bin"


@pytest.fixture(scope="session")
def saved(image: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image, saved by `docker save`."""
    path = tmp_path_factory.mktemp("saved") / "image.tar"
    docker("save", "--output", str(path), image)
    return path


@pytest.fixture(scope="session")
def layers(saved: Path) -> list[bytes]:
    with tarfile.open(saved) as archive:
        manifest = json.load(archive.extractfile("manifest.json") or io.BytesIO())
        files = [archive.extractfile(name) for name in manifest[0]["Layers"]]
        return [file.read() for file in files if file]


@pytest.fixture(scope="session")
def contents(layers: list[bytes]) -> list[tarfile.TarInfo]:
    members = []
    for layer in layers:
        with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
            members += archive.getmembers()
    return members


def test_the_image_stays_small(layers: list[bytes]) -> None:
    unpacked = sum(len(layer) for layer in layers)
    compressed = 0
    for layer in layers:
        deflate = zlib.compressobj(6, wbits=31)  # the compression that a push uses
        compressed += len(deflate.compress(layer)) + len(deflate.flush())
    print(f"unpacked {unpacked / 1e6:.1f} MB, compressed {compressed / 1e6:.1f} MB")
    assert unpacked <= 36_000_000
    assert compressed <= 13_000_000


def test_all_files_are_read_only_and_belong_to_root(contents: list[tarfile.TarInfo]) -> None:
    assert [member.name for member in contents if member.uid or member.gid] == []
    assert [member.name for member in contents if not member.issym() and member.mode & 0o7022] == []


def test_there_is_no_shell_and_no_package_manager(contents: list[tarfile.TarInfo]) -> None:
    programs = [member.name for member in contents if member.isfile() and member.mode & 0o111]
    names = {Path(name).name for name in programs if ".so" not in name}
    assert names == {"python3", "pg-predeploy"}
    assert not [member.name for member in contents if "/pip" in member.name or "ensurepip" in member.name]


def test_the_configuration_meets_the_requirements_of_platforms(image: str) -> None:
    config = json.loads(docker("inspect", "--format", "{{json .Config}}", image).stdout)
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["pg-predeploy"]
    assert "MIGRATIONS_DIR=/migrations" in config["Env"]
    assert config["Labels"]["org.opencontainers.image.version"] == __version__
    assert not config.get("Volumes")
    assert not config.get("ExposedPorts")


@pytest.mark.parametrize("user", ["0", "65532", "1000770000:0", "2147483647:2147483647"])
def test_any_user_can_run_it(migrate: Migrate, dsn: str, user: str) -> None:
    assert migrate(options=(f"--user={user}",), DATABASE_URL=dsn).wait().code == 0


def test_twenty_eight_mebibytes_are_enough(migrate: Migrate, dsn: str, migrations: MigrationsDir) -> None:
    for number in range(100, 300):
        migrations.write(f"{number}_t.sql", f"CREATE TABLE t{number} (id int); INSERT INTO t{number} VALUES (1);")
    ended = migrate(options=("--memory=28m", "--memory-swap=28m"), DATABASE_URL=dsn).wait()
    assert (ended.code, ended.last["applied"]) == (0, 201)


def test_the_connection_string_can_be_a_secret_file(migrate: Migrate, dsn: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(dsn + "\n")
    secret.chmod(0o444)
    options = (f"--volume={secret}:/run/secrets/database_url:ro",)
    assert migrate(options=options, DATABASE_URL_FILE="/run/secrets/database_url").wait().code == 0


def test_the_termination_message_gives_the_reason(
    migrate: Migrate, dsn: str, migrations: MigrationsDir, tmp_path: Path
) -> None:
    message = tmp_path / "termination-log"
    message.touch()
    message.chmod(0o666)  # as a kubelet creates it
    migrations.write("002_broken.sql", "SELECT nothing FROM nowhere;")
    ended = migrate(options=(f"--volume={message}:/dev/termination-log",), DATABASE_URL=dsn).wait()
    assert ended.code == 1
    assert "002_broken.sql" in message.read_text()
    assert message.stat().st_size <= 4096


def test_version_and_help_need_no_settings(image: str) -> None:
    for argument in ("--version", "--help"):
        shown = docker("run", "--rm", *HARDENED, "--network=none", image, argument)
        assert "pg-predeploy" in shown.stdout
        assert shown.stderr == ""


def test_scanners_find_the_contents(saved: Path) -> None:
    environment = {**os.environ, "SYFT_CHECK_FOR_APP_UPDATE": "false"}
    listed = subprocess.run(
        [TOOLS / "syft", f"docker-archive:{saved}", "--output=json", "--quiet", *SBOM_TOO],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    names = {artifact["name"] for artifact in json.loads(listed.stdout)["artifacts"]}
    assert {"psycopg", "psycopg-binary", "tenacity", "python-json-logger"} <= names
    assert {"openssl", "python", "libpq", "libc6"} <= names
