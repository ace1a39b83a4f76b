"""The mosec server: see ``bench.peers.mosec_http``."""

from typing import Any

from mosec import Server, Worker

from bench.peers.inside.work import Work


class Score(Worker):
    """All three stages over a dynamic batch; bodies and answers have the shape of Scoreline's API."""

    def __init__(self) -> None:
        super().__init__()
        self._work = Work()

    def forward(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """A batch of requests."""
        results = self._work.score([request["features"] for request in data])
        return [{"state": "succeeded", "result": result} for result in results]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Score, num=1, max_batch_size=64, max_wait_time=10)
    server.run()
