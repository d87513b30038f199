"""The downstream half of the chain: the second stage's set joined with the exported vectors, and a training on it."""

from core.settings import Settings
from training.foundation import Steps, Told
from training.publish import Published
from training.sets import build_set, set_configs
from training.train import TrainOptions, train_stage


def train_downstream(settings: Settings, seed: int, is_quick: bool, steps: Steps, told: Told) -> Published:
    """What the second stage published, its steps timed. Raises MissingStageError before features were applied."""
    rows = 60_000 if is_quick else None
    config = set_configs(settings.workspace.manifest(), rows, seed, has_foundation=True)["second_stage"]
    with steps.step("join training set"):
        build_set(settings, config, lambda done, total: told("joining second_stage", done, total))
    with steps.step("train downstream"):
        options = TrainOptions(seed=seed, is_quick=is_quick)
        return train_stage(
            settings, "second_stage", options, lambda done, total: told("training second_stage", done, total)
        )
