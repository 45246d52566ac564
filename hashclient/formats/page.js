"use strict";
// Adds sorting, a filter and pages to the table of files. Without it the table is whole.
(() => {
  const PAGE_ROWS = 100;
  const byId = (id) => document.getElementById(id);
  const table = byId("files-table");
  if (table === null) return;

  const rows = Array.from(table.tBodies[0].rows);
  const filters = ["outcome", "state", "list", "category"]
    .map((name) => [name, byId(`filter-${name}`)])
    .filter(([, select]) => select !== null);
  const search = byId("filter-text");
  const collator = new Intl.Collator("en", { numeric: true });
  const texts = new Map();
  let shown = rows;
  let page = 0;

  const count = (number) => number.toLocaleString("en");

  function textOf(row) {
    let text = texts.get(row);
    if (text === undefined) {
      text = Array.from(row.cells, (cell) => cell.textContent).join(" ").toLowerCase();
      texts.set(row, text);
    }
    return text;
  }

  // A file can hit entries of several lists and categories; no name of these has a space.
  function hasValue(row, name, value) {
    return (row.dataset[name] ?? "").split(" ").includes(value);
  }

  function isWanted(row, words) {
    return (
      filters.every(([name, select]) => !select.value || hasValue(row, name, select.value)) &&
      words.every((word) => textOf(row).includes(word))
    );
  }

  // A row that the filter takes out is not printed either; one of another page is.
  function draw() {
    const pages = Math.max(1, Math.ceil(shown.length / PAGE_ROWS));
    page = Math.min(page, pages - 1);
    const visible = new Set(shown.slice(page * PAGE_ROWS, (page + 1) * PAGE_ROWS));
    for (const row of rows) row.classList.toggle("elsewhere", !visible.has(row));
    byId("pager").hidden = pages === 1;
    byId("page-number").textContent = `Page ${count(page + 1)} of ${count(pages)}`;
    byId("previous-page").disabled = page === 0;
    byId("next-page").disabled = page === pages - 1;
  }

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = new Set(rows.filter((row) => isWanted(row, words)));
    for (const row of rows) row.hidden = !wanted.has(row);
    shown = rows.filter((row) => wanted.has(row));
    byId("shown").textContent =
      shown.length === rows.length
        ? `${count(rows.length)} in the table`
        : `${count(shown.length)} of ${count(rows.length)} in the table`;
    page = 0;
    draw();
  }

  function sortBy(column, header) {
    const isAscending = header.getAttribute("aria-sort") !== "ascending";
    const sign = isAscending ? 1 : -1;
    const keys = new Map(
      rows.map((row) => {
        const value = row.cells[column].querySelector("data");
        return [row, value === null ? row.cells[column].textContent : Number(value.value)];
      }),
    );
    rows.sort((one, other) => {
      const [a, b] = [keys.get(one), keys.get(other)];
      // What has no value comes last, either way.
      if (a === "" || b === "") return Number(a === "") - Number(b === "");
      return sign * (typeof a === "number" ? a - b : collator.compare(a, b));
    });
    for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", isAscending ? "ascending" : "descending");
    table.tBodies[0].append(...rows);
    shown = rows.filter((row) => !row.hidden);
    page = 0;
    draw();
  }

  function turn(step) {
    page += step;
    draw();
    byId("files").scrollIntoView();
  }

  Array.from(table.tHead.rows[0].cells).forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sortBy(column, header));
    header.append(button);
  });
  table.tHead.rows[0].cells[0].setAttribute("aria-sort", "ascending");
  for (const [, select] of filters) select.addEventListener("change", filter);
  search.addEventListener("input", filter);
  byId("previous-page").addEventListener("click", () => turn(-1));
  byId("next-page").addEventListener("click", () => turn(1));
  byId("controls").hidden = false;
  filter();
})();
