"""Commands in a terminal of their own, as a person sees and answers them."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from processes import DEADLINE, command

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# Each picture begins by going up over the one before, or to the corner of a screen of its own.
NEXT_PICTURE = re.compile(r"(?:\x1b\[1A\x1b\[2K)+|\x1b\[H")

# Makes the terminal the command's own, so that Ctrl-C reaches it.
LOGIN = "import os, sys; os.login_tty(0); os.execv(sys.argv[1], sys.argv[1:])"


class Screen:
    """A command that runs in a terminal of so many lines and columns."""

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        *words: str,
        size: tuple[int, int] = (40, 120),
        typed: str = "",
    ) -> None:
        """``typed`` is there to be read from the start: a terminal's answers, say, to what it will
        be asked by escape codes, for which nobody waits long."""
        self._master, terminal = pty.openpty()
        self.press(typed)
        self._resize(size)
        found = {k: v for k, v in environment.items() if k != "COLUMNS"}
        self._popen = subprocess.Popen(
            [sys.executable, "-c", LOGIN, *command(*words)],
            cwd=folder,
            env=found | {"TERM": "xterm-256color"},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        )
        os.close(terminal)
        self.pid, self.shown = self._popen.pid, ""

    def frame(self, *patterns: str) -> str:
        """Wait for a picture that shows all of it at once."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline and (self._read() or self._popen.poll() is None):
            for picture in NEXT_PICTURE.split(self.shown)[-3:]:
                text = ESCAPES.sub("", picture)
                if all(re.search(pattern, text) for pattern in patterns):
                    return text
        raise AssertionError(f"not shown: {patterns}: {self.shown[-3000:]!r}")

    def ends(self) -> int:
        """Wait for its end; the exit code."""
        deadline = time.monotonic() + DEADLINE
        while self._popen.poll() is None:
            assert time.monotonic() < deadline, f"did not end in time: {self.shown[-3000:]!r}"
            self._read()
        while self._read():
            pass
        return self._popen.returncode

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def resize(self, lines: int, columns: int) -> None:
        """As when a person makes the window larger or smaller."""
        self._resize((lines, columns))
        self._popen.send_signal(signal.SIGWINCH)

    def _resize(self, size: tuple[int, int]) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))

    def _read(self) -> bool:
        """Whether there was more within a moment."""
        if not select.select([self._master], [], [], 0.1)[0]:
            return False
        try:
            text = os.read(self._master, 65536).decode(errors="replace")
        except OSError:  # nobody has the terminal open any more
            return False
        self.shown += text
        return bool(text)

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait()
        os.close(self._master)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
