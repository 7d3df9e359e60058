"""The catalog is consistent, and the facts that are derived from it are the intended ones."""

import pytest

from propel_assets.catalog import AUDIT_TABLES, BY_NAME, SCANS, TABLES, options_of, tables_of
from propel_assets.catalog.model import Audit, Custom, Lookup, PagedList, PerParent
from propel_assets.privacy.erasure_list import identifying_columns, mentioning_columns

ALL = (*TABLES, *AUDIT_TABLES)


@pytest.mark.parametrize("table", ALL, ids=lambda table: table.name)
def test_columns_are_unique_and_contain_the_key(table) -> None:
    names = [column.name for column in table.columns]
    assert len(set(names)) == len(names)
    assert {*table.key} <= {*names}
    assert all(text.endswith(".") for text in (table.description, *(c.description for c in table.columns)))


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_row_about_a_person_is_recognized_by_the_declared_columns(table) -> None:
    names = [column.name for column in table.columns]
    assert {c.name for c in table.columns if c.person == "subject"} == {*identifying_columns(names)}
    assert {c.name for c in table.columns if c.person == "mention"} == {*mentioning_columns(names)}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_references_name_columns_of_both_tables(table) -> None:
    for reference in table.references:
        assert {*reference.columns} <= {c.name for c in table.columns} & {
            c.name for c in BY_NAME[reference.table].columns
        }
        assert reference.blocking == (BY_NAME[reference.table].scan == table.scan)


@pytest.mark.parametrize("table", ALL, ids=lambda table: table.name)
def test_a_shape_has_what_its_reader_needs(table) -> None:
    shape = table.shape
    if isinstance(shape, PagedList):
        assert table.items
        assert not shape.order or "created_at" in {column.name for column in table.columns}
    elif isinstance(shape, PerParent):
        assert isinstance(BY_NAME[shape.parent].shape, PagedList)
        assert f"{{{BY_NAME[shape.parent].key[0]}}}" in table.path
    elif isinstance(shape, Lookup):
        assert table.options == ("values",)
    assert isinstance(shape, Audit) == (table in AUDIT_TABLES)


@pytest.mark.parametrize("scan", SCANS)
def test_tables_that_are_read_together_have_one_custom_reader_and_one_set_of_options(scan) -> None:
    tables = tables_of(scan)
    readers = {table.shape.reader for table in tables if isinstance(table.shape, Custom)}
    assert len(readers) == 1 if len(tables) > 1 else len(readers) <= 1
    assert len(options_of(scan)) <= 1
