import pytest
import yaml

from core.errors import ConfigError
from serving.spec_file import DEFAULT_SPEC, OVERLAYS, load_overlay, load_spec, merge, with_overlay


def write(folder, text):
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def shipped_with(folder, old, new):
    text = DEFAULT_SPEC.read_text()
    assert old in text
    return write(folder, text.replace(old, new))


def test_shipped_spec_is_valid_and_versioned():
    spec = load_spec()
    assert spec.surface == "explore"
    assert spec.version.startswith("explore-")
    assert spec.value_model.weights["report"] == -20


@pytest.mark.parametrize(
    ("old", "new", "path", "what"),
    [
        ("two_tower, quota: 1000", "two_tower, qouta: 600", "sources.two_tower.qouta", "unknown key"),
        ("two_tower, quota: 1000", "two_tower, quota: 0", "sources.two_tower.quota", "greater than or equal to 1"),
        ("keep: 120", "keep: many", "first_stage.keep", "valid integer"),
        ("click: 1.0", "clicks: 1.0", "value_model.weights", "unknown engagement kind 'clicks'"),
        ("language: match", "language: similar", "eligibility.language", "'match' or 'any'"),
        ("creator_window: 2", "creator_window: .nan", "rerank.creator_window", "finite"),
        ("kind: trending", "kind: treding", "sources.trending", "treding"),
        ("surface: explore", "surfaces: explore", "surfaces", "unknown key"),
        ("cold_start: [trending,", "cold_start: [trendy,", "cold_start", "trendy"),
    ],
)
def test_wrong_spec_is_refused_with_the_path_in_the_file(tmp_path, old, new, path, what):
    with pytest.raises(ConfigError) as caught:
        load_spec(shipped_with(tmp_path, old, new))
    assert path in str(caught.value)
    assert what in str(caught.value)


def test_error_names_the_line(tmp_path):
    path = shipped_with(tmp_path, "diversity_window: 5", "diversity_window: 500")
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if "diversity_window" in text)
    with pytest.raises(ConfigError, match=f"mine.yaml:{line} rerank.diversity_window"):
        load_spec(path)


def test_a_key_given_twice_is_refused(tmp_path):
    path = shipped_with(tmp_path, "  creator_window: 2\n", "  creator_window: 2\n  creator_window: 3\n")
    with pytest.raises(ConfigError, match=r"rerank\.creator_window: key given twice"):
        load_spec(path)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "a: [1,\n", "just words"])
def test_what_is_no_mapping_is_refused(tmp_path, text):
    with pytest.raises(ConfigError):
        load_spec(write(tmp_path, text))


def test_missing_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_spec(tmp_path / "nowhere.yaml")


def test_version_follows_content_and_not_layout(tmp_path):
    plain = yaml.safe_load(DEFAULT_SPEC.read_text())
    rearranged = write(tmp_path, yaml.safe_dump(dict(reversed(plain.items()))))
    assert load_spec(rearranged).version == load_spec().version
    assert with_overlay(load_spec(), {"rerank": {"diversity": 0.06}}).version != load_spec().version


def test_order_of_sources_does_not_change_the_version_but_their_numbers_do():
    spec = load_spec()
    assert with_overlay(spec, {"sources": {"fresh": {"quota": 101}}}).version != spec.version


def test_overlay_merges_mappings_replaces_the_rest_and_leaves_the_base_alone():
    base = {"a": {"x": 1, "y": [1, 2]}, "b": 1}
    assert merge(base, {"a": {"y": [3]}, "c": None}) == {"a": {"x": 1, "y": [3]}, "b": 1, "c": None}
    assert merge(base, {"a!": {"z": 1}}) == {"a": {"z": 1}, "b": 1}
    assert base == {"a": {"x": 1, "y": [1, 2]}, "b": 1}


def test_overlay_with_null_removes_a_source_and_turns_a_stage_off():
    spec = with_overlay(load_spec(), {"sources": {"fresh": None}, "cold_start": [], "first_stage": None})
    assert "fresh" not in spec.sources
    assert spec.first_stage is None


@pytest.mark.parametrize("name", sorted(path.stem for path in OVERLAYS.glob("*.yaml")))
def test_every_shipped_overlay_fits_the_shipped_spec(name):
    spec = with_overlay(load_spec(), load_overlay(name))
    assert spec.version != load_spec().version


def test_unknown_overlay_names_the_known_ones():
    with pytest.raises(ConfigError, match="two_tower"):
        load_overlay("three_tower")


def test_overlay_with_an_impossible_value_is_refused():
    with pytest.raises(ConfigError, match=r"overlay rerank\.slate_size"):
        with_overlay(load_spec(), {"rerank": {"slate_size": 0}})
