"""When a run ends before its last planned round: the rules of federation.stop, and numbers that are none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedloom.errors import Diverged, UserError
from fedloom.recipe.stop_schema import StopConfig

# The rule that holds, what it says and what was reached: as the event log and metrics.json tell it.
Stop = dict[str, Any]


def spent(rules: StopConfig | None, totals: Mapping[str, float]) -> Stop | None:
    """Find the first budget that is used up.

    Args:
        rules: the recipe's, None where it has none.
        totals: of the run so far: seconds, bytes_up, bytes_down, tokens.

    Returns:
        rule, limit and reached; None while no budget is used up.
    """
    if rules is None:
        return None
    used = {
        "seconds": totals["seconds"],
        "bytes": totals["bytes_up"] + totals["bytes_down"],
        "tokens": totals["tokens"],
    }
    for rule, reached in used.items():
        limit = getattr(rules, rule)
        if limit is not None and reached >= limit:
            return {"rule": rule, "limit": limit, "reached": reached}
    return None


def settled(rules: StopConfig | None, result: Mapping[str, Any], losses: Sequence[float]) -> Stop | None:
    """Find whether an evaluation ends the run: good enough, or no better for too long.

    Args:
        rules: the recipe's, None where it has none.
        result: of the evaluation.
        losses: of all evaluations, that before the first round first and this one last.

    Returns:
        rule, limit and reached (target also its measure, patience the best loss); None while neither holds.
    """
    if rules is None:
        return None
    if rules.target is not None:
        measure, value = rules.target.measure, rules.target.value
        reached = result[measure]
        if reached <= value if measure == "loss" else reached >= value:
            return {"rule": "target", "measure": measure, "limit": value, "reached": reached}
    waited = len(losses) - 1 - losses.index(min(losses))
    if rules.patience is not None and waited >= rules.patience:
        return {"rule": "patience", "limit": rules.patience, "reached": waited, "best": min(losses)}
    return None


def require_finite(arm: str, round_number: int, result: dict[str, Any]) -> None:
    """End a run whose losses have left the numbers.

    Args:
        arm: that was evaluated.
        round_number: after so many rounds.
        result: of the evaluation.

    Raises:
        UserError: where the base model itself is at fault.
        Diverged: where training is.
    """
    blocks = [result, *(result.get(name, {}) for name in ("own", "unseen"))]
    if all(math.isfinite(block.get("loss", 0.0)) for block in blocks):
        return
    if arm == "base":
        raise UserError("model.base: the untuned model's loss is not a finite number", hint="check its weights")
    raise Diverged(
        f"round {round_number}: the {arm} adapter's test loss is not a finite number",
        hint="lower local.learning_rate; the last good checkpoint is kept",
    )
