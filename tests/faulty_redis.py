"""A Redis that can be killed, frozen and emptied, behind a TCP proxy that can be slow."""

import signal
import socket
import subprocess
import tempfile
import threading
import time

import redis

from feature_repo.stores.embedded import redis_binary
from tests.redis_servers import free_ports


class FaultyRedis:
    """Starts at once; `url` leads through the proxy."""

    def __init__(self):
        self.port, self.delay_seconds, self._process = free_ports(1)[0], 0.0, None
        self._folder = tempfile.TemporaryDirectory(prefix="vitrine-redis-")
        self._door = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()
        self.start()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self._door.getsockname()[1]}/0"

    def start(self):
        """An empty server; its writes are kept nowhere."""
        command = [redis_binary(), "--port", self.port, "--bind", "127.0.0.1", "--save", "", "--dir", self._folder.name]
        self._process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL)
        with redis.Redis(port=self.port) as client:
            for _ in range(200):
                try:
                    client.ping()
                    return
                except redis.RedisError:
                    time.sleep(0.05)
        raise AssertionError("no Redis")

    def kill(self):
        self._process.kill()
        self._process.wait()

    def pause(self):
        self._process.send_signal(signal.SIGSTOP)

    def resume(self):
        self._process.send_signal(signal.SIGCONT)

    def mend(self):
        """Runs again, at once and at its own pace; empty where it was killed."""
        self.delay_seconds = 0.0
        if self._process.poll() is not None:
            self.start()
        self.resume()

    def close(self):
        self._door.close()
        self.kill()
        self._folder.cleanup()

    def _accept(self):
        while True:
            try:
                client, _ = self._door.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        try:
            server = socket.create_connection(("127.0.0.1", self.port))
        except OSError:
            client.close()
            return
        threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
        self._pass(server, client, True)

    def _pass(self, source, sink, is_answer):
        try:
            while data := source.recv(65_536):
                if is_answer and self.delay_seconds:
                    time.sleep(self.delay_seconds)
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                end.close()
