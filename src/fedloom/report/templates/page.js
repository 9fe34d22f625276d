// What is under the pointer, without the series that are switched off. Pages can be read without any of this.
const tip = document.getElementById("tip");
addEventListener("pointermove", show);
addEventListener("pointerdown", show);
addEventListener("scroll", () => { tip.style.display = "none"; }, { passive: true });
function show(event) {
  const mark = event.target.closest ? event.target.closest("[data-tip]") : null;
  tip.style.display = mark ? "block" : "none";
  if (!mark) return;
  const off = [...document.querySelectorAll(".legend input:not(:checked)")].map((box) => box.dataset.name + ": ");
  const lines = mark.dataset.tip.split("\n").filter((line) => !off.some((name) => line.startsWith(name)));
  tip.textContent = lines.join("\n");
  const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
  tip.style.left = Math.max(8, left) + "px";
  tip.style.top = Math.max(8, event.clientY - tip.offsetHeight - 12) + "px";
}

// Tables that can be sorted: the heading becomes a button; cells say their number in data-value.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  headings.forEach((heading, column) => {
    if (heading.tagName !== "TH") return;
    const button = document.createElement("button");
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((one, other) => compare(one.cells[column], other.cells[column], down ? -1 : 1));
      table.tBodies[0].append(...rows);
    });
  });
}
function compare(one, other, direction) {
  const [first, second] = [one.dataset.value, other.dataset.value];
  if (first === "" || second === "") return (first === "") - (second === "");
  const order = isNaN(first) ? first.localeCompare(second) : first - second;
  return direction * order;
}

// Where there are many series: all on, all off.
for (const legend of document.querySelectorAll(".legend[data-switches]")) {
  for (const [name, state] of [["all", true], ["none", false]]) {
    const button = document.createElement("button");
    button.textContent = name;
    button.addEventListener("click", () => {
      for (const box of legend.querySelectorAll("input")) box.checked = state;
    });
    const item = document.createElement("li");
    item.append(button);
    legend.append(item);
  }
}
