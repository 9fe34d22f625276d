"""Comparisons as `fedloom compare` writes them, made up from few numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedloom.statistics import student_interval

LABELS = ("fedavg", "fedprox", "scaffold", "fedavgm", "fedadagrad", "fedyogi", "fedadam")


def number(values: list[float | None]) -> dict[str, Any] | None:
    """A number over seeds."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    interval = student_interval(known)
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "values": values}


def comparison(
    labels: tuple[str, ...] = LABELS,
    seeds: int = 3,
    measure: str = "accuracy",
    tuned: bool = True,
    done: int | None = None,
    failing: tuple[str, ...] = (),
    clients: int = 10,
) -> dict[str, Any]:
    """The content of a `compare.json`.

    Args:
        labels: of the variants, the first being the reference.
        seeds: how many.
        measure: accuracy or loss.
        tuned: whether the learning rate was tuned.
        done: how many of the variants have run; default: all.
        failing: labels of variants whose last seed has diverged.
        clients: that were scored one by one.
    """
    generator = np.random.default_rng(7)
    shifts = generator.normal(0.0, 0.02, size=seeds)  # a seed is easy or hard for everybody

    def run(label: str, level: float, seed: int, arm: str) -> dict[str, Any]:
        if label in failing and seed == seeds - 1:
            reason = "round 7: the federated adapter's test loss is not a finite number"
            return {"seed": seed, "folder": f"cells/{label}/seed-{seed}", "failed": reason}
        accuracy = level + float(shifts[seed]) + float(generator.normal(0, 0.006))
        rounds = list(range(0, 41, 5))
        share = 1 - np.exp(-np.array(rounds) / 10)
        curve = (0.08 + (accuracy - 0.08) * share).tolist()
        per_client = np.clip(generator.normal(accuracy, 0.09, size=clients), 0.02, 0.98)
        final = {"accuracy": curve[-1], "loss": 2.6 - 2.2 * curve[-1]}
        return {
            "seed": seed,
            "folder": f"cells/{label}/seed-{seed}",
            "failed": None,
            "seconds": 60.0 + 20 * len(label) + seed,
            "bytes": 0 if arm != "federated" else (2 if label == "scaffold" else 1) * 8_400_000,
            "tokens": 120_000,
            "scores": {"base": {"accuracy": 0.08, "loss": 2.42}, arm: final},
            "curve": {"round": rounds, "loss": [2.6 - 2.2 * at for at in curve], "accuracy": curve},
            "training": {"round": list(range(1, 41)), "loss": (0.8 + 1.5 * np.exp(-np.arange(40) / 9)).tolist()},
            "clients": {
                f"client-{name}": {"accuracy": float(one), "loss": 2.6 - 2.2 * float(one)}
                for name, one in enumerate(per_client)
            },
        }

    def entry(label: str, level: float, arm: str, ran: bool) -> dict[str, Any]:
        runs = [run(label, level, seed, arm) for seed in range(seeds)] if ran else []
        finals = [one["scores"][arm][measure] if not one["failed"] else None for one in runs]
        rates = [1e-4, 3e-4, 1e-3, 3e-3]
        best = rates[-1] if label == "fedprox" else rates[2]
        trials = [
            {
                "values": {"local.learning_rate": rate},
                "rounds": 8 if rate < 5e-4 else 40,
                "loss": 1.9 if rate < 5e-4 else 1.2 - 0.1 * (rate == best),
                "halted": rate < 5e-4,
            }
            for rate in rates
        ]
        return {
            "label": label,
            "settings": {"federation.algorithm.name": label} if arm == "federated" else {},
            "chosen": {"local.learning_rate": best} if tuned else None,
            "tuning": trials if tuned else [],
            "runs": runs,
            "score": number(finals),
            "seconds": number([one.get("seconds") for one in runs]),
            "bytes": number([one.get("bytes") for one in runs]),
        }

    ran = len(labels) if done is None else done
    levels = [0.61 + 0.012 * (index % 7) - 0.004 * (index % 3) for index in range(len(labels))]
    variants = [
        {
            **entry(label, level, "federated", index < ran),
            "baselines": {"local": "local", "centralized": "centralized"},
        }
        for index, (label, level) in enumerate(zip(labels, levels, strict=True))
    ]
    baselines = [
        {**entry(arm, level, arm, done is None), "arm": arm} for arm, level in (("local", 0.44), ("centralized", 0.68))
    ]
    reference = variants[0]["score"]
    for one in [*variants, *baselines]:
        pairs = zip(one["score"]["values"], reference["values"], strict=True) if one["score"] and reference else ()
        one["difference"] = number(
            [mine - theirs if mine is not None and theirs is not None else None for mine, theirs in pairs]
        )
    return {
        "format": 1,
        "name": "dolly",
        "measure": measure,
        "test_set": "global",
        "better": "higher" if measure == "accuracy" else "lower",
        "seeds": list(range(seeds)),
        "reference": labels[0],
        "varied": ["federation.algorithm.name"],
        "tuned": {
            "keys": ["local.learning_rate"],
            "seed": 1000,
            "split": "validation",
            "trials_each": 4,
            "rounds_each": 96,
        }
        if tuned
        else None,
        "finished": done is None,
        "cells": {"done": ran * seeds, "planned": (len(labels) + 2) * seeds},
        "variants": variants,
        "baselines": baselines,
        "base": {"score": number([0.08 if measure == "accuracy" else 2.42] * seeds)},
        "recipe": "name: dolly\nfederation:\n  rounds: 40\n",
        "versions": {"fedloom": "0.1.0", "torch": "2.13.0"},
    }
