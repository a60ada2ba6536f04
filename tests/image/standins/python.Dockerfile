# Debian's Python 3.15, for use if python:3.15-slim cannot be pulled; `python3 -m pip` works in both.
FROM standin/debian-python
RUN ln -s python3.15 /usr/bin/python3 && rm -f /usr/lib/python3.15/EXTERNALLY-MANAGED && \
    PYTHONPATH=$(echo /usr/share/python-wheels/pip-*.whl) \
    python3 -m pip install --quiet --no-index --root-user-action=ignore /usr/share/python-wheels/pip-*.whl
