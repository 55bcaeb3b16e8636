"""``S3Store``: artifacts in S3 or a compatible service."""

import importlib
from typing import Any

from tuner.files import buckets

ATTEMPTS = 2  # the second one at once, because an idle connection may have been closed


class S3Store(buckets.BucketStore):
    scheme, package = "s3", "s3fs"
    permanent = (
        *("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"),
        *("ParamValidationError", "InvalidRegionError", "ConfigParseError"),
        *("UnauthorizedSSOTokenError", "SSOTokenLoadError"),
    )

    def _open(self) -> Any:
        config = {
            "connect_timeout": buckets.CONNECT_S,
            "read_timeout": buckets.SILENCE_S,
            "retries": {"total_max_attempts": ATTEMPTS, "mode": "standard"},
        }
        system = importlib.import_module("s3fs").S3FileSystem(
            config_kwargs=config,
            max_concurrency=1,  # a file read in parts could mix two versions
            **buckets.FRESH,
        )
        system.retries = 1  # s3fs retries on top of botocore's attempts
        return system

    def _status(self, error: BaseException) -> int | None:
        response = getattr(error, "response", None)
        if isinstance(response, dict) and "ResponseMetadata" in response:
            return int(response["ResponseMetadata"]["HTTPStatusCode"])
        return None
