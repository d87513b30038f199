"""The guides name every key of the spec and every route of the API."""

import re
import typing
from pathlib import Path

import pytest

from serving.app import create_app
from serving.spec_model import SpecModel
from tests.serving_fakes import make_runtime

GUIDES = Path(__file__).parents[2] / "docs" / "guides"


def parts_below(model):
    """Every part of the spec, in whatever module."""
    for part in model.__subclasses__():
        yield part
        yield from parts_below(part)


PARTS = list(dict.fromkeys(parts_below(SpecModel)))


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_key_of_the_spec_is_in_the_guide_with_its_meaning(part):
    text = (GUIDES / "funnel-spec.md").read_text()
    for name, field in part.model_fields.items():
        assert name == "kind" or re.search(rf"`{name}`|## {name}\n", text), f"{part.__name__}.{name}"
        if field.description:
            assert field.description in text, f"{part.__name__}.{name}: the guide has other words"
        is_number = field.annotation in (int, float)
        assert not is_number or field.description, f"{part.__name__}.{name} has no meaning and unit"


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_number_of_the_spec_has_a_range(part):
    for name, field in part.model_fields.items():
        if field.annotation in (int, float):
            bounds = {type(bound).__name__ for bound in field.metadata}
            assert bounds & {"Ge", "Gt"}, f"{part.__name__}.{name}"
            assert bounds & {"Le", "Lt"}, f"{part.__name__}.{name}"


def test_every_route_is_in_the_guide(tmp_path):
    runtime = make_runtime(tmp_path)
    paths = create_app(runtime).openapi()["paths"]
    runtime.close()
    text = (GUIDES / "api.md").read_text()
    assert paths
    for path in paths:
        assert f"{path}`" in text or f"{path}," in text, path


def test_reply_of_the_feed_has_the_documented_fields():
    from serving.schemas import FeedReply

    documented = (
        "request_id",
        "user_id",
        "surface",
        "spec_version",
        "model_versions",
        "posts",
        "next_cursor",
        "degraded",
    )
    assert tuple(FeedReply.model_fields) == documented
    assert typing.get_type_hints(FeedReply)["next_cursor"] == str | None
