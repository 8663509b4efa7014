"""
Reading and writing answers such as `<think>steps</think><answer>result</answer>` (arXiv 2510.20519), whole or partial.

`metis-home space` ships this file with the app, so it imports only the standard library.
"""

import re
from dataclasses import dataclass
from itertools import permutations


@dataclass(frozen=True)
class Completion:
    """
    A parsed completion.

    Args:
        thought (`str`, *optional*):
            The text inside the first think block, stripped; `""` for an empty block, None if no block was opened.
        answer (`str`):
            What a reader should see: everything outside the first think block, without the tags of the first answer
            block, stripped.
        final (`str`, *optional*):
            The answer that counts, stripped; None if the completion is malformed. The thought must be closed, if one
            was opened. With answer tags, exactly one closed answer block must follow it, not empty and with only white
            space after it. Without answer tags, it is the text after the thought.
        well_formed (`bool`):
            Whether the text is exactly one thought and one answer that is not empty: each tag once, and only white
            space around the blocks.
    """

    thought: str | None
    answer: str
    final: str | None
    well_formed: bool


@dataclass(frozen=True)
class AnswerFormat:
    """
    How a completion is divided into a thought and an answer. All methods take time linear in the length of the text.

    Args:
        thinking_tags (`tuple[str, str]`, *optional*, defaults to `("<think>", "</think>")`):
            The tags around the thought.
        answer_tags (`tuple[str, str]`, *optional*, defaults to `("<answer>", "</answer>")`):
            The tags around the answer; None for plain text after the thought, as Qwen3 writes.

    Raises:
        ValueError: an empty tag, or one that another tag begins with.

    Example:

    ```python
    >>> from hf_metis_home import AnswerFormat

    >>> AnswerFormat().parse("<think>3 + 4</think><answer>7</answer>")
    Completion(thought='3 + 4', answer='7', final='7', well_formed=True)
    >>> AnswerFormat(answer_tags=None).parse("<think>3 + 4</think>It is 7.").final
    'It is 7.'
    ```
    """

    thinking_tags: tuple[str, str] = ("<think>", "</think>")
    answer_tags: tuple[str, str] | None = ("<answer>", "</answer>")

    def __post_init__(self):
        if any(tag.startswith(other) for tag, other in permutations(self.tags, 2)):
            raise ValueError(
                f"The tags of an answer format are {list(self.tags)}, but none may be empty or begin with another one."
            )

    @classmethod
    def of(cls, config) -> "AnswerFormat":
        """The answer format in a model config's `answer_format`; the default if it has none, like a dense model's."""
        fields = getattr(config, "answer_format", None) or {}
        return cls(**{name: tags and tuple(tags) for name, tags in fields.items()})

    @property
    def tags(self) -> tuple[str, ...]:
        """All tags, in the order in which they are written."""
        return (*self.thinking_tags, *(self.answer_tags or ()))

    def render(self, thought: str | None, answer: str) -> str:
        """
        Write a completion.

        Args:
            thought (`str`, *optional*):
                The steps; None or `""` for a direct answer.
            answer (`str`):
                The result.

        Raises:
            ValueError: a tag inside the thought or the answer, or an empty answer.

        Example:

        ```python
        >>> from hf_metis_home import AnswerFormat

        >>> AnswerFormat().render(None, "yes")
        '<think></think><answer>yes</answer>'
        ```
        """
        thought = thought or ""
        for name, text in (("thought", thought), ("answer", answer)):
            if tag := next((tag for tag in self.tags if tag in text), None):
                raise ValueError(f"`{name}` contains {tag!r}, a tag of the answer format. Remove it.")
        if not answer.strip():
            raise ValueError(f"`answer` is {answer!r}, but an answer needs text.")
        (think, end_think), (begin, end) = self.thinking_tags, self.answer_tags or ("", "")
        line = "" if self.answer_tags else "\n"  # Qwen3 puts a thought on lines of its own
        return f"{think}{line}{thought}{line}{end_think}{line * 2}{begin}{answer}{end}"

    def parse(self, text: str, opening: str = "") -> Completion:
        """
        Parse a completion, well formed or not.

        Args:
            text (`str`):
                The decoded tokens of a completion.
            opening (`str`, *optional*, defaults to `""`):
                The part of the answer that is in the prompt, which `text` continues.

        Returns:
            [`Completion`]. A text that is cut off inside the thought gives that thought and no answer.
        """
        text = opening + text
        thought, answer = self.split(text)
        opened, final = self.thinking_tags[0] in text, self._final(text)
        once = all(text.count(tag) == 1 for tag in self.tags)
        return Completion(thought if opened else None, answer, final, once and answer == final)

    def split(self, text: str, finished: bool = True) -> tuple[str, str]:
        """
        The thought and the answer to show to a reader, also while they are being written.

        Args:
            text (`str`):
                The completion so far, including any opening in the prompt.
            finished (`bool`, *optional*, defaults to True):
                If False, more text may follow, so an end that could become a tag is held back. As the text grows, the
                thought and the answer only grow.

        Returns:
            `tuple[str, str]`: thought and answer, stripped, each `""` if there is none (yet).

        Example:

        ```python
        >>> from hf_metis_home import AnswerFormat

        >>> AnswerFormat().split("<think>17 + 4</think><ans", finished=False)
        ('17 + 4', '')
        ```
        """
        (think, end_think), (begin, end) = self.thinking_tags, self.answer_tags or ("", "")
        shown = {"thought": [], "answer": []}
        part, position = "answer", 0
        outside = [think, begin] if begin else [think]  # the tags that may come next outside the thought
        while expected := [end_think] if part == "thought" else outside:
            found = re.compile("|".join(map(re.escape, expected))).search(text, position)
            if not found:
                break
            shown[part].append(text[position : found.start()])
            position, tag = found.end(), found.group()
            if tag == end_think:
                part = "answer"
                continue
            outside.remove(tag)
            if tag == think:
                part = "thought"
            elif tag == begin:
                outside.append(end)
        held = 0
        if not finished:
            tail = text[position:]
            starts = (tag[:length] for tag in expected for length in range(1, len(tag)))
            held = max((len(start) for start in starts if tail.endswith(start)), default=0)
        shown[part].append(text[position : len(text) - held])
        return "".join(shown["thought"]).strip(), "".join(shown["answer"]).strip()

    def reasons(self, text: str) -> bool:
        """Whether a completion has a thought that is not empty, or text outside the answer block."""
        parsed = self.parse(text)
        if parsed.thought or self.answer_tags is None:
            return bool(parsed.thought)
        begin, end = self.answer_tags
        return parsed.answer != text.partition(begin)[2].partition(end)[0].strip()

    def _final(self, text: str) -> str | None:
        before, opened, rest = text.partition(self.thinking_tags[0])
        _, closed, after = rest.partition(self.thinking_tags[1])
        if not opened:
            before, after = "", text
        elif not closed:
            return None
        if self.answer_tags is None:
            return after.strip() or None
        begin, end = self.answer_tags
        final, ended, behind = after.partition(begin)[2].partition(end)
        blocks = [before.count(tag) + after.count(tag) for tag in self.answer_tags]
        return final.strip() or None if ended and not behind.strip() and blocks == [1, 1] else None


FORMAT = AnswerFormat()  # the default
