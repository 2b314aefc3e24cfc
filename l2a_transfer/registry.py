"""Registries: name → entry, declared in other files by a decorator next to their own code.

A registry only knows the names of its entries. When it is first read, it imports the package's own declarations, and
those of installed packages that list modules in the entry-point group `l2a_transfer.plugins`:

    [project.entry-points."l2a_transfer.plugins"]
    my_normalizer = "my_package.normalizer"
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Generic, TypeVar

from l2a_transfer.errors import MissingExtraError, PluginError, unknown_name

PLUGINS = "l2a_transfer.plugins"
Entry = TypeVar("Entry")


class Registry(Mapping[str, Entry], Generic[Entry]):
    """The entries of one kind: this package's in the order of `homes`, then others in the order of declaration.

    Parameters
    ----------
    kind : str
        The kind of entries, for errors: ``"normalizer"``.
    *homes : str
        Modules of this package that declare entries; imported when the registry is first read.

    Examples
    --------
    >>> colors = Registry("color")
    >>> colors.add("red", 0xFF0000)
    >>> colors["red"]
    16711680
    >>> colors.find("rad")
    Traceback (most recent call last):
    ...
    l2a_transfer.errors.UnknownNameError: color must be one of red; got 'rad'; did you mean 'red'?
    """

    def __init__(self, kind: str, *homes: str) -> None:
        self.kind = kind
        self._homes = homes
        self._entries: dict[str, Entry] = {}
        self._places: dict[str, int] = {}
        self._loaded = False

    def add(self, name: str, entry: Entry, *, home: str = "") -> None:
        """Declare an entry. `home` is the module that declares it, which determines its position.

        Raises: PluginError if the name is taken, or has characters other than lower-case letters, digits and hyphens.
        """
        if name in self._entries:
            raise PluginError(f"the {self.kind} {name!r} is declared twice", "give one of them another name")
        if not name or not all(part.isalnum() and part == part.lower() and part.isascii() for part in name.split("-")):
            raise PluginError(f"the {self.kind} {name!r} must be named with lower-case letters, digits and hyphens")
        self._entries[name] = entry
        # A home may be imported on its own before the registry is read, which must not change the order.
        self._places[name] = self._homes.index(home) if home in self._homes else len(self._homes)

    def remove(self, name: str) -> None:
        """Remove an entry, for example in a test. Raises: KeyError."""
        del self._entries[name], self._places[name]

    def find(self, name: str) -> Entry:
        """The entry called `name`. Raises: UnknownNameError, which suggests the nearest name."""
        if name not in self:
            raise unknown_name(self.kind, name, self)
        return self._entries[name]

    def __getitem__(self, name: str) -> Entry:
        self._load()
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._entries, key=self._places.__getitem__))

    def __len__(self) -> int:
        self._load()
        return len(self._entries)

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True  # before the imports, which may read this registry
        try:
            for home in self._homes:
                import_module(home)
            load_plugins()
        except BaseException:
            self._loaded = False
            raise


_plugins_loaded = False


def load_plugins() -> None:
    """Import the modules that installed packages list as plugins, once per process.

    Raises: PluginError naming the plugin that cannot be imported.
    """
    global _plugins_loaded
    if _plugins_loaded:
        return
    _plugins_loaded = True  # before the imports, which may read a registry
    for point in entry_points(group=PLUGINS):
        try:
            point.load()
        except (Exception, SystemExit) as error:  # SystemExit(0) would end a command as if it had succeeded
            _plugins_loaded = False
            raise PluginError(
                f"the plugin {point.name!r} ({point.value}) cannot be loaded: {type(error).__name__}: {error}",
                "uninstall or repair the package that provides it",
            ) from error


def require_package(what: str, package: str, extra: str) -> None:
    """Raises: MissingExtraError if an optional package is not installed. `what` names what needs it."""
    if find_spec(package) is None:
        raise MissingExtraError(what, package, extra)
