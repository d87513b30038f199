"""Trains the foundation model along history, exports its vectors point-in-time, and fills their feature views.

Weights that made a row never saw what the row is used to predict: a chain of snapshots, each started from the one
before, makes the rows after the instant until which it learned (`foundation_export.py`).

    bundles/foundation/<bundle_id>/   a snapshot
    bundles/foundation/chain.json     the snapshots in order, each with the events that it learned from
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import pyarrow as pa

from core.clock import WallClock
from core.errors import BundleError, InputError, LeakError, MissingStageError
from core.files import content_hash, write_atomically
from core.settings import Settings
from core.workspace import Workspace
from feature_repo.exported import Export, write_export
from models.bundle import FoundationBundle, load_bundle
from models.features import Feature, FeatureSpec, fit_spec
from models.foundation import FoundationModel
from training.checkpoints import Checkpoints, held
from training.device import training_device
from training.fit_foundation import FoundationRun, Material, fit_foundation
from training.foundation_events import HOUR, Catalogue, UserEvents, read_events
from training.foundation_export import post_table, segments, user_table
from training.loop import FittedModel
from training.publish import Findings, Published, publish, training_id, unchanged
from training.recipe_features import Widths, post_features, user_features
from training.set_files import SetManifest
from training.sets import set_configs
from training.splits import DAY_SECONDS, is_held_out, time_split

CHAIN = "chain.json"
LEAST_EVENTS = 1_000
"""Below this a snapshot would know nothing; rows of that time have no vector."""
GROWTH = 2
"""Room in the table of creators for those that appear after the first snapshot."""

Told = Callable[[str, int, int], None]


@dataclass(frozen=True)
class FoundationOptions:
    """What a command line decides. `snapshots` are trained at equal distances, the last one before the test part."""

    snapshots: int = 4
    seed: int = 0
    is_quick: bool = False
    is_forced: bool = False


@dataclass(frozen=True)
class Snapshot:
    """One link of the chain: learned from events visible by the end of hour `until`, whose hash is `digest`."""

    bundle_id: str
    until: int
    digest: str


@dataclass
class Steps:
    """Seconds of each step, in order."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - started, 1)


def snapshot_hours(settings: Settings, num_snapshots: int) -> list[int]:
    """Hours until which each snapshot learns: from the first row that sets train on to the first they test on."""
    from events.read import connect, register_log

    data = settings.workspace.manifest()
    split = time_split(data.first_event_at, data.last_event_at, set_configs(data)["second_stage"].split)
    connection = connect(settings)
    try:
        register_log(connection, settings.workspace.log)
        dated = "SELECT min(epoch(coalesce(served_at, event_at))) FROM impressions WHERE NOT is_time_imputed"
        (first,) = connection.execute(dated).fetchall()[0]
    finally:
        connection.close()
    # A day of dated events first: a history with imputed times may not tell of every kind.
    since = max(split.train_from, split.train_from if first is None else first + DAY_SECONDS)
    return sorted({int(at // HOUR) for at in np.linspace(since, split.test_from, num_snapshots)})


def foundation_spec(events: UserEvents, catalogue: Catalogue, until: int) -> FeatureSpec:
    """Inputs of the model, with statistics of the posts and users known by the end of hour `until`."""
    posts = {name: values[catalogue.from_hour <= until] for name, values in catalogue.columns.items()}
    users = {name: values[events.from_hour <= until] for name, values in events.columns.items()}
    history = {
        f"user_history__history_{what}_ids": posts[f"post_profile__{name}"]
        for what, name in (("post", "post_key"), ("creator", "creator_id"), ("topic", "topic_id"))
    }
    columns, widths = posts | users | history, Widths()
    # No row per post: most posts of a feed are newer than the weights, and a model that leans on rows misreads them.
    features = [*user_features(columns, widths, 1), *post_features(columns, widths)]
    wanted = [f for f in features if f.name in posts or f.name in users]
    return fit_spec([_with_room(f) for f in wanted], posts | users)


def _with_room(feature: Feature) -> Feature:
    return replace(feature, num_rows=GROWTH * feature.num_rows) if feature.table == "creator" else feature


def foundation_run(
    settings: Settings, options: FoundationOptions, events: UserEvents
) -> tuple[FoundationRun, list[int]]:
    """What every snapshot is trained by, and until which hours. Raises InputError for a log too short for any."""
    hours = [h for h in snapshot_hours(settings, options.snapshots) if events.until(h).num_events >= LEAST_EVENTS]
    if not hours:
        raise InputError(
            f"fewer than {LEAST_EVENTS} events in {settings.workspace.log} before its test part; a foundation model "
            "needs a longer log"
        )
    run = FoundationRun()
    return (replace(run, loop=replace(run.loop, max_epochs=1), next_epochs=1) if options.is_quick else run), hours


def train_chain(
    settings: Settings,
    events: UserEvents,
    catalogue: Catalogue,
    run: FoundationRun,
    hours: Sequence[int],
    seed: int,
    told: Told,
    checkpoints: Sequence[Checkpoints | None] = (),
) -> tuple[list[Snapshot], FittedModel]:
    """The snapshots, one per hour of `hours`, as bundles on disk, and the last one's fit.

    With `checkpoints`, one of each, a snapshot goes on where a killed process stopped; a finished one is not learnt
    again.
    """
    workspace = settings.workspace
    is_world = workspace.manifest().kind == "world"
    is_left_out = is_held_out(events.user_ids) if is_world else np.zeros(len(events.user_ids), dtype=bool)
    spec = foundation_spec(events, catalogue, hours[0])
    module: FoundationModel | None = None
    chain: list[Snapshot] = []
    for number, until in enumerate(hours, start=1):
        material = Material.of(events, catalogue, spec, run.network.window, until)

        def step(done: int, total: int, number: int = number) -> None:
            told(f"snapshot {number} of {len(hours)}", done, total)

        saved = checkpoints[number - 1] if checkpoints else None
        rest = (seed, step, settings.num_threads, saved, training_device(settings.device))
        module, history = fit_foundation(material, spec, run, is_left_out, module, *rest)
        best = min(history, key=lambda entry: entry["valid_loss"])
        metrics = {name.removeprefix("valid_"): value for name, value in best.items() if "valid_" in name}
        fitted = FittedModel("foundation", module, spec, run.network, (), (), history, metrics)
        digest = material.windows.events.digest(catalogue)
        versions = {
            "data_version": workspace.manifest().data_version,
            "events_until_hour": str(until),
            "events_digest": digest,
        }
        chain.append(Snapshot(fitted.save(workspace.bundles / "foundation", versions).name, until, digest))
    write_atomically(workspace.bundles / "foundation" / CHAIN, json.dumps([asdict(s) for s in chain], indent=1))
    return chain, fitted


def read_chain(workspace: Workspace) -> list[Snapshot]:
    """The snapshots in order. Raises MissingStageError before there are any."""
    path = workspace.bundles / "foundation" / CHAIN
    if not path.exists():
        raise MissingStageError("chain of foundation snapshots", path, "python -m training foundation")
    try:
        return [Snapshot(**fields) for fields in json.loads(path.read_text())]
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is no chain of snapshots ({error}); run `python -m training foundation`") from error


def load_snapshot(workspace: Workspace, snapshot: Snapshot) -> FoundationBundle:
    """Its bundle. Raises BundleError for one of another kind."""
    bundle = load_bundle(workspace.bundles / "foundation" / snapshot.bundle_id)
    if not isinstance(bundle, FoundationBundle):
        raise BundleError(f"bundle {snapshot.bundle_id} is a {bundle.manifest['kind']} model; expected a foundation")
    return bundle


def export_views(
    workspace: Workspace,
    bundles: Workspace,
    events: UserEvents,
    catalogue: Catalogue,
    last_hour: int,
    told: Told = lambda what, done, total: None,
) -> dict[str, Export]:
    """Fills both views of `workspace` from its events, by the snapshots that `bundles` holds.

    Raises LeakError where a snapshot has learned from other events than those visible by its hour.
    """
    chain = [s for s in read_chain(bundles) if s.until <= last_hour]
    for snapshot in chain:
        if events.until(snapshot.until).digest(catalogue) != snapshot.digest:
            raise LeakError(
                f"snapshot {snapshot.bundle_id} has learned from other events than the log has until hour "
                f"{snapshot.until}; it may know what came later: run `python -m training foundation --force`"
            )
    parts = segments([(load_snapshot(bundles, s), s.until) for s in chain], last_hour)
    if not parts:
        return {}
    made_by = content_hash([s.bundle_id for s in chain])
    tables = {
        "user_foundation": [user_table(events, catalogue, part, told) for part in parts],
        "post_foundation": [post_table(catalogue, part) for part in parts],
    }
    return {view: write_export(workspace, view, pa.concat_tables(rows), made_by) for view, rows in tables.items()}


def train_foundation(
    settings: Settings, options: FoundationOptions, told: Told
) -> tuple[Published, dict[str, Export], Steps]:
    """What was published, the exports, and the seconds of each step; what nothing changed is not trained again."""
    workspace, steps, started_at = settings.workspace, Steps(), WallClock().now()
    with steps.step("read the log"):
        told("reading the log", 0, 1)
        events, catalogue = read_events(settings, workspace)
    run, hours = foundation_run(settings, options, events)
    config = asdict(run) | {"name": "default", "seed": options.seed, "hours": hours}
    manifest = _set_manifest(workspace, events, catalogue)
    key = training_id(config, manifest)
    published = None if options.is_forced else unchanged(settings, "foundation", key)
    if published is None:
        folder = settings.workspace.checkpoints
        saved = [Checkpoints(folder / f"foundation-{options.seed}-{n}", key) for n in range(1, len(hours) + 1)]
        with steps.step("train upstream"), ExitStack() as until_published:
            for one in saved:
                until_published.enter_context(held(one))
            chain, fitted = train_chain(settings, events, catalogue, run, hours, options.seed, told, saved)
            bundle = workspace.bundles / "foundation" / chain[-1].bundle_id
            published = publish(settings, fitted, config, manifest, bundle, Findings(started_at))
    with steps.step("export and backfill"):
        exports = export_views(workspace, workspace, events, catalogue, last_hour(workspace), told)
    return published, exports, steps


def last_hour(workspace: Workspace) -> int:
    """The last hour of the data, as the build of features has it."""
    at = workspace.manifest().anchor_at or workspace.clock().now()
    return int(-(-at.timestamp() // HOUR))


def _set_manifest(workspace: Workspace, events: UserEvents, catalogue: Catalogue) -> SetManifest:
    """What the model learns from, in the words of a training set."""
    digest, rows = events.digest(catalogue), {"train": events.num_events}
    version = workspace.manifest().data_version
    return SetManifest("foundation", digest, digest, "", version, events.num_events, rows, [], {}, {})
