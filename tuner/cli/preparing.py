"""Commands that prepare what studies need."""

from pathlib import Path
from typing import Annotated

import typer

from tuner.cli.main import app, out
from tuner.spec import INCEPTION_SHA256


@app.command()
def convert_inception(
    source: Annotated[Path, typer.Argument(metavar="IN", show_default=False)],
    target: Annotated[Path, typer.Argument(metavar="OUT.safetensors", show_default=False)],
    sha256: Annotated[
        str | None,
        typer.Option(
            metavar="HASH",
            show_default=False,
            help="The SHA-256 that IN must have. By default the published file's.",
        ),
    ] = None,
) -> None:
    """Make of the FID's Inception weights, as PyTorch has them, a file that needs no PyTorch.

    Example: tuner convert-inception pt_inception-2015-12-05-6726825d.pth inception.safetensors
    """
    from tuner.run.weights import convert_inception as convert

    written = convert(source, target, sha256.lower() if sha256 else INCEPTION_SHA256)
    out.print(f"{target}: SHA-256 {written}", soft_wrap=True)
