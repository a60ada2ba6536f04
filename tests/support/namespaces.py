"""The program in separate namespaces, where the test controls name resolution and no real name server is queried."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.program import ENTRYPOINT

if TYPE_CHECKING:
    from pathlib import Path

INSIDE = """
import fcntl, os, socket, struct, subprocess, sys
for source, target in {mounts!r}.items():
    subprocess.run(["mount", "--bind", source, target], check=True)
if {deaf!r}:
    with socket.socket() as lo:  # ip link set lo up
        fcntl.ioctl(lo, 0x8914, struct.pack("16sh14x", b"lo", 0x41))
    ear = socket.socket(type=socket.SOCK_DGRAM)  # a name server that never reads; stays open after exec
    ear.bind(("127.0.0.1", 53))
    ear.set_inheritable(True)
os.execv(sys.executable, [sys.executable, {entrypoint!r}, *sys.argv[1:]])
"""
OUTSIDE = """
import os, sys
os.execvp("unshare", [*{command!r}, sys.executable, {inside!r}, *sys.argv[1:]])
"""


def entrypoint_with_names(directory: Path, *, deaf: bool = False) -> tuple[Path, Path]:
    """Return the script to start instead of the entry point, and the file that serves as its /etc/hosts.

    No name server is running; with `deaf`, one accepts every query and answers none, and the program has its own
    network namespace.
    """
    hosts, resolv = directory / "hosts", directory / "resolv.conf"
    hosts.write_text("127.0.0.1 localhost\n")
    resolv.write_text("nameserver 127.0.0.1\n")
    command = ["unshare", "--mount", *(["--net"] if deaf else []), *([] if os.geteuid() == 0 else ["-U", "-r"])]
    _require(command)
    mounts = {str(hosts): "/etc/hosts", str(resolv): "/etc/resolv.conf"}
    inside, outside = directory / "inside.py", directory / "outside.py"
    inside.write_text(INSIDE.format(mounts=mounts, deaf=deaf, entrypoint=str(ENTRYPOINT)))
    outside.write_text(OUTSIDE.format(command=command, inside=str(inside)))
    return outside, hosts


def _require(command: list[str]) -> None:
    try:
        done = subprocess.run(
            [*command, "mount", "--bind", "/etc/hosts", "/etc/hosts"], capture_output=True, check=False
        )
        why = done.stderr.decode()
    except OSError as error:
        done, why = None, str(error)
    if done is None or done.returncode:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"no namespaces to be had: {why}")
