// The key numbers, a card each: what it is, the value, its difference to the reference, its convention. Hover or focus on the "?"
// says how it is counted; a click opens where it comes from.

import { element, explain, hint, set, style } from "./dom.js"

const STYLE = `
.numbers { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 13.5rem), 1fr)); gap: 1rem; margin: 0; font-family: var(--st-font); color: var(--st-text-color) }
.numbers-use { margin: 0 0 0.5rem; font-family: var(--st-font); color: var(--st-text-color); font-size: 0.85rem !important }
.numbers div { position: relative; min-width: 0 }
.numbers dt { font-size: 0.875rem; font-weight: 400; display: flex; gap: 0.4rem; align-items: center }
.numbers dd { margin: 0 }
.numbers .value { font-size: 1.85rem; line-height: 1.4 }
.numbers .beside { font-size: 0.85rem; display: flex; gap: 0.6rem; align-items: baseline }
.numbers .change { padding: 0 0.45rem; border-radius: 999px; background: var(--st-gray-background-color) }
.numbers .better { background: var(--st-green-background-color); color: var(--st-green-text-color) }
.numbers .worse { background: var(--st-red-background-color); color: var(--st-red-text-color) }`

export default function ({ parentElement, data, setTriggerValue }) {
  const numbers = (parentElement.numbers ??= build(parentElement, data.cards.length))
  numbers.cards.forEach((card, i) => { card.why.onclick = () => setTriggerValue("asked", data.cards[i].source) })
  data.cards.forEach((number, i) => fill(numbers.cards[i], number))
  set(numbers.use, "textContent", data.use)
}

function build(parent, count) {
  style("numbers", STYLE)
  const list = element("dl", { className: "numbers" })
  const cards = Array.from({ length: count }, () => {
    const [card, term] = [element("div"), element("dt")]
    const parts = {
      label: element("span"),
      ...hint(),
      value: element("dd", { className: "value" }),
      change: element("span"),
      convention: element("span"),
    }
    const beside = element("dd", { className: "beside" })
    term.append(parts.label, parts.why, parts.says)
    beside.append(parts.change, parts.convention)
    card.append(term, parts.value, beside)
    list.append(card)
    return parts
  })
  const use = element("p", { className: "numbers-use" })
  parent.replaceChildren(use, list)
  return { cards, use }
}

function fill(card, { label, value, change, judged, convention, says }) {
  const words = { label, value, convention, change: change ? `${{ "-": "↓ ", "+": "↑ " }[change[0]] ?? ""}${change}` : "" }
  for (const [name, text] of Object.entries(words)) set(card[name], "textContent", text)
  card.change.className = `change ${judged}`
  card.change.hidden = !change
  explain(card, label, says)
}
