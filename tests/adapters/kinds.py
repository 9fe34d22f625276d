"""One small federation for each kind of adapter: real text, the embedded model, a second or two."""

from pathlib import Path
from typing import Any

from tests.federated_runs import recipe

Values = dict[str, Any]

# Each kind's recipe section and a learning rate that it learns with in a few steps; a kind is added by one line.
SECTIONS: dict[str, tuple[Values, float]] = {
    "lora": ({"kind": "lora", "rank": 4}, 1e-2),
    "rslora": ({"kind": "rslora", "rank": 4}, 1e-2),
    "dora": ({"kind": "dora", "rank": 4, "targets": ["q_proj", "v_proj", "down_proj"]}, 1e-2),
    "ia3": ({"kind": "ia3"}, 3e-2),
    "bitfit": ({"kind": "bitfit"}, 2e-2),
    "bottleneck": ({"kind": "bottleneck", "size": 8, "after_attention": True, "activation": "gelu"}, 3e-3),
    "sparse": ({"kind": "sparse", "share": 0.05}, 1e-2),
    "full": ({"kind": "full"}, 1e-3),
    "prompt_tuning": ({"kind": "prompt_tuning", "virtual_tokens": 6}, 1e-1),
    "p_tuning": ({"kind": "p_tuning", "virtual_tokens": 6, "hidden_size": 24}, 1e-2),
    "prefix_tuning": ({"kind": "prefix_tuning", "virtual_tokens": 6}, 3e-1),
}
# Kinds that do not begin at the base have further to go: passes over the data a round, and FedAdam's rate.
FURTHER: dict[str, tuple[int, float]] = {
    "prompt_tuning": (8, 0.1),
    "p_tuning": (8, 0.03),
    "prefix_tuning": (8, 1.0),
}
ALGORITHMS: dict[str, Values] = {
    "fedavg": {"name": "fedavg"},
    "fedadam": {"name": "fedadam"},
    "scaffold": {"name": "scaffold"},
}


def settings(source: Path, kind: str, algorithm: str = "fedavg", **sections: Any) -> Values:
    """A recipe for a kind: three unequal clients, three rounds."""
    section, rate = SECTIONS[kind]
    epochs, server_rate = FURTHER.get(kind, (1, 0.01))
    chosen = dict(ALGORITHMS[algorithm])
    if algorithm == "fedadam":
        chosen["server_learning_rate"] = server_rate
    values = recipe(
        source,
        federation={"rounds": 3, "clients_per_round": 3, "algorithm": chosen},
        local={"learning_rate": rate, "epochs": epochs},
        evaluation={"max_examples": 2},
    )
    values["model"]["adapter"] = section
    for name, more in sections.items():
        values[name] = {**values.get(name, {}), **more}
    return values
