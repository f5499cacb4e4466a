"""The HTTP calls that the commands make, with errors that a person understands."""

import contextlib
import ipaddress
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

Json = dict[str, Any]

# A restart of the API or of what stands before it, or a laptop's lid, should not end a command that runs for hours.
PATIENCE_SECONDS = 300.0
# Between the last byte of an upload and its answer stands whatever passes it on.
UPLOAD_ANSWER_SECONDS = 600.0
PAUSE_SECONDS = 1.0

# What comes and goes: of who is asked too much, and of a service that is away behind the one that answers.
TRANSIENT = frozenset({429, 502, 503, 504})


class ClientError(Exception):
    """The command cannot go on; the message is a sentence for the person at the terminal."""


class Refused(ClientError):
    """The server answered with an error; `code` is that of its body, empty where it has none."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class NoAnswer(ClientError):
    """The server is away, and was for as long as the client had patience."""


class StillPending(ClientError):
    """No worker has checked a dataset or a teacher in the time that was given."""


class Api:
    """A client of one Stillhouse server; raises NoAnswer where it is away for more than `patience_seconds`."""

    def __init__(self, address: str, *, patience_seconds: float | None = None) -> None:
        self.address = address.rstrip("/")
        self._patience_seconds = PATIENCE_SECONDS if patience_seconds is None else patience_seconds
        try:
            # No proxy of the environment leads to this machine's own servers.
            self.http = httpx.Client(base_url=self.address, timeout=30.0, trust_env=not _is_loopback(self.address))
        except (ImportError, ValueError) as error:
            raise ClientError(f"A proxy of the environment (HTTP_PROXY, ALL_PROXY) cannot be used: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.close()

    def what_is_missing(self) -> str | None:
        """What keeps the server that answers from its work, empty where it is ready; None where none answers."""
        try:
            response = self.http.get("/readyz", timeout=5.0)
        except httpx.TransportError:
            return None
        return "" if response.is_success else str(_error_of(response))

    def get(self, path: str) -> Json:
        return self._checked(lambda: self.http.get(path))

    def find(self, path: str) -> Json | None:
        """What stands at this path, or None where nothing does."""
        try:
            return self.get(path)
        except _NotFound:
            return None

    def post(self, path: str, body: Json, *, idempotency_key: str | None = None) -> Json:
        """POST a JSON body; with an idempotency key it is safe to try again, so it is tried again."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return self._checked(
            lambda: self.http.post(path, json=body, headers=headers), is_repeatable=idempotency_key is not None
        )

    def upload(self, path: str, fields: Mapping[str, str], files: Iterable[tuple[str, Path]]) -> Json:
        """POST a multipart form, its files, each with the name of its part, streamed from disk."""
        with contextlib.ExitStack() as stack:
            parts = [(part, (file.name, stack.enter_context(file.open("rb")))) for part, file in files]
            timeout = httpx.Timeout(30.0, read=UPLOAD_ANSWER_SECONDS)
            return self._checked(
                lambda: self.http.post(path, data=dict(fields), files=parts, timeout=timeout), is_repeatable=False
            )

    def wait_until_ready(self, path: str, *, seconds: float = 120.0) -> Json:
        """Poll a dataset or a teacher until a worker has checked it. Raises StillPending where none has in time."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.get(path)
            if found["status"] == "ready":
                return found
            if found["terminal"]:
                error = found["error"] or {}
                raise ClientError(f"{path} is {found['status']}: {error.get('message', 'no reason given')}")
            if time.monotonic() > deadline:
                raise StillPending(
                    f"{path} is still {found['status']} after {seconds:.0f} s. Is a worker running, or are all busy?"
                )
            time.sleep(0.2)

    def _checked(self, send: Callable[[], httpx.Response], *, is_repeatable: bool = True) -> Json:
        deadline = time.monotonic() + self._patience_seconds
        while True:
            is_last = not is_repeatable or time.monotonic() > deadline
            try:
                response = send()
            except httpx.TransportError as error:
                if is_last:
                    raise NoAnswer(f"No answer from {self.address}: {error}") from error
            else:
                if is_last or response.status_code not in TRANSIENT:
                    break
            time.sleep(PAUSE_SECONDS)
        if response.status_code in TRANSIENT:
            raise NoAnswer(str(_error_of(response)))
        if not response.is_success:
            raise _error_of(response)
        with contextlib.suppress(ValueError):
            if isinstance(found := response.json(), dict):
                return found
        request = response.request
        said = f"{request.method} {request.url.path} answered {response.status_code} without a JSON object"
        raise ClientError(f"{said}: what is at {self.address} seems to be no Stillhouse.")


class _NotFound(Refused):
    pass


def _is_loopback(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _error_of(response: httpx.Response) -> Refused:
    request = response.request
    try:
        error = response.json()["error"]
        message, code = error["message"], str(error["code"])
    except (ValueError, KeyError, TypeError):
        message, code = response.text[:300], ""
    kind = _NotFound if response.status_code == httpx.codes.NOT_FOUND else Refused
    return kind(f"{request.method} {request.url.path} answered {response.status_code}: {message}", code)
