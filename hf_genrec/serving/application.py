"""The server's application: what each address answers. `serving/server.py` runs it, and so may any ASGI server."""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from hf_genrec.serving.batching import Batcher, QueueFull
from hf_genrec.serving.bodies import (
    AddedItems,
    CatalogueItem,
    Failure,
    Models,
    Recommendations,
    items_body,
    recommend_body,
)
from hf_genrec.serving.docs_page import POLICY, docs_page
from hf_genrec.serving.metrics import ServerMetrics
from hf_genrec.serving.middleware import OPEN_PATHS, Requests
from hf_genrec.serving.new_items import encode_items, enter_items, remove_item
from hf_genrec.serving.own_thread import in_own_thread
from hf_genrec.serving.served_model import Question, ServedModel
from hf_genrec.serving.settings import ServerSettings

logger = logging.getLogger(__name__)

ABOUT = "The next items for histories of item ids, by trained generative recommenders."


def build_application(models: Sequence[ServedModel], settings: ServerSettings | None = None) -> Any:
    """
    An ASGI application that recommends items of some models.

    Args:
        models: the first one answers where a request names none.
        settings: limits, times, and the token; by default those of `ServerSettings()`.

    Raises:
        ValueError: for no model, or two of one name.
    """
    settings = settings or ServerSettings()
    served = {model.name: model for model in models}
    if not models or len(served) < len(models):
        raise ValueError("give one model or more, each with a name of its own (NAME=RUN)")
    metrics = ServerMetrics()
    batchers: dict[str, Batcher] = {}
    growing = asyncio.Lock()  # two requests at once would give two items one code

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        for name, model in served.items():
            batchers[name] = batcher = Batcher(model.answer, settings, thread, _observer(metrics, name))
            metrics.watch(model, batcher)
            batcher.start()
            # What the first call prepares is not the first user's to wait for.
            await batcher.call(partial(model.answer, [Question([np.empty(0, np.int64)], 1)]))
        app.state.ready = True
        yield
        app.state.ready = False
        for batcher in batchers.values():
            await batcher.stop()
        await asyncio.to_thread(thread.shutdown)

    app = FastAPI(
        title="hf_genrec",
        version=version("hf_genrec"),
        description=ABOUT,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load their scripts from elsewhere
        redoc_url=None,
        responses={422: {"model": Failure, "description": "A request that cannot be answered"}},
    )
    app.state.ready = False
    # The documentation needs no token, so it names no item where there is one.
    known = models[0].processor.item_ids if settings.token is None else [f"item-{number}" for number in (1, 2, 3)]
    RecommendRequest = recommend_body(settings, known)
    NewItemsRequest = items_body(settings)

    def chosen(name: str | None) -> ServedModel:
        if name is not None and name not in served:
            raise HTTPException(404, f"model {name[:100]!r} is not one of {', '.join(served)}")
        return served[name or models[0].name]

    def described(model: ServedModel, row: int) -> dict[str, Any]:
        processor = model.processor
        item_id = processor.item_ids[row]
        return {
            "model": model.name,
            "item_id": item_id,
            "title": processor.title(item_id),
            "semantic_id": processor.codes[row].tolist() if model.method.codes else None,
            "popularity": int(processor.popularity[row]),
        }

    def row_of(model: ServedModel, item_id: str) -> int:
        if item_id not in model.processor:
            raise HTTPException(404, f"item {item_id[:100]!r} is not in the catalogue of {model.name}")
        return int(model.processor.rows([item_id])[0])

    failures: dict[int | str, dict[str, Any]] = {
        status: {"model": Failure, "description": about}
        for status, about in {
            404: "No such model or item",
            413: "The body is too large",
            429: "Too many requests wait; try again after the seconds of Retry-After",
            504: "No answer in time",
        }.items()
    }

    @app.post("/recommend", response_model=Recommendations, responses=failures)
    async def recommend(body: RecommendRequest, request: Request) -> Any:  # type: ignore[valid-type]
        """The k items most likely to come next, for one history or several: what `model.recommend` answers."""
        asked: Any = body
        if (asked.history is None) == (asked.histories is None):
            raise HTTPException(422, "give either history or histories")
        if asked.user is not None and asked.history is None:
            raise HTTPException(422, "user: give it with history, of which there is one")
        model = chosen(asked.model)
        single = asked.history is not None
        while True:
            try:
                rows, left_out = _rows(model.processor, [asked.history] if single else asked.histories, asked.unknown)
                candidates = None
                if asked.candidates is not None:
                    candidates = tuple(np.unique(model.processor.rows(asked.candidates, where="candidates")).tolist())
            except ValueError as error:
                raise HTTPException(422, str(error)) from None
            exclude_seen = model.processor.exclude_seen if asked.exclude_seen is None else asked.exclude_seen
            keep = asked.user is not None
            question = Question(rows, asked.k, exclude_seen, candidates, keep, model.catalogue)
            answered = await batchers[model.name].ask(question)
            if answered.answer is not None and question.catalogue == model.catalogue:
                break  # else an item has gone, and rows have moved: by those of now
        request.state.facts |= {
            "model": model.name,
            "histories": len(rows),
            "k": asked.k,
            "batch": answered.batch,
            "waited_ms": round(1000 * answered.waited, 2),
        }
        lists = [model.processor.as_items(*found) for found in zip(*answered.answer, strict=True)]
        found = {"items": lists[0], "left_out": left_out[0]} if single else {"items": lists, "left_out": left_out}
        return JSONResponse({"model": model.name, **found})

    @app.post("/items", response_model=AddedItems, responses=failures | {409: {"model": Failure}})
    async def add_items(body: NewItemsRequest, request: Request) -> Any:  # type: ignore[valid-type]
        """New items enter the catalogue by their text, without training, until the server ends."""
        asked: Any = body
        model = chosen(asked.model)
        items = [item.model_dump() for item in asked.items]
        async with growing:
            known = [item["item_id"] for item in items if item["item_id"] in model.processor]
            if known:
                raise HTTPException(409, f"item {known[0]!r} is in the catalogue already")
            try:
                work = partial(encode_items, model, items)
                encoded, unused = await asyncio.to_thread(in_own_thread, work)
                await batchers[model.name].call(partial(enter_items, model, items, encoded))
            except (ValueError, OSError, ImportError) as error:
                raise HTTPException(422, " ".join(str(error).splitlines())) from None
        request.state.facts |= {"model": model.name, "new_items": len(items)}
        first = len(model.processor.item_ids) - len(items)
        added = [described(model, first + place) for place in range(len(items))]
        return JSONResponse({"model": model.name, "items": added, "unused_columns": unused})

    @app.get("/items/{item_id:path}", response_model=CatalogueItem, responses=failures)
    async def item(item_id: str, model: str | None = Query(default=None)) -> Any:
        """An item of the catalogue, its title and its semantic ID."""
        of = chosen(model)
        return JSONResponse(described(of, row_of(of, item_id)))

    @app.delete("/items/{item_id:path}", response_model=CatalogueItem, responses=failures | {409: {"model": Failure}})
    async def remove(item_id: str, model: str | None = Query(default=None)) -> Any:
        """An item that was added here leaves the catalogue again; the answer is what it was."""
        of = chosen(model)
        async with growing:
            row = row_of(of, item_id)
            if row < of.num_trained:
                raise HTTPException(
                    409,
                    f"item {item_id[:100]!r} came with the model, and only items that were added here can go: leave it "
                    f"out by candidates",
                )
            gone = described(of, row)
            await batchers[of.name].exclusively(partial(remove_item, of, item_id))
        return JSONResponse(gone)

    @app.get("/models", response_model=Models)
    async def list_models() -> Any:
        """What is served, the default first."""
        return JSONResponse(
            {
                "models": [
                    {"model": name, "method": model.method.title, "items": len(model.processor.item_ids)}
                    for name, model in served.items()
                ]
            }
        )

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Any:
        """The documentation, for people."""
        page = docs_page(app.openapi(), str(request.base_url).rstrip("/"))
        return HTMLResponse(page, headers={"Content-Security-Policy": POLICY})

    @app.get("/", include_in_schema=False)
    async def root() -> Any:
        """Whoever opens the address in a browser."""
        return RedirectResponse("/docs")

    @app.get("/health", responses={200: {"content": {"application/json": {"example": {"status": "ok"}}}}})
    async def health() -> Any:
        """Whether the process answers at all."""
        return {"status": "ok"}

    @app.get("/ready", responses={503: {"model": Failure, "description": "Starting, or about to stop"}})
    async def ready() -> Any:
        """Whether it is to be sent requests: not before its models are loaded, nor once it stops."""
        if not app.state.ready or around.closing:
            raise HTTPException(503, "starting, or about to stop")
        return {"status": "ready"}

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def read_metrics() -> Response:
        """Figures for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.exception_handler(QueueFull)
    async def queue_full(request: Request, error: QueueFull) -> JSONResponse:
        detail = f"too many requests wait: try again in {error.retry_after} s"
        return JSONResponse({"detail": detail}, 429, headers={"Retry-After": str(error.retry_after)})

    @app.exception_handler(TimeoutError)
    async def too_late(request: Request, error: TimeoutError) -> JSONResponse:
        return JSONResponse({"detail": f"no answer within {settings.timeout_seconds} seconds"}, 504)

    @app.exception_handler(RequestValidationError)
    async def not_valid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if "application/json" not in request.headers.get("content-type", "application/json"):
            return JSONResponse({"detail": "send the body as Content-Type: application/json"}, 422)
        place = ".".join(str(part) for part in first["loc"])
        return JSONResponse({"detail": ascii(f"{place}: {first['msg']}"[:500])[1:-1]}, 422)

    @app.exception_handler(AnyHTTPException)
    async def refused(request: Request, error: AnyHTTPException) -> JSONResponse:
        detail = str(error.detail).encode("utf-8", "backslashreplace").decode()
        return JSONResponse({"detail": detail}, error.status_code, headers=getattr(error, "headers", None))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": f"the model failed: {' '.join(str(error).splitlines())[:500]}"}, 500)

    if settings.token is not None:
        schema = app.openapi()  # which is made once
        schema["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"token": []}]
        for path in OPEN_PATHS & schema["paths"].keys():
            schema["paths"][path]["get"]["security"] = []

    paths = frozenset(getattr(route, "path", "") for route in app.routes)
    around = Requests(app, settings, metrics, paths)
    return around


def _observer(metrics: ServerMetrics, name: str):
    batch, seconds = metrics.batch.labels(name), metrics.model_seconds.labels(name)

    def observe(histories: int, took: float) -> None:
        batch.observe(histories)
        seconds.observe(took)

    return observe


def _rows(processor: Any, histories: list[list[str]], unknown: str) -> tuple[list[np.ndarray], list[list[str]]]:
    """
    Catalogue rows of histories, and of each history the ids that the catalogue does not have.

    Raises:
        ValueError: for such an id, if `unknown` is "raise".
    """
    if unknown == "raise":
        return processor.batch_rows(histories)[0], [[] for _ in histories]
    left_out = [[item_id for item_id in dict.fromkeys(history) if item_id not in processor] for history in histories]
    kept = [[item_id for item_id in history if item_id in processor] for history in histories]
    return processor.batch_rows(kept)[0], left_out
