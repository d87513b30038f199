"""Small trainings to run in a process of their own, and to kill there."""

from collections.abc import Callable
from pathlib import Path

from models.first_stage import FirstStageConfig
from models.second_stage import SecondStageConfig
from models.towers import TowerConfig
from tests.planted_examples import examples, spec_of
from training.balancing import Balance
from training.checkpoints import Checkpoints
from training.fit_first_stage import FirstStageRun, fit_first_stage
from training.fit_retrieval import RetrievalConfig, fit_retrieval
from training.fit_second_stage import SecondStageRun, fit_second_stage
from training.hard_negatives import HardNegatives
from training.loop import FittedModel, LoopConfig
from training.processes import own_share

LOOP = LoopConfig(batch_size=100, max_epochs=4, learning_rate=5e-3, validations_per_epoch=2, patience=3)


def checkpoints(folder: Path, says: Callable[[str], None] = lambda _: None, key: str = "this one") -> Checkpoints:
    """Checkpoints that take half of the time: a kill at random meets one as often as not."""
    return Checkpoints(folder, key, every_seconds=0.0, largest_share=1.0, says=says)


def fitted(kind: str, saved: Checkpoints | None, seed: int = 0) -> FittedModel:
    train, valid = (examples(rows, seed, True, with_candidates=True) for rows, seed in ((2_400, 0), (600, 1)))
    spec, train = spec_of(train, with_cross=kind == "second_stage"), own_share(train)
    if kind == "retrieval":
        run = RetrievalConfig(TowerConfig(dim=8, hidden=(16,), dropout=0.1), LOOP)
        return fit_retrieval(train, valid, spec, run, seed, None, 1, saved)
    if kind == "mined":
        towers, hard = TowerConfig(dim=8, hidden=(16,), dropout=0.1), HardNegatives(2, 0, 30)
        run = RetrievalConfig(towers, LOOP, balance=Balance("click"), hard_negatives=hard)
        return fit_retrieval(train, valid, spec, run, seed, None, 1, saved)
    if kind == "first_stage":
        towers = TowerConfig(dim=8, hidden=(16,), dropout=0.1)
        return fit_first_stage(
            train, valid, spec, FirstStageRun(FirstStageConfig(towers, 5), LOOP), seed, None, 1, saved
        )
    network = SecondStageConfig(
        cross_rank=4, trunk=(16, 8), head_hidden=4, history_length=4, dropout=0.1, num_networks=2
    )
    from_files = SecondStageRun(network, LOOP, in_memory_rows=0)  # batches prepared in the background
    return fit_second_stage(train, valid, valid, spec, from_files, seed, None, 1, saved)


def train(kind: str, folder: str, is_saved: bool) -> None:
    """Writes the lines told to `folder/told` and the bundle to `folder/bundles`."""
    path = Path(folder)

    def tell(line: str) -> None:
        with (path / "told").open("a") as file:
            file.write(line + "\n")

    fitted(kind, checkpoints(path / "checkpoints", tell) if is_saved else None).save(path / "bundles", {})
