from __future__ import annotations

import builtins
import csv
import gzip
import inspect
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedloom.data.sources import content_digest, locate, read_locations
from fedloom.errors import UserError
from fedloom.recipe.data_schema import SourceConfig

ROWS = [{"prompt": "a\u2028b", "response": "ä"}, {"prompt": 'x, "y"\nz', "response": ""}]


def read(source: str | list[str] | Path) -> list[dict[str, Any]]:
    source = source if isinstance(source, list) else str(source)
    return [record.values for record in read_locations(locate(source), seed=0)]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    elif path.suffix == ".jsonl":
        path.write_text(lines, encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        arrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet"])
def test_every_format_gives_the_same_records(tmp_path: Path, suffix: str) -> None:
    assert read(write(tmp_path / f"rows{suffix}", ROWS)) == ROWS


def test_json_with_data_key_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text("\ufeff" + json.dumps({"version": 1, "data": ROWS}), encoding="utf-8")
    assert read(path) == ROWS


def test_folder_reads_its_files_by_name_and_ignores_others(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    write(tmp_path / "b" / "second.jsonl", ROWS[1:])
    write(tmp_path / "a.csv", ROWS[:1])
    (tmp_path / "README.md").write_text("not data")
    (tmp_path / ".hidden.json").write_text("not data")
    assert read(tmp_path) == ROWS


def test_list_of_sources_in_its_order(tmp_path: Path) -> None:
    first, second = write(tmp_path / "z.jsonl", ROWS[:1]), write(tmp_path / "a.json", ROWS[1:])
    assert read([str(first), str(second)]) == ROWS
    with pytest.raises(UserError, match="named twice"):
        read([str(first), str(first)])
    with pytest.raises(UserError, match="list is empty"):
        read([])


def test_saved_datasets_with_and_without_splits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_list(ROWS)
    one.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": one, "test": one}).save_to_disk(str(tmp_path / "two"))
    assert read(tmp_path / "one") == ROWS
    assert read(tmp_path / "two") == [{"split": s, **row} for s in ("train", "test") for row in ROWS]


def test_hub_id_asks_the_hub_for_name_subset_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def load_dataset(path: str, name: str | None, split: str | None) -> Any:
        calls.append((path, name, split))
        return ROWS

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert read("some-owner/some.name:train") == ROWS
    assert read("some-owner/name") == ROWS
    locations = locate(SourceConfig(path="some-owner/name:test", subset="main"))
    assert [record.values for record in read_locations(locations, seed=0)] == ROWS
    assert calls == [
        ("some-owner/some.name", None, "train"),
        ("some-owner/name", None, None),
        ("some-owner/name", "main", "test"),
    ]


def test_the_real_library_takes_these_arguments() -> None:
    datasets = pytest.importorskip("datasets")
    inspect.signature(datasets.load_dataset).bind("some-owner/name", name="main", split="train")


def test_hub_failure_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(path: str, name: str | None, split: str | None) -> Any:
        raise ConnectionError("no network\nand more")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(UserError, match=r"some-owner/name .* the hub did not provide it: no network$"):
        read("some-owner/name")


@pytest.mark.parametrize("source", ["some-owner/name", "rows.parquet"])
def test_missing_optional_package_names_the_pip_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    for name in ("datasets", "pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r'pip install "fedloom\[data\]"'):
        read(source)


def test_pocket_tasks_come_from_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(pocket_rows=lambda seed: [{"prompt": str(seed), "response": "x"}])
    monkeypatch.setitem(sys.modules, "fedloom.data.pocket_tasks", fake)
    locations = locate("pocket-tasks")
    assert read_locations(locations, seed=7)[0].values["prompt"] == "7"
    assert content_digest(locations, 7) != content_digest(locations, 8)


def test_digest_follows_the_content(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", ROWS)
    before = content_digest(locate(str(path)), 0)
    assert content_digest(locate(str(path)), 1) == before
    write(path, ROWS[:1])
    assert content_digest(locate(str(path)), 0) != before


def test_origin_is_file_and_line_or_record(tmp_path: Path) -> None:
    lines = tmp_path / "rows.jsonl"
    lines.write_text('\n{"a": 1}\n\n{"a": 2}\n')
    table = tmp_path / "rows.csv"
    table.write_text('a,b\n"two\nlines",1\nx,2\n')
    whole = write(tmp_path / "rows.json", ROWS)
    origins = [[r.origin for r in read_locations(locate(str(p)), 0)] for p in (lines, table, whole)]
    assert origins == [
        [f"{lines}:2", f"{lines}:4"],
        [f"{table}:2", f"{table}:4"],
        [f"{whole}: record 1", f"{whole}: record 2"],
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "a.jsonl:2: not valid JSON"),
        ("a.jsonl", b'{"a": 1}\n[1]\n', "a.jsonl:2: expected an object with named fields, got a list"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', "a.jsonl:2: not UTF-8 text"),
        ("a.jsonl", b"\n\n", "a.jsonl holds no records"),
        ("a.jsonl", b"", "a.jsonl holds no records"),
        ("a.jsonl.gz", b"plain text", "a.jsonl.gz: cannot be read: Not a gzipped file"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99, mtime=0)[:-9], "a.jsonl.gz: the compressed file is cut off"),
        ("a.json", b'[\n{"a": 1},\n{"a" 2}]', "a.json:3: not valid JSON: expecting ':' delimiter"),
        ("a.json", b'{"a": 1}\n{"a": 2}', "JSON lines belong in a file named .jsonl"),
        ("a.json", b'{"a": 1}', "expected a list of objects .* got an object"),
        ("a.json", b'[{"a": 1}, "b"]', "a.json: record 2: expected an object .* got a string"),
        ("a.json", b"", "a.json holds no records"),
        ("a.json", b'[\n"\xff"]', "a.json:2: not UTF-8 text"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "a.csv:3: 3 values for 2 columns"),
        ("a.csv", b"a,a\n1,2\n", "a.csv:1: the column 'a' appears twice"),
        ("a.csv", b"a,b\n", "a.csv holds no records"),
        ("a.csv", b'a,b\n1,"x', "a.csv:2: not valid CSV"),
        ("a.parquet", b"not parquet", "a.parquet: not a readable parquet file"),
        ("a.txt", b"text", "unknown suffix '.txt'; known are .jsonl"),
    ],
)
def test_broken_files_are_told_in_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(UserError, match=r"no such file: .*trian.jsonl \(did you mean .*train.jsonl"):
        read(tmp_path / "trian.jsonl")
    with pytest.raises(UserError, match=r"the folder .*nowhere does not exist"):
        read(tmp_path / "nowhere" / "a.jsonl")


def test_misspelt_and_empty_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="did you mean pocket-tasks"):
        read("pocket-taks")
    with pytest.raises(UserError, match=r"data\.source: is empty"):
        read("")


def test_folder_without_data(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no file with a suffix of \.jsonl"):
        read(tmp_path)


def test_reading_jsonl_needs_no_optional_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "rows.jsonl", ROWS)
    importing = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        assert name.partition(".")[0] not in {"datasets", "pyarrow", "pandas"}
        return importing(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert read(path) == ROWS


GERMAN = [{"Nr": "1", "Frage des Kunden": "Wie hoch, und wann?", "Antwort (geprüft)": "10 €;\r\njährlich", "": ""}]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_csv_as_spreadsheets_write_it(tmp_path: Path, delimiter: str, mark: str) -> None:
    with (tmp_path / "nord.csv").open("w", encoding="utf-8", newline="") as file:
        file.write(mark)
        writer = csv.DictWriter(file, list(GERMAN[0]), delimiter=delimiter, lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(GERMAN)
        file.write("\r\n")
    assert read(tmp_path / "nord.csv") == GERMAN


def test_a_separator_inside_the_headers_quotes_separates_nothing(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text('"a;b;c",d\n1,2\n')
    (tmp_path / "single.csv").write_text("text\na;b\n")
    assert read(tmp_path / "one.csv") == [{"a;b;c": "1", "d": "2"}]
    assert read(tmp_path / "single.csv") == [{"text": "a;b"}]


@pytest.mark.parametrize(
    ("encoding", "hint"),
    [
        ("cp1252", r"nord.csv:1: not UTF-8 text .*if 'ü' belongs there, it is Windows-1252: iconv -f CP1252"),
        ("utf-16", r"nord.csv:1: not UTF-8 text .*looks like UTF-16: iconv -f UTF-16"),
    ],
)
def test_other_encodings_are_told_not_guessed(tmp_path: Path, encoding: str, hint: str) -> None:
    (tmp_path / "nord.csv").write_bytes("Antwort (geprüft);Frage\r\na;b\r\n".encode(encoding))
    with pytest.raises(UserError, match=hint):
        read(tmp_path / "nord.csv")


@pytest.mark.parametrize(
    ("name", "hint"), [("süd.xlsx", "CSV UTF-8"), ("süd.TSV", "name it .csv"), ("süd.ndjson", "name it .jsonl")]
)
def test_tables_that_are_not_read_are_never_left_out_silently(tmp_path: Path, name: str, hint: str) -> None:
    write(tmp_path / "nord.csv", ROWS)
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(UserError, match=f"would be left out.*{hint}"):
        read(tmp_path)
    with pytest.raises(UserError, match=f"unknown suffix .*{hint}"):
        read(tmp_path / name)


def test_one_file_by_two_paths_is_named_twice(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"x": 1}\n')
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "a.jsonl")
    for other in (tmp_path / "b.jsonl", tmp_path / "sub" / ".." / "a.jsonl"):
        (tmp_path / "sub").mkdir(exist_ok=True)
        with pytest.raises(UserError, match="named twice"):
            locate([str(tmp_path / "a.jsonl"), str(other)])
