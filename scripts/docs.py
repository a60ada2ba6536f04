"""What `scripts/docs` prepares: the page with the advice on errors, and the sources of the site."""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path

from predeploy.apply.advice import ADVICE, SPECIAL, condition_of

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / ".docs"
ADVICE_PAGE = ROOT / "docs/error-advice.md"
_LINK = re.compile(r"(!?)\[([^]]*)\]\((?!https?:)([^)#]+)(#[^)]*)?\)")
_DIAGRAM = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ADVICE_HEAD = """\
# Advice on errors

For each SQLSTATE, this table shows the text of the `advice` field in [`migration.failed`](logging.md#failures). For any
other code, see appendix A of the Postgres manual and read the statement. `scripts/docs` writes this page from
`predeploy/apply/advice.py`.

| code | condition | advice |
| --- | --- | --- |
"""


def error_advice() -> str:
    """Return the page; a code with several meanings has one piece of advice for each."""
    advices: dict[str, list[str]] = {}
    for code, advice in [*ADVICE.items(), *((str(key[0]), advice) for key, advice in SPECIAL.items())]:
        if advice not in advices.setdefault(code, []):
            advices[code].append(advice)
    rows = (
        f"| {code} | `{condition_of(code)}` | {' *or* '.join(found)} |\n" for code, found in sorted(advices.items())
    )
    return _ADVICE_HEAD + "".join(rows)


def prepare_site() -> None:
    """Copy README.md and docs/ to .docs: diagrams drawn, links as the site needs them."""
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
    """Return a link of a page in `folder` as a link of the site, or to SOURCE_URL, or else its text."""
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
