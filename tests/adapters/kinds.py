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
    "full": ({"kind": "full"}, 1e-3),
    "prompt_tuning": ({"kind": "prompt_tuning", "virtual_tokens": 6}, 3e-2),
    "p_tuning": ({"kind": "p_tuning", "virtual_tokens": 6, "hidden_size": 24}, 1e-2),
    "prefix_tuning": ({"kind": "prefix_tuning", "virtual_tokens": 6}, 3e-1),
}
ALGORITHMS: dict[str, Values] = {
    "fedavg": {"name": "fedavg"},
    "fedadam": {"name": "fedadam", "server_learning_rate": 0.01},
    "scaffold": {"name": "scaffold"},
}


def settings(source: Path, kind: str, algorithm: str = "fedavg", **sections: Any) -> Values:
    """A recipe for a kind: three unequal clients, three rounds."""
    section, rate = SECTIONS[kind]
    values = recipe(
        source,
        federation={"rounds": 3, "clients_per_round": 3, "algorithm": ALGORITHMS[algorithm]},
        local={"learning_rate": rate},
        evaluation={"max_examples": 2},
    )
    values["model"]["adapter"] = section
    for name, more in sections.items():
        values[name] = {**values.get(name, {}), **more}
    return values
