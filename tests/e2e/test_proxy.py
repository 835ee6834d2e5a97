"""What the proxy of the distributed mode does by itself, before services that only say their names; needs an nginx."""

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from app.settings import Settings
from tests.e2e.service import free_port
from tests.problems import Answer

PROXY = Path(__file__).parents[2] / "proxy.conf"
PREDICT_PATHS = ("/v1/models/m/predict", "/v2/models/m/infer", "/v1/models/m/versions/1:predict")
NGINX = shutil.which("nginx") or "/usr/sbin/nginx"

pytestmark = pytest.mark.skipif(not Path(NGINX).exists(), reason="no nginx")


class Upstream(ThreadingHTTPServer):
    """Answers every request, before its body was read, with its own name."""

    daemon_threads = True

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(("127.0.0.1", 0), _Echo)


class _Echo(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Upstream)
        body = self.server.name.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


class _Closing:
    """Takes connections, reads what comes first and hangs up."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                found, _ = self._socket.accept()
            except OSError:
                return
            found.recv(65536)
            found.close()

    def close(self) -> None:
        self._socket.close()


Start = Callable[..., str]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts nginx with the project's own configuration over these ports; its address."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(*, api: list[int], predict: list[int]) -> str:
        port = free_port()
        groups = {"predict": predict, "api": api}
        upstreams = "".join(
            f"upstream {name} {{ {' '.join(f'server 127.0.0.1:{one} max_fails=0;' for one in ports)} }}\n"
            for name, ports in groups.items()
        )
        site = PROXY.read_text().replace("listen 80;", f"listen 127.0.0.1:{port};")
        for name in groups:
            assert f"{name}:8000;" in site
            site = site.replace(f"{name}:8000;", f"{name};")
        temporary = "".join(
            f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        configuration = tmp_path / "nginx.conf"
        configuration.write_text(
            f"daemon off; master_process off; pid {tmp_path}/pid; error_log {tmp_path}/error.log;\n"
            f"events {{}}\nhttp {{ access_log off;\n{temporary}{upstreams}{site}}}\n"
        )
        running.append(subprocess.Popen([NGINX, "-p", str(tmp_path), "-c", str(configuration)]))
        _wait_for(port)
        return f"http://127.0.0.1:{port}"

    yield begin
    for process in running:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture
def upstreams() -> Iterator[dict[str, int]]:
    """The ports of an `api` and a `predict`."""
    servers = [Upstream("api"), Upstream("predict")]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {server.name: server.server_address[1] for server in servers}
    for server in servers:
        server.shutdown()
        server.server_close()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "nginx does not start"
            time.sleep(0.02)
        else:
            return


def problem(answer: Answer, status: int) -> dict[str, object]:
    """A problem document, which is of the proxy's own and so does not say `instance`."""
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, object] = answer.json()
    assert found["status"] == status
    assert found["type"] == f"urn:graft:problem:{found['code']}"
    assert isinstance(found["error"], str)
    return found


@pytest.mark.parametrize("path", PREDICT_PATHS)
def test_the_service_answers_before_a_body_has_arrived(start: Start, upstreams: dict[str, int], path: str) -> None:
    address = httpx.URL(start(api=[upstreams["api"]], predict=[upstreams["predict"]]))
    with socket.create_connection((address.host, address.port), timeout=20) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n\r\n12345".encode())
        assert b" 200 OK" in connection.recv(65536)


async def _refusing(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers before it has read any of the body, and says whether the connection ends with that: the answer may then
    be lost."""
    content = b"busy, " + dict(scope["headers"]).get(b"connection", b"keep-alive")
    headers = [(b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 429, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def test_an_early_answer_arrives_while_the_body_is_still_being_sent(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(_refusing, log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
        thread.start()
        port = taken.getsockname()[1]
        address = start(api=[port], predict=[port])
        body = [bytes(1024**2)] * 30
        answers = [httpx.post(address + path, content=iter(body)) for path in (*PREDICT_PATHS, "/v1/jobs")]
        server.should_exit = True
        thread.join(timeout=20)
    assert {(answer.status_code, answer.text) for answer in answers} == {(429, "busy, keep-alive")}


def test_predictions_go_to_their_containers_and_all_else_to_the_api(start: Start, upstreams: dict[str, int]) -> None:
    address = start(api=[upstreams["api"]], predict=[upstreams["predict"]])
    for path in PREDICT_PATHS:
        assert httpx.post(address + path).text == "predict"
    for path in ("/v1/models/m", "/v1/jobs", "/v1/models/m/aliases/predict"):
        assert httpx.get(address + path).text == "api"


def test_a_body_over_the_limit_of_predictions_is_a_problem_document(start: Start, upstreams: dict[str, int]) -> None:
    address = start(api=[upstreams["api"]], predict=[upstreams["predict"]])
    most = Settings.model_fields["max_predict_bytes"].default
    for length, status in ((most, 200), (most + 2 * 1024**2, 413)):
        url = httpx.URL(address)
        with socket.create_connection((url.host, url.port), timeout=20) as connection:
            connection.sendall(f"POST {PREDICT_PATHS[0]} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n".encode())
            head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
        assert f" {status} ".encode() in head.splitlines()[0]
    found = httpx.Response(413, content=body, headers={"content-type": "application/problem+json"})
    assert b"application/problem+json" in head
    assert problem(found, 413)["code"] == "too_large"


def test_without_a_container_one_is_told_to_come_again(start: Start, upstreams: dict[str, int]) -> None:
    address = start(api=[free_port()], predict=[free_port()])
    for path in (PREDICT_PATHS[0], "/v1/jobs"):
        answer = httpx.post(address + path)
        assert problem(answer, 503)["code"] == "unavailable"
        assert answer.headers["retry-after"] == "5"


def test_a_container_that_is_not_there_is_passed_over(start: Start, upstreams: dict[str, int]) -> None:
    address = start(api=[free_port(), upstreams["api"]], predict=[free_port(), upstreams["predict"]])
    assert [httpx.post(address + PREDICT_PATHS[0], content=b"1").text for _ in range(2)] == ["predict", "predict"]
    assert [httpx.post(address + "/v1/jobs", content=b"1").text for _ in range(2)] == ["api", "api"]


def test_what_a_container_may_have_begun_is_not_sent_to_another(start: Start, upstreams: dict[str, int]) -> None:
    closing = _Closing()
    address = start(api=[closing.port, upstreams["api"]], predict=[upstreams["predict"]])
    found = {httpx.post(address + "/v1/jobs").status_code for _ in range(2)}
    closing.close()
    assert found == {200, 503}
