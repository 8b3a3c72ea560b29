"""How a bucket is reached: by its address, the environment, and times that no request to it may exceed."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from obstore.store import from_url

# For how long one request to a bucket may take: small ones that a client waits for, and those of a job, which would
# rather wait than fail. Large files come and go in pieces, and each piece has a time of its own.
QUICK, PATIENT = timedelta(seconds=2), timedelta(seconds=15)
PIECE_TIME, PATIENT_PIECE_TIME = timedelta(seconds=5), timedelta(seconds=120)
CONNECT = timedelta(seconds=1)
# What says how to reach a bucket, besides its address: taken from the environment, as obstore itself would if it were
# given no times. By the prefix of the variables of each kind of bucket.
PREFIXES = {
    "s3": "AWS",
    "s3a": "AWS",
    "gs": "GOOGLE",
    "az": "AZURE",
    "azure": "AZURE",
    "abfs": "AZURE",
    "abfss": "AZURE",
}
OPTIONS = ("allow_http", "allow_invalid_certificates", "proxy_url", "proxy_ca_certificate", "proxy_excludes")


def bucket(url: str, seconds: timedelta, patient: bool) -> Any:
    """The bucket at `url`, each request to which may take so long. What failed at once is tried again, what took too
    long only where there is time."""
    scheme = url.partition("://")[0]
    prefix = PREFIXES.get(scheme, "AWS")
    given = {name: os.environ.get(f"{prefix}_{name.upper()}") for name in OPTIONS}
    options = {name: value for name, value in given.items() if value is not None}
    # On S3 a copy can be made under a condition only in this way.
    more = {"aws_copy_if_not_exists": "multipart"} if prefix == "AWS" and scheme in PREFIXES else {}
    if "AWS_COPY_IF_NOT_EXISTS" in os.environ:
        more = {}
    return from_url(
        url,
        client_options={**options, "connect_timeout": CONNECT, "timeout": seconds},  # type: ignore[call-overload]
        retry_config={
            "max_retries": 5 if patient else 2,
            "retry_timeout": 2 * seconds if patient else seconds / 2,
            "backoff": {"init_backoff": timedelta(milliseconds=50), "max_backoff": timedelta(seconds=1), "base": 2},
        },
        **more,
    )
