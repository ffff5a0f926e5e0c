// What the modules here share.

export function element(tag, properties = {}) {
  return Object.assign(document.createElement(tag), properties)
}

// A module's rules, once in a page.
export function style(name, rules) {
  const id = `${name}-style`
  if (!document.getElementById(id)) document.head.append(element("style", { id, textContent: rules }))
}

// What stays as it is costs the browser nothing.
export function set(owner, property, value) {
  if (owner.written?.[property] === value) return
  ;(owner.written ??= {})[property] = value
  owner[property] = value
}
