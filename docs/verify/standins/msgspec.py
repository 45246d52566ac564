"""Replaces the msgspec package: the part that the modules of the one-file program use.

Values are checked as strictly as by msgspec, so that the rules for documents are written once, as
types. A test compares this module with msgspec.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, ClassVar, Literal, TypeVar

_T = TypeVar("_T")

_NONE: Any = object()
_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?[0-5]\d)?", re.IGNORECASE
)


class ValidationError(ValueError):
    """A value does not fit its type."""


class Meta:
    """Limits of a value."""

    def __init__(
        self, *, pattern: str | None = None, ge: int | None = None, tz: bool | None = None
    ) -> None:
        self.pattern = pattern
        self.ge = ge
        self.tz = tz


class _Field:
    def __init__(self, default: Any, default_factory: Callable[[], Any] | None) -> None:
        self.default = default
        self.default_factory = default_factory

    def value(self) -> Any:
        return self.default if self.default_factory is None else self.default_factory()


def field(*, default: Any = _NONE, default_factory: Callable[[], Any] | None = None) -> Any:
    """Return the description of a field with a default."""
    return _Field(default, default_factory)


class Struct:
    """A value with fields; `convert` uses only one option of a class, that on unknown fields."""

    __struct_fields__: ClassVar[tuple[str, ...]] = ()
    _defaults: ClassVar[Mapping[str, _Field]] = {}
    _is_closed: ClassVar[bool] = False

    def __init_subclass__(cls, *, forbid_unknown_fields: bool | None = None, **_: Any) -> None:
        own = [n for n, text in cls.__annotations__.items() if "ClassVar" not in str(text)]
        kept = [name for name in cls.__struct_fields__ if name not in own]
        cls.__struct_fields__ = (*kept, *own)
        defaults = dict(cls._defaults)
        for name in own:
            if name in cls.__dict__:
                default = cls.__dict__[name]
                if not isinstance(default, _Field):
                    default = _Field(default, None)
                defaults[name] = default
                delattr(cls, name)
        cls._defaults = defaults
        if forbid_unknown_fields is not None:
            cls._is_closed = forbid_unknown_fields

    def __init__(self, *args: Any, **fields: Any) -> None:
        fields |= zip(self.__struct_fields__, args, strict=False)
        unknown = fields.keys() - {*self.__struct_fields__}
        if unknown or len(args) > len(self.__struct_fields__):
            raise TypeError(f"unknown fields: {unknown}")
        for name in self.__struct_fields__:
            if name not in fields and name not in self._defaults:
                raise TypeError(f"missing field: {name}")
            value = fields[name] if name in fields else self._defaults[name].value()
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"frozen: {name}")

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__struct_fields__)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())


class structs:  # noqa: N801 - msgspec's name
    """Functions on structs."""

    @staticmethod
    def replace(struct: Any, **changes: Any) -> Any:
        """Return a copy of a struct in which `changes` replace values of fields."""
        values = dict(zip(struct.__struct_fields__, struct._values(), strict=True))  # noqa: SLF001
        return type(struct)(**values | changes)


def convert(value: Any, type: type[_T]) -> _T:  # noqa: A002 - msgspec's word
    """Return JSON values converted strictly to a value of type `type`.

    Raises:
        ValidationError: the values do not fit `type`.
    """
    result: _T = _convert(value, type)
    return result


def _convert(value: Any, wanted: Any) -> Any:
    origin, args = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted is Any:
        return value
    if origin is typing.Annotated:
        return _limited(_convert(value, args[0]), args[1])
    if origin in (typing.Union, types.UnionType):
        return _one_of(value, args)
    if origin is Literal:
        if isinstance(value, str) and value in args:
            return value
    elif origin is tuple:
        if isinstance(value, list):
            return tuple(_convert(item, args[0]) for item in value)
    elif origin is dict:
        if isinstance(value, dict):
            return {key: _convert(item, args[1]) for key, item in value.items()}
    elif wanted is datetime:
        if isinstance(value, str) and _TIME.fullmatch(value):
            return datetime.fromisoformat(value.upper())
    elif issubclass(wanted, Struct):
        if isinstance(value, dict):
            return _struct(value, wanted)
    elif type(value) is wanted:
        return value
    raise ValidationError(f"not of the type {wanted}")


def _one_of(value: Any, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        try:
            return _convert(value, choice)
        except ValidationError:
            continue
    raise ValidationError("of none of several types")


def _limited(value: Any, meta: Meta) -> Any:
    if meta.pattern is not None and re.search(meta.pattern, value) is None:
        raise ValidationError("another form")
    if meta.ge is not None and value < meta.ge:
        raise ValidationError("too small")
    if meta.tz and value.tzinfo is None:
        raise ValidationError("a time without a zone")
    return value


#: The resolved types of each struct's fields, kept because resolving is slower than converting.
_RESOLVED: dict[type, dict[str, Any]] = {}


def _struct(value: dict[str, Any], wanted: type[Struct]) -> Struct:
    names = wanted.__struct_fields__
    if wanted._is_closed and value.keys() - {*names}:  # noqa: SLF001
        raise ValidationError("an unknown field")
    if wanted not in _RESOLVED:
        _RESOLVED[wanted] = typing.get_type_hints(wanted, include_extras=True)
    hints = _RESOLVED[wanted]
    try:
        return wanted(**{n: _convert(value[n], hints[n]) for n in names if n in value})
    except TypeError as error:
        raise ValidationError("a field is missing") from error
