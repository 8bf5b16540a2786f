"""What a model takes and what it gives: the one source of every contract (JSON, Arrow, OpenAPI, OIP)."""

from __future__ import annotations

import enum
import functools
import re
from pathlib import Path
from typing import TypeAlias

import msgspec

from zaphod.errors import ConfigError

# A float64 holds every integer up to here exactly; a larger one would silently become its neighbour.
MAX_EXACT_INT = 2**53

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


Label: TypeAlias = int | float | bool | str


class DType(enum.StrEnum):
    """The types a field can have. Dates go in as numbers or strings: the pipeline decides what they mean."""

    FLOAT64 = "float64"
    INT64 = "int64"
    BOOL = "bool"
    STRING = "string"


class LogPolicy(enum.StrEnum):
    """What the prediction log keeps of a field."""

    KEEP = "keep"
    HASH = "hash"
    DROP = "drop"


class OutOfDomain(enum.StrEnum):
    """What happens to a value outside the field's range or categories. Models meet new values every day: accept."""

    ACCEPT = "accept"
    REJECT = "reject"


class Task(enum.StrEnum):
    """What the model predicts."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    OUTLIER = "outlier"
    CLUSTERING = "clustering"


class Field(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One input of a model.

    A null number is NaN inside; NaN in a table is a null. Infinite numbers are always refused.
    """

    name: str
    dtype: DType
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str, ...] | None = None
    out_of_domain: OutOfDomain = OutOfDomain.ACCEPT
    default: float | int | str | bool | None = None
    description: str = ""
    log: LogPolicy = LogPolicy.KEEP

    @property
    def required(self) -> bool:
        """A caller must name the field: it has no default and may not be null."""
        return not self.nullable and self.default is None

    @property
    def is_string(self) -> bool:
        return self.dtype is DType.STRING


class Output(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the model gives.

    `classes` are a classifier's labels in the order of its probabilities. `targets` names the outputs
    of a model that predicts several at once; one name otherwise. A classifier of several has `target_classes`
    instead of `classes`: the labels of each target.
    """

    task: Task
    classes: tuple[Label, ...] = ()
    has_probabilities: bool = False
    targets: tuple[str, ...] = ("target",)
    target_classes: tuple[tuple[Label, ...], ...] = ()

    @property
    def classes_by_target(self) -> tuple[tuple[Label, ...], ...]:
        """Of a classifier: as `target_classes`, also where there is one target."""
        return self.target_classes or (self.classes,)

    @property
    def label_names(self) -> tuple[str, ...]:
        """What labels are called in tables: `label`, of several targets `label_<target>`."""
        return self._names("label")

    @property
    def value_names(self) -> tuple[str, ...]:
        """What a regressor's values are called in tables: `value`, of several targets `value_<target>`."""
        return self._names("value")

    @property
    def probability_names(self) -> tuple[str, ...]:
        """What the columns of probabilities are called: `probability_<class>` or `probability_<target>_<class>`."""
        if not self.target_classes:
            return tuple(f"probability_{label}" for label in self.classes)
        pairs = zip(self.targets, self.target_classes, strict=True)
        return tuple(f"probability_{target}_{label}" for target, classes in pairs for label in classes)

    def _names(self, what: str) -> tuple[str, ...]:
        return (what,) if len(self.targets) == 1 else tuple(f"{what}_{target}" for target in self.targets)


class Schema(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """Fields in the order the estimator was fitted on, and the output."""

    fields: tuple[Field, ...]
    output: Output

    def __post_init__(self) -> None:
        names = [field.name for field in self.fields]
        if not names:
            raise ConfigError("Cannot use a schema without fields: a model needs at least one input. Add a field.")
        doubles = sorted({name for name in names if names.count(name) > 1})
        if doubles:
            raise ConfigError(f"Expected field names that differ, got {doubles} twice - at schema.fields")
        for field in self.fields:
            _check_field(field)
        _check_output(self.output)

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields)

    @functools.cached_property
    def number_fields(self) -> tuple[Field, ...]:
        """Fields that are numbers inside (float64, int64, bool), in schema order: the columns of `numbers`."""
        return tuple(field for field in self.fields if not field.is_string)

    @functools.cached_property
    def string_fields(self) -> tuple[Field, ...]:
        return tuple(field for field in self.fields if field.is_string)

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    @classmethod
    def from_json(cls, data: bytes, *, source: str = "schema.json") -> Schema:
        """Raises: ConfigError when the document is not a schema; the message names the place."""
        try:
            return msgspec.json.decode(data, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ConfigError(f"{error} - in {source}") from error

    @classmethod
    def read(cls, path: Path) -> Schema:
        return cls.from_json(path.read_bytes(), source=str(path))


def _check_field(field: Field) -> None:
    where = f"at schema.fields[{field.name!r}]"
    if any(char in '"\\' or ord(char) < 32 for char in field.name):
        raise ConfigError(f"Expected a name without quotation marks, backslashes and control characters - {where}")
    if field.is_string and (field.minimum is not None or field.maximum is not None):
        raise ConfigError(f"Expected no range for a string, got minimum or maximum - {where}")
    if not field.is_string and field.categories is not None:
        raise ConfigError(f"Expected categories only for a string, got dtype {field.dtype} - {where}")
    if field.minimum is not None and field.maximum is not None and field.minimum > field.maximum:
        raise ConfigError(f"Expected minimum <= maximum, got {field.minimum} > {field.maximum} - {where}")
    if field.default is not None and field.is_string != isinstance(field.default, str):
        raise ConfigError(f"Expected a default of dtype {field.dtype}, got {type(field.default).__name__} - {where}")


def _check_output(output: Output) -> None:
    num_targets = len(output.targets)
    if output.task is not Task.CLASSIFICATION:
        if output.target_classes:
            raise ConfigError(f"Expected no target_classes for {output.task}, got some - at schema.output")
        return
    if num_targets == 1 and not output.target_classes:
        return
    if (
        output.classes
        or num_targets == 1
        or len(output.target_classes) != num_targets
        or not all(output.target_classes)
    ):
        raise ConfigError(
            f"Expected target_classes instead of classes, for each of several targets, got {num_targets} targets and "
            f"classes of {len(output.target_classes)} - at schema.output"
        )
    names = [*output.label_names, *output.probability_names]
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise ConfigError(f"Expected outputs of different names, got {doubles} twice - at schema.output.targets")


def check_name(name: str, *, what: str = "model name") -> str:
    """Returns the name. It becomes a folder and part of a URL: letters, digits, `.`, `_`, `-`, at most 100.

    Raises: ConfigError for anything else, path tricks among it.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise ConfigError(
            f"Cannot use this {what}: it is not 1 to 100 letters, digits, '.', '_' or '-' starting with a letter or "
            "digit, without '..'. Choose another name."
        )
    return name
