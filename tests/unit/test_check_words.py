"""The word check finds listed words in texts and comments, and nowhere else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CI = Path(__file__).parents[2] / "ci"
SOURCE = '''\
"""Says what is
told."""
untold_names = told = None  # nobody reads
print(f"{told}: to be "
      "had")
'''


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a tree that contains the check, its word list and one module."""
    (tmp_path / "ci").mkdir()
    (tmp_path / "predeploy/plan").mkdir(parents=True)
    shutil.copy(CI / "check_words.py", tmp_path / "ci")
    shutil.copy(CI / "words.txt", tmp_path / "ci")
    (tmp_path / "predeploy/plan/module.py").write_text(SOURCE)
    return tmp_path


def check(tree: Path) -> tuple[int, list[str]]:
    command = [sys.executable, str(tree / "ci/check_words.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, [line.partition(": write ")[0] for line in (done.stdout + done.stderr).splitlines()]


def test_words_in_docstrings_comments_and_joined_strings_are_found_with_their_lines(tree: Path) -> None:
    assert check(tree) == (
        1,
        [
            "predeploy/plan/module.py:1: 'is told'",
            "predeploy/plan/module.py:3: 'nobody'",
            "predeploy/plan/module.py:4: 'to be had'",
        ],
    )


def test_an_exception_is_for_one_file_and_needs_a_reason(tree: Path) -> None:
    words = tree / "ci/words.txt"
    listed = words.read_text()
    words.write_text(f"{listed}predeploy/plan/module.py: is told, nobody  # a test\n")
    assert check(tree) == (1, ["predeploy/plan/module.py:4: 'to be had'"])
    words.write_text(f"{listed}predeploy/plan/module.py: *\n")
    assert check(tree) == (1, ["words.txt: the exception for predeploy/plan/module.py needs a reason"])


def test_a_page_of_the_docs_is_checked_too(tree: Path) -> None:
    (tree / "docs").mkdir()
    (tree / "docs/page.md").write_text("# Locks\n\nIt waits in\nvain.\n")
    assert "docs/page.md:3: 'in vain'" in check(tree)[1]
