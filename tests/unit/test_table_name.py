from __future__ import annotations

import pytest

from predeploy.sql.table_name import DEFAULT_TABLE, TableName


@pytest.mark.parametrize(
    ("text", "schema", "name", "sql"),
    [
        ("_migrations", None, "_migrations", "_migrations"),
        ("Orders_Migrations", None, "orders_migrations", '"orders_migrations"'),
        ("app.history", "app", "history", '"app"."history"'),
        ('"My App"."a.b"', "My App", "a.b", '"My App"."a.b"'),
        ('"say ""hi"""', None, 'say "hi"', '"say ""hi"""'),
        (" app.history ", "app", "history", '"app"."history"'),
        ("app._migrations", "app", "_migrations", '"app"."_migrations"'),
        ("é" * 31, None, "é" * 31, f'"{"é" * 31}"'),
    ],
)
def test_a_name_is_parsed_as_in_sql(text: str, schema: str | None, name: str, sql: str) -> None:
    table = TableName.parse(text)
    assert (table.schema, table.name, table.sql) == (schema, name, sql)


@pytest.mark.parametrize(
    "text", ["", " ", "a.b.c", "a.", ".b", "1a", "a b", "a-b", '"a', '""', "a;b", "a" * 64, "é" * 32, "a\0"]
)
def test_an_invalid_name_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a table name|too long"):
        TableName.parse(text)


def test_the_default_is_looked_up_on_the_search_path() -> None:
    assert (DEFAULT_TABLE.schema, DEFAULT_TABLE.sql, str(DEFAULT_TABLE)) == (None, "_migrations", "_migrations")
