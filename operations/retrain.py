"""Models trained anew with another seed, in a scratch workspace beside the real one that it leaves untouched.

Log, features, online store, snapshot and the joined training sets of impressions are shared by links;
models, index, candidates and the first stage's training set are made anew, as the pipeline makes them.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from core.errors import MissingStageError
from core.settings import Settings
from core.workspace import Workspace
from feature_repo.exported import read_exports
from serving.draw_candidates import DrawPlan, draw
from training.index import build_index
from training.sets import build_set, set_configs
from training.train import TrainOptions, train_stage

SHARED = ("dataset.json", "truth", "data", "snapshot", "training_sets/retrieval", "training_sets/second_stage")
OPTIONAL = ("training_sets/catalogue",)

Say = Callable[[str], None]


@contextmanager
def retrained(settings: Settings, seed: int, say: Say = lambda _: None) -> Iterator[Settings]:
    """Settings of a scratch workspace whose three models were trained with `seed`; it goes when the block ends.

    Runs and models of it are tracked inside it, never in the team's MLflow.
    """
    folder = Path(mkdtemp(dir=settings.workspace.root, prefix=".retrained-"))
    try:
        scratch = Settings(**{**settings.model_dump(), "var_dir": folder, "mlflow_tracking_uri": None})
        share(settings.workspace, scratch.workspace)
        _train(scratch, seed, lambda what: say(f"seed {seed}: {what}"))
        yield scratch
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def share(source: Workspace, scratch: Workspace) -> None:
    """Links everything that does not depend on the seed. Raises MissingStageError for what was not made yet."""
    (scratch.root / "training_sets").mkdir(parents=True)
    scratch.log.mkdir()
    for name in (*SHARED, *OPTIONAL):
        if (source.root / name).exists():
            (scratch.root / name).symlink_to(source.root / name)
        elif name in SHARED:
            raise MissingStageError(name, source.root / name, "make pipeline")
    for table in source.log.iterdir():
        if table.name != "candidates":
            (scratch.log / table.name).symlink_to(table)


def _train(scratch: Settings, seed: int, say: Say) -> None:
    """The stages of the pipeline that depend on the seed, in its order."""
    options = TrainOptions(seed=seed)
    has_foundation = "user_foundation" in read_exports(scratch.workspace)
    configs = set_configs(scratch.workspace.manifest(), has_foundation=has_foundation)
    for kind in ("retrieval", "second_stage"):
        say(f"training {kind}")
        build_set(scratch, configs[kind], _silent)  # the shared one, unless what recipes read has changed since
        train_stage(scratch, kind, options)
    say("index")
    build_index(scratch, _silent)
    say("candidates")
    draw(scratch, DrawPlan(num_tests=0), seed)
    config = set_configs(scratch.workspace.manifest(), seed=seed)["first_stage"]
    build_set(scratch, config, _silent)
    say("training first_stage")
    train_stage(scratch, "first_stage", options)
    build_index(scratch, _silent)


def _silent(done: int, total: int) -> None:
    return None
