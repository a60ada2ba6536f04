"""Prove the minimal image from inside: everything imports, nothing comes from elsewhere; then write its SBOM.

Run by the image's own interpreter in a build stage that holds nothing else. It ends with an error, and so
does the build, when a module cannot be imported or a library was loaded from outside the tree.
"""

from __future__ import annotations

import json
import platform
import sys
from importlib import import_module
from pathlib import Path

HOME = Path(sys.prefix)
MODULES = HOME / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
SBOM = HOME / "share/sbom/pg-predeploy.cdx.json"


def module_names() -> list[str]:
    """Name every module in the tree."""
    names = set()
    for path in MODULES.rglob("*"):
        place = path.relative_to(MODULES)
        if path.suffix not in {".py", ".pyc", ".so"} or "__pycache__" in place.parts:
            continue
        if place.parts[0] == "lib-dynload":
            names.add(place.name.split(".")[0])
        elif not place.parts[0].endswith(".libs"):
            parts = [*place.parts[:-1], place.name.split(".")[0]]
            names.add(".".join(part for part in parts if part != "__init__"))
    return sorted(names)


def failures(names: list[str]) -> list[str]:
    """Import each module; say which ones cannot be."""
    failed = []
    for name in names:
        try:
            import_module(name)
        except Exception as error:
            failed.append(f"{name}: {error!r}")
    return failed


def strangers() -> list[str]:
    """Find the files outside the tree that this process has mapped."""
    mapped = {line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    return sorted(path for path in mapped if path.startswith("/") and not path.startswith(f"{HOME}/"))


def missing() -> list[str]:
    """Look for what is not imported but loaded by its path; without it a run falls back to what takes longer."""
    from predeploy.connection import libpq

    return [] if libpq.load() else ["libpq is not found beside psycopg_binary"]


def components() -> dict[str, str]:
    """Ask the libraries which version they are; scanners know the rest from dpkg and wheel records."""
    import ssl

    from psycopg import pq

    return {
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION.split()[1],
        "libpq": f"{pq.version() // 10000}.{pq.version() % 10000}",
    }


def write_sbom() -> None:
    """Write a CycloneDX document beside the tree, where syft, trivy and grype look for one."""
    vendor = {"python": "python", "openssl": "openssl", "libpq": "postgresql"}
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "components": [
            {
                "type": "library",
                "name": name,
                "version": version,
                "purl": f"pkg:generic/{name}@{version}",
                "cpe": f"cpe:2.3:a:{vendor[name]}:{vendor[name]}:{version}:*:*:*:*:*:*:*",
            }
            for name, version in components().items()
        ],
    }
    SBOM.parent.mkdir(parents=True)
    SBOM.write_text(json.dumps(document, indent=1))


def main() -> None:
    """Check, then write; name what is wrong."""
    names = module_names()
    wrong = failures(names) + missing() + [f"loaded from outside the tree: {path}" for path in strangers()]
    if wrong:
        sys.exit("image_check: the minimal tree is broken\n" + "\n".join(wrong))
    write_sbom()
    sys.stdout.write(f"image_check: {len(names)} modules imported, every library from {HOME}\n")


if __name__ == "__main__":
    main()
