"""The relations of a database and how they hang together: what a name means, and what is locked with a relation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from predeploy.connection.connect import Connection
    from predeploy.plan.lock_modes import Name

_OWN = 16384  # FirstNormalObjectId of the server: what is below came with initdb
_SHOWN = "rpmvf"  # tables, partitioned or foreign, and views; what belongs to them is told where it is locked harder
_RELATIONS = f"""
    SELECT c.oid::int8, n.nspname, c.relname, c.relkind::text,
           array_position(pg_catalog.current_schemas(true), n.nspname), coalesce(i.indrelid, d.refobjid)::int8
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
    LEFT JOIN pg_catalog.pg_depend d ON c.relkind = 'S' AND d.classid = 'pg_catalog.pg_class'::regclass
        AND d.objid = c.oid AND d.refclassid = d.classid AND d.deptype IN ('a', 'i')
    WHERE c.oid >= {_OWN} AND c.relkind NOT IN ('t', 'c') AND c.relpersistence <> 't' AND n.nspname <> 'pg_toast'
"""  # noqa: S608  our own constant
_EDGES = f"""
    SELECT 'child', i.inhparent::int8, i.inhrelid::int8, '{{}}'::text[], '{{}}'::text[] FROM pg_catalog.pg_inherits i
    UNION ALL
    SELECT 'partition_of', i.inhrelid::int8, i.inhparent::int8, NULL, NULL
    FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = i.inhparent
    UNION ALL
    SELECT 'default', i.inhrelid::int8, p.partdefid::int8, NULL, NULL
    FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = i.inhparent
    WHERE p.partdefid NOT IN (0, i.inhrelid)
    UNION ALL
    SELECT 'default', p.partrelid::int8, p.partdefid::int8, NULL, NULL
    FROM pg_catalog.pg_partitioned_table p WHERE p.partdefid <> 0
    UNION ALL
    SELECT 'foreign_key' || pg_catalog.strpos('cnd', c.confdeltype::text), c.conrelid::int8, c.confrelid::int8,
           c.conname::text || (
               SELECT pg_catalog.array_agg(a.attname::text) FROM pg_catalog.pg_attribute a
               WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)),
           c.conname::text || (
               SELECT pg_catalog.array_agg(a.attname::text) FROM pg_catalog.pg_attribute a
               WHERE a.attrelid = c.confrelid AND a.attnum = ANY (c.confkey))
    FROM pg_catalog.pg_constraint c WHERE c.contype = 'f'
    UNION ALL
    SELECT DISTINCT 'reads', r.ev_class::int8, d.refobjid::int8, NULL::text[], NULL::text[]
    FROM pg_catalog.pg_rewrite r
    JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid
        AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid <> r.ev_class
    WHERE r.ev_class >= {_OWN} AND r.rulename = '_RETURN' AND d.refobjid >= {_OWN}
    UNION ALL
    SELECT DISTINCT 'trigger', t.tgrelid::int8, 0, NULL::text[], NULL::text[]
    FROM pg_catalog.pg_trigger t WHERE NOT t.tgisinternal
"""  # noqa: S608
_ROUTINES = "SELECT DISTINCT proname FROM pg_catalog.pg_proc WHERE pronamespace <> 'pg_catalog'::regnamespace"


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation as it was when the catalog was read.

    `place` is its schema's in search_path, `table` what an index or a sequence belongs to.
    """

    oid: int
    schema: str
    name: str
    kind: str
    place: int | None
    table: int | None

    @property
    def is_shown(self) -> bool:
        """Whether it is one that people query by name: no index, no sequence."""
        return self.kind in _SHOWN

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(slots=True)
class Catalog:
    """What is there; without temporary relations, which no other session can wait for."""

    relations: dict[int, Relation]
    routines: set[str] = field(default_factory=set)
    _by_name: dict[str, list[Relation]] = field(default_factory=dict)
    _edges: dict[tuple[str, int], list[tuple[int, frozenset[str]]]] = field(default_factory=dict)

    def find(self, name: Name) -> Relation | None:
        """Return the relation that a name means, by search_path where it tells no schema."""
        found = [r for r in self._by_name.get(name[-1], ()) if r.schema == name[0] or len(name) == 1]
        if len(name) == 1:
            found = [relation for relation in found if relation.place is not None]
        return min(found, key=lambda relation: relation.place or 0, default=None)

    def neighbours(self, relation: Relation, edge: str, name: str = "") -> Iterator[Relation]:
        """Yield what an edge leads to; with `name`, only by the foreign keys with that name or column."""
        for oid, names in self._edges.get((edge, relation.oid), ()):
            if (not name or name in names) and oid in self.relations:
                yield self.relations[oid]

    def descendants(self, relation: Relation, edge: str = "child") -> Iterator[Relation]:
        """Yield the relation and all that an edge leads to from it, each once."""
        seen, waiting = set(), [relation]
        while waiting:
            current = waiting.pop()
            if current.oid not in seen:
                seen.add(current.oid)
                yield current
                waiting.extend(self.neighbours(current, edge))

    def has_triggers(self, relation: Relation) -> bool:
        """Tell whether it has triggers other than those of foreign keys."""
        return ("trigger", relation.oid) in self._edges

    def link(self, edge: str, start: int, end: int, names: Iterable[str] = ()) -> None:
        """Add an edge."""
        self._edges.setdefault((edge, start), []).append((end, frozenset(names)))


def read_relations(conn: Connection) -> dict[int, Relation]:
    """Return the relations that are there now, by oid."""
    rows = conn.execute(_RELATIONS).fetchall()
    return {row[0]: Relation(*row) for row in rows}


def read_catalog(conn: Connection) -> Catalog:
    """Return what is there now, in three queries and without a lock on anything but the server's own catalogs."""
    catalog = Catalog(read_relations(conn), {name for (name,) in conn.execute(_ROUTINES).fetchall()})
    for relation in catalog.relations.values():
        catalog._by_name.setdefault(relation.name, []).append(relation)  # noqa: SLF001
        if relation.table and relation.kind != "S":
            catalog.link("table", relation.oid, relation.table)
            catalog.link("indexes", relation.table, relation.oid)
    for edge, start, end, names, names_there in conn.execute(_EDGES).fetchall():
        if edge.startswith("foreign_key"):
            catalog.link("references", start, end, names)
            catalog.link("referenced_by", end, start, names_there)
            if edge != "foreign_key0":
                catalog.link("cascades_to", end, start)
            continue
        catalog.link(edge, start, end)
        if edge == "reads" and start in catalog.relations and catalog.relations[start].kind == "v":
            catalog.link("views", start, end)
    return catalog
