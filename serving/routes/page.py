"""The page at / and what only it needs."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

from serving.bootstrap import Runtime
from serving.schemas import SampleUserReply
from serving.snapshot import UNKNOWN


def page_router(runtime: Runtime, folder: Path) -> APIRouter:
    """Routes of the browser page."""
    router = APIRouter(tags=["page"])

    @router.get("/", include_in_schema=False)
    def read_page() -> FileResponse:
        """The page that shows a feed."""
        return FileResponse(folder / "index.html", media_type="text/html; charset=utf-8")

    @router.get("/users/sample", response_model=list[SampleUserReply])
    def sample_users() -> list[SampleUserReply]:
        """Active users of different languages, worth looking at."""
        snapshot = runtime.snapshot
        names = snapshot.topic_names
        return [
            SampleUserReply(
                user_id=user.external_id,
                country=user.country,
                language=user.language,
                num_engagements=user.num_engagements,
                topics=[names.get(topic, f"topic {topic}") for topic in user.topic_ids],
            )
            for user in snapshot.sample_users
            if snapshot.users.row_of(user.user_id) != UNKNOWN  # deleted since
        ]

    return router
