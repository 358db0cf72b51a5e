"""The browser page: a thin Gradio layer over `answers` and `view`. No request leaves the machine."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from reference_models.app.answers import GIVEN, WITHOUT, Answers
from reference_models.app.examples import Example, read_examples, titles
from reference_models.app.style import STYLE
from reference_models.app.view import answer_view, file_view, problem
from reference_models.config import RunConfig
from reference_models.errors import UserError
from reference_models.prediction import Predictor
from reference_models.training.folder import CONFIG

EXAMPLES = 12  # maximum number of posts from the test split
FONTS = ["system-ui", "Segoe UI", "Helvetica Neue", "Arial", "sans-serif"]
FIXED_FONTS = ["ui-monospace", "Consolas", "monospace"]
WIDTH = ".gradio-container { max-width: 76rem !important; margin: 0 auto !important; }"


@contextmanager
def served(model: Path | str, config: RunConfig, *, host: str, port: int | None) -> Iterator[str]:
    """Serve the page of a model; on exit, stop the server and delete its files.

    Args:
        model: Folder of a finished run or of a model, or the name of a model on the Hugging Face hub.
        config: Settings of the run, possibly with another data folder or detector. For a model without its run, only
            the detector settings are used.
        host: Address that the server listens on; "127.0.0.1" can be reached only from this machine.
        port: Port of the server; None for the first free port from 7860.

    Yields:
        URL of the page.

    Raises:
        UserError: If the model does not exist, the port is taken, or the host is not an address of this machine.
    """
    with tempfile.TemporaryDirectory() as name:
        os.environ["GRADIO_TEMP_DIR"] = name  # for uploads; a process serves one page at a time
        predictor = Predictor(model)
        answers = Answers(predictor, config.grounding, Path(name))
        examples, missing = [], ""
        if Path(model, CONFIG).is_file():
            try:
                examples = read_examples(config, predictor.processor.task, EXAMPLES)
            except UserError as error:
                missing = f"No examples: {error}"
        page = build_page(answers, examples, f"{predictor.system} from {model}", missing)
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                share=False,
                quiet=True,
                inbrowser=False,
                prevent_thread_lock=True,
                footer_links=[],
                ssr_mode=False,
                mcp_server=False,
                theme=make_theme(),
                css=WIDTH + STYLE,
            )
        except OSError as error:
            raise UserError(f"the page cannot be served at {host}, port {port or 'any'} ({error})") from error
        try:
            yield address
        finally:
            page.close(verbose=False)


def make_theme() -> gr.themes.Base:
    """Return a theme with the system fonts and accessible colour contrast."""
    return gr.themes.Base(font=FONTS, font_mono=FIXED_FONTS).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        input_placeholder_color="*neutral_600",
        input_placeholder_color_dark="*neutral_300",
    )


def build_page(answers: Answers, examples: Sequence[Example], title: str, missing: str = "") -> gr.Blocks:
    """Build the page.

    Args:
        answers: Predicts posts with the model.
        examples: Posts to choose from.
        title: Title of the page.
        missing: Why there are no examples.

    Returns:
        The page, which is not served yet.
    """
    task = answers.task
    # All buttons share one queue, so the model handles one request at a time.
    model: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
    free: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    page = gr.Blocks(title=f"i2srm: {title}", analytics_enabled=False)
    with page:
        gr.Markdown(f"# {task.title.capitalize()} in a post\n\nModel: {title}. {missing}")
        chosen = gr.State(None)  # number of the example whose image is shown
        with gr.Tab("One post"), gr.Row():
            with gr.Column(scale=2, min_width=320):
                example = gr.Dropdown(titles(examples), value=None, label="Example", visible=bool(examples))
                text = gr.Textbox(label="Sentence, with spaces between the words", lines=2, max_lines=6)
                keys = [
                    gr.Textbox(label=f"{key.capitalize()} entity, exactly as in the sentence", max_lines=1)
                    for key in task.post_keys
                ]
                texts = [gr.Textbox(label=f"{kind.capitalize()}: text about the image") for kind in answers.texts]
                image: Any = gr.Image(
                    label="Image: upload or paste",
                    sources=["upload", "clipboard"],
                    image_mode=None,
                    type="filepath",
                    height=260,
                    visible=answers.sees_images,
                    buttons=[],
                    alt_text="The image of the post",
                )
                # Pass the uploaded file on unread, so that our message reports an unreadable file, not Gradio's.
                image.preprocess = lambda payload: payload and payload.path
                crops = gr.Radio(
                    [("from the example", GIVEN), *answers.detectors, ("none", WITHOUT)],
                    value=GIVEN if examples else answers.detectors[0],
                    label="Object crops: from the example, or found by a detector",
                    visible=answers.sees_images,
                )
                ask = gr.Button("Predict", variant="primary")
            with gr.Column(scale=3, min_width=320):
                answer = gr.HTML(label="Prediction", elem_id="answer", apply_default_css=False)
        with gr.Tab("A file of posts"):
            gr.Markdown(
                "Upload a .jsonl file with one post per line, for example "
                f"`{example_line(answers)}`, together with the images that its posts name."
            )
            files = gr.File(label="Posts and their images", file_count="multiple", height=200, elem_id="posts")
            of_file = gr.Radio(
                [*answers.detectors, ("none", GIVEN)],
                value=answers.detectors[0],
                label="Object crops for posts that name none: found by a detector",
                visible=answers.sees_images,
            )
            ask_file = gr.Button("Predict the file", variant="primary")
            summary = gr.HTML(elem_id="summary", apply_default_css=False)
            download = gr.DownloadButton("Download the predictions", visible=False)

        def show_example(number: int | None) -> list[Any]:
            if number is None:
                return [gr.skip()] * len(outputs)
            post = examples[number].post
            given = post.get("image_texts", {})
            return [
                post["text"],
                *(post[key] for key in task.post_keys),
                *(given.get(kind, "") for kind in answers.texts),
                *(post.get("image"), GIVEN, number, ""),
            ]

        def take_own(number: int | None, choice: str) -> tuple[None, str, None]:
            return None, answers.detectors[0] if choice == GIVEN else choice, None

        def answer_post(text: str, path: str | None, choice: str, number: int | None, *named: str) -> str:
            post: dict[str, Any] = {"text": text or "", **dict(zip(task.post_keys, named[: len(keys)], strict=True))}
            about_image = dict(zip(answers.texts, named[len(keys) :], strict=True))
            if any(about_image.values()):
                post["image_texts"] = about_image
            boxes = {}
            if path is not None and number is not None and choice == GIVEN:
                boxes = examples[number].boxes
                post |= {key: examples[number].post[key] for key in ("image", "crops")}
            elif path is not None:
                post["image"] = path
            try:
                return answer_view(task, answers.answer(post, choice, boxes))
            except UserError as error:
                return problem(str(error))

        def answer_file(paths: list[str] | None, choice: str) -> tuple[str, Any]:
            try:
                path, counts = answers.answer_file([Path(path) for path in paths or ()], choice)
            except UserError as error:
                return problem(str(error)), gr.update(visible=False)
            return file_view(counts), gr.update(value=str(path), visible=True)

        inputs = [text, image, crops, chosen, *keys, *texts]
        outputs = [text, *keys, *texts, image, crops, chosen, answer]
        shown = example.input(show_example, [example], outputs, **free)
        shown.then(answer_post, inputs, answer, **model)
        for own in (image.upload, image.clear):
            own(take_own, [chosen, crops], [chosen, crops, example], **free)
        for event in (ask.click, text.submit, *(box.submit for box in (*keys, *texts))):
            event(answer_post, inputs, answer, **model)
        ask_file.click(answer_file, [files, of_file], [summary, download], **model)
    return page


def example_line(answers: Answers) -> str:
    """Return an example line of a file of posts."""
    parts = ['"text": "Ann Lee lives in Rome"']
    parts += [f'"{key}": "{value}"' for key, value in zip(answers.task.post_keys, ("Ann Lee", "Rome"), strict=False)]
    parts += ['"image": "1.jpg"'] if answers.sees_images else []
    parts += [f'"image_texts": {{"{kind}": "a red car"}}' for kind in answers.texts[:1]]
    return "{" + ", ".join(parts) + "}"
