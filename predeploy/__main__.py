"""The entry point for `python -m predeploy` in a checkout; the wheel has entrypoint.py instead (see pyproject.toml)."""

from entrypoint import run

if __name__ == "__main__":
    run()
