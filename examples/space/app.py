"""Hugging Face Space that serves the page of `i2srm app` for one model."""

import os
import threading
from contextlib import AbstractContextManager

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported

from reference_models.app.page import served
from reference_models.settings import read_settings

MODEL = os.environ.get("MODEL", "model")  # a folder next to this file, or a name on the hub such as user/model


def serve(host: str = "0.0.0.0", port: int | None = 7860) -> AbstractContextManager[str]:
    """Serve the page at the address that a Space expects. The detector `centre` needs no weights."""
    return served(MODEL, read_settings(None, ["--grounding.detector", "centre"]), host=host, port=port)


if __name__ == "__main__":
    with serve():
        threading.Event().wait()
