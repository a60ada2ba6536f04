"""/opt/pg-predeploy in applications' images, as Railway, Fly, Render and Heroku run a pre-deploy command."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.image.engine import docker
from tests.image.manifests import EXAMPLES, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.image.engine import Container

COMMAND = "/opt/pg-predeploy/bin/pg-predeploy"
# Variables that a platform or an image may set for its own Python and libraries.
SURROUNDINGS = {
    "PYTHONHOME": "/nowhere",
    "PYTHONPATH": "/nowhere",
    "PYTHONSTARTUP": "/nowhere",
    "LD_LIBRARY_PATH": "/lib:/lib64:/usr/lib:/lib/x86_64-linux-gnu:/usr/lib/x86_64-linux-gnu",
}


@pytest.fixture
def application(image: str, request: pytest.FixtureRequest) -> str:
    """An application's image that contains /opt/pg-predeploy, built from the example."""
    base = os.environ[request.param]
    tag = f"{request.param.lower()}-with-pg-predeploy"
    arguments = (f"--build-arg=BASE={base}", f"--build-arg=PG_PREDEPLOY={image}")
    docker("build", "--quiet", "--tag", tag, *arguments, str(EXAMPLES / "application"))
    return tag


@pytest.mark.parametrize("application", ["DEBIAN_IMAGE", "BUSYBOX_IMAGE", "PYTHON_IMAGE"], indirect=True)
def test_a_single_command_migrates_in_any_image(migrate: Callable[..., Container], application: str, dsn: str) -> None:
    ended = migrate(COMMAND, use=application, DATABASE_URL=dsn, **SURROUNDINGS).wait()
    assert (ended.code, ended.last["applied"]) == (0, 1)


@pytest.mark.parametrize("application", ["DEBIAN_IMAGE", "BUSYBOX_IMAGE"], indirect=True)
def test_the_bundled_certificates_are_found(migrate: Callable[..., Container], application: str, dsn: str) -> None:
    ended = migrate(COMMAND, use=application, DATABASE_URL=f"{dsn}?sslrootcert=system").wait()
    assert ended.code == 5
    assert "certificate" in ended.last["message"].lower()


def test_a_python_application_can_install_it(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), str(ROOT)]
    subprocess.run(pip, check=True)
    command = tmp_path / "bin/pg-predeploy"
    shown = subprocess.run(
        [command, "--version"], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(tmp_path)}
    )
    assert shown.stdout.startswith("pg-predeploy ")
