"""Find a plug-in by name: one mechanism, entry points, for our own and for others' classes."""

from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from gatekeeper.errors import PluginError

T = TypeVar("T")


class Registry(Generic[T]):
    """The classes behind one entry point group, loaded on demand. Listing imports nothing."""

    def __init__(self, group: str) -> None:
        self.group = group

    def names(self) -> tuple[str, ...]:
        """Return every name in the group, sorted.

        Raises:
            PluginError: Two distributions claim one name.
        """
        return tuple(sorted(self._points()))

    def load(self, name: str) -> type[T]:
        """Return the class called `name`.

        Raises:
            PluginError: There is none, or importing it failed.
        """
        points = self._points()
        if name not in points:
            known = ", ".join(sorted(points)) or "none"
            raise PluginError(
                f"no plug-in '{name}' in group '{self.group}'", hint=f"choose one of: {known}"
            )
        try:
            loaded: Any = points[name].load()
        except (ImportError, AttributeError) as error:
            raise PluginError(
                f"plug-in '{name}' of '{self.group}' does not load: {error}",
                hint="install what it needs: pip install 'mlflow-gatekeeper[scan]'",
            ) from error
        plugin: type[T] = loaded
        return plugin

    def _points(self) -> dict[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        for point in entry_points(group=self.group):
            if point.name in found and found[point.name].value != point.value:
                raise PluginError(
                    f"plug-in '{point.name}' of '{self.group}' is defined twice: "
                    f"{found[point.name].value} and {point.value}",
                    hint="uninstall one of the two distributions",
                )
            found[point.name] = point
        return found
