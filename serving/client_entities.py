"""The client's calls about users, creators, posts, follows, hides and blocks."""

import json
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

from serving.client_calls import Calls
from serving.entity_schemas import (
    BlockOut,
    CreatorIn,
    CreatorOut,
    FollowOut,
    HideOut,
    ImportReply,
    PostIn,
    PostOut,
    UserIn,
    UserOut,
)


def segment(external_id: str) -> str:
    """An id as one segment of a path."""
    return quote(external_id, safe="")


class EntityCalls(Calls):
    """Writes are durable when the call returns; `key` makes a repeated one count once."""

    def put_user(self, user_id: str, user: UserIn, *, key: str | None = None) -> UserOut:
        """The user as written."""
        return UserOut.model_validate(self._put(f"/users/{segment(user_id)}", user, key))

    def read_user(self, user_id: str) -> UserOut:
        """The user. Raises InputError where there is none."""
        return UserOut.model_validate(self._call("GET", f"/users/{segment(user_id)}"))

    def delete_user(self, user_id: str, *, key: str | None = None) -> None:
        """Deletes the user."""
        self._call("DELETE", f"/users/{segment(user_id)}", key=key)

    def put_creator(self, creator_id: str, creator: CreatorIn, *, key: str | None = None) -> CreatorOut:
        """The creator as written."""
        return CreatorOut.model_validate(self._put(f"/creators/{segment(creator_id)}", creator, key))

    def read_creator(self, creator_id: str) -> CreatorOut:
        """The creator. Raises InputError where there is none."""
        return CreatorOut.model_validate(self._call("GET", f"/creators/{segment(creator_id)}"))

    def delete_creator(self, creator_id: str, *, key: str | None = None) -> None:
        """Deletes the creator and their posts."""
        self._call("DELETE", f"/creators/{segment(creator_id)}", key=key)

    def put_post(self, post_id: str, post: PostIn, *, key: str | None = None) -> PostOut:
        """The post as written."""
        return PostOut.model_validate(self._put(f"/posts/{segment(post_id)}", post, key))

    def read_post(self, post_id: str) -> PostOut:
        """The post. Raises InputError where there is none."""
        return PostOut.model_validate(self._call("GET", f"/posts/{segment(post_id)}"))

    def delete_post(self, post_id: str, *, key: str | None = None) -> None:
        """Deletes the post."""
        self._call("DELETE", f"/posts/{segment(post_id)}", key=key)

    def follows(self, user_id: str) -> list[FollowOut]:
        """Whom the user follows."""
        return [FollowOut.model_validate(found) for found in self._call("GET", _wish(user_id, "follows"))]

    def read_follow(self, user_id: str, creator_id: str) -> FollowOut:
        """One follow. Raises InputError where there is none."""
        return FollowOut.model_validate(self._call("GET", _wish(user_id, "follows", creator_id)))

    def put_follow(self, user_id: str, creator_id: str, *, key: str | None = None) -> FollowOut:
        """Lets the user follow the creator."""
        return FollowOut.model_validate(self._call("PUT", _wish(user_id, "follows", creator_id), key=key))

    def delete_follow(self, user_id: str, creator_id: str, *, key: str | None = None) -> None:
        """Ends the follow."""
        self._call("DELETE", _wish(user_id, "follows", creator_id), key=key)

    def hides(self, user_id: str) -> list[HideOut]:
        """What the user hid, asked to see less of, or reported."""
        return [HideOut.model_validate(found) for found in self._call("GET", _wish(user_id, "hides"))]

    def read_hide(self, user_id: str, post_id: str) -> HideOut:
        """One hide. Raises InputError where there is none."""
        return HideOut.model_validate(self._call("GET", _wish(user_id, "hides", post_id)))

    def put_hide(self, user_id: str, post_id: str, *, key: str | None = None) -> HideOut:
        """Hides the post from the user."""
        return HideOut.model_validate(self._call("PUT", _wish(user_id, "hides", post_id), key=key))

    def delete_hide(self, user_id: str, post_id: str, *, key: str | None = None) -> None:
        """Shows the post again."""
        self._call("DELETE", _wish(user_id, "hides", post_id), key=key)

    def blocks(self, user_id: str) -> list[BlockOut]:
        """Whom the user blocks."""
        return [BlockOut.model_validate(found) for found in self._call("GET", _wish(user_id, "blocks"))]

    def read_block(self, user_id: str, creator_id: str) -> BlockOut:
        """One block. Raises InputError where there is none."""
        return BlockOut.model_validate(self._call("GET", _wish(user_id, "blocks", creator_id)))

    def put_block(self, user_id: str, creator_id: str, *, key: str | None = None) -> BlockOut:
        """Blocks the creator for the user."""
        return BlockOut.model_validate(self._call("PUT", _wish(user_id, "blocks", creator_id), key=key))

    def delete_block(self, user_id: str, creator_id: str, *, key: str | None = None) -> None:
        """Lifts the block."""
        self._call("DELETE", _wish(user_id, "blocks", creator_id), key=key)

    def import_lines(self, lines: Iterable[dict[str, Any]]) -> ImportReply:
        """What became of the lines, sent in one request; their form is that of `export`."""
        body = "\n".join(json.dumps(line) for line in lines).encode()
        headers = {"Content-Type": "application/x-ndjson"}
        reply = self._send("POST", "/import", content=body, headers=headers)
        return ImportReply.model_validate(reply.json())

    def export(self, kind: str) -> Iterator[dict[str, Any]]:
        """Every user, creator, post, follow, hide or block, as they stream in."""
        for line in self._lines("/export", {"kind": kind}):
            if line:
                yield json.loads(line)

    def _put(self, path: str, entity: UserIn | CreatorIn | PostIn, key: str | None) -> Any:
        return self._call("PUT", path, entity.model_dump(mode="json"), key=key)


def _wish(user_id: str, kind: str, target: str | None = None) -> str:
    path = f"/users/{segment(user_id)}/{kind}"
    return path if target is None else f"{path}/{segment(target)}"
