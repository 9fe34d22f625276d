"""What a run is: the recipe's sections as validated, documented configurations.

The names are a contract: they may be extended, never renamed. `fedloom schema` prints them as JSON Schema.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from fedloom.recipe.base import Config, PositiveInt
from fedloom.recipe.combinations import check_combinations
from fedloom.recipe.curriculum_schema import CurriculumConfig
from fedloom.recipe.data_schema import DataConfig
from fedloom.recipe.federation_schema import FederationConfig
from fedloom.recipe.layers_schema import SparseUpdatesConfig, check_layers
from fedloom.recipe.model_schema import ModelConfig
from fedloom.recipe.pruning_schema import PruningConfig, check_pruning
from fedloom.recipe.stop_schema import check_stop
from fedloom.recipe.suites_schema import SuitesConfig
from fedloom.recipe.task_schema import TaskConfig, check_task


class LocalConfig(Config):
    """What one client does in one round."""

    steps: PositiveInt | None = Field(None, description="Optimiser steps a round (this or epochs).")
    epochs: PositiveInt | None = Field(None, description="Passes over the client's data a round.")
    batch_size: PositiveInt = Field(8, description="Examples of one optimiser step.")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="Starts afresh every round.")
    learning_rate: float = Field(1e-3, gt=0, description="At the first round; see schedule.")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="Learning rate over rounds; linear and cosine fall towards 0."
    )
    weight_decay: float = Field(0.0, ge=0, description="Decoupled (arXiv 1711.05101) for adamw, L2 for sgd.")
    momentum: float = Field(0.0, ge=0, lt=1, description="Momentum of sgd.")
    epsilon: float = Field(
        1e-8,
        gt=0,
        description="adamw's; steps of entries with gradients below it shrink, and with them rounding noise.",
    )
    max_gradient_norm: float | None = Field(
        1.0, gt=0, description="A client's gradient is scaled down to this norm; null: never."
    )
    sparse: SparseUpdatesConfig | None = Field(
        None,
        description="Train only the neurons of its private layers that matter most to a client; see docs/layers.md.",
    )
    curriculum: CurriculumConfig | None = Field(
        None, description="Which of its examples a client trains on in which round; default: all in every round."
    )
    pruning: PruningConfig | None = Field(
        None,
        description="Leave out attention heads and feed-forward neurons of the base that matter least to a client; see "
        "docs/pruning.md.",
    )

    @model_validator(mode="before")
    @classmethod
    def _default_length(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("steps") is None and values.get("epochs") is None:
            return {**values, "steps": 10}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> LocalConfig:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("steps and epochs exclude each other: give one")
        if self.optimizer != "sgd" and self.momentum:
            raise ValueError(f"momentum has no effect on optimizer {self.optimizer!r}: it belongs to sgd")
        if self.optimizer != "adamw" and "epsilon" in self.model_fields_set:
            raise ValueError(f"epsilon has no effect on optimizer {self.optimizer!r}: it belongs to adamw")
        return self


class EvaluationConfig(Config):
    """When and on what the model is tested. The untuned base and the final adapter always are."""

    every: PositiveInt | None = Field(None, description="Also evaluate every so many rounds.")
    split: Literal["test", "validation"] = Field("test", description="The part that is tested on.")
    exact_match: bool | Literal["auto"] = Field(
        "auto",
        description="Accuracy as exact match of the greedy answer; auto: where the source's answers are checkable.",
    )
    max_examples: PositiveInt | None = Field(
        None, description="At most so many examples of each client's split and of the global test."
    )
    max_clients: PositiveInt | None = Field(
        None,
        description="Test at most so many clients, and so many unseen ones, always the same; default: all. "
        "Results name every client up to 1000 of them; beyond that they are quantiles.",
    )
    cross: bool = Field(
        False,
        description="Also score every client's own adapter (of the baselines local and fine_tuned, and of personalised "
        "algorithms) on every other client's test: a matrix, of at most 32 tested clients.",
    )
    suites: SuitesConfig | None = Field(
        None, description="Benchmarks that the federation's adapter is tested on while it is trained."
    )


class BaselineConfig(Config):
    """A comparison run beside the federation, with the federation's budget; fine_tuned comes on top of it."""

    kind: Literal["local", "centralized", "fine_tuned"] = Field(
        description="local: each client alone; centralized: all data pooled; fine_tuned: each client goes on alone "
        "from the federation's adapter."
    )
    learning_rate: float | None = Field(
        None, gt=0, description="Its own learning rate (tune each arm); default: local.learning_rate."
    )
    rounds: PositiveInt | None = Field(None, description="Rounds of fine_tuned; default: 1.")

    @model_validator(mode="before")
    @classmethod
    def _default_rounds(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("rounds") is None and values.get("kind") == "fine_tuned":
            return {**values, "rounds": 1}
        return values

    @model_validator(mode="after")
    def _has_effect(self) -> BaselineConfig:
        if self.rounds is not None and self.kind != "fine_tuned":
            raise ValueError(f"rounds has no effect on {self.kind}, which has the federation's budget")
        return self


class RuntimeConfig(Config):
    """Where the clients of a round are trained."""

    kind: Literal["in_process", "distributed"] = Field(
        "in_process", description="in_process: in this process; distributed: over several processes of one owner."
    )
    processes: PositiveInt | None = Field(
        None, description="Number of processes of kind distributed; torchrun sets it where it starts them."
    )
    cohort: PositiveInt | Literal["auto"] = Field(
        "auto", description="Clients trained in one pass; auto: as many as the memory budget holds."
    )
    memory_gb: float | None = Field(
        None, gt=0, description="Memory budget of a process in GiB for cohort: auto; default: half of what is free."
    )
    threads: PositiveInt | None = Field(
        None, description="CPU threads of a process; default: all cores, shared between the processes of a machine."
    )
    activation_checkpointing: bool | Literal["auto"] = Field(
        "auto",
        description="Keep the inputs of layers only and compute the rest again on the way back; auto: where a client's "
        "batch exceeds the memory budget otherwise (never with a fixed cohort). The result is the same.",
    )
    prefix_cache_gb: float | None = Field(
        None,
        ge=0,
        description="Disk in GiB, in the run directory, for activations below the lowest adapted layer, which never "
        "change; default: 4 where adapters leave the lowest layers out. 0: compute them anew.",
    )
    device: str = Field(
        "auto",
        description="auto, cpu, or a CUDA device such as cuda:0; of kind distributed each process takes its own GPU.",
    )

    @model_validator(mode="after")
    def _has_effect(self) -> RuntimeConfig:
        if self.memory_gb is not None and self.cohort != "auto":
            raise ValueError(f"memory_gb has no effect on a fixed cohort, {self.cohort}: it belongs to auto")
        if self.processes is not None and self.kind != "distributed":
            raise ValueError(f"processes has no effect on kind {self.kind!r}: it belongs to distributed")
        if self.kind == "distributed" and ":" in self.device:
            raise ValueError(
                f"device {self.device!r} names one device, and each process of kind distributed has its own"
            )
        return self


class Recipe(Config):
    """One run, wholly described: the same recipe and seed give the same adapter."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the run.")
    seed: int = Field(0, ge=0, description="Every random draw of the run follows from it.")
    model: ModelConfig = Field(default_factory=lambda: ModelConfig(), description="The frozen base and its adapter.")
    data: DataConfig = Field(default_factory=lambda: DataConfig(), description="Whose text, and how phrased.")
    task: TaskConfig = Field(default_factory=lambda: TaskConfig(), description="The kind of training.")
    federation: FederationConfig = Field(
        default_factory=lambda: FederationConfig(), description="Rounds, clients and algorithm."
    )
    local: LocalConfig = Field(default_factory=lambda: LocalConfig(), description="What a client does in a round.")
    evaluation: EvaluationConfig = Field(
        default_factory=lambda: EvaluationConfig(), description="When and on what the model is tested."
    )
    baselines: list[BaselineConfig] = Field(
        default_factory=list,
        description="local (each client alone), centralized (all data pooled), fine_tuned (each client goes on).",
    )
    runtime: RuntimeConfig = Field(default_factory=lambda: RuntimeConfig(), description="Where clients are trained.")
    trackers: list[Literal["tensorboard", "wandb", "mlflow"]] = Field(
        default_factory=list, description="Also record the run with these."
    )

    @field_validator("baselines", mode="before")
    @classmethod
    def _names_are_baselines(cls, value: Any) -> Any:
        if isinstance(value, list):
            return [{"kind": item} if isinstance(item, str) else item for item in value]
        return value

    @field_validator("baselines")
    @classmethod
    def _each_once(cls, baselines: list[BaselineConfig]) -> list[BaselineConfig]:
        kinds = [baseline.kind for baseline in baselines]
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"each baseline once, got {', '.join(kinds)}")
        return baselines

    @model_validator(mode="after")
    def _evaluation_has_effect(self) -> Recipe:
        suites, rounds = self.evaluation.suites, self.federation.rounds
        every_of = {
            "evaluation.every": self.evaluation.every,
            "evaluation.suites.every": None if suites is None else suites.every,
        }
        for key, every in every_of.items():
            if every is not None and every > rounds:
                raise ValueError(
                    f"{key}: {every} is above federation.rounds, {rounds}, so it has no effect: "
                    "the final adapter is evaluated anyway"
                )
        return self

    @property
    def measures_accuracy(self) -> bool:
        """Whether results hold an accuracy."""
        if self.task.kind == "classification":
            return True
        exact = self.evaluation.exact_match
        return self.data.checkable if exact == "auto" else exact

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        check_task(self)
        check_combinations(self)
        check_layers(self)
        check_pruning(self)
        check_stop(self)
        return self

    @model_validator(mode="after")
    def _enough_clients(self) -> Recipe:
        clients = getattr(self.data.partition, "clients", None)
        if clients is not None:
            training = clients - self.data.unseen_clients
            if training < 1:
                raise ValueError(
                    f"data.unseen_clients: {self.data.unseen_clients} of {clients} clients leaves none to train"
                )
            if self.federation.clients_per_round > training:
                raise ValueError(
                    f"federation.clients_per_round: {self.federation.clients_per_round} is above the number "
                    f"of training clients, {training}"
                )
        return self
