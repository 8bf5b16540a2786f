"""Rows become columns the same way from JSON and from tables."""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from zaphod.columns import RowDecoder, from_table, to_arrow
from zaphod.errors import ConfigError, DecodeError, InvalidInputError, SchemaMismatchError
from zaphod.schema import DType, Field, OutOfDomain, Output, Schema, Task

SCHEMA = Schema(
    fields=(
        Field(name="amount", dtype=DType.FLOAT64),
        Field(name="count", dtype=DType.INT64, minimum=0, maximum=9, out_of_domain=OutOfDomain.REJECT),
        Field(name="kind of", dtype=DType.STRING, nullable=True, categories=("a", "b")),
        Field(name="gap", dtype=DType.FLOAT64, nullable=True),
        Field(name="flag", dtype=DType.BOOL, default=False),
    ),
    output=Output(task=Task.REGRESSION),
)
GOOD = {"amount": 1.5, "count": 2, "kind of": "a", "gap": None, "flag": True}


def test_json_and_table_agree() -> None:
    """The same rows give the same columns whichever way they come."""
    decoder = RowDecoder(SCHEMA)
    rows = [GOOD, {**GOOD, "kind of": None, "gap": 2.0, "flag": False}]

    by_json = decoder.columns([decoder.convert_row(row) for row in rows])
    by_table = from_table(SCHEMA, pa.Table.from_pylist(rows)).columns

    np.testing.assert_array_equal(by_json.numbers, by_table.numbers)
    assert [list(c) for c in by_json.strings] == [c.to_pylist() for c in by_table.strings]
    assert to_arrow(SCHEMA, by_table).to_pylist() == rows


@pytest.mark.parametrize("names", [SCHEMA.names, ("amount", "count"), ("kind of",), ("amount", "kind of"), ("gap",)])
def test_one_row_is_as_one_of_several(names: tuple[str, ...]) -> None:
    """It goes a way of its own, whatever kinds of fields there are: same shapes, types and values."""
    schema = Schema(fields=tuple(field for field in SCHEMA.fields if field.name in names), output=SCHEMA.output)
    decoder = RowDecoder(schema)
    row = decoder.convert_row({name: GOOD[name] for name in names})

    one, two = decoder.columns([row]), decoder.columns([row, row])

    first = two.take(np.array([0]))
    np.testing.assert_array_equal(one.numbers, first.numbers)
    assert (one.numbers.shape, one.numbers.dtype, one.numbers.flags.c_contiguous) == (
        first.numbers.shape,
        first.numbers.dtype,
        True,
    )
    assert one.strings == first.strings


def test_texts_are_decoded_together_or_not_at_all() -> None:
    """Many texts give what each gives; one that is no row of the exact types leaves them to be asked one by one."""
    decoder = RowDecoder(SCHEMA)
    good = [msgspec.json.encode(row) for row in (GOOD, {**GOOD, "amount": -1.0})]

    assert decoder.decode_all(good) == [decoder.decode_row(text) for text in good]
    assert decoder.decode_all([]) == []
    for bad in (b"", b"{}", b"{not json", b"[" * 100_000, b"\xff", msgspec.json.encode({**GOOD, "count": 2.0})):
        assert decoder.decode_all([*good, bad]) is None


def test_left_out_fields_take_their_default() -> None:
    """Nullable fields and fields with a default may be left out of a row and of a table."""
    decoder = RowDecoder(SCHEMA)
    short = {"amount": 1.5, "count": 2}

    by_json = decoder.columns([decoder.convert_row(short)])
    by_table = from_table(SCHEMA, pa.Table.from_pylist([short])).columns

    np.testing.assert_array_equal(by_json.numbers, [[1.5, 2.0, np.nan, 0.0]])
    np.testing.assert_array_equal(by_json.numbers, by_table.numbers)
    assert by_table.strings[0].to_pylist() == by_json.strings[0] == [None]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[" * 100_000, "object"),
        (b'{"amount": 1}', "missing required field `count`"),
        (b'{"amount": "1", "count": 2}', "`$.amount`"),
        (b'{"amount": 1, "count": 2.5}', "`$.count`"),
        (b'{"amount": 1, "count": 10}', "<= 9"),
        (b'{"amount": 1, "count": 2, "other": 1}', "unknown field `other`"),
        (b'{"amount": null, "count": 2}', "`$.amount`"),
        (b'{"rows": [{"amount": 1, "count": "x"}]}', "`$.rows[0].count`"),
        (b'{"rows": 5}', "`$.rows`"),
        (b'{"amount": 1e999, "count": 2}', "range"),
    ],
)
def test_bad_json_names_the_field_and_the_reason(body: bytes, says: str) -> None:
    """Every mistake in a body says what was expected, what came and where."""
    with pytest.raises(InvalidInputError) as caught:
        RowDecoder(SCHEMA).decode_request(body)

    assert says in caught.value.message
    assert len(caught.value.message) <= 400


def test_a_long_field_name_is_not_echoed_whole() -> None:
    """A caller cannot make the server repeat a megabyte."""
    body = b'{"amount": 1, "count": 2, "%s": 1}' % (b"x" * 1_000_000)

    with pytest.raises(InvalidInputError) as caught:
        RowDecoder(SCHEMA).decode_row(body)

    assert len(caught.value.message) <= 300


def test_deep_nesting_is_an_error_not_a_crash() -> None:
    """Depth beyond the parser's limit is refused."""
    body = b'{"amount": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"

    with pytest.raises((InvalidInputError, DecodeError)):
        RowDecoder(SCHEMA).decode_row(body)


def test_bad_rows_of_a_table_are_rejected_with_reasons_and_the_rest_kept() -> None:
    """A table loses its bad rows only, each with field and reason."""
    table = pa.table(
        {
            "amount": [1.0, None, float("inf"), 4.0, 5.0],
            "count": [1, 1, 1, 99, 1],
            "kind of": ["a", "b", None, "a", "unseen"],
        }
    )

    decoded = from_table(SCHEMA, table)

    assert [(r.row, r.field) for r in decoded.rejects] == [(1, "amount"), (2, "amount"), (3, "count")]
    assert decoded.kept.tolist() == [0, 4]
    assert decoded.columns.strings[0].to_pylist() == ["a", "unseen"]
    assert decoded.columns.numbers[:, 0].tolist() == [1.0, 5.0]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (pa.table({"amount": [1.0]}), "`count`"),
        (pa.table({"amount": ["1"], "count": [1]}), "got `string` - at column `amount`"),
        (pa.table({"amount": [1.0], "count": [True]}), "got `bool` - at column `count`"),
        (pa.table({"amount": [1.0], "count": [1], "kind of": [3]}), "got `int64` - at column `kind of`"),
    ],
)
def test_a_table_of_the_wrong_shape_is_refused(table: pa.Table, says: str) -> None:
    """A missing column or a wrong type refuses the table, naming the column."""
    with pytest.raises(SchemaMismatchError) as caught:
        from_table(SCHEMA, table)

    assert says in caught.value.message


def test_integers_beyond_exactness_are_rejected() -> None:
    """An integer that a float64 cannot hold is a reject, never silently its neighbour."""
    schema = Schema(fields=(Field(name="id", dtype=DType.INT64),), output=Output(task=Task.REGRESSION))

    decoded = from_table(schema, pa.table({"id": [2**53, 2**53 + 1, -(2**60)]}))

    assert decoded.kept.tolist() == [0]
    unsigned = from_table(schema, pa.table({"id": pa.array([2**53, 2**53 + 1, 2**64 - 1], pa.uint64())}))
    assert unsigned.kept.tolist() == [0]
    with pytest.raises(InvalidInputError):
        RowDecoder(schema).decode_row(b'{"id": 9007199254740993}')


@pytest.mark.parametrize("name", ['say "hi"', "back\\slash", "a\tb"])
def test_names_that_no_json_decoder_takes_are_refused(name: str) -> None:
    """Where the schema is made, not where a server would load it."""
    with pytest.raises(ConfigError, match="without quotation marks"):
        Schema(fields=(Field(name=name, dtype=DType.INT64),), output=Output(task=Task.REGRESSION))


@pytest.mark.parametrize("count", [3, 3.0, 2**53, 1e300, -1e17, 2.5, None, 2**53 + 1])
def test_json_and_table_agree_on_integers_written_as_floats(count: float | None) -> None:
    """`3.0` is an integer whichever way it comes; a fraction and what is too large are none, with the same place."""
    schema = Schema(
        fields=(Field(name="id", dtype=DType.INT64), Field(name="n", dtype=DType.INT64, nullable=True)),
        output=Output(task=Task.REGRESSION),
    )
    decoder = RowDecoder(schema)
    rows = [{"id": 1.0, "n": 2}, {"id": 2, "n": count}]
    column = pa.array([2, count], type=pa.int64() if isinstance(count, int) else pa.float64())
    table = from_table(schema, pa.table({"id": [row["id"] for row in rows], "n": column}))
    forms = (
        lambda: decoder.decode_rows(msgspec.json.encode(rows)),
        lambda: decoder.decode_request(msgspec.json.encode({"rows": rows})),
        lambda: [decoder.decode_row(msgspec.json.encode(row)) for row in rows],
    )

    for decode in forms:
        if table.rejects:
            with pytest.raises(InvalidInputError) as caught:
                decode()
            assert caught.value.message.endswith(".n`")
        else:
            np.testing.assert_array_equal(decoder.columns(decode()).numbers, table.columns.numbers)


def test_the_first_of_several_mistakes_is_told_beside_an_integer_written_as_a_float() -> None:
    """What is wrong besides is named by its own type, and where it stands."""
    decoder = RowDecoder(SCHEMA)

    with pytest.raises(InvalidInputError, match=r"Expected `float`, got `str` - at `\$\.rows\[0\]\.amount`"):
        decoder.decode_request(b'{"rows": [{"count": 2.0, "amount": "x"}]}')
    with pytest.raises(InvalidInputError, match=r"Expected `int`, got `str` - at `\$\[1\]\.count`"):
        decoder.decode_rows(b'[{"count": 2.0, "amount": 1}, {"count": "x", "amount": 1}]')
