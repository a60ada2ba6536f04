"""Write the files of the minimal image: the interpreter, the modules that a run may import, and shared libraries.

The Dockerfile runs this script with the base image's Python; APP contains entrypoint.py and the dependencies. The
script copies every module that import statements reach from entrypoint.py, including those inside functions, except
NOT_NEEDED, and every library that the loader finds. `image_check.py` then imports every module in an otherwise empty
file system, so that a missing file makes the build fail rather than a deployment.
"""

from __future__ import annotations

import importlib.util
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from encodings import normalize_encoding
from encodings.aliases import aliases
from modulefinder import ModuleFinder
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

APP = Path("/app")
HOME = Path("/opt/pg-predeploy")
ROOT = Path("/root-files")  # the image's files outside HOME
STDLIB = Path(sysconfig.get_path("stdlib"))
OWN = {"entrypoint", "predeploy"}
MODULES = HOME / "lib" / STDLIB.name

# A command that works in any image: it uses its own interpreter, and ignores the site module and PYTHON* variables. The
# kernel drops signals that the first process of a container does not handle, but keeps blocked signals pending. So the
# launcher blocks the signals that run() handles; run() unblocks them once its handlers are installed.
LAUNCHER = f"""\
#!{HOME}/bin/python3 -IS
import _signal
_signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGTERM, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGHUP))
import os
os.environ.setdefault("MIGRATIONS_DIR", "/migrations")
os.environ.setdefault("SSL_CERT_FILE", "{HOME}/etc/ssl/certs/ca-certificates.crt")
from entrypoint import run
run()
"""

# Imported by C code or by name, without an import statement. The connection always uses UTF-8, so the codecs of other
# database encodings are not needed; `codecs_named` finds the codecs that the program names.
HIDDEN = ["_strptime", "psycopg_binary._psycopg", "psycopg_binary.pq", "stringprep", "unicodedata"]
HIDDEN += ["encodings.ascii", "encodings.idna", "encodings.latin_1", "encodings.punycode", "encodings.utf_8"]
HIDDEN += ["encodings.unicode_escape", *(path.stem for path in STDLIB.glob("_sysconfigdata_*.py"))]
HIDDEN += [f"ctypes.{path.stem}" for path in STDLIB.glob("ctypes/_layout.py")]  # since Python 3.14

# Reached by import statements that a migration run never executes.
NOT_NEEDED = {
    "archives": ["_zstd", "bz2", "compression.zstd", "lzma", "tarfile"],
    "debugging": ["_pyrepl", "_remote_debugging", "bdb", "cmd", "code", "doctest", "pdb", "profiling"],
    "documentation and tests": ["pydoc", "pydoc_data", "test", "unittest"],
    "test modules of the interpreter": ["_testcapi", "_testinternalcapi", "_testlimitedcapi"],
    "terminals": ["predeploy.log.rich_console", "curses", "getpass", "readline", "rlcompleter", "tty", "webbrowser"],
    "network clients and servers": ["ftplib", "http", "socketserver", "urllib.request", "xmlrpc"],
    "other processes": ["concurrent.futures.process", "multiprocessing"],
    "other platforms": [
        "_aix_support", "_ios_support", "_osx_support", "asyncio.windows_events", "asyncio.windows_utils",
        "ctypes._aix", "ctypes.macholib", "encodings.mbcs", "encodings.oem", "ntpath", "nturl2path",
    ],
    "pure Python counterparts of C modules": ["_pydatetime", "_pydecimal", "_pyio", "_py_abc"],
    "older Pythons": ["typing_extensions"] if sys.version_info >= (3, 13) else [],
    "a system libpq": ["psycopg.pq._pq_ctypes", "psycopg.pq.pq_ctypes"],
    "tornado": ["tenacity.tornadoweb"],
}  # fmt: skip


def reachable() -> dict[str, Path]:
    """Return the file of each module in HIDDEN or reachable through import statements from entrypoint.py."""
    search = [str(APP), *(path for path in sys.path if path.startswith(str(STDLIB)))]
    finder = ModuleFinder(path=search, excludes=[name for names in NOT_NEEDED.values() for name in names])
    for name in ["entrypoint", *HIDDEN]:
        finder.import_hook(name)
    own = [getattr(module, "__code__", None) for name, module in finder.modules.items() if name.split(".")[0] in OWN]
    for name in codecs_named(filter(None, own)):
        finder.import_hook(name)
    files = {name: getattr(module, "__file__", None) for name, module in finder.modules.items()}
    return {
        name: Path(file) for name, file in sorted(files.items()) if file
    }  # modules without a file are built in or frozen


def codecs_named(blocks: Iterable[CodeType]) -> set[str]:
    """Return the modules of all codecs that may be named by strings in these code blocks, including nested code."""
    found = set()
    for block in blocks:
        words = [
            normalize_encoding(const).lower() for const in block.co_consts if isinstance(const, str) and const.isascii()
        ]
        candidates = {f"encodings.{aliases.get(word, word)}" for word in words if word.isidentifier()}
        found |= {name for name in candidates if importlib.util.find_spec(name)}
        found |= codecs_named(const for const in block.co_consts if isinstance(const, CodeType))
    return found


def place(name: str, source: Path) -> None:
    """Copy an extension module or write `python -OO` bytecode; the program's own modules keep their source."""
    target = MODULES / source.relative_to(APP if source.is_relative_to(APP) else STDLIB)
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix != ".py":
        shutil.copy(source, target)
        return
    own = name.split(".")[0] in OWN
    compiled = target.with_suffix(".pyc")
    if own:
        shutil.copy(source, target)
        compiled = Path(importlib.util.cache_from_source(str(target)))
    py_compile.compile(
        str(source),
        str(compiled),
        dfile=str(target),
        doraise=True,
        optimize=0 if own else 2,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )


def libraries(binary: Path) -> dict[str, Path]:
    """Return the paths of the libraries that the loader would load for `binary`, by name."""
    listed = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=True).stdout
    if "not found" in listed:
        sys.exit(f"image_tree: {binary} needs a library that the base image lacks:\n{listed}")
    return {name: Path(path) for name, path in re.findall(r"(\S+) => (/\S+)", listed)}


def place_libraries() -> list[Path]:
    """Copy the shared libraries and return their paths. libpq and Python's ssl share the OpenSSL of the wheel."""
    vendored = {re.sub(r"-[0-9a-f]{8}", "", path.name): path for path in (MODULES / "psycopg_binary.libs").iterdir()}
    copied = []
    for binary in [path for path in HOME.rglob("*") if ".so" in path.name or path.parent.name == "bin"]:
        for name, path in libraries(binary).items():
            target = HOME / "lib" / name
            if target.exists() or path.is_relative_to(HOME):
                continue
            if name.startswith(("libssl.", "libcrypto.")) and name in vendored:
                target.symlink_to(os.path.relpath(vendored[name], target.parent))
            else:
                shutil.copy(path, target)
                copied.append(path.resolve())
    return copied


def place_interpreter() -> list[Path]:
    """Copy the interpreter and its loader, and set the paths by which they are found in any image."""
    python = HOME / "bin" / "python3"
    python.parent.mkdir(parents=True)
    running = Path(os.path.realpath(sys.executable))
    shutil.copy(running, python)
    patchelf = os.environ["PATCHELF"]
    loader = Path(subprocess.check_output([patchelf, "--print-interpreter", str(python)], text=True).strip())
    shutil.copy(loader.resolve(), HOME / "lib" / loader.name)
    subprocess.check_call(
        [patchelf, "--set-interpreter", str(HOME / "lib" / loader.name), "--force-rpath", "--set-rpath",
         "$ORIGIN/../lib", str(python)]
    )  # fmt: skip
    return [running, loader.resolve()]


def record(copied: list[Path]) -> None:
    """Copy dpkg's records, wheel metadata and licences of the copied files, for vulnerability scanners."""
    packages = set()
    for path in copied:
        for name in (str(path), str(path).removeprefix("/usr")):
            owner = subprocess.run(["dpkg", "-S", name], capture_output=True, text=True, check=False)
            if owner.returncode == 0:
                packages.add(owner.stdout.split(":")[0])
                break
    status = ROOT / "var/lib/dpkg/status.d"
    status.mkdir(parents=True)
    for package in sorted(packages):
        text = subprocess.check_output(["dpkg-query", "--status", package], text=True)
        (status / package).write_text(text)
        licence = Path("/usr/share/doc", package, "copyright")
        if licence.exists():
            target = HOME / "share/doc" / package
            target.mkdir(parents=True)
            shutil.copy(licence, target / "copyright")
    if (STDLIB / "LICENSE.txt").exists():  # in this base image, Python is not a Debian package
        (HOME / "share/doc/python").mkdir(parents=True)
        shutil.copy(STDLIB / "LICENSE.txt", HOME / "share/doc/python/copyright")
    for folder in APP.glob("*.dist-info"):
        listed = (line.split(",")[0] for line in (folder / "RECORD").read_text().splitlines())
        if any((MODULES / name).with_suffix(".pyc").exists() for name in listed if name.endswith(".py")):
            shutil.copytree(folder, MODULES / folder.name)


def place_files() -> None:
    """Write the other files that a process needs: CA certificates, user names, and host name resolution settings."""
    bundle = HOME / "etc/ssl/certs/ca-certificates.crt"
    bundle.parent.mkdir(parents=True)
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", bundle)
    link = ROOT / bundle.relative_to(HOME)
    link.parent.mkdir(parents=True)
    link.symlink_to(bundle)
    (ROOT / "etc/passwd").write_text("root:x:0:0::/:/none\nmigrate:x:65532:65532::/:/none\n")
    (ROOT / "etc/group").write_text("root:x:0:\nmigrate:x:65532:\n")
    (ROOT / "etc/nsswitch.conf").write_text("hosts: files dns\n")
    (ROOT / "migrations").mkdir()


def main() -> None:
    """Write the directories HOME and ROOT."""
    for name, source in reachable().items():
        place(name, source)
    shutil.copytree(APP / "psycopg_binary.libs", MODULES / "psycopg_binary.libs")
    copied = place_interpreter()
    record(copied + place_libraries())
    place_files()
    launcher = HOME / "bin/pg-predeploy"
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o755)
    for path in [HOME, *HOME.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


if __name__ == "__main__":
    main()
