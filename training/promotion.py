"""Which model serves: the registry policy of `mlflow/registry.yaml` and the decision it leads to."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from core.errors import ConfigError

POLICY_PATH = Path(__file__).resolve().parent.parent / "mlflow" / "registry.yaml"


@dataclass(frozen=True)
class Policy:
    """The metric that decides for one registered model; `tolerance` is how much worse still passes."""

    metric: str
    is_higher_better: bool
    tolerance: float


@dataclass(frozen=True)
class Standing:
    """What is compared: the deciding metrics of a version and the data they were measured on."""

    data_version: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Decision:
    """Whether the new version becomes champion, and why in one line."""

    is_promoted: bool
    reason: str


def load_policy(model: str, path: Path = POLICY_PATH) -> Policy:
    """The policy of a registered model. Raises ConfigError naming the file and the key that is wrong."""
    try:
        entry = yaml.safe_load(path.read_text())["models"][model]
        direction = entry["direction"]
        policy = Policy(str(entry["metric"]), direction == "higher", float(entry["tolerance"]))
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: models.{model} needs metric, direction and tolerance ({error!r})") from error
    if direction not in ("higher", "lower"):
        raise ConfigError(f"{path}: models.{model}.direction is {direction!r}; expected higher or lower")
    return policy


def decide(policy: Policy, new: Standing, champion: Standing | None) -> Decision:
    """Whether `new` takes over from `champion`. Raises ConfigError when `new` lacks the deciding metric."""
    if policy.metric not in new.metrics:
        raise ConfigError(
            f"metric {policy.metric!r} was not measured; it has {', '.join(sorted(new.metrics)) or 'none'}"
        )
    if champion is None:
        return Decision(True, "first version")
    if champion.data_version != new.data_version:
        return Decision(True, f"data changed from {champion.data_version} to {new.data_version}")
    mine, theirs = new.metrics[policy.metric], champion.metrics.get(policy.metric)
    if theirs is None:
        return Decision(True, f"champion has no {policy.metric}")
    loss = theirs - mine if policy.is_higher_better else mine - theirs
    words = f"{policy.metric} {mine:.4f} against {theirs:.4f}, tolerance {policy.tolerance:g}"
    # A NaN is never good enough, hence the positive form.
    return Decision(loss <= policy.tolerance, words)
