"""From files to tokenised examples of each client: sources, templates, partitions, splits and shards."""

from fedloom.data.allocation import allocate
from fedloom.data.describe import describe, render
from fedloom.data.federated import FederatedData, prepare
from fedloom.data.shards import ExampleSet
from fedloom.data.templates import Segment, Template, load_template
from fedloom.data.tokenizing import tokenize_prompt

__all__ = [
    "ExampleSet",
    "FederatedData",
    "Segment",
    "Template",
    "allocate",
    "describe",
    "load_template",
    "prepare",
    "render",
    "tokenize_prompt",
]
