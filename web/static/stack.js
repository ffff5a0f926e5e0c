// The stack of layers, the first on top: a row per layer, coloured by kind, with its share of
// parameters and FLOPs. A click on a row, or a letter typed on it, asks for another kind. Arrow keys
// move; the whole stack is one stop of the Tab key.

import { element, set, style } from "./dom.js"

const COLUMNS = ["#", "layer", "parameters", "FLOPs"]
const STYLE = `
.stack { font-family: var(--st-font); color: var(--st-text-color); margin: 0; font-size: 0.8rem }
.stack figcaption { font-weight: 600; font-size: 0.95rem }
.stack .kinds { display: flex; flex-wrap: wrap; gap: 0 0.9rem; margin: 0.2rem 0 }
.stack .kinds i { display: inline-block; width: 0.7rem; height: 0.7rem; margin-right: 0.35rem }
.stack ol { list-style: none; margin: 0; padding: 0; contain: content }
.stack li { margin: 0 !important; padding: 0 !important; font-size: inherit !important }
.stack button {
  all: unset; box-sizing: border-box; width: 100%; height: var(--row);
  cursor: pointer; line-height: 1; font-size: var(--words);
}
.stack .head, .stack button {
  display: grid; grid-template-columns: 1.4rem minmax(4.5rem, 1.5fr) 1fr 1fr;
  gap: 0 0.5rem; align-items: center;
}
.stack button:hover { background: var(--st-secondary-background-color) }
.stack button:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: -1px }
.stack .number { text-align: right; font-variant-numeric: tabular-nums }
.stack .kind {
  height: var(--bar); display: grid; place-items: center; overflow: hidden; white-space: nowrap;
}
.stack .share {
  display: flex; align-items: center; gap: 0.3rem; height: var(--bar);
  white-space: nowrap; font-variant-numeric: tabular-nums;
}
.stack .share i { height: 100% }
.stack p { font-size: 0.75rem !important; margin: 0.4rem 0 0; line-height: 1.35 }`

const WRITTEN = 60 // with more layers, rows are too low for text
const HEIGHT = 1300 // pixels that a stack takes at most, unless its rows would be lower than LOWEST
const [LOWEST, HIGHEST] = [13, 24] // pixels of a row
const WIDEST_BAR = 62 // percent of a column; the rest is for the number next to it

export default function ({ parentElement, data, setTriggerValue }) {
  const stack = (parentElement.stack ??= build(parentElement))
  stack.ask = (layer, kind) => setTriggerValue("asked", { layer, kind })
  stack.letters = data.letters
  stack.title.textContent = data.title
  stack.source.textContent = data.source
  stack.list.setAttribute("aria-label", data.told)
  stack.kinds.replaceChildren(...data.kinds.map(kindName))
  setHeights(stack.root, data.rows.length)
  show(stack, data)
}

function build(parent) {
  style("stack", STYLE)
  const stack = {
    root: element("figure", { className: "stack" }),
    title: element("figcaption"),
    kinds: element("div", { className: "kinds" }),
    list: element("ol"),
    source: element("p"),
    at: 0, // the row that the Tab key stops at
    rows: [],
  }
  const head = element("div", { className: "head" })
  head.append(...COLUMNS.map(textContent => element("span", { textContent })))
  head.firstChild.className = "number"
  stack.root.append(stack.title, stack.kinds, head, stack.list, stack.source)
  stack.list.addEventListener("keydown", event => press(stack, event))
  stack.list.addEventListener("click", event => {
    const row = event.target.closest("button")
    if (row) ask(stack, Number(row.dataset.layer), null)
  })
  parent.replaceChildren(stack.root)
  return stack
}

function kindName({ label, colour, layers }) {
  const name = element("span", { textContent: `${label} (${layers})` })
  name.prepend(element("i", { style: `background: ${colour}` }))
  return name
}

function setHeights(root, layers) {
  const row = Math.max(LOWEST, Math.min(HIGHEST, HEIGHT / layers))
  const gap = row < 18 ? 0 : 4
  root.style.setProperty("--row", `${row}px`)
  root.style.setProperty("--bar", `${row - gap}px`)
  root.style.setProperty("--words", `${Math.min(12, row - 2)}px`)
}

function ask(stack, layer, kind) {
  walk(stack, layer - 1)
  stack.ask(layer, kind)
}

function press(stack, event) {
  const steps = { ArrowUp: -1, ArrowDown: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity }
  // A capital comes first: m typed on a layer is M, the usual Mamba.
  const letter = [event.key.toUpperCase(), event.key].find(key => stack.letters.includes(key))
  if (event.key in steps) walk(stack, stack.at + steps[event.key])
  else if (letter && !event.ctrlKey && !event.metaKey && !event.altKey) ask(stack, stack.at + 1, letter)
  else return
  event.preventDefault()
}

// Move the focus to a row. Tab comes back to it.
function walk(stack, to) {
  stack.rows[stack.at].button.tabIndex = -1
  stack.at = Math.max(0, Math.min(stack.rows.length - 1, to))
  const { button } = stack.rows[stack.at]
  button.tabIndex = 0
  button.focus()
}

// `looks`: how the kinds of row look; `rows`: the look of each layer; `most`: the largest share.
function show(stack, { looks, rows, most }) {
  const withWords = rows.length <= WRITTEN
  stack.at = Math.min(stack.at, rows.length - 1)
  while (stack.rows.length > rows.length) stack.rows.pop().item.remove()
  while (stack.rows.length < rows.length) stack.rows.push(newRow(stack.list, stack.rows.length + 1))
  rows.forEach((look, i) => fill(stack.rows[i], i, looks[look], most, withWords))
  stack.rows.forEach((row, i) => (row.button.tabIndex = i === stack.at ? 0 : -1))
}

function newRow(list, layer) {
  const row = {
    item: element("li"),
    button: element("button", { type: "button" }),
    number: element("span", { className: "number" }),
    kind: element("span", { className: "kind" }),
    shares: [newShare(), newShare()], // of parameters and of FLOPs
  }
  row.button.dataset.layer = layer
  row.button.append(row.number, row.kind, ...row.shares.map(share => share.place))
  row.item.append(row.button)
  list.append(row.item)
  return row
}

function newShare() {
  const share = { place: element("span", { className: "share" }), bar: element("i"), words: element("span") }
  share.place.append(share.bar, share.words)
  return share
}

function fill({ button, number, kind, shares }, i, look, most, withWords) {
  const numbered = withWords || i === 0 || i % 5 === 4
  set(number, "textContent", numbered ? `${i + 1}` : "")
  set(kind, "textContent", withWords ? look.label : "")
  set(kind.style, "cssText", `background-color: ${look.colour}; color: ${look.ink};`)
  fillShare(shares[0], look.of_params, look.colour, most, withWords)
  fillShare(shares[1], look.of_flops, look.colour, most, withWords)
  set(button, "ariaLabel", `layer ${i + 1}: ${look.told}`)
  button.title = button.ariaLabel
}

function fillShare({ bar, words }, percent, colour, most, withWords) {
  const width = (WIDEST_BAR * percent) / most
  set(bar.style, "cssText", `background-color: ${colour}; width: ${width.toFixed(1)}%;`)
  set(words, "textContent", withWords ? `${percent.toFixed(1)} %` : "")
}
