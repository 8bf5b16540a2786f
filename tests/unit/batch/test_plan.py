"""Files are cut into units, and a run's id says what decides its result."""

from __future__ import annotations

import pytest

from batch.plan import InputFile, cut, head, make_plan
from batch.settings import BatchSettings


def file(path: str = "a.parquet", *, rows: tuple[int, ...] = (10,), mtime_ns: int = 1) -> InputFile:
    """A file of 100 bytes."""
    return InputFile(path=path, size_bytes=100, mtime_ns=mtime_ns, chunk_rows=rows)


def settings(**changes: object) -> BatchSettings:
    """Settings with what is required."""
    return BatchSettings.model_validate({"model": "m", "input": "i", "output": "o"} | changes)


def id_of(files: list[InputFile], *, model: str = "m@1", sha256: str = "x", **changes: object) -> str:
    """The run's id for these inputs."""
    return make_plan(files, settings(**changes), model=model, bundle_sha256=sha256).run_id


def test_row_groups_share_a_unit_up_to_the_limit() -> None:
    """Consecutive row groups go together; none is split, however large."""
    units = list(cut(file(rows=(4, 4, 4, 20, 1)), unit_rows=10))

    assert [(unit.first_chunk, unit.num_chunks, unit.first_row, unit.num_rows) for unit in units] == [
        (0, 2, 0, 8),
        (2, 1, 8, 4),
        (3, 1, 12, 20),
        (4, 1, 32, 1),
    ]


def test_an_empty_file_has_no_unit() -> None:
    """Nothing to score is nothing to do, and an unreadable file is one unit that tells its problem."""
    broken = InputFile(path="b.parquet", size_bytes=1, mtime_ns=1, chunk_rows=(), problem="broken")

    assert list(cut(file(rows=()), unit_rows=10)) == []
    assert [unit.problem for unit in cut(broken, unit_rows=10)] == ["broken"]


def test_units_of_files_with_one_name_differ() -> None:
    """The same name in two folders gives two outputs."""
    ids = [unit.id for path in ("x/part.parquet", "y/part.parquet") for unit in cut(file(path), unit_rows=10)]

    assert len(set(ids)) == 2
    assert all(name.startswith("part-") for name in ids)


@pytest.mark.parametrize("path", ["_x.parquet", ".x.parquet", "…/ä ö.parquet", "a" * 300 + ".parquet"])
def test_unit_names_are_safe(path: str) -> None:
    """A unit's name is a plain file name that readers of a folder do not skip."""
    (unit,) = cut(file(path), unit_rows=10)

    assert unit.id.isascii()
    assert len(unit.id) < 100
    assert unit.id[0].isalnum()
    assert " " not in unit.id


def test_head_shortens_the_last_unit() -> None:
    """A sample has exactly the rows that were asked for, or all when there are fewer."""
    units = list(cut(file(rows=(4, 4, 4)), unit_rows=4))

    assert [unit.num_rows for unit in head(units, num_rows=6)] == [4, 2]
    assert [unit.num_rows for unit in head(units, num_rows=60)] == [4, 4, 4]


def test_the_order_of_the_listing_does_not_matter() -> None:
    """Stores list in different orders; the plan is the same."""
    files = [file("a"), file("b")]

    assert make_plan(files, settings(), model="m@1", bundle_sha256="x") == make_plan(
        files[::-1], settings(), model="m@1", bundle_sha256="x"
    )


def test_the_id_changes_with_what_decides_the_result() -> None:
    """Another model, file, or setting that matters is another run."""
    ids = [
        id_of([file()]),
        id_of([file()], model="m@2"),
        id_of([file()], sha256="y"),
        id_of([file(mtime_ns=2)]),
        id_of([file("b.parquet")]),
        id_of([file(), file("b.parquet")]),
        id_of([file()], keep=["id"]),
        id_of([file()], sample=5),
        id_of([file()], on_corrupt="reject"),
        id_of([file()], batch_rows=7),
    ]

    assert len(set(ids)) == len(ids)


def test_the_id_does_not_change_with_what_decides_nothing() -> None:
    """Limits and numbers of tasks do not make another run: a job that failed on a limit goes on with a higher one."""
    same = {
        id_of([file()]),
        id_of([file()], max_rejected=5),
        id_of([file()], max_rejected_share=0.5),
        id_of([file()], max_tasks=7),
        id_of([file()], output="elsewhere"),
    }

    assert len(same) == 1
