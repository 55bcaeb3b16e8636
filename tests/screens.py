"""Commands in a pseudo-terminal, with their rendered output and key presses."""

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
# Each frame starts by erasing the previous one, or by moving to the top left of the screen.
NEXT_FRAME = re.compile(r"(?:\x1b\[1A\x1b\[2K)+|\x1b\[H")

# Makes the pty the controlling terminal, so that Ctrl-C reaches the command.
LOGIN = "import os, sys; os.login_tty(0); os.execv(sys.argv[1], sys.argv[1:])"


class Screen:
    """A command in a terminal of ``size`` lines and columns."""

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        *words: str,
        size: tuple[int, int] = (40, 120),
        typed: str = "",
    ) -> None:
        """``typed`` is readable from the start: a terminal's answers to escape codes that query it
        must be, because the command waits for them only briefly."""
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
        """Wait for a frame that matches all patterns."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline and (self._read() or self._popen.poll() is None):
            for frame in NEXT_FRAME.split(self.shown)[-3:]:
                text = ESCAPES.sub("", frame)
                if all(re.search(pattern, text) for pattern in patterns):
                    return text
        raise AssertionError(f"not shown: {patterns}: {self.shown[-3000:]!r}")

    def wait(self) -> int:
        """Wait for the exit code."""
        deadline = time.monotonic() + DEADLINE
        while self._popen.poll() is None:
            assert time.monotonic() < deadline, f"did not exit in time: {self.shown[-3000:]!r}"
            self._read()
        while self._read():
            pass
        return self._popen.returncode

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def resize(self, lines: int, columns: int) -> None:
        """Resize the terminal and send SIGWINCH."""
        self._resize((lines, columns))
        self._popen.send_signal(signal.SIGWINCH)

    def _resize(self, size: tuple[int, int]) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))

    def _read(self) -> bool:
        """Read more output; return whether any came within 0.1 s."""
        if not select.select([self._master], [], [], 0.1)[0]:
            return False
        try:
            text = os.read(self._master, 65536).decode(errors="replace")
        except OSError:  # the other end is closed
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
