"""POST /events: what users saw and did comes back."""

from fastapi import APIRouter

from serving.intake import Intake
from serving.schemas import EventBatch, EventReply


def events_router(intake: Intake) -> APIRouter:
    """The route that takes events."""
    router = APIRouter(tags=["events"])

    @router.post("/events", status_code=202, response_model=EventReply)
    def post_events(batch: EventBatch) -> EventReply:
        """Takes a batch. Accepted events are on disk when this answers; the same event id counts once."""
        report = intake.post(batch.events)
        return EventReply(accepted=report.accepted, duplicates=report.duplicates, refused=list(report.refused))

    return router
