// Where the expensive layers stand: a choice per rule, each with the picture of the stack that it makes. A group of radio buttons, so arrow
// keys walk it.

import { element, explain, hint, set, style } from "./dom.js"

const STYLE = `
.places { all: unset; display: grid; position: relative; font-family: var(--st-font); color: var(--st-text-color); font-size: 0.875rem }
.places legend { all: unset; display: flex; gap: 0.4rem; align-items: center; margin-bottom: 0.25rem }
.places label { display: flex; gap: 0.5rem; align-items: center; line-height: 1.75; cursor: pointer }
.places input { margin: 0; width: 1rem; height: 1rem; flex: none; accent-color: var(--st-primary-color) }
.places svg { flex: none }
.places path { stroke-width: 16 }`

export default function ({ parentElement, data, setTriggerValue }) {
  const places = (parentElement.places ??= build(parentElement, data))
  places.choose = name => setTriggerValue("chosen", name)
  if (places.choices.length !== data.rules.length) renew(places, data.rules.length)
  data.rules.forEach((rule, i) => fill(places.choices[i], rule, data))
}

function build(parent, { title, says }) {
  style("places", STYLE)
  const [root, legend] = [element("fieldset", { className: "places" }), element("legend", { textContent: title })]
  const help = hint()
  explain(help, title, says)
  legend.append(help.why, help.says)
  root.append(legend)
  root.addEventListener("change", event => places.choose(event.target.value))
  const places = { root, choices: [] }
  parent.replaceChildren(root)
  return places
}

function renew(places, count) {
  for (const { label } of places.choices) label.remove()
  places.choices = Array.from({ length: count }, () => {
    const [label, input, picture, name] = [element("label"), element("input", { type: "radio", name: "placement" }), element("span"), element("span")]
    label.append(input, picture, name)
    places.root.append(label)
    return { label, input, picture, name }
  })
}

function fill({ input, picture, name }, rule, { layers, chosen }) {
  const lines = Object.entries(rule.lines).map(([colour, line]) => `<path stroke="${colour}" d="${line}"/>`)
  const wide = Math.min(10 * layers, 130)
  set(picture, "innerHTML", lines.length ? `<svg width="${wide}" height="16" viewBox="0 0 ${10 * layers} 16" preserveAspectRatio="none" aria-hidden="true">${lines.join("")}</svg>` : "")
  picture.hidden = !lines.length
  set(name, "textContent", rule.words)
  input.value = rule.name
  input.checked = rule.name === chosen
}
