"""Value classes for the modules that every cold start loads: `dataclass`, without its import.

Importing the standard library's ``dataclasses`` takes 17 ms of CPU in a fresh interpreter, because
it loads ``inspect``; the whole rest of the fast path takes about as long (``python -m load.bench
--only fast-path`` measures both). What stands here makes the same classes, frozen and slotted, by
the same words, for the modules that the fast path loads. Everything else uses the real one.

To a type checker it *is* the real one. To ``dataclasses.replace``, ``asdict``, ``fields`` and
``is_dataclass`` as well: they find the attributes that they look for, made when they ask.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass, field, replace
else:

    class _Absent:
        def __repr__(self):
            return "<absent>"

    _ABSENT = _Absent()

    class _Field:
        """What `field` was told."""

        __slots__ = ("compare", "default", "default_factory", "kw_only", "repr")

        def __init__(self, default, default_factory, repr, compare, kw_only):  # noqa: A002 - the standard's name
            self.default = default
            self.default_factory = default_factory
            self.repr = repr
            self.compare = compare
            self.kw_only = kw_only

        def make_default(self):
            return self.default_factory() if self.default is _ABSENT else self.default

        @property
        def is_required(self):
            return self.default is _ABSENT and self.default_factory is _ABSENT

    def field(
        *,
        default=_ABSENT,
        default_factory=_ABSENT,
        repr=True,  # noqa: A002 - the standard's name
        compare=True,
        kw_only=_ABSENT,
    ):
        """See `dataclasses.field`."""
        return _Field(default, default_factory, repr, compare, kw_only)

    def dataclass(cls=None, /, *, frozen=False, slots=False, kw_only=False):
        """See `dataclasses.dataclass`; ``frozen`` and ``slots`` must be asked for.

        They change nothing here, where every value is both; asking for them is what makes a type
        checker, and whoever reads, believe the same as the interpreter.

        Raises:
            TypeError: They are not asked for, or the class has a base of its own.
        """

        def make(plain):
            if not (frozen and slots) or plain.__bases__ != (object,):
                raise TypeError(
                    f"{plain.__name__}: values are frozen, slotted and without bases here; "
                    "use dataclasses"
                )
            return _slotted(plain, kw_only)

        return make if cls is None else make(cls)

    def replace(value, /, **changes):
        """See `dataclasses.replace`."""
        kept = {name: getattr(value, name) for name in value.__slots__ if name not in changes}
        return type(value)(**kept, **changes)

    def _slotted(plain, kw_only):
        fields = {}
        for name in plain.__dict__.get("__annotations__", ()):
            given = plain.__dict__.get(name, _ABSENT)
            if not isinstance(given, _Field):
                given = _Field(given, _ABSENT, True, True, _ABSENT)
            if given.kw_only is _ABSENT:
                given.kw_only = kw_only
            fields[name] = given
        members = {
            key: member
            for key, member in plain.__dict__.items()
            if key not in fields and key not in ("__dict__", "__weakref__")
        }
        members |= {key: member for key, member in _METHODS.items() if key not in members}
        members["__slots__"] = tuple(fields)
        members["__match_args__"] = tuple(n for n, f in fields.items() if not f.kw_only)
        members["__qualname__"] = plain.__qualname__
        for name in ("__dataclass_fields__", "__dataclass_params__"):
            members[name] = _Standard(name, plain, kw_only)
        members["_value_fields"] = fields
        return type(plain.__name__, (), members)

    class _Standard:
        """An attribute as the standard library would have made it."""

        def __init__(self, name, plain, kw_only):
            self._name = name
            self._plain = plain
            self._kw_only = kw_only

        def __get__(self, _instance, owner):
            import dataclasses

            members = {"__annotations__": self._plain.__dict__.get("__annotations__", {})}
            for name, each in owner._value_fields.items():
                options = {"repr": each.repr, "compare": each.compare, "kw_only": each.kw_only}
                if each.default is not _ABSENT:
                    options["default"] = each.default
                if each.default_factory is not _ABSENT:
                    options["default_factory"] = each.default_factory
                members[name] = dataclasses.field(**options)
            members["__module__"] = self._plain.__module__
            twin = dataclasses.dataclass(frozen=True, kw_only=self._kw_only)(
                type(self._plain.__name__, (), members)
            )
            return getattr(twin, self._name)

    def _init(self, *args, **kwargs):
        fields = self._value_fields
        if args:
            kwargs = _named(self, fields, args, kwargs)
        if not kwargs.keys() <= fields.keys():
            unknown = next(name for name in kwargs if name not in fields)
            raise TypeError(
                f"{type(self).__qualname__}.__init__() got an unexpected keyword argument "
                f"{unknown!r}"
            )
        put = object.__setattr__
        for name, each in fields.items():
            if name in kwargs:
                put(self, name, kwargs[name])
            elif each.is_required:
                raise TypeError(
                    f"{type(self).__qualname__}.__init__() is missing the required argument "
                    f"{name!r}"
                )
            else:
                put(self, name, each.make_default())
        if hasattr(type(self), "__post_init__"):
            self.__post_init__()

    def _named(self, fields, args, kwargs):
        """Positional arguments by their names, with the others."""
        names = self.__match_args__
        kind = type(self).__qualname__
        if len(args) > len(names):
            raise TypeError(
                f"{kind}.__init__() takes {len(names)} positional arguments but {len(args)} were "
                "given"
            )
        named = dict(zip(names, args, strict=False))
        twice = named.keys() & kwargs.keys()
        if twice:
            raise TypeError(f"{kind}.__init__() got multiple values for argument {min(twice)!r}")
        return named | kwargs

    def _compared(self):
        return tuple(getattr(self, n) for n, f in self._value_fields.items() if f.compare)

    def _eq(self, other):
        if other.__class__ is not self.__class__:
            return NotImplemented
        return _compared(self) == _compared(other)

    def _hash(self):
        return hash(_compared(self))

    def _repr(self):
        shown = (f"{n}={getattr(self, n)!r}" for n, f in self._value_fields.items() if f.repr)
        return f"{type(self).__qualname__}({', '.join(shown)})"

    def _frozen(self, name, _value=None):
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def _getstate(self):
        return [getattr(self, name) for name in self.__slots__]

    def _setstate(self, state):
        for name, value in zip(self.__slots__, state, strict=True):
            object.__setattr__(self, name, value)

    _METHODS = {
        "__init__": _init,
        "__eq__": _eq,
        "__hash__": _hash,
        "__repr__": _repr,
        "__setattr__": _frozen,
        "__delattr__": _frozen,
        "__getstate__": _getstate,
        "__setstate__": _setstate,
    }

__all__ = ["dataclass", "field", "replace"]
