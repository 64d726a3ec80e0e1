"""The server as its own process: how it is found, and all the ways in which it stops."""

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from threadpoolctl import threadpool_info

from embed_server.client import Client, UnreachableError
from embed_server.errors import PortTakenError
from embed_server.runner import Server, bound_socket, serve
from embed_server.settings import ServerSettings, Settings

SERVE = """
import json, sys
from pathlib import Path
from embed_server.runner import serve
from embed_server.settings import ServerSettings, Settings
sys.exit(serve(Settings(store=Path(sys.argv[1]), server=ServerSettings(**json.loads(sys.argv[2])))))
"""
PARENT = """
import subprocess, sys
server = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)
server.wait()
"""
WAIT_S = 60

posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and modes")

Start = Callable[..., subprocess.Popen[str]]


def command(store: Path, **server: Any) -> list[str]:
    return [sys.executable, "-c", SERVE, str(store), json.dumps(server)]


@pytest.fixture
def start(store: Path, tmp_path: Path) -> Iterator[Start]:
    """Start servers; what still runs at the end of the test is killed."""
    started = []

    def run(arguments: list[str] | None = None, **server: Any) -> subprocess.Popen[str]:
        server.setdefault("ready_file", str(tmp_path / "ready.json"))
        process = subprocess.Popen(
            arguments or command(store, **server),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")},
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def announced(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Read the one line that says that the server is ready."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    found: dict[str, Any] = json.loads(line)
    return found


def close_stdin(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.stdin = None  # so that communicate() does not use it again


def gone(check: Callable[[], bool]) -> bool:
    """Wait until ``check`` is false."""
    deadline = time.monotonic() + WAIT_S
    while check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=WAIT_S).ok
    except requests.RequestException:
        return False


def test_a_server_announces_itself_and_serves(start: Start, tmp_path: Path) -> None:
    process = start()
    ready = announced(process)
    path = tmp_path / "ready.json"
    assert set(ready) == {"url", "pid", "version", "ready_file"}
    assert ready["pid"] == process.pid
    assert ready["ready_file"] == str(path)
    assert ready["url"].startswith("http://127.0.0.1:")
    with Client.from_ready_file(path, timeout_s=WAIT_S) as client:
        assert "valley" in {collection["id"] for collection in client.collections()}


@posix_only
def test_sigterm_stops_it_cleanly(start: Start, tmp_path: Path) -> None:
    process = start()
    announced(process)
    path = tmp_path / "ready.json"
    token = json.loads(path.read_text())["token"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    process.terminate()
    out, log = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    assert out == ""
    assert token not in log
    assert not path.exists()


@posix_only
def test_ctrl_c_stops_it_with_130(start: Start, tmp_path: Path) -> None:
    process = start()
    announced(process)
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130
    assert "Traceback" not in log
    assert not (tmp_path / "ready.json").exists()


def test_the_end_of_stdin_stops_it_if_asked(start: Start, tmp_path: Path) -> None:
    process = start(stop_with_stdin=True)
    ready = announced(process)
    assert process.stdin is not None
    process.stdin.write("what is written here is ignored\n")
    process.stdin.flush()
    assert answers(ready["url"])
    close_stdin(process)
    assert process.wait(WAIT_S) == 0
    assert not (tmp_path / "ready.json").exists()


def test_the_end_of_stdin_does_not_stop_it_otherwise(start: Start) -> None:
    process = start()
    ready = announced(process)
    close_stdin(process)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.0)
    assert answers(ready["url"])


@posix_only
def test_a_signal_stops_it_while_it_listens_to_stdin(start: Start) -> None:
    process = start(stop_with_stdin=True)
    announced(process)
    process.terminate()
    assert process.wait(WAIT_S) == 0


@posix_only
def test_it_does_not_outlive_a_killed_parent(start: Start, store: Path, tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    serving = command(store, ready_file=str(path), stop_with_stdin=True)
    parent = start([sys.executable, "-c", PARENT, *serving])
    ready = announced(parent)
    assert ready["pid"] != parent.pid
    assert answers(ready["url"])
    parent.kill()
    stopped = gone(path.exists)
    if not stopped:  # leave no server behind
        os.kill(ready["pid"], signal.SIGKILL)
    assert stopped
    assert gone(lambda: answers(ready["url"]))


@posix_only
def test_a_running_job_is_stopped_with_the_server(
    start: Start, tmp_path: Path, scene: list[str]
) -> None:
    process = start()
    announced(process)
    with Client.from_ready_file(tmp_path / "ready.json", timeout_s=WAIT_S) as client:
        inputs = {"files": scene, "collection": "cut", "chip": "8", "stride": "1"}
        job = client.execute("embed-raster", inputs)["jobID"]
        assert gone(lambda: client.job(job)["status"] != "running")
    process.terminate()
    _, log = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    assert "did not stop" not in log
    assert "Traceback" not in log


def test_without_a_named_ready_file_it_is_in_the_users_folder(start: Start, tmp_path: Path) -> None:
    ready = announced(start(ready_file=None))
    path = Path(ready["ready_file"])
    assert path.name == f"{ready['url'].rsplit(':', 1)[1]}.json"
    assert path.exists()
    if sys.platform.startswith("linux"):
        assert path.is_relative_to(tmp_path / "state")


def test_two_servers_on_one_store(start: Start, tmp_path: Path) -> None:
    first = announced(start(ready_file=str(tmp_path / "first.json")))
    second = announced(start(ready_file=str(tmp_path / "second.json")))
    assert first["url"] != second["url"]
    assert answers(first["url"])
    assert answers(second["url"])


def test_a_taken_port_is_a_clear_error(start: Start, tmp_path: Path) -> None:
    with bound_socket(0) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"Port {port}.*--port 0"), bound_socket(port):
            pass
        out, log = start(port=port).communicate(timeout=WAIT_S)
    assert out == ""
    assert f"Port {port} on 127.0.0.1 cannot be used" in log
    assert not (tmp_path / "ready.json").exists()


def test_answers_are_sent_at_once() -> None:
    """With Nagle's algorithm each would wait 40 ms for an acknowledgement."""
    delayed = []

    async def connect(listener: socket.socket) -> None:
        def accepted(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            own = writer.get_extra_info("socket")
            delayed.append(not own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(accepted, sock=listener):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            await reader.read()
            writer.close()

    with bound_socket(0) as listener:
        asyncio.run(connect(listener))
    assert delayed == [False]


def test_a_search_shares_no_product_out_to_threads(
    monkeypatch: pytest.MonkeyPatch, store: Path, tmp_path: Path
) -> None:
    threads = []

    def run(_: Server, sockets: list[socket.socket]) -> None:
        assert sockets
        threads.extend(each["num_threads"] for each in threadpool_info() if is_blas(each))

    def is_blas(library: dict[str, Any]) -> bool:
        return library["user_api"] == "blas"

    monkeypatch.setattr(Server, "run", run)
    serve(Settings(store=store, server=ServerSettings(ready_file=tmp_path / "ready.json")))
    assert threads
    assert set(threads) == {1}


def test_a_freed_port_can_be_had_again_at_once(start: Start, tmp_path: Path) -> None:
    with bound_socket(0) as other:
        port = other.getsockname()[1]
    for name in ("first", "second"):
        process = start(port=port, stop_with_stdin=True, ready_file=str(tmp_path / f"{name}.json"))
        ready = announced(process)
        assert ready["url"].endswith(f":{port}")
        assert answers(ready["url"])  # leaves a connection in TIME_WAIT behind
        close_stdin(process)
        assert process.wait(WAIT_S) == 0


def test_it_listens_on_the_loopback_only(start: Start) -> None:
    ready = announced(start())
    port = int(ready["url"].rsplit(":", 1)[1])
    others = {
        info[4][0]
        for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)
        if not str(info[4][0]).startswith("127.")
    }
    for address in others:
        with pytest.raises(OSError), socket.create_connection((address, port), timeout=5):  # noqa: PT011
            pass
    with pytest.raises(OSError), socket.create_connection(("::1", port), timeout=5):  # noqa: PT011
        pass


def test_a_ready_file_that_cannot_be_written_is_one_clean_error(
    start: Start, store: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    program = [sys.executable, "-c", "from embed_server.cli import main; main()"]
    path = tmp_path / "file" / "ready.json"
    process = start([*program, "serve", "--store", str(store), "--ready-file", str(path)])
    out, log = process.communicate(timeout=WAIT_S)
    assert out == ""
    assert process.returncode == 1
    [line] = log.splitlines()
    assert line.startswith(f"Error: The ready file {path} cannot be written")


def test_a_store_that_does_not_exist_is_made_and_has_what_comes_with_terrakin(
    start: Start, tmp_path: Path
) -> None:
    ready = announced(start(command(tmp_path / "new" / "store")))
    with Client.from_ready_file(Path(ready["ready_file"]), timeout_s=WAIT_S) as client:
        assert "world" in {collection["id"] for collection in client.collections()}


def test_a_folder_that_is_no_store_ends_the_start(start: Start, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("")
    out, log = start(command(tmp_path)).communicate(timeout=WAIT_S)
    assert out == ""
    assert "is no Terrakin store" in log


@posix_only
def test_a_killed_server_leaves_a_ready_file_that_says_so(start: Start, tmp_path: Path) -> None:
    process = start()
    announced(process)
    path = tmp_path / "ready.json"
    process.kill()
    process.wait(WAIT_S)
    assert path.exists()
    with pytest.raises(UnreachableError, match=f"left behind by process {process.pid}"):
        Client.from_ready_file(path)


def test_starting_needs_no_torch() -> None:
    code = "import sys, embed_server.runner, embed_server.client; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_the_client_needs_no_server_libraries() -> None:
    code = "import sys, embed_server.client; print({'fastapi', 'uvicorn'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
