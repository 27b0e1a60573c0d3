// Sorts a table by a click on a column, filters its rows by words, and shows the difference of two chosen rows.
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  const rows = [...body.rows];
  // the number that a cell begins with: "97.0 ± 1.5" has one, "vit_nano_patch4_32" has none
  const number = (cell) => parseFloat(cell.textContent.trim().replace(/\u2212/g, "-").replace(/(\d),(?=\d{3})/g, "$1"));
  // what is clicked is a button, so that the keyboard and screen readers have it too
  const button = (cell) => {
    const made = document.createElement("button");
    made.type = "button";
    made.append(...cell.childNodes);
    cell.append(made);
    return made;
  };
  const words = heads.map((_, column) => column === 0 || rows.every((row) => Number.isNaN(number(row.cells[column]))));

  const tools = document.createElement("div");
  tools.className = "tools";
  const label = document.createElement("label");
  label.textContent = "Rows with ";
  const filter = document.createElement("input");
  filter.type = "search";
  label.append(filter);
  const hint = document.createElement("span");
  hint.textContent = "Click a column to sort, two rows to see their difference.";
  const count = document.createElement("span");
  count.setAttribute("role", "status");
  tools.append(label, count, hint);
  table.parentElement.before(tools);
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    count.textContent = words.length ? `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows` : "";
  });

  const sort = (column) => {
    const head = heads[column];
    const down = !words[column] && head.getAttribute("aria-sort") !== "descending";
    const key = (row) => (words[column] ? row.cells[column].textContent.trim() : number(row.cells[column]));
    const order = [...rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (typeof x === "string") return head.getAttribute("aria-sort") === "ascending" ? y.localeCompare(x) : x.localeCompare(y);
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
      return down ? y - x : x - y;
    });
    const up = words[column] && head.getAttribute("aria-sort") === "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down || up ? "descending" : "ascending");
    body.append(...order);
    show();
  };
  heads.forEach((head, column) => {
    button(head);
    head.addEventListener("click", () => sort(column));
  });

  let chosen = [];
  const difference = document.createElement("tr");
  difference.className = "difference";
  const show = () => {
    for (const row of rows) {
      row.classList.toggle("chosen", chosen.includes(row));
      row.cells[0].firstElementChild.setAttribute("aria-pressed", chosen.includes(row));
    }
    difference.remove();
    if (chosen.length < 2) return;
    const [a, b] = chosen;
    const name = document.createElement("th");
    name.scope = "row";
    name.textContent = `${b.cells[0].textContent} \u2212 ${a.cells[0].textContent}`;
    difference.replaceChildren(name);
    for (let i = 1; i < heads.length; i++) {
      const cell = document.createElement("td");
      const value = words[i] ? NaN : number(b.cells[i]) - number(a.cells[i]);
      const digits = (b.cells[i].textContent.match(/\.(\d+)/) || ["", ""])[1].length;
      cell.textContent = Number.isNaN(value) ? "\u2013" : (value > 0 ? "+" : "") + value.toFixed(digits).replace("-", "\u2212");
      difference.append(cell);
    }
    body.append(difference);
  };
  for (const row of rows) {
    button(row.cells[0]).setAttribute("aria-pressed", false);
    const choose = () => {
      chosen = chosen.includes(row) ? chosen.filter((other) => other !== row) : [...chosen, row].slice(-2);
      show();
    };
    row.addEventListener("click", () => window.getSelection().isCollapsed && choose());
  }
}
