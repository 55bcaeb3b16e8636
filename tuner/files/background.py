"""``BackgroundWriter``: a thread that writes files while training continues."""

import threading
from collections import deque
from collections.abc import Callable

from tuner.errors import StorageError, TunerError
from tuner.files.study_files import StudyFiles

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between attempts, doubled after each


class BackgroundWriter:
    """Writes files one after another on a daemon thread; retries while the store is unavailable.

    At most ``capacity`` files wait; a new one displaces the oldest and, if ``capacity`` is 1, also
    a file that is being retried. Retries are announced once until a write succeeds again. Any other
    failure, such as a full disk, is raised by the next call; if the files are ``optional``, it is
    announced instead and the file is left out.
    """

    def __init__(
        self,
        files: StudyFiles,
        what: str,
        announce: Callable[[str], None],
        written: Callable[[str], None],
        *,
        capacity: int,
        optional: bool,
    ) -> None:
        """``what`` names the files in announcements: "the pictures".

        ``written`` is called on the thread, with the name of each file once it is written.
        """
        self._files, self._what, self._announce = files, what, announce
        self._optional, self._written = optional, written
        self._queue: deque[tuple[str, Callable[[], bytes]]] = deque(maxlen=capacity)
        self._current: str | None = None
        self._failure: TunerError | None = None
        self._closed = self._announced = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=what, daemon=True)
        self._thread.start()

    def submit(self, name: str, make: Callable[[], bytes]) -> None:
        """Write the file ``name`` soon; ``make`` returns its content and runs on the thread."""
        self._raise_failure()
        with self._changed:
            if not self._closed:
                self._queue.append((name, make))
                self._changed.notify_all()

    def __contains__(self, name: str) -> bool:
        """Whether the file waits or is being written."""
        with self._changed:
            return name == self._current or any(name == waiting for waiting, _ in self._queue)

    def flush(self, seconds: float) -> bool:
        """Wait until nothing is left to write; False if that takes longer than ``seconds``."""
        with self._changed:
            done = self._changed.wait_for(lambda: not (self._current or self._queue), seconds)
        self._raise_failure()
        return done

    def close(self, seconds: float = 0.0) -> bool:
        """Drop waiting files and retries; return whether the thread ends within ``seconds``."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._changed.notify_all()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if self._closed:
                    return
                self._current, make = self._queue.popleft()
            try:
                self._write(self._current, make())
            except TunerError as error:
                self._fail(error)
            except Exception as error:  # a bug must not pass for success
                self._fail(TunerError(f"{self._current}: can't be written: {error!r}"))
            with self._changed:
                self._current = None
                self._changed.notify_all()

    def _write(self, name: str, data: bytes) -> None:
        """Retry until the write succeeds, a newer file replaces it or the writer is closed."""
        pause = FIRST_PAUSE
        while True:
            try:
                self._files.write(name, data)
            except StorageError as error:
                if not error.transient:
                    raise
                self._announce_once(f"{error}; training continues, {self._what} will be retried")
            else:
                self._announced = False
                self._written(name)
                return
            with self._changed:
                if self._changed.wait_for(self._is_superseded, pause):
                    return
            pause = min(2 * pause, LONGEST_PAUSE)

    def _is_superseded(self) -> bool:
        return self._closed or (self._queue.maxlen == 1 and bool(self._queue))

    def _fail(self, error: TunerError) -> None:
        if self._optional:
            self._announce_once(f"{error}; training continues without {self._what}")
        else:
            self._failure = error

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _announce_once(self, line: str) -> None:
        if not self._announced:
            self._announced = True
            self._announce(line)
