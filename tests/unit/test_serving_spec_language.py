"""The spec as a language: units and ranges, tunable paths, schema, overlays side by side, several surfaces."""

import itertools
import json

import pytest
import yaml
from typer.testing import CliRunner

from core.errors import ConfigError
from serving.__main__ import app
from serving.spec import FunnelSpec
from serving.spec_file import DEFAULT_SPEC, Overlay, load_spec, load_specs, read_overlay, with_overlay
from serving.spec_paths import SCHEMA_FILE, schema_text, tunables


def numbers_of(node):
    """Every part of a schema that describes a number."""
    if isinstance(node, dict):
        if node.get("type") in ("integer", "number"):
            yield node
        for value in node.values():
            yield from numbers_of(value)
    elif isinstance(node, list):
        for value in node:
            yield from numbers_of(value)


@pytest.mark.parametrize("part", sorted(set(FunnelSpec.model_json_schema()["$defs"])))
def test_every_number_has_a_unit_and_a_range_that_machines_can_read(part):
    for number in numbers_of(FunnelSpec.model_json_schema()["$defs"][part]):
        assert number.get("unit"), number
        assert "maximum" in number, number
        assert "minimum" in number or "exclusiveMinimum" in number, number


def nested(path, value):
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


@pytest.mark.parametrize("tunable", tunables(load_spec()), ids=lambda tunable: tunable.path)
def test_a_tunable_path_takes_its_ends_and_nothing_beyond(tunable):
    # A page floor, as a deadline does, ties numbers to each other.
    spec = with_overlay(load_spec(), {"exploration": {"page_floor": 0.0}})
    if tunable.choices:
        for choice in tunable.choices:
            with_overlay(spec, nested(tunable.path, choice))
        with pytest.raises(ConfigError, match=tunable.path.replace(".", r"\.")):
            with_overlay(spec, nested(tunable.path, "neither"))
        return
    beyond = [tunable.highest + 1, tunable.lowest if tunable.is_lowest_open else tunable.lowest - 1]
    for value in beyond:
        with pytest.raises(ConfigError, match=tunable.path.replace(".", r"\.")):
            with_overlay(spec, nested(tunable.path, value))
    # A deadline at its end contradicts the others', a whole page floor everything.
    if not tunable.path.endswith(("_ms", "page_floor")):
        assert with_overlay(spec, nested(tunable.path, tunable.highest)).version
        assert tunable.is_lowest_open or with_overlay(spec, nested(tunable.path, tunable.lowest)).version


def test_tunables_follow_the_spec():
    spec = with_overlay(load_spec(), {"first_stage": None, "sources": {"mine": {"kind": "popular", "quota": 7}}})
    found = {tunable.path: tunable for tunable in tunables(spec)}
    assert found["sources.mine.quota"].value == 7
    assert found["sources.mine.segment"].choices == ("country", "language", "everyone")
    assert found["value_model.weights.report"].value == -20
    assert not any(path.startswith("first_stage") for path in found)


@pytest.mark.parametrize(
    ("overlay", "path", "what"),
    [
        ({"deadlines": {"second_stage_ms": 41}}, "deadlines.rerank_ms", "101 ms, request_ms is 100"),
        ({"sources": {"two_tower": {"deadline_ms": 31}}}, "deadlines", "sources.two_tower.deadline_ms 31"),
        ({"fallbacks": {"order": ["precomputed"]}}, "fallbacks.order", "popular last"),
        ({"precompute": {"users": 5}}, "precompute.users", "unknown key"),
        ({"cold_start": ["fresh", "fresh"]}, "cold_start", "twice"),
        ({"value_model": {"weights": {"like": 1001}}}, "value_model.weights.like", "1000"),
    ],
)
def test_what_contradicts_itself_is_refused_at_its_path(overlay, path, what):
    with pytest.raises(ConfigError, match=rf"overlay {path}: ") as caught:
        with_overlay(load_spec(), overlay)
    assert what in str(caught.value)


def test_deadlines_that_are_left_out_are_checked_too():
    with pytest.raises(ConfigError, match=r"deadlines\.rerank_ms: .*110 ms, request_ms is 100"):
        with_overlay(load_spec(), {"deadlines!": {"second_stage_ms": 50}})
    with pytest.raises(ConfigError, match="retrieval_ms is 30"):
        with_overlay(load_spec(), {"deadlines!": {}, "sources": {"fresh": {"deadline_ms": 50}}})


def test_the_schema_of_editors_is_up_to_date():
    assert SCHEMA_FILE.read_text() == schema_text(), "run python -m serving spec-schema --output <the file>"
    assert DEFAULT_SPEC.read_text().splitlines()[0] == f"# yaml-language-server: $schema={SCHEMA_FILE.name}"


def test_order_of_keys_changes_neither_version_nor_behaviour(tmp_path):
    def reversed_keys(node):
        return {k: reversed_keys(v) for k, v in reversed(node.items())} if isinstance(node, dict) else node

    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(reversed_keys(yaml.safe_load(DEFAULT_SPEC.read_text())), sort_keys=False))
    spec = load_spec(path)
    assert spec.version == load_spec().version
    assert list(spec.sources) == list(load_spec().sources)  # their numbers and sums follow this order


def test_overlays_side_by_side_commute():
    overlays = [
        Overlay("a", {"rerank": {"diversity": 0.2}, "sources": {"fresh": None}, "exploration": {"page_floor": 0}}),
        Overlay("b", {"rerank": {"creator_window": 1}, "sources": {"mine": {"kind": "random", "quota": 3}}}),
        Overlay("c", {"rerank": {"diversity": 0.2}, "cold_start": ["trending"]}),
    ]
    versions = {load_spec(overlays=order).version for order in itertools.permutations(overlays)}
    assert len(versions) == 1


@pytest.mark.parametrize(
    ("one", "other", "path"),
    [
        ({"rerank": {"diversity": 0.2}}, {"rerank": {"diversity": 0.3}}, "rerank.diversity"),
        ({"first_stage": None}, {"first_stage": {"keep": 50}}, "first_stage"),
        ({"sources!": {"all": {"kind": "random", "quota": 9}}}, {"sources": {"fresh": {"quota": 9}}}, "sources"),
        ({"sources": {"fresh": None}}, {"sources": {"fresh": {"quota": 9}}}, "sources.fresh"),
    ],
)
def test_overlays_that_contradict_each_other_are_refused_in_either_order(one, other, path):
    for pair in ((one, other), (other, one)):
        with pytest.raises(ConfigError, match=rf"'first' and 'second' both set {path},"):
            load_spec(overlays=[Overlay("first", pair[0]), Overlay("second", pair[1])])


def test_a_fault_in_an_overlay_is_named_where_it_stands(tmp_path):
    path = tmp_path / "bold.yaml"
    path.write_text("# an experiment\nrerank:\n  diversity: 7\n")
    with pytest.raises(ConfigError, match=r"bold\.yaml:3 rerank\.diversity: .*less than or equal to 1"):
        load_spec(overlays=[read_overlay(str(path))])


def test_a_key_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "odd.yaml"
    path.write_text("rerank:\n  on: 1\n")
    with pytest.raises(ConfigError, match=r"odd\.yaml:2 rerank: the key 'on' is no text"):
        read_overlay(str(path))


def test_a_folder_holds_one_spec_per_surface(tmp_path):
    text = DEFAULT_SPEC.read_text()
    with pytest.raises(ConfigError, match="no funnel spec"):
        load_specs(tmp_path)
    (tmp_path / "b_reels.yaml").write_text(text.replace("surface: explore", "surface: reels"))
    (tmp_path / "a_home.yaml").write_text(text.replace("surface: explore", "surface: home"))
    assert list(load_specs(tmp_path)) == ["home", "reels"]
    assert load_spec(tmp_path).surface == "home"
    (tmp_path / "c.yaml").write_text(text.replace("surface: explore", "surface: reels"))
    with pytest.raises(ConfigError, match=r"c\.yaml surface: 'reels' is declared in b_reels\.yaml too"):
        load_specs(tmp_path)


def test_explain_spec_draws_the_funnel_and_names_every_path():
    found = CliRunner().invoke(app, ["explain-spec", str(DEFAULT_SPEC), "--overlay", "draw_candidates"])
    assert found.exit_code == 0, found.output
    spec = load_spec(overlays=[read_overlay("draw_candidates")])
    for name in ("user and eligibility", "sources", "second stage", "rerank", spec.version, *spec.sources):
        assert name in found.output
    for tunable in tunables(spec):
        assert f"│ {tunable.path} " in found.output


def test_explain_spec_as_json_is_what_the_tuner_reads():
    found = CliRunner().invoke(app, ["explain-spec", str(DEFAULT_SPEC), "--json"])
    (spec,) = json.loads(found.output)
    assert spec["version"] == load_spec().version
    keep = next(path for path in spec["paths"] if path["path"] == "first_stage.keep")
    assert (keep["value"], keep["unit"], keep["lowest"], keep["highest"]) == (120, "posts", 1, 100_000)


def test_spec_schema_writes_the_same_to_a_file_as_to_the_screen(tmp_path):
    shown = CliRunner().invoke(app, ["spec-schema"]).output
    assert CliRunner().invoke(app, ["spec-schema", "--output", str(tmp_path / "s.json")]).exit_code == 0
    assert (tmp_path / "s.json").read_text() == shown == schema_text()
