// A table of figures, one row each: its name, a "?" if its source is known, and a value per design.
// Hovering over the "?" shows how the figure is counted; a click opens its source.

import { element, explain, questionMark, style } from "./dom.js"

// On a narrow screen the table scrolls inside its frame, and the row names stay in sight.
const STYLE = `
.facts {
  overflow-x: auto; border: 1px solid var(--st-border-color); border-radius: 0.5rem;
  font-family: var(--st-font); color: var(--st-text-color);
}
.facts table { border-collapse: collapse; width: 100%; margin: 0; font-size: 0.875rem; line-height: 1.4 }
.facts th, .facts td {
  padding: 0.35rem 0.6rem; text-align: left; vertical-align: top; border: 0;
  min-width: 7.5rem; overflow-wrap: anywhere;
}
.facts tbody tr > * { border-top: 1px solid var(--st-border-color-light, var(--st-border-color)) }
.facts th { font-weight: 400; color: var(--st-text-color) }
.facts thead th { font-weight: 600 }
.facts th:first-child { position: sticky; left: 0; background: var(--st-background-color) }
.facts .name { display: flex; gap: 0.4rem; align-items: center; justify-content: space-between }`

export default function ({ parentElement, data, setTriggerValue }) {
  style("facts", STYLE)
  parentElement.ask = source => setTriggerValue("asked", source)
  // Drawn again only if something changed, so that focus and scroll position survive a rerun.
  const shown = JSON.stringify(data)
  if (parentElement.shown === shown) return
  parentElement.shown = shown
  const table = element("table")
  table.append(tableHead(data.columns), tableBody(data.rows, source => parentElement.ask(source)))
  const frame = element("div", { className: "facts" })
  frame.append(table)
  parentElement.replaceChildren(frame)
}

function tableHead(designs) {
  const row = element("tr")
  row.append(element("th"))
  for (const design of designs) row.append(element("th", { scope: "col", textContent: design }))
  const head = element("thead")
  head.append(row)
  return head
}

function tableBody(rows, ask) {
  const body = element("tbody")
  for (const { name, source, counts, values } of rows) {
    const row = element("tr")
    row.append(rowName(name, counts, () => ask(source)))
    for (const value of values) row.append(element("td", { textContent: value }))
    body.append(row)
  }
  return body
}

function rowName(name, counts, onclick) {
  const line = element("div", { className: "name" })
  line.append(element("span", { textContent: name }))
  if (counts) {
    const why = Object.assign(questionMark(), { title: counts, onclick })
    explain({ why }, name, counts)
    line.append(why)
  }
  const head = element("th", { scope: "row" })
  head.append(line)
  return head
}
