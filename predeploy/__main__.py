"""Run `python -m predeploy` in a checkout; the wheel replaces this file with entrypoint.py (see pyproject.toml)."""

from entrypoint import run

if __name__ == "__main__":
    run()
