"""Check the program's texts, its comments and the docs for the words in words.txt, and print the replacements."""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
WORDS = Path(__file__).with_name("words.txt")
COVERED = ("predeploy/**/*.py", "entrypoint.py", "docs/*.md", "README.md", "CONTRIBUTING.md", "CHANGELOG.md")


def read_words(text: str) -> tuple[dict[str, str], dict[str, set[str]]]:
    """Return the replacement for each word, and the words that each file may use (`*` allows all words)."""
    replacements: dict[str, str] = {}
    allowed: dict[str, set[str]] = {}
    for line in text.splitlines():
        entry, _, reason = line.partition("#")
        if " -> " in entry:
            words, replacement = entry.split(" -> ")
            replacements |= dict.fromkeys(words.strip().split(", "), replacement.strip())
        elif entry.strip():
            file, words = entry.split(": ")
            if not reason.strip():
                raise SystemExit(f"{WORDS.name}: the exception for {file} needs a reason")
            allowed[file] = allowed.get(file, set()) | {*words.strip().split(", ")}
    return replacements, allowed


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield a file's strings and comments, or the whole text of a page, each with its first line number."""
    content = path.read_text()
    if path.suffix != ".py":
        yield 1, content
        return
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def main() -> int:
    """Print each use of a listed word; return 1 if there are any."""
    replacements, allowed = read_words(WORDS.read_text())
    words = sorted(replacements, key=len, reverse=True)
    pattern = re.compile("|".join(rf"\b{re.escape(word)}\b" for word in words).replace(r"\ ", r"\s+"), re.IGNORECASE)
    found = set()
    for path in sorted(path for covered in COVERED for path in ROOT.glob(covered)):
        name = str(path.relative_to(ROOT))
        for line, text in texts(path):
            for match in pattern.finditer(text):
                word = " ".join(match[0].lower().split())
                if not {word, "*"} & allowed.get(name, set()):
                    found.add((name, line + text.count("\n", 0, match.start()), word))
    for name, line, word in sorted(found):
        print(f"{name}:{line}: {word!r}: write {replacements[word]}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
