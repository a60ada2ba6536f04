"""How fast the program is, beside its peers and beside the least that could do the same: `scripts/bench`."""
