"""Things that are chosen by name: built-in ones, those of other installed packages, and those of a notebook.

Another package offers one as an entry point, in its pyproject.toml:

    [project.entry-points."retro.metrics"]
    brevity = "my_package:brevity"

Nothing is imported until its name is looked up, so a config that names something stays light. Entry points are
read once, when a name that is not built in is asked for, or any is loaded.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from retro.common.config import unknown_name
from retro.common.errors import ConfigError, DependencyError, short_reason

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

T = TypeVar("T")
V = TypeVar("V")

GROUPS = (
    *("retro.embedders", "retro.metrics", "retro.tasks", "retro.prompts", "retro.formats", "retro.positions"),
    *("retro.recipes", "retro.penalties"),
)
"""Groups of entry points, one for each registry."""


@dataclass(frozen=True)
class _Offer:
    """A name that an installed package claims."""

    package: str
    reference: str
    """`module:attribute`, or `package:file.yaml`."""


def import_object(reference: str) -> object:
    """The attribute that `module:attribute` names.

    Raises:
        ImportError, AttributeError: There is none.
    """
    module, _, attributes = reference.partition(":")
    found: object = importlib.import_module(module)
    for name in filter(None, attributes.split(".")):
        found = getattr(found, name)
    return found


def package_file(reference: str) -> Traversable:
    """The file that `package:file.yaml` names, which is in the folder of that package.

    Raises:
        ImportError, AttributeError: There is no such package, or no such file in it.
    """
    # Not at the top: a hundredth of a second, for configs that name no file.
    from importlib import resources

    package, _, name = reference.partition(":")
    try:
        found = resources.files(package) / name
    except TypeError:
        raise ImportError(f"{package!r} is a module and no package, which could hold {name!r}") from None
    if not found.is_file():
        raise AttributeError(f"package {package!r} has no file {name!r}")
    return found


def yaml_file(found: object) -> Traversable:
    """What a registry of YAML files accepts."""
    name = str(getattr(found, "name", ""))
    if not name.endswith((".yaml", ".yml")):
        raise TypeError(f"is {name!r}, needs to be a file that ends in .yaml")
    return cast("Traversable", found)


class Registry(Generic[T]):
    """Named things of one type.

    Args:
        group: Group of entry points.
        what: One of them, as in `a metric`.
        built_in: Those of this package, by name: `module:attribute`.
        accept: Returns what was found as the type that is needed. Raises TypeError, which says what it needs to be.
        load: From such a reference to the thing itself.
    """

    def __init__(
        self,
        group: str,
        what: str,
        built_in: Mapping[str, str],
        accept: Callable[[object], T],
        load: Callable[[str], object] = import_object,
    ) -> None:
        if group not in GROUPS:
            raise ValueError(f"{group} is not a group of entry points; known: {', '.join(GROUPS)}")
        self.group, self.what, self.built_in = group, what, built_in
        self._accept, self._load = accept, load
        self._loaded: dict[str, T] = {}
        self._registered: dict[str, T] = {}
        self._sources: dict[str, str] = {}

    def __iter__(self) -> Iterator[str]:
        """Every name, sorted."""
        return iter(sorted({*self.built_in, *self._registered, *self._offers}))

    def __contains__(self, name: object) -> bool:
        """Whether there is something of that name; nothing is imported to say so."""
        return name in self.built_in or name in self._registered or name in self._offers

    def require(self, name: str, setting: str, hint: str = "") -> str:
        """Return `name` if there is something of that name; nothing is imported to say so.

        Args:
            name: As typed.
            setting: Where, for the error.
            hint: What else could be given.

        Raises:
            ConfigError: There is none; the nearest name is given.
        """
        if name not in self:
            need = unknown_name(name, list(self)).replace("a setting", self.what)
            raise ConfigError(setting, name, f"{need}; {hint}" if hint else need)
        return name

    def find(self, name: str, setting: str, hint: str = "") -> T:
        """What has that name.

        Args:
            name: As typed.
            setting: Where, for the error.
            hint: What else could be given.

        Raises:
            ConfigError: There is none; the nearest name is given.
            DependencyError: Two packages claim the name, or what the package offers cannot be imported or is not what
                it needs to be.
        """
        self.require(name, setting, hint)
        if name in self._registered:
            return self._registered[name]
        if name not in self._loaded:
            self._loaded[name] = self._found(name)
        return self._loaded[name]

    def peek(self, name: str, setting: str, hint: str = "") -> T:
        """As `find`, but a built-in is given without a look at other packages, which `find` takes when it is used."""
        if name not in self.built_in:
            return self.find(name, setting, hint)
        return self._accept(self._load(self.built_in[name]))

    def register(self, name: str) -> Callable[[V], V]:
        """Decorator that adds something in this process alone: for notebooks and tests.

        Run again, as a cell of a notebook is, it replaces what the same module defined before.

        Raises:
            ConfigError: The name belongs to something else.
            TypeError: It is not what it needs to be.
        """

        def add(thing: V) -> V:
            accepted = self._accept(thing)
            # An object that wraps a function says where that was defined.
            source = str(getattr(thing, "defined_in", None) or getattr(thing, "__module__", type(thing).__module__))
            known = name in self.built_in or name in self._offers
            if known or self._sources.get(name, source) != source:
                owner = self._sources.get(name) or " and ".join(self._owners(name))
                raise ConfigError(self.group, name, f"needs a name that is free; {owner} has it")
            self._registered[name], self._sources[name] = accepted, source
            return thing

        return add

    def unregister(self, name: str) -> None:
        """Take back what `register` added."""
        del self._registered[name], self._sources[name]

    def provider(self, name: str) -> str:
        """The package, with its version, or the module that something comes from."""
        from importlib.metadata import PackageNotFoundError, version

        owner = self._sources.get(name) or self._owners(name)[0]
        try:
            return f"{owner} {version(owner)}"
        except PackageNotFoundError:
            return owner

    def reload(self) -> None:
        """Read the entry points again, after a package was installed while this process ran."""
        importlib.invalidate_caches()
        self._loaded.clear()
        self.__dict__.pop("_offers", None)

    def _owners(self, name: str) -> list[str]:
        own = ["instruct-retro"] if name in self.built_in else []
        return own + [offer.package for offer in self._offers.get(name, ())]

    @cached_property
    def _offers(self) -> dict[str, tuple[_Offer, ...]]:
        # Not at the top: importing it and reading every package's metadata take some hundredths of a second.
        from importlib.metadata import entry_points

        offers: dict[str, dict[_Offer, None]] = {}
        for entry in entry_points(group=self.group):
            package = entry.dist.name if entry.dist is not None else entry.module
            reference = f"{entry.module}:{entry.attr}"
            offers.setdefault(entry.name, {})[_Offer(package, reference)] = None
        return {name: tuple(sorted(claims, key=str)) for name, claims in offers.items()}

    def _found(self, name: str) -> T:
        claims = self._offers.get(name, ())
        owners = self._owners(name)
        if len(owners) > 1:
            problem = f"claims {self.what} of the name {name!r}, which {owners[0]} has too"
            raise DependencyError(owners[-1], problem, f"Uninstall one of them ({self.group})")
        if not claims:
            return self._accept(self._load(self.built_in[name]))
        where = f"its entry point {name} = {claims[0].reference} ({self.group})"
        remedy = "Fix that package, install another version of it, or uninstall it"
        try:
            found = self._load(claims[0].reference)
        # A package of others may fail in any way when it is imported.
        except Exception as error:
            problem = f"{where} cannot be loaded ({type(error).__name__}: {short_reason(error)})"
            raise DependencyError(claims[0].package, problem, remedy) from error
        try:
            return self._accept(found)
        except TypeError as error:
            raise DependencyError(claims[0].package, f"{where} {error}", remedy) from None


def registered_by_instance(kind: type[T], need: str) -> Callable[[object], T]:
    """What a registry accepts: instances of `kind`, which the error calls `need`."""

    def accept(found: object) -> T:
        if not isinstance(found, kind):
            raise TypeError(f"is {_kind_of(found)}, needs to be {need}")
        return found

    return accept


def _kind_of(found: object) -> str:
    return f"the class {found.__name__}" if isinstance(found, type) else f"of type {type(found).__name__}"
