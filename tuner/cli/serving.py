"""Commands that serve pages: dashboard."""

import signal
import sys
from typing import Annotated, Any

import typer

from tuner.cli.main import Artifacts, Storage, app, err, out
from tuner.places import STORAGE
from tuner.study.database import Database


@app.command()
def dashboard(
    storage: Storage = STORAGE,
    artifacts: Artifacts = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Who can reach it: by default this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535)] = 8080,
) -> None:
    """Serve the Optuna Dashboard with all studies and their pictures, until Ctrl-C.

    Example: tuner dashboard --storage postgresql://tuner@db/tuner
    """
    from tuner.run import web
    from tuner.run.serving import LOOPBACK, dashboard_server

    database = Database(storage)
    server = dashboard_server(database, artifacts, host, port, _say)
    if host not in LOOPBACK:
        _say(
            f"warning: {host} can be reached from other machines, and the dashboard has no login: "
            "whoever reaches it can change and delete studies; put a proxy with one before it"
        )
    address = web.address(host, server.server_port)
    out.print(f"Dashboard of {database.place}: {address} (Ctrl-C ends it)", soft_wrap=True)

    def leave(*_: Any) -> None:
        sys.exit(0)

    signal.signal(signal.SIGTERM, leave)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        out.print()
    finally:
        server.server_close()


def _say(text: str) -> None:
    err.print(text, soft_wrap=True)
