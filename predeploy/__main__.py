"""`python -m predeploy` in a checkout; an installed package has entrypoint.py itself in this place (pyproject.toml)."""

from entrypoint import run

if __name__ == "__main__":
    run()
