"""
Routers trained afterwards, on parts that stand still: which depth, pooling and labels?

Reads the prompts with a hybrid of `joint` whose router was detached, with the hybrid of `story` whose shared parts
never trained after the split, with the model that was split there, and with the base itself, at every depth and
through either branch; pools the states, and trains the router's two layers as `fit_router` does (`queries`: its four
queries too). Fitted on new questions of the families that `joint` trains on. Every token is normalised first, unless
the read is called *raw*. *Confidence* is no read of the prompt: how sure the non-thinking branch is of the direct
answer that it writes.

```bash
python -m benchmarks.evidence.probes --base runs/demo/base --seed 0 --output runs/evidence/probes_0.json
```
"""

import copy
import time

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hf_metis_home.evaluation.outcomes import collect_outcomes
from hf_metis_home.miniature.tasks import MAX_ANSWER_TOKENS, TASKS, make_dataset
from hf_metis_home.modeling.router_metis_home import MetisHomeRouter
from hf_metis_home.trainers.router_losses import weighted_cross_entropy
from hf_metis_home.trainers.router_preferences import (
    preferences_from_labels,
    preferences_from_outcomes,
    split_questions,
)
from hf_metis_home.trainers.router_training import Training, layer_logits, train_layers

from .common import Results, arguments, hybrid_of, load_base, prompts, questions
from .joint import SEEN


TOKEN_COST = 0.01  # as in the earlier comparison of labels and outcomes
POOLINGS = ("mean", "modality_mean", "last", "queries", "modality_mean, raw", "queries, raw")
MODELS = {
    "detached": ("joint", "hybrid, depth 1, detached"),
    "branch alone": ("story", "hybrid ffn"),
    "shipped": ("story", "shipped"),  # upcycled and not trained since
    "base": None,  # the same, and no one has trained it to think
}


@torch.no_grad()
def read(model, processor, rows: list[dict], through: bool) -> list[dict]:
    """Hidden states `(rows, tokens, hidden)` at every depth, padded on the left, and the masks."""
    batches = []
    for start in range(0, len(rows), 100):
        inputs = prompts(processor, rows[start : start + 100], None)
        ids = inputs["input_ids"]
        states = model.model(**inputs, thinking=through, output_hidden_states=True).hidden_states
        mask = model.model._router_mask(ids, ids, inputs["attention_mask"], None)
        vision = ids == model.config.image_token_id
        batches.append({"states": states, "mask": mask, "vision": vision})
    longest = max(batch["mask"].shape[1] for batch in batches)

    def joined(parts):
        return torch.cat([F.pad(p, (*[0] * (2 * (p.ndim - 2)), longest - p.shape[1], 0)) for p in parts])

    masks = {name: joined([batch[name] for batch in batches]) for name in ("mask", "vision")}
    depths = len(batches[0]["states"])
    return [{"states": joined([batch["states"][d] for batch in batches]), **masks} for d in range(depths)]


def pooled(tokens: dict, pooling: str, raw: bool) -> torch.Tensor:
    states, mask, vision = tokens["states"], tokens["mask"], tokens["vision"]
    states = states if raw else F.layer_norm(states, states.shape[-1:])
    if pooling == "last":  # with the header of the answer
        return states[:, -1]
    masks = [mask] if pooling == "mean" else [mask & ~vision, mask & vision]
    weights = torch.stack(masks, dim=1).float()
    weights = weights / weights.sum(dim=-1, keepdim=True).clamp(min=1)
    return (weights @ states).flatten(1)


def fit_layers(config, fit: dict, pooling: str, raw: bool, sides, seed: int, steps: int):
    """The router's two layers on pooled states; gives a function from tokens to logits."""
    config = config.from_dict(config.to_dict() | {"router_pooling": pooling if pooling == "modality_mean" else "mean"})
    torch.manual_seed(seed)
    router = MetisHomeRouter(config)
    layers = [router.up_proj.weight, router.up_proj.bias, router.score.weight, router.score.bias]
    torch.nn.init.zeros_(router.score.weight), torch.nn.init.zeros_(router.score.bias)
    features = pooled(fit, pooling, raw)
    ours, held = ({"features": features[side.rows], "side": side} for side in sides)
    training = Training(steps, learning_rate=3e-3, batch_size=64, seed=seed)
    before = [layer.detach().clone() for layer in layers]
    layers, _ = train_layers(before, ours["features"], ours["side"], held["features"], held["side"], training)
    return lambda tokens: layer_logits(layers, pooled(tokens, pooling, raw))


def fit_queries(config, fit: dict, raw: bool, sides, seed: int, steps: int):
    """The router with its four queries, all of it trained; the best of ten looks at the held-out rows."""
    config = config.from_dict(config.to_dict() | {"router_pooling": "attention"})
    torch.manual_seed(seed)
    router = MetisHomeRouter(config)
    if raw:
        router.normalise = lambda features: features
    torch.nn.init.normal_(router.query.weight, std=0.02)
    torch.nn.init.zeros_(router.score.weight), torch.nn.init.zeros_(router.score.bias)
    side, held = sides

    def logits(tokens, rows=slice(None)):
        return router(tokens["states"][rows], tokens["mask"][rows], tokens["vision"][rows])

    optimizer = torch.optim.AdamW(router.parameters(), lr=3e-3)
    best, best_loss = None, float("inf")
    for step in range(1, steps + 1):
        chosen = torch.randint(len(side.rows), (64,))
        rows = torch.tensor(side.rows)[chosen]
        loss = weighted_cross_entropy(logits(fit, rows), side.target[chosen], side.stake[chosen] / side.stake.mean())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % max(1, steps // 10) == 0:
            with torch.no_grad():
                stake = held.stake / held.stake.mean()
                held_loss = weighted_cross_entropy(logits(fit, torch.tensor(held.rows)), held.target, stake).item()
            if held_loss < best_loss:
                best_loss, best = held_loss, {n: t.clone() for n, t in router.state_dict().items()}
    router.load_state_dict(best)
    return torch.no_grad()(lambda tokens: logits(tokens))


def probe(results: Results, name: str, model, processor, labelled: dict, fit_rows, test, seed: int, steps: int):
    config = model.config
    for through in (False,) if name in ("shipped", "base") else (False, True):  # their branches are the same
        fit, asked = read(model, processor, fit_rows, through), read(model, processor, test, through)
        for depth in range(len(fit)):
            if through and depth <= config.router_layer:
                continue  # shared parts: read already
            branch = ("thinking" if through else "non_thinking") if depth > config.router_layer else "shared"
            for labels, preferences in labelled.items():
                sides = split_questions(preferences, 0.2, seed)
                sides = [select_known(side) for side in sides]
                for pooling in POOLINGS:
                    arm = f"{name}, depth {depth}, {branch}, {pooling}, {labels}"
                    if arm in results or (depth == 0 and pooling == "last"):
                        continue
                    read_as, _, raw = pooling.partition(", ")
                    if read_as == "queries":
                        scores = fit_queries(config, fit[depth], bool(raw), sides, seed, steps // 2)(asked[depth])
                    else:
                        scores = fit_layers(config, fit[depth], read_as, bool(raw), sides, seed, steps)(asked[depth])
                    results.add(arm, {"thinks": by_task(scores[:, 1] >= scores[:, 0], test)})


def by_task(thinks, rows) -> dict[str, str]:
    thinks = [str(int(value)) for value in thinks]
    return {t: "".join(x for x, row in zip(thinks, rows, strict=True) if row["task"] == t) for t in TASKS}


@torch.no_grad()
def certainty(model, processor, rows: list[dict]) -> np.ndarray:
    """
    Of the direct answer that the non-thinking branch writes: mean and least log-probability of its tokens, entropy of
    the first one, and how many there are.
    """
    found = []
    closing = processor.tokenizer.convert_tokens_to_ids("</answer>")
    for start in range(0, len(rows), 100):
        inputs = prompts(processor, rows[start : start + 100], False)
        width = inputs["input_ids"].shape[1]
        out = model.generate(
            **inputs,
            thinking=False,
            do_sample=False,
            max_new_tokens=8,
            output_logits=True,
            return_dict_in_generate=True,
        )
        probabilities = torch.stack(out.logits, dim=1).log_softmax(dim=-1)  # [B, T, V]
        tokens = out.sequences[:, width:]
        chosen = probabilities.gather(-1, tokens[..., None])[..., 0]
        own = (tokens == closing).int().cumsum(dim=1) == 0
        own[:, 0] = True
        count = own.sum(dim=1)
        first = probabilities[:, 0]
        entropy = -(first.exp() * first).sum(dim=-1)
        least = chosen.masked_fill(~own, 0.0).amin(dim=1)
        found.append(torch.stack([(chosen * own).sum(dim=1) / count, least, entropy, count.float()], dim=1))
    return torch.cat(found).numpy()


def probe_certainty(results: Results, name: str, model, processor, labelled: dict, fit_rows, test, seed: int):
    """Logistic regression on how sure the direct answer is."""
    arms = {f"{name}, confidence, {labels}": labels for labels in labelled}
    if all(arm in results for arm in arms):
        return
    fit, asked = certainty(model, processor, fit_rows), certainty(model, processor, test)
    for arm, labels in arms.items():
        sides = [select_known(side) for side in split_questions(labelled[labels], 0.2, seed)]
        rows = [row for side in sides for row in side.rows]  # nothing to stop early, so all of them
        target = torch.cat([side.target for side in sides]).numpy()
        stake = torch.cat([side.stake for side in sides]).numpy()
        regression = make_pipeline(StandardScaler(), LogisticRegression())
        regression.fit(fit[rows], target, logisticregression__sample_weight=stake)
        results.add(arm, {"thinks": by_task(regression.predict(asked), test)})


def select_known(side):
    """Without the questions that do not care."""
    return side.select([index for index, stake in enumerate(side.stake.tolist()) if stake > 0])


def main(argv: list[str] | None = None) -> None:
    args = arguments("probes", __doc__.splitlines()[1], argv, tuple(MODELS))
    results = Results(args.output)
    base, processor = load_base(args.base)
    steps, count = (10, 6) if args.smoke else (1000, 300)
    test = questions(TASKS, 3 if args.smoke else 150, "test", args.seed)
    data = make_dataset(dict.fromkeys(SEEN, count), "train", args.seed + 11)
    for name in args.arms:
        started = time.perf_counter()
        model = copy.deepcopy(base) if name == "shipped" else hybrid_of(base, processor, args.seed)
        if MODELS[name] is not None:
            command, arm = MODELS[name]
            trained = Results(args.output.with_name(f"{command}_{args.seed}.json"))
            if arm not in trained:
                print(f"{trained.path} has no {arm!r}; its probes are left out.")
                continue
            trained.load(arm, model)
        if name == "shipped":
            model = hybrid_of(model, processor, args.seed)
        rows = list(data)
        labelled = {"row labels": preferences_from_labels(rows)}
        if name == "detached":
            outcomes = collect_outcomes(model, processor, rows, max_new_tokens=MAX_ANSWER_TOKENS, batch_size=200)
            try:
                labelled["outcomes"] = preferences_from_outcomes(rows, outcomes, TOKEN_COST)
                split_questions(labelled["outcomes"], 0.2, args.seed)
            except ValueError as error:  # a model that has learnt nothing, as in a smoke run
                print(error)
                labelled.pop("outcomes", None)
        probe(results, name, model, processor, labelled, rows, test, args.seed, steps)
        probe_certainty(results, name, model, processor, labelled, rows, test, args.seed)
        print(args.seed, name, f"{time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
