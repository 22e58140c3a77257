"""An audit to a person's decisions on it: a page on this machine, to go through all findings with the keyboard.

Decisions go to ``decisions.jsonl`` at once and to ``issues.csv`` a second later, and ``clean`` obeys them. The page is
served to this machine alone. No torch.
"""

import secrets
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from hemalens.core.artifacts import read_provenance
from hemalens.core.records import open_record
from hemalens.data.clean import open_audited
from hemalens.data.review_session import ReviewSession

__all__ = ["finished_audit", "review"]

_HOST = "127.0.0.1"


def finished_audit(out: Path) -> dict[str, Any] | None:
    """Return the summary of a whole audit that can be reviewed as it is; None where there is none yet."""
    whole = out.is_dir() and (read_provenance(out) or {}).get("command") == "audit"
    return open_record(out, "audit").json("audit.json") if whole else None


def review(
    source: str | Path,
    audit: Path,
    *,
    classes: Sequence[str] | None = None,
    port: int = 0,
    announce: Callable[[str], None],
) -> dict[str, Any]:
    """Serve the review of an audit until the person is done or interrupts; return what ``clean`` will do.

    Args:
        source: the SOURCE that was audited.
        audit: what ``audit`` wrote.
        classes: class names in label order; those that the audit was given where None.
        port: port on 127.0.0.1; any that is free where 0.
        announce: called with the page's address once it can be opened.

    Raises:
        ArtifactError: the audit is incomplete, of another source, or being reviewed already.
        ConfigError: the port is taken.
    """
    from hemalens.core.server import HttpServer, ServerLimits, reserved
    from hemalens.data.review_app import review_app

    given = classes or open_record(audit, "audit").options.get("classes")
    opened, _ = open_audited(source, audit, classes=given)
    token = secrets.token_urlsafe(24)
    with closing(ReviewSession(opened, audit, classes=given)) as session, reserved(_HOST, port) as port:

        def stop() -> None:
            server.stop()

        app = review_app(session, token, stop=stop)
        server = HttpServer(app, _HOST, port, limits=ServerLimits(drain_seconds=3, connections=256))
        server.run(lambda: announce(f"http://{_HOST}:{port}/{token}/"), during=app.router.lifespan_context(app))
    return session.outcome()
