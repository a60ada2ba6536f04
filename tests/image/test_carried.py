"""The tree in other people's images, as Railway, Fly, Render and Heroku run a pre-deploy command."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.image.engine import docker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.image.engine import Container

COMMAND = "/opt/pg-predeploy/bin/pg-predeploy"
# What a platform or an image may have set for its own Python and its own libraries.
SURROUNDINGS = {
    "PYTHONHOME": "/nowhere",
    "PYTHONPATH": "/nowhere",
    "PYTHONSTARTUP": "/nowhere",
    "LD_LIBRARY_PATH": "/lib:/lib64:/usr/lib:/lib/x86_64-linux-gnu:/usr/lib/x86_64-linux-gnu",
}


@pytest.fixture
def application(image: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """An application's image with the tree and a migration in it."""
    base = os.environ[request.param]
    context = tmp_path / "application"
    context.mkdir()
    (context / "001_notes.sql").write_text("CREATE TABLE notes (id bigint PRIMARY KEY);")
    lines = [
        f"FROM {base}",
        f"COPY --from={image} /opt/pg-predeploy /opt/pg-predeploy",
        "COPY 001_notes.sql /srv/migrations/",
        "ENV MIGRATIONS_DIR=/srv/migrations",
    ]
    (context / "Dockerfile").write_text("\n".join(lines))
    tag = f"{base.split('/')[-1].split(':')[0]}-with-pg-predeploy"
    docker("build", "--quiet", "--tag", tag, str(context))
    return tag


@pytest.mark.parametrize("application", ["DEBIAN_IMAGE", "BUSYBOX_IMAGE", "PYTHON_IMAGE"], indirect=True)
def test_one_word_migrates_in_an_image_of_any_kind(
    migrate: Callable[..., Container], application: str, dsn: str
) -> None:
    ended = migrate(COMMAND, use=application, DATABASE_URL=dsn, **SURROUNDINGS).wait()
    assert (ended.code, ended.last["applied"]) == (0, 1)


@pytest.mark.parametrize("application", ["DEBIAN_IMAGE", "BUSYBOX_IMAGE"], indirect=True)
def test_the_trees_own_certificates_are_found(migrate: Callable[..., Container], application: str, dsn: str) -> None:
    ended = migrate(COMMAND, use=application, DATABASE_URL=f"{dsn}?sslrootcert=system").wait()
    assert ended.code == 5
    assert "certificate" in ended.last["message"].lower()
