"""The Feast objects, one name each, made from the catalogue. `feast apply` reads this file and no other."""

import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, FeastType, Float32, Float64, Int64, String

from feature_repo import catalog
from feature_repo.catalog import ALL_VIEWS, EXPORTED_VIEWS, FeatureField
from feature_repo.stores.packed.layout import LENGTH_TAG

_TYPES: dict[str, FeastType] = {
    "float": Float32,
    "int": Int64,
    "str": String,
    "ints": Array(Int64),
    "floats": Array(Float32),
}

user = Entity(
    name="user", join_keys=["user_id"], value_type=ValueType.INT64, description="Someone who sees and acts on posts."
)
post = Entity(
    name="post", join_keys=["post_id"], value_type=ValueType.INT64, description="Something that can be shown in a feed."
)
creator = Entity(
    name="creator", join_keys=["creator_id"], value_type=ValueType.INT64, description="Someone who publishes posts."
)


_LONGEST_PLACE = 64
"""Lists up to this length have a fixed place in the packed row; a longer one takes only what it holds."""


def _field(field: FeatureField) -> Field:
    tags = {LENGTH_TAG: str(field.length)} if 0 < field.length <= _LONGEST_PLACE else {}
    return Field(name=field.name, dtype=_TYPES[field.dtype], description=field.meaning, tags=tags)


def _source(view: str) -> FileSource:
    built = f"Written by `python -m feature_repo build` from feature_repo/sql/{view}.sql or its template."
    return FileSource(
        name=f"{view}_table",
        path=f"data/features/{view}",
        file_format=ParquetFormat(),
        timestamp_field="event_at",
        created_timestamp_column="known_at",
        description="Written by `python -m training foundation`." if view in EXPORTED_VIEWS else built,
    )


def _view(name: str, entity: Entity) -> FeatureView:
    view = ALL_VIEWS[name]
    key = Field(name=view.join_key, dtype=Int64)
    return FeatureView(
        name=name,
        entities=[entity],
        ttl=view.ttl,
        schema=[key, *(_field(f) for f in view.fields)],
        source=_source(name),
        description=view.description,
        owner=view.owner,
        tags=view.tags,
    )


user_profile = _view("user_profile", user)
user_activity = _view("user_activity", user)
user_history = _view("user_history", user)
user_affinity = _view("user_affinity", user)
post_profile = _view("post_profile", post)
post_activity = _view("post_activity", post)
creator_profile = _view("creator_profile", creator)
creator_activity = _view("creator_activity", creator)
user_foundation = _view("user_foundation", user)
post_foundation = _view("post_foundation", post)


# Feast stores the text of this function, so it brings its own imports. Feast appends short names
# beside full ones, which collide between views: only full names are read.
@on_demand_feature_view(
    name=catalog.CROSS_VIEW,
    sources=[
        user_profile[list(catalog.CROSS_SOURCES["user_profile"])],
        user_history[list(catalog.CROSS_SOURCES["user_history"])],
        user_affinity[list(catalog.CROSS_SOURCES["user_affinity"])],
        post_profile[list(catalog.CROSS_SOURCES["post_profile"])],
    ],
    input_schema=[Field(name=catalog.REQUEST_TIME, dtype=Float64, description="instant of ranking, unix seconds")],
    # No descriptions: Feast compares these fields, text included, with those it infers from a trial run.
    schema=[Field(name=f.name, dtype=_TYPES[f.dtype]) for f in catalog.CROSS_FIELDS],
    mode="pandas",
    description=catalog.CROSS_TAGS["description"],
    owner=catalog.CROSS_TAGS["owner"],
    tags=catalog.CROSS_TAGS,
)
def user_post_cross(inputs: pd.DataFrame) -> pd.DataFrame:
    from feature_repo.historical import cross_frame

    return cross_frame(inputs)


_EXCLUDED = {"followed_creator_ids"}
"""Read by the cross features only; as a model input the list would be one long row per user."""


def _features(view: FeatureView) -> FeatureView:
    return view[[f.name for f in view.features if f.name not in _EXCLUDED]]


_OF_ONE_SIDE = [
    _features(user_profile),
    user_activity,
    user_history,
    user_affinity,
    post_profile,
    post_activity,
    creator_profile,
    creator_activity,
]
"""What is known of a user alone or of a post alone."""

retrieval_v1 = FeatureService(
    name="retrieval_v1",
    features=_OF_ONE_SIDE,
    description="Inputs of the two towers: what is known of the user alone and of the post alone.",
    tags={"stage": "retrieval"},
)

first_stage_v1 = FeatureService(
    name="first_stage_v1",
    features=_OF_ONE_SIDE,
    description="Inputs of the first stage, whose towers are cached: the same columns as retrieval.",
    tags={"stage": "first_stage"},
)

second_stage_v1 = FeatureService(
    name="second_stage_v1",
    features=[*_OF_ONE_SIDE, user_post_cross],
    description="Inputs of the second stage: everything, the cross features of user and post included.",
    tags={"stage": "second_stage"},
)

second_stage_v2 = FeatureService(
    name="second_stage_v2",
    features=[*_OF_ONE_SIDE, user_foundation, post_foundation, user_post_cross],
    description="Inputs of the second stage with the foundation model's vectors of user and post.",
    tags={"stage": "second_stage"},
)
