"""``Sender``: deliver notifications through apprise, to URLs from the environment."""

import logging
import os
import threading
import warnings
from collections.abc import Sequence
from typing import Any

from tuner import hints
from tuner.environment import NOTIFY_VARIABLE
from tuner.errors import InputError

TIMEOUT = 30.0  # seconds for all services together
PAUSES = (2.0, 10.0)  # seconds between attempts, if no service at all could be reached


class Sender:
    """Services that apprise delivers notifications to."""

    def __init__(self, services: Any) -> None:
        self._services = services
        self._closed = threading.Event()

    def send(self, title: str, text: str) -> str | None:
        """Send a notification. Returns None, or a line naming the kinds of services that failed."""
        for pause in (*PAUSES, 0.0):
            result = self._services.notify(text, title, body_format="text", timeout=TIMEOUT)
            failed = [str(one.name) for one in result if not one]
            if result or len(failed) < len([*result]) or self._closed.wait(pause):
                break
        if result:
            return None
        return f"notification {title!r} was not delivered by {', '.join(failed) or 'any service'}"

    def close(self) -> None:
        """Make no further attempts."""
        self._closed.set()


def open_sender() -> Sender | None:
    """The services named by TUNER_NOTIFY_URLS, else by apprise's own APPRISE_URLS or
    APPRISE_CONFIG_PATH; None without any of them.

    InputError if apprise is missing, or can't use one of the URLs, which is not shown.
    """
    variable = next((v for v in (NOTIFY_VARIABLE, "APPRISE_URLS") if _given(v)), None)
    paths = [path for path in _given("APPRISE_CONFIG_PATH").replace("\n", ";").split(";") if path]
    if variable is None and not paths:
        return None
    with warnings.catch_warnings():  # its plugins import deprecated modules of Python
        warnings.simplefilter("ignore")
        services = _services(variable, paths)
        found = len(services)
    if not found:
        raise InputError(f"{variable or 'APPRISE_CONFIG_PATH'}: found no URL that apprise can use")
    return Sender(services)


def check_sender(events: Sequence[str]) -> None:
    """InputError if notifications of these events can't be sent although this machine has URLs."""
    if events:
        open_sender()


def _services(variable: str | None, paths: Sequence[str]) -> Any:
    """The services in a variable, or in apprise's configuration files."""
    apprise = hints.require("apprise", "notify", variable or "APPRISE_CONFIG_PATH")
    # Its messages contain URLs, and so passwords.
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    asset = apprise.AppriseAsset(storage_mode=apprise.PersistentStoreMode.MEMORY)
    services = apprise.Apprise(asset=asset)
    if variable is None:
        services.add(apprise.AppriseConfig(paths=[*paths], asset=asset))
        return services
    urls = apprise.utils.parse.parse_urls(_given(variable))
    for number, url in enumerate(urls, 1):
        if not services.add(url):
            raise InputError(
                f"{variable}: apprise can't use URL {number} of {len(urls)} (not shown, "
                "because it may contain a password)"
            )
    return services


def _given(variable: str) -> str:
    return os.environ.get(variable, "").strip()
