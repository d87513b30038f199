"""Users, creators and posts as the snapshot has them: the base that journal writes lie over."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from serving.snapshot import UNKNOWN, Entities, Snapshot, find_rows

Document = dict[str, Any]
"""One entity, columns by their names in the log; `creator_external_id` beside a post's `creator_id`."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class BaseEntities:
    """Reads entities of one snapshot by id. A snapshot without their extra columns leaves those empty."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def ids(self, entity: str) -> np.ndarray:
        """Ids of one kind, ascending."""
        if entity == "user":
            return self._snapshot.users.user_ids
        return self._snapshot.catalogue.post_ids if entity == "post" else self._creator_ids()

    def read(self, entity: str, entity_id: int) -> Document | None:
        """The entity, None where the snapshot has none."""
        ids = self.ids(entity)
        row = int(find_rows(ids, np.array([entity_id], dtype=np.int64))[0])
        if row == UNKNOWN:
            return None
        return {"user": self._user, "creator": self._creator, "post": self._post}[entity](row)

    def _creator_ids(self) -> np.ndarray:
        entities = self._snapshot.entities
        return entities.creator_ids if entities is not None else self._snapshot.catalogue.by_creator[0]

    def _user(self, row: int) -> Document:
        users, entities = self._snapshot.users, self._snapshot.entities
        name = str(int(users.user_ids[row]))
        codes: list[int] = []
        if entities is not None:
            name = entities.external_user_ids.text(row) if entities.external_user_ids else name
            codes = entities.user_profile_codes.list_of(row).tolist()
        words = self._words(int(users.language_codes[row]), int(users.country_codes[row]))
        return {"external_id": name, **words, "profile_codes": codes}

    def _creator(self, row: int) -> Document:
        entities: Entities | None = self._snapshot.entities
        if entities is None:
            creator_id = int(self._creator_ids()[row])
            post_row = int(self._snapshot.catalogue.creator_rows(creator_id)[0])
            return {"external_id": self._snapshot.external_creator_id(post_row), "language": None, "country": None}
        name = str(int(entities.creator_ids[row]))
        name = entities.external_creator_ids.text(row) if entities.external_creator_ids else name
        words = self._words(int(entities.creator_language_codes[row]), int(entities.creator_country_codes[row]))
        return {"external_id": name, **words}

    def _post(self, row: int) -> Document:
        posts, entities = self._snapshot.catalogue, self._snapshot.entities
        duration, content = float(posts.duration_seconds[row]), posts.content[row]
        micros = round(float(posts.created_at[row]) * 1e6)
        return {
            "external_id": self._snapshot.external_post_id(row),
            "creator_id": int(posts.creator_ids[row]),
            "creator_external_id": self._snapshot.external_creator_id(row),
            "created_at": (_EPOCH + timedelta(microseconds=micros)).isoformat(),
            "media_type": posts.media_types[int(posts.media_codes[row])],
            **self._words(int(posts.language_codes[row]), int(posts.country_codes[row])),
            "topic_id": int(posts.topic_ids[row]),
            "duration_seconds": duration if duration == duration else None,
            "integrity_score": float(posts.integrity[row]),
            "is_recommendable": bool(posts.is_recommendable[row]),
            "content_codes": entities.post_content_codes.list_of(row).tolist() if entities else [],
            "content_embedding": content.tolist() if content.any() else None,
        }

    def _words(self, language: int, country: int) -> Document:
        posts = self._snapshot.catalogue
        return {
            "language": posts.languages[language] if language != UNKNOWN else None,
            "country": posts.countries[country] if country != UNKNOWN else None,
        }
