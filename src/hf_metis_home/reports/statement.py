"""What an evaluation shows, in sentences made from its figures."""

from .page import decimal, known, percent


def statement(metrics: dict) -> list[str]:
    """
    Sentences on all questions together.

    Args:
        metrics (`dict`):
            What [`~evaluation.metrics.evaluate_outcomes`] gives, with `run` where the run is known. What it does not
            know is not spoken of.

    Returns:
        `list[str]`.
    """
    cells = metrics["tasks"]["all"]
    policies = {name: cell for name, cell in cells["policies"].items() if cell and known(cell["accuracy"])}
    sentences = [
        _router(cells, policies),
        _model(policies),
        _branches(policies),
        _oracle(cells, policies),
        _failed(cells),
        _calibration(metrics.get("run") or {}),
    ]
    sentences[3:3] = _others(policies)
    return [sentence for sentence in sentences if sentence]


def _calibration(run: dict) -> str | None:
    """What was wrong with it when the model was evaluated."""
    model = run.get("model")
    problem = model.get("calibration") if isinstance(model, dict) else None
    return f"When this was evaluated: {problem}" if problem else None


def _router(cells: dict, policies: dict) -> str | None:
    router = policies.get("router")
    if router is None:
        return None
    text = (
        f"The router thinks about {percent(router['thinking_ratio'])} % of the questions; its answers are right on "
        f"{_accuracy(router)}, with {decimal(router['tokens'])} tokens each on average"
    )
    if known(cells.get("tokens_saved")):
        saved = cells["tokens_saved"]
        text += f", {percent(abs(saved))} % {'fewer' if saved >= 0 else 'more'} than thinking always"
    return text + "."


def _model(policies: dict) -> str | None:
    model = policies.get("model")
    if model is None:
        return None
    return (
        f"The model's answers are right on {_accuracy(model)}, with {decimal(model['tokens'])} tokens each on average; "
        f"{percent(model['thinking_ratio'])} % of them have a thought."
    )


def _branches(policies: dict) -> str | None:
    parts = [
        f"{words} gives {_accuracy(policies[name])} with {decimal(policies[name]['tokens'])} tokens"
        for name, words in (("thinking", "Thinking always"), ("non_thinking", "Thinking never"))
        if name in policies
    ]
    return ("; ".join(parts).replace("; T", "; t") + ".") if parts else None


def _others(policies: dict) -> list[str]:
    """The router, or else the model's only column, against chance and against every baseline."""
    sentences = []
    router = policies.get("router")
    if router is None:
        return []
    for name, cell in policies.items():
        if name in ("router", "thinking", "non_thinking", "oracle"):
            continue
        points = 100 * (router["accuracy"] - cell["accuracy"])
        tokens = f", with {decimal(cell['tokens'])} tokens" if known(cell.get("tokens")) else ""
        who = "Thinking just as often, but at random, gives" if name == "random" else f"The dense model {name!r} gives"
        sentences.append(f"{who} {_accuracy(cell)}{tokens}: the router is {_points(points)}{_paired(cell)}.")
    return sentences


def _points(points: float) -> str:
    return f"{abs(points):.1f} points {'above' if points >= 0 else 'below'}"


def _paired(cell: dict) -> str:
    """The interval of the difference on the same questions: two intervals may overlap where there is a difference."""
    low, high = cell.get("difference_interval") or (None, None)
    if not (known(low) and known(high)):
        return ""
    return f" (question by question, 95 % interval {100 * low:+.1f} to {100 * high:+.1f})"


def _oracle(cells: dict, policies: dict) -> str | None:
    oracle = policies.get("oracle")
    if oracle is None:
        return None
    text = f"An oracle that knows which branch is right would reach {percent(oracle['accuracy'])} %"
    if known(oracle.get("thinking_ratio")):
        text += f", thinking about {percent(oracle['thinking_ratio'])} % of the questions"
    return text + "."


def _failed(cells: dict) -> str | None:
    if not cells.get("failed"):
        return None
    return f"{cells['failed']:,} of {cells['n']:,} rows failed, for the reasons in the report, and count as wrong."


def _accuracy(cell: dict) -> str:
    low, high = cell.get("interval") or (None, None)
    interval = f" (95 % interval {percent(low)} to {percent(high)})" if known(low) and known(high) else ""
    return f"{percent(cell['accuracy'])} %{interval}"
