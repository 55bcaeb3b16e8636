"""Artifact stores in folders and S3 buckets, and failures of an S3 server."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
from werkzeug.wrappers import Response

from tuner.errors import StorageError, TunerError
from tuner.files import buckets
from tuner.files import s3 as s3_store
from tuner.files.stores import ArtifactStore, open_store
from tuner.files.study_files import TOKEN, open_files
from tuner.spec.loading import parse_spec
from tuner.study.creation import create_study
from tuner.study.database import Database
from tuner.study.store import StudyStore

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

SECRET = "not-to-be-seen"


class Server:
    """Serves a WSGI application over HTTP; a restart keeps its port."""

    def __init__(self, application: "WSGIApplication") -> None:
        self._application, self._port = application, 0
        self.start()
        self.url = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        # One request at a time: moto fails if a file is replaced while it is read.
        self._server = make_server("127.0.0.1", self._port, self._application)
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def request(self, method: str, path: str, data: bytes | None = None) -> bytes:
        """An administrator's request, which needs no credentials."""
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=10) as response:
            content: bytes = response.read()
        return content


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """moto's S3 server, which keeps its buckets when stopped."""
    server = Server(DomainDispatcherApplication(create_backend_app))
    yield server
    server.stop()


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Test credentials in the environment; the developer's own are hidden."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("FSSPEC_CONFIG_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


@pytest.fixture
def s3(server: Server, aws: None, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server with an empty bucket, at AWS_ENDPOINT_URL."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    server.request("POST", "/moto-api/reset")
    server.request("PUT", "/bucket")
    return server


@pytest.fixture(params=["folder", "bucket", "folder of a bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "folder":
        return open_store(str(tmp_path / "store"))
    request.getfixturevalue("s3")
    return open_store("s3://bucket" if request.param == "bucket" else "s3://bucket/some/where/")


def test_written_files_are_readable_until_replaced_or_removed(store: ArtifactStore) -> None:
    other = open_store(store.url)  # as another worker opens it
    assert store.read("study/a") is None
    for content in (b"", bytes(range(256)) * 40_000, b"short"):
        store.write("study/a", content)
        assert store.read("study/a") == content
        assert other.read("study/a") == content
    store.remove("study/a")
    assert other.read("study/a") is None
    store.remove("study/a")


def test_names_list_a_folder_without_caching(store: ArtifactStore) -> None:
    other = open_store(store.url)
    assert other.names("study") == []
    for name in ("study/b", "study/a/c", "study/a/B", "study2/x", "stud", "study-1"):
        store.write(name, b"")
        assert (name in other.names(name.split("/")[0])) == ("/" in name)
    assert other.names("study") == ["study/a/B", "study/a/c", "study/b"]
    assert other.names("study/a") == ["study/a/B", "study/a/c"]
    assert other.names("study/b") == []  # a file
    assert other.read("study/a") is None  # a folder
    store.remove("study/b")
    store.remove("study/a")
    assert other.names("study") == ["study/a/B", "study/a/c"]


def test_remove_all_removes_a_folder_with_its_contents(store: ArtifactStore) -> None:
    for name in ("study/a", "study/b/c", "study/d/e/f", "study2/x"):
        store.write(name, b"")
    store.remove_all("study/a")  # a file
    assert len(store.names("study")) == 3
    store.remove_all("study")
    assert store.names("study") == []
    assert store.names("study2") == ["study2/x"]
    store.remove_all("study")


def test_threads_sharing_a_store_read_whole_files(store: ArtifactStore) -> None:
    contents = [bytes([letter]) * 100_000 for letter in b"abcd"]
    store.write("study/a", contents[0])

    def work(content: bytes) -> None:
        for _ in range(5):
            store.write("study/a", content)
            assert store.read("study/a") in contents
            assert store.names("study") == ["study/a"]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, contents))


def test_locate_returns_an_s3_url(s3: Server) -> None:
    store = open_store("s3://bucket/some/where/")
    assert store.url == "s3://bucket/some/where"
    assert store.locate("study/a.png") == "s3://bucket/some/where/study/a.png"


def test_a_file_larger_than_allowed_is_not_read(s3: Server) -> None:
    store = open_store("s3://bucket/x")
    store.write("study/a", bytes(1001))
    assert store.read("study/a", 1001) == bytes(1001)
    with pytest.raises(TunerError, match=r"^s3://bucket/x/study/a: can't be read: larger than"):
        store.read("study/a", 1000)


def test_a_copied_database_leaves_its_originals_files_in_the_bucket(
    s3: Server, tmp_path: Path
) -> None:
    spec = parse_spec({"study": {"name": "s"}}, "s.toml")
    original = Database(f"sqlite:///{tmp_path}/studies.db", create=True)
    files = open_files(create_study(original, spec), "s3://bucket/x")
    files.write("generator", b"original")
    shutil.copy(tmp_path / "studies.db", tmp_path / "copy.db")
    copied = StudyStore(Database(f"sqlite:///{tmp_path}/copy.db"), "s")
    copy = open_files(copied)
    assert copy.keep_reason is not None
    assert copy.read("generator") == b"original"
    copy.write("generator", b"its own")
    assert open_files(copied).read("generator") == b"its own"
    copy.remove_all()
    assert files.read("generator") == b"original"
    files.remove(TOKEN)
    with pytest.raises(StorageError, match="/token: missing") as caught:
        files.write("picture", b"x")
    assert caught.value.transient
    assert files.read("generator") == b"original"


def test_listing_follows_every_page(s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "2")
    store = open_store("s3://bucket/x")
    names = [f"study/{number}" for number in range(7)]
    for name in names:
        store.write(name, b"")
    assert store.names("study") == names
    store.remove_all("study")
    assert store.names("study") == []


def test_foreign_files_are_unlisted_but_removed_with_the_folder(s3: Server) -> None:
    store = open_store("s3://bucket/x")
    store.write("study/a", b"")
    for name in ("study/", "study/two%20words"):  # the first is how consoles create a folder
        s3.request("PUT", f"/bucket/x/{name}")
    assert store.names("study") == ["study/a"]
    store.remove_all("study")
    store.write("study/a", b"")
    assert s3.request("GET", "/bucket").count(b"<Contents>") == 1


def test_an_outage_is_transient(s3: Server) -> None:
    store = open_store("s3://bucket/x")
    store.write("study/a", b"before")
    s3.stop()
    try:
        began = time.monotonic()
        for request in requests_of(store):
            with pytest.raises(StorageError, match=r"^s3://bucket/x/study.*: can't be ") as caught:
                request()
            assert caught.value.transient
            assert "\n" not in str(caught.value)
        assert time.monotonic() - began < 20
    finally:
        s3.start()
    assert store.read("study/a") == b"before"
    store.write("study/a", b"after")
    assert store.read("study/a") == b"after"


def requests_of(store: ArtifactStore) -> list[Callable[[], object]]:
    """One request of each kind."""
    return [
        lambda: store.write("study/a", b"x"),
        lambda: store.read("study/a"),
        lambda: store.names("study"),
        lambda: store.remove("study/a"),
    ]


def assert_permanent_error(store: ArtifactStore, message: str) -> None:
    for request in requests_of(store):
        with pytest.raises(TunerError, match=rf"^{store.url}/study\S*: can't be .*{message}") as e:
            request()
        assert not isinstance(e.value, StorageError)
        assert SECRET not in str(e.value)


def test_a_missing_bucket_is_not_retried(s3: Server) -> None:
    assert_permanent_error(open_store("s3://nowhere/x"), "no such bucket$")


def test_refused_credentials_are_not_retried(s3: Server) -> None:
    s3.request("POST", "/moto-api/reset-auth", b"0")
    try:
        assert_permanent_error(
            open_store("s3://bucket/x"), "Access Key Id you provided does not exist"
        )
    finally:
        s3.request("POST", "/moto-api/reset-auth", b"inf")


def test_missing_credentials_are_not_retried(s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert_permanent_error(open_store("s3://bucket/x"), "Unable to locate credentials$")


def test_a_missing_credential_process_is_not_a_missing_file(
    s3: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    settings = "[default]\ncredential_process = /no/such/program\n"
    Path(os.environ["AWS_CONFIG_FILE"]).write_text(settings)
    assert_permanent_error(
        open_store("s3://bucket/x"), "No such file or directory: /no/such/program$"
    )


def test_a_missing_certificate_bundle_is_not_retried(
    aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://127.0.0.1:1")
    monkeypatch.setenv("AWS_CA_BUNDLE", "/no/such/file")
    with pytest.raises(TunerError, match=r"a: can't be read: .* No such file or directory$") as e:
        open_store("s3://bucket/x").read("study/a")
    assert not isinstance(e.value, StorageError)


def test_a_password_in_the_endpoint_is_not_shown(
    aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"me:{SECRET}/@host")  # without http://
    assert_permanent_error(open_store("s3://bucket/x"), "Invalid endpoint: …@host$")


@pytest.mark.parametrize(
    ("status", "code", "transient"),
    [
        (400, "RequestTimeout", True),
        (429, "TooManyRequests", True),
        (500, "InternalError", True),
        (503, "SlowDown", True),
        (400, "ExpiredToken", False),
        (403, "AccessDenied", False),
        (403, "SignatureDoesNotMatch", False),
        (501, "NotImplemented", False),
    ],
)
def test_only_temporary_server_errors_are_retried(
    aws: None, monkeypatch: pytest.MonkeyPatch, status: int, code: str, transient: bool
) -> None:
    body = f"<Error><Code>{code}</Code><Message>Said so.</Message></Error>"
    server = Server(Response(body, status))
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setattr(s3_store, "ATTEMPTS", 1)
    try:
        for request in requests_of(open_store("s3://bucket/x")):
            with pytest.raises(TunerError, match=r"Said so|no answer in time") as caught:
                request()
            assert getattr(caught.value, "transient", False) == transient
    finally:
        server.stop()


@pytest.fixture
def connections(aws: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A listening socket at AWS_ENDPOINT_URL; the test accepts connections itself."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        yield listening


@pytest.mark.parametrize(
    ("limit", "message"), [("SILENCE_S", "Read timeout"), ("CALL_S", "no answer in time")]
)
def test_a_silent_server_times_out(
    connections: socket.socket, monkeypatch: pytest.MonkeyPatch, limit: str, message: str
) -> None:
    """Reads time out on silence; a write awaits "100 Continue", so only CALL_S ends it."""
    monkeypatch.setattr(s3_store, "ATTEMPTS", 1)
    monkeypatch.setattr(buckets, limit, 0.4)
    monkeypatch.setattr(buckets, "READ_S", buckets.CALL_S)
    store = open_store("s3://bucket/x")
    for request in requests_of(store)[limit == "SILENCE_S" :]:
        began = time.monotonic()
        with pytest.raises(StorageError, match=message) as caught:
            request()
        assert caught.value.transient
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (b"", b"whole"),  # closed without a response, like an idle connection; retried
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", None),
    ],
)
def test_a_broken_connection_never_returns_half_a_file(
    connections: socket.socket, first: bytes, expected: bytes | None
) -> None:
    def serve() -> None:
        for response in (first, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole"):
            connection, _ = connections.accept()
            with connection:
                connection.recv(100_000)
                connection.sendall(response)

    threading.Thread(target=serve, daemon=True).start()
    store = open_store("s3://bucket/x")
    if expected is None:
        with pytest.raises(StorageError) as caught:
            store.read("a")
        assert caught.value.transient
    assert store.read("a") == b"whole"


def run_script(script: str) -> str:
    """Output of a process with warnings as errors and an empty standard error."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


USE = """
import threading
from tuner.files.stores import open_store
store = open_store("s3://bucket/x")
writer = threading.Thread(target=store.write, args=("study/a", b"content"))
writer.start()
writer.join()
print(store.read("study/a"), store.names("study"))
"""


def test_a_process_exits_without_warnings(s3: Server) -> None:
    assert run_script(USE) == "b'content' ['study/a']\n"


FORK = """
import os, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on warns of forks with threads
if os.fork() == 0:
    store.write("study/b", b"the child's")
    os._exit(0)
print(os.wait()[1], store.read("study/b"))
"""


def test_a_forked_process_has_a_connection_of_its_own(s3: Server) -> None:
    assert run_script(USE + FORK).endswith('\n0 b"the child\'s"\n')


def test_importing_stores_imports_no_bucket_packages() -> None:
    script = "import sys, tuner.files.stores; print(*{'jax', 's3fs', 'gcsfs'} & set(sys.modules))"
    assert run_script(script) == "\n"
