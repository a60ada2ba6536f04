"""The key of the migration lock, and the condition on pg_locks for its holder."""

LOCK_KEY = 48756301  # shared with every other implementation of the same `_migrations` protocol

# pg_locks shows a bigint key as classid (its upper half) and objid (its lower), with objsubid 1.
HELD = f"""
    l.locktype = 'advisory' AND l.classid = 0 AND l.objid = {LOCK_KEY} AND l.objsubid = 1 AND l.granted
    AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
"""  # noqa: S608  constants
