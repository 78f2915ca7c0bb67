"""The page on which a trained row is tried: draw or drop an image, switch prototypes off.

Served on this machine only; images are answered and forgotten.
"""

import base64
import io
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from PIL import Image

from protodl.core.errors import ProtodlError
from protodl.data.pictures import Array, Preparation, picture_of_bytes
from protodl.explanation.local import explain, measure
from protodl.explanation.model import Model

HOST = "127.0.0.1"
LARGEST_UPLOAD = 32 * 2**20  # bytes
KINDS = {"try.html": "text/html", "try.css": "text/css", "try.js": "text/javascript"}
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


def application(rows: Mapping[str, str], load: Callable[[str], Model]) -> Any:
    """The page as an ASGI application.

    Args:
        rows: what can be tried, and what to say of each.
        load: gives the model of a row; it is asked once for each.
    """
    from fastapi import FastAPI, Request
    from fastapi.concurrency import run_in_threadpool
    from fastapi.middleware.trustedhost import TrustedHostMiddleware

    app = FastAPI(title="protodl", docs_url=None, redoc_url=None, openapi_url=None)
    # Another site's name that leads here would let that site read the answers.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    loaded = cache(load)

    @app.get("/rows")
    def list_rows() -> dict[str, str]:
        return dict(rows)

    @app.post("/explain/{row}")
    async def explain_image(row: str, request: Request, as_is: bool = False) -> dict[str, Any]:
        # A browser names the page that asks; programs, which no page can lead here, do not.
        if request.headers.get("origin", _own(request)) != _own(request):
            raise _refusal(403, "the page of another site may not ask")
        if row not in rows:
            raise _refusal(404, f"there is no row {row}")
        data = await _body(request)
        try:
            model = await run_in_threadpool(loaded, row)
            return await run_in_threadpool(answer, model, data, "as-is" if as_is else "auto")
        except ProtodlError as error:
            raise _refusal(422, str(error)) from None

    app.get("/{name:path}")(_file)
    return app


def _own(request: Any) -> str:
    return str(request.base_url).rstrip("/")


def _file(name: str) -> Any:
    """One of the page's files; the page itself without a name."""
    from fastapi import Response

    name = name or "try.html"
    if name not in KINDS:
        raise _refusal(404, "there is no such page")
    content = files("protodl.page").joinpath(name).read_bytes()
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"}
    headers |= {"X-Content-Type-Options": "nosniff"}
    return Response(content, media_type=KINDS[name], headers=headers)


async def _body(request: Any) -> bytes:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > LARGEST_UPLOAD:
            raise _refusal(413, "the image is larger than 32 MB; make it smaller")
    return bytes(data)


def _refusal(status: int, words: str) -> Exception:
    from fastapi import HTTPException

    return HTTPException(status, words)


def answer(model: Model, data: bytes, prepare: Preparation) -> dict[str, Any]:
    """Everything that the page shows of one image, as JSON has it; pictures are data URIs.

    `baseline` (K,) and `contributions` (K, P) sum to `logits` (K,): the page switches a prototype
    off by leaving its column out, as if the image were as far from it as images usually are.

    Raises:
        InputError: the data is no image, or one that shows nothing.
    """
    explanation = explain(model, picture_of_bytes(data), name="image", prepare=prepare)
    numbers = measure(model, torch.from_numpy(explanation.image))
    reasons = sorted(explanation.prototypes, key=lambda reason: reason.index)
    return {
        "classes": model.info.class_names,
        "notes": explanation.notes,
        "warnings": explanation.warnings,
        "remarks": explanation.remarks,
        "change": explanation.change_in_words,
        "limits": explanation.limits_in_words,
        "image": data_uri(explanation.image),
        "reconstruction": data_uri(explanation.reconstruction),
        "baseline": explanation.baseline_logits,
        "contributions": numbers.contributions.tolist(),
        "cases": [
            {"label": case.label, "picture": data_uri(case.picture)}
            for case in explanation.nearest_cases
        ],
        "prototypes": [
            {
                "class": reason.class_name,
                "distance": reason.distance,
                "usual": reason.usual_distance,
                "picture": data_uri(reason.picture),
                "case": data_uri(reason.nearest_case.picture),
            }
            for reason in reasons
        ],
    }


def data_uri(image: Array) -> str:
    """An image (C, H, W), uint8 or floats in [0, 1], as a PNG that stands in the page itself."""
    pixels = image if image.dtype == np.uint8 else (image * 255).round().clip(0, 255)
    pixels = pixels.astype(np.uint8).transpose(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def serve(rows: Mapping[str, str], load: Callable[[str], Model], port: int) -> None:
    """Serve the page until it is stopped, and print its address.

    Raises:
        ProtodlError: the port is taken.
    """
    import socket

    import uvicorn

    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
        except OSError:
            raise ProtodlError(f"port {port} is taken; choose another: --port {port + 1}") from None
        print(f"http://{HOST}:{listening.getsockname()[1]}/  (Ctrl+C ends it)", flush=True)
        config = uvicorn.Config(application(rows, load), log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[listening])
