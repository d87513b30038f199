"""Numbers of the funnel spec with their units, which editors, `explain-spec` and tuners read from the JSON Schema."""

from typing import Annotated

from pydantic import Field


def _in(unit: str) -> object:
    return Field(json_schema_extra={"unit": unit})


Posts = Annotated[int, _in("posts")]
Users = Annotated[int, _in("users")]
Positions = Annotated[int, _in("positions")]
Requests = Annotated[int, _in("requests")]
Impressions = Annotated[int, _in("impressions")]
Entries = Annotated[int, _in("entries")]
Milliseconds = Annotated[float, _in("ms")]
Seconds = Annotated[float, _in("s")]
Hours = Annotated[float, _in("h")]
Days = Annotated[float, _in("d")]
Ranks = Annotated[float, _in("ranks")]
Megabytes = Annotated[float, _in("MB")]
Share = Annotated[float, _in("share")]
"""0 is none and 1 all of it, probabilities included."""
Factor = Annotated[float, _in("factor")]
"""Multiplies something; no unit of its own."""
