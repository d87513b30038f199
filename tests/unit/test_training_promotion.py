"""Which model serves."""

from pathlib import Path

import pytest

from core.errors import ConfigError
from training.promotion import POLICY_PATH, Policy, Standing, decide, load_policy

LOWER = Policy("ne", is_higher_better=False, tolerance=0.01)
HIGHER = Policy("recall", is_higher_better=True, tolerance=0.01)


def test_the_first_version_serves() -> None:
    assert decide(LOWER, Standing("d", {"ne": 0.9}), None).is_promoted


@pytest.mark.parametrize(
    ("policy", "mine", "theirs", "is_promoted"),
    [
        (LOWER, 0.80, 0.85, True),
        (LOWER, 0.859, 0.85, True),
        (LOWER, 0.87, 0.85, False),
        (HIGHER, 0.35, 0.30, True),
        (HIGHER, 0.295, 0.30, True),
        (HIGHER, 0.25, 0.30, False),
        (HIGHER, float("nan"), 0.30, False),
    ],
)
def test_a_later_version_serves_when_not_worse_than_the_tolerance(
    policy: Policy, mine: float, theirs: float, is_promoted: bool
) -> None:
    decision = decide(policy, Standing("d", {policy.metric: mine}), Standing("d", {policy.metric: theirs}))
    assert decision.is_promoted is is_promoted


def test_numbers_on_other_data_do_not_compare() -> None:
    decision = decide(LOWER, Standing("new", {"ne": 0.99}), Standing("old", {"ne": 0.5}))
    assert decision.is_promoted
    assert "data changed" in decision.reason


def test_a_metric_that_was_not_measured_is_an_error_that_lists_what_was() -> None:
    with pytest.raises(ConfigError, match=r"'ne' was not measured; it has auc"):
        decide(LOWER, Standing("d", {"auc": 0.7}), None)


@pytest.mark.parametrize("kind", ["retrieval", "first_stage", "second_stage"])
def test_every_registered_model_has_a_policy(kind: str) -> None:
    assert load_policy(f"vt_explore_feed_{kind}").tolerance >= 0


@pytest.mark.parametrize("text", ["", "models: {}", "models: {m: {metric: a, direction: up, tolerance: 1}}", "[:"])
def test_a_wrong_policy_file_names_file_and_key(tmp_path: Path, text: str) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"registry\.yaml: models\.m"):
        load_policy("m", path)


def test_the_registry_folder_holds_no_python() -> None:
    assert not list(POLICY_PATH.parent.rglob("*.py"))
