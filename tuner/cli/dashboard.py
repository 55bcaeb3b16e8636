"""``tuner dashboard``: the Optuna Dashboard with tuner's plots and pictures."""

from functools import partial
from typing import Annotated

import typer

from tuner.cli.app import Task, command, err, out
from tuner.cli.options import Artifacts, Storage, option
from tuner.environment import STORAGE
from tuner.notify.sender import open_sender
from tuner.notify.stalls import watching_stalls
from tuner.run.signals import interrupting
from tuner.study.database import Database


@command(Task.LOOK)
def dashboard(
    storage: Storage = STORAGE,
    artifacts: Artifacts = None,
    host: Annotated[str, option("ADDRESS", "Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, option("PORT", "Port to listen on. 0: any free port.", min=0, max=65535)
    ] = 8080,
    behind_proxy: Annotated[
        bool,
        typer.Option(
            "--behind-proxy",
            help="Answer to any host name. Only for use behind a proxy that requires a login.",
        ),
    ] = False,
) -> None:
    """Serve the Optuna Dashboard with sample pictures.

    Runs until Ctrl-C.

    Example: tuner dashboard --storage postgresql://tuner@db/tuner
    """
    from tuner import web
    from tuner.dashboard.server import dashboard_server

    database, say = Database(storage), partial(err.print, soft_wrap=True)
    sender = open_sender()
    server = dashboard_server(database, artifacts, host, port, say, behind_proxy=behind_proxy)
    if host not in web.LOOPBACK and not behind_proxy:
        say(
            f"warning: {host} can be reached from other machines, and the dashboard has no login: "
            "anyone who reaches it can change studies. Put a proxy with a login in front of it, "
            "and pass --behind-proxy"
        )
    address = web.address(host, server.server_port)
    try:
        with interrupting(), watching_stalls(storage, sender, say):
            about = f"Dashboard of {database.place}: {address} (press Ctrl-C to stop)"
            out.print(about, soft_wrap=True)
            server.serve_forever()
    except KeyboardInterrupt:
        out.print()
    finally:
        server.server_close()
