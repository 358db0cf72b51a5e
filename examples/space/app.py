"""A Hugging Face Space: the page of `i2srm app` for one model, which visitors try in the browser."""

import os
import threading
from contextlib import AbstractContextManager

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported

from reference_models.app.page import served
from reference_models.settings import read_settings

MODEL = os.environ.get("MODEL", "model")  # a folder beside this file, or a name on the hub such as user/model


def serve(host: str = "0.0.0.0", port: int | None = 7860) -> AbstractContextManager[str]:
    """Serve the page where a Space expects it; `centre` finds objects without weights of its own."""
    return served(MODEL, read_settings(None, ["--grounding.detector", "centre"]), host=host, port=port)


if __name__ == "__main__":
    with serve():
        threading.Event().wait()
