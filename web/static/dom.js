// Helpers that the modules here share.

import "./address.js"

export function element(tag, properties = {}) {
  return Object.assign(document.createElement(tag), properties)
}

// Add a module's rules to the page, once.
export function style(name, rules) {
  const id = `${name}-style`
  if (!document.getElementById(id)) document.head.append(element("style", { id, textContent: rules }))
}

// Set a property only if its value changes, so that the browser does no needless work.
export function set(owner, property, value) {
  if (owner.written?.[property] === value) return
  owner.written ??= {}
  owner.written[property] = value
  owner[property] = value
}

const HINT = `
.why {
  all: unset; cursor: help; flex: none;
  width: 1rem; height: 1rem; line-height: 1rem; font-size: 0.7rem; text-align: center;
  border-radius: 50%; border: 1px solid currentColor;
}
.why:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 2px }
.says {
  display: none; position: absolute; z-index: 9; top: 1.6rem; left: 0;
  box-sizing: border-box; width: 100%; padding: 0.5rem 0.75rem; font-size: 0.8rem;
  background: var(--st-secondary-background-color); border: 1px solid var(--st-border-color);
  border-radius: 0.5rem; box-shadow: 0 4px 14px rgb(0 0 0 / 20%);
}
.why:hover + .says, .why:focus + .says { display: block }`

// A question mark in a circle.
export function questionMark() {
  style("hint", HINT)
  return element("button", { type: "button", className: "why", textContent: "?" })
}

// A question mark, and the text that it shows on hover and focus. The text is as wide as the
// nearest positioned element.
export function hint() {
  return { why: questionMark(), says: element("span", { className: "says" }) }
}

// Give a question mark its text. `says`, if given, shows it.
export function explain({ why, says }, label, words) {
  if (says) set(says, "textContent", words)
  set(why, "ariaLabel", `${label}: ${words}`)
}
