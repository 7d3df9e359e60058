"""dlt's capabilities of a destination, computed once: dlt asks for them several times in each step of a load."""

from typing import Any

from dlt.common.destination import DestinationCapabilitiesContext


class CachesCapabilities:
    """Mixin for a dlt destination. The configuration must not change during the life of the object."""

    def capabilities(self, config: Any = None, naming: Any = None) -> DestinationCapabilitiesContext:
        """Return a copy of the capabilities, because dlt changes the object."""
        compute: Any = super().capabilities  # type: ignore[misc]
        if config is not None:
            return compute(config, naming)
        cache: dict[str, DestinationCapabilitiesContext] = self.__dict__.setdefault("cached_capabilities", {})
        key = naming.name() if naming is not None else ""
        if key not in cache:
            cache[key] = compute(None, naming)
        return cache[key].copy()
