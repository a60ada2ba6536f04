"""The migration lock's key, and the pg_locks condition that finds its holder."""

LOCK_KEY = 48756301  # shared by all implementations of the `_migrations` protocol

# pg_locks splits a bigint key into classid (upper half) and objid (lower half), with objsubid 1.
HELD = f"""
    l.locktype = 'advisory' AND l.classid = 0 AND l.objid = {LOCK_KEY} AND l.objsubid = 1 AND l.granted
    AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
"""  # noqa: S608  constants
