"""What an evaluation shows, in sentences made from its metrics."""

from .page import decimal, interval_of, interval_words, known, percent


OURS = ("router", "thinking", "non_thinking", "oracle")  # policies that the router is not compared with in a sentence


def statement(metrics: dict) -> list[str]:
    """
    Sentences about all questions together.

    Args:
        metrics (`dict`):
            What [`~evaluation.metrics.evaluate_outcomes`] returns, and optionally `run`, the record of the evaluation.
            Unknown figures are not mentioned.

    Returns:
        `list[str]`.
    """
    cells = metrics["tasks"]["all"]
    policies = {name: cell for name, cell in cells["policies"].items() if cell and known(cell["accuracy"])}
    sentences = []
    if router := policies.get("router"):
        saved = ""
        if known(cells.get("tokens_saved")):
            more = "fewer" if cells["tokens_saved"] >= 0 else "more"
            saved = f", {percent(abs(cells['tokens_saved']))} % {more} than always thinking"
        thinks = f"The router thinks on {percent(router['thinking_ratio'])} % of the questions"
        sentences.append(f"{thinks}. Its answers: {_result(router)}{saved}.")
    if model := policies.get("model"):
        ratio = percent(model["thinking_ratio"])
        sentences.append(f"The model's answers: {_result(model)}. {ratio} % of them contain a thought.")
    for name, words in (("thinking", "Always thinking"), ("non_thinking", "Never thinking")):
        if name in policies:
            sentences.append(f"{words}: {_result(policies[name])}.")
    for name in [name for name in policies if router and name not in OURS]:
        cell = policies[name]
        who = "Thinking just as often, but at random" if name == "random" else f"The dense model {name!r}"
        points = 100 * (router["accuracy"] - cell["accuracy"])
        difference = f"the router is {abs(points):.1f} points {'higher' if points >= 0 else 'lower'}"
        if paired := interval_of(cell, "difference_interval"):  # their own intervals may overlap despite a difference
            difference += f" (paired 95 % interval {100 * paired[0]:+.1f} to {100 * paired[1]:+.1f})"
        sentences.append(f"{who}: {_result(cell)}; {difference}.")
    if oracle := policies.get("oracle"):
        ratio = oracle.get("thinking_ratio")
        thinking = f", thinking on {percent(ratio)} % of the questions" if known(ratio) else ""
        sentences.append(
            f"An oracle that always picks a branch with a correct answer would reach {percent(oracle['accuracy'])} %"
            f"{thinking}."
        )
    if cells.get("failed"):
        sentences.append(f"{cells['failed']:,} of {cells['n']:,} rows failed and count as wrong; the report says why.")
    model = (metrics.get("run") or {}).get("model")
    if isinstance(model, dict) and model.get("calibration"):
        sentences.append(f"At the time of the evaluation: {model['calibration']}")
    return sentences


def _result(cell: dict) -> str:
    shown = f" (95 % interval {words})" if (words := interval_words(cell)) else ""
    tokens = f" with {decimal(cell['tokens'])} tokens on average" if known(cell.get("tokens")) else ""
    return f"{percent(cell['accuracy'])} % correct{shown}{tokens}"
