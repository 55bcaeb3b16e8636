"""Custom metrics of a study: import them if allowed, hash them, and try them on real images."""

from collections.abc import Collection, Iterable

from tuner.errors import InputError
from tuner.metrics.own import OWN_METRICS, Sample, own_metrics
from tuner.run.custom_networks import Sources, describe_error, import_object


def import_metrics(names: Iterable[str], allowed: Collection[str]) -> Sources:
    """Import custom metrics and register them; return hashes of their packages' code.

    InputError if a package is not ``allowed``, is missing or fails to import, or if a metric can't
    be called.
    """
    sources = []
    for name in names:
        found, digest = import_object(name, allowed)
        if not callable(found):
            raise InputError(f"{name}: found {found!r}, expected a function")
        OWN_METRICS[name] = found
        sources.append((name, digest))
    return tuple(sources)


def check_metrics(names: Iterable[str], real: Sample) -> None:
    """Call custom metrics with real images on both sides; InputError if one fails."""
    for name in names:
        try:
            own_metrics([name], real, real)
        except (Exception, SystemExit) as error:  # custom code may raise anything
            reason = describe_error(error, name.partition(".")[0])
            raise InputError(f"metrics.own: {name}: {reason}") from None
