"""The route of the start page."""

from datetime import timedelta

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from app.backbones import pages
from app.dashboard import overview
from app.deps import PartsDep

router = APIRouter()


@router.get("/", include_in_schema=False)
def read_start(request: Request, parts: PartsDep) -> Response:
    """For browsers what there is and what is going on; for others the description of all routes."""
    if pages.preferred(request.headers.get("accept", ""), (pages.JSON, pages.HTML)) != pages.HTML:
        return RedirectResponse("/docs")
    with parts.database.read() as session:
        heard = timedelta(seconds=3 * parts.settings.sweep_seconds)
        found = overview.read(session, heard_within=heard, now=parts.database.now(session))
    page = pages.environment("app.dashboard").get_template("start.html").render(found=found)
    return Response(page, media_type=pages.HTML, headers={"Vary": "Accept"})
