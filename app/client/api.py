"""The HTTP calls that the commands make, with errors that a person understands."""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from app.loopback import is_loopback

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

    def __init__(self, message: str, code: str, status: int) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class NotFound(Refused):
    """There is nothing at that path, or not any more."""


class NoAnswer(ClientError):
    """The server is away, and was for as long as the client had patience; `may_be_repeated` where nothing was begun
    there, or it does no harm to begin it twice."""

    def __init__(self, message: str, *, may_be_repeated: bool = True) -> None:
        super().__init__(message)
        self.may_be_repeated = may_be_repeated


class StillPending(ClientError):
    """No worker has checked a dataset or a teacher in the time that was given."""


class Api:
    """A client of one Stillhouse server; raises NoAnswer where it is away for more than `patience_seconds`.

    `find_again` says where the server is by then, if it may have gone elsewhere.
    """

    def __init__(
        self, address: str, *, patience_seconds: float | None = None, find_again: Callable[[], str] | None = None
    ) -> None:
        self.address = address.rstrip("/")
        self.http = _http_client(self.address)
        self._patience_seconds = PATIENCE_SECONDS if patience_seconds is None else patience_seconds
        self._find_again = find_again

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
        return "" if response.is_success else str(error_of(response))

    def get(self, path: str) -> Json:
        return self._checked(lambda: self.http.get(path))

    def find(self, path: str) -> Json | None:
        """What stands at this path, or None where nothing does."""
        try:
            return self.get(path)
        except NotFound:
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
            # The server stops reading while its object store makes it wait.
            timeout = httpx.Timeout(30.0, write=UPLOAD_ANSWER_SECONDS, read=UPLOAD_ANSWER_SECONDS)
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

    def go_after(self, reason: NoAnswer) -> None:
        """Turn to where the server is by now. Raises `reason` where it is known to be nowhere else, or is where it was
        and says no."""
        if self._find_again is None or self.what_is_missing() == "":
            raise reason
        address = self._find_again()
        self.http.close()
        self.address, self.http = address, _http_client(address)

    def _checked(self, send: Callable[[], httpx.Response], *, is_repeatable: bool = True) -> Json:
        while True:
            try:
                response = self._answer(send, is_repeatable)
                break
            except NoAnswer as error:
                if not error.may_be_repeated:
                    raise
                self.go_after(error)
        if not response.is_success:
            raise error_of(response)
        with contextlib.suppress(ValueError):
            if isinstance(found := response.json(), dict):
                return found
        request = response.request
        said = f"{request.method} {request.url.path} answered {response.status_code} without a JSON object"
        raise ClientError(f"{said}: what is at {self.address} seems to be no Stillhouse.")

    def _answer(self, send: Callable[[], httpx.Response], is_repeatable: bool) -> httpx.Response:
        """What the server says in the end. Raises NoAnswer where that is nothing, or "later"."""
        deadline = time.monotonic() + self._patience_seconds
        while True:
            is_time = time.monotonic() <= deadline
            try:
                response = send()
            except httpx.TransportError as error:
                # Who was not reached has begun nothing.
                may_be_repeated = is_repeatable or isinstance(error, httpx.ConnectError)
                if not (is_time and may_be_repeated):
                    message = f"No answer from {self.address}: {error}"
                    raise NoAnswer(message, may_be_repeated=may_be_repeated) from error
            else:
                if response.status_code not in TRANSIENT:
                    return response
                if not (is_time and is_repeatable):
                    raise NoAnswer(str(error_of(response)), may_be_repeated=is_repeatable)
            time.sleep(PAUSE_SECONDS)


def _http_client(address: str) -> httpx.Client:
    host = urlsplit(address).hostname or ""
    # No proxy of the environment leads to this machine's own servers.
    is_own = host == "localhost" or is_loopback(host)
    try:
        return httpx.Client(base_url=address, timeout=30.0, trust_env=not is_own)
    except (ImportError, ValueError) as error:
        raise ClientError(f"A proxy of the environment (HTTP_PROXY, ALL_PROXY) cannot be used: {error}") from error


def error_of(response: httpx.Response) -> Refused:
    """What the server says in an answer that has been read whole."""
    request = response.request
    try:
        error = response.json()["error"]
        message, code = error["message"], str(error["code"])
    except (ValueError, KeyError, TypeError):
        message, code = response.text[:300], ""
    kind = NotFound if response.status_code == httpx.codes.NOT_FOUND else Refused
    return kind(
        f"{request.method} {request.url.path} answered {response.status_code}: {message}", code, response.status_code
    )
