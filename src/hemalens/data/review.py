"""An audit to a person's decisions on it: a page on this machine, to go through all findings with the keyboard.

Decisions go to ``decisions.jsonl`` at once and to ``issues.csv`` a second later, and ``clean`` obeys them. The page is
served to this machine alone. No torch.
"""

import secrets
import socket
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from hemalens.core.artifacts import read_provenance
from hemalens.core.errors import ConfigError
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
    import uvicorn

    from hemalens.data.review_app import review_app

    given = classes or open_record(audit, "audit").options.get("classes")
    opened, _ = open_audited(source, audit, classes=given)
    token = secrets.token_urlsafe(24)
    with closing(ReviewSession(opened, audit, classes=given)) as session, closing(_listen(port)) as listener:

        def stop() -> None:
            server.should_exit = True

        config = uvicorn.Config(
            review_app(session, token, stop=stop),
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="on",
            timeout_graceful_shutdown=3,
        )
        server = uvicorn.Server(config)
        announce(f"http://{_HOST}:{listener.getsockname()[1]}/{token}/")
        # An interrupt is the usual end; uvicorn has shut the application down before it passes it on.
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
    return session.outcome()


def _listen(port: int) -> socket.socket:
    """Return a socket that listens on this machine alone."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((_HOST, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ConfigError(f"port {port}", f"cannot be used ({error.strerror})", "choose another --port") from error
    return listener
