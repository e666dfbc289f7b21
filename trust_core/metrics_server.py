"""The Prometheus port of either program. Imported only where it is configured: its library costs memory.

The server is prometheus_client's, in a thread of its own; what the collector does there, it must do by reading only.
Of the process itself (memory, file descriptors, processor time, start) prometheus_client reads what Linux says.
"""

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.registry import Collector


class MetricsServer:
    """Serves what the collector says until `stop`."""

    def __init__(self, *, host: str, port: int, collector: Collector) -> None:
        """Begin to serve; port 0 takes a free one. Raises OSError when the address cannot be had."""
        registry = CollectorRegistry()
        registry.register(collector)
        ProcessCollector(registry=registry)
        self._server, self._thread = start_http_server(port, host, registry)
        self.address = f"{f'[{host}]' if ':' in host else host}:{self._server.server_port}"

    def stop(self) -> None:
        """Stop serving. Waits for the server's thread, half a second at most: not for the event loop's thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
