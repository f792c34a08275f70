// Tables are sorted by the column whose title is pressed.
"use strict";
const numberOf = (text) => {
  const found = text.replace(/[,\s]/g, "").match(/[-+−]?\d+(\.\d+)?(e[-+]?\d+)?/i);
  return found ? parseFloat(found[0].replace("−", "-")) : null;
};
const compare = (a, b) => {
  const [x, y] = [numberOf(a), numberOf(b)];
  if (x !== null && y !== null && x !== y) return x - y;
  if ((x === null) !== (y === null)) return x === null ? 1 : -1;
  return a.localeCompare(b);
};
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  if (body.rows.length < 2) continue;
  [...table.querySelectorAll(".titles th")].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "sort by this column";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const byNumber = head.classList.contains("number");
      const text = (row) => row.cells[column].textContent.trim();
      const order = (a, b) => (byNumber ? compare(text(a), text(b)) : text(a).localeCompare(text(b)));
      const rows = [...body.rows].sort((a, b) => (down ? order(b, a) : order(a, b)));
      body.append(...rows);
    });
  });
}
