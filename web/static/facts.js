// A table of figures, a row each: its name, a "?" where its source is known, and a value per design. Hover on the "?" says how the figure is
// counted; a click opens where it comes from.

import { element, explain, questionMark, style } from "./dom.js"

// The table scrolls inside its frame on a narrow screen, and the names of the rows stay in sight.
const STYLE = `
.facts { overflow-x: auto; border: 1px solid var(--st-border-color); border-radius: 0.5rem; font-family: var(--st-font); color: var(--st-text-color) }
.facts table { border-collapse: collapse; width: 100%; margin: 0; font-size: 0.875rem; line-height: 1.4 }
.facts th, .facts td { padding: 0.35rem 0.6rem; text-align: left; vertical-align: top; min-width: 7.5rem; overflow-wrap: anywhere; border: 0 }
.facts tr + tr > *, .facts tbody tr > * { border-top: 1px solid var(--st-border-color-light, var(--st-border-color)) }
.facts th { font-weight: 400; color: var(--st-text-color) }
.facts thead th { font-weight: 600 }
.facts th:first-child { position: sticky; left: 0; background: var(--st-background-color) }
.facts .name { display: flex; gap: 0.4rem; align-items: center; justify-content: space-between }`

export default function ({ parentElement, data, setTriggerValue }) {
  style("facts", STYLE)
  const table = element("table")
  table.append(head(data.columns), body(data.rows, setTriggerValue))
  const frame = element("div", { className: "facts" })
  frame.append(table)
  parentElement.replaceChildren(frame)
}

function head(columns) {
  const row = element("tr")
  row.append(element("th"))
  for (const textContent of columns) row.append(element("th", { scope: "col", textContent }))
  const rows = element("thead")
  rows.append(row)
  return rows
}

function body(rows, setTriggerValue) {
  const found = element("tbody")
  for (const { name, source, counts, values } of rows) {
    const row = element("tr")
    row.append(rowName(name, counts, () => setTriggerValue("asked", source)))
    for (const textContent of values) row.append(element("td", { textContent }))
    found.append(row)
  }
  return found
}

function rowName(name, counts, onclick) {
  const [head, line] = [element("th", { scope: "row" }), element("div", { className: "name" })]
  line.append(element("span", { textContent: name }))
  if (counts) {
    const why = questionMark()
    explain({ why }, name, counts)
    line.append(Object.assign(why, { title: counts, onclick }))
  }
  head.append(line)
  return head
}
