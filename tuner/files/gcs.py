"""``GcsStore``: artifacts in Google Cloud Storage."""

import importlib
from typing import Any

from tuner.files import buckets


class GcsStore(buckets.BucketStore):
    scheme, package = "gs", "gcsfs"
    permanent = ("DefaultCredentialsError",)

    def _open(self) -> Any:
        timeout = importlib.import_module("aiohttp").ClientTimeout
        limits = timeout(sock_connect=buckets.CONNECT_S, sock_read=buckets.SILENCE_S)
        # Not gcsfs.GCSFileSystem, which looks up the bucket's type before each call.
        system = importlib.import_module("gcsfs.core").GCSFileSystem
        return system(requests_timeout=limits, **buckets.FRESH)

    def _status(self, error: BaseException) -> int | None:
        if str(error).startswith("Forbidden: "):  # gcsfs gives no other sign of it
            return 403
        if type(error).__name__ == "HttpError":
            return int(getattr(error, "code", None) or 0)
        return None
