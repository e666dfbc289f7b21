"""A Service as Kubernetes has it: one address, before which new connections are dealt to the pods that are ready."""

import itertools
import threading

from tests.support.proxy import Proxy


class Service(Proxy):
    """Deals connections to its endpoints in turn. One that is made stays, whatever becomes of the list."""

    def __init__(self, *endpoints: str) -> None:
        super().__init__(endpoints[0])
        self._endpoints = list(endpoints)
        self._changing = threading.Lock()  # the test changes the list, the acceptors read it
        self._next = itertools.count()

    def add(self, endpoint: str) -> None:
        """A pod is ready."""
        with self._changing:
            self._endpoints.append(endpoint)

    def remove(self, endpoint: str) -> None:
        """A pod is not ready any more, or is about to end."""
        with self._changing:
            self._endpoints.remove(endpoint)

    def _where(self) -> tuple[str, int]:
        with self._changing:
            host, _, port = self._endpoints[next(self._next) % len(self._endpoints)].rpartition(":")
        return host, int(port)
