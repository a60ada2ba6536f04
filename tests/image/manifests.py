"""Kubernetes manifests: parsed, checked against the restricted pod security standard, and run as Pods by podman."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TOOLS = ROOT / ".venv-deploy/bin"
TO_JSON = "import json, sys, yaml; json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)"
# Settings that a container engine inside a container or a small virtual machine can omit.
CONFIGURATION = """
[containers]
default_ulimits = []
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
"""

Document = dict[str, Any]


def tool(name: str) -> str:
    """Find a program; if it is missing, skip the test, but fail in CI."""
    path = shutil.which(name)
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{name} is missing: ci/test-image should have installed it")
        pytest.skip(f"{name} is not installed")
    return path


def read(text: str) -> list[Document]:
    """Read YAML documents with a library that is among the deployment tools, not the development tools."""
    done = subprocess.run([TOOLS / "python", "-c", TO_JSON], input=text, capture_output=True, text=True, check=True)
    documents: list[Document] = json.loads(done.stdout)
    return documents


def pod_spec(document: Document) -> Document:
    spec: Document = document["spec"]["template"]["spec"]
    return spec


def all_containers(spec: Document) -> list[Document]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def breaches(spec: Document) -> list[str]:
    """Return violations of the restricted pod security standard, and of further rules of this project."""
    pod = spec.get("securityContext", {})
    found = []
    if pod.get("runAsNonRoot") is not True or pod.get("seccompProfile") != {"type": "RuntimeDefault"}:
        found.append("pod")
    wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    for container in all_containers(spec):
        has = container.get("securityContext", {})
        found += [f"{container['name']}: {key}" for key, value in wanted.items() if has.get(key) != value]
    found += [kind for volume in spec.get("volumes", []) for kind in volume if kind == "hostPath"]
    return found


@dataclass(frozen=True)
class Podman:
    """Runs Pods, with separate storage."""

    place: Path

    def __call__(self, *arguments: str, check: bool = True) -> str:
        configuration = self.place / "containers.conf"
        configuration.write_text(CONFIGURATION)
        environment = {name: value for name, value in os.environ.items() if name != "DOCKER_CONFIG"}
        command = [tool("podman"), f"--root={self.place}/root", f"--runroot={self.place}/run", *arguments]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**environment, "CONTAINERS_CONF": str(configuration)},
        )
        if check and done.returncode:
            raise AssertionError(f"podman {' '.join(arguments)}\n{done.stdout}{done.stderr}")
        return done.stdout

    def play(self, name: str, spec: Document) -> None:
        """Run a Pod until its containers have ended or cannot start."""
        # Otherwise podman removes an init container and its log when it has succeeded.
        metadata = {"name": name, "annotations": {"io.podman.annotations.init.container.type": "always"}}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        path = self.place / f"{name}.json"
        path.write_text(json.dumps(pod))
        self("play", "kube", str(path), check=False)  # it fails if an init container fails

    def ended(self, container: str) -> tuple[int, list[Document]]:
        """Wait for a container to end and return its exit code and its log."""
        code = int(self("wait", container))
        return code, [json.loads(line) for line in self("logs", container).splitlines()]
