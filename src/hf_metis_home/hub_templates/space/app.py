"""
A Gradio Space for a hybrid-thinking vision-language model. A router reads each question and sends it to the branch that
thinks first or to the one that answers directly. Visitors can change the threshold, choose the branch, or compare both.

Written by `metis-home space`, and yours to change. To run it, `pip install -r requirements.txt gradio`, then:

    python app.py
"""

import os


os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

try:
    import spaces  # on ZeroGPU; must be imported before torch
except ImportError:
    spaces = None

import dataclasses
import html
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import gradio as gr
import torch
from answer_format import AnswerFormat
from PIL import Image, ImageOps
from transformers import AutoModelForImageTextToText, AutoProcessor, TextIteratorStreamer


MODEL = "OWNER/NAME"
REVISION = None  # a commit of MODEL
TITLE = "Hybrid thinking"

MAX_NEW_TOKENS = 2048
MAX_QUESTION = 2000  # characters
MAX_BYTES = 10 * 2**20  # per upload
MAX_PIXELS = 25_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
SECONDS_OF_GPU = 120  # per request, on ZeroGPU
MODES = {"The router": "auto", "Think first": "think", "Answer directly": "direct"}
BRANCHES = {True: "thinking", False: "non-thinking"}
EXAMPLES = Path(__file__).parent / "examples"
QUESTIONS = {
    "bars.png": "What is the sum of the two highest bars?",
    "sign.png": "What does the sign say?",
    "shapes.png": "How many more circles than squares are there?",
}

# `trust_remote_code=True` runs the Python files of the model's repository on this Space's machine. REVISION pins them
# to one commit, so what runs is what you have read.
source = {"pretrained_model_name_or_path": MODEL, "revision": REVISION, "trust_remote_code": True}
model = AutoModelForImageTextToText.from_pretrained(**source, dtype="auto").eval()
processor = AutoProcessor.from_pretrained(**source)
model.to("cuda" if torch.cuda.is_available() else "cpu")
answer_format = AnswerFormat.of(model.config)


def gpu(function):
    """On ZeroGPU, gives the function a GPU while it runs."""
    return function if spaces is None else spaces.GPU(duration=SECONDS_OF_GPU)(function)


class Streamer(TextIteratorStreamer):
    """Streams text and counts its tokens."""

    tokens = 0

    def put(self, value):
        self.tokens += 0 if self.next_tokens_are_prompt else value.numel()
        super().put(value)


def refuse(message: str):
    """Shows the visitor a message. Gradio renders it as HTML, so it must be escaped."""
    raise gr.Error(html.escape(message), print_exception=False)


def read_upload(payload) -> Image.Image | None:
    """The uploaded image, or a message on why it cannot be used. Nothing is decoded before its size is known."""
    if payload is None:
        return None
    try:
        if Path(payload.path).stat().st_size > MAX_BYTES:
            refuse(f"The image file is larger than {MAX_BYTES // 2**20} MB. Make it smaller.")
        with Image.open(payload.path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            return ImageOps.exif_transpose(image).convert("RGB")
    except Image.DecompressionBombError:
        refuse(f"The image has more than {MAX_PIXELS // 10**6} million pixels. Make it smaller.")
    except gr.Error:
        raise
    except Exception:  # the many decoders raise many kinds
        refuse(f"This file cannot be read as an image. Use one of {', '.join(FORMATS)}.")


def model_inputs(image: Image.Image | None, question: str):
    """Model inputs for the image, if there is one, and the question."""
    question = (question or "").strip()
    if not question:
        refuse("Ask a question.")
    if len(question) > MAX_QUESTION:
        refuse(f"The question has {len(question)} characters. Use at most {MAX_QUESTION}.")
    for token in processor.tokenizer.added_tokens_decoder.values():
        if token.special and token.content in question:
            refuse(f"{token.content} is reserved for the chat template. Remove it from the question.")
    pictures = [] if image is None else [{"type": "image", "image": image}]
    messages = [{"role": "user", "content": [*pictures, {"type": "text", "text": question}]}]
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    if room_for_answer(inputs) < 1:
        refuse("The image and the question are too long for the model. Make them smaller.")
    return inputs


def room_for_answer(inputs) -> int:
    return model.config.get_text_config().max_position_embeddings - inputs["input_ids"].shape[1]


def stream(inputs, decision) -> Iterator[tuple[str, str, int]]:
    """The answer of the chosen branch while it is generated: thought, answer, tokens. Closing the iterator stops it."""
    streamer = Streamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    stopped, errors, text = [], [], ""

    def generate():
        try:
            model.generate(
                **inputs,
                decision=decision,
                streamer=streamer,
                max_new_tokens=min(MAX_NEW_TOKENS, room_for_answer(inputs)),
                do_sample=False,
                stopping_criteria=[lambda input_ids, scores, **kwargs: bool(stopped)],
            )
        except Exception as error:
            errors.append(error)
            streamer.end()

    thread = threading.Thread(target=generate)
    thread.start()
    try:
        for piece in streamer:
            text += piece
            yield *answer_format.split(text, finished=False), streamer.tokens
        yield *answer_format.split(text), streamer.tokens
    finally:
        stopped.append(True)
        thread.join()
    if errors:
        raise errors[0]


@gpu
def run(inputs, mode: str, threshold: float, both: bool) -> Iterator[tuple]:
    """
    Everything the model does for a request. Yields first the router's choice, its probability and the branch that
    answers, then repeatedly a branch with its thought, answer, tokens and seconds. Plain values, because ZeroGPU runs
    this in another process.
    """
    inputs = inputs.to(model.device)
    routed = model.decide(**inputs, thinking_threshold=threshold)
    routers = bool(routed.thinking)
    chosen = {"auto": routers, "think": True, "direct": False}[mode]
    yield routers, float(routed.thinking_probability), chosen
    for thinking in (False, True) if both else (chosen,):
        started = time.perf_counter()
        decision = dataclasses.replace(routed, thinking=torch.full_like(routed.thinking, thinking))
        for thought, text, tokens in stream(inputs, decision):
            yield thinking, thought, text, tokens, time.perf_counter() - started


def decision_card(routers: bool, probability: float, chosen: bool, threshold: float, mode: str) -> str:
    """Which branch answers, and why. Contains only numbers and the texts below."""
    compared = "at or above" if routers else "below"
    router = f"The router's probability of thinking is {probability:.3f}, {compared} the threshold of {threshold:.3f}"
    reason = f"{router}." if mode == "auto" else f"{router}: it would have chosen the {BRANCHES[routers]} branch."
    by = {"auto": "The router chose", "think": "You chose", "direct": "You chose", "both": "Both branches answer"}
    branch = "" if mode == "both" else f" the {BRANCHES[chosen]} branch"
    return (
        f'<p class="chosen">{by[mode]}{branch}.</p>'
        f'<div class="dial" role="img" aria-label="{router}"><div style="width:{100 * probability:.1f}%"></div>'
        f'<i style="left:{100 * threshold:.1f}%"></i></div>'
        f"<p>{reason}</p>"
    )


def answer(image, question: str, mode: str, threshold: float, visitor: dict, both: bool = False):
    """Updates of the page while one branch answers, or one after the other. Ends early when Stop is pressed."""
    number = visitor["asked"]
    with closing(run(model_inputs(image, question), mode, threshold, both)) as steps:
        if visitor["stopped"] >= number:  # while waiting in the queue
            return
        routers, probability, chosen = next(steps)
        card = decision_card(routers, probability, chosen, threshold, "both" if both else mode)
        page = {decision: card}
        for thinking, panel in panels.items():
            page |= panel.cleared(visible=both or thinking == chosen)
        yield page
        for thinking, thought, text, tokens, seconds in steps:
            yield panels[thinking].filled(thought, text, tokens, seconds)
            if visitor["stopped"] >= number:
                return


def answer_both(image, question: str, mode: str, threshold: float, visitor: dict):
    yield from answer(image, question, mode, threshold, visitor, both=True)


def count_question(visitor: dict):
    visitor["asked"] += 1


def stop_answers(visitor: dict):
    """Stops everything the visitor has asked so far. Gradio's `cancels` may leave "Error" on the page."""
    visitor["stopped"] = visitor["asked"]


class Panel:
    """One branch's side of the page. The model's text goes into text boxes, which do not render HTML or Markdown."""

    def __init__(self, thinking: bool):
        name = BRANCHES[thinking]
        with gr.Column(visible=False, min_width=230, elem_id=name, elem_classes="branch") as self.column:
            gr.HTML(f"<h3>{name.capitalize()} branch</h3>")
            with gr.Accordion("Thought", open=False, visible=False, elem_id=f"{name}-fold") as self.fold:
                bare = {"show_label": False, "container": False}
                self.thought = gr.Textbox(lines=3, max_lines=20, elem_id=f"{name}-thought", **bare)
            self.answer = gr.Textbox(label="Answer", lines=2, max_lines=20, buttons=["copy"], elem_id=f"{name}-answer")
            self.counter = gr.HTML(elem_id=f"{name}-counter", elem_classes="counter")
        self.parts = [self.column, self.fold, self.thought, self.answer, self.counter]

    def cleared(self, visible: bool) -> dict:
        closed = gr.update(visible=False, open=False)
        return dict(zip(self.parts, (gr.update(visible=visible), closed, "", "", ""), strict=True))

    def filled(self, thought: str, text: str, tokens: int, seconds: float) -> dict:
        counter = f"{tokens} {'token' if tokens == 1 else 'tokens'} · {seconds:.1f} s"
        return dict(zip(self.parts[1:], (gr.update(visible=bool(thought)), thought, text, counter), strict=True))


FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # nothing is fetched
THEME = gr.themes.Soft(primary_hue="indigo", secondary_hue="teal", neutral_hue="slate", **FONTS)
CSS = """
.gradio-container {max-width: 1180px !important; margin: 0 auto}
#intro h1 {font-size: 1.6rem; margin: .3rem 0}
#intro p {color: var(--body-text-color-subdued); margin: 0}
#decision .chosen {font-weight: 600; font-size: 1.05rem}
#decision p {margin: .25rem 0}
.dial {position: relative; height: 10px; border-radius: 5px; background: var(--border-color-primary); margin: .4rem 0}
.dial > div {height: 100%; border-radius: 5px; background: var(--primary-500)}
.dial > i {position: absolute; top: -4px; width: 2px; height: 18px; background: var(--body-text-color)}
.branch {border-top: 3px solid var(--secondary-500); gap: .4rem !important}
#thinking {border-color: var(--primary-500)}
.branch h3 {margin: .2rem 0; font-size: 1rem}
.counter {color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums}
button.md {white-space: nowrap}
"""

with gr.Blocks(title=TITLE, analytics_enabled=False) as demo:
    at = "" if REVISION is None else f" at {REVISION[:7]}"
    gr.HTML(
        f"<h1>{html.escape(TITLE)}</h1><p>One model, two modes: a router reads the question and sends it to the branch "
        f"that thinks first or to the one that answers directly. Model: {html.escape(Path(MODEL).name + at)}</p>",
        elem_id="intro",
    )
    with gr.Row():
        with gr.Column(min_width=340, scale=2):
            picture = gr.Image(label="Image", sources=["upload", "clipboard"], height=280, elem_id="image")
            picture.preprocess = read_upload  # for a file that is not an image, Gradio's own only says "Error"
            question = gr.Textbox(
                label="Question", lines=2, max_lines=6, max_length=MAX_QUESTION, autofocus=True, elem_id="question"
            )
            mode = gr.Radio(list(MODES.items()), value="auto", label="Who chooses the branch", elem_id="mode")
            threshold = gr.Slider(
                0, 1, value=model.config.thinking_threshold, step=0.01, label="Threshold", elem_id="threshold",
                info="The model thinks if the router's probability is at least this. Lower means more thinking.",
            )  # fmt: skip
            with gr.Row():
                ask = gr.Button("Answer", variant="primary", size="md", elem_id="ask", min_width=90)
                compare = gr.Button("Both branches", size="md", elem_id="compare", min_width=130)
                stop = gr.Button("Stop", size="md", elem_id="stop", min_width=70)
        with gr.Column(min_width=340, scale=3):
            decision = gr.HTML("<p>Ask a question, or pick an example below.</p>", elem_id="decision")
            with gr.Row():
                panels = {thinking: Panel(thinking) for thinking in (True, False)}
    gr.Examples(
        [[str(EXAMPLES / name), text] for name, text in QUESTIONS.items()], [picture, question], label="Examples"
    )

    mode.change(
        lambda choice: gr.update(interactive=choice == "auto"), mode, threshold, queue=False, api_visibility="private"
    )
    visitor = gr.State({"asked": 0, "stopped": -1})  # question numbers; each visitor has a copy
    inputs = [picture, question, mode, threshold, visitor]
    outputs = [decision, *(part for panel in panels.values() for part in panel.parts)]
    at_once = {"inputs": visitor, "queue": False, "show_progress": "hidden", "api_visibility": "private"}
    shared = {"concurrency_id": "model", "concurrency_limit": 1, "show_progress": "minimal"}
    asked = gr.on([ask.click, question.submit], count_question, **at_once)
    asked.then(answer, inputs, outputs, api_name="answer", **shared)
    compare.click(count_question, **at_once).then(answer_both, inputs, outputs, api_name="answer_both", **shared)
    stop.click(stop_answers, **at_once)

demo.queue(max_size=32)

if __name__ == "__main__":
    demo.launch(
        theme=THEME,
        css=CSS,
        max_file_size=MAX_BYTES,
        allowed_paths=[str(EXAMPLES)],
        footer_links=["api", "gradio"],
        ssr_mode=False,
    )
