"""Example files and release workflows, checked by the linters for each format."""

from __future__ import annotations

import re
import subprocess
import tomllib
from typing import TYPE_CHECKING

import pytest

from predeploy import __version__
from tests.image.manifests import EXAMPLES, ROOT, TOOLS, breaches, pod_spec, read

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = "/opt/pg-predeploy/bin/pg-predeploy"


def passes(tool: str, *arguments: str | Path) -> None:
    command = [str(TOOLS / tool), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def rendered(template: Path) -> str:
    """Fill in `{{ .Values.a.b }}`, the only Helm feature that the chart uses."""
    values = read((EXAMPLES / "helm/values.yaml").read_text())[0]

    def value(match: re.Match[str]) -> str:
        found = values
        for key in match[1].split("."):
            found = found[key]
        return str(found)

    text = re.sub(r"\{\{ \.Values\.([\w.]+) \}\}", value, template.read_text())
    assert "{{" not in text
    return text


@pytest.mark.parametrize("path", ["helm/templates/migrate.yaml", "argocd/migrate.yaml"])
def test_hooks_are_valid_jobs(path: str, tmp_path: Path) -> None:
    manifest = tmp_path / "migrate.yaml"
    manifest.write_text(rendered(EXAMPLES / path))
    for version in ("1.29", "1.33", "1.37"):
        passes("kubernetes-validate", "--strict", "-k", version, manifest)
    (document,) = read(manifest.read_text())
    assert breaches(pod_spec(document)) == []
    assert any("hook" in name for name in document["metadata"]["annotations"])


def test_platform_files_contain_the_single_command() -> None:
    assert tomllib.loads((EXAMPLES / "fly/fly.toml").read_text())["deploy"]["release_command"] == COMMAND
    (render,) = read((EXAMPLES / "render/render.yaml").read_text())
    assert render["services"][0]["preDeployCommand"] == COMMAND
    (heroku,) = read((EXAMPLES / "heroku/heroku.yml").read_text())
    assert heroku["release"]["command"] == [COMMAND]
    assert COMMAND in (EXAMPLES / "railway/README.md").read_text()


def test_compose_file_is_valid() -> None:
    passes("check-jsonschema", "--builtin-schema=vendor.compose-spec", "docker-compose.yml")


@pytest.mark.parametrize("path", ["Dockerfile", "examples/application/Dockerfile"])
def test_dockerfiles_are_clean(path: str) -> None:
    passes("hadolint", path)


def test_workflows_are_valid_and_safe() -> None:
    workflows = sorted((ROOT / ".github/workflows").glob("*.yml"))
    assert [path.stem for path in workflows] == ["ci", "release"]
    passes("check-jsonschema", "--builtin-schema=vendor.github-workflows", *workflows)
    passes("zizmor", "--offline", "--no-progress", "--min-severity=medium", *workflows)


def test_every_file_names_the_same_version() -> None:
    files = [path for path in EXAMPLES.rglob("*") if path.is_file()]
    files += [ROOT / "docker-compose.yml", ROOT / "README.md", *ROOT.glob("docs/*.md")]
    named = {version for path in files for version in re.findall(r"pg-predeploy:(\d+\.\d+\.\d+)", path.read_text())}
    assert named == {__version__}
