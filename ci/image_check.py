"""Check the minimal image from inside, then write its SBOM.

The image's own interpreter runs this script in a build stage that contains nothing else. The build fails if a module
cannot be imported or a library is loaded from outside HOME.
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
    """Return the names of all modules in HOME."""
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


def import_errors(names: list[str]) -> list[str]:
    """Import each module, and return the errors."""
    failed = []
    for name in names:
        try:
            import_module(name)
        except Exception as error:
            failed.append(f"{name}: {error!r}")
    return failed


def foreign_files() -> list[str]:
    """Return the files outside HOME that this process has mapped."""
    mapped = {line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    return sorted(path for path in mapped if path.startswith("/") and not path.startswith(f"{HOME}/"))


def missing_libraries() -> list[str]:
    """Return an error if ctypes cannot find libpq, without which every run is slower."""
    from predeploy.connection import libpq

    return [] if libpq.load() else ["libpq is missing next to psycopg_binary"]


def components() -> dict[str, str]:
    """Return the versions of the libraries that have neither a dpkg record nor wheel metadata."""
    import ssl

    from psycopg import pq

    return {
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION.split()[1],
        "libpq": f"{pq.version() // 10000}.{pq.version() % 10000}",
    }


def write_sbom() -> None:
    """Write a CycloneDX document to a path where syft, trivy and grype look for one."""
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
    """Check the image, then write the SBOM."""
    names = module_names()
    wrong = import_errors(names) + missing_libraries()
    wrong += [f"loaded from outside {HOME}: {path}" for path in foreign_files()]
    if wrong:
        sys.exit("image_check: the minimal image is broken\n" + "\n".join(wrong))
    write_sbom()
    sys.stdout.write(f"image_check: {len(names)} modules imported, every library loaded from {HOME}\n")


if __name__ == "__main__":
    main()
