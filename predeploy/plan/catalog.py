"""A database's relations and their relationships, used to resolve names and to find implied locks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from predeploy.connection.connect import Connection
    from predeploy.plan.lock_modes import QualifiedName

_FIRST_NORMAL_OID = 16384  # the server's FirstNormalObjectId: smaller oids are assigned by initdb
_RELATIONS = f"""
    SELECT c.oid::int8, n.nspname, c.relname, c.relkind::text,
           array_position(pg_catalog.current_schemas(true), n.nspname), coalesce(i.indrelid, d.refobjid)::int8
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
    LEFT JOIN pg_catalog.pg_depend d ON c.relkind = 'S' AND d.classid = 'pg_catalog.pg_class'::regclass
        AND d.objid = c.oid AND d.refclassid = d.classid AND d.deptype IN ('a', 'i')
    WHERE c.oid >= {_FIRST_NORMAL_OID} AND c.relkind NOT IN ('t', 'c') AND c.relpersistence <> 't'
        AND n.nspname <> 'pg_toast'
"""  # noqa: S608  a constant
_RELATIONSHIPS = f"""
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
    WHERE r.ev_class >= {_FIRST_NORMAL_OID} AND r.rulename = '_RETURN' AND d.refobjid >= {_FIRST_NORMAL_OID}
    UNION ALL
    SELECT DISTINCT 'trigger', t.tgrelid::int8, 0, NULL::text[], NULL::text[]
    FROM pg_catalog.pg_trigger t WHERE NOT t.tgisinternal
"""  # noqa: S608
_ROUTINES = "SELECT DISTINCT proname FROM pg_catalog.pg_proc WHERE pronamespace <> 'pg_catalog'::regnamespace"


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation as of the time the catalog was read.

    `kind` is pg_class.relkind, `path_position` is the position of its schema in search_path, and `table` is the oid of
    the table that an index or sequence belongs to.
    """

    oid: int
    schema: str
    name: str
    kind: str
    path_position: int | None
    table: int | None

    @property
    def is_table_or_view(self) -> bool:
        """Whether the relation is a table, partitioned table, foreign table, view or materialized view."""
        return self.kind in "rpfvm"

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(slots=True)
class Catalog:
    """The existing relations, except temporary relations, which cannot block other sessions."""

    relations: dict[int, Relation]
    routines: set[str]
    _by_name: dict[str, list[Relation]] = field(default_factory=dict)
    _related: dict[tuple[str, int], list[tuple[int, frozenset[str]]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for relation in self.relations.values():
            self._by_name.setdefault(relation.name, []).append(relation)

    def find(self, name: QualifiedName) -> Relation | None:
        """Return the relation with this name, or None; resolve unqualified names through search_path."""
        found = self._by_name.get(name[-1], [])
        if len(name) > 1:
            return next((relation for relation in found if relation.schema == name[0]), None)
        return min(
            (relation for relation in found if relation.path_position is not None),
            key=lambda relation: relation.path_position or 0,
            default=None,
        )

    def relate(self, relationship: str, oid: int, other: int, names: Iterable[str] = ()) -> None:
        """Add a relationship; `names` are the names of a foreign key and its columns."""
        self._related.setdefault((relationship, oid), []).append((other, frozenset(names)))

    def related(self, relation: Relation, relationship: str, name: str = "") -> Iterator[Relation]:
        """Yield the related relations; if `name` is set, only those of foreign keys or columns with that name."""
        for oid, names in self._related.get((relationship, relation.oid), ()):
            if (not name or name in names) and oid in self.relations:
                yield self.relations[oid]

    def reachable(self, relation: Relation, relationship: str) -> Iterator[Relation]:
        """Yield the relation and every relation reachable through the relationship, each exactly once."""
        seen, waiting = set(), [relation]
        while waiting:
            current = waiting.pop()
            if current.oid not in seen:
                seen.add(current.oid)
                yield current
                waiting.extend(self.related(current, relationship))

    def has_triggers(self, relation: Relation) -> bool:
        """Return whether the relation has triggers other than foreign key triggers."""
        return ("trigger", relation.oid) in self._related


def read_relations(conn: Connection) -> dict[int, Relation]:
    """Return the existing relations by oid."""
    rows = conn.execute(_RELATIONS).fetchall()
    return {row[0]: Relation(*row) for row in rows}


def read_catalog(conn: Connection) -> Catalog:
    """Read the current catalog with three queries that lock only system catalogs."""
    catalog = Catalog(read_relations(conn), {name for (name,) in conn.execute(_ROUTINES).fetchall()})
    for relation in catalog.relations.values():
        if relation.table and relation.kind != "S":
            catalog.relate("table", relation.oid, relation.table)
            catalog.relate("indexes", relation.table, relation.oid)
    for relationship, oid, other, names, names_there in conn.execute(_RELATIONSHIPS).fetchall():
        if relationship.startswith("foreign_key"):
            catalog.relate("references", oid, other, names)
            catalog.relate("referenced_by", other, oid, names_there)
            if relationship != "foreign_key0":
                catalog.relate("cascades_to", other, oid)
            continue
        catalog.relate(relationship, oid, other)
        if relationship == "reads" and oid in catalog.relations and catalog.relations[oid].kind == "v":
            catalog.relate("views", oid, other)
    return catalog
