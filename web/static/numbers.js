// The key numbers, one card each: its name, its value, its difference from the reference, its
// convention. Hover or focus on the "?" shows how it is counted; a click opens its source.

import { element, explain, hint, set, style } from "./dom.js"

const STYLE = `
.numbers {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 13.5rem), 1fr)); gap: 1rem;
  margin: 0; font-family: var(--st-font); color: var(--st-text-color);
}
.numbers-use {
  margin: 0 0 0.5rem; font-size: 0.85rem !important;
  font-family: var(--st-font); color: var(--st-text-color);
}
.numbers div { position: relative; min-width: 0 }
.numbers dt { font-size: 0.875rem; font-weight: 400; display: flex; gap: 0.4rem; align-items: center }
.numbers dd { margin: 0 }
.numbers .value { font-size: 1.85rem; line-height: 1.4 }
.numbers .beside { font-size: 0.85rem; display: flex; gap: 0.6rem; align-items: baseline }
.numbers .change { padding: 0 0.45rem; border-radius: 999px; background: var(--st-gray-background-color) }
.numbers .better { background: var(--st-green-background-color); color: var(--st-green-text-color) }
.numbers .worse { background: var(--st-red-background-color); color: var(--st-red-text-color) }`

const ARROWS = { "-": "↓ ", "+": "↑ " }

export default function ({ parentElement, data, setTriggerValue }) {
  const numbers = (parentElement.numbers ??= build(parentElement, data.cards.length))
  data.cards.forEach((number, i) => {
    const card = numbers.cards[i]
    card.why.onclick = () => setTriggerValue("asked", number.source)
    fill(card, number)
  })
  set(numbers.use, "textContent", data.use)
}

function build(parent, count) {
  style("numbers", STYLE)
  const list = element("dl", { className: "numbers" })
  const cards = Array.from({ length: count }, () => newCard(list))
  const use = element("p", { className: "numbers-use" })
  parent.replaceChildren(use, list)
  return { cards, use }
}

function newCard(list) {
  const card = {
    label: element("span"),
    ...hint(),
    value: element("dd", { className: "value" }),
    change: element("span"),
    convention: element("span"),
  }
  const term = element("dt")
  term.append(card.label, card.why, card.says)
  const beside = element("dd", { className: "beside" })
  beside.append(card.change, card.convention)
  const box = element("div")
  box.append(term, card.value, beside)
  list.append(box)
  return card
}

function fill(card, { label, value, change, judged, convention, says }) {
  set(card.label, "textContent", label)
  set(card.value, "textContent", value)
  set(card.convention, "textContent", convention)
  const arrow = change ? (ARROWS[change[0]] ?? "") : ""
  set(card.change, "textContent", change ? arrow + change : "")
  card.change.className = `change ${judged}`
  card.change.hidden = !change
  explain(card, label, says)
}
