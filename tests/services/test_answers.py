"""Whether a server answers at an address."""

import socket
import threading

from flows.services import answers
from tests.services.ports import free_port


def test_what_speaks_another_language_is_no_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        def babble() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"\x00\x01\x02\r\n")

        thread = threading.Thread(target=babble)
        thread.start()
        assert not answers(f"http://127.0.0.1:{port}/health")
        thread.join()


def test_nothing_is_no_server() -> None:
    assert not answers(f"http://127.0.0.1:{free_port()}/health")
