// Where a strategy places its layers: a choice of rules, each with a picture of the stack that it
// makes. They are radio buttons, so arrow keys move through them.

import { element, explain, hint, set, style } from "./dom.js"

const STYLE = `
.places {
  all: unset; display: grid; position: relative;
  font-family: var(--st-font); color: var(--st-text-color); font-size: 0.875rem;
}
.places legend { all: unset; display: flex; gap: 0.4rem; align-items: center; margin-bottom: 0.25rem }
.places label { display: flex; gap: 0.5rem; align-items: center; line-height: 1.75; cursor: pointer }
.places input { margin: 0; width: 1rem; height: 1rem; flex: none; accent-color: var(--st-primary-color) }
.places svg { flex: none }
.places path { stroke-width: 16 }`

const CELL = 10 // units per layer in a picture
const WIDEST = 130 // maximum width of a picture in pixels

export default function ({ parentElement, data, setTriggerValue }) {
  const places = (parentElement.places ??= build(parentElement, data))
  places.choose = name => setTriggerValue("chosen", name)
  if (places.choices.length !== data.rules.length) renew(places, data.rules.length)
  data.rules.forEach((rule, i) => fill(places.choices[i], rule, data))
}

function build(parent, { title, says }) {
  style("places", STYLE)
  const help = hint()
  explain(help, title, says)
  const legend = element("legend", { textContent: title })
  legend.append(help.why, help.says)
  const root = element("fieldset", { className: "places" })
  root.append(legend)
  const places = { root, choices: [] }
  root.addEventListener("change", event => places.choose(event.target.value))
  parent.replaceChildren(root)
  return places
}

function renew(places, count) {
  for (const { label } of places.choices) label.remove()
  places.choices = Array.from({ length: count }, () => newChoice(places.root))
}

function newChoice(root) {
  const choice = {
    label: element("label"),
    input: element("input", { type: "radio", name: "placement" }),
    picture: element("span"),
    name: element("span"),
  }
  choice.label.append(choice.input, choice.picture, choice.name)
  root.append(choice.label)
  return choice
}

function fill({ input, picture, name }, rule, { layers, chosen }) {
  set(picture, "innerHTML", drawn(rule.lines, layers))
  picture.hidden = !picture.innerHTML
  set(name, "textContent", rule.words)
  input.value = rule.name
  input.checked = rule.name === chosen
}

// The picture of a stack; empty if a rule has none. `lines`: an SVG path per colour.
function drawn(lines, layers) {
  const paths = Object.entries(lines).map(([colour, line]) => `<path stroke="${colour}" d="${line}"/>`)
  if (!paths.length) return ""
  const units = CELL * layers
  const size = `width="${Math.min(units, WIDEST)}" height="16" viewBox="0 0 ${units} 16"`
  return `<svg ${size} preserveAspectRatio="none" aria-hidden="true">${paths.join("")}</svg>`
}
