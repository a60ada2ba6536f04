"""Generate the error advice page, and prepare the sources of the documentation site."""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path

from predeploy.apply.advice import ADVICE, SPECIAL, condition_of
from predeploy.apply.server_ended import CODES

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / ".docs"
ADVICE_PAGE = ROOT / "docs/error-advice.md"
_LINK = re.compile(r"(!?)\[([^]]*)\]\((?!https?:)([^)#]+)(#[^)]*)?\)")
_DIAGRAM = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ADVICE_HEAD = """\
# Advice on errors

The advice for each SQLSTATE, as logged in the field `advice` of [`migration.failed`](logging.md#failures). For any
other code, see appendix A of the Postgres manual. `scripts/docs` generates this page from `predeploy/apply/advice.py`.

| code | condition | advice |
| --- | --- | --- |
"""


_CODES_HEAD = """
## Ended by the server

This table explains the codes of classes 25, 53, 57 and 58. If a statement fails with one of these codes, its migration
fails and is not retried. If the server ends the session with one of these codes, the last column shows whether the
migration runs again after a reconnect, up to three times in total. A no-transaction migration never runs again on its
own. A pooler may replace the server's code with another one; in that case, the migration runs again. `scripts/docs`
generates this table from `predeploy/apply/server_ended.py`.

| code | condition | meaning | runs again after the session ended |
| --- | --- | --- | --- |
"""


def error_advice() -> str:
    """Return the page's Markdown; an ambiguous code has one piece of advice for each meaning."""
    advices: dict[str, list[str]] = {}
    for code, advice in [*ADVICE.items(), *((str(key[0]), advice) for key, advice in SPECIAL.items())]:
        if advice not in advices.setdefault(code, []):
            advices[code].append(advice)
    rows = (
        f"| {code} | `{condition_of(code)}` | {' *or* '.join(found)} |\n" for code, found in sorted(advices.items())
    )
    codes = (
        f"| `{code}` | `{condition_of(code)}` | {what.meaning} | {'yes' if what.runs_again else 'no'} |\n"
        for code, what in CODES.items()
    )
    return _ADVICE_HEAD + "".join(rows) + _CODES_HEAD + "".join(codes)


def prepare_site() -> None:
    """Copy README.md and docs/ to .docs; render the diagrams, and adapt the links to the site."""
    shutil.rmtree(SOURCES, ignore_errors=True)
    shutil.copytree(ROOT / "docs", SOURCES)
    shutil.copy(ROOT / "README.md", SOURCES / "index.md")
    for page in SOURCES.glob("*.md"):
        folder = "" if page.name == "index.md" else "docs"
        text = _LINK.sub(partial(_site_link, folder), page.read_text())
        for number, diagram in enumerate(_DIAGRAM.findall(text), start=1):
            picture = f"{page.stem}-{number}.svg"
            _draw(diagram, SOURCES / picture)
            text = _DIAGRAM.sub(f"![diagram]({picture})", text, count=1)
        page.write_text(text)


def _site_link(folder: str, link: re.Match[str]) -> str:
    """Convert a link in a page in `folder` to a link within the site or to SOURCE_URL, or else to plain text."""
    mark, text, target, anchor = link.groups(default="")
    path = posixpath.normpath(f"{folder}/{target}" if folder else target)
    if path.startswith("docs/"):
        return f"{mark}[{text}]({path.removeprefix('docs/')}{anchor})"
    source = os.environ.get("SOURCE_URL")
    return f"[{text}]({source}/{path}{anchor})" if source else text


def _draw(diagram: str, picture: Path) -> None:
    merm = ROOT / ".venv-docs/bin/merm"
    source = picture.with_suffix(".mmd")
    source.write_text(diagram)
    subprocess.run([merm, "-i", source, "-o", picture], check=True)
    source.unlink()


if __name__ == "__main__":
    ADVICE_PAGE.write_text(error_advice())
    prepare_site()
