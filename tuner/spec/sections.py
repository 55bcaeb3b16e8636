"""The base of all sections of a study file."""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

Key = tuple[str | int, ...]
Problem = tuple[Key, str]  # a key of the study file, and what is wrong there
T = TypeVar("T")


class Section(BaseModel):
    """A table of the study file: frozen, no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def entry(default: T, meaning: str, **bounds: Any) -> T:
    """Declare a key: its default, meaning, and pydantic bounds such as ``ge``."""
    field: T = Field(default=default, description=meaning, **bounds)
    return field


class OneOf:
    """Make ``Annotated[str, OneOf(table)]`` a ``Literal`` of the names in a table."""

    def __init__(self, names: Any) -> None:
        self.names = tuple(names)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.literal_schema(list(self.names))
