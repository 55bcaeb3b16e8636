"""The ``[tracking]`` and ``[notify]`` sections: reports on a study outside the database.

Neither holds an address or a password: those come from the environment of each machine.
"""

from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from tuner.spec.kinds import did_you_mean, shown
from tuner.spec.sections import Section, entry

# Experiment trackers, and the module that each needs. The extra that installs it and the module of
# ``tuner.tracking`` that writes to it are named after the tracker.
TRACKERS = {
    "tensorboard": "tensorboardX",
    "mlflow": "mlflow",
    "wandb": "wandb",
    "trackio": "trackio",
}
# Events that can send a notification.
EVENTS = {
    "ended": "the study has ended, or has spent its budget",
    "best": "a trial has ended as the best so far",
    "failed": "a trial has failed; at most one notification an hour",
    "stalled": "no worker is running although trials are left",
}


class _NamesOf:
    """Make ``Annotated[tuple[str, ...], _NamesOf(table)]`` a list of distinct names in a table."""

    def __init__(self, table: dict[str, str]) -> None:
        self._names = tuple(table)

    def _check(self, value: Any) -> tuple[str, ...]:
        expected = f"expected a list of any of {', '.join(self._names)}"
        if not isinstance(value, list | tuple):
            raise ValueError(f"found {shown(value)}, {expected}")
        for name in value:
            if name not in self._names:
                hint = did_you_mean(str(name), self._names)
                raise ValueError(f"found {shown(name)}, {expected}{hint}")
        if len({*value}) < len(value):
            raise ValueError(f"found {shown([*value])}, expected each name once")
        return tuple(value)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._check, serialization=core_schema.plain_serializer_function_ser_schema(list)
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        items = {"type": "string", "enum": [*self._names]}
        return {"type": "array", "items": items, "uniqueItems": True}


class TrackingSection(Section):
    """The trackers to which workers log every epoch: see ``tuner.tracking``."""

    to: Annotated[tuple[str, ...], _NamesOf(TRACKERS)] = entry(
        (), f"trackers to log every epoch to; any of {', '.join(TRACKERS)}"
    )


class NotifySection(Section):
    """The events that send a notification: see ``tuner.notify``."""

    on: Annotated[tuple[str, ...], _NamesOf(EVENTS)] = entry(
        (), f"events that send a notification; any of {', '.join(EVENTS)}"
    )
