"""Measures pg-predeploy next to other migration runners: `scripts/bench`."""
