"""Compares pg-predeploy with other migration runners; run it with `scripts/bench`."""
