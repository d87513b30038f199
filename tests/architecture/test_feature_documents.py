"""What the registry and the reference say of every feature view."""

import re
from pathlib import Path

import pytest
from feast import FeatureView
from feast.on_demand_feature_view import OnDemandFeatureView

from feature_repo import definitions
from feature_repo.describe import describe_markdown

REFERENCE = Path(__file__).parents[2] / "docs" / "features.md"
FEATURE_VIEWS = [v for v in vars(definitions).values() if isinstance(v, (FeatureView, OnDemandFeatureView))]


@pytest.mark.parametrize("view", FEATURE_VIEWS, ids=lambda v: v.name)
def test_every_feature_view_says_what_it_is_what_a_row_is_how_fresh_and_whose(view):
    for tag in ("description", "grain", "freshness", "owner"):
        assert re.fullmatch(r"\S[^\n]*\S", view.tags.get(tag, "")), f"{view.name} has no tag {tag!r}"
    assert not re.search(r"[.!?]\s", view.tags["grain"]), f"the grain of {view.name} is more than one sentence"
    assert view.description == view.tags["description"]
    assert view.owner == view.tags["owner"]


def test_the_feature_reference_is_what_the_catalogue_says():
    said = "run `python -m feature_repo describe --output docs/features.md`"
    assert REFERENCE.read_text() == describe_markdown(), said


def test_the_feature_reference_names_every_view():
    assert FEATURE_VIEWS
    assert all(f"## {view.name}\n" in REFERENCE.read_text() for view in FEATURE_VIEWS)
