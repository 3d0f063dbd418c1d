"use strict";
(() => {
  const table = document.getElementById("class-table");
  const body = table.tBodies[0];
  const status = document.getElementById("status");
  const filter = document.getElementById("filter");
  const compare = new Intl.Collator(undefined, { numeric: true }).compare;
  document.documentElement.classList.add("scripted");

  // The value that a cell is sorted by: a number, text, or null where there is none.
  const valueOf = (cell, isNumber) => {
    const text = isNumber ? cell.dataset.value : cell.textContent.trim();
    if (text === "") return null;
    return isNumber ? Number(text) : text;
  };

  const sortBy = (heading) => {
    const column = heading.cellIndex;
    const isNumber = heading.classList.contains("number");
    const descending = heading.getAttribute("aria-sort") === "ascending";
    const sign = descending ? -1 : 1;
    const rows = Array.from(body.rows, (row) => [valueOf(row.cells[column], isNumber), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null); // those without, last
      return sign * (isNumber ? a - b : compare(a, b));
    });
    body.append(...rows.map(([, row]) => row));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    status.textContent =
      `Sorted by ${heading.textContent.trim()}, ${descending ? "descending" : "ascending"}.`;
  };

  for (const heading of table.tHead.rows[0].cells) {
    heading.querySelector("button").addEventListener("click", () => sortBy(heading));
  }

  filter.addEventListener("input", () => {
    const wanted = filter.value.trim().toLowerCase();
    let shown = 0;
    for (const row of body.rows) {
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
      shown += !row.hidden;
    }
    status.textContent = wanted ? `${shown} of ${body.rows.length} classes.` : "";
  });
})();
