"""What the server tells of its long operations by itself: the views pg_stat_progress_* -> fields for the log."""

from __future__ import annotations

from typing import Any

# By the first server version that has it; pg_stat_progress_basebackup is no migration's.
_VIEWS = {"create_index": 120000, "cluster": 120000, "vacuum": 90600, "analyze": 130000, "copy": 140000}


def views(server_version: int) -> str:
    """Return the arguments for json_build_object that hold the rows of `a.pid`, whatever columns this server has."""
    return "".join(
        f", '{name}', (SELECT row_to_json(p) FROM pg_catalog.pg_stat_progress_{name} p WHERE p.pid = a.pid LIMIT 1)"  # noqa: S608  our own constants
        for name, since in _VIEWS.items()
        if server_version >= since
    )


def fields_of(seen: dict[str, Any]) -> dict[str, Any]:
    """Return `operation`, `phase`, `percent` and the counts `..._done` and `..._total` that are known."""
    for name, tell in _TOLD.items():
        if row := seen.get(name):
            return {key: value for key, value in tell(row).items() if value is not None}
    return {}


def _create_index(row: dict[str, Any]) -> dict[str, Any]:
    phase = row["phase"]
    if phase.startswith("waiting"):
        counts = _counts("lockers", row["lockers_done"], row["lockers_total"])
    elif row["blocks_total"]:
        counts = _counts("blocks", row["blocks_done"], row["blocks_total"])
    else:
        counts = _counts("tuples", row["tuples_done"], row["tuples_total"])
    partitions = _counts("partitions", row["partitions_done"], row["partitions_total"])
    return {"operation": row["command"], "phase": phase, **partitions, **counts}


def _cluster(row: dict[str, Any]) -> dict[str, Any]:
    blocks = _counts("blocks", row["heap_blks_scanned"], row["heap_blks_total"])
    tuples = {"tuples_done": row["heap_tuples_written"] or None}
    return {"operation": row["command"], "phase": row["phase"], **blocks, **tuples}


def _vacuum(row: dict[str, Any]) -> dict[str, Any]:
    done = row["heap_blks_vacuumed" if row["phase"] == "vacuuming heap" else "heap_blks_scanned"]
    return {"operation": "VACUUM", "phase": row["phase"], **_counts("blocks", done, row["heap_blks_total"])}


def _analyze(row: dict[str, Any]) -> dict[str, Any]:
    blocks = _counts("blocks", row["sample_blks_scanned"], row["sample_blks_total"])
    return {"operation": "ANALYZE", "phase": row["phase"], **blocks}


def _copy(row: dict[str, Any]) -> dict[str, Any]:
    of_bytes = _counts("bytes", row["bytes_processed"], row["bytes_total"])
    return {
        "operation": row["command"],
        "bytes_done": row["bytes_processed"],
        "tuples_done": row["tuples_processed"],
        **of_bytes,
    }


def _counts(what: str, done: int, total: int) -> dict[str, Any]:
    if not total:
        return {}
    return {"percent": round(100.0 * done / total, 1), f"{what}_done": done, f"{what}_total": total}


_TOLD = {
    "create_index": _create_index,
    "cluster": _cluster,
    "vacuum": _vacuum,
    "analyze": _analyze,
    "copy": _copy,
}
