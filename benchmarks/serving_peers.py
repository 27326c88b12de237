"""
What `hf-genrec serve` is measured against: one trained model behind the simplest FastAPI application, and behind
litserve with its batches.

    python -m benchmarks.serving_peers plain RUN PORT
    python -m benchmarks.serving_peers litserve RUN PORT
"""

import sys

import litserve

import hf_genrec


def plain(run: str, port: int) -> None:
    """A request is answered by `model.recommend` before the next one is read, as a first version does it."""
    import uvicorn
    from fastapi import FastAPI

    app, model = FastAPI(), hf_genrec.load(run)

    @app.get("/ready")
    async def ready() -> dict:
        return {}

    @app.post("/recommend")
    async def recommend(body: dict) -> dict:
        item_ids, scores = model.recommend(body["history"], k=body["k"])
        return {"items": [{"item_id": i, "score": s} for i, s in zip(item_ids, scores, strict=True)]}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


class Recommender(litserve.LitAPI):
    """The model in a process of its own, asked about what arrived within 5 ms."""

    def __init__(self, run: str):
        super().__init__(max_batch_size=64, batch_timeout=0.005, api_path="/recommend")
        self.run = run

    def setup(self, device):
        self.model = hf_genrec.load(self.run)

    def decode_request(self, request):
        return request["history"], request["k"]

    def batch(self, inputs):
        return inputs

    def predict(self, x):
        item_ids, scores = self.model.recommend([history for history, _ in x], k=x[0][1])
        return list(zip(item_ids, scores, strict=True))

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return {"items": [{"item_id": i, "score": s} for i, s in zip(*output, strict=True)]}


def batched(run: str, port: int) -> None:
    """litserve with one worker; 64 requests at most in a batch."""
    server = litserve.LitServer(Recommender(run), accelerator="cpu", healthcheck_path="/ready")
    server.run(host="127.0.0.1", port=port, log_level="warning", generate_client_file=False, num_api_servers=1)


if __name__ == "__main__":
    {"plain": plain, "litserve": batched}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
