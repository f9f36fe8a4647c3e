for (const button of document.querySelectorAll(".sortable th button")) button.onclick = () => {
  const head = button.parentElement, body = head.closest("table").tBodies[0], column = head.cellIndex;
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const value = row => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
  const rows = [...body.rows].map(row => [value(row), row]);
  rows.sort(([a], [b]) => {
    if (a === "" || b === "") return (a === "") - (b === "");  // empty cells stay last
    const order = isNaN(a) || isNaN(b) ? a.localeCompare(b, undefined, {numeric: true}) : a - b;
    return down ? -order : order;
  });
  body.append(...rows.map(([, row]) => row));
};
for (const table of document.querySelectorAll(".long")) {
  const count = table.tBodies[0].rows.length;
  if (count <= 40) continue;
  table.classList.add("shorted");
  const button = document.createElement("button");
  button.className = "unfold";
  button.textContent = `Show all ${count} rows`;
  button.onclick = () => { table.classList.remove("shorted"); button.remove(); };
  table.parentElement.after(button);
}
