"""The image as an engine starts it: `docker run` with nothing to do, less what `docker run` costs anyway."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import migrations
from benchmarks.install import ROOT, Unavailable, compiled
from benchmarks.outcome import Outcome, Target
from benchmarks.pairs import play
from benchmarks.process import Failed, measure
from benchmarks.runners import DBMATE, OURS, Call, dbmate_program
from benchmarks.starts import Applied

if TYPE_CHECKING:
    from benchmarks.effort import Effort
    from benchmarks.stage import Stage

NOTHING = "a binary that does nothing"
BUILD_TIMEOUT_S = 600
# As ci/test-image does: the official base image, or one of Debian's packages where no registry answers.
BUILD = """
if [ -z "${PYTHON_IMAGE:-}" ] && ! docker pull --quiet python:3.15-slim >/dev/null 2>&1; then
    eval "$(ci/standin-images)"
    export CA_BUNDLE="${CA_BUNDLE:-${PIP_CERT:-/dev/null}}"
fi
exec scripts/build
"""


def image(stage: Stage, effort: Effort) -> Outcome:
    """Measure containers of the image, of dbmate alone and of nothing, all on the host's network."""
    outcome = Outcome("image", "`docker run` with nothing to do")
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode != 0:
        raise Unavailable("no Docker engine answers here")
    own = _build()
    images = {
        NOTHING: _scratch("nothing", compiled("nothing")),
        DBMATE: _scratch("dbmate", dbmate_program()) if effort.invites(DBMATE) else "",
        OURS: own,
    }

    def contain(name: str, call: Call) -> Call:
        command = [] if name == OURS else ["/dbmate", *call.command[1:]]
        return _container(images[name], Call(command, call.environ))

    # The containers themselves apply the file first, which proves that they reach the server.
    with Applied(stage, effort, outcome, (OURS, DBMATE), migrations.heavy(1), contain) as applied:
        runs = {name: applied.run(name) for name in applied.databases}
        nothing = partial(measure, _container(images[NOTHING], Call(["/nothing"])))
        rounds = play({NOTHING: nothing, **runs}, effort.short, effort.few, (*images,), warm=True)
    outcome.add_rounds(rounds, NOTHING)
    outcome.notes.append("CPU and memory are those of Docker's client")
    if {NOTHING, DBMATE, OURS} <= rounds.costs.keys():
        nothings, dbmate, ours = (rounds.wall_ms(name) for name in (NOTHING, DBMATE, OURS))
        above = [median(one - none for one, none in zip(costs, nothings, strict=True)) for costs in (ours, dbmate)]
        outcome.notes.append(f"above nothing: {OURS} {above[0]:.0f} ms, {DBMATE} {above[1]:.0f} ms")
        outcome.targets.append(Target("wall time above nothing, to dbmate's", above[0] / max(above[1], 1e-3), 3.0))
    return outcome


def _build() -> str:
    """Build the image as it is now, and return its name."""
    name = "pg-predeploy-bench"
    try:
        built = subprocess.run(
            ["sh", "-euc", BUILD],
            cwd=ROOT,
            env={**os.environ, "IMAGE": name},
            capture_output=True,
            text=True,
            check=False,
            timeout=BUILD_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"the image was not built within {BUILD_TIMEOUT_S} s") from None
    if built.returncode != 0:
        raise Failed(f"the image was not built: {built.stderr[-400:]}")
    return name


def _scratch(name: str, program: Path) -> str:
    """Make an image that holds one static program and nothing else."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tree:
        tree.add(program, arcname=name)
        temporary = tarfile.TarInfo("tmp")
        temporary.type, temporary.mode = tarfile.DIRTYPE, 0o777
        tree.addfile(temporary)
    tag = f"pg-predeploy-bench/{name}"
    made = subprocess.run(["docker", "import", "-", tag], input=archive.getvalue(), capture_output=True, check=False)
    if made.returncode != 0:
        raise Failed(f"docker import: {made.stderr.decode()[-300:]}")
    return tag


def _container(name: str, call: Call) -> Call:
    """Return `docker run` of a call whose files are the host's, at the same place."""
    variables = [f"--env={key}={value}" for key, value in call.environ.items()]
    places = {
        word for word in (*call.command, *call.environ.values()) if Path(word).is_absolute() and Path(word).is_dir()
    }
    volumes = [f"--volume={place}:{place}:ro" for place in sorted(places)]
    docker = shutil.which("docker") or "docker"
    passed_on = {key: value for key, value in os.environ.items() if key.startswith("DOCKER_")}
    command = [docker, "run", "--rm", "--network=host", *volumes, *variables, name, *call.command]
    return Call(command, passed_on)
