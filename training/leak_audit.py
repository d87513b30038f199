"""The audit behind `make leaks`: three questions to every training set.

known time       is every stored value the one that was known at its use?
single feature   does one feature alone predict a label better than honest ones do?
counterfactual   do the values stay the same when nothing had happened after the cut?

Each looks from another side: the first trusts the known times of the feature tables, the second trusts nothing but
the set, the third trusts only the log and rebuilds the rest.
"""

from collections.abc import Sequence

import duckdb
import numpy as np

from core.errors import InputError, MissingStageError
from core.settings import Settings
from core.workspace import Workspace
from events.read import connect, register_log
from feature_repo.catalog import ALL_VIEWS, CROSS_VIEW, FIELDS
from training.examples import CANDIDATE_RANK, CANDIDATE_SCORE, Examples
from training.leak_checks import AuditConfig, CheckResult, SetAudit, Told, creators_of, entity_ids, sampled
from training.leak_counterfactual import rebuilt_and_compared
from training.set_files import ExampleSet, load_set
from validation.giveaway import LabelledRows, judged_heads, strengths
from validation.leakage import Leak, Probe, late_values


def built_sets(workspace: Workspace) -> list[str]:
    """Names of the training sets that there are, by folder. Raises MissingStageError where there is none."""
    names = sorted(path.parent.name for path in workspace.training_sets.glob("*/manifest.json"))
    if not names:
        raise MissingStageError("training sets", workspace.training_sets, "python -m training sets")
    return names


def audit_sets(settings: Settings, names: Sequence[str], config: AuditConfig, told: Told) -> list[SetAudit]:
    """One audit per set. Raises MissingStageError before it was built, InputError when it is not of this log."""
    workspace = settings.workspace
    found = {name: _present(workspace, name) for name in names}
    checks: dict[str, list[CheckResult]] = {name: [] for name in names}
    examples = {name: one.examples() for name, one in found.items()}
    connection = connect(settings)
    try:
        register_log(connection, workspace.log)
        for name, rows in examples.items():
            told(f"{name}: known times", 0, len(ALL_VIEWS))
            checks[name].append(_known_times(connection, workspace, rows, config, told))
            checks[name].append(_alone(connection, name, rows, config, told))
        for name, result in rebuilt_and_compared(connection, settings, found, examples, config, told).items():
            checks[name].append(result)
    finally:
        connection.close()
    return [SetAudit(n, one.manifest.set_id, one.manifest.rows, tuple(checks[n])) for n, one in found.items()]


def _present(workspace: Workspace, name: str) -> ExampleSet:
    found = load_set(workspace.training_sets, name)
    version = workspace.manifest().data_version
    if found.manifest.data_version != version:
        raise InputError(
            f"training set {name} was made from data {found.manifest.data_version}, the log is {version}; "
            "run `python -m training sets`, then audit it"
        )
    return found


def _known_times(
    connection: duckdb.DuckDBPyConnection, workspace: Workspace, all_rows: Examples, config: AuditConfig, told: Told
) -> CheckResult:
    rows = sampled(all_rows, config.known_rows, config.seed)
    stored = {name: values for name, values in rows.columns.items() if name in FIELDS and CROSS_VIEW not in name}
    probe = Probe(entity_ids(connection, rows), np.asarray(rows.served_at), stored)
    leaks: list[Leak] = []
    num_values = 0
    for done, view in enumerate(ALL_VIEWS.values(), start=1):
        late, num_compared = late_values(connection, workspace, view, probe, len(view.fields))
        leaks, num_values = leaks + late, num_values + num_compared
        told("known times", done, len(ALL_VIEWS))
    return CheckResult("known time", rows.num_rows, num_values, tuple(leaks))


def _alone(
    connection: duckdb.DuckDBPyConnection, name: str, all_rows: Examples, config: AuditConfig, told: Told
) -> CheckResult:
    rows = sampled(all_rows, config.alone_rows, config.seed)
    if not judged_heads(rows.labels):
        return CheckResult("single feature", rows.num_rows, 0, (), "no label with enough positives")
    # The second stage's score of a candidate is what the first stage learns, not what it learns from.
    features = {n: v for n, v in rows.columns.items() if n not in (CANDIDATE_SCORE, CANDIDATE_RANK)}
    posts = np.asarray(rows.post_ids, dtype=np.int64)
    judged = LabelledRows(features, np.asarray(rows.labels), posts, creators_of(connection, posts))
    found = strengths(judged, config.seed, lambda done, total: told(f"{name}: single features", done, total))
    suspicious = [one for one in found if one.is_suspicious]
    # Strongest first, so of the heads that a feature gives away the clearest one is told.
    clearest = {one.feature: one for one in reversed(suspicious)}
    leaks = tuple(one.leak() for one in clearest.values() if one.feature not in config.trusted)
    trusted = sorted(clearest.keys() & set(config.trusted))
    note = f"best {found[0].auc:.3f}, {found[0].feature} for {found[0].head}"
    if trusted:
        note += f"; trusted: {', '.join(trusted)}"
    return CheckResult("single feature", rows.num_rows, len(found), leaks, note)
