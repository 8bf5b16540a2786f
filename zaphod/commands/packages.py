"""From a model's file to a version in the registry, and what is known of one."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from zaphod.bundle import PARITY
from zaphod.commands.options import DEFAULT_REGISTRY, RegistryOption, parse_version
from zaphod.errors import PackagingError
from zaphod.registry import Registry
from zaphod.schema import Field, Schema, check_name
from zaphod.terminal import plain

if typing.TYPE_CHECKING:
    # Seconds to import, and only what packages needs them.
    import pandas as pd

_Source = Annotated[
    str, typer.Argument(help="a .skops, .onnx, .joblib or .pkl file, or models:/name@alias or runs:/… of MLflow")
]
_Data = Annotated[Path, typer.Option(help="a sample of what the model takes, Parquet or CSV; the more rows the better")]
_Target = Annotated[list[str] | None, typer.Option(help="columns of the sample that are no inputs, as the target")]
_Nullable = Annotated[list[str] | None, typer.Option(help="fields that may be null though the sample has no null")]
_Trust = Annotated[
    bool, typer.Option("--trust-pickle", help="read a pickle, which runs its author's code; only if you trust them")
]


def package(
    source: _Source,
    name: Annotated[str, typer.Option(help="the model's name in the registry")],
    data: _Data,
    target: _Target = None,
    nullable: _Nullable = None,
    schema: Annotated[Path | None, typer.Option(help="a schema as `zaphod schema` wrote it, perhaps edited")] = None,
    description: Annotated[str, typer.Option(help="one sentence for people")] = "",
    trust_pickle: _Trust = False,  # noqa: FBT002  # a flag of the command line
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Compiles a fitted model, proves that the compiled one agrees, and stores it as the next version."""
    from zaphod.packaging import package as package_estimator
    from zaphod.packaging import package_onnx
    from zaphod.sources import load_source

    check_name(name)
    given = None if schema is None else Schema.read(schema)
    sample = read_sample(data, without=target or [])
    loaded = load_source(source, trust_pickle=trust_pickle)
    opened = Registry.open(registry)
    console = Console()
    with console.status("compiling and comparing"):
        if loaded.onnx is not None:
            made = package_onnx(
                loaded.onnx, name=name, sample=sample, registry=opened, schema=given, nullable=nullable or (),
                description=description, origin=loaded.origin,
            )  # fmt: skip
        else:
            made = package_estimator(
                loaded.estimator, name=name, sample=sample, registry=opened, schema=given, nullable=nullable or (),
                description=description, origin=loaded.origin,
            )  # fmt: skip
    console.print(f"packaged {made.name}@{made.version}: engine {made.engine} ({made.reason})")


def schema(
    source: _Source,
    data: _Data,
    out: Annotated[Path, typer.Option(help="where to write it")] = Path("schema.json"),
    target: _Target = None,
    nullable: _Nullable = None,
    trust_pickle: _Trust = False,  # noqa: FBT002  # as above
) -> None:
    """Writes the schema that a sample suggests, to be read, edited and given to `package`."""
    from zaphod.given_onnx import infer_onnx_output
    from zaphod.inference import infer_fields, infer_schema
    from zaphod.sources import load_source

    sample = read_sample(data, without=target or [])
    loaded = load_source(source, trust_pickle=trust_pickle)
    if loaded.onnx is not None:
        fields = infer_fields(sample, nullable=nullable or ())
        inferred = Schema(fields=fields, output=infer_onnx_output(loaded.onnx, fields))
    else:
        inferred = infer_schema(loaded.estimator, sample, nullable=nullable or ())
    out.write_bytes(inferred.to_json())
    Console().print(f"wrote {len(inferred.fields)} fields to {out}")


def inspect(
    reference: Annotated[str, typer.Argument(help="name, name@alias or name@version")],
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Shows a version: where it comes from, its fields, which engine serves it and the proof."""
    opened = Registry.open(registry)
    name, version = parse_version(reference, opened)
    bundle = opened.load(name, version)
    manifest, console = bundle.manifest, Console()
    console.print(Text(f"{name}@{version} ", style="bold").append(plain(manifest.description)))
    for label, value in (
        ("packaged", manifest.created),
        ("from", manifest.origin),
        ("revision", manifest.source_revision or "-"),
        ("sha256", bundle.sha256),
        ("libraries", ", ".join(f"{library} {number}" for library, number in manifest.libraries.items())),
        ("engine", manifest.engine),
    ):
        console.print(plain(f"{label:<10} {value}"), soft_wrap=True)
    _show_parity(console, bundle.files[PARITY])
    _show_schema(console, bundle.schema)


def read_sample(path: Path, *, without: list[str]) -> pd.DataFrame:
    """A Parquet or CSV file. Raises: PackagingError."""
    import pandas as pd

    readers = {".parquet": pd.read_parquet, ".csv": pd.read_csv}
    if path.suffix not in readers:
        raise PackagingError(f"Expected a .parquet or .csv file, got {path.name!r} - at --data")
    try:
        sample: pd.DataFrame = readers[path.suffix](path)
    except (OSError, ValueError) as error:
        raise PackagingError(f"Cannot read the sample {path}: {error}") from error
    missing = sorted(set(without) - set(sample.columns))
    if missing:
        raise PackagingError(f"Expected columns {missing} to leave out, got none of them - in {path}")
    return sample.drop(columns=without)


def _show_parity(console: Console, data: bytes) -> None:
    parity: dict[str, object] = msgspec.json.decode(data)
    console.print(plain(f"{'proof':<10} {parity['reason']}"), soft_wrap=True)
    labels = {
        "label_flips": "label flips",
        "largest_absolute": "largest difference",
        "largest_relative": "largest relative difference",
        "num_thresholds": "splits tried from either side",
        "speed_up": "one row, times faster than scikit-learn",
    }
    for key, label in labels.items():
        value = parity.get(key)
        if isinstance(value, int | float):
            shown = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
            console.print(f"{'':<10} {label}: {shown}", highlight=False)


def _show_schema(console: Console, schema: Schema) -> None:
    table = Table("field", "dtype", "null", "domain", "default", "description")
    for field in schema.fields:
        default = "" if field.default is None else str(field.default)
        table.add_row(
            plain(field.name),
            field.dtype,
            "yes" if field.nullable else "",
            plain(_domain(field)),
            plain(default),
            plain(field.description),
        )
    console.print(table)
    output = schema.output
    what = ", ".join(str(label) for label in output.classes) or ", ".join(output.targets)
    if output.target_classes:
        pairs = zip(output.targets, output.target_classes, strict=True)
        what = "; ".join(f"{target} ({', '.join(str(label) for label in classes)})" for target, classes in pairs)
    console.print(plain(f"gives      {output.task}: {what}"))


def _domain(field: Field) -> str:
    if field.categories is not None:
        return ", ".join(field.categories[:8]) + (", …" if len(field.categories) > 8 else "")
    if field.minimum is None or field.maximum is None:
        return ""
    return f"{field.minimum:g} to {field.maximum:g}"
