// A click on a head sorts its table by that column, a second one turns it round.
document.addEventListener("click", (event) => {
  const head = event.target.closest("th");
  if (!head) return;
  const place = head.cellIndex, table = head.closest("table"), order = head.dataset.order === "1" ? -1 : 1;
  const key = (row) => row.cells[place].textContent.trim();
  const number = (text) => parseFloat(text.replace(/,/g, ""));
  const compare = (a, b) => (isNaN(number(a)) || isNaN(number(b)) ? a.localeCompare(b) : number(a) - number(b));
  for (const other of head.parentNode.cells) delete other.dataset.order;
  head.dataset.order = order;
  const rows = [...table.rows].slice(1).sort((a, b) => order * compare(key(a), key(b)));
  for (const row of rows) row.parentNode.append(row);
});
